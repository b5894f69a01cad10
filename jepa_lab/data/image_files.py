"""Images from files: Fashion-MNIST, the digits of scikit-learn, idx files.

Shape letters: N images, H x W pixels.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
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


def read_idx(path: Path) -> UInt8[Tensor, "*shape"]:
    """The array of an unsigned-byte idx file (the MNIST format).

    The format: 2 zero bytes, type 8, number of axes, big-endian lengths, bytes. The lengths must multiply to exactly
    the number of bytes that follow; a header cannot make us allocate more.
    Raises `DataError` for an unreadable, empty, truncated, overlong or mislabelled file.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror})") from error
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
