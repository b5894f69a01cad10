"""Predictor design and collapse: which parts of I-JEPA keep it from the constant solution, and what they cost. Chapter
02.

The engine in `train` is I-JEPA (Assran et al. 2023, arXiv 2301.08243). Each arm changes one part: the predictor, the
EMA,
the stop-gradient, the target's normalisation, the distance, or trades EMA and stop-gradient for a regulariser. Shape
letters: B batch, N tokens, P pixels per patch, C context tokens, M target blocks, K tokens per block, D width, S
members.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from time import process_time

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn

from jepa_lab import configs as presets
from jepa_lab import distributed, losses, train
from jepa_lab import image_world as worlds
from jepa_lab.claims import Claim
from jepa_lab.encoders import init_linear, position_code
from jepa_lab.image_world import Arm, World
from jepa_lab.losses import gather_blocks, normalise, smooth_l1
from jepa_lab.masks import Masks
from jepa_lab.papers.predictors import phase as ensembles
from jepa_lab.probes.scores import Score

CHAPTER = "02_predictors"
IJEPA, BYOL, SIMSIAM = "Assran et al. 2023 (I-JEPA)", "Grill et al. 2020 (BYOL)", "Chen & He 2021 (SimSiam)"
VICREG, LEJEPA = "Bardes et al. 2022 (VICReg)", "Balestriero & LeCun 2025 (LeJEPA)"
FEW = "accuracy with 10 labels per class, points"  # as in chapter 01; ImageNet's 1 % is 13 labels per class
RANK = "RankMe of the features at the end, directions"
LIMIT = "the alarm's limit"  # diagnostics.rank_limit
ONE_PERCENT, RESNET = "ViT-L/16, ImageNet, 1 % of the labels, linear probe", "ResNet-50, ImageNet, linear probe"


def _claim(
    id: str,
    paper: str,
    statement: str,
    metric: str,
    direction: str,
    margin: float,
    baseline: str,
    paper_value: str = "not reported",
    paper_source: str = "our control",
) -> Claim:
    return Claim(id, CHAPTER, paper, statement, metric, direction, margin, paper_value, paper_source, baseline)


CLAIMS = (
    _claim(
        "deeper-predictor",
        IJEPA,
        "A predictor of twice the depth gives better features.",
        FEW,
        "higher",
        1.0,
        "depth 2",
        "66.9 against 64.0",
        f"predictor depth 12 against 6, {ONE_PERCENT}",
    ),
    _claim(
        "narrow-predictor",
        IJEPA,
        "A predictor narrower than the encoder gives better features than one as wide.",
        FEW,
        "higher",
        1.0,
        "predictor as wide as the encoder",
        "70.7 against 68.4",
        f"predictor width 384 against 1024, {ONE_PERCENT}",
    ),
    _claim(
        "no-predictor-collapses",
        BYOL,
        "Without a predictor the features collapse, although EMA and stop-gradient stay.",
        RANK,
        "lower",
        0.0,
        LIMIT,
        "0.2 against 72.5",
        f"table 5b, {RESNET}",
    ),
    _claim(
        "no-stop-gradient-collapses",
        SIMSIAM,
        "Without EMA and stop-gradient the features collapse.",
        RANK,
        "lower",
        0.0,
        LIMIT,
        "0.1 against 67.7",
        f"figure 2, {RESNET}",
    ),
    _claim(
        "no-ema-collapses",
        BYOL,
        "Without EMA the features collapse, although the stop-gradient stays.",
        RANK,
        "lower",
        0.0,
        LIMIT,
        "0.3 against 72.5",
        f"table 5a, decay 0 against 0.99, {RESNET}",
    ),
    _claim(
        "no-ema-survives",
        SIMSIAM,
        "Without EMA the features do not collapse as long as the stop-gradient stays.",
        RANK,
        "higher",
        0.0,
        LIMIT,
        "67.7",
        f"figure 2, {RESNET}",
    ),
    _claim(
        "slower-ema",
        BYOL,
        "An EMA from 0.99 gives better features than one from 0.9.",
        FEW,
        "higher",
        1.0,
        "EMA from 0.9",
        "72.5 against 68.4",
        f"table 5a, {RESNET}",
    ),
    _claim(
        "faster-ema",
        BYOL,
        "An EMA from 0.99 gives better features than one from 0.999.",
        FEW,
        "higher",
        1.0,
        "EMA from 0.999",
        "72.5 against 69.8",
        f"table 5a, {RESNET}",
    ),
    _claim(
        "fast-predictor",
        BYOL,
        "Without EMA, a predictor that learns 10 times faster keeps more directions; the small models of the phase diagram.",
        RANK,
        "higher",
        1.0,
        "predictor at the common rate",
        "66.5 against 0.3",
        f"section 5, removed target network, {RESNET}",
    ),
    _claim(
        "sigreg-holds",
        LEJEPA,
        "SIGReg keeps the features from collapsing without EMA and stop-gradient.",
        RANK,
        "higher",
        0.0,
        LIMIT,
        "stated without a number",
        "abstract",
    ),
    _claim(
        "sigreg-matches",
        LEJEPA,
        "SIGReg instead of EMA and stop-gradient costs at most 2 points.",
        FEW,
        "higher",
        -2.0,
        "I-JEPA",
        "not compared at equal steps",
        "our bound",
    ),
    _claim(
        "vicreg-holds",
        VICREG,
        "Variance and covariance terms keep the features from collapsing without EMA and stop-gradient.",
        RANK,
        "higher",
        0.0,
        LIMIT,
        "68.6; without them: collapse",
        f"table 4, {RESNET}, 100 epochs",
    ),
    _claim(
        "loss-misleads",
        IJEPA,
        "The collapsed run has the lower loss.",
        "loss over the last log interval",
        "lower",
        0.0,
        "I-JEPA",
    ),
    _claim(
        "beats-random",
        IJEPA,
        "The frozen encoder beats the same encoder at random initialisation.",
        FEW,
        "higher",
        1.0,
        "random initialisation",
    ),
)


@dataclass(frozen=True)
class Config(worlds.Config):
    """The reference I-JEPA of chapter 01, the weights of the regularisers, and the small members of the phase diagram."""

    num_steps: int = 360
    log_every: int = 90
    sigreg_weight: float = 0.05  # both chosen by jepa_lab.papers.predictors.pilots
    vicreg_weights: tuple[float, float] = (
        1.0,
        0.2,
    )  # variance, covariance, beside a prediction of weight 1 (paper: 25, 1 beside 25)
    phase_decays: tuple[float, ...] = (0.0, 0.5, 0.9, 0.99, 0.999)  # EMA decay, the same at every step
    phase_factors: tuple[float, ...] = (0.0, 0.03, 0.1, 0.3, 1.0, 10.0)  # on the predictor's learning rate
    phase_steps: int = 250
    phase_width: int = 16  # of encoder and predictor
    phase_lr: float = 4e-3


@dataclass(frozen=True)
class FolderConfig(Config):
    """The reference I-JEPA on images in a folder."""

    folder: str = ""  # of ImageNet's layout, see worlds.pictures
    side: int = 224  # pixels


def preset(name: str, **overrides) -> Config:
    """Config of a preset: smoke, laptop, gpu or paper. Unknown names and unknown overrides raise ValueError."""
    return presets.choose(
        {
            "smoke": Config(
                num_steps=4,
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
            ),
            "laptop": Config(),
            "gpu": Config(
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
            ),
            # ViT-L/16 of the ablations of predictor depth and width, section 9 and appendix
            "paper": FolderConfig(
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
            ),
        },
        name,
        overrides,
    )


# Predictors without a transformer


class LinearPredictor(nn.Module):
    """Depth 0: one linear map of the mean context latent plus one of the target's position. No attention, no
    nonlinearity.
    """

    def __init__(self, grid: tuple[int, ...], width: int):
        super().__init__()
        self.context, self.position = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.register_buffer("position_ND", position_code(grid, width), persistent=False)
        self.apply(init_linear)

    def forward(self, context_BCD: Float[Tensor, "B C D"], masks: Masks) -> Float[Tensor, "B M K D"]:
        mean_BD = reduce(context_BCD, "b c d -> b d", "mean")
        return rearrange(self.context(mean_BD), "b d -> b 1 1 d") + self.position(self.position_ND[masks.target_idx])


class NoPredictor(nn.Module):
    """The mean context latent itself stands for every hidden token: no weights, and it does not know where it predicts."""

    def forward(self, context_BCD: Float[Tensor, "B C D"], masks: Masks) -> Float[Tensor, "B M K D"]:
        num_blocks, num_tokens = masks.target_idx.shape[1:]
        return repeat(reduce(context_BCD, "b c d -> b d", "mean"), "b d -> b m k d", m=num_blocks, k=num_tokens)


# Objectives


def predict(model: train.JEPA, patches_BNP: Float[Tensor, "B N P"], masks: Masks) -> Float[Tensor, "B M K D"]:
    """What the predictor makes of the context."""
    return model.predictor(model.encoder(patches_BNP, masks.context_idx), masks)


def distance_objective(
    model: train.JEPA, patches_BNP: Float[Tensor, "B N P"], masks: Masks, distance: Callable
) -> Float[Tensor, ""]:
    """I-JEPA with another distance between prediction and normalised target."""
    with torch.no_grad():
        target_BMKD = gather_blocks(normalise(train.encode_all(model.target_encoder, patches_BNP)), masks.target_idx)
    return distance(predict(model, patches_BNP, masks), target_BMKD)


def contrast(pred_BMKD: Float[Tensor, "B M K D"], target_BMKD: Float[Tensor, "B M K D"]) -> Float[Tensor, ""]:
    """InfoNCE between images: one row per image, the mean over its hidden tokens, so that no negative is the positive."""
    return losses.info_nce(*(reduce(z.float(), "b m k d -> b d", "mean") for z in (pred_BMKD, target_BMKD)))


def raw_target_objective(model: train.JEPA, patches_BNP: Float[Tensor, "B N P"], masks: Masks) -> Float[Tensor, ""]:
    """I-JEPA without the LayerNorm on its targets."""
    with torch.no_grad():
        target_BMKD = gather_blocks(train.encode_all(model.target_encoder, patches_BNP), masks.target_idx)
    return smooth_l1(predict(model, patches_BNP, masks), target_BMKD)


def no_stop_gradient_objective(
    model: train.JEPA, patches_BNP: Float[Tensor, "B N P"], masks: Masks
) -> Float[Tensor, ""]:
    """The encoder provides its own targets and is trained through them; their LayerNorm stays."""
    target_BMKD = gather_blocks(normalise(model.encoder(patches_BNP)), masks.target_idx)
    return smooth_l1(predict(model, patches_BNP, masks), target_BMKD)


def regularised_objective(
    model: train.JEPA, patches_BNP: Float[Tensor, "B N P"], masks: Masks, regulariser: Callable[[Tensor], Tensor]
) -> Float[Tensor, ""]:
    """One encoder, gradients everywhere, no normalisation: a term on the latents of all tokens, one row each, forbids
    the constant.
    """
    tokens_BND = model.encoder(patches_BNP)
    spread = regulariser(rearrange(tokens_BND, "b n d -> (b n) d"))
    return smooth_l1(predict(model, patches_BNP, masks), gather_blocks(tokens_BND, masks.target_idx)) + spread


def sigreg_term(cfg: Config) -> Callable[[Tensor], Tensor]:
    """Weighted SIGReg along twice as many directions as there are dimensions; they stay the same (LeJEPA draws new ones
    each step).
    """
    directions_DS = torch.randn(cfg.width, 2 * cfg.width, generator=torch.Generator().manual_seed(0))
    return lambda z_nD: cfg.sigreg_weight * losses.sigreg(z_nD, directions_DS=directions_DS.to(z_nD.device))


def vicreg_term(cfg: Config) -> Callable[[Tensor], Tensor]:
    """VICReg's variance and covariance terms, weighted (Bardes et al. 2022, eq. 6)."""
    return lambda z_nD: cfg.vicreg_weights[0] * losses.variance(z_nD) + cfg.vicreg_weights[1] * losses.covariance(z_nD)


