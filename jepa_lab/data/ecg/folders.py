"""Folders of WFDB records as labelled sets; several of them as one set. n records, T samples, L labels."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from jepa_lab import files
from jepa_lab.data.ecg.piles import STORED_TWICE, pile
from jepa_lab.data.ecg.repeats import Recordings
from jepa_lab.data.ecg.sets import ECGSet, lead_stats, normalise, split
from jepa_lab.data.sources.archives import DataError

SHARES = (0.8, 0.1, 0.1)  # of each database: to train on, to choose with, to score on


def wfdb_folder(folder: str | Path, rate: int = 100, seconds: float = 10, root: str | Path | None = None) -> ECGSet:
    """Every WFDB record under `folder`, its first `seconds` at `rate` Hz, with labels from "#Dx:" lines (CinC 2021).

    Each recording counts as one patient, since these folders do not name patients; a copy of one, in a backup or at
    another sampling rate, counts as refused. Hidden folders and those of tools are left out, links are followed.
    Unusable records are counted in `.refused`. The signals stay in a file in the cache (`root`, see
    `fetch.cache_root`). Raises `DataError`: no folder, nothing readable.
    """
    place = Path(os.path.abspath(folder))
    names = _record_names(place)
    if not names:
        expected = f"{folder}/**/<record>.hea beside <record>.dat or .mat"
        raise DataError(f"{folder} holds no WFDB records; expected {expected}")
    found = pile(place, names, rate, seconds, root)
    codes = [_codes(lines) for lines in found.comments]
    classes = sorted(set().union(*codes))
    return ECGSet(
        signals=found.signals,
        labels=multi_hot(codes, classes),
        label_names=tuple(classes),
        rate=rate,
        patients=torch.arange(len(found.kept)),
        folds=torch.zeros(len(found.kept), dtype=torch.int64),
        name=f"WFDB folder {place.name}",
        source=str(place),
        sha256=found.sha256,
        kind="real",
        refused=found.refused,
    )


def _record_names(folder: Path) -> list[str]:
    """The records below `folder`, by the names of their headers; those of a folder before those of its longer names."""
    try:
        found = list(files.below(folder)) if folder.is_dir() else []
    except OSError as error:
        raise DataError(f"cannot list the records in {folder} ({error}); allow reading it or remove it") from error
    headers = [path.relative_to(folder).with_suffix("") for path in found if path.suffix.lower() == ".hea"]
    return [path.as_posix() for path in sorted(headers, key=lambda path: path.parts)]


def databases(folders: Sequence[str], rate: int, seconds: float, sizes: Sequence[int]) -> tuple[ECGSet, ...]:
    """Folders of WFDB records as one set in three parts, which hold SHARES of each folder, or less of each.

    All parts shrink by the same factor until the first, second and third are no larger than `sizes`. Every folder's
    leads are brought to the mean and deviation of the first folder's training records, by statistics of the folder's
    own training records. A recording that two folders share stays in the first of them. Raises `DataError` as
    `wfdb_folder`, and for a folder of too few records.
    """
    found: list[ECGSet] = []
    for data in _without_shared([wfdb_folder(folder.strip(), rate, seconds) for folder in folders]):
        found.append(replace(data, patients=data.patients + sum(map(len, found))))  # each folder has its own patients
    total = sum(map(len, found))
    factor = min(1.0, *(size / (share * total) for size, share in zip(sizes, SHARES, strict=True)))
    cuts = [split(data, [int(share * factor * len(data)) for share in SHARES]) for data in found]
    if not all(len(part) for parts in cuts for part in parts):
        held = "; ".join(f"{folder} has {len(data)} ({_refusals(data)})" for folder, data in zip(folders, found))
        raise DataError(
            f"too few records to train on, to choose with and to score on: {held}; each folder needs at least 10"
        )
    stats = [lead_stats(parts[0].signals) for parts in cuts]
    return tuple(_joined(part, stats) for part in zip(*cuts, strict=True))


def _without_shared(sets: list[ECGSet]) -> list[ECGSet]:
    """The sets without the recordings that an earlier set has."""
    if len(sets) == 1:
        return sets
    recordings, kept = Recordings(sets[0].signals.shape[-1], sets[0].rate, sum(map(len, sets))), []
    for data in sets:
        own = torch.tensor([recordings.is_new(signal.numpy()) for signal in data.signals])
        refused = Counter(data.refused) + Counter({STORED_TWICE: int((~own).sum())})
        kept.append(replace(data if bool(own.all()) else data.subset(own.nonzero()[:, 0]), refused=dict(refused)))
    return kept


def _refusals(data: ECGSet) -> str:
    return "left out: " + (", ".join(f"{count} {reason}" for reason, count in data.refused.items()) or "none")


def _joined(parts: Sequence[ECGSet], stats: Sequence[tuple[Tensor, Tensor]]) -> ECGSet:
    """Parts of several databases as one set, whose labels are those of any; leads scaled to the first one's `stats`."""
    names = sorted(set().union(*(part.label_names for part in parts)))
    signals = [parts[0].signals]
    signals += [_rescaled(part.signals, own, stats[0]) for part, own in zip(parts[1:], stats[1:], strict=True)]
    refused = sum((Counter(part.refused) for part in parts), Counter())
    return ECGSet(
        signals=torch.cat(signals),
        labels=torch.cat([multi_hot(_names_of(part), names) for part in parts]),
        label_names=tuple(names),
        rate=parts[0].rate,
        patients=torch.cat([part.patients for part in parts]),
        folds=torch.cat([part.folds for part in parts]),
        name=", ".join(part.name.split(" [")[0] for part in parts),
        source=", ".join(part.source for part in parts),
        sha256=_digest([part.sha256 for part in parts]),
        kind="real",
        refused=dict(refused),
    )


def _rescaled(signals: Tensor, own: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> Tensor:
    """Signals whose leads have the statistics `own`, brought to the statistics `wanted`."""
    mean, std = wanted
    return (normalise(signals, own, math.inf) * std[:, None] + mean[:, None]).half()


def _digest(sums: Sequence[str]) -> str:
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def _names_of(part: ECGSet) -> list[set[str]]:
    """Each record's labels by name."""
    return [{part.label_names[k] for k in row.nonzero()[:, 0].tolist()} for row in part.labels]


def _codes(comments: Sequence[str]) -> set[str]:
    """The codes (SNOMED CT, separated by commas) after "Dx:" in a header's comments."""
    codes: set[str] = set()
    for line in comments:
        if match := re.match(r"\s*Dx:(.*)", line, re.IGNORECASE):
            codes |= {code.strip() for code in match[1].split(",")}
    return codes - {"", "Unknown"}


def multi_hot(codes: Sequence[set[str]], classes: Sequence[str]) -> Bool[Tensor, "n L"]:
    """One row per record, one column per class: whether the record has that code."""
    column = {name: k for k, name in enumerate(classes)}
    labels = torch.zeros(len(codes), len(classes), dtype=torch.bool)
    for i, names in enumerate(codes):
        labels[i, [column[name] for name in names]] = True
    return labels
