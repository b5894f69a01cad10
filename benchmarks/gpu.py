"""How long a training step takes on a GPU, for every paper's presets that are made for one.

    python -m benchmarks.gpu                      # all of CASES, a JSON line each
    python -m benchmarks.gpu masking-gpu ecg_jepa-gpu

Steps are those of `train.fit` and `recall.fit`, uncompiled and as they run on a GPU, on data of the right shape
(random, or few and simulated
records): times hold for training, scores come on top. Each case runs in this process, one after the other.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from jepa_lab import image_world as worlds
from jepa_lab import train
from jepa_lab.papers.ecg_jepa import paper as ecg_jepa
from jepa_lab.papers.ecg_jepa import world as ecg_world
from jepa_lab.papers.masking import paper as masking
from jepa_lab.papers.predictors import paper as predictors
from jepa_lab.papers.reversal_curse import arms as fact_arms
from jepa_lab.papers.reversal_curse import paper as reversal_curse
from jepa_lab.papers.reversal_curse import scores as recall

Step = tuple[train.Run, train.Config, Callable[[], object]]


def images(paper, name: str, micro_batches: int = 1, arm: str = "I-JEPA", compile: bool = True) -> Step:
    """The reference arm of an image chapter on random pixels; `paper` presets see 224 px in colour."""
    cfg = paper.preset(name)
    side, channels = (cfg.side, 3) if name == "paper" else (28, 1)
    grid, numbers = (side // cfg.patch,) * 2, channels * cfg.patch**2
    patches = torch.randint(0, 256, (2 * cfg.batch_size, grid[0] * grid[1], numbers), dtype=torch.uint8, device="cuda")
    labels = torch.zeros(0, dtype=torch.int64)
    world = worlds.World(
        "random", None, grid, patches, patches[:0], labels, patches[:0], labels, (128.0, 74.0), patches[:0, 0, :1, None]
    )
    chosen = paper.arms(cfg, world)[arm]
    cfg = replace(cfg, **(chosen.changes or {}))
    run = train.start(worlds.model(cfg, grid, numbers, 0, chosen.predictor), 0, "cuda")
    return masked(run, cfg, patches, world.to_batch, chosen, micro_batches, compile)


def records(name: str, micro_batches: int = 1, compile: bool = True) -> Step:
    """ECG-JEPA on 320 simulated records."""
    cfg = replace(ecg_jepa.preset(name, data="simulated"), num_train=200, num_validation=60, num_test=60)
    world = ecg_world.world(cfg, "cuda")
    arm = ecg_jepa.arms(cfg, world)["ECG-JEPA"]
    signals = world.train.signals.repeat(1 + 2 * cfg.batch_size // len(world.train), 1, 1)
    run = train.start(ecg_world.model(cfg, world.grid, 0, arm.predictor), 0, "cuda")
    return masked(run, cfg, signals, world.to_batch, arm, micro_batches, compile)


def masked(
    run: train.Run, cfg: train.Config, data, to_batch, arm: worlds.Arm, micro_batches: int, compile: bool
) -> Step:
    step = train.wrap(run.model, arm.objective, compile, micro_batches)
    batches = train.batch_indices(len(data), cfg.batch_size, 0)
    return (
        run,
        cfg,
        lambda: train.train_step(
            run, cfg, step, to_batch, data, next(batches), arm.sampler(cfg.batch_size, run.generator), micro_batches
        ),
    )


def facts(name: str, arm: str = "JEPA", compile: bool = True) -> Step:
    """An arm of chapter 11 on its world."""
    cfg = fact_arms.settings(reversal_curse.preset(name), fact_arms.ARMS[arm])
    world = fact_arms.world_of(cfg, 0, fact_arms.ARMS[arm].concept_level).to("cuda")
    run = fact_arms.start(cfg, fact_arms.ARMS[arm], world.names, world.vocabulary, world.num_relations, 0, "cuda")
    loss, batches = fact_arms.loss_of(fact_arms.ARMS[arm]), train.batch_indices(len(world.train), cfg.batch_size, 0)
    loss = train.compiled(loss) if compile else loss
    return run, cfg, lambda: recall.step(run, cfg, loss, world.train, next(batches))


CASES: dict[str, Callable[..., Step]] = {
    "masking-gpu": lambda **how: images(masking, "gpu", **how),
    "predictors-gpu, VICReg": lambda **how: images(predictors, "gpu", arm="VICReg", **how),
    "ecg_jepa-gpu": lambda **how: records("gpu", **how),
    "ecg_jepa-paper": lambda **how: records("paper", **how),
    "reversal_curse-gpu, JEPA": lambda **how: facts("gpu", **how),
    "reversal_curse-gpu, JEPA + memory": lambda **how: facts("gpu", arm="JEPA + memory", **how),
    "reversal_curse-gpu, AR": lambda **how: facts("gpu", arm="AR", **how),
    "reversal_curse-paper, JEPA": lambda **how: facts("paper", **how),
    "predictors-paper": lambda **how: images(predictors, "paper", 4, **how),
    "masking-paper": lambda **how: images(masking, "paper", 16, **how),
}


def measure(build: Callable[..., Step], compile: bool, seconds: float = 1.5) -> dict[str, float]:
    """First step in s (with compilation), ms per step after it, samples per s, peak GB, hours for all steps of the
    preset.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run, cfg, step = build(compile=compile)

    def steps(count: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            step()
            run.step += 1
        torch.cuda.synchronize()
        return time.perf_counter() - began

    first = steps(1)
    count = max(2, min(300, round(2 * seconds / steps(2))))
    ms = 1000 * min(steps(count) for _ in range(2)) / count
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
    for name in names or CASES:
        for compile in (False, True):
            print(json.dumps({"case": name, "compiled": compile} | measure(CASES[name], compile)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
