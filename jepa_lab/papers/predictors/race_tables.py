"""The time-to-quality race of chapter 02 and its ladder as rows of numbers and as text, from their run records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from jepa_lab.papers.predictors import race

HEAD = "recipe           seeds  steps  ms a step  core-s    low   high  official / it  official + bf16 / it  final %"
REFERENCES = {"ratio": race.REFERENCE, "ratio_bf16": race.SAME_PRECISION}


def rows_of(records: Sequence[dict], costs: Sequence[dict]) -> list[dict]:
    """The race's table, fastest recipe first; [] while the reference, which sets the level, or the cost of a step has
    no record.
    """
    if not costs or not entered(records, race.REFERENCE):
        return []
    return race.race_table(entered(records), race.step_costs(costs))


def entered(records: Sequence[dict], recipe: str | None = None) -> list[dict]:
    """The race's runs (of one recipe): scored on the test split, unlike those used for tuning, and no rungs of the
    ladder.
    """
    scored = [record for record in records if record["config"]["scored_on"] == "test" and not _is_rung(record)]
    return [record for record in scored if recipe in (None, record["config"]["recipe"])]


def _is_rung(record: dict) -> bool:
    return record["config"]["recipe"][0].isdigit()


def rungs_of(records: Sequence[dict], costs: Sequence[dict]) -> list[dict]:
    """The ladder from the official recipe to ours, lowest rung first; [] without records.

    Keys: recipe; finals (accuracy at the end, a share per seed); gain (mean over the rung below's, None on the first);
    untrained (mean share); ran_s (mean core-seconds of the runs on the machine that the ladder was sized for);
    here_s (steps x cost of a step, None where that is not measured).
    """
    cost = race.step_costs(costs)
    runs = sorted(filter(_is_rung, records), key=lambda record: (record["config"]["recipe"], record["seed"]))
    rows: list[dict] = []
    for name in dict.fromkeys(record["config"]["recipe"] for record in runs):
        of_rung = [record for record in runs if record["config"]["recipe"] == name]
        accuracies = [race.curve(record)[1] for record in of_rung]
        finals = [accuracy[-1] for accuracy in accuracies]
        row = {
            "recipe": name,
            "finals": finals,
            "gain": mean(finals) - mean(rows[-1]["finals"]) if rows else None,
            "untrained": mean(accuracy[0] for accuracy in accuracies),
            "ran_s": mean(record["values"]["core_s"] for record in of_rung),
            "here_s": cost[name] * of_rung[0]["config"]["num_steps"] if name in cost else None,
        }
        rows.append(row)
    return rows


def settings_of(records: Sequence[dict], rows: Sequence[Mapping]) -> dict[str, dict]:
    """What each recipe changes of the reference, by name: {recipe: {field: value}}, from the records' configs."""
    config = {record["config"]["recipe"]: record["config"] for record in entered(records)}
    base = config[race.REFERENCE] | {"recipe": None}
    return {
        row["recipe"]: {
            key: value for key, value in config[row["recipe"]].items() if key != "recipe" and value != base.get(key)
        }
        for row in rows
    }


def arrival_text(rows: Sequence[Mapping]) -> str:
    """The table in words."""
    parts = []
    for row in rows:
        took = "never in half of its runs"
        if row["median"] is not None:
            took = f"median {row['median']:.0f} core-seconds, from {row['low']:.0f}"
        parts.append(f"{row['recipe']}: {took}, {row['reached']} of {len(row['seeds'])} seeds reached it")
    return "To the level. " + "; ".join(parts) + "."


def _number(value: float | None, spec: str) -> str:
    return "never" if value is None else format(value, spec)


def _ours(rows: Sequence[Mapping]) -> Mapping:
    return next((row for row in rows if row["recipe"] == "ours"), {})


def _standing(row: Mapping) -> str:
    """One row of the table under HEAD."""
    steps = None if row["median"] is None else row["median"] / row["step_s"]
    median, low, high = (_number(row[key], ".0f") for key in ("median", "low", "high"))
    ratio, ratio_bf16 = (_number(row[key], ".1f") for key in REFERENCES)
    return (
        f"{row['recipe']:17s}{row['reached']}/{len(row['seeds'])}{_number(steps, '.0f'):>9}{1000 * row['step_s']:11.0f}"
        f"{median:>8}{low:>7}{high:>7}{ratio:>15}{ratio_bf16:>22}{100 * row['final']:9.2f}"
    )


def _goal_line(records: Sequence[dict], ratio: float, reference: str, goal: float) -> str:
    """Whether our recipe needs `goal` times fewer core-seconds than the reference."""
    runs = entered(records, reference)
    level = 100 * race.race_level(runs, reference)
    holds = "yes" if ratio >= goal else "no"
    return (
        f"{goal:g} times fewer than {reference}, to {level:.2f} %: {holds}, {ratio:.1f}, over {len(runs)} seed(s) of it"
    )


def _below_line(records: Sequence[dict], row: Mapping) -> str | None:
    """The seeds of a recipe that end below the level, or None."""
    finals = {record["seed"]: race.curve(record)[1][-1] for record in entered(records, row["recipe"])}
    below = [f"seed {seed} at {100 * final:.2f} %" for seed, final in finals.items() if final < row["level"]]
    if not below:
        return None
    return f"{row['recipe']} ends below the level of {100 * row['level']:.2f} %: {', '.join(below)}"


def _cost_line(records: Sequence[dict], cost: dict) -> str:
    """Where the cost of a step was measured, and both ratios by that cost."""
    config, values = cost["config"], cost["values"]
    ours = _ours(rows_of(records, [cost]))
    ratios = " and ".join(_number(ours.get(key), ".1f") for key in REFERENCES)
    load = f"load {values['load before']:.1f} to {values['load after']:.1f}"
    return (
        f"cost: median of {config['rounds']} rounds of {config['steps_a_round']} steps, {cost['device']}, {load}, "
        f"torch {cost['versions']['torch']}: {ratios} times"
    )


def standing_text(records: Sequence[dict], costs: Sequence[dict], rows: Sequence[Mapping], goal: float = 5.0) -> str:
    """The table in lines: seeds, steps, cost, core-seconds, both ratios, whether `goal` holds, who ended below the
    level, the ratios on every machine (newest first: the table counts in its cost).
    """
    lines = [HEAD, *map(_standing, rows)]
    ours = _ours(rows)
    lines += [_goal_line(records, ours[key], name, goal) for key, name in REFERENCES.items() if ours.get(key)]
    lines += [line for line in (_below_line(records, row) for row in rows) if line]
    newest_first = sorted(costs, key=lambda record: record["started"], reverse=True)
    lines += [_cost_line(records, cost) for cost in newest_first]
    return "\n".join(lines)
