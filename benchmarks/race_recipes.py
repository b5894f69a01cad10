"""The recipes of the race as arms: the published one, ours (preset "race" of chapter 02) and the ladder between them.

`official` is I-JEPA as published (Assran et al. 2023, its code and its released configs) at this size, in float32: the
configs ask for bf16, but the code's autocast is CUDA's and does nothing on a CPU. `official + bf16` is the same in
bf16. The released min_keep of 10 holds for the context only: most targets have 6 to 9 of the 7 x 7 tokens, and the
published code would draw for ever. Vectors never decay here; the published code decays its mask token, and so did the
committed runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from jepa_lab import configs, image_world, masks
from jepa_lab.experiment import Arm
from jepa_lab.image_world import Config, ImageData
from jepa_lab.objectives import JEPA, jepa_objective
from jepa_lab.papers.predictors import paper
from jepa_lab.tasks import Sampler

OURS_CONFIG = paper.preset("race")


@dataclass(frozen=True)
class Recipe:
    """A config, and the choices that are no fields of a config."""

    name: str
    cfg: Config
    start: str = "fan-in"  # of every linear; "0.02": the published standard deviation
    sampler: str = "scattered"  # "published": context cut to the batch's shortest; "kept": blocks, no cut
    standardised: bool = True  # targets


OURS = Recipe("ours", OURS_CONFIG)
OFFICIAL = Recipe(
    "official",
    replace(
        OURS_CONFIG,
        num_steps=1000,
        batch_size=128,
        num_targets=4,
        optimizer="adamw",
        lr=1e-3,
        first_lr=0.2,
        final_lr=1e-3,
        warmup=40 / 300,  # released configs: 40 of 300 epochs
        weight_decay=(0.04, 0.4),
        ema_decay=(0.996, 1.0),
        predictor_depth=6,
        precision="float32",
    ),
    start="0.02",
    sampler="published",
    standardised=False,
)
OFFICIAL_BF16 = replace(OFFICIAL, name="official + bf16", cfg=replace(OFFICIAL.cfg, precision="bf16"))


def ladder() -> tuple[Recipe, ...]:
    """From the official recipe to ours, one idea more on each rung, each at about the cost of ours.

    num_steps: what takes under 100 core-seconds.
    """
    ours = OURS_CONFIG
    shallow = {"precision": "bf16", "predictor_depth": ours.predictor_depth}
    short = {"batch_size": ours.batch_size, "lr": 2e-3, "first_lr": 0.0, "final_lr": 0.01, "warmup": 0.1}
    short |= {"weight_decay": ours.weight_decay, "ema_decay": ours.ema_decay}
    muon = {"optimizer": "muon", "lr": ours.lr}
    ideas = (
        ("0 official, at equal time", 140, {}, {}),
        ("1 + fan-in start", 140, {}, {"start": "fan-in"}),
        ("2 + kept context", 110, {}, {"sampler": "kept"}),
        ("3 + bf16, shallow predictor", 310, shallow, {}),
        ("4 + schedules for short runs", 570, short, {}),
        ("5 + scattered tokens", 650, {"num_targets": 1}, {"sampler": "scattered"}),
        ("6 + standardised targets", 650, {}, {"standardised": True}),
        ("7 + Muon: ours", 600, muon, {}),
    )
    rungs, recipe = [], OFFICIAL
    for name, num_steps, changes, choices in ideas:
        cfg = replace(recipe.cfg, num_steps=num_steps, **changes)
        recipe = replace(recipe, name=name, cfg=cfg, **choices)
        rungs.append(recipe)
    return tuple(rungs)


def arm(recipe: Recipe, data: ImageData) -> Arm:
    """The recipe as an arm that `experiment.train_arm` trains."""
    objective = partial(jepa_objective, standardised=True) if recipe.standardised else jepa_objective
    trained = image_world.arm(recipe.name, data, sampler(recipe, data.grid), objective)
    if recipe.start == "0.02":
        return replace(trained, build=partial(published_start, build=trained.build))
    return trained


def sampler(recipe: Recipe, grid: tuple[int, int]) -> Sampler:
    """The masks of the recipe."""
    num_targets = recipe.cfg.num_targets
    if recipe.sampler == "scattered":
        return paper.scattered(recipe.cfg, grid)
    if recipe.sampler == "published":
        return partial(masks.multi_block_published, grid, num_targets=num_targets)
    shapes = masks.block_shapes(grid)
    num_context = masks.context_budget(grid, shapes, num_targets=num_targets)
    return partial(masks.multi_block, grid, num_targets=num_targets, target_shapes=shapes, num_context=num_context)


def published_start(cfg: Config, build) -> JEPA:
    """The model with every linear drawn with standard deviation 0.02.

    The rescaling by depth in the published code is undone by that code itself.
    """
    model = build(cfg)
    for module in (*model.encoder.modules(), *model.predictor.modules()):
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
    model.target_encoder.load_state_dict(model.encoder.state_dict())
    return model


def settings(recipe: Recipe) -> dict:
    """The recipe as its records describe it."""
    cfg = recipe.cfg
    described = {
        "recipe": recipe.name,
        "num_steps": cfg.num_steps,
        "batch_size": cfg.batch_size,
        "init": recipe.start,
        "sampler": recipe.sampler,
        "num_targets": cfg.num_targets,
        "lr": [cfg.first_lr * cfg.lr, cfg.lr, cfg.final_lr * cfg.lr],
        "warmup": cfg.warmup,
        "weight_decay": cfg.weight_decay,
        "ema_decay": cfg.ema_decay,
        "predictor": [cfg.predictor_width, cfg.predictor_depth, cfg.predictor_heads],
        "precision": cfg.precision,
        "optimizer": {"adamw": "AdamW", "muon": "Muon"}[cfg.optimizer],
    }
    if recipe.sampler == "scattered":
        described["num_context"] = cfg.num_context
    if recipe.standardised:
        described["standardise"] = True
    return configs.plain(described)
