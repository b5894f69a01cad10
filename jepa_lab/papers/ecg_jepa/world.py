"""The world of the ECG chapter: records cut by patient, the masked JEPA that is trained in it, and its scores.

As in the paper's experiment on PTB-XL alone, all training records are seen without labels, and the same records' labels
train the probes: a known share of them. Validation chooses, test is scored once.
Shape letters: B batch, N tokens, P = 12 * patch numbers per token, D width, L labels, n m records, T samples, F
features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from jepa_lab import distributed, masks, train
from jepa_lab.data.ecg import records as ecg
from jepa_lab.data.ecg import simulator as ecg_simulator
from jepa_lab.encoders import Encoder
from jepa_lab.image_world import Arm
from jepa_lab.papers.ecg_jepa import hand_features as ecg_features
from jepa_lab.papers.ecg_jepa import multilabel
from jepa_lab.predictors import Predictor
from jepa_lab.probes.scores import Score

Embed = Callable[[Float[Tensor, "n 12 T"]], Float[Tensor, "n F"]]


@dataclass(frozen=True)
class Config(train.Config):
    """One small ECG-JEPA, its masks, its records and its labels; a paper's config adds its own fields."""

    num_steps: int = 720
    batch_size: int = 16  # on a pilot seed 1,000 steps of it were as good as 800 of 32, in 70 % of the time
    lr: float = 2e-3  # paper: 1e-3 at batch 2048
    weight_decay: tuple[float, float] = (0.01, 0.1)
    ema_decay: tuple[float, float] = (0.99, 0.9995)  # paper: from 0.998, in 100,000 steps
    betas: tuple[float, float] = (0.9, 0.99)
    rate: int = 100  # Hz; paper: 500
    seconds: float = 10.0
    patch: int = 50  # samples: 500 ms; paper: 25 at 500 Hz, 50 ms
    width: int = 64
    depth: int = 3
    heads: int = 4
    predictor_width: int = 32
    predictor_depth: int = 2
    keep: float = 0.2  # share of the tokens that the encoder sees; paper: drawn from 0.15 to 0.25 for every batch
    num_blocks: int = 3  # hidden stretches, which may touch; the paper draws their number: 2.7 separate ones on average
    min_block: int = 1  # tokens; paper: 5 % of the record, 0.5 s
    num_train: int = 4000  # records, at most; PTB-XL has 17,418 in folds 1 to 8
    num_validation: int = 500
    num_test: int = 1500
    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 1.0)  # of the training labels
    task: str = "superclass"  # PTB-XL's labels
    data: str = (
        "simulated"  # or "ptb-xl", or folders of WFDB records with commas between; part of what names a run's record
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep < 1:
            raise ValueError(f"keep is the share of the record that the encoder sees, between 0 and 1, got {self.keep}")
        if round(self.rate * self.seconds) % self.patch:
            raise ValueError(
                f"patches of {self.patch} samples do not tile {self.seconds:g} s at {self.rate} Hz; choose a divisor"
            )

    @property
    def num_tokens(self) -> int:
        return round(self.rate * self.seconds) // self.patch


# Data


@dataclass(frozen=True)
class World:
    """Training, validation and test records of different patients, and the training records' lead statistics."""

    train: ecg.ECGSet
    validation: ecg.ECGSet
    test: ecg.ECGSet
    stats: tuple[Tensor, Tensor]
    patch: int

    @property
    def grid(self) -> tuple[int]:
        return (self.train.signals.shape[-1] // self.patch,)

    @property
    def device(self) -> torch.device:
        return self.train.signals.device

    def to_batch(self, signals: Float[Tensor, "n 12 T"]) -> Float[Tensor, "n N P"]:
        """Millivolts to tokens: standardised per lead with the training records' constants, clipped at 5 deviations."""
        return ecg.patchify(ecg.normalise(signals, self.stats), self.patch)


def present() -> str:
    """The data that the presets name: PTB-XL where its records are in the cache, else simulated ones."""
    return "simulated" if ecg.ptb_xl_folder() is None else "ptb-xl"


def world(cfg: Config, device: torch.device | str = "cpu") -> World:
    """The records that `cfg.data` names, as many as the config asks for; the same for all seeds.

    Of PTB-XL, folds 1-8, 9 and 10. Folders of WFDB records are cut 8 : 1 : 1; their labels are the codes of their
    headers.
    """
    sizes = (cfg.num_train, cfg.num_validation, cfg.num_test)
    if cfg.data == "simulated":
        return cut(
            ecg.split(ecg_simulator.simulate(sum(sizes), seed=0, rate=cfg.rate, seconds=cfg.seconds), sizes),
            cfg,
            device,
        )
    if cfg.data != "ptb-xl":
        return cut(ecg.scorable(ecg.databases(cfg.data.split(","), cfg.rate, cfg.seconds, sizes)), cfg, device)
    records = ecg.ptb_xl(rate=cfg.rate, task=cfg.task)
    parts = [ecg.by_fold(records, folds) for folds in (range(1, 9), (9,), (10,))]
    return cut([ecg.split(part, (min(size, len(part)),))[0] for part, size in zip(parts, sizes)], cfg, device)


def cut(parts: Sequence[ecg.ECGSet], cfg: Config, device: torch.device | str = "cpu") -> World:
    """A world of three sets of records: to train on, to choose with, to score on. Statistics come from the first."""
    stats = ecg.lead_stats(parts[0].signals)
    parts = [replace(part, signals=part.signals.to(device), labels=part.labels.to(device)) for part in parts]
    return World(*parts, stats=tuple(stat.to(device) for stat in stats), patch=cfg.patch)


def labelled(cfg: Config, world: World, seed: int) -> dict[float, Int64[Tensor, " m"]]:
    """Indices of the training records whose labels are known, by share; nested, at least two with every label.

    A share that would be too few for that is raised to what is needed.
    """
    labels = world.train.labels.cpu()
    least = 2 * labels.shape[1]
    sizes = [min(len(labels), max(least, round(share * len(labels)))) for share in sorted(cfg.shares)]
    return dict(zip(sorted(cfg.shares), multilabel.few(labels, sizes, torch.Generator().manual_seed(seed))))


def described(world: World) -> str:
    """What the records are, where they come from, and what was left out."""
    data = world.train
    return (
        f"data: {data.name.split(' [')[0]} ({data.kind})\nfrom: {data.source}\nlabels: {', '.join(data.label_names)}\n"
        f"records: {len(data)} to train on, {len(world.validation)} to choose with, {len(world.test)} to score on\n"
        f"left out: {', '.join(f'{count} ({reason})' for reason, count in data.refused.items()) or 'none'}"
    )


# Models


def time_blocks(
    cfg: Config,
    grid: tuple[int],
    keep: float | None = None,
    num_blocks: int | None = None,
    min_block: int | None = None,
) -> train.Sampler:
    """Masks of the config, or with another share kept, number of hidden stretches or shortest stretch."""
    num_context = math.ceil((cfg.keep if keep is None else keep) * grid[0])
    return partial(
        masks.time_blocks,
        grid[0],
        num_context=num_context,
        num_blocks=num_blocks or cfg.num_blocks,
        min_block=min_block or cfg.min_block,
    )


def predictor(cfg: Config, grid: tuple[int], out_dim: int | None = None) -> Predictor:
    """The config's narrow transformer; `out_dim` other than the encoder's width where something else is predicted."""
    return Predictor(grid, cfg.width, cfg.predictor_width, cfg.predictor_depth, cfg.heads, out_dim or cfg.width)


def model(cfg: Config, grid: tuple[int], seed: int, predictor: Callable = predictor) -> train.JEPA:
    """A fresh model; the encoder has one register. Its start depends on the seed alone, so all arms of one seed share
    it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(grid, len(ecg.LEADS) * cfg.patch, cfg.width, cfg.depth, cfg.heads, num_registers=1)
        return train.JEPA(encoder, predictor(cfg, grid))


def train_arm(
    cfg: Config,
    world: World,
    arm: Arm,
    seed: int,
    checkpoint: Path | None = None,
    kept: dict[int, Encoder | None] | None = None,
    **how,
) -> train.Run:
    """Train one arm; `checkpoint` resumes an earlier run of the same settings.

    kept: steps as keys; each gets a copy of the target encoder as it was before that step. how: what else `train.fit`
    takes.
    """
    cfg = replace(cfg, **(arm.changes or {}))
    run = train.start(model(cfg, world.grid, seed, arm.predictor), seed, world.device)
    for group in run.optimizer.param_groups:
        group["betas"] = cfg.betas

    def sampler(batch_size: int, generator: torch.Generator) -> masks.Masks:  # `fit` calls it once before every step
        if kept is not None and run.step in kept:
            kept[run.step] = copy.deepcopy(run.model.target_encoder)
        return arm.sampler(batch_size, generator)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # augmentations
        return train.fit(
            run,
            cfg,
            world.train.signals,
            world.to_batch,
            sampler,
            arm.objective,
            watch=world.validation.signals[:300],
            checkpoint=checkpoint,
            **how,
        )


# Frozen features and their scores


@torch.no_grad()
def latents(
    encoder: Encoder, world: World, signals: Float[Tensor, "n 12 T"], idx_C: Int64[Tensor, " C"] | None = None
) -> tuple[Float[Tensor, "n R D"], Float[Tensor, "n C D"]]:
    """Latents of the register and of the tokens, of all or of the tokens `idx_C` alone, 50 records at a time."""
    parts = [world.to_batch(part) for part in signals.split(50)]  # what a core's caches hold
    found = [encoder.latents(part, None if idx_C is None else idx_C.expand(len(part), -1)) for part in parts]
    return torch.cat([registers for registers, _ in found]), torch.cat([tokens for _, tokens in found])


def pool(tokens_nND: Float[Tensor, "n N D"]) -> Float[Tensor, "n F"]:
    """Mean and standard deviation over a record's tokens, side by side."""
    return torch.cat([tokens_nND.mean(dim=1), tokens_nND.std(dim=1, correction=0)], dim=1)


def encoded(encoder: Encoder, world: World) -> Embed:
    """Features of an encoder: `pool` of its tokens."""
    return lambda signals: pool(latents(encoder, world, signals)[1])


def pooling(world: World, encoder: Encoder, idx: Int64[Tensor, " m"], seed: int = 0) -> dict[str, Result]:
    """Logistic probes of the register, of the mean of the tokens, and of their mean and deviation (`pool`)."""
    signals = {
        "labelled": world.train.signals[idx.to(world.device)],
        "validation": world.validation.signals,
        "test": world.test.signals,
    }
    found = {part: latents(encoder, world, of) for part, of in signals.items()}
    pools = {
        "register": lambda registers, tokens: registers[:, 0],
        "mean": lambda _, tokens: tokens.mean(dim=1),
        "mean and deviation": lambda _, tokens: pool(tokens),
    }
    return {
        name: score(world, {part: read(*both) for part, both in found.items()}, idx, seed)
        for name, read in pools.items()
    }


def controls(cfg: Config, world: World, seed: int) -> dict[str, Embed]:
    """What every trained arm has to beat: the same encoder untrained, and hand-made features of the raw signals."""
    untrained = model(cfg, world.grid, seed).target_encoder.to(world.device)
    hand = {name: partial(ecg_features.hand_made, rate=world.train.rate, name=name) for name in ecg_features.SETS}
    return {"random initialisation": encoded(untrained, world), **hand}


@dataclass(frozen=True)
class Result:
    """Macro-AUC on the validation records, for choosing, and on the test records, with its interval over patients."""

    validation: float
    test: Score


def features(world: World, embed: Embed, idx: Int64[Tensor, " m"]) -> dict[str, Float[Tensor, "n F"]]:
    """Frozen features of the training records `idx`, whose labels are known, and of validation and test records."""
    idx = idx.to(world.device)
    return {
        "labelled": embed(world.train.signals[idx]),
        "validation": embed(world.validation.signals),
        "test": embed(world.test.signals),
    }


def score(world: World, found: dict[str, Tensor], idx: Int64[Tensor, " m"], seed: int = 0) -> Result:
    """Logistic regression on frozen features; `idx` are those of `features` or the first of them.

    Raises ValueError where a label lacks positives.
    """
    generator = torch.Generator().manual_seed(seed)
    fit = multilabel.fit_labels(found["labelled"][: len(idx)], world.train.labels[idx.to(world.device)], generator)
    return judge(world, fit(found["validation"]), fit(found["test"]), seed)


def judge(world: World, validation: Float[Tensor, "m L"], test: Float[Tensor, "n L"], seed: int = 0) -> Result:
    """What logits of the validation and the test records are worth."""
    names, patients = world.test.label_names, world.test.patients.cpu()
    chosen = float(multilabel.macro_auc(validation, world.validation.labels, names))
    return Result(
        chosen, multilabel.auc_score(test, world.test.labels, torch.Generator().manual_seed(seed), patients, names)
    )


def headless(
    cfg: Config, world: World, arm: Arm, out: Path, seed: int = 0, resume: bool = False, **how
) -> dict[str, Score]:
    """Train one arm with checkpoints in `out`, then probe it; how: what else `train.fit` takes."""
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise ValueError(f"{checkpoint} exists: go on with --resume, or choose another --out")
    if distributed.rank() == 0:
        print(described(world), flush=True)
    run = train_arm(cfg, world, arm, seed, checkpoint=checkpoint, save_every=max(1, cfg.num_steps // 20), **how)
    everyone = torch.arange(len(world.train))
    return {
        "macro-AUC": score(
            world, features(world, encoded(run.model.target_encoder, world), everyone), everyone, seed
        ).test
    }
