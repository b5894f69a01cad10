"""Small worlds for image JEPAs: images cut into patches, the reference I-JEPA that is trained in them, and its scores.

A chapter names its arms (`Arm`: who sees what, what is predicted, by which predictor) and trains each with `train_arm`.
Shape letters: B batch, N tokens, P pixels per patch, S pixels per side, D width, n m t e images.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from jepa_lab import masks, train
from jepa_lab.data import images
from jepa_lab.encoders import Encoder
from jepa_lab.predictors import Predictor
from jepa_lab.probes import linear as probes
from jepa_lab.probes.scores import Score

Embed = Callable[[UInt8[Tensor, "n N P"]], Float[Tensor, "n D"]]


@dataclass(frozen=True)
class Config(train.Config):
    """One small I-JEPA, its masks and its probes; a paper's config adds its own fields. Sizes in pixels, counts in
    images.
    """

    batch_size: int = 32  # at equal time more, smaller steps did better on held-out training images
    precision: str = "bf16"
    patch: int = 7  # 4 x 4 tokens of a 28 px garment
    width: int = 64
    depth: int = 3
    heads: int = 2
    predictor_width: int = 64
    predictor_depth: int = 2
    num_targets: int = 2  # paper: 4, which on 4 x 4 tokens would leave 4 of them as context
    target_scale: tuple[float, float] = (
        0.15,
        0.25,
    )  # share of the grid; paper: 0.15 to 0.2, which no block of 4 x 4 has
    target_aspect: tuple[float, float] = (0.75, 1.5)
    context_scale: tuple[float, float] = (0.85, 1.0)
    probe_train: int = 5000  # labelled images that the probes draw from, never used for training
    probe_test: int = 5000  # of the published test split


# Data


@dataclass(frozen=True)
class World:
    """Images cut into patches: unlabelled ones to train on, labelled ones to probe with, the test split to score on."""

    name: str
    source: images.ImageSet | images.CanvasSet  # where the images came from, without their pixels
    grid: tuple[int, int]
    patches: UInt8[Tensor, "n N P"]
    probe: UInt8[Tensor, "m N P"]
    probe_labels: Int64[Tensor, " m"]
    test: UInt8[Tensor, "t N P"]
    test_labels: Int64[Tensor, " t"]
    stats: tuple[float, float]  # mean and deviation of the training pixels
    example: UInt8[Tensor, "e S S"]

    def to_batch(self, patches: UInt8[Tensor, "n N P"]) -> Float[Tensor, "n N P"]:
        return images.normalise(patches, self.stats)


def garments(cfg: Config) -> tuple[images.ImageSet, images.ImageSet, images.ImageSet]:
    """Fashion-MNIST cut into training images, labelled probe images and test images; the cut is the same for all seeds."""
    everything, test = images.fashion_mnist("train"), images.fashion_mnist("test")
    num_probe, num_test = min(cfg.probe_train, len(everything) // 3), min(cfg.probe_test, len(test))
    unlabelled, probe = images.split(everything, (len(everything) - num_probe, num_probe), seed=0)
    return unlabelled, probe, images.split(test, (num_test,), seed=0)[0]


def centred(cfg: Config, device: str = "cpu") -> World:
    """The published images: 28 px, every garment in the middle."""
    return cut("centred", garments(cfg), cfg.patch, device)


def pictures(cfg: Config, folder: str, side: int, device: str = "cpu") -> World:
    """Colour images on disk, in ImageNet's layout: `folder/train/<class>/*.jpg` to train on and to probe with,
    `folder/val` to score on.

    Their middle squares are decoded once, without the random crops of the published recipe, and stay in the memory of
    the device: 151 KB an image of 224 px, so a GPU of 80 GB holds 100 classes of ImageNet beside a ViT, not 1,000.
    Raises ValueError (`DataError`) where the folder is not given or holds no such images.
    """
    if not folder:
        raise ValueError(
            "this preset trains on images in a folder: give -p folder=/data/imagenet, which holds train/ and val/"
        )
    train_set, test_set = (images.image_folder(Path(folder) / part, side) for part in ("train", "val"))
    orders = [torch.randperm(len(part), generator=torch.Generator().manual_seed(0)) for part in (train_set, test_set)]
    probe_m, train_n = orders[0].split([num := min(cfg.probe_train, len(train_set) // 3), len(train_set) - num])
    test_t = orders[1][: cfg.probe_test]
    patches, probe, test = (
        _decoded(of, idx, cfg.patch) for of, idx in ((train_set, train_n), (train_set, probe_m), (test_set, test_t))
    )
    stats = images.pixel_stats(patches[:10_000])
    nothing = torch.empty(0, side, side, dtype=torch.uint8)
    head = images.ImageSet(
        nothing, torch.empty(0, dtype=torch.int64), "image folder", folder, "", "real", train_set.classes
    )
    labels = train_set.labels[probe_m].to(device), test_set.labels[test_t].to(device)
    return World(
        "pictures",
        head,
        (side // cfg.patch,) * 2,
        patches.to(device),
        probe.to(device),
        labels[0],
        test.to(device),
        labels[1],
        stats,
        nothing,
    )


def _decoded(folder: images.ImageFolder, idx: Int64[Tensor, " n"], patch: int) -> UInt8[Tensor, "n N P"]:
    """Images `idx` cut into patches, decoded by as many threads as there are processors."""
    if folder.size % patch:
        raise ValueError(f"patches of {patch} px do not tile images of {folder.size} px; choose a divisor")
    patches = torch.empty(len(idx), (folder.size // patch) ** 2, 3 * patch**2, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        for row, (image, _) in zip(patches, pool.map(folder.__getitem__, idx.tolist())):
            row[:] = rearrange(image, "(h p) (w q) c -> (h w) (p q c)", p=patch, q=patch)
    return patches


def cut(name: str, parts: tuple, patch: int, device: str) -> World:
    """A world of three image sets: to train on, to probe with, to test on."""
    side = parts[0].images.shape[-1] // patch
    patches = [images.patchify(part.images, patch).to(device) for part in parts]
    labels = [part.labels.to(device) for part in parts]
    stats = images.pixel_stats(parts[0].images)
    head = replace(parts[0].subset(torch.arange(0)), name=parts[0].name.split(" [")[0])
    return World(
        name, head, (side, side), patches[0], patches[1], labels[1], patches[2], labels[2], stats, parts[2].images[:64]
    )


# Models


def multi_block(cfg: Config, grid: tuple[int, int], num_targets: int) -> train.Sampler:
    """The corrected sampler at the config's scales, keeping the context that nine draws in ten can supply."""
    shapes = masks.block_shapes(grid, cfg.target_scale, cfg.target_aspect)
    kept = masks.context_budget(grid, shapes, num_targets=num_targets, context_scale=cfg.context_scale)
    return partial(
        masks.multi_block,
        grid,
        num_targets=num_targets,
        target_shapes=shapes,
        context_scale=cfg.context_scale,
        num_context=kept,
    )


