"""Twelve-lead electrocardiograms: one labelled set in memory, split by patient, normalised per lead, cut into patches.

Shape letters: n records, 12 leads, T samples, L labels, N patches of P = 12 * patch numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import einops
import torch
from jaxtyping import Bool, Float, Float16, Float32, Int64
from torch import Tensor

from jepa_lab.data.archives import DataError
from jepa_lab.data.wfdb_records import LEADS

__all__ = ["LEADS", "ECGSet", "by_fold", "lead_stats", "normalise", "patchify", "split"]


@dataclass(frozen=True)
class ECGSet:
    """Labelled records in memory or in a memory-mapped file. `sha256` is that of what the signals were made from."""

    signals: Float16[Tensor, "n 12 T"]      # millivolts, in the order of LEADS
    labels: Bool[Tensor, "m L"]             # multi-label; m = n, checked below in words
    label_names: tuple[str, ...]
    rate: int                               # Hz
    patients: Int64[Tensor, " p"]           # splits never cut a patient; p = n
    folds: Int64[Tensor, " f"]              # 1..10 as PTB-XL has them, 0 where a source has none; f = n
    name: str
    source: str
    sha256: str
    kind: str                               # 'real' | 'generated' | 'simulated'
    refused: dict[str, int] = field(default_factory=dict)       # reason -> number of records left out

    def __post_init__(self) -> None:
        if self.signals.dtype != torch.float16 or self.signals.ndim != 3 or self.signals.shape[1] != len(LEADS):
            raise DataError(f"{self.name}: signals must be float16 of n x 12 x T, got {self.signals.dtype} of {tuple(self.signals.shape)}")
        lengths = {"labels": len(self.labels), "patients": len(self.patients), "folds": len(self.folds)}
        if any(length != len(self.signals) for length in lengths.values()):
            raise DataError(f"{self.name}: {len(self.signals)} records but {lengths}; they don't belong together")
        if self.labels.shape[1] != len(self.label_names):
            raise DataError(f"{self.name}: {self.labels.shape[1]} columns of labels but {len(self.label_names)} names")
        if self.kind not in ("real", "generated", "simulated"):
            raise DataError(f"{self.name}: kind must be 'real', 'generated' or 'simulated', not {self.kind!r}")

    def __len__(self) -> int:
        return len(self.signals)

    def subset(self, idx: Int64[Tensor, " k"], part: str = "subset") -> ECGSet:
        """The records at `idx`; `part` is added to the name. A run of neighbours is a view, which copies no signal."""
        run = len(idx) > 0 and bool((idx[1:] - idx[:-1] == 1).all()) and 0 <= int(idx[0])
        signals = self.signals[int(idx[0]):int(idx[-1]) + 1] if run else self.signals[idx]
        return replace(self, signals=signals, labels=self.labels[idx], patients=self.patients[idx], folds=self.folds[idx],
                       name=f"{self.name} [{part}]")


def by_fold(ecg_set: ECGSet, folds: Sequence[int], part: str = "") -> ECGSet:
    """The records of the given folds, e.g. `by_fold(data, range(1, 9))`. `DataError` when there are none."""
    idx = torch.isin(ecg_set.folds, torch.tensor(list(folds), dtype=torch.int64)).nonzero()[:, 0]
    if not len(idx):
        raise DataError(f"{ecg_set.name} has no records of fold {', '.join(map(str, folds))}; it has the folds "
                        f"{sorted(set(ecg_set.folds.tolist()))}, where 0 means none: cut it with `split`")
    return ecg_set.subset(idx, part or f"fold {', '.join(map(str, folds))}")


def split(ecg_set: ECGSet, sizes: Sequence[int], seed: int = 0) -> tuple[ECGSet, ...]:
    """Cut disjoint parts that share no patient, by one shuffle of the patients; what is left over stays unused.

    A part takes whole patients until one more would make it larger than its size: with one record per patient it has
    exactly that many records, else up to the largest patient's number less one fewer. Raises `DataError` when the sizes don't fit.
    """
    if any(size < 0 for size in sizes) or sum(sizes) > len(ecg_set):
        raise DataError(f"cannot cut parts of {tuple(sizes)} from {len(ecg_set)} records")
    patients, which = ecg_set.patients.unique(return_inverse=True)
    order = torch.randperm(len(patients), generator=torch.Generator().manual_seed(seed))
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    ends = torch.bincount(place[which], minlength=len(patients)).cumsum(0)      # records up to and with the patient at each place
    parts, first, start = [], 0, 0
    for k, size in enumerate(sizes):
        last = int(torch.searchsorted(ends, start + size, right=True))
        idx = ((place[which] >= first) & (place[which] < last)).nonzero()[:, 0]
        if size and not len(idx):
            raise DataError(f"part {k} of {tuple(sizes)} is too small for the next patient's records; make it larger")
        parts.append(ecg_set.subset(idx, f"part {k} of {len(sizes)}, seed {seed}"))
        first, start = last, start + len(idx)
    return tuple(parts)


def lead_stats(signals: Float16[Tensor, "n 12 T"]) -> tuple[Float32[Tensor, "12"], Float32[Tensor, "12"]]:
    """Mean and standard deviation of each lead over all records, in mV: one pair of constants per database.

    Take them from training records only. Sums are kept in float64 over pieces, so a memory-mapped set stays on disk.
    """
    if not len(signals):
        raise DataError("cannot take lead statistics of no records")
    total, squares = torch.zeros(len(LEADS), dtype=torch.double), torch.zeros(len(LEADS), dtype=torch.double)
    for piece in signals.split(256):
        piece = piece.float()
        total += piece.sum((0, 2)).double()
        squares += piece.square().sum((0, 2)).double()
    count = signals.shape[0] * signals.shape[2]
    mean = total / count
    return mean.float(), (squares / count - mean ** 2).clamp(min=0).sqrt().float()


def normalise(signals: Float[Tensor, "n 12 T"], stats: tuple[Float32[Tensor, "12"], Float32[Tensor, "12"]],
              clip: float = 5.0) -> Float[Tensor, "n 12 T"]:
    """(signal - mean) / std per lead in float32, clipped to +-`clip`: the paper's input, with `stats` from `lead_stats`."""
    mean, std = (stat.to(signals.device) for stat in stats)
    if not bool((std > 0).all()):
        flat = [lead for lead, value in zip(LEADS, std.tolist(), strict=True) if not value > 0]
        raise DataError(f"cannot normalise: lead {', '.join(flat)} has no spread; is it flat in every record?")
    return ((signals.float() - mean[:, None]) / std[:, None]).clamp_(-clip, clip)


def patchify(signals: Float[Tensor, "n 12 T"], patch: int) -> Float[Tensor, "n N P"]:
    """Cut time into N = T / patch tokens; one token holds all leads, P = 12 * patch. `DataError` if it doesn't divide."""
    samples = signals.shape[-1]
    if patch < 1 or samples % patch:
        raise DataError(f"patches of {patch} samples don't tile records of {samples}; choose a divisor")
    return einops.rearrange(signals, "n l (t p) -> n t (l p)", p=patch)