def arms(cfg: Config, world: World) -> dict[str, Arm]:
    """Every arm of the chapter by the name it has in the figures; "I-JEPA" is the reference."""
    base = worlds.multi_block(cfg, world.grid, cfg.num_targets)
    one_encoder = {"ema_decay": (0.0, 0.0)}
    return {
        "I-JEPA": Arm(base),
        "linear predictor": Arm(base, predictor=lambda cfg, grid: LinearPredictor(grid, cfg.width)),
        "no predictor": Arm(base, predictor=lambda cfg, grid: NoPredictor()),
        "predictor depth 4": Arm(base, changes={"predictor_depth": 4}),
        **{f"predictor width {n}": Arm(base, changes={"predictor_width": n}) for n in (16, 128)},
        "EMA from 0.9": Arm(base, changes={"ema_decay": (0.9, 1.0)}),
        "EMA from 0.999": Arm(base, changes={"ema_decay": (0.999, 1.0)}),
        "no EMA": Arm(base, changes=one_encoder),
        "no stop-gradient": Arm(
            base, no_stop_gradient_objective, changes={**one_encoder, "log_every": max(1, cfg.log_every // 3)}
        ),  # the alarm is heard early
        "raw targets": Arm(base, raw_target_objective),
        "SIGReg": Arm(base, partial(regularised_objective, regulariser=sigreg_term(cfg)), changes=one_encoder),
        "VICReg": Arm(base, partial(regularised_objective, regulariser=vicreg_term(cfg)), changes=one_encoder),
        "L1": Arm(base, partial(distance_objective, distance=losses.l1)),
        "cosine": Arm(base, partial(distance_objective, distance=losses.cosine)),
        "InfoNCE": Arm(base, partial(distance_objective, distance=contrast)),
    }


# Runs


def train_timed(cfg: Config, world: World, arm: Arm, seed: int) -> tuple[train.Run, float]:
    """Train one arm; also the core-seconds that 100 of its steps took, looks at the collapse panel included."""
    began = process_time()
    run = worlds.train_arm(cfg, world, arm, seed)
    return run, 100 * (process_time() - began) / run.step


def step_mflop(cfg: Config, world: World, arm: Arm) -> float:
    """Millions of floating-point operations of the matrix products in one step, forward and backward, per image."""
    from torch.utils.flop_counter import FlopCounterMode

    cfg = replace(cfg, **(arm.changes or {}))
    model = worlds.model(cfg, world.grid, world.patches.shape[-1], 0, arm.predictor)
    train.choose_attention(model, plain=True)  # products that the counter knows
    seen, batch_BNP = (
        arm.sampler(cfg.batch_size, torch.Generator().manual_seed(0)),
        world.to_batch(world.patches[: cfg.batch_size].cpu()),
    )
    with FlopCounterMode(display=False) as counter:
        arm.objective(model, batch_BNP, seen).backward()
    return counter.get_total_flops() / cfg.batch_size / 1e6


def phase(cfg: Config, world: World, seed: int) -> dict[tuple[float, float], dict[str, list[float]]]:
    """Histories of small I-JEPAs over (constant EMA decay, factor on the predictor's learning rate), trained as one
    ensemble.

    All share the start, the batches and the masks; width and depth are small, so that a map is affordable.
    """
    small = replace(
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
    cells = list(product(cfg.phase_decays, cfg.phase_factors))
    models = [worlds.model(small, world.grid, world.patches.shape[-1], seed) for _ in cells]
    ensemble = ensembles.fit(
        ensembles.stack(models, [seed] * len(cells), world.patches.device),
        [replace(small, ema_decay=(decay, decay)) for decay, _ in cells],
        world.patches,
        world.to_batch,
        worlds.multi_block(small, world.grid, cfg.num_targets),
        watch=world.probe[:300],
        predictor_lr=[factor for _, factor in cells],
    )
    return {cell: run.history for cell, run in zip(cells, ensemble.runs)}


def headless(cfg: Config, out: Path, **how) -> dict[str, Score]:
    """Train the reference arm with checkpoints in `out`, on the GPUs where there are some, then probe it.

    how: `seed`, `resume`, `micro_batches`.
    """
    device = distributed.start()
    world = (
        worlds.pictures(cfg, cfg.folder, cfg.side, device)
        if isinstance(cfg, FolderConfig)
        else worlds.centred(cfg, device)
    )
    return worlds.headless(cfg, world, arms(cfg, world)["I-JEPA"], out, **how)
