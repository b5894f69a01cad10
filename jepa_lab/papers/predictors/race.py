"""Time to quality: how many core-seconds until frozen features reach a level? Records in, a table out; no models here.

Accuracy is a matter of steps, cost one of the machine, so the two are measured apart. A race record holds one run of
one recipe: `config["recipe"]`, and the series "accuracy: <recipe>", whose evaluations lie evenly over
`config["num_steps"]`. A cost record holds the core-seconds of a step of every recipe, measured in alternation on one
machine. Time is steps x cost. The x of the series "accuracy: <recipe>" holds the seconds of that run on its machine;
this file does not use them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

SLACK = 0.005  # share of test images by which the evaluation after the crossing may fall below the level
REFERENCE = "official"  # in float32, as its code runs on a CPU; it sets the level
SAME_PRECISION = "official + bf16"
NEVER = float("inf")
COST = "seconds per step: "  # + recipe: series and value of a cost record


def time_to_level(when: Sequence[float], accuracy: Sequence[float], level: float) -> float | None:
    """When (steps or seconds) the first evaluation at `level` was that the next evaluation confirms.

    It confirms with no less than `level` - 0.5 points. The last evaluation needs no confirmation. None when the run
    never gets there. Both sequences have one entry per evaluation, times ascending. Raises ValueError when their
    lengths differ.
    """
    if len(when) != len(accuracy):
        raise ValueError(f"{len(when)} times but {len(accuracy)} accuracies: give one of each per evaluation")
    for i, reached in enumerate(accuracy):
        if reached >= level and (i + 1 == len(accuracy) or accuracy[i + 1] >= level - SLACK):
            return float(when[i])
    return None


def curve(record: dict) -> tuple[list[int], list[float]]:
    """Steps done and accuracy (a share) at each evaluation of a race record; the first is of the untrained encoder."""
    config = record["config"]
    accuracy = record["series"][f"accuracy: {config['recipe']}"]["y"]
    evaluations = config["evaluations"]
    return [round(config["num_steps"] * i / evaluations) for i in range(evaluations + 1)], accuracy


def step_costs(records: Sequence[dict]) -> dict[str, float]:
    """Core-seconds of one step by recipe, of the newest cost record; {} when there is none."""
    if not records:
        return {}
    values = max(records, key=lambda record: record["started"])["values"]
    return {name.removeprefix(COST): value for name, value in values.items() if name.startswith(COST)}


def race_level(records: Sequence[dict], recipe: str = REFERENCE) -> float:
    """The lowest final accuracy over the runs of the reference recipe, so that each of them has a time.

    Raises ValueError without such runs.
    """
    finals = [curve(record)[1][-1] for record in records if record["config"]["recipe"] == recipe]
    if not finals:
        raise ValueError(
            f"no record of the recipe {recipe!r}, which sets the level: run `python -m jepa_lab bench --race` first"
        )
    return min(finals)


def race_table(records: Sequence[dict], costs: Mapping[str, float], level: float | None = None) -> list[dict]:
    """One row per recipe, fastest first: core-seconds to the level, over its runs.

    Keys: recipe; seeds; step_s (the cost of a step); steps and seconds (one per seed, None where the level was never
    reached); reached; median, low, high (core-seconds: the middle and the ends over all runs, None where a run that
    never arrives decides it); final (median final accuracy, a share); level; ratio and ratio_bf16 (median of the
    official recipe, in float32 and in bf16, over this median). `level` defaults to `race_level(records)`, but for
    ratio_bf16, which is taken at the level that the official runs in bf16 set, by the same rule. Raises ValueError
    where a recipe has no cost.
    """
    runs: dict[str, list[dict]] = {}
    for record in records:
        runs.setdefault(record["config"]["recipe"], []).append(record)
    if unknown := sorted(set(runs) - set(costs)):
        raise ValueError(f"no cost of a step of {', '.join(unknown)}: run `python -m jepa_lab bench --race --cost`")
    level = race_level(records) if level is None else level
    rows = [_row(name, found, costs[name], level) for name, found in runs.items()]
    levels = {"ratio": (REFERENCE, level)}
    if SAME_PRECISION in runs:
        levels["ratio_bf16"] = (SAME_PRECISION, race_level(records, SAME_PRECISION))
    for key in ("ratio", "ratio_bf16"):
        ratios = _ratios(runs, costs, *levels[key]) if key in levels else {}
        for row in rows:
            row[key] = ratios.get(row["recipe"])
    return sorted(rows, key=lambda row: NEVER if row["median"] is None else row["median"])


def _ratios(runs: dict[str, list[dict]], costs: Mapping[str, float], reference: str, level: float) -> dict[str, float]:
    """Core-seconds of the reference over those of each recipe, both to `level`; without recipes that do not arrive."""
    medians = {name: _row(name, found, costs[name], level)["median"] for name, found in runs.items()}
    if medians.get(reference) is None:
        return {}
    return {name: medians[reference] / median for name, median in medians.items() if median}


def _row(name: str, runs: list[dict], cost: float, level: float) -> dict:
    runs = sorted(runs, key=lambda record: record["seed"])
    steps = [time_to_level(*curve(record), level) for record in runs]
    seconds = [None if step is None else cost * step for step in steps]
    ordered = [NEVER if second is None else second for second in seconds]
    return {
        "recipe": name,
        "seeds": [record["seed"] for record in runs],
        "step_s": cost,
        "steps": steps,
        "seconds": seconds,
        "reached": sum(step is not None for step in steps),
        "median": _known(median(ordered)),
        "low": _known(min(ordered)),
        "high": _known(max(ordered)),
        "final": median(curve(record)[1][-1] for record in runs),
        "level": level,
    }


def _known(seconds: float) -> float | None:
    return None if seconds == NEVER else seconds
