"""Twelve-lead electrocardiograms: one labelled set, split by patient, normalised per lead, cut into patches; PTB-XL and
any
folder of WFDB records read into it.

Shape letters: n records, 12 leads, T samples, L labels, N patches of P = 12 * patch numbers.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import einops
import torch
from jaxtyping import Bool, Float, Float16, Float32, Int64
from torch import Tensor

from jepa_lab.data.ecg.wfdb import LEADS, RecordError, gather, pile, read_record
from jepa_lab.data.sources.archives import DataError
from jepa_lab.data.sources.fetch import cache_root, origin

__all__ = [
    "LEADS",
    "TASKS",
    "ECGSet",
    "RecordError",
    "by_fold",
    "databases",
    "lead_stats",
    "normalise",
    "patchify",
    "ptb_xl",
    "ptb_xl_folder",
    "read_record",
    "scorable",
    "split",
    "wfdb_folder",
]

TASKS = ("all", "diagnostic", "subclass", "superclass", "form", "rhythm")  # PTB-XL's six sets of labels


@dataclass(frozen=True)
class ECGSet:
    """Labelled records in memory or in a memory-mapped file. `sha256` is that of what the signals were made from."""

    signals: Float16[Tensor, "n 12 T"]  # millivolts, in the order of LEADS
    labels: Bool[Tensor, "m L"]  # multi-label; m = n, checked below in words
    label_names: tuple[str, ...]
    rate: int  # Hz
    patients: Int64[Tensor, " p"]  # splits never cut a patient; p = n
    folds: Int64[Tensor, " f"]  # 1..10 as PTB-XL has them, 0 where a source has none; f = n
    name: str
    source: str
    sha256: str
    kind: str  # 'real' | 'generated' | 'simulated'
    refused: dict[str, int] = field(default_factory=dict)  # reason -> number of records left out

    def __post_init__(self) -> None:
        if self.signals.dtype != torch.float16 or self.signals.ndim != 3 or self.signals.shape[1] != len(LEADS):
            raise DataError(
                f"{self.name}: signals must be float16 of n x 12 x T, got {self.signals.dtype} of {tuple(self.signals.shape)}"
            )
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
        run = len(idx) > 0 and bool((idx[1:] - idx[:-1] == 1).all()) and int(idx[0]) >= 0
        signals = self.signals[int(idx[0]) : int(idx[-1]) + 1] if run else self.signals[idx]
        return replace(
            self,
            signals=signals,
            labels=self.labels[idx],
            patients=self.patients[idx],
            folds=self.folds[idx],
            name=f"{self.name} [{part}]",
        )


def by_fold(ecg_set: ECGSet, folds: Sequence[int], part: str = "") -> ECGSet:
    """The records of the given folds, e.g. `by_fold(data, range(1, 9))`. `DataError` when there are none."""
    idx = torch.isin(ecg_set.folds, torch.tensor(list(folds), dtype=torch.int64)).nonzero()[:, 0]
    if not len(idx):
        raise DataError(
            f"{ecg_set.name} has no records of fold {', '.join(map(str, folds))}; it has the folds "
            f"{sorted(set(ecg_set.folds.tolist()))}, where 0 means none: cut it with `split`"
        )
    return ecg_set.subset(idx, part or f"fold {', '.join(map(str, folds))}")


def split(ecg_set: ECGSet, sizes: Sequence[int], seed: int = 0) -> tuple[ECGSet, ...]:
    """Cut disjoint parts that share no patient, by one shuffle of the patients; what is left over stays unused.

    A part takes whole patients until one more would make it larger than its size: with one record per patient it has
    exactly that many records, else up to the largest patient's number less one fewer. Raises `DataError` when the sizes
    don't fit.
    """
    if any(size < 0 for size in sizes) or sum(sizes) > len(ecg_set):
        raise DataError(f"cannot cut parts of {tuple(sizes)} from {len(ecg_set)} records")
    patients, which = ecg_set.patients.unique(return_inverse=True)
    order = torch.randperm(len(patients), generator=torch.Generator().manual_seed(seed))
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    ends = torch.bincount(place[which], minlength=len(patients)).cumsum(
        0
    )  # records up to and with the patient at each place
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
    Raises `DataError` for no records and for a lead that is flat in all of them.
    """
    if not len(signals):
        raise DataError("cannot take lead statistics of no records")
    total, squares = torch.zeros(len(LEADS), dtype=torch.double), torch.zeros(len(LEADS), dtype=torch.double)
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
    signals: Float[Tensor, "n 12 T"], stats: tuple[Float32[Tensor, "12"], Float32[Tensor, "12"]], clip: float = 5.0
) -> Float[Tensor, "n 12 T"]:
    """(signal - mean) / std per lead in float32, clipped to +-`clip`: the paper's input, with `stats` from
    `lead_stats`.
    """
    mean, std = (stat.to(signals.device) for stat in stats)
    return ((signals.float() - mean[:, None]) / std[:, None]).clamp_(-clip, clip)


