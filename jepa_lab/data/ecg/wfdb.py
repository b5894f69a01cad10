"""One electrocardiogram from a WFDB record: twelve leads in mV, or a refusal with its reason in a few words.

Needs the package `wfdb`. Shape letters: T samples.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from jepa_lab.data.ecg.leads import LEADS, limb_leads
from jepa_lab.data.sources.archives import DataError

MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "\u00b5v": 1e-3, "v": 1e3, "nv": 1e-6}
# Bytes per sample of each WFDB format; the formats that are not listed are packed.
SAMPLE_BYTES = {"8": 1, "16": 2, "24": 3, "32": 4, "61": 2, "80": 1, "160": 2, "212": 1.5}
LARGEST_MV = 1000.0  # beyond it the header's gain is wrong
MOST_GAPS = 0.5  # of a lead may be missing and filled
MOST_SAMPLES = 20_000_000  # of a record are read to check its sums; of a longer one only what is asked for
GAIN = re.compile(r"[0-9.]+(e[-+]?[0-9]+)?", re.IGNORECASE)


class RecordError(DataError):
    """One record can't be used. `reason` is the same few words for all records of the same trouble."""

    def __init__(self, reason: str, path: str | Path, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{path}: {reason}{f' ({detail})' if detail else ''}; repair or remove it")


def read_record(path: str | Path, rate: int, seconds: float) -> Float32[Tensor, "12 T"]:
    """The first `seconds` of a WFDB record at `rate` Hz, in mV, leads in the order of LEADS.

    path: with or without .hea, .dat or .mat. Leads are found by name. III, aVR, aVL, aVF are computed where only I and
    II were stored; gaps are filled linearly; other sampling rates are resampled by Fourier's method in float32.
    Raises `RecordError`.
    """
    return read_with_comments(Path(path), rate, seconds)[0]


def read_with_comments(path: Path, rate: int, seconds: float) -> tuple[Float32[Tensor, "12 T"], tuple[str, ...]]:
    """As `read_record`, with the header's comment lines."""
    stem = str(path.absolute())
    if not os.path.isfile(f"{stem}.hea"):  # a record's own name may hold dots
        stem = stem.removesuffix(".hea").removesuffix(".dat").removesuffix(".mat")
    header = _header(stem)
    wanted = round(seconds * header.fs)
    if header.sig_len < wanted:
        raise RecordError("shorter than asked", path, f"{header.sig_len / header.fs:.2f} s of {seconds:g}")
    whole = header.sig_len * header.n_sig <= MOST_SAMPLES
    stop = None if whole else wanted
    digital_Tl, signal_Tl = _parsed("signal file unreadable", stem, lambda wfdb: _samples(wfdb, stem, stop))
    _check_sums(header, digital_Tl, whole, path)
    fitted = _fit(signal_Tl[:wanted], header.sig_name, header.units, path)
    return _resample(fitted, round(seconds * rate)), tuple(header.comments or ())


def signal_lines(header: str) -> list[list[str]]:
    """The words of a header's lines on signals: file name, format, gain, ..."""
    with open(header, encoding="utf-8", errors="replace") as stream:
        lines = [line.split() for line in stream if line.strip() and not line.lstrip().startswith("#")]
    return lines[1:]


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


def _samples(wfdb, stem: str, stop: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Stored whole numbers and physical values up to `stop`, both [T, leads]."""
    record = wfdb.rdrecord(stem, sampto=stop, physical=False)
    return record.d_signal, np.asarray(record.dac(return_res=32), dtype=np.float32)


def _header(stem: str):
    """wfdb's header, checked: it describes one plain segment, and its signal files lie beside it and are complete."""
    if not os.path.isfile(f"{stem}.hea"):
        raise RecordError("header missing", stem)
    header = _parsed("header unreadable", stem, lambda wfdb: wfdb.rdheader(stem))
    if not header.n_sig or not getattr(header, "sig_name", None):  # a header of several segments has neither
        raise RecordError("header without signals of its own", stem)
    fields = [header.file_name, header.fmt, header.sig_name, header.units]
    incomplete = any(len(field or ()) != header.n_sig or None in field for field in fields)
    if incomplete or not 10 <= (header.fs or 0) <= 100_000:
        described = [len(field or ()) for field in fields]
        raise RecordError("header wrong", stem, f"{header.n_sig} signals, {described} described, {header.fs} Hz")
    gains = [_gain(words) for words in signal_lines(f"{stem}.hea")[: header.n_sig]]
    if not all(gain > 0 for gain in gains):  # wfdb would take 200 instead, without a warning
        raise RecordError("header without a gain", stem)
    if header.sig_len is None:
        raise RecordError("header without a length", stem)
    for name in set(header.file_name):
        _check_file(header, name, stem)
    return header


def _gain(words: Sequence[str]) -> float:
    """Units per voltage as a header's line says it, without its baseline and unit; 0 where it says none."""
    number = GAIN.match(words[2]) if len(words) > 2 else None
    with contextlib.suppress(ValueError):
        return float(number[0]) if number else 0.0
    return 0.0


def _check_file(header, name: str, stem: str) -> None:
    """The signal file lies beside the header and has as many bytes as the header promises.

    A shorter file was cut off, even if the part that we read is there.
    """
    path = os.path.join(os.path.dirname(stem), name)
    if not name or os.path.basename(name) != name or name in (".", ".."):
        raise RecordError("signal file outside its folder", stem, repr(name))
    if not os.path.isfile(path):
        raise RecordError("signal file missing", stem, name)
    inside = [k for k, file in enumerate(header.file_name) if file == name]
    formats = {header.fmt[k] for k in inside}
    if len(formats) > 1 or not (width := SAMPLE_BYTES.get(formats.pop())):
        return
    frames = sum(header.samps_per_frame[k] or 1 for k in inside)
    needed = (header.byte_offset[inside[0]] or 0) + int(width * frames * header.sig_len)
    if os.path.getsize(path) < needed:
        raise RecordError("signal file truncated", stem, f"{name} has {os.path.getsize(path)} bytes of {needed}")


def _check_sums(header, digital_Tl: np.ndarray, whole: bool, path: Path) -> None:
    """Compare the samples with the first values and the sums modulo 2^16 of the header, where it has them.

    A sum of 0 counts as none, since some challenges' headers hold zeros throughout. A lead of several samples per
    frame has been averaged, so neither applies to it.
    """
    first_values = header.init_value or [None] * header.n_sig
    sums = header.checksum or [None] * header.n_sig
    for k, (lead, first, total) in enumerate(zip(header.sig_name, first_values, sums, strict=True)):
        if (header.samps_per_frame[k] or 1) > 1 or not len(digital_Tl) or not total:
            continue
        wrong_first = first is not None and int(digital_Tl[0, k]) != first
        if wrong_first or (whole and (int(digital_Tl[:, k].sum()) - total) % 65536):
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
    if not float(signal.abs().max()) <= LARGEST_MV:
        reached = f"up to {float(signal.abs().max()):.3g} mV; is the gain in the header right?"
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
