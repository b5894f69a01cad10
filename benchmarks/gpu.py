"""How long a training step takes on a GPU, for every paper's presets that are made for one.

    python -m benchmarks.gpu                      # the reference arm of every paper at gpu and paper, a JSON line each
    python -m benchmarks.gpu masking-gpu ecg_jepa-gpu "predictors-gpu, VICReg"

Steps are those of `train.fit`, uncompiled and compiled, on data of the right shape (random, or few and simulated
records): times hold for training, scores come on top. All cases run in this process, one after the other.
"""

import json
import sys
import time
from dataclasses import replace
from types import ModuleType

import torch

from benchmarks.stepper import stepper
from jepa_lab import papers
from jepa_lab.data import images
from jepa_lab.experiment import Arm
from jepa_lab.image_world import ImageData
from jepa_lab.papers.ecg_jepa import world
from jepa_lab.papers.reversal_curse.arms import facts_of

PRESETS = ("gpu", "paper")
MICRO_BATCHES = {"predictors-paper": 4, "masking-paper": 16}  # parts that fit into 80 GB


def random_images(cfg, device: str) -> ImageData:
    """Two batches of random pixels, in colour where the config trains on a folder of pictures."""
    side, channels = (28, 1) if cfg.folder is None else (cfg.side, 3)
    grid = (side // cfg.patch,) * 2
    shape = (2 * cfg.batch_size, grid[0] * grid[1], channels * cfg.patch**2)
    patches = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    labels, example = torch.zeros(0, dtype=torch.int64), torch.zeros(0, side, side, dtype=torch.uint8)
    source = images.ImageSet(example, labels, "random", "made here", "", "generated", ("none",))
    stats = (128.0, 74.0)
    return ImageData("random", source, grid, patches, patches[:0], labels, patches[:0], labels, stats, example)


def few_records(cfg, device: str) -> world.ECGData:
    """320 simulated records."""
    return world.load(replace(cfg, data="simulated", num_train=200, num_validation=60, num_test=60), device)


def facts(cfg, device: str):
    """The facts of seed 0."""
    return facts_of(cfg, 0, device)


DATA = {"masking": random_images, "predictors": random_images, "ecg_jepa": few_records, "reversal_curse": facts}


def cases() -> list[str]:
    """The names of all cases: every paper that has arms, at every preset for a GPU."""
    return [f"{slug}-{preset}" for slug, paper in papers.all().items() if hasattr(paper, "arms") for preset in PRESETS]


def arm_of(case: str, device: str) -> tuple[object, Arm]:
    """Config and arm of a case, `slug-preset` or `slug-preset, arm`; without a name the reference arm, the first."""
    place, _, name = case.partition(", ")
    slug, _, preset = place.rpartition("-")
    paper: ModuleType | None = papers.all().get(slug)
    if paper is None or preset not in PRESETS:
        raise ValueError(f"unknown case {case!r}; there are: {', '.join(cases())}, each also with `, ARM` behind it")
    if slug not in DATA:
        raise ValueError(f"benchmarks/gpu.py has no data for {slug}; add a function that makes them to DATA")
    cfg = paper.preset(preset)
    arms = paper.arms(cfg, DATA[slug](cfg, device))
    arm = arms[name or next(iter(arms))]
    missing = cfg.batch_size // len(arm.task)
    if missing:  # few records, again and again
        patches = arm.task.patches
        arm = replace(arm, task=replace(arm.task, patches=patches.repeat(missing + 1, *[1] * (patches.ndim - 1))))
    return cfg, arm


def measure(case: str, compile: bool, device: str = "cuda", seconds: float = 1.5) -> dict[str, float]:
    """First step in s (with compilation), ms a step after it, samples per s, peak GB, hours of the preset's steps."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    micro_batches = MICRO_BATCHES.get(case.partition(", ")[0], 1)
    _, cfg, advance = stepper(*arm_of(case, device), micro_batches=micro_batches, compile=compile)

    def take(count: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            advance()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    first = take(1)
    count = max(2, min(300, round(2 * seconds / take(2))))
    ms = 1000 * min(take(count) for _ in range(2)) / count
    return {
        "first_step_s": round(first, 1),
        "ms_per_step": round(ms, 2),
        "samples_per_s": round(1000 * cfg.batch_size / ms),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "steps": cfg.num_steps,
        "hours": round(ms * cfg.num_steps / 3.6e6, 3),
    }


def main(names: list[str]) -> int:
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__}), flush=True)
    for name in names or cases():
        for compile in (False, True):
            print(json.dumps({"case": name, "compiled": compile} | measure(name, compile)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
