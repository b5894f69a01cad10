"""PTB-XL 1.0.3 (Wagner et al. 2020): its tables, its six sets of labels, its ten folds."""

from __future__ import annotations

import ast
import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from jepa_lab.data.ecg.folders import multi_hot
from jepa_lab.data.ecg.piles import gather, pile
from jepa_lab.data.ecg.sets import ECGSet
from jepa_lab.data.sources.archives import DataError
from jepa_lab.data.sources.fetch import cache_root, origin

TASKS = ("all", "diagnostic", "subclass", "superclass", "form", "rhythm")
RECORDS, STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"
STATEMENT_COLUMNS = ("", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
BROKEN_LINE = (ValueError, TypeError, SyntaxError, OverflowError, MemoryError, RecursionError)  # of a hostile table


class Row(NamedTuple):
    """One line of ptbxl_database.csv. Rows sort by fold, then by id."""

    fold: int
    ecg_id: int
    patient: int
    record: str  # path of the WFDB record
    codes: dict[str, float]  # statement -> likelihood in per cent


def ptb_xl_folder(root: str | Path | None = None) -> Path | None:
    """The folder of PTB-XL: `root` itself, or "ptb-xl" in the cache `root`; None where there is none."""
    places = ([Path(root)] if root else []) + [cache_root(root) / "ptb-xl"]
    return next((place for place in places if (place / RECORDS).is_file()), None)


def _required_folder(root: str | Path | None) -> Path:
    folder = ptb_xl_folder(root)
    if folder is None:
        raise DataError(
            f"no PTB-XL in {root or cache_root()}: run `python -m jepa_lab data fetch ptb-xl`, or give the folder that "
            f"holds {RECORDS}, {STATEMENTS}, records100/ and records500/ of version 1.0.3"
        )
    return folder


def ptb_xl(root: str | Path | None = None, rate: int = 100, task: str = "superclass") -> ECGSet:
    """PTB-XL with its folds and the labels of one of TASKS; at 100 Hz from its own files of 100 Hz.

    root: the cache, or the folder that holds ptbxl_database.csv. Nothing is downloaded here (`data fetch ptb-xl` does).
    Records without a label of the task are left out. Classes are those of the whole database, also in a fold without
    one of them. Records come in the order of their folds, so that folds 1 to 8 are one piece of the memory-mapped file
    (2.1 GB of 2.6 GB at 500 Hz). A patient or a recording that the table puts in two folds stays in the first of them.
    Raises `DataError`.
    """
    if task not in TASKS:
        raise DataError(f"PTB-XL has no task {task!r}; choose one of {', '.join(TASKS)}")
    folder = _required_folder(root)
    cache = None if folder == Path(root or "") else root
    statements = {row[""]: row for row in _table(folder / STATEMENTS, STATEMENT_COLUMNS)}
    refused: Counter[str] = Counter()
    rows = _one_fold_each(
        sorted(_rows(folder / RECORDS, rate, refused), key=lambda row: (row.fold, row.ecg_id)), refused
    )
    found = pile(folder, [row.record for row in rows], rate, 10, cache)
    codes = [_task_codes(row.codes, statements, task) for row in rows]
    labelled = [i for i, k in enumerate(found.kept) if codes[k]]
    if not labelled:
        raise DataError(f"{folder} has no readable record with a label of the task {task!r}; is {STATEMENTS} whole?")
    used = [found.kept[i] for i in labelled]
    classes = sorted(set().union(*codes))
    return ECGSet(
        signals=found.signals if len(labelled) == len(found.kept) else gather(found.signals, labelled, cache),
        labels=multi_hot([codes[k] for k in used], classes),
        label_names=tuple(classes),
        rate=rate,
        patients=torch.tensor([rows[k].patient for k in used]),
        folds=torch.tensor([rows[k].fold for k in used]),
        name=f"PTB-XL [{task}]",
        source=origin(folder).get("source", f"local copy in {folder}"),
        sha256=found.sha256,
        kind="real",
        refused=dict(refused + Counter(found.refused)),
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
        expected = f"{RECORDS}, {STATEMENTS}, records100/, records500/"
        raise DataError(f"cannot read {path} ({error}); expected the files of PTB-XL 1.0.3: {expected}") from error


def _rows(path: Path, rate: int, refused: Counter[str]) -> Iterator[Row]:
    """The lines of ptbxl_database.csv; a broken line is refused and counted."""
    column = "filename_lr" if rate == 100 else "filename_hr"
    for line in _table(path, ("ecg_id", "patient_id", "scp_codes", "strat_fold", column)):
        try:
            yield _row(line, column)
        except BROKEN_LINE:
            refused[f"line of {RECORDS} unreadable"] += 1


def _one_fold_each(rows: Sequence[Row], refused: Counter[str]) -> list[Row]:
    """The rows without those of a patient that an earlier fold has."""
    fold_of: dict[int, int] = {}
    kept = [row for row in rows if fold_of.setdefault(row.patient, row.fold) == row.fold]
    refused["patient in two folds"] += len(rows) - len(kept)
    return kept


def _row(line: dict[str, str], column: str) -> Row:
    fold, ecg_id, patient = (int(float(line[key])) for key in ("strat_fold", "ecg_id", "patient_id"))
    codes = ast.literal_eval(line["scp_codes"])
    named = isinstance(codes, dict) and all(isinstance(code, str) for code in codes)
    if not named or not 1 <= fold <= 10 or not line[column]:
        raise ValueError(line)
    return Row(fold, ecg_id, patient, line[column], codes)


def _task_codes(codes: dict[str, float], statements: dict[str, dict[str, str]], task: str) -> set[str]:
    """Labels of one record: every statement counts, whatever its likelihood, also 0, as in the authors' benchmark."""
    if task == "all":
        return set(codes)
    flag = task if task in ("form", "rhythm") else "diagnostic"
    chosen = {code for code in codes if code in statements and statements[code][flag] in ("1", "1.0")}
    if task not in ("subclass", "superclass"):
        return chosen
    group = f"diagnostic_{task.removeprefix('super')}"
    return {statements[code][group] for code in chosen} - {""}
