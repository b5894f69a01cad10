"""Images from files: Fashion-MNIST, the digits of scikit-learn, idx files, folders of images.

Shape letters: N images, H x W pixels.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from jepa_lab.data.image_sets import ImageSet
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
# Of 1,797, in the order of the set: neighbours come from the same writer, so nothing is shuffled before the cut.
DIGITS_TRAIN = 1500
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def read_idx(path: Path) -> UInt8[Tensor, ...]:
    """The array of an unsigned-byte idx file (the MNIST format).

    The format: 2 zero bytes, type 8, number of axes, big-endian lengths, bytes. The lengths must multiply to exactly
    the number of bytes that follow; a header cannot make us allocate more.
    Raises `DataError` for an empty, truncated, overlong or mislabelled file.
    """
    data = Path(path).read_bytes()
    advice = f"; remove {path} and fetch it again"
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        fault = "not an unsigned-byte idx file" if data else "empty"
        raise DataError(f"{path} is {fault} (it starts with {data[:4].hex(' ') or 'nothing'}){advice}")
    ndim, start = data[3], 4 + 4 * data[3]
    if not 1 <= ndim <= 4 or len(data) < start:
        raise DataError(f"{path} has a broken idx header ({ndim} axes in {len(data)} bytes){advice}")
    shape = struct.unpack(f">{ndim}I", data[4:start])
    count = math.prod(shape)
    if count == 0 or count != len(data) - start:
        stated = f"{' x '.join(map(str, shape))} = {count} bytes"
        raise DataError(f"{path} says {stated} but holds {len(data) - start}{advice}")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def fashion_mnist(split: str = "train", root: str | Path | None = None) -> ImageSet:
    """Fashion-MNIST (Xiao et al. 2017), grey 28x28 images of 10 classes: 'train' has 60,000, 'test' 10,000.

    The set is fetched on first use. Where no source answers, the digits of scikit-learn are returned under their own
    `.name` (see `jepa_lab.data.sources.fetch`). Raises `DataError`.
    """
    if split not in FASHION_PREFIX:
        raise DataError(
            f"Fashion-MNIST has the splits 'train' and 'test', not {split!r}; cut validation data with `split`"
        )
    data_set = DATASETS["fashion-mnist"]
    files = [file for file in data_set.files if file.name.startswith(FASHION_PREFIX[split])]
    folder = locate("fashion-mnist", root=root)
    note = origin(folder)
    if note.get("fallback"):
        return replace(digits(split), name=f"{data_set.fallback} [{split}]")
    images, labels = (read_idx(folder / file.name) for file in files)
    if images.ndim != 3 or labels.ndim != 1:
        found = f"{images.ndim} and {labels.ndim} axes"
        raise DataError(f"{folder}: expected images and labels, got {found}; remove it and fetch again")
    return ImageSet(
        images=images,
        labels=labels.long(),
        name=f"Fashion-MNIST [{split}]",
        source=note.get("source", f"local copy in {folder}"),
        sha256=files[0].sha256,
        kind="real",
        classes=FASHION_CLASSES,
    )


def digits(split: str = "train") -> ImageSet:
    """The 1,797 digits of scikit-learn (8x8), upscaled to 28x28: 'train' has the first 1,500, 'test' the rest."""
    if split not in ("train", "test"):
        raise DataError(f"digits has the splits 'train' and 'test', not {split!r}")
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    small_N1HW = torch.from_numpy(small.astype(np.float32).reshape(-1, 1, 8, 8))
    large_N1HW = torch.nn.functional.interpolate(small_N1HW, size=28, mode="bilinear", align_corners=False)
    images = (large_N1HW[:, 0] * (255 / 16)).round().to(torch.uint8)
    keep = slice(0, DIGITS_TRAIN) if split == "train" else slice(DIGITS_TRAIN, None)
    return ImageSet(
        images=images[keep],
        labels=torch.from_numpy(labels).long()[keep],
        name=f"digits (scikit-learn) [{split}]",
        source="scikit-learn load_digits, 8x8 upscaled to 28x28",
        sha256=hashlib.sha256(small.astype(np.uint8).tobytes()).hexdigest(),
        kind="real",
        classes=tuple("0123456789"),
    )


@dataclass(frozen=True)
class ImageFolder:
    """Images on disk, one folder per class (ImageNet's layout), decoded when asked for: for a DataLoader."""

    paths: tuple[Path, ...]
    labels: Int64[Tensor, " N"]
    classes: tuple[str, ...]
    size: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[UInt8[Tensor, "size size 3"], int]:
        """RGB image i and its label: the shorter side brought to `size` px, the middle square.

        Raises `DataError` naming a file that can't be read.
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
    """The images `path/<class>/*.{png,jpg,jpeg,webp,bmp}`, classes in the order of their names, as in ImageNet's tools.

    Links out of `path` aren't followed. Raises `DataError`: no such folder, no classes, a class without images.
    """
    root = Path(path).resolve()
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []
    if not folders:
        raise DataError(f"{path} holds no class folders; expected {path}/<class>/<image>.jpg")
    paths, labels = [], []
    for label, folder in enumerate(folders):
        named = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        found = [file for file in named if file.resolve().is_relative_to(root)]
        if not found:
            raise DataError(f"the class folder {folder} holds no images ({', '.join(SUFFIXES)}); fill or remove it")
        paths += found
        labels += [label] * len(found)
    return ImageFolder(tuple(paths), torch.tensor(labels), tuple(folder.name for folder in folders), size)


def write_image_folder(image_set: ImageSet, path: str | Path) -> Path:
    """Write a set as `path/<label>-<class>/<index>.png`; `image_folder` reads the same labels. Returns `path`."""
    from PIL import Image

    for i, (image, label) in enumerate(zip(image_set.images, image_set.labels.tolist(), strict=True)):
        name = "".join(c if c.isalnum() else "-" for c in image_set.classes[label])
        folder = Path(path) / f"{label:04d}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(folder / f"{i:07d}.png")
    return Path(path)
