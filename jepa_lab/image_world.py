"""Image data for JEPAs: images cut into patches, the reference I-JEPA's parts, and its scores.

A chapter names its arms (`arm`: who sees what, what is predicted, by which predictor); `experiment.train_arm` trains
each. Shape letters: B batch, N tokens, P pixels per patch, S pixels per side, D width, n m t e images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from jepa_lab import experiment, masks, train
from jepa_lab.checkpoints import TrainState
from jepa_lab.configs import Folders, added
from jepa_lab.data import images
from jepa_lab.encoders import Encoder
from jepa_lab.experiment import Arm
from jepa_lab.objectives import JEPA, jepa_objective
from jepa_lab.predictors import Predictor
from jepa_lab.probes import few_labels
from jepa_lab.probes.features import embed
from jepa_lab.probes.scores import Score
from jepa_lab.probes.summary import score_features
from jepa_lab.tasks import Objective, Sampler, TokenTask

FeatureFn = Callable[[UInt8[Tensor, "n N P"]], Float[Tensor, "n D"]]


@dataclass(frozen=True)
class Config(train.Config):
    """One small I-JEPA, its masks and its probes; a paper's config adds its own fields.

    Sizes in pixels, counts in images.
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
    # share of the grid; paper: 0.15 to 0.2, which no block of 4 x 4 tokens has
    target_scale: tuple[float, float] = (0.15, 0.25)
    target_aspect: tuple[float, float] = (0.75, 1.5)
    context_scale: tuple[float, float] = (0.85, 1.0)
    probe_train: int = 5000  # labelled images that the probes draw from, never used for training
    probe_test: int = 5000  # of the published test split
    predictor_heads: int | None = added(None)  # None: as wide as the encoder's heads
    folder: Annotated[str | None, Folders()] = added(None)  # ImageNet's layout, see `pictures`; None: Fashion-MNIST
    side: int = added(224)  # of the images in the folder


# Data


