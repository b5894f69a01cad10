"""Folders of pictures, one per class, decoded when asked for.

Shape letters: N pictures.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from jepa_lab.data.image_sets import ImageSet
from jepa_lab.data.leftovers import is_leftover
from jepa_lab.data.sources.archives import DataError, sha256_of

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


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

        As in ImageNet's tools, an EXIF rotation and transparency are ignored. Grey of 16 bits is scaled to 8.
        Raises `DataError` naming a file that can't be read.
        """
        from PIL import Image, ImageOps

        path = self.paths[i]
        with _readable():
            data = path.read_bytes()
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.draft("RGB", (self.size, self.size))  # JPEG: decode no larger than needed
                square = ImageOps.fit(_rgb(image, path), (self.size, self.size), Image.Resampling.BICUBIC)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # what Pillow raises for damaged files is not documented
            raise DataError(f"{path} is damaged or not an image ({error}); replace or remove it") from error
        return torch.from_numpy(np.array(square)), int(self.labels[i])


def _rgb(image, path: Path):
    """The image with 3 channels of 8 bits. `DataError` for numbers whose black and white the format doesn't define."""
    from PIL import Image

    # Older Pillows open PNG's 16 bits as mode I.
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        unknown = f"{path} has pixels of Pillow's mode {image.mode}, whose black and white are unknown"
        raise DataError(f"{unknown}; save it with 8 or 16 bits per channel, or remove it")
    return image.convert("RGB")


def image_folder(path: str | Path, size: int = 224, classes: Sequence[str] | None = None) -> ImageFolder:
    """The images `path/<class>/**/*.{png,jpg,jpeg,webp,bmp}`, classes in the order of their names, as in ImageNet's
    tools.

    classes: those of the training images, which give the labels their numbers; not all of them need a folder here.
    Links are followed, and a file that several links lead to counts once in its class. What tools leave behind is no
    data (see `leftovers`).
    Raises `DataError`: no such folder, no classes, a class without images or not in `classes`, a broken link.
    """
    root = Path(path).absolute()
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; expected {root}/<class>/<image>.jpg")
    with _readable():
        found = {folder.name: _pictures(folder) for folder in _entries(root) if _is_folder(folder)}
    if not found:
        raise DataError(f"{root} holds no class folders; expected {root}/<class>/<image>.jpg")
    if empty := [name for name, pictures in found.items() if not pictures]:
        raise DataError(
            f"the class folder {root / empty[0]} holds no images ({', '.join(SUFFIXES)}); fill or remove it"
        )
    classes = tuple(found if classes is None else classes)
    if strange := [name for name in found if name not in classes]:
        raise DataError(
            f"{root} holds the classes {_some(strange)}, which the training images lack; they have {_some(classes)}"
        )
    labels = [label for label, name in enumerate(classes) for _ in found.get(name, [])]
    paths = [picture for name in classes for picture in found.get(name, [])]
    return ImageFolder(tuple(paths), torch.tensor(labels), classes, size)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """A file or folder that the system can't read is one `DataError`, which says where a broken link leads."""
    try:
        yield
    except OSError as error:
        place = error.filename
        link = f", a link to {os.readlink(place)}," if place and os.path.islink(place) else ""
        raise DataError(f"cannot read {place}{link} ({error.strerror}); mend or remove it") from error


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, in the order of the names, without what tools left there."""
    return sorted(path for path in folder.iterdir() if not is_leftover(path.name))


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.stat().st_mode)  # unlike is_dir(), an error for a broken link


def _pictures(folder: Path) -> list[Path]:
    """The pictures in a class's folder and below it, each once, in the order of their paths."""
    seen, todo, found = set(), [folder], []
    while todo:
        for path in _entries(todo.pop()):
            info = path.stat()
            if (info.st_dev, info.st_ino) in seen:  # another link to it, or a loop
                continue
            seen.add((info.st_dev, info.st_ino))
            if stat.S_ISDIR(info.st_mode):
                todo.append(path)
            elif stat.S_ISREG(info.st_mode) and path.suffix.lower() in SUFFIXES:
                found.append(path)
    return sorted(found)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def warn_of_shared(train: ImageFolder, test: ImageFolder) -> None:
    """Say on stderr how many files to score on are also among those to train on, byte by byte."""
    with _readable():
        train_sizes, test_sizes = ({path: path.stat().st_size for path in part.paths} for part in (train, test))
        common = set(train_sizes.values()) & set(test_sizes.values())
        known = {sha256_of(path) for path, size in train_sizes.items() if size in common}
        shared = [path for path, size in test_sizes.items() if size in common and sha256_of(path) in known]
    if shared:
        count = f"{len(shared)} of the {len(test)} images to score on are also among those to train on"
        print(f"WARNING: {count}, the first is {shared[0]}; scores on them are too good", file=sys.stderr, flush=True)


def write_image_folder(image_set: ImageSet, path: str | Path) -> Path:
    """Write a set as `path/<label>-<class>/<index>.png`, which `image_folder` reads. Returns `path`.

    The labels read are the same ones if every class has an image.
    """
    from PIL import Image

    for i, (image, label) in enumerate(zip(image_set.images, image_set.labels.tolist(), strict=True)):
        name = "".join(c if c.isalnum() else "-" for c in image_set.classes[label])
        folder = Path(path) / f"{label:04d}-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(folder / f"{i:07d}.png")
    return Path(path)
