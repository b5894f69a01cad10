"""ECG-JEPA (Weimann & Conrad 2024, arXiv 2410.13867): twelve leads, masked time. Chapter 07.

Not the other paper of that name (Kim 2024, arXiv 2410.08559). A token holds a short stretch of all leads; about four
fifths of the record are hidden in a few long stretches, and every hidden token is a target. Where the authors' code
differs from this file: it updates the EMA at the beginning of a step (so its targets lag by one more step), has no
biases, does not clip gradients, takes 1e-6 for AdamW's epsilon, and draws the kept share anew for every batch and the
number of hidden stretches for every record; here both are fixed, so that shapes are.
Shape letters: B batch, N tokens, P numbers per token, C context tokens, K hidden tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from jepa_lab import configs as presets
from jepa_lab import distributed, losses, train
from jepa_lab.claims import Claim
from jepa_lab.encoders import Encoder, init_linear
from jepa_lab.image_world import Arm
from jepa_lab.losses import gather_blocks
from jepa_lab.masks import Masks
from jepa_lab.papers.ecg_jepa import finetune
from jepa_lab.papers.ecg_jepa import world as ecg_world
from jepa_lab.papers.ecg_jepa.world import Result, World
from jepa_lab.probes.scores import Score

CHAPTER, PAPER = "07_ecg_jepa", "Weimann & Conrad 2024 (ECG-JEPA)"
TENTH = "macro-AUC of a logistic probe, 10 % of the labels, points"
TUNED = "macro-AUC after labelled training of all weights, points"
LINEAR, FULL = "PTB-XL, all statements, frozen encoder, linear head", "PTB-XL, all statements, all weights trained"
NOTES = "third-party notes on the paper"


def _claim(
    id: str,
    statement: str,
    baseline: str,
    margin: float,
    metric: str = TENTH,
    direction: str = "higher",
    paper_value: str = "not reported",
    paper_source: str = "our control",
) -> Claim:
    return Claim(id, CHAPTER, PAPER, statement, metric, direction, margin, paper_value, paper_source, baseline)


CLAIMS = (
    _claim(
        "beats-random",
        "The frozen encoder beats the same encoder at random initialisation.",
        "random initialisation",
        1.0,
        paper_value="0.931 against 0.815",
        paper_source=f"ViT-XS pre-trained on PTB-XL, {LINEAR}; authors' repository",
    ),
    _claim(
        "beats-statistics",
        "The frozen encoder beats each lead's deviation, mean, largest and smallest value.",
        "lead statistics",
        1.0,
    ),
    _claim(
        "beats-hand-made",
        "The frozen encoder beats the hand-made features that do best on validation records.",
        "best hand-made features",
        1.0,
    ),
    _claim(
        "beats-simclr",
        "Predicting hidden time beats SimCLR on the same encoder at equal steps.",
        "SimCLR",
        1.0,
        paper_value="0.938 against 0.883",
        paper_source=f"ViT-S against SimCLR with xresnet1d50, {LINEAR}; authors' repository",
    ),
    _claim(
        "beats-auto-encoder",
        "Predicting latents of hidden time beats predicting its signal, at equal steps.",
        "masked auto-encoder",
        1.0,
        paper_value="0.928 against 0.838",
        paper_source="ViT-S against ST-MEM with ViT-B on a split of its own, PTB-XL, super-classes, linear head; authors' repository",
    ),
    *(
        _claim(
            f"few-labels-{share}",
            f"With {share} % of the labels, training from the pre-trained weights beats training from scratch.",
            "from scratch",
            1.0,
            TUNED,
        )
        for share in (1, 5, 10)
    ),
    _claim(
        "gain-shrinks",
        "That gain is larger with 1 % of the labels than with all of them.",
        "the gain with all labels",
        1.0,
        "gain in macro-AUC, points",
        paper_value="0.940 against 0.911 with all labels",
        paper_source=f"ViT-XS pre-trained on PTB-XL, {FULL}; authors' repository",
    ),
    _claim(
        "hide-80",
        "To hide 80 % of the record is within half a point of the best other share, or better.",
        "best other share",
        -0.5,
        paper_value="75 to 85 %, used throughout",
        paper_source="authors' configuration",
    ),
    _claim(
        "stretches",
        "To hide it in the configured number of stretches is within half a point of the best other number, or better.",
        "best other number of stretches",
        -0.5,
        paper_value="drawn for every record",
        paper_source="authors' code",
    ),
    _claim(
        "blocks-beat-scattered",
        "To hide long stretches beats hiding as much in scattered tokens.",
        "scattered tokens",
        0.5,
        paper_value="stretches of at least 0.5 s, used throughout",
        paper_source="authors' configuration",
    ),
    _claim(
        "peaks-early",
        "The best of the encoders from before the end of training, chosen on validation records, beats the last one.",
        "at the last step",
        0.5,
        paper_value="best for a linear head after 10,000 of 100,000 steps",
        paper_source=NOTES,
    ),
    _claim(
        "peaks-before-loss",
        "The probe is best, on validation records, at an earlier step than the one where the loss is lowest.",
        "where the loss is lowest",
        10.0,
        "share of the training steps, %",
        "lower",
        paper_value="best for a linear head at 10 %; the loss falls to the end",
        paper_source=NOTES,
    ),
)


@dataclass(frozen=True)
class Config(ecg_world.Config):
    """The chapter's own: the mask sweep, what labels train, the rivals."""

    sweep_keep: tuple[float, ...] = (0.5, 0.1)  # beside `keep`
    sweep_blocks: tuple[int, ...] = (1, 6)  # hidden stretches, beside `num_blocks` and as many as tokens
    log_every: int = 60
    rival_lr: tuple[float, float] = (
        5e-3,
        5e-3,
    )  # of the masked auto-encoder, of SimCLR: the best of three on a pilot seed; `lr` is the better of two
    view: float = 0.5  # share of the record in each of SimCLR's two views
    temperature: float = 0.1
    augment: tuple[float, float] = (0.2, 0.1)  # spread of the leads' gains (log), of the noise (deviations)
    looks: int = 4  # encoders of the reference run that are probed, evenly over its steps
    label_steps: tuple[int, int, int] = (
        600,
        400,
        150,
    )  # head alone; all weights; second stage; the best of three looks at the validation records is kept
    label_lr: tuple[float, float, float] = (3e-2, 2e-3, 3e-3)  # of the same three
    crop: int = 5  # tokens: 2.5 s
    stride: int = 2  # tokens between crops of a test record: 1 s; paper: 1.25 s, which is no whole number of ours