@dataclass(frozen=True)
class ImageData:
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
    """Fashion-MNIST cut into training images, labelled probe images and test images; all seeds share this cut."""
    everything, test = images.fashion_mnist("train"), images.fashion_mnist("test")
    num_probe, num_test = min(cfg.probe_train, len(everything) // 3), min(cfg.probe_test, len(test))
    unlabelled, probe = images.split(everything, (len(everything) - num_probe, num_probe), seed=0)
    return unlabelled, probe, images.split(test, (num_test,), seed=0)[0]


def centred(cfg: Config, device: str = "cpu") -> ImageData:
    """The published images: 28 px, every garment in the middle."""
    return cut("centred", garments(cfg), cfg.patch, device)


def load(cfg: Config, device: str = "cpu") -> ImageData:
    """The images that the config names: those of its folder, else the centred garments."""
    return centred(cfg, device) if cfg.folder is None else pictures(cfg, cfg.folder, cfg.side, device)


def cut(name: str, parts: tuple, patch: int, device: str) -> ImageData:
    """The data of three image sets of the same classes: to train on, to probe with, to test on."""
    if len({part.classes for part in parts}) > 1:
        raise images.DataError(f"these sets have different classes: {', '.join(part.name for part in parts)}")
    side = parts[0].images.shape[-1] // patch
    patches, probe, test = (images.patchify(part.images, patch).to(device) for part in parts)
    return ImageData(
        name,
        replace(parts[0].subset(torch.arange(0)), name=parts[0].name.split(" [")[0]),
        (side, side),
        patches,
        probe,
        parts[1].labels.to(device),
        test,
        parts[2].labels.to(device),
        images.pixel_stats(parts[0].images),
        parts[2].images[:64],
    )


def pictures(cfg: Config, folder: str, side: int, device: str = "cpu") -> ImageData:
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
    train_set = images.image_folder(Path(folder) / "train", side)
    test_set = images.image_folder(Path(folder) / "val", side, train_set.classes)
    images.warn_of_shared(train_set, test_set)
    num_probe = min(cfg.probe_train, len(train_set) // 3)
    probe_m, train_n = _shuffled(len(train_set)).split([num_probe, len(train_set) - num_probe])
    test_t = _shuffled(len(test_set))[: cfg.probe_test]
    patches = _decoded(train_set, train_n, cfg.patch)
    no_pixels, no_labels = torch.empty(0, side, side, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
    return ImageData(
        "pictures",
        images.ImageSet(no_pixels, no_labels, "image folder", folder, "", "real", train_set.classes),
        (side // cfg.patch,) * 2,
        patches.to(device),
        _decoded(train_set, probe_m, cfg.patch).to(device),
        train_set.labels[probe_m].to(device),
        _decoded(test_set, test_t, cfg.patch).to(device),
        test_set.labels[test_t].to(device),
        images.pixel_stats(patches[:10_000]),
        no_pixels,
    )


def _shuffled(count: int) -> Int64[Tensor, " n"]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def _decoded(folder: images.ImageFolder, idx: Int64[Tensor, " n"], patch: int) -> UInt8[Tensor, "n N P"]:
    """Images `idx` cut into patches, decoded by as many threads as there are processors."""
    if folder.size % patch:
        raise ValueError(f"patches of {patch} px do not tile images of {folder.size} px; choose a divisor")
    patches = torch.empty(len(idx), (folder.size // patch) ** 2, 3 * patch**2, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        for row, (image, _) in zip(patches, pool.map(folder.__getitem__, idx.tolist())):
            row[:] = rearrange(image, "(h p) (w q) c -> (h w) (p q c)", p=patch, q=patch)
    return patches


# The parts of an arm


def multi_block(cfg: Config, grid: tuple[int, int], num_targets: int) -> Sampler:
    """The corrected sampler at the config's scales, keeping the context that nine draws in ten can supply."""
    shapes = masks.block_shapes(grid, cfg.target_scale, cfg.target_aspect)
    num_context = masks.context_budget(grid, shapes, num_targets=num_targets, context_scale=cfg.context_scale)
    return partial(
        masks.multi_block,
        grid,
        num_targets=num_targets,
        target_shapes=shapes,
        context_scale=cfg.context_scale,
        num_context=num_context,
    )


def predictor(cfg: Config, grid: tuple[int, int], out_dim: int | None = None) -> Predictor:
    """The config's narrow transformer; `out_dim` other than the encoder's width where something else is predicted."""
    heads = cfg.predictor_heads or max(1, cfg.predictor_width // (cfg.width // cfg.heads))
    return Predictor(grid, cfg.width, cfg.predictor_width, cfg.predictor_depth, heads, out_dim or cfg.width)


MakePredictor = Callable[[Config, tuple[int, int]], nn.Module]


def build(cfg: Config, grid: tuple[int, int], patch_dim: int, predictor: MakePredictor = predictor) -> JEPA:
    """A fresh I-JEPA, drawn from torch's global generator: first the encoder, so that all arms of a seed share it."""
    encoder = Encoder(grid, patch_dim, cfg.width, cfg.depth, cfg.heads)
    return JEPA(encoder, predictor(cfg, grid))


def arm(
    name: str,
    data: ImageData,
    sampler: Sampler,
    objective: Objective = jepa_objective,
    predictor: MakePredictor = predictor,
    changes: Mapping[str, object] | None = None,
) -> Arm:
    """One way to train on image data: who sees what, what is predicted by which predictor, what differs in the config.

    The collapse panel watches the target encoder on 1,000 probe images.
    """
    return Arm(
        name,
        TokenTask(data.patches, data.to_batch, sampler),
        objective,
        partial(build, grid=data.grid, patch_dim=data.patches.shape[-1], predictor=predictor),
        changes or {},
        experiment.collapse_panel(data.probe[:1000], data.to_batch, sampler),
    )


def reference(cfg: Config, data: ImageData) -> Arm:
    """I-JEPA with the config's multi-block masks."""
    return arm("I-JEPA", data, multi_block(cfg, data.grid, cfg.num_targets))


# Scores


def score(data: ImageData, feature_fn: FeatureFn, seed: int) -> dict[str, Score]:
    """Linear probe, kNN and 10 labels per class of frozen features; each draws from the seed alone."""
    return score_features(*_labelled(data, feature_fn), seed)


def few_label(data: ImageData, feature_fn: FeatureFn, seed: int) -> Score:
    """10 labels per class alone, as in `score`, where many arms are compared: a third of the cost."""
    return few_labels.few_label(*_labelled(data, feature_fn), (10,), generator=_generator(data, seed))[10]


def _labelled(data: ImageData, feature_fn: FeatureFn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return feature_fn(data.probe), data.probe_labels, feature_fn(data.test), data.test_labels


def _generator(data: ImageData, seed: int) -> torch.Generator:
    return torch.Generator(data.probe.device).manual_seed(seed)


def score_copies(data: ImageData, model: nn.Module, seed: int, score: Callable = score) -> tuple:
    """Scores of the trained encoder and of its EMA copy; score: `score` or `few_label`."""
    return tuple(score(data, encoder_features(e, data), seed) for e in (model.encoder, model.target_encoder))


def past(study: Sequence[dict], kind: str, names: Iterable[str]) -> dict[str, list[float]]:
    """The study's values of the encoder, "kind: name, encoder", by name; of the EMA copy or control without those."""
    found = {}
    for name in names:
        probed = [r["values"].get(f"{kind}: {name}, encoder", r["values"].get(f"{kind}: {name}")) for r in study]
        found[name] = [value for value in probed if value is not None]
    return found


def panels(states: Mapping[str, TrainState]) -> dict[str, dict[str, tuple[list, list]]]:
    """Steps and values of the collapse panel, by arm and metric, for `figures.collapse_panel`."""
    shown = ("loss", "feature_std", "rankme", "lidar", "alpha_req", "cosine_to_mean")
    histories = {name: state.history for name, state in states.items()}
    return {name: {m: (history["step"], history[m]) for m in shown} for name, history in histories.items()}


def encoder_features(encoder: nn.Module, data: ImageData) -> FeatureFn:
    """The features of an encoder: the mean of its latents over the tokens."""
    return partial(embed, encoder, to_batch=data.to_batch)


def train_and_score(cfg: Config, data: ImageData, arm: Arm, out: Path, seed: int = 0, **how) -> dict[str, Score]:
    """Train an arm with checkpoints in `out`, then score its EMA copy; how: as `experiment.train_headless`."""
    state = experiment.train_headless(cfg, arm, out, seed, **how)
    return score(data, encoder_features(state.model.target_encoder, data), seed)


def controls(cfg: Config, data: ImageData, seed: int, pool: int = 1) -> dict[str, FeatureFn]:
    """What every trained arm has to beat: the same encoder untrained, and the pixels, averaged `pool` x `pool`."""
    untrained = experiment.fresh_model(cfg, reference(cfg, data), seed)
    return {
        "random initialisation": encoder_features(untrained.encoder.to(data.patches.device), data),
        "raw pixels": partial(pixels, data=data, pool=pool),
    }


def pixels(patches: UInt8[Tensor, "n N P"], data: ImageData, pool: int = 1) -> Float[Tensor, "n D"]:
    """The normalised pixels of an image as one row, averaged over squares of `pool` x `pool`."""
    side = round(patches.shape[-1] ** 0.5)
    blocks = rearrange(data.to_batch(patches), "n t (h w) -> n t h w", h=side)
    return reduce(blocks, "n t (h a) (w b) -> n (t h w)", "mean", a=pool, b=pool)
