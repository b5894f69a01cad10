"""Time to quality: how many core-seconds until frozen features reach a level? Curves in, a table out; no models here.

A race record holds one run of one recipe: `config["recipe"]`, and the series "accuracy: <recipe>" over the core-seconds
spent on training. The level belongs to the whole race, so no single record holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

SLACK = 0.005  # share of test images by which the evaluation after the crossing may fall below the level
REFERENCE = "official"


def time_to_level(seconds: Sequence[float], accuracy: Sequence[float], level: float) -> float | None:
    """Core-seconds of the first evaluation at `level` that the next one confirms (no lower than `level` - 0.5 points).

    The last evaluation needs no confirmation. None when the run never gets there. Both sequences have one entry per
    evaluation, seconds ascending. Raises ValueError when their lengths differ.
    """
    if len(seconds) != len(accuracy):
        raise ValueError(f"{len(seconds)} times but {len(accuracy)} accuracies: give one of each per evaluation")
    for i, reached in enumerate(accuracy):
        if reached >= level and (i + 1 == len(accuracy) or accuracy[i + 1] >= level - SLACK):
            return float(seconds[i])
    return None


def curve(record: dict) -> tuple[list[float], list[float]]:
    """Core-seconds and accuracy (a share) of one race record."""
    series = record["series"][f"accuracy: {record['config']['recipe']}"]
    return series["x"], series["y"]


def race_level(records: Sequence[dict], recipe: str = REFERENCE) -> float:
    """The lowest final accuracy over the runs of the reference recipe, so that each of them has a time.

    Raises ValueError without such runs.
    """
    finals = [curve(record)[1][-1] for record in records if record["config"]["recipe"] == recipe]
    if not finals:
        raise ValueError(f"no record of the recipe {recipe!r}, which sets the level: run `python -m jepa_lab bench --race` first")
    return min(finals)


def race_table(records: Sequence[dict], level: float | None = None) -> list[dict]:
    """One row per recipe, fastest first: core-seconds to the level, over its runs.

    Keys: recipe; seeds; seconds (one per seed, None where the level was never reached); reached; median, low, high (the
    middle and the ends over all runs, None where a run that never arrives decides it); ratio (median of the reference over
    this median); final (median final accuracy, a share); level. `level` defaults to `race_level(records)`.
    """
    level = race_level(records) if level is None else level
    rows = [_row(name, [r for r in records if r["config"]["recipe"] == name], level) for name in dict.fromkeys(r["config"]["recipe"] for r in records)]
    reference = next((row["median"] for row in rows if row["recipe"] == REFERENCE), None)
    for row in rows:
        row["ratio"] = reference / row["median"] if reference and row["median"] else None
    return sorted(rows, key=lambda row: row["median"] if row["median"] is not None else float("inf"))


def _row(name: str, runs: list[dict], level: float) -> dict:
    runs = sorted(runs, key=lambda record: record["seed"])
    seconds = [time_to_level(*curve(record), level) for record in runs]
    never = float("inf")
    ordered = [never if s is None else s for s in seconds]
    known = {key: (None if s == never else s) for key, s in (("median", median(ordered)), ("low", min(ordered)), ("high", max(ordered)))}
    return {
        "recipe": name, "seeds": [record["seed"] for record in runs], "seconds": seconds, "reached": sum(s is not None for s in seconds),
        **known, "final": median(curve(record)[1][-1] for record in runs), "level": level,
    }  # fmt: skip
