"""A labelled set of electrocardiograms: splits by patient and by fold, statistics of the leads, patches.

Shape letters: n records, 12 leads, T samples, L labels, N patches of P = 12 * patch numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import einops
import torch
from jaxtyping import Bool, Float, Float16, Float32, Int64
from torch import Tensor

from jepa_lab.data.ecg.leads import LEADS
from jepa_lab.data.sources.archives import DataError

KINDS = ("real", "generated", "simulated")


@dataclass(frozen=True)
class ECGSet:
    """Labelled records in memory or in a memory-mapped file. `sha256` is that of what the signals were made from."""

    signals: Float16[Tensor, "n 12 T"]  # millivolts, in the order of LEADS
    labels: Bool[Tensor, "m L"]  # multi-label; m = n, checked below
    label_names: tuple[str, ...]
    rate: int  # Hz
    patients: Int64[Tensor, " p"]  # splits never cut a patient; p = n
    folds: Int64[Tensor, " f"]  # 1..10 as PTB-XL has them, 0 where a source has none; f = n
    name: str
    source: str
    sha256: str
    kind: str  # one of KINDS
    refused: dict[str, int] = field(default_factory=dict)  # reason -> number of records left out

    def __post_init__(self) -> None:
        signals = self.signals
        if signals.dtype != torch.float16 or signals.ndim != 3 or signals.shape[1] != len(LEADS):
            found = f"{signals.dtype} of {tuple(signals.shape)}"
            raise DataError(f"{self.name}: signals must be float16 of n x 12 x T, got {found}")
        lengths = {"labels": len(self.labels), "patients": len(self.patients), "folds": len(self.folds)}
        if any(length != len(signals) for length in lengths.values()):
            raise DataError(f"{self.name}: {len(signals)} records but {lengths}; they don't belong together")
        if self.labels.shape[1] != len(self.label_names):
            raise DataError(f"{self.name}: {self.labels.shape[1]} columns of labels but {len(self.label_names)} names")
        if self.kind not in KINDS:
            raise DataError(f"{self.name}: kind must be one of {', '.join(KINDS)}, not {self.kind!r}")

    def __len__(self) -> int:
        return len(self.signals)

    def subset(self, idx: Int64[Tensor, " k"], part: str = "subset") -> ECGSet:
        """The records at `idx`; `part` is added to the name. Consecutive records are a view: no signal is copied."""
        consecutive = len(idx) > 0 and bool((idx[1:] - idx[:-1] == 1).all()) and int(idx[0]) >= 0
        signals = self.signals[int(idx[0]) : int(idx[-1]) + 1] if consecutive else self.signals[idx]
        return replace(
            self,
            signals=signals,
            labels=self.labels[idx],
            patients=self.patients[idx],
            folds=self.folds[idx],
            name=f"{self.name} [{part}]",
        )


def by_fold(ecg_set: ECGSet, folds: Sequence[int], part: str = "") -> ECGSet:
    """The records of the given folds, e.g. `by_fold(data, range(1, 9))`. Raises `DataError` when there are none."""
    idx = torch.isin(ecg_set.folds, torch.tensor(list(folds), dtype=torch.int64)).nonzero()[:, 0]
    wanted = f"fold {', '.join(map(str, folds))}"
    if not len(idx):
        raise DataError(
            f"{ecg_set.name} has no records of {wanted}; it has the folds {sorted(set(ecg_set.folds.tolist()))}, "
            "where 0 means none: cut it with `split`"
        )
    return ecg_set.subset(idx, part or wanted)


def split(ecg_set: ECGSet, sizes: Sequence[int], seed: int = 0) -> tuple[ECGSet, ...]:
    """Disjoint parts that share no patient, cut by one shuffle of the patients; what is left over stays unused.

    A part takes whole patients until one more would make it larger than its size. With one record per patient it has
    exactly that many records. Raises `DataError` when the sizes don't fit.
    """
    if any(size < 0 for size in sizes) or sum(sizes) > len(ecg_set):
        raise DataError(f"cannot cut parts of {tuple(sizes)} from {len(ecg_set)} records")
    patients, which = ecg_set.patients.unique(return_inverse=True)
    order = torch.randperm(len(patients), generator=torch.Generator().manual_seed(seed))
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    ends = torch.bincount(place[which], minlength=len(patients)).cumsum(0)  # records up to and with each patient
    parts, first, start = [], 0, 0
    for k, size in enumerate(sizes):
        last = int(torch.searchsorted(ends, start + size, right=True))
        idx = ((place[which] >= first) & (place[which] < last)).nonzero()[:, 0]
        if size and not len(idx):
            raise DataError(f"part {k} of {tuple(sizes)} is too small for the next patient's records; make it larger")
        parts.append(ecg_set.subset(idx, f"part {k} of {len(sizes)}, seed {seed}"))
        first, start = last, start + len(idx)
    return tuple(parts)


def scorable(parts: Sequence[ECGSet], least: int = 2) -> tuple[ECGSet, ...]:
    """The same parts with only those labels that at least `least` records of every part have, and as many lack.

    `refused` says how many labels were left out. Raises `DataError` when no label is left.
    """
    names = parts[0].label_names
    counts = [(part.labels.sum(0), len(part)) for part in parts]
    kept = [k for k in range(len(names)) if all(least <= count[k] <= total - least for count, total in counts)]
    if not kept:
        number = {1: "one record", 2: "two records"}.get(least, f"{least} records")
        reason = f"none of the {len(names)} labels has {number} in every part: nothing could be scored"
        raise DataError(f"{parts[0].name}: {reason}")
    rare = len(names) - len(kept)
    refused = dict(parts[0].refused) | ({"label too rare to score": rare} if rare else {})
    label_names = tuple(names[k] for k in kept)
    return tuple(
        replace(part, labels=part.labels[:, kept], label_names=label_names, refused=dict(refused)) for part in parts
    )


def lead_stats(signals: Float16[Tensor, "n 12 T"]) -> tuple[Float32[Tensor, "leads=12"], Float32[Tensor, "leads=12"]]:
    """Mean and standard deviation of each lead over all records, in mV: one pair of constants per database.

    Take them from training records only. Sums are kept in float64 over pieces, so a memory-mapped set stays on disk.
    Raises `DataError` for no records and for a lead that is flat in all of them.
    """
    if not len(signals):
        raise DataError("cannot take lead statistics of no records")
    total, squares = torch.zeros(2, len(LEADS), dtype=torch.double)
    for piece in signals.split(64):
        piece = piece.double()
        total += piece.sum((0, 2))
        squares += piece.square().sum((0, 2))
    count = signals.shape[0] * signals.shape[2]
    mean = total / count
    std = (squares / count - mean**2).clamp(min=0).sqrt().float()
    flat = [lead for lead, value in zip(LEADS, std.tolist(), strict=True) if not value > 0]
    if flat:
        raise DataError(f"cannot normalise: lead {', '.join(flat)} has no spread; is it flat in every record?")
    return mean.float(), std


def normalise(
    signals: Float[Tensor, "n 12 T"],
    stats: tuple[Float32[Tensor, "leads=12"], Float32[Tensor, "leads=12"]],
    clip: float = 5.0,
) -> Float[Tensor, "n 12 T"]:
    """(signal - mean) / std per lead in float32, clipped to +-`clip`: the paper's input.

    `stats` come from `lead_stats`.
    """
    mean, std = (stat.to(signals.device) for stat in stats)
    return ((signals.float() - mean[:, None]) / std[:, None]).clamp_(-clip, clip)


def patchify(signals: Float[Tensor, "n 12 T"], patch: int) -> Float[Tensor, "n N P"]:
    """N = T / patch tokens along time; one token holds all leads, P = 12 * patch. `DataError` if it doesn't divide."""
    samples = signals.shape[-1]
    if patch < 1 or samples % patch:
        raise DataError(f"patches of {patch} samples don't tile records of {samples}; choose a divisor")
    return einops.rearrange(signals, "n l (t p) -> n t (l p)", p=patch)
