"""ECG-JEPA (Weimann & Conrad 2024, arXiv 2410.13867): twelve leads, masked time. Chapter 07.

Not the other paper of that name (Kim 2024, arXiv 2410.08559). A token holds a short stretch of all leads; about four
fifths of the record are hidden in a few long stretches, and every hidden token is a target.

Where the authors' code differs from this folder: it updates the EMA at the beginning of a step (so its targets lag by
one more step), has no biases, does not clip gradients, takes 1e-6 for AdamW's epsilon, and draws the kept share anew
for every batch and the number of hidden stretches for every record. Here both are fixed, so that shapes are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from jepa_lab import distributed, experiment, losses, masks
from jepa_lab.checkpoints import TrainState
from jepa_lab.experiment import Arm
from jepa_lab.objectives import jepa_objective, reconstruction_objective, self_target_objective
from jepa_lab.papers.ecg_jepa import models, scores, world
from jepa_lab.papers.ecg_jepa.claims import CHAPTER, CLAIMS
from jepa_lab.papers.ecg_jepa.config import Config, preset
from jepa_lab.papers.ecg_jepa.world import ECGData
from jepa_lab.probes.scores import Score
from jepa_lab.tasks import Sampler, TokenTask

__all__ = ["CHAPTER", "CLAIMS", "Config", "arms", "preset", "switches", "train_reference"]

REFERENCE = "ECG-JEPA"
# Which weights the claims judge, in all arms: the EMA copy, as in the paper. The presets' short memory keeps it as
# fresh as the encoder itself, which is scored beside it.
PROBED = "target_encoder"
WATCHED = 300  # validation records of the collapse panel

# ECG-JEPA section 3: L1 to the target encoder's output, which ends in its own LayerNorm and gets no other one.
ecg_jepa_objective = partial(jepa_objective, distance=losses.l1, norm=losses.identity)
signal_objective = partial(reconstruction_objective, distance=losses.l2)
collapsing_objective = partial(self_target_objective, distance=losses.l1, norm=losses.identity)


def time_blocks(cfg: Config, grid: tuple[int]) -> Sampler:
    """Sampler of the config's masks: a fixed number of hidden stretches, one target that holds them all."""
    num_context = math.ceil(cfg.keep * grid[0])
    settings = {"num_context": num_context, "num_blocks": cfg.num_blocks, "min_block": cfg.min_block}
    return partial(masks.time_blocks, grid[0], **settings)


def make_arm(name: str, data: ECGData, sampler: Sampler, objective: Callable, build: Callable, **changes) -> Arm:
    """One way to train on the training records, watched on validation records; changes: of the config."""
    task = TokenTask(data.train.signals, data.to_batch, sampler)
    watched = data.validation.signals[:WATCHED]
    measure = experiment.collapse_panel(watched, data.to_batch, sampler, PROBED)
    return Arm(name, task, objective, build, changes, measure)


def arms(cfg: Config, data: ECGData) -> dict[str, Arm]:
    """The pre-training methods of the chapter at equal steps, each at the rate that did best, by name."""
    blocks = time_blocks(cfg, data.grid)
    views = partial(models.two_views, data.grid, patch=cfg.patch, share=cfg.view, spread=cfg.augment)
    masked = partial(models.masked_jepa, grid=data.grid)
    signal = partial(models.masked_jepa, grid=data.grid, out_dim=models.NUM_LEADS * cfg.patch)
    simclr = partial(models.simclr, grid=data.grid)
    contrast = partial(models.simclr_objective, temperature=cfg.temperature)
    once = {"log_every": cfg.num_steps}
    found = (
        make_arm(REFERENCE, data, blocks, ecg_jepa_objective, masked),
        make_arm("masked auto-encoder", data, blocks, signal_objective, signal, lr=cfg.rival_lr[0], **once),
        make_arm("SimCLR", data, views, contrast, simclr, lr=cfg.rival_lr[1], **once),
    )
    return {arm.name: arm for arm in found}


def hidden(share: float) -> str:
    """The name of a run that hides this share of the record."""
    return f"{share:.0%} hidden"


def stretches(count: int) -> str:
    """The name of a run that hides the same share in this many stretches."""
    return f"{count} stretch{'es' if count > 1 else ''}"


def switches(cfg: Config, data: ECGData) -> dict[str, Arm]:
    """Arms that differ from ECG-JEPA in one respect: share hidden, number of stretches, EMA and stop-gradient."""
    num_hidden = data.grid[0] - math.ceil(cfg.keep * data.grid[0])
    configs = {hidden(1 - keep): replace(cfg, keep=keep) for keep in cfg.sweep_keep}
    configs |= {stretches(count): replace(cfg, num_blocks=count) for count in cfg.sweep_blocks}
    configs["scattered tokens"] = replace(cfg, num_blocks=num_hidden, min_block=1)
    build = partial(models.masked_jepa, grid=data.grid)
    once = {"log_every": cfg.num_steps}
    found = {}
    for name, changed in configs.items():
        sampler = time_blocks(changed, data.grid)
        found[name] = make_arm(name, data, sampler, ecg_jepa_objective, build, **once)
    name, blocks = "no EMA, no stop-gradient", time_blocks(cfg, data.grid)
    found[name] = make_arm(name, data, blocks, collapsing_objective, build, ema_memory=0.0, **once)
    return found


def reference_mask(cfg: Config) -> str:
    """The name of ECG-JEPA among the switches."""
    return f"{hidden(1 - cfg.keep)}, {stretches(cfg.num_blocks)}"


# The encoders that a run leaves


def encoders(name: str, model: nn.Module) -> dict[str, nn.Module]:
    """The two encoders of a trained arm by their names in the record: PROBED by the arm's, the other one beside it."""
    other = "encoder" if PROBED == "target_encoder" else "target_encoder"
    return {name: model.get_submodule(PROBED), f"{name}, {other}": model.get_submodule(other)}


def snapshot_steps(cfg: Config) -> list[int]:
    """The steps at which the reference run's probed encoder is kept; the last step is not among them."""
    return sorted({round(cfg.num_steps * i / cfg.num_snapshots) for i in range(1, cfg.num_snapshots)})


@dataclass
class Snapshots:
    """Copies of the probed encoder by step, taken while `train.fit` runs."""

    encoders: dict[int, nn.Module] = field(default_factory=dict)

    def keep(self, state: TrainState) -> None:
        self.encoders[state.step] = copy.deepcopy(state.model.get_submodule(PROBED))


def lowest(history: dict[str, list[float]]) -> float:
    """The logged step at which the loss, the mean since the step logged before, is lowest."""
    return min(zip(history["loss"], history["step"]))[1]


def train_reference(cfg: Config, out: Path, seed: int = 0, **how) -> dict[str, Score]:
    """Train ECG-JEPA with checkpoints in `out`, on GPUs where there are some; the score of a probe with all labels.

    how: what else `experiment.train_headless` takes, such as `resume` and `micro_batches`.
    """
    data = world.load(cfg, distributed.join())
    if distributed.rank() == 0:
        print(data.described(), flush=True)
    state = experiment.train_headless(cfg, arms(cfg, data)[REFERENCE], out, seed, **how)
    everyone = torch.arange(len(data.train))
    return {"macro-AUC": scores.probe_encoder(data, state.model.get_submodule(PROBED), everyone, seed).test}
