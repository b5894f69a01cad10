"""One electrocardiogram from a WFDB record: twelve leads in mV, or a refusal with its reason in a few words.

Needs the package `wfdb`. Shape letters: T samples, F frames (of one or more samples of each signal).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import struct
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from jepa_lab.data.ecg.leads import LEADS, MAX_MV, limb_leads
from jepa_lab.data.sources.archives import DataError

MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "\u03bcv": 1e-3, "v": 1e3, "nv": 1e-6}  # `casefold` turns U+00B5 into U+03BC
# Bytes per sample of each WFDB format; the others are compressed. Packed formats end with a whole block.
SAMPLE_BYTES = {"8": 1, "16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2, "212": 1.5, "310": 4 / 3, "311": 4 / 3}
BLOCK_BYTES = {"212": 3, "310": 4, "311": 4}
MATLAB_LATER = re.compile(rb"MATLAB [57]\.|.{0}\x89HDF|.{512}\x89HDF", re.DOTALL)  # versions 5 to 7.3
MATLAB_4_HEADER, MATLAB_4_INT16 = 24, 30  # bytes before the samples of the matrix `val`; its type
MOST_GAPS = 0.5  # of a lead may be missing and filled
MOST_SAMPLES = 20_000_000  # of a record are read to check its sums; of a longer one only what is asked for
GAIN = re.compile(r"(?P<gain>-?[0-9.]+(e[-+]?[0-9]+)?)(\(-?[0-9]*\)?)?/?(?P<unit>.*)", re.IGNORECASE)


class RecordError(DataError):
    """One record can't be used. `reason` is the same few words for all records of the same trouble."""

    def __init__(self, reason: str, path: str | Path, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{path}: {reason}{f' ({detail})' if detail else ''}; repair or remove it")


def read_record(path: str | Path, rate: int, seconds: float) -> Float32[Tensor, "12 T"]:
    """The first `seconds` of a WFDB record at `rate` Hz, in mV, leads in the order of LEADS.

    path: with or without .hea, .dat or .mat. Leads are found by name. III, aVR, aVL, aVF are computed where only I and
    II were stored; gaps are filled linearly; other sampling rates are resampled by Fourier's method in float32.
    Signals that came late (the header's skew) are moved back. Raises `RecordError`.
    """
    return read_with_comments(Path(path), rate, seconds)[0]


def read_with_comments(path: Path, rate: int, seconds: float) -> tuple[Float32[Tensor, "12 T"], tuple[str, ...]]:
    """As `read_record`, with the header's comment lines."""
    stem = str(path.absolute())
    if not os.path.isfile(f"{stem}.hea"):  # a record's own name may hold dots
        stem = stem.removesuffix(".hea").removesuffix(".dat").removesuffix(".mat")
    if "::" in stem:
        raise RecordError("'::' in its path", path, "wfdb takes it for a chain of archives: rename the folder")
    header = _header(stem)
    wanted = round(seconds * header.fs)
    if header.sig_len < wanted:
        raise RecordError("shorter than asked", path, f"{header.sig_len / header.fs:.2f} s of {seconds:g}")
    for name in sorted(set(header.file_name)):
        _check_file(header, name, stem)
    whole = header.sig_len * header.n_sig <= MOST_SAMPLES
    stop = header.sig_len if whole else min(header.sig_len, wanted + max(skew or 0 for skew in header.skew))
    stored, physical = _parsed("signal file unreadable", stem, lambda wfdb: _samples(wfdb, stem, stop))
    _check_sums(header, stored, whole, path)
    signal_Tl = np.stack([_aligned(header, k, frames, wanted) for k, frames in enumerate(physical)], 1)
    units = [_gain(words)[1] for words in signal_lines(f"{stem}.hea")]
    fitted = _fit(signal_Tl, header.sig_name, units, path)
    return _resample(fitted, round(seconds * rate)), tuple(header.comments or ())


def signal_lines(header: str) -> list[list[str]]:
    """The words of a header's lines on signals: file name, format, gain, ..."""
    lines = [_decoded(line).split() for line in Path(header).read_bytes().splitlines()]
    return [words for words in lines if words and not words[0].startswith("#")][1:]


def _decoded(line: bytes) -> str:
    """Text from UTF-8, with or without its mark, or else from Latin-1."""
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _parsed(reason: str, stem: str, read: Callable):
    """What `read(wfdb)` returns. The package may raise or warn anything on a broken file: that is a `RecordError`."""
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


def _samples(wfdb, stem: str, stop: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Stored whole numbers and physical values (NaN: missing) of every signal up to frame `stop`, as the file has them.

    wfdb itself would take out the skew before the sums can be checked, and fails where signals have different ones.
    """
    record = wfdb.rdrecord(stem, sampto=stop, physical=False, smooth_frames=False, ignore_skew=True)
    return record.e_d_signal, record.dac(expanded=True, return_res=64)


def _aligned(header, k: int, samples_T: np.ndarray, wanted: int) -> np.ndarray:
    """The first `wanted` frames of signal k without its skew, each the mean of its samples; NaN after the end."""
    late = header.skew[k] or 0
    frames_F = samples_T.reshape(-1, header.samps_per_frame[k] or 1)[late : late + wanted].mean(1)
    return np.pad(frames_F, (0, wanted - len(frames_F)), constant_values=np.nan).astype(np.float32)


def _header(stem: str):
    """wfdb's header, checked: it describes all signals of one plain segment."""
    if not os.path.isfile(f"{stem}.hea"):
        if os.path.isfile(f"{stem}.HEA"):
            raise RecordError("header's name ends in .HEA", stem, "rename it and its signal file as the header says")
        raise RecordError("header missing", stem)
    header = _parsed("header unreadable", stem, lambda wfdb: wfdb.rdheader(stem))
    if not header.n_sig or not getattr(header, "sig_name", None):  # a header of several segments has neither
        raise RecordError("header without signals of its own", stem)
    fields = [header.file_name, header.fmt, header.sig_name, header.units]
    incomplete = any(len(field or ()) != header.n_sig or None in field for field in fields)
    if incomplete or not 10 <= (header.fs or 0) <= 100_000:
        described = [len(field or ()) for field in fields]
        raise RecordError("header wrong", stem, f"{header.n_sig} signals, {described} described, {header.fs} Hz")
    gains = [_gain(words)[0] for words in signal_lines(f"{stem}.hea")]
    if len(gains) != header.n_sig or not all(gains):  # wfdb would take 200 instead, without a warning
        raise RecordError("header without a gain", stem)
    if not header.sig_len:
        raise RecordError("header without a length", stem)
    return header


def _gain(words: Sequence[str]) -> tuple[float, str]:
    """Units per voltage and the unit of a header's line; 0 where it has no gain, mV where it has no unit."""
    match = GAIN.match(words[2]) if len(words) > 2 else None
    with contextlib.suppress(ValueError):
        return (float(match["gain"]), match["unit"] or "mV") if match else (0.0, "mV")
    return 0.0, "mV"


def _check_file(header, name: str, stem: str) -> None:
    """The signal file lies beside the header, is of the header's format and as long as the header says.

    A shorter file was cut off, even if the part that we read is there; a longer one holds samples of another format.
    """
    path = os.path.join(os.path.dirname(stem), name)
    if not name or os.path.basename(name) != name or name in (".", ".."):
        raise RecordError("signal file outside its folder", stem, repr(name))
    if not os.path.isfile(path):
        raise RecordError("signal file missing", stem, name)
    inside = [k for k, file in enumerate(header.file_name) if file == name]
    if len(formats := {header.fmt[k] for k in inside}) > 1:
        raise RecordError("header wrong", stem, f"{name} in the formats {', '.join(sorted(formats))}")
    offset = header.byte_offset[inside[0]] or 0
    frame = sum(header.samps_per_frame[k] or 1 for k in inside)
    _check_matlab(path, name, (frame, header.sig_len) if offset == MATLAB_4_HEADER else None, stem)
    [form] = formats
    if form in SAMPLE_BYTES:
        needed = offset + math.ceil(round(SAMPLE_BYTES[form] * frame * header.sig_len, 3))
        size, spare = os.path.getsize(path), max(BLOCK_BYTES.get(form, 0), header.block_size[inside[0]] or 0)
        if not needed <= size <= needed + spare:
            reason = "signal file truncated" if size < needed else "signal file longer than its header says"
            raise RecordError(reason, stem, f"{name} has {size} bytes of {needed}")


def _check_matlab(path: str, name: str, shape: tuple[int, int] | None, stem: str) -> None:
    """A MATLAB file is of version 4, the only one whose samples lie in the file as WFDB reads them, and of `shape`."""
    with open(path, "rb") as stream:
        start = stream.read(520)
    if MATLAB_LATER.match(start):
        raise RecordError("MATLAB file of another version", stem, f"{name}; save it as version 4, int16")
    if (
        shape
        and name.lower().endswith(".mat")
        and struct.unpack_from("<3i", start.ljust(12)) != (MATLAB_4_INT16, *shape)
    ):
        raise RecordError("MATLAB matrix of another kind", stem, f"{name}; it must be int16 of {shape[0]} x {shape[1]}")


def _check_sums(header, stored: Sequence[np.ndarray], whole: bool, path: Path) -> None:
    """Compare the samples with the first values and the sums modulo 2^16 of the header, where it has them.

    A sum of 0 counts as none, and so does a first value of 0 beside it: some headers hold zeros throughout.
    """
    first_values = header.init_value or [None] * header.n_sig
    sums = header.checksum or [None] * header.n_sig
    for samples_T, lead, first, total in zip(stored, header.sig_name, first_values, sums, strict=True):
        wrong_first = bool(first or total) and first is not None and len(samples_T) and int(samples_T[0]) != first
        if wrong_first or (whole and total and (int(samples_T.sum(dtype=np.int64)) - total) % 65536):
            raise RecordError("samples differ from the header's sums", path, lead)


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
        found = dict(zip(LEADS[:6], limb_leads(found["I"], found["II"]), strict=True)) | found
    if missing := [lead for lead in LEADS if lead not in found]:
        raise RecordError("lead missing", path, ", ".join(missing))
    signal = torch.stack([found[lead] for lead in LEADS])
    if flat := [lead for lead, row in zip(LEADS, signal, strict=True) if float(row.amax() - row.amin()) == 0]:
        raise RecordError("lead flat", path, ", ".join(flat))
    if not float(signal.abs().max()) <= MAX_MV:
        reached = f"up to {float(signal.abs().max()):.3g} mV; are gain, unit and format in the header right?"
        raise RecordError("voltage impossible", path, reached)
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
