"""How settings of chapter 02 were chosen: on held-out training images, by seeds that no study uses.

    python -m jepa_lab.papers.predictors.pilots --seeds 100:103

Each setting trains the chapter's arm and is scored by 10 labels per class on 5,000 images cut from the training images,
never on the test split. The rule, fixed before the run: of the settings whose alarm is silent at the end of every seed,
the one with the best mean accuracy of the EMA copy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

from jepa_lab import diagnostics, experiment, image_world
from jepa_lab.data import images
from jepa_lab.image_world import ImageData
from jepa_lab.papers.predictors import paper

HELD_OUT = 5000  # images
GRID = {  # arm: its config field and the values to try
    "I-JEPA": ("ema_memory", (0.0, 0.02, 0.05, 0.1)),
    "SIGReg": ("sigreg_weight", (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)),
    "VICReg": ("vicreg_weights", ((0.25, 0.01), (1.0, 0.01), (1.0, 0.04), (1.0, 0.2), (4.0, 0.04), (4.0, 0.16))),
}


@dataclass(frozen=True)
class Trial:
    """One setting: accuracy in points of the EMA copy and of the encoder (means over seeds), is the alarm silent."""

    value: object
    ema_copy: float
    encoder: float
    silent: bool

    def __str__(self) -> str:
        alarm = "" if self.silent else ", alarm"
        return f"{self.value!s:13s} EMA copy {self.ema_copy:5.1f}, encoder {self.encoder:5.1f} points{alarm}"


def validation_data(cfg: paper.Config) -> ImageData:
    """Chapter 02's images, scored on some of the training images, which are then not trained on."""
    unlabelled, probe, _ = image_world.garments(cfg)
    kept, held_out = images.split(unlabelled, (len(unlabelled) - HELD_OUT, HELD_OUT), seed=0)
    return image_world.cut("centred", (kept, probe, held_out), cfg.patch, "cpu")


def measure(data: ImageData, cfg: paper.Config, name: str, seed: int) -> tuple[float, float, bool]:
    """Accuracy of the EMA copy and of the encoder in points, and whether the alarm is silent at the end."""
    state = experiment.train_arm(cfg, paper.arms(cfg, data)[name], seed, progress=False)
    copies = (state.model.target_encoder, state.model.encoder)
    points = [100 * image_world.few_label(data, image_world.encoder_features(e, data), seed).value for e in copies]
    return *points, diagnostics.last_alarm(state.history) is None


def pilot(data: ImageData, base: paper.Config, name: str, seeds: Sequence[int]) -> list[Trial]:
    """Every setting of an arm, in the order of `GRID`."""
    field, values = GRID[name]
    trials = []
    for value in values:
        ema_copies, encoders, silent = zip(*(measure(data, replace(base, **{field: value}), name, s) for s in seeds))
        trials.append(Trial(value, mean(ema_copies), mean(encoders), all(silent)))
        print(f"{name:7s} {trials[-1]}", flush=True)
    return trials


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jepa_lab.papers.predictors.pilots",
        description="Choose the EMA's memory and the weights of SIGReg and VICReg for chapter 02.",
    )
    parser.add_argument("--seeds", default="100:103", help="first and last + 1")
    parser.add_argument("--preset", default="laptop", help="of chapter 02")
    parser.add_argument("--arms", default=",".join(GRID), help="comma-separated")
    options = parser.parse_args(arguments)
    base = paper.preset(options.preset)
    data = validation_data(base)
    for name in options.arms.split(","):
        silent = [t for t in pilot(data, base, name, range(*map(int, options.seeds.split(":")))) if t.silent]
        best = max(silent, key=lambda trial: trial.ema_copy, default=None)
        print(f"{name}: {best.value}" if best else f"{name}: the alarm rings everywhere")
    return 0


if __name__ == "__main__":
    sys.exit(main())
