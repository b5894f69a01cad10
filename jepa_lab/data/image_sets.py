"""A labelled set of images: splits, few labels, patches, pixel statistics.

Shape letters: N images, H x W pixels, T patches of P pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import einops
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from jepa_lab.data.sources.archives import DataError


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in memory. `sha256` is that of the image bytes as published, before any split."""

    images: UInt8[Tensor, "N H W"] | UInt8[Tensor, "N H W 3"]
    labels: Int64[Tensor, " L"]  # L = N, checked below
    name: str
    source: str
    sha256: str
    kind: str  # 'real' | 'generated' | 'simulated'
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim not in (3, 4):
            found = f"{self.images.dtype} of {tuple(self.images.shape)}"
            raise DataError(f"{self.name}: images must be uint8 of N x H x W (x 3), got {found}")
        if len(self.images) != len(self.labels):
            counts = f"{len(self.images)} images but {len(self.labels)} labels"
            raise DataError(f"{self.name}: {counts}; the files don't belong together")
        if not len(self.labels):
            return
        lowest, highest = int(self.labels.min()), int(self.labels.max())
        if lowest < 0 or highest >= len(self.classes):
            raise DataError(
                f"{self.name}: labels run from {lowest} to {highest}, but there are {len(self.classes)} classes; "
                "the label file is damaged or of another set"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, idx: Int64[Tensor, " n"], part: str = "subset") -> ImageSet:
        """The images at `idx`; `part` is added to the name."""
        return replace(self, images=self.images[idx], labels=self.labels[idx], name=f"{self.name} [{part}]")


def split(image_set: ImageSet, sizes: Sequence[int], seed: int = 0) -> tuple[ImageSet, ...]:
    """Disjoint parts of the given sizes, cut by one shuffle of `seed`; what is left over stays unused.

    `train, val = split(fashion_mnist("train"), (55_000, 5_000), seed=0)`. Raises `DataError` when the sizes don't fit.
    """
    if any(size < 0 for size in sizes) or sum(sizes) > len(image_set):
        raise DataError(f"cannot cut parts of {tuple(sizes)} from {len(image_set)} images")
    order = torch.randperm(len(image_set), generator=torch.Generator().manual_seed(seed))
    parts = order[: sum(sizes)].split(list(sizes))
    return tuple(image_set.subset(idx, f"part {k} of {len(sizes)}, seed {seed}") for k, idx in enumerate(parts))


def few_shot(labels: Int64[Tensor, " N"], per_class: int, generator: torch.Generator) -> Int64[Tensor, " n"]:
    """Indices of `per_class` random examples of every class that occurs, class by class.

    Raises `DataError` when a class has fewer.
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    picks = []
    for label in labels.unique():
        found = shuffled[labels[shuffled] == label]
        if not 1 <= per_class <= len(found):
            raise DataError(f"class {int(label)} has {len(found)} examples; cannot take {per_class} of each class")
        picks.append(found[:per_class])
    return torch.cat(picks)


def patchify(images: UInt8[Tensor, "N H W"], patch: int) -> UInt8[Tensor, "N T P"]:
    """T = (H/patch)(W/patch) patches of P = patch² pixels, row by row. `DataError` if it doesn't divide."""
    height, width = images.shape[-2:]
    if patch < 1 or height % patch or width % patch:
        raise DataError(f"patches of {patch} px don't tile images of {height} x {width} px; choose a common divisor")
    return einops.rearrange(images, "n (h p) (w q) -> n (h w) (p q)", p=patch, q=patch)


def pixel_stats(images: UInt8[Tensor, "*shape"]) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, as fractions of 255. Take them from training images only."""
    counts = torch.bincount(images.flatten(), minlength=256).double()
    grey = torch.arange(256, dtype=torch.double) / 255
    mean = (counts @ grey / counts.sum()).item()
    return mean, (counts @ (grey - mean) ** 2 / counts.sum()).sqrt().item()


def normalise(images: UInt8[Tensor, "*shape"], stats: tuple[float, float]) -> Float[Tensor, "*shape"]:
    """(pixel/255 - mean) / std, in float32, with `stats` from `pixel_stats`."""
    mean, std = stats
    if not std > 0:
        raise DataError(f"cannot normalise by a standard deviation of {std}; are all pixels equal?")
    return (images.float() - 255 * mean) / (255 * std)