def preset(name: str, **overrides) -> Config:
    """Config of a preset: smoke, laptop, gpu or paper, on the data that is present. Unknown names and overrides raise
    ValueError.
    """
    overrides = {"data": ecg_world.present(), **overrides}
    paper = Config(
        num_steps=100_000,
        batch_size=2048,
        lr=1e-3,
        rival_lr=(1e-3, 1e-3),
        ema_decay=(0.998, 0.9995),
        precision="bf16",
        rate=500,
        patch=25,
        width=384,
        depth=8,
        heads=6,
        predictor_width=192,
        predictor_depth=8,
        min_block=10,
        task="all",
        num_train=20_000,
        num_validation=2500,
        num_test=2500,
        log_every=1000,
        label_steps=(5000, 10_000, 5000),
        label_lr=(1e-3, 1e-3, 1e-4),
        crop=50,
        stride=25,
        looks=10,
    )
    return presets.choose(
        {
            "smoke": Config(
                num_steps=8,
                log_every=4,
                batch_size=16,
                width=32,
                depth=2,
                heads=2,
                predictor_width=16,
                predictor_depth=1,
                num_train=240,
                num_validation=100,
                num_test=100,
                label_steps=(3, 3, 3),
                looks=2,
            ),
            "laptop": Config(),
            # ViT-XS on PTB-XL, folds 1 to 8, the cheapest of the paper's own experiments, in 4 % of the steps and an
            # eighth of the batch
            "gpu": replace(
                paper,
                num_steps=4000,
                batch_size=256,
                rival_lr=(1e-3, 1e-3),
                width=192,
                heads=4,
                predictor_width=96,
                log_every=500,
                looks=4,
                ema_decay=(0.99, 0.9995),
                label_steps=(1000, 1000, 1000),
            ),
            # ViT-S; the ten public databases of the paper are folders of WFDB records: `data`
            "paper": paper,
        },
        name,
        overrides,
    )