def patchify(signals: Float[Tensor, "n 12 T"], patch: int) -> Float[Tensor, "n N P"]:
    """Cut time into N = T / patch tokens; one token holds all leads, P = 12 * patch. `DataError` if it doesn't divide."""
    samples = signals.shape[-1]
    if patch < 1 or samples % patch:
        raise DataError(f"patches of {patch} samples don't tile records of {samples}; choose a divisor")
    return einops.rearrange(signals, "n l (t p) -> n t (l p)", p=patch)


def wfdb_folder(folder: str | Path, rate: int = 100, seconds: float = 10, root: str | Path | None = None) -> ECGSet:
    """Every WFDB record under `folder`, its first `seconds` at `rate` Hz; labels from "#Dx:" lines as in CinC 2021, if
    any.

    Each record counts as a patient, as these folders don't say more. Records that can't be used are counted in
    `.refused`.
    The signals stay in a file in the cache (`root`, see `fetch.cache_root`). `DataError`: no folder, nothing readable.
    """
    place = Path(os.path.abspath(folder))
    names = (
        sorted(path.relative_to(place).as_posix().removesuffix(".hea") for path in place.rglob("*.hea"))
        if place.is_dir()
        else []
    )
    if not names:
        raise DataError(
            f"{folder} holds no WFDB records; expected {folder}/**/<record>.hea beside <record>.dat or .mat"
        )
    found = pile(place, names, rate, seconds, root)
    codes = [_codes(lines) for lines in found.comments]
    classes = sorted(set().union(*codes))
    return ECGSet(
        found.signals,
        _multi_hot(codes, classes),
        tuple(classes),
        rate,
        torch.arange(len(found.kept)),
        torch.zeros(len(found.kept), dtype=torch.int64),
        f"WFDB folder {place.name}",
        str(place),
        found.sha256,
        "real",
        found.refused,
    )


def databases(folders: Sequence[str], rate: int, seconds: float, sizes: Sequence[int]) -> tuple[ECGSet, ...]:
    """Folders of WFDB records as one set in three parts, 8 : 1 : 1 of each folder or fewer: all parts of a folder
    shrink until
    the first, second and third together are no larger than `sizes`.

    Each database keeps constants of its own: every lead is brought to the mean and deviation that it has in the first
    folder's
    training records, by those of its own. `DataError` as `wfdb_folder`.
    """
    found: list[ECGSet] = []
    for folder in folders:  # patients of different folders get different numbers
        one = wfdb_folder(folder.strip(), rate, seconds)
        found.append(replace(one, patients=one.patients + sum(map(len, found))))
    share = min(1.0, *(size / (part * sum(map(len, found))) for size, part in zip(sizes, (0.8, 0.1, 0.1), strict=True)))
    cuts = [split(one, [int(part * share * len(one)) for part in (0.8, 0.1, 0.1)]) for one in found]
    if not all(len(part) for parts in cuts for part in parts):
        raise DataError(
            f"{', '.join(folders)}: too few records to train on, to choose with and to score on; each folder needs at least 10"
        )
    target = lead_stats(cuts[0][0].signals)
    return tuple(_joined(part, [lead_stats(parts[0].signals) for parts in cuts], target) for part in zip(*cuts))


