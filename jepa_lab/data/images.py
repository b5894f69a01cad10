"""Images: Fashion-MNIST, digits, image folders; fixed splits, few labels, patches, and the cluttered canvases.

Shape letters: N images, H x W pixels, T patches of P pixels, S canvas side, F fragments per canvas.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import einops
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from jepa_lab.data import canvases as scenes
from jepa_lab.data.sources.archives import DataError
from jepa_lab.data.sources.fetch import DATASETS, locate, origin

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_PREFIX = {"train": "train", "test": "t10k"}
DIGITS_TRAIN = (
    1500  # of 1,797, in the order of the set: neighbours come from the same writer, so no shuffling before the cut
)


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in memory. `sha256` is that of the image bytes as published, before any split."""

    images: UInt8[Tensor, "N H W"] | UInt8[Tensor, "N H W 3"]
    labels: Int64[Tensor, " L"]  # L = N, checked below in words
    name: str
    source: str
    sha256: str
    kind: str  # 'real' | 'generated' | 'simulated'
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim not in (3, 4):
            raise DataError(
                f"{self.name}: images must be uint8 of N x H x W (x 3), got {self.images.dtype} "
                f"of {tuple(self.images.shape)}"
            )
        if len(self.images) != len(self.labels):
            raise DataError(
                f"{self.name}: {len(self.images)} images but {len(self.labels)} labels; the files don't belong together"
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise DataError(
                f"{self.name}: labels run from {int(self.labels.min())} to {int(self.labels.max())}, but there are "
                f"{len(self.classes)} classes; the label file is damaged or of another set"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, idx: Int64[Tensor, " n"], part: str = "subset") -> ImageSet:
        """The images at `idx`; `part` is added to the name."""
        return replace(self, images=self.images[idx], labels=self.labels[idx], name=f"{self.name} [{part}]")


def read_idx(path: Path) -> UInt8[Tensor, "..."]:
    """Parse an unsigned-byte idx file (the MNIST format): 2 zero bytes, type 8, number of axes, big-endian lengths,
    bytes.

    Nothing is allocated on the word of the header: the lengths must multiply to exactly the bytes that follow.
    Raises `DataError` for an empty, truncated, overlong or mislabelled file.
    """
    data = Path(path).read_bytes()
    advice = f"; remove {path} and fetch it again"
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise DataError(
            f"{path} is {'empty' if not data else 'not an unsigned-byte idx file'} "
            f"(it starts with {data[:4].hex(' ') or 'nothing'}){advice}"
        )
    ndim, start = data[3], 4 + 4 * data[3]
    if not 1 <= ndim <= 4 or len(data) < start:
        raise DataError(f"{path} has a broken idx header ({ndim} axes in {len(data)} bytes){advice}")
    shape = struct.unpack(f">{ndim}I", data[4:start])
    count = 1
    for length in shape:
        count *= length
    if count == 0 or count != len(data) - start:
        raise DataError(
            f"{path} says {' x '.join(map(str, shape))} = {count} bytes but holds {len(data) - start}{advice}"
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def fashion_mnist(split: str = "train", root: str | Path | None = None) -> ImageSet:
    """Fashion-MNIST (Xiao et al. 2017), the published split: 'train' 60,000 or 'test' 10,000 grey 28x28 images, 10
    classes.

    Fetches it on first use. Where it can't be had, this is the digits of scikit-learn under their own name (see
    `jepa_lab.data.sources.fetch`); look at `.name`. Raises `DataError`.
    """
    if split not in FASHION_PREFIX:
        raise DataError(
            f"Fashion-MNIST has the splits 'train' and 'test', not {split!r}; cut validation data with `split`"
        )
    spec = DATASETS["fashion-mnist"]
    files = {file.name: file for file in spec.files if file.name.startswith(FASHION_PREFIX[split])}
    folder = locate("fashion-mnist", root=root)
    note = origin(folder)
    if note.get("fallback"):
        return replace(digits(split), name=f"{spec.fallback} [{split}]")
    images, labels = (read_idx(folder / name) for name in files)
    if images.ndim != 3 or labels.ndim != 1:
        raise DataError(
            f"{folder}: expected images and labels, got {images.ndim} and {labels.ndim} axes; remove it and fetch again"
        )
    return ImageSet(
        images,
        labels.long(),
        f"Fashion-MNIST [{split}]",
        note.get("source", f"local copy in {folder}"),
        next(iter(files.values())).sha256,
        "real",
        FASHION_CLASSES,
    )


def digits(split: str = "train") -> ImageSet:
    """The 1,797 hand-written digits that scikit-learn carries (8x8), upscaled to 28x28: the first 1,500 or the last
    297.
    """
    if split not in ("train", "test"):
        raise DataError(f"digits has the splits 'train' and 'test', not {split!r}")
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    small_N1HW = torch.from_numpy(small.astype(np.float32).reshape(-1, 1, 8, 8))
    large_N1HW = torch.nn.functional.interpolate(small_N1HW, size=28, mode="bilinear", align_corners=False)
    images = (large_N1HW[:, 0] * (255 / 16)).round().to(torch.uint8)
    keep = slice(0, DIGITS_TRAIN) if split == "train" else slice(DIGITS_TRAIN, None)
    return ImageSet(
        images[keep],
        torch.from_numpy(labels).long()[keep],
        f"digits (scikit-learn) [{split}]",
        "scikit-learn load_digits, 8x8 upscaled to 28x28",
        hashlib.sha256(small.astype(np.uint8).tobytes()).hexdigest(),
        "real",
        tuple(str(digit) for digit in range(10)),
    )


def split(image_set: ImageSet, sizes: Sequence[int], seed: int = 0) -> tuple[ImageSet, ...]:
    """Cut disjoint parts of the given sizes from one set, by one shuffle of `seed`; what is left over stays unused.

    `train, val = split(fashion_mnist("train"), (55_000, 5_000), seed=0)`. Raises `DataError` when the sizes don't fit.
    """
    if any(size < 0 for size in sizes) or sum(sizes) > len(image_set):
        raise DataError(f"cannot cut parts of {tuple(sizes)} from {len(image_set)} images")
    order = torch.randperm(len(image_set), generator=torch.Generator().manual_seed(seed))
    parts = order[: sum(sizes)].split(list(sizes))
    return tuple(image_set.subset(idx, f"part {k} of {len(sizes)}, seed {seed}") for k, idx in enumerate(parts))


def few_shot(labels: Int64[Tensor, " N"], per_class: int, generator: torch.Generator) -> Int64[Tensor, " n"]:
    """Indices of `per_class` random examples of every class that occurs, class by class. `DataError` if one has fewer."""
    shuffled = torch.randperm(len(labels), generator=generator)
    picks = []
    for label in labels.unique():
        found = shuffled[labels[shuffled] == label]
        if not 1 <= per_class <= len(found):
            raise DataError(f"class {int(label)} has {len(found)} examples; cannot take {per_class} of each class")
        picks.append(found[:per_class])
    return torch.cat(picks)


def patchify(images: UInt8[Tensor, "N H W"], patch: int) -> UInt8[Tensor, "N T P"]:
    """Cut images into T = (H/patch)(W/patch) patches of P = patch² pixels, row by row. `DataError` if it doesn't
    divide.
    """
    height, width = images.shape[-2:]
    if patch < 1 or height % patch or width % patch:
        raise DataError(f"patches of {patch} px don't tile images of {height} x {width} px; choose a common divisor")
    return einops.rearrange(images, "n (h p) (w q) -> n (h w) (p q)", p=patch, q=patch)


def pixel_stats(images: UInt8[Tensor, "..."]) -> tuple[float, float]:
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


@dataclass(frozen=True)
class ImageFolder:
    """Images on disk, one folder per class (ImageNet's layout), decoded when asked for: a map-style dataset for a
    DataLoader.
    """

    paths: tuple[Path, ...]
    labels: Int64[Tensor, " N"]
    classes: tuple[str, ...]
    size: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[UInt8[Tensor, "size size 3"], int]:
        """RGB image i: its shorter side brought to `size` px, the middle square. `DataError` names a file that can't be
        read.
        """
        from PIL import Image, ImageOps

        try:
            with Image.open(self.paths[i]) as image:
                image.draft("RGB", (self.size, self.size))  # JPEG: decode no larger than needed
                square = ImageOps.fit(image.convert("RGB"), (self.size, self.size), Image.Resampling.BICUBIC)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"{self.paths[i]} is damaged or not an image ({error}); replace or remove it") from error
        return torch.from_numpy(np.array(square)), int(self.labels[i])


def image_folder(path: str | Path, size: int = 224) -> ImageFolder:
    """List `path/<class>/*.{png,jpg,jpeg,webp,bmp}`: classes in the order of their names, as ImageNet's own tools have
    them.

    Links out of `path` aren't followed. Raises `DataError`: no such folder, no classes, a class without images.
    """
    root, suffixes = Path(path).resolve(), {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []
    if not folders:
        raise DataError(f"{path} holds no class folders; expected {path}/<class>/<image>.jpg")
    paths, labels = [], []
    for label, folder in enumerate(folders):
        found = sorted(
            file
            for file in folder.rglob("*")
            if file.suffix.lower() in suffixes and file.resolve().is_relative_to(root)
        )
        if not found:
            raise DataError(
                f"the class folder {folder} holds no images ({', '.join(sorted(suffixes))}); fill or remove it"
            )
        paths += found
        labels += [label] * len(found)
    return ImageFolder(tuple(paths), torch.tensor(labels), tuple(folder.name for folder in folders), size)


def write_image_folder(image_set: ImageSet, path: str | Path) -> Path:
    """Write a set as `path/<label>-<class>/<index>.png`, so that `image_folder` gives it the same labels. Returns the
    path.
    """
    from PIL import Image

    for i, (image, label) in enumerate(zip(image_set.images, image_set.labels.tolist(), strict=True)):
        name = "".join(c if c.isalnum() else "-" for c in image_set.classes[label])
        folder = Path(path) / f"{label:04d}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(folder / f"{i:07d}.png")
    return Path(path)


@dataclass(frozen=True)
class CanvasSet:
    """Objects on cluttered canvases. `masks` and `boxes` (top, left, bottom, right; the last two exclusive) are exact."""

    images: UInt8[Tensor, "N S S"]
    labels: Int64[Tensor, " N"]
    masks: Bool[Tensor, "N S S"]
    boxes: Int64[Tensor, "N 4"]
    scales: Float[Tensor, " N"]  # canvas pixels per source pixel
    name: str
    source: str
    sha256: str  # of the source images
    kind: str
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, idx: Int64[Tensor, " n"], part: str = "subset") -> CanvasSet:
        """The canvases at `idx`; `part` is added to the name."""
        fields = {key: getattr(self, key)[idx] for key in ("images", "labels", "masks", "boxes", "scales")}
        return replace(self, name=f"{self.name} [{part}]", **fields)


def cluttered(
    image_set: ImageSet,
    canvas: int = 48,
    scale: tuple[float, float] = (0.6, 1.2),
    clutter: int = 4,
    *,
    generator: torch.Generator,
    distractors: ImageSet | None = None,
    chunk: int = 500,
) -> CanvasSet:
    """Put every image once, at a random place and scale, on a canvas of uneven light and `clutter` fragments of other
    images.

    The order is kept: canvas i shows image i. Object, fragments and light have their own random contrast. At least 80 %
    of
    every object is on its canvas; where its mask is 0 it contributes nothing. Fragments are 12 px squares of images of
    `distractors` (default: other images of the same set). All randomness is drawn before painting, so `chunk` (canvases
    at a
    time) sets the memory and nothing else. Raises `DataError`: empty image, colour images, object larger than the
    canvas.
    """
    _check_scene(image_set, distractors or image_set, canvas, scale, clutter)
    images, others = image_set.images, (distractors or image_set).images
    objects = scenes.draw_objects(len(images), scale, generator)
    scenery = scenes.draw_scenery(len(images), canvas, clutter, others, generator)
    if distractors is None:  # never a piece of oneself: the draw is a step from image i to another one
        step_NF = scenery["which"] % (len(images) - 1) + 1
        scenery["which"] = (torch.arange(len(images))[:, None] + step_NF) % len(images)
    painted = torch.empty(len(images), canvas, canvas, dtype=torch.uint8)
    masks = torch.empty(painted.shape, dtype=torch.bool)
    for first in range(0, len(images), chunk):
        part = slice(first, first + chunk)
        scene_NSS = scenes.paint_scenery({key: value[part] for key, value in scenery.items()}, others, canvas)
        here = {key: value[part] for key, value in objects.items()}
        scene_NSS, masks[part] = scenes.paint_objects(scene_NSS, images[part], here)
        painted[part] = (255 * scene_NSS).round().to(torch.uint8)
    if not bool((seen := masks.flatten(1).any(1)).all()):
        raise DataError(f"{image_set.name}: image {int((~seen).nonzero()[0])} is empty; leave it out")
    return CanvasSet(
        painted,
        image_set.labels,
        masks,
        scenes.boxes(masks),
        objects["scale"],
        f"cluttered {image_set.name}, {canvas} px",
        image_set.source,
        image_set.sha256,
        "generated",
        image_set.classes,
    )


def object_crops(canvases: CanvasSet, size: int = 28) -> UInt8[Tensor, "N size size"]:
    """Cut out each object by its exact box, made square, and bring it to `size` px: what a perfect finder would see."""
    top, left, bottom, right = canvases.boxes.float().unbind(1)
    zoom, side = size / torch.maximum(bottom - top, right - left), canvases.images.shape[-1]
    rows, columns = (
        scenes.sampling(size / 2 - zoom * (low + high) / 2, zoom, side, size)
        for low, high in ((top, bottom), (left, right))
    )
    cut = rows @ canvases.images.float() @ einops.rearrange(columns, "n s q -> n q s")
    return cut.round().clamp(0, 255).to(torch.uint8)


def _check_scene(image_set: ImageSet, others: ImageSet, canvas: int, scale: tuple[float, float], clutter: int) -> None:
    side = image_set.images.shape[-1]
    for images in (image_set, others):
        if (
            images.images.ndim != 3
            or images.images.shape[1] != images.images.shape[2]
            or images.images.shape[1] < scenes.MIN_SIDE
        ):
            raise DataError(
                f"cluttered canvases need square grey images of at least {scenes.MIN_SIDE} px; {images.name} "
                f"has {tuple(images.images.shape[1:])}"
            )
    if not 0 < scale[0] <= scale[1] or scale[1] * side > canvas:
        raise DataError(
            f"scales {scale} of {side} px images don't fit a canvas of {canvas} px; at most {canvas / side:.2f}"
        )
    if clutter < 0 or len(others) < 2:
        raise DataError(
            f"clutter must be 0 or more (got {clutter}) and be cut from at least 2 images (got {len(others)})"
        )