def predictor(cfg: Config, grid: tuple[int, int], out_dim: int | None = None) -> Predictor:
    """The config's narrow transformer; `out_dim` other than the encoder's width where something else is predicted."""
    heads = max(1, cfg.predictor_width // (cfg.width // cfg.heads))
    return Predictor(grid, cfg.width, cfg.predictor_width, cfg.predictor_depth, heads, out_dim or cfg.width)


@dataclass(frozen=True)
class Arm:
    """One way to train: who sees what, what is predicted and by which predictor, and what differs in the config."""

    sampler: train.Sampler
    objective: train.Objective = train.jepa_objective
    predictor: Callable[[Config, tuple[int, int]], nn.Module] = predictor
    changes: dict | None = None


def model(cfg: Config, grid: tuple[int, int], patch_dim: int, seed: int, predictor: Callable = predictor) -> train.JEPA:
    """A fresh I-JEPA. The encoder's start depends on the seed alone, so all arms of one seed share it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(grid, patch_dim, cfg.width, cfg.depth, cfg.heads)
        return train.JEPA(encoder, predictor(cfg, grid))


def train_arm(cfg: Config, world: World, arm: Arm, seed: int, checkpoint: Path | None = None, **how) -> train.Run:
    """Train one arm on a world; `checkpoint` resumes where an earlier run of the same settings was cut off.

    how: what else `train.fit` takes, such as `progress`, `save_every` and `micro_batches`.
    """
    cfg = replace(cfg, **(arm.changes or {}))
    device = world.patches.device
    run = train.start(model(cfg, world.grid, world.patches.shape[-1], seed, arm.predictor), seed, device)
    return train.fit(
        run,
        cfg,
        world.patches,
        world.to_batch,
        arm.sampler,
        arm.objective,
        watch=world.probe[:1000],
        checkpoint=checkpoint,
        **how,
    )


# Scores


def score(world: World, embed: Embed, seed: int) -> dict[str, Score]:
    """Linear probe, kNN and 10 labels per class of frozen features; draws depend on the seed alone."""
    generator = torch.Generator(world.probe.device).manual_seed(seed)
    return probes.score_features(
        embed(world.probe), world.probe_labels, embed(world.test), world.test_labels, generator
    )


def few_label(world: World, embed: Embed, seed: int) -> Score:
    """10 labels per class alone, where many arms are compared: a third of the cost of `score`."""
    generator = torch.Generator(world.probe.device).manual_seed(seed)
    return probes.few_label(
        embed(world.probe), world.probe_labels, embed(world.test), world.test_labels, (10,), generator=generator
    )[10]


def encoded(encoder: Encoder, world: World) -> Embed:
    """Features of an encoder: the mean of its latents."""
    return lambda patches: train.embed(encoder, patches, world.to_batch)


def controls(cfg: Config, world: World, seed: int, pool: int = 1) -> dict[str, Embed]:
    """What every trained arm has to beat: the same encoder untrained, and the pixels themselves, averaged `pool` x
    `pool`.
    """
    untrained = model(cfg, world.grid, world.patches.shape[-1], seed).encoder.to(world.patches.device)
    side = round(world.patches.shape[-1] ** 0.5)

    def pixels(patches: Tensor) -> Tensor:
        blocks = rearrange(world.to_batch(patches), "n t (h w) -> n t h w", h=side)
        return reduce(blocks, "n t (h a) (w b) -> n (t h w)", "mean", a=pool, b=pool)

    return {"random initialisation": encoded(untrained, world), "raw pixels": pixels}


def headless(
    cfg: Config, world: World, arm: Arm, out: Path, seed: int = 0, resume: bool = False, **how
) -> dict[str, Score]:
    """Train one arm with checkpoints in `out`, then probe it; how: what else `train.fit` takes."""
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists() and not resume:
        raise ValueError(f"{checkpoint} exists: go on with --resume, or choose another --out")
    run = train_arm(cfg, world, arm, seed, checkpoint=checkpoint, save_every=max(1, cfg.num_steps // 20), **how)
    return score(world, encoded(run.model.target_encoder, world), seed)
