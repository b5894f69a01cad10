"""The phase diagram of chapter 02: small I-JEPAs over EMA decay and the predictor's learning rate."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from jepa_lab import experiment, image_world
from jepa_lab.image_world import ImageData
from jepa_lab.papers.predictors import ensemble
from jepa_lab.papers.predictors.paper import Config

Cell = tuple[float, float]  # constant EMA decay, factor on the predictor's learning rate


def phase(cfg: Config, data: ImageData, seed: int, progress: bool = True) -> dict[Cell, dict[str, list[float]]]:
    """Histories of small I-JEPAs by cell, trained as one ensemble.

    All share the start, the batches and the masks; width and depth are small, so that a map is affordable.
    """
    small = small_config(cfg)
    cells = list(product(cfg.phase_decays, cfg.phase_factors))
    sampler = image_world.multi_block(small, data.grid, cfg.num_targets)
    arm = image_world.arm("phase", data, sampler)
    models = [experiment.fresh_model(small, arm, seed) for _ in cells]
    trained = ensemble.train_members(
        ensemble.stack(models, [seed] * len(cells), arm.task.device),
        [replace(small, ema_decay=(decay, decay), ema_memory=None) for decay, _ in cells],
        arm.task,
        measure=experiment.collapse_panel(data.probe[:300], data.to_batch, sampler),
        predictor_lr=[factor for _, factor in cells],
        progress=progress,
    )
    return {cell: member.history for cell, member in zip(cells, trained.members)}


def small_config(cfg: Config) -> Config:
    """The settings that all cells share: `phase_width` wide, two blocks deep, a predictor of one block."""
    return replace(
        cfg,
        width=cfg.phase_width,
        depth=2,
        heads=1,
        predictor_width=cfg.phase_width,
        predictor_depth=1,
        lr=cfg.phase_lr,
        precision="float32",
        num_steps=cfg.phase_steps,
        log_every=max(1, cfg.phase_steps // 10),
    )