def _joined(parts: Sequence[ECGSet], stats: Sequence[tuple[Tensor, Tensor]], target: tuple[Tensor, Tensor]) -> ECGSet:
    """Parts of several databases as one; labels are those of any."""
    names = sorted(set().union(*(part.label_names for part in parts)))
    signals = [
        part.signals
        if one is stats[0]
        else (normalise(part.signals, one, math.inf) * target[1][:, None] + target[0][:, None]).half()
        for part, one in zip(parts, stats, strict=True)
    ]
    labels = [
        _multi_hot([set(part.label_names[k] for k in row.nonzero()[:, 0].tolist()) for row in part.labels], names)
        for part in parts
    ]
    digest = (
        parts[0].sha256
        if len(parts) == 1
        else hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    )
    return ECGSet(
        torch.cat(signals),
        torch.cat(labels),
        tuple(names),
        parts[0].rate,
        torch.cat([part.patients for part in parts]),
        torch.cat([part.folds for part in parts]),
        ", ".join(part.name.split(" [")[0] for part in parts),
        ", ".join(part.source for part in parts),
        digest,
        "real",
        dict(sum((Counter(part.refused) for part in parts), Counter())),
    )


def scorable(parts: Sequence[ECGSet]) -> tuple[ECGSet, ...]:
    """The same parts with the labels alone that each of them has and lacks at least twice; how many were left out
    stands in `refused`.
    """
    counts = [part.labels.sum(0) for part in parts]
    kept = [
        k
        for k, _ in enumerate(parts[0].label_names)
        if all(2 <= count[k] <= len(part) - 2 for count, part in zip(counts, parts))
    ]
    if not kept:
        raise DataError(
            f"{parts[0].name}: no label of the {len(parts[0].label_names)} has two records in every part: nothing could be scored"
        )
    refused = Counter(parts[0].refused) + Counter({"label too rare to score": len(parts[0].label_names) - len(kept)})
    return tuple(
        replace(
            part,
            labels=part.labels[:, kept],
            label_names=tuple(part.label_names[k] for k in kept),
            refused=dict(refused),
        )
        for part in parts
    )


def _codes(comments: Sequence[str]) -> set[str]:
    """What follows "Dx:" in a header's comments: codes of SNOMED CT, with commas between."""
    text = ",".join(match[1] for line in comments if (match := re.match(r"\s*Dx:(.*)", line, re.IGNORECASE)))
    return {code.strip() for code in text.split(",") if code.strip()} - {"Unknown"}


def _multi_hot(codes: Sequence[set[str]], classes: Sequence[str]) -> Bool[Tensor, "n L"]:
    column = {name: k for k, name in enumerate(classes)}
    labels = torch.zeros(len(codes), len(classes), dtype=torch.bool)
    for i, names in enumerate(codes):
        labels[i, [column[name] for name in names]] = True
    return labels


def ptb_xl_folder(root: str | Path | None = None) -> Path | None:
    """Where PTB-XL lies: `root` itself, or "ptb-xl" in the cache `root`; None where it isn't."""
    places = ([Path(root)] if root else []) + [cache_root(root) / "ptb-xl"]
    return next((place for place in places if (place / "ptbxl_database.csv").is_file()), None)