# Objectives


def objective(model: train.JEPA, patches_BNP: Float[Tensor, "B N P"], masks: Masks) -> Float[Tensor, ""]:
    """ECG-JEPA section 3: L1 between prediction and target encoder's output, which ends in its own LayerNorm; no other."""
    with torch.no_grad():
        target_B1KD = gather_blocks(train.encode_all(model.target_encoder, patches_BNP), masks.target_idx)
    return losses.l1(model.predictor(model.encoder(patches_BNP, masks.context_idx), masks), target_B1KD)


def signal_objective(model: train.JEPA, patches_BNP: Float[Tensor, "B N P"], masks: Masks) -> Float[Tensor, ""]:
    """A masked auto-encoder (He et al. 2022) on the same tokens: the hidden signal itself, squared error."""
    pred_B1KP = model.predictor(model.encoder(patches_BNP, masks.context_idx), masks)
    return losses.l2(pred_B1KP, gather_blocks(patches_BNP, masks.target_idx))


def collapsing_objective(model: train.JEPA, patches_BNP: Float[Tensor, "B N P"], masks: Masks) -> Float[Tensor, ""]:
    """No EMA and no stop-gradient: one encoder chases itself."""
    target_B1KD = gather_blocks(model.encoder(patches_BNP), masks.target_idx)
    return losses.l1(model.predictor(model.encoder(patches_BNP, masks.context_idx), masks), target_B1KD)


def augmented(patches_BNP: Float[Tensor, "B N P"], spread: tuple[float, float]) -> Float[Tensor, "B N P"]:
    """Another gain for every lead of every record, and white noise; from torch's own generator."""
    x_BNLS = rearrange(patches_BNP, "b n (l s) -> b n l s", l=12)
    gain_BL = torch.exp(spread[0] * torch.randn(len(x_BNLS), 12, device=x_BNLS.device))
    x_BNLS = x_BNLS * gain_BL[:, None, :, None] + spread[1] * torch.randn_like(x_BNLS)
    return rearrange(x_BNLS, "b n l s -> b n (l s)")


def simclr_objective(
    model: train.JEPA,
    patches_BNP: Float[Tensor, "B N P"],
    views: Masks,
    spread: tuple[float, float],
    temperature: float,
) -> Float[Tensor, ""]:
    """SimCLR (Chen et al. 2020): two crops of a record, augmented, should be nearest among those of the batch.

    `views` names the tokens of the two crops; the projector stands in the predictor's place.
    """
    one_BD, two_BD = (
        model.predictor(model.encoder(augmented(patches_BNP, spread), idx_BC).mean(dim=1))
        for idx_BC in (views.context_idx, views.target_idx[:, 0])
    )
    return 0.5 * (losses.info_nce(one_BD, two_BD, temperature) + losses.info_nce(two_BD, one_BD, temperature))


def two_views(grid: tuple[int], batch_size: int, generator: torch.Generator, *, share: float) -> Masks:
    """Two stretches of the record, each drawn by itself; they may overlap."""
    size = max(1, round(share * grid[0]))
    start_B2 = torch.randint(grid[0] - size + 1, (batch_size, 2), generator=generator, device=generator.device)
    idx_B2C = start_B2[..., None] + torch.arange(size, device=generator.device)
    return Masks(idx_B2C[:, 0], idx_B2C[:, 1:], grid)


