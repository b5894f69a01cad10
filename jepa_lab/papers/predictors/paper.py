"""Predictor design and collapse: which parts of I-JEPA keep it from the constant solution, and what they cost. Chapter
02.

`objectives.jepa_objective` and `train.fit` are I-JEPA (Assran et al. 2023, arXiv 2301.08243). Each arm changes one
part: the predictor, the EMA, the stop-gradient, the target's normalisation, the distance, or it has a regulariser
instead of EMA and stop-gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from jepa_lab import configs, distributed, image_world, losses, masks
from jepa_lab.experiment import Arm
from jepa_lab.image_world import ImageData
from jepa_lab.objectives import jepa_objective, self_target_objective
from jepa_lab.papers.predictors import models
from jepa_lab.papers.predictors.claims import CHAPTER, CLAIMS
from jepa_lab.papers.predictors.objectives import (
    contrast,
    random_directions,
    regularised_objective,
    sigreg_term,
    vicreg_term,
)
from jepa_lab.probes.scores import Score
from jepa_lab.tasks import Sampler

__all__ = ["CHAPTER", "CLAIMS", "Config", "RaceConfig", "arms", "preset", "race_arm", "train_reference"]


@dataclass(frozen=True)
class Config(image_world.Config):
    """The reference I-JEPA of chapter 01, the weights of the regularisers, the small models of the phase diagram."""

    num_steps: int = 360
    log_every: int = 90
    sigreg_weight: float = 0.05  # both chosen by jepa_lab.papers.predictors.pilots
    # variance and covariance, beside a prediction of weight 1 (paper: 25 and 1 beside 25)
    vicreg_weights: tuple[float, float] = (1.0, 0.2)
    phase_decays: tuple[float, ...] = (0.0, 0.5, 0.9, 0.99, 0.999)  # EMA decay, the same at every step
    phase_factors: tuple[float, ...] = (0.0, 0.03, 0.1, 0.3, 1.0, 10.0)  # on the predictor's learning rate
    phase_steps: int = 250
    phase_width: int = 16  # of encoder and predictor
    phase_lr: float = 4e-3


@dataclass(frozen=True)
class RaceConfig(Config):
    """The recipe of the time-to-quality race: few steps, scattered masks, standardised targets, Muon.

    Chosen as a whole on validation images (`benchmarks/race.py`).
    """

    num_steps: int = 600
    batch_size: int = 64
    patch: int = 4  # 7 x 7 tokens of a 28 px garment
    width: int = 96
    depth: int = 4
    heads: int = 3
    predictor_width: int = 48
    predictor_heads: int | None = 3
    num_targets: int = 1
    num_context: int = 24  # tokens that stay visible; all others are hidden
    optimizer: str = "muon"
    lr: float = 1e-2
    first_lr: float | None = 0.0
    weight_decay: tuple[float, float] = (0.04, 0.04)
    ema_decay: tuple[float, float] = (0.98, 0.98)  # remembers 50 steps
    clip_norm: float = 1e9  # no clipping
    log_every: int = 50


def preset(name: str, **overrides) -> Config:
    """Config of a preset: smoke, laptop, gpu, paper or race. Unknown names and unknown overrides raise ValueError."""
    presets = {
        "smoke": _smoke(),
        "laptop": _laptop(),
        "gpu": _gpu(),
        "paper": _paper(),
        "race": RaceConfig(),
    }
    return configs.choose(presets, name, overrides)


def _smoke() -> Config:
    return Config(
        num_steps=4,
        ema_memory=0.3,  # a step
        log_every=2,
        width=32,
        depth=2,
        predictor_width=16,
        predictor_depth=1,
        phase_decays=(0.0, 0.99),
        phase_factors=(0.0, 1.0, 10.0),
        phase_steps=10,
        phase_width=8,
        probe_train=300,
        probe_test=200,
    )


def _laptop() -> Config:
    return Config(ema_memory=0.05)  # as chapter 01; pilots: 0.0 50.5, 0.02 53.6, 0.05 54.1, 0.1 54.5 points


def _gpu() -> Config:
    return Config(
        num_targets=4,
        num_steps=40_000,
        batch_size=512,
        patch=4,
        width=192,
        depth=6,
        heads=3,
        predictor_width=96,
        predictor_depth=3,
        target_scale=(0.15, 0.2),
        lr=1e-3,
        ema_decay=(0.996, 1.0),
        log_every=500,
        phase_steps=2000,
        phase_width=64,
        probe_train=10_000,
        probe_test=10_000,
    )


def _paper() -> Config:
    """ViT-L/16 of the ablations of predictor depth and width, section 9 and appendix, on images in a folder."""
    return Config(
        folder="",
        num_targets=4,
        num_steps=312_500,
        batch_size=2048,
        patch=16,
        width=1024,
        depth=24,
        heads=16,
        predictor_width=384,
        predictor_depth=12,
        target_scale=(0.15, 0.2),
        lr=1e-3,
        ema_decay=(0.996, 1.0),
        log_every=1000,
    )


# Arms: I-JEPA with one part changed


def sigreg(cfg: Config, device: torch.device | str = "cpu") -> Callable:
    """The SIGReg term at the config's weight and width."""
    return partial(sigreg_term, weight=cfg.sigreg_weight, directions_DS=random_directions(cfg.width, device))