def ptb_xl(root: str | Path | None = None, rate: int = 100, task: str = "superclass") -> ECGSet:
    """PTB-XL 1.0.3 (Wagner et al. 2020) with its folds and the labels of one of TASKS; 100 Hz from its own files of 100
    Hz.

    root: the cache, or the folder that holds ptbxl_database.csv; nothing is downloaded here (`data fetch ptb-xl` does).
    Records
    without a label of the task are left out; classes are those of the whole database, also where a fold has none of
    one.
    Records come in the order of their folds, so that folds 1 to 8 are one piece of the memory-mapped file (2.1 GB of
    2.6 GB
    at 500 Hz). `DataError`.
    """
    if task not in TASKS:
        raise DataError(f"PTB-XL has no task {task!r}; choose one of {', '.join(TASKS)}")
    folder = ptb_xl_folder(root)
    if folder is None:
        raise DataError(
            f"no PTB-XL in {root or cache_root()}: run `python -m jepa_lab data fetch ptb-xl`, or give the folder that holds "
            "ptbxl_database.csv, scp_statements.csv, records100/ and records500/ of version 1.0.3"
        )
    cache = None if folder == Path(root or "") else root
    statements = {
        row[""]: row
        for row in _table(
            folder / "scp_statements.csv",
            ("", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"),
        )
    }
    refused: Counter[str] = Counter()
    rows = sorted(
        _rows(folder / "ptbxl_database.csv", "filename_lr" if rate == 100 else "filename_hr", refused),
        key=lambda row: row[:2],
    )
    found = pile(folder, [row[3] for row in rows], rate, 10, cache)
    codes = [_task_codes(row[4], statements, task) for row in rows]
    classes = sorted(set().union(*codes))
    kept = [i for i, k in enumerate(found.kept) if codes[k]]
    if not kept:
        raise DataError(
            f"{folder} has no readable record with a label of the task {task!r}; is scp_statements.csv whole?"
        )
    signals = found.signals if len(kept) == len(found.kept) else gather(found.signals, kept, cache)
    used = [rows[found.kept[i]] for i in kept]
    labels = _multi_hot([codes[found.kept[i]] for i in kept], classes)
    source = origin(folder).get("source", f"local copy in {folder}")
    return ECGSet(
        signals,
        labels,
        tuple(classes),
        rate,
        torch.tensor([row[2] for row in used]),
        torch.tensor([row[0] for row in used]),
        f"PTB-XL [{task}]",
        source,
        found.sha256,
        "real",
        dict(refused + Counter(found.refused)),
    )


def _table(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file that must have these columns."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            table = csv.DictReader(stream)
            if missing := set(columns) - set(table.fieldnames or ()):
                raise DataError(f"{path} lacks the columns {sorted(missing)}; is it the file of PTB-XL 1.0.3?")
            yield from table
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"cannot read {path} ({error}); expected the files of PTB-XL 1.0.3 beside it: ptbxl_database.csv, "
            "scp_statements.csv, records100/, records500/"
        ) from error


def _rows(path: Path, column: str, refused: Counter[str]) -> Iterator[tuple[int, int, int, str, dict[str, float]]]:
    """(fold, ecg_id, patient, record, statements) of each line of ptbxl_database.csv; a broken line is refused and
    counted.
    """
    for row in _table(path, ("ecg_id", "patient_id", "scp_codes", "strat_fold", column)):
        try:
            fold, ecg_id, patient = (int(float(row[key])) for key in ("strat_fold", "ecg_id", "patient_id"))
            codes = ast.literal_eval(row["scp_codes"])
            if (
                not 1 <= fold <= 10
                or not isinstance(codes, dict)
                or not all(isinstance(code, str) for code in codes)
                or not row[column]
            ):
                raise ValueError
        except (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError):
            refused["line of ptbxl_database.csv unreadable"] += 1
            continue
        yield fold, ecg_id, patient, row[column], codes


def _task_codes(codes: dict[str, float], statements: dict[str, dict[str, str]], task: str) -> set[str]:
    """Labels of one record: every statement counts, whatever its likelihood, also 0, as in the authors' benchmark."""
    if task == "all":
        return set(codes)
    flag = task if task in ("form", "rhythm") else "diagnostic"
    chosen = [code for code in codes if code in statements and statements[code][flag] in ("1", "1.0")]
    if task in ("subclass", "superclass"):
        group = "diagnostic_subclass" if task == "subclass" else "diagnostic_class"
        return {statements[code][group] for code in chosen} - {""}
    return set(chosen)