class Projector(nn.Module):
    """SimCLR's two-layer head; it is thrown away after training."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.apply(init_linear)

    def forward(self, pooled_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return self.layers(pooled_BD)


# Arms


def hidden(share: float) -> str:
    """The name of a run that hides this share of the record."""
    return f"{share:.0%} hidden"


def stretches(count: int) -> str:
    """The name of a run that hides the same share in this many stretches."""
    return f"{count} stretch{'es' if count > 1 else ''}"


def arms(cfg: Config, world: World) -> dict[str, Arm]:
    """The pre-training methods of the chapter at equal steps, each at the rate that did best; "ECG-JEPA" is the
    reference.
    """
    base, num_numbers = ecg_world.time_blocks(cfg, world.grid), len(world.train.signals[0]) * cfg.patch
    once = {"log_every": cfg.num_steps}
    contrast = partial(simclr_objective, spread=cfg.augment, temperature=cfg.temperature)
    return {
        "ECG-JEPA": Arm(base, objective, ecg_world.predictor),
        "masked auto-encoder": Arm(
            base, signal_objective, partial(ecg_world.predictor, out_dim=num_numbers), {"lr": cfg.rival_lr[0], **once}
        ),
        "SimCLR": Arm(
            partial(two_views, world.grid, share=cfg.view),
            contrast,
            lambda cfg, grid: Projector(cfg.width),
            {"lr": cfg.rival_lr[1], **once},
        ),
    }


def switches(cfg: Config, world: World) -> dict[str, Arm]:
    """Runs that each differ in one respect from "ECG-JEPA": how much is hidden, in how many stretches, what holds it
    together.
    """
    num_hidden = world.grid[0] - ecg_world.time_blocks(cfg, world.grid).keywords["num_context"]

    def arm(keep: float | None = None, objective=objective, changes: dict | None = None, **blocks) -> Arm:
        sampler = ecg_world.time_blocks(cfg, world.grid, keep, **blocks)
        return Arm(sampler, objective, ecg_world.predictor, {"log_every": cfg.num_steps, **(changes or {})})

    return {
        **{hidden(1 - keep): arm(keep) for keep in cfg.sweep_keep},
        **{stretches(count): arm(num_blocks=count) for count in cfg.sweep_blocks},
        "scattered tokens": arm(num_blocks=num_hidden, min_block=1),
        "no EMA, no stop-gradient": arm(objective=collapsing_objective, changes={"ema_decay": (0.0, 0.0)}),
    }


def looks(cfg: Config) -> list[int]:
    """The steps at which the reference run's target encoder is kept; the end is not among them."""
    return sorted({round(cfg.num_steps * i / cfg.looks) for i in range(1, cfg.looks)})


def lowest(history: dict[str, list[float]]) -> float:
    """The logged step at which the loss, the mean since the step logged before, is lowest."""
    return min(zip(history["loss"], history["step"]))[1]


# Labelled training


def classifier(cfg: Config, world: World, encoder: Encoder, seed: int, attentive: bool = False) -> finetune.Classifier:
    """An encoder with a fresh head: the register's linear map, or the attentive one."""
    num_labels = len(world.train.label_names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = (
            finetune.AttentiveHead(cfg.width, num_labels, cfg.heads)
            if attentive
            else finetune.RegisterHead(cfg.width, num_labels)
        )
    return finetune.Classifier(encoder, head)


def learn(
    cfg: Config, world: World, start: finetune.Classifier, idx: Int64[Tensor, " m"], seed: int, stage: str = "all"
) -> tuple[finetune.Classifier, Result]:
    """Train on the labels of the training records `idx`; the trained classifier and what it is worth on whole records.

    stage: "head" leaves the encoder frozen, "all" trains all weights, "second" does so at the lower rate of a second
    stage.
    """
    stages = ("head", "all", "second")
    if stage not in stages:
        raise ValueError(f"stage is one of {', '.join(stages)}, got {stage!r}")
    num_steps, lr = cfg.label_steps[stages.index(stage)], cfg.label_lr[stages.index(stage)]
    recipe = finetune.Recipe(num_steps, lr, frozen=stage == "head", crop=cfg.crop, stride=cfg.stride)
    idx, validation = idx.to(world.device), (world.validation.signals, world.validation.labels)
    trained, _ = finetune.fit(
        start, recipe, world.train.signals[idx], world.train.labels[idx], world.to_batch, validation, seed
    )
    logits = [
        finetune.predict(trained, part.signals, world.to_batch, cfg.crop, cfg.stride)
        for part in (world.validation, world.test)
    ]
    return trained, ecg_world.judge(world, *logits, seed)


def headless(cfg: Config, out: Path, **how) -> dict[str, Score]:
    """Train the reference arm with checkpoints in `out`, on the GPUs where there are some, then probe it.

    how: `seed`, `resume`, `micro_batches`.
    """
    world = ecg_world.world(cfg, distributed.start())
    return ecg_world.headless(cfg, world, arms(cfg, world)["ECG-JEPA"], out, **how)
