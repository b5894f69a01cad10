"""Electrocardiograms in WFDB files: one record made to fit, and a folder of them made into one memory-mapped file.

What can't be made to fit is refused with a reason of few words, counted, and the rest goes on. Needs the package
`wfdb`.
Shape letters: T samples.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32
from torch import Tensor

from jepa_lab.data.sources.archives import DataError
from jepa_lab.data.sources.fetch import cache_root, disk_errors, sweep

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "\u00b5v": 1e-3, "v": 1e3, "nv": 1e-6}
SAMPLE_BYTES = {
    "8": 1,
    "16": 2,
    "24": 3,
    "32": 4,
    "61": 2,
    "80": 1,
    "160": 2,
    "212": 1.5,
}  # the other formats are packed
LARGEST_MV = 1000.0  # beyond it the header's gain is wrong
MOST_GAPS = 0.5  # of a lead may be missing and filled
MOST_SAMPLES = 20_000_000  # of a record are read to check its sums; of a longer one only what is asked for
VERSION = 2  # of what `_fit` does to a signal: a new one makes new cache files


class RecordError(DataError):
    """One record can't be used. `reason` is the same few words for all records of the same trouble."""

    def __init__(self, reason: str, path: str | Path, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{path}: {reason}{f' ({detail})' if detail else ''}; repair or remove it")


def limb_leads(lead_I: Float[Tensor, "*n T"], lead_II: Float[Tensor, "*n T"]) -> Float[Tensor, "*n 6 T"]:
    """I, II, III, aVR, aVL, aVF from I and II: Einthoven's law III = II - I, and Goldberger's augmented leads."""
    return torch.stack(
        [lead_I, lead_II, lead_II - lead_I, -(lead_I + lead_II) / 2, lead_I - lead_II / 2, lead_II - lead_I / 2], -2
    )


def read_record(path: str | Path, rate: int, seconds: float) -> Float32[Tensor, "12 T"]:
    """The first `seconds` of a WFDB record (`path` with or without .hea, .dat or .mat) in mV, leads in the order of
    LEADS, at `rate` Hz.

    Leads are found by name; III, aVR, aVL, aVF are computed where only I and II were stored; gaps are filled linearly,
    other
    sampling rates resampled by Fourier's method in float32. Raises `RecordError`.
    """
    return _read(Path(path), rate, seconds)[0]


def _read(path: Path, rate: int, seconds: float) -> tuple[Float32[Tensor, "12 T"], tuple[str, ...]]:
    """The fitted signal and the header's comment lines."""
    stem = str(path.absolute())
    if not os.path.isfile(f"{stem}.hea"):  # a record's own name may hold dots
        stem = stem.removesuffix(".hea").removesuffix(".dat").removesuffix(".mat")
    header = _header(stem)
    wanted = round(seconds * header.fs)
    if header.sig_len < wanted:
        raise RecordError("shorter than asked", path, f"{header.sig_len / header.fs:.2f} s of {seconds:g}")
    whole = header.sig_len * header.n_sig <= MOST_SAMPLES
    digital_Tl, signal_Tl = _parsed(
        "signal file unreadable", stem, lambda wfdb: _samples(wfdb, stem, None if whole else wanted)
    )
    _check_sums(header, digital_Tl, whole, path)
    fitted = _fit(signal_Tl[:wanted], header.sig_name, header.units, path)
    return _resample(fitted, round(seconds * rate)), tuple(header.comments or ())


def _samples(wfdb, stem: str, stop: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Stored whole numbers and physical values up to `stop`, both [T, leads]."""
    record = wfdb.rdrecord(stem, sampto=stop, physical=False)
    return record.d_signal, np.asarray(record.dac(return_res=32), dtype=np.float32)


def _check_sums(header, digital_Tl: np.ndarray, whole: bool, path: Path) -> None:
    """Samples that aren't those the header was written for: their first values, and their sums modulo 2^16, where it
    has them.

    A sum of 0 counts as none, as some challenges' headers have it throughout. Averaged samples of several per frame
    have neither.
    """
    for k, lead in enumerate(header.sig_name):
        first, total = ((field or [None] * header.n_sig)[k] for field in (header.init_value, header.checksum))
        if (header.samps_per_frame[k] or 1) > 1 or not len(digital_Tl):
            continue
        sums = whole and total and (int(digital_Tl[:, k].sum()) - total) % 65536
        if sums or (first is not None and total and int(digital_Tl[0, k]) != first):
            raise RecordError("samples differ from the header's sums", path, lead)


def _parsed(reason: str, stem: str, read: Callable):
    """What `read(wfdb)` returns. A stranger's parser on a stranger's file may raise or warn anything."""
    try:
        import wfdb
    except ImportError as error:
        raise DataError("reading WFDB records needs the package wfdb: pip install wfdb") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(wfdb)
    except Exception as error:  # noqa: BLE001
        raise RecordError(reason, stem, f"{type(error).__name__}: {error}") from error


def _header(stem: str):
    """wfdb's header, when it describes one plain segment whose signal files lie beside it and are long enough."""
    if not os.path.isfile(f"{stem}.hea"):
        raise RecordError("header missing", stem)
    header = _parsed("header unreadable", stem, lambda wfdb: wfdb.rdheader(stem))
    if not header.n_sig or not getattr(header, "sig_name", None):  # one of several segments has neither
        raise RecordError("header without signals of its own", stem)
    fields = [header.file_name, header.fmt, header.sig_name, header.units]
    if (
        any(len(field or ()) != header.n_sig or None in field for field in fields)
        or not 10 <= (header.fs or 0) <= 100_000
    ):
        raise RecordError(
            "header wrong",
            stem,
            f"{header.n_sig} signals, {[len(field or ()) for field in fields]} described, {header.fs} Hz",
        )
    if not all(
        _gain(line) > 0 for line in _signal_lines(f"{stem}.hea")[: header.n_sig]
    ):  # wfdb takes 200 for it without a word
        raise RecordError("header without a gain", stem)
    for name in set(header.file_name):
        folder = os.path.dirname(stem)
        if not name or os.path.basename(name) != name or name in (".", ".."):
            raise RecordError("signal file outside its folder", stem, repr(name))
        if not os.path.isfile(os.path.join(folder, name)):
            raise RecordError("signal file missing", stem, name)
        _check_length(header, name, os.path.getsize(os.path.join(folder, name)), stem)
    return header


def _signal_lines(header: str) -> list[list[str]]:
    """The words of a header's lines on signals: file name, format, gain, ..."""
    with open(header, encoding="utf-8", errors="replace") as stream:
        lines = [line.split() for line in stream if line.strip() and not line.lstrip().startswith("#")]
    return lines[1:]


def _gain(words: Sequence[str]) -> float:
    """Units per voltage as the line says it, without its baseline and unit; 0 where it says none."""
    number = re.match(r"[0-9.]+(e[-+]?[0-9]+)?", words[2], re.IGNORECASE) if len(words) > 2 else None
    with contextlib.suppress(ValueError):
        return float(number[0]) if number else 0.0
    return 0.0


def _check_length(header, name: str, size: int, stem: str) -> None:
    """A file that holds fewer bytes than its header promises was cut off, even if the part we want is there."""
    here = [k for k, file in enumerate(header.file_name) if file == name]
    formats = {header.fmt[k] for k in here}
    if header.sig_len is None:
        raise RecordError("header without a length", stem)
    if len(formats) == 1 and (width := SAMPLE_BYTES.get(formats.pop())):
        frames = sum(header.samps_per_frame[k] or 1 for k in here)
        needed = (header.byte_offset[here[0]] or 0) + int(width * frames * header.sig_len)
        if size < needed:
            raise RecordError("signal file truncated", stem, f"{name} has {size} bytes of {needed}")


def _fit(signal_Tl: np.ndarray, names: Sequence[str], units: Sequence[str], path: Path) -> Float32[Tensor, "12 T"]:
    """Twelve leads in mV in the order of LEADS, without gaps."""
    found: dict[str, Tensor] = {}
    by_name = {lead.casefold(): lead for lead in LEADS}
    for k, (name, unit) in enumerate(zip(names, units, strict=True)):
        lead = by_name.get(name.strip().casefold())
        if lead is None:
            continue
        if lead in found:
            raise RecordError("lead stored twice", path, lead)
        if (scale := MILLIVOLTS.get(unit.casefold())) is None:
            raise RecordError("unit is not a voltage", path, f"{lead} in {unit!r}")
        found[lead] = torch.from_numpy(_fill(signal_Tl[:, k], lead, path) * np.float32(scale))
    if {"I", "II"} <= found.keys():
        found = dict(zip(LEADS, limb_leads(found["I"], found["II"]), strict=False)) | found
    if missing := [lead for lead in LEADS if lead not in found]:
        raise RecordError("lead missing", path, ", ".join(missing))
    signal = torch.stack([found[lead] for lead in LEADS])
    if flat := [lead for lead, row in zip(LEADS, signal, strict=True) if float(row.amax() - row.amin()) == 0]:
        raise RecordError("lead flat", path, ", ".join(flat))
    if not float(signal.abs().max()) <= LARGEST_MV:
        raise RecordError(
            "voltage impossible", path, f"up to {float(signal.abs().max()):.3g} mV; is the gain in the header right?"
        )
    return signal


def _fill(lead_T: np.ndarray, lead: str, path: Path) -> np.ndarray:
    """Linear interpolation over NaN; the ends keep their nearest value."""
    good = np.isfinite(lead_T)
    if good.all():
        return lead_T
    if not good.any():
        raise RecordError("lead without a value", path, lead)
    if good.mean() < 1 - MOST_GAPS:
        raise RecordError("too many gaps", path, f"{lead}: {1 - good.mean():.0%}")
    where = np.arange(len(lead_T))
    return np.interp(where, where[good], lead_T[good]).astype(np.float32)


def _resample(signal: Float32[Tensor, "12 S"], samples: int) -> Float32[Tensor, "12 T"]:
    if signal.shape[1] == samples:
        return signal
    from scipy.signal import resample

    return torch.from_numpy(resample(signal.numpy(), samples, axis=1).astype(np.float32))


@dataclass(frozen=True)
class Pile:
    """The records of a folder that could be read, stacked in one memory-mapped file."""

    signals: Float16[Tensor, "n 12 T"]
    kept: tuple[int, ...]  # which of the records asked for, in their order
    comments: tuple[tuple[str, ...], ...]  # the header lines of each
    refused: dict[str, int]  # reason -> number
    sha256: str  # of the signals' bytes


def pile(folder: Path, names: Sequence[str], rate: int, seconds: float, root: str | Path | None = None) -> Pile:
    """Read the records `folder/name` into a float16 file in the cache, one at a time, or find the file of an earlier
    call.

    The file is found again while names, sizes and times of the records' files are the same; whatever their labels. It
    is
    written under a temporary name and renamed. Raises `DataError`: nothing could be read, disk full, no permission.
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
        shape = (len(note["kept"]), len(LEADS), round(seconds * rate))
        signals = torch.from_numpy(
            np.memmap(stored, np.float16, "c", shape=shape)
        )  # "c": nobody can write the file through it
    return Pile(signals, tuple(note["kept"]), tuple(map(tuple, note["comments"])), note["refused"], note["sha256"])


def gather(
    signals: Float16[Tensor, "m 12 T"], idx: Sequence[int], root: str | Path | None = None
) -> Float16[Tensor, "n 12 T"]:
    """Some records in a memory-mapped file of their own, without a name, which goes with the last tensor that uses it."""
    with disk_errors(cache_root(root)), tempfile.TemporaryFile(dir=cache_root(root) / "ecg") as out:
        for i in idx:
            out.write(signals[i].numpy().tobytes())
        out.flush()
        return torch.from_numpy(np.memmap(out, np.float16, "c", shape=(len(idx), *signals.shape[1:])))


def _key(folder: Path, names: Sequence[str], rate: int, seconds: float) -> str:
    digest = hashlib.sha256(json.dumps([VERSION, str(folder), rate, seconds]).encode())
    for name in names:
        digest.update(f"\n{name}".encode())
        header = f"{folder / name}.hea"
        with contextlib.suppress(OSError, ValueError):
            files = {os.path.basename(words[0]) for words in _signal_lines(header)}  # as the header names them
            for file in (header, *(os.path.join(os.path.dirname(header), file) for file in sorted(files))):
                stat = os.stat(file)
                digest.update(f" {file} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _whole(stored: Path) -> bool:
    """The note is written last, so with it and its length the file is complete."""
    try:
        return stored.stat().st_size == json.loads(stored.with_suffix(".json").read_text())["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(stored: Path, folder: Path, names: Sequence[str], rate: int, seconds: float) -> None:
    refused, kept, comments, digest = Counter(), [], [], hashlib.sha256()
    with _renamed(stored) as out:
        for i, name in enumerate(names):
            try:
                signal, lines = _read(_inside(folder, name), rate, seconds)
            except RecordError as error:
                refused[error.reason] += 1
                continue
            data = signal.half().numpy().tobytes()
            digest.update(data)
            out.write(data)
            kept.append(i)
            comments.append(lines)
        if not kept:
            raise DataError(
                f"none of the {len(names)} records in {folder} could be read: {dict(refused) or 'there are none'}. "
                "Is it the right folder, and complete?"
            )
        size = out.tell()
    note = {"kept": kept, "comments": comments, "refused": dict(refused), "sha256": digest.hexdigest(), "bytes": size}
    with _renamed(stored.with_suffix(".json")) as out:
        out.write(json.dumps(note).encode())


def _inside(folder: Path, name: str) -> Path:
    """`folder/name`, unless a data file names a place elsewhere. Links that the owner made inside the folder are
    followed.
    """
    path = Path(os.path.normpath(folder / name))
    if "\0" in name or ":" in name or path == folder or not path.is_relative_to(folder):
        raise RecordError("path outside the data folder", folder, repr(name))
    return path


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator:
    """A binary file that gets its name when it is complete."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
