"""Time to quality: how many core-seconds until frozen features reach a level? Records in, a table out; no models here.

Accuracy is a matter of steps, cost one of the machine, so the two are measured apart. A race record holds one run of
one
recipe: `config["recipe"]`, and the series "accuracy: <recipe>", whose evaluations lie evenly over
`config["num_steps"]`. A
cost record holds the core-seconds of a step of every recipe, measured in alternation on one machine. Time is steps x
cost.
The seconds that a race record gives as its series' x are those of the machine and the hour of that run: never used
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

SLACK = 0.005  # share of test images by which the evaluation after the crossing may fall below the level
REFERENCE = "official"  # in float32, as its code runs on a CPU; it sets the level
SAME_PRECISION = "official + bf16"
COST = "seconds per step: "  # + recipe: series and value of a cost record


def time_to_level(when: Sequence[float], accuracy: Sequence[float], level: float) -> float | None:
    """When (steps or seconds) the first evaluation at `level` was that the next one confirms (no lower than `level` -
    0.5 points).

    The last evaluation needs no confirmation. None when the run never gets there. Both sequences have one entry per
    evaluation, times ascending. Raises ValueError when their lengths differ.
    """
    if len(when) != len(accuracy):
        raise ValueError(f"{len(when)} times but {len(accuracy)} accuracies: give one of each per evaluation")
    for i, reached in enumerate(accuracy):
        if reached >= level and (i + 1 == len(accuracy) or accuracy[i + 1] >= level - SLACK):
            return float(when[i])
    return None


def curve(record: dict) -> tuple[list[int], list[float]]:
    """Steps done and accuracy (a share) at each evaluation of one race record; the first is of the untrained encoder."""
    config = record["config"]
    accuracy = record["series"][f"accuracy: {config['recipe']}"]["y"]
    return [round(config["num_steps"] * i / config["evaluations"]) for i in range(config["evaluations"] + 1)], accuracy


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
    never
    arrives decides it); final (median final accuracy, a share); level; ratio and ratio_bf16 (median of the official
    recipe, in
    float32 and in bf16, over this median). `level` defaults to `race_level(records)`, but for ratio_bf16, which is
    taken at the
    level that the official runs in bf16 set, by the same rule. Raises ValueError where a recipe has no cost.
    """
    level = race_level(records) if level is None else level
    runs = {
        name: [r for r in records if r["config"]["recipe"] == name]
        for name in dict.fromkeys(r["config"]["recipe"] for r in records)
    }
    if unknown := sorted(set(runs) - set(costs)):
        raise ValueError(f"no cost of a step of {', '.join(unknown)}: run `python -m jepa_lab bench --race --cost`")
    rows = [_row(name, found, costs[name], level) for name, found in runs.items()]
    again = (
        [_row(name, found, costs[name], race_level(records, SAME_PRECISION)) for name, found in runs.items()]
        if SAME_PRECISION in runs
        else []
    )
    for key, reference, at_level in (("ratio", REFERENCE, rows), ("ratio_bf16", SAME_PRECISION, again)):
        medians = {row["recipe"]: row["median"] for row in at_level}
        for row in rows:
            own = medians.get(row["recipe"])
            row[key] = medians[reference] / own if medians.get(reference) and own else None
    return sorted(rows, key=lambda row: row["median"] if row["median"] is not None else float("inf"))


def _row(name: str, runs: list[dict], cost: float, level: float) -> dict:
    runs = sorted(runs, key=lambda record: record["seed"])
    steps = [time_to_level(*curve(record), level) for record in runs]
    seconds = [None if s is None else cost * s for s in steps]
    never = float("inf")
    ordered = [never if s is None else s for s in seconds]
    known = {
        key: (None if s == never else s)
        for key, s in (("median", median(ordered)), ("low", min(ordered)), ("high", max(ordered)))
    }
    return {
        "recipe": name,
        "seeds": [record["seed"] for record in runs],
        "step_s": cost,
        "steps": steps,
        "seconds": seconds,
        "reached": sum(s is not None for s in steps),
        **known,
        "final": median(curve(record)[1][-1] for record in runs),
        "level": level,
    }