def vicreg(cfg: Config) -> Callable:
    """VICReg's variance and covariance terms at the config's weights."""
    return partial(vicreg_term, weights=cfg.vicreg_weights)


def arms(cfg: Config, data: ImageData) -> dict[str, Arm]:
    """Every arm of the chapter by the name it has in the figures; "I-JEPA" is the reference."""
    arm = partial(image_world.arm, data=data, sampler=image_world.multi_block(cfg, data.grid, cfg.num_targets))
    no_ema = {"ema_memory": 0.0}
    early = {"log_every": max(1, cfg.log_every // 3)}  # the alarm is heard early
    with_sigreg = partial(regularised_objective, regulariser=sigreg(cfg, data.patches.device))
    with_vicreg = partial(regularised_objective, regulariser=vicreg(cfg))
    no_stop_gradient = partial(self_target_objective, norm=losses.normalise)
    found = [
        arm("I-JEPA"),
        arm("linear predictor", predictor=models.linear_predictor),
        arm("no predictor", predictor=models.no_predictor),
        arm("predictor depth 4", changes={"predictor_depth": 4}),
        arm("predictor width 16", changes={"predictor_width": 16}),
        arm("predictor width 128", changes={"predictor_width": 128}),
        arm("EMA 0.9", changes={"ema_memory": None, "ema_decay": (0.9, 0.9)}),
        arm("EMA 0.999", changes={"ema_memory": None, "ema_decay": (0.999, 0.999)}),
        arm("no EMA", changes=no_ema),
        arm("no stop-gradient", objective=no_stop_gradient, changes={**no_ema, **early}),
        arm("raw targets", objective=partial(jepa_objective, norm=losses.identity)),
        arm("SIGReg", objective=with_sigreg, changes=no_ema),
        arm("VICReg", objective=with_vicreg, changes=no_ema),
        arm("L1", objective=partial(jepa_objective, distance=losses.l1)),
        arm("cosine", objective=partial(jepa_objective, distance=losses.cosine_distance)),
        arm("InfoNCE", objective=partial(jepa_objective, distance=contrast)),
    ]
    return {arm.name: arm for arm in found}


def scattered(cfg: RaceConfig, grid: tuple[int, int]) -> Sampler:
    """`num_context` random tokens stay visible, all others are hidden."""
    hidden = grid[0] * grid[1] - cfg.num_context
    return partial(masks.random_tokens, grid, num_targets=1, target_size=hidden, num_context=cfg.num_context)


def race_arm(cfg: RaceConfig, data: ImageData) -> Arm:
    """The race's recipe: scattered masks and standardised targets; the config has the rest."""
    return image_world.arm("race", data, scattered(cfg, data.grid), partial(jepa_objective, standardised=True))


def train_reference(cfg: Config, out: Path, **how) -> dict[str, Score]:
    """Train I-JEPA, or with preset "race" the race's recipe, with checkpoints in `out`, then probe it.

    Trains on the GPUs where there are some. how: `seed`, `resume`, `micro_batches`.
    """
    data = image_world.load(cfg, distributed.join())
    arm = race_arm(cfg, data) if isinstance(cfg, RaceConfig) else arms(cfg, data)["I-JEPA"]
    return image_world.train_and_score(cfg, data, arm, out, **how)
