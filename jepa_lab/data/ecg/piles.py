"""A folder of WFDB records as one memory-mapped file in the cache: read once, found again by every later call."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16
from torch import Tensor

from jepa_lab import files
from jepa_lab.data.ecg import wfdb
from jepa_lab.data.ecg.leads import LEADS
from jepa_lab.data.ecg.repeats import Recordings
from jepa_lab.data.sources.archives import DataError
from jepa_lab.data.sources.cache import cache_root, disk_errors, sweep

VERSION = 3  # of what `wfdb` does to a signal: a new one makes new cache files

STORED_TWICE = "stored twice"


@dataclass(frozen=True)
class Pile:
    """The records of a folder that could be read, stacked in one memory-mapped file."""

    signals: Float16[Tensor, "n 12 T"]
    kept: tuple[int, ...]  # which of the records asked for, in their order
    comments: tuple[tuple[str, ...], ...]  # the header lines of each
    refused: dict[str, int]  # reason -> number
    sha256: str  # of the signals' bytes


def pile(folder: Path, names: Sequence[str], rate: int, seconds: float, root: str | Path | None = None) -> Pile:
    """The records `folder/name`, read one at a time into a float16 file in the cache, or the file of an earlier call.

    Of a recording that has several names the first counts and the others are refused, "stored twice", so that no split
    can put it on both sides. The file is found again while names, sizes and times of the records' files are the same;
    labels may change.
    Raises `DataError`: nothing could be read, disk full, no permission.
    """
    if rate < 10 or not seconds > 0 or round(seconds * rate) < 1:
        raise DataError(f"cannot read {seconds} s at {rate} Hz; ask for some samples at 10 Hz or more")
    folder, cache = Path(os.path.abspath(folder)), cache_root(root) / "ecg"
    stored = cache / f"{_key(folder, names, rate, seconds)}.f16"
    with disk_errors(cache):
        if not _whole(stored):
            cache.mkdir(parents=True, exist_ok=True)
            sweep(cache)
            _write(stored, folder, names, rate, seconds)
        note = json.loads(stored.with_suffix(".json").read_text())
        signals = _mapped(stored, len(note["kept"]), round(seconds * rate))
    return Pile(signals, tuple(note["kept"]), tuple(map(tuple, note["comments"])), note["refused"], note["sha256"])


def gather(
    signals: Float16[Tensor, "m 12 T"], idx: Sequence[int], root: str | Path | None = None
) -> Float16[Tensor, "n 12 T"]:
    """The records at `idx`, copied to a nameless memory-mapped file, which goes with the last tensor that uses it."""
    cache = cache_root(root) / "ecg"
    with disk_errors(cache), tempfile.TemporaryFile(dir=cache) as out:
        for i in idx:
            out.write(signals[i].numpy().tobytes())
        out.flush()
        return _mapped(out, len(idx), signals.shape[-1])


def _mapped(file, count: int, samples: int) -> Tensor:
    """Mode "c" (copy on write): writing to the tensor does not change the file."""
    return torch.from_numpy(np.memmap(file, np.float16, "c", shape=(count, len(LEADS), samples)))


def _key(folder: Path, names: Sequence[str], rate: int, seconds: float) -> str:
    """A hash of everything that the file depends on."""
    digest = hashlib.sha256(json.dumps([VERSION, str(folder), rate, seconds]).encode())
    for name in names:
        digest.update(f"\n{name}".encode())
        header = f"{folder / name}.hea"
        with contextlib.suppress(OSError, ValueError):
            signal_files = {os.path.basename(words[0]) for words in wfdb.signal_lines(header)}
            for file in (header, *(os.path.join(os.path.dirname(header), name) for name in sorted(signal_files))):
                stat = os.stat(file)
                digest.update(f" {file} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _whole(stored: Path) -> bool:
    """Whether the note is there, which is written last, and says the file's size."""
    try:
        return stored.stat().st_size == json.loads(stored.with_suffix(".json").read_text())["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


@dataclass
class _Note:
    """What is known of the records in a file; stored beside it as JSON."""

    kept: list[int]
    comments: list[tuple[str, ...]]
    refused: Counter[str]
    sha256: str = ""
    bytes: int = 0


def _write(stored: Path, folder: Path, names: Sequence[str], rate: int, seconds: float) -> None:
    note, digest = _Note([], [], Counter()), hashlib.sha256()
    recordings = Recordings(round(seconds * rate), rate, len(names))
    with files.replacing(stored) as out:
        for i, name in enumerate(names):
            try:
                signal, lines = wfdb.read_with_comments(_inside(folder, name), rate, seconds)
                if not recordings.is_new(signal.numpy()):
                    raise wfdb.RecordError(STORED_TWICE, folder / name)
            except wfdb.RecordError as error:
                note.refused[error.reason] += 1
                continue
            data = signal.half().numpy().tobytes()
            digest.update(data)
            out.write(data)
            note.kept.append(i)
            note.comments.append(lines)
        if not note.kept:
            reasons = dict(note.refused) or "there are none"
            what = f"none of the {len(names)} records in {folder} could be read: {reasons}"
            raise DataError(f"{what}. Is it the right folder, and complete?")
        note.sha256, note.bytes = digest.hexdigest(), out.tell()
    files.write_text(stored.with_suffix(".json"), json.dumps(vars(note)))


def _inside(folder: Path, name: str) -> Path:
    """`folder/name`; `RecordError` where the name leads out of the folder. Links inside the folder are followed."""
    path = Path(os.path.normpath(folder / name))
    if "\0" in name or "://" in name or path == folder or not path.is_relative_to(folder):
        raise wfdb.RecordError("path outside the data folder", folder, repr(name))
    return path
