"""The time-to-quality race of chapter 02 and its ladder, drawn from their run records alone.

plotly is imported inside the functions, so that importing this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from jepa_lab import figures
from jepa_lab.papers.predictors import race


def rows_of(records: Sequence[dict], costs: Sequence[dict]) -> list[dict]:
    """The race's table, fastest recipe first; [] while the reference, which sets the level, or the cost of a step has
    no record.
    """
    entered = _entered(records)
    has_reference = any(record["config"]["recipe"] == race.REFERENCE for record in entered)
    return race.race_table(entered, race.step_costs(costs)) if has_reference and costs else []


def _entered(records: Sequence[dict], recipe: str | None = None) -> list[dict]:
    """The race's runs (of one recipe): scored on the test split, unlike those used for tuning, and no rungs of the
    ladder.
    """
    return [
        r
        for r in records
        if r["config"]["scored_on"] == "test" and not _is_rung(r) and recipe in (None, r["config"]["recipe"])
    ]


def _is_rung(record: dict) -> bool:
    return record["config"]["recipe"][0].isdigit()


def rungs_of(records: Sequence[dict], costs: Sequence[dict]) -> list[dict]:
    """The ladder from the official recipe to ours, lowest rung first; [] without records.

    Keys: recipe; finals (accuracy at the end, a share per seed); gain (mean over the rung below's, None on the first);
    untrained (mean share); ran_s (mean core-seconds of the runs on the machine that the ladder was sized for);
    here_s (steps x cost of a step, None where that is not measured).
    """
    rows, cost = [], race.step_costs(costs)
    runs = sorted((r for r in records if _is_rung(r)), key=lambda r: (r["config"]["recipe"], r["seed"]))
    for name in dict.fromkeys(r["config"]["recipe"] for r in runs):
        mine = [r for r in runs if r["config"]["recipe"] == name]
        finals, begin = ([race.curve(r)[1][at] for r in mine] for at in (-1, 0))
        rows.append(
            {
                "recipe": name,
                "finals": finals,
                "gain": mean(finals) - mean(rows[-1]["finals"]) if rows else None,
                "untrained": mean(begin),
                "ran_s": mean(r["values"]["core_s"] for r in mine),
                "here_s": cost[name] * mine[0]["config"]["num_steps"] if name in cost else None,
            }
        )
    return rows


def curves_figure(records: Sequence[dict], rows: Sequence[Mapping], title: str | None = None):
    """Accuracy over core-seconds, one line per run in its recipe's colour, and the level as a horizontal line."""
    import plotly.graph_objects as go

    fig, last = go.Figure(), 1.0
    for row in rows:
        name, first = row["recipe"], True
        for record in _entered(records, name):
            steps, accuracy = race.curve(record)
            seconds = [row["step_s"] * k for k in steps]
            last = max(last, seconds[-1])
            fig.add_trace(
                go.Scatter(
                    x=seconds[1:],
                    y=[100 * a for a in accuracy[1:]],
                    mode="lines",
                    name=name,
                    legendgroup=name,
                    showlegend=first,
                    opacity=0.75,
                    line=dict(color=figures.colour(name), dash=figures.dash(name), width=1.8),
                    hovertemplate=f"{name}, seed {record['seed']}: %{{y:.1f}} % after %{{x:.0f}} s<extra></extra>",
                )
            )
            first = False
    level = 100 * rows[0]["level"]
    fig.add_hline(
        y=level,
        line=dict(color="#7A7A7A", dash="dash", width=1.5),
        annotation_text=f"the level, {level:.1f} %",
        annotation_position="top left",
    )
    ticks = [mantissa * 10**power for power in range(6) for mantissa in (1, 2, 5)]
    fig.update_xaxes(
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:,}" for tick in ticks],
        title=dict(text="core-seconds: steps × cost of a step"),
    )
    fig.update_yaxes(title=dict(text="accuracy of a linear probe, %"))
    said = f"Accuracy over core-seconds for {', '.join(row['recipe'] for row in rows)}, up to {last:.0f} core-seconds. The level is {level:.1f} percent. "
    return figures.house(fig.update_layout(height=440), said + arrival_text(rows), title)


def arrival_figure(rows: Sequence[Mapping], title: str | None = None):
    """Core-seconds to the level: every run as a dot, the median as a square with the range behind it; slowest on top.

    A run that never reached the level has no dot; how many did stands beside the recipe's name.
    """
    import plotly.graph_objects as go

    fig, shown = go.Figure(), list(reversed(rows))
    furthest = max((s for row in rows for s in row["seconds"] if s is not None), default=1.0)
    for i, row in enumerate(shown):
        tint = figures.colour(row["recipe"])
        reached = [s for s in row["seconds"] if s is not None]
        fig.add_trace(
            go.Scatter(
                x=reached,
                y=[i + 0.18] * len(reached),
                mode="markers",
                showlegend=False,
                marker=dict(color=tint, size=8, opacity=0.6),
                hovertemplate=f"{row['recipe']}: %{{x:.0f}} s<extra>one seed</extra>",
            )
        )
        if row["median"] is not None:
            high = row["high"] if row["high"] is not None else max(reached)
            fig.add_trace(
                go.Scatter(
                    x=[row["median"]],
                    y=[i],
                    mode="markers+text",
                    showlegend=False,
                    marker=dict(color=tint, size=12, symbol="square"),
                    text=[" and ".join(f"{row[key]:.1f} ×" for key in ("ratio", "ratio_bf16") if row[key])],
                    textposition="top left" if row["median"] > furthest / 2 else "top right",
                    error_x=dict(
                        type="data",
                        symmetric=False,
                        array=[high - row["median"]],
                        arrayminus=[row["median"] - row["low"]],
                        color=tint,
                        thickness=3,
                        width=6,
                    ),
                    hovertemplate=f"{row['recipe']}: %{{x:.0f}} s<extra>median of {len(row['seconds'])} seeds</extra>",
                )
            )
    ticks = [f"{row['recipe']}<br>{row['reached']} of {len(row['seeds'])} seeds" for row in shown]
    fig.update_xaxes(range=[0, 1.1 * furthest], title=dict(text="core-seconds to the level"))
    fig.update_yaxes(
        tickvals=list(range(len(shown))), ticktext=ticks, range=[len(shown) - 0.4, -0.6], showgrid=False, zeroline=False
    )
    return figures.house(fig.update_layout(height=140 + 64 * len(shown)), arrival_text(rows), title)


def arrival_text(rows: Sequence[Mapping]) -> str:
    """The table in words."""
    parts = []
    for row in rows:
        took = (
            "never in half of its runs"
            if row["median"] is None
            else f"median {row['median']:.0f} core-seconds, from {row['low']:.0f}"
        )
        parts.append(f"{row['recipe']}: {took}, {row['reached']} of {len(row['seeds'])} seeds reached it")
    return "To the level. " + "; ".join(parts) + "."


def standing_text(records: Sequence[dict], costs: Sequence[dict], rows: Sequence[Mapping], goal: float = 5.0) -> str:
    """The table for people: seeds, steps, cost, core-seconds, both ratios, whether `goal` holds, who ended below the
    level, the ratios on every machine.
    """
    form = lambda x, spec: "never" if x is None else format(x, spec)  # noqa: E731
    lines = [
        f"{'recipe':17s}seeds  steps  ms a step  core-s    low   high  official / it  official + bf16 / it  final %"
    ]
    for row in rows:
        numbers = [form(row[key], ".0f") for key in ("median", "low", "high")]
        steps = form(row["median"] and row["median"] / row["step_s"], ".0f")
        lines.append(
            f"{row['recipe']:17s}{row['reached']}/{len(row['seeds'])}{steps:>9}{1000 * row['step_s']:11.0f}"
            + "".join(f"{n:>{w}}" for n, w in zip(numbers, (8, 7, 7)))
            + f"{form(row['ratio'], '.1f'):>15}{form(row['ratio_bf16'], '.1f'):>22}{100 * row['final']:9.2f}"
        )
    ours = next((row for row in rows if row["recipe"] == "ours"), {})
    for key, name in (("ratio", race.REFERENCE), ("ratio_bf16", race.SAME_PRECISION)):
        if ours.get(key):
            level = 100 * race.race_level(_entered(records), name)
            lines.append(
                f"{goal:g} times fewer than {name}, to {level:.2f} %: {'yes' if ours[key] >= goal else 'no'}, {ours[key]:.1f}, over {len(_entered(records, name))} seed(s) of it"
            )
    for row in rows:
        below = [
            (r["seed"], 100 * race.curve(r)[1][-1])
            for r in _entered(records, row["recipe"])
            if race.curve(r)[1][-1] < row["level"]
        ]
        if below:
            lines.append(
                f"{row['recipe']} ends below the level of {100 * row['level']:.2f} %: "
                + ", ".join(f"seed {seed} at {final:.2f} %" for seed, final in below)
            )
    for cost in sorted(
        costs, key=lambda record: record["started"], reverse=True
    ):  # the newest is what the table counts in
        load = [cost["values"][f"load {when}"] for when in ("before", "after")]
        there = next((row for row in rows_of(records, [cost]) if row["recipe"] == "ours"), {})
        ratios = " and ".join(form(there.get(key), ".1f") for key in ("ratio", "ratio_bf16"))
        lines.append(
            f"cost: median of {cost['config']['rounds']} rounds of {cost['config']['steps_a_round']} steps, {cost['device']}, load {load[0]:.1f} to {load[1]:.1f}, torch {cost['versions']['torch']}: {ratios} times"
        )
    return "\n".join(lines)


def ladder_figure(rungs: Sequence[Mapping], level: float, title: str | None = None):
    """Accuracy at the end of about equal time, rung by rung from the top: one dot per seed, and the change from the
    rung above it.
    """
    import plotly.graph_objects as go

    fig, shown = go.Figure(), [100 * mean(rung["finals"]) for rung in rungs]
    for i, rung in enumerate(rungs):
        fig.add_trace(
            go.Scatter(
                x=[100 * final for final in rung["finals"]],
                y=[i] * len(rung["finals"]),
                mode="markers",
                showlegend=False,
                marker=dict(color=figures.PALETTE[0 if rung["gain"] is None or rung["gain"] >= 0 else 1], size=11),
                hovertemplate=f"{rung['recipe']}: %{{x:.1f}} %<extra>one seed</extra>",
            )
        )
    gains = ["" if rung["gain"] is None else f"{100 * rung['gain']:+.1f}" for rung in rungs]
    fig.add_trace(
        go.Scatter(
            x=shown,
            y=list(range(len(rungs))),
            mode="lines+text",
            text=gains,
            textposition="top center",
            showlegend=False,
            line=dict(color="#7A7A7A", width=1),
            hoverinfo="skip",
        )
    )
    for at, text in ((100 * mean(rung["untrained"] for rung in rungs), "untrained"), (100 * level, "the level")):
        fig.add_vline(
            x=at,
            line=dict(color="#7A7A7A", dash="dash", width=1.5),
            annotation_text=f"{text}<br>{at:.1f} %",
            annotation_position="top",
        )
    fig.update_xaxes(title=dict(text="accuracy at the end, %"), range=[min(shown) - 1, max(*shown, 100 * level) + 1.5])
    fig.update_yaxes(
        tickvals=list(range(len(rungs))),
        ticktext=[rung["recipe"] for rung in rungs],
        range=[len(rungs) - 0.5, -0.8],
        showgrid=False,
        zeroline=False,
    )
    parts = [
        f"{rung['recipe']}: {value:.1f} percent{f', {gain} points' if gain else ''}"
        for rung, value, gain in zip(rungs, shown, gains)
    ]
    return figures.house(
        fig.update_layout(height=120 + 44 * len(rungs), margin=dict(t=90)),
        f"Accuracy at the end, each with one idea more. {'; '.join(parts)}.",
        title,
    )


def settings_of(records: Sequence[dict], rows: Sequence[Mapping]) -> dict[str, dict]:
    """What each recipe changes of the reference, by name: {recipe: {field: value}}, from the records' configs."""
    config = {record["config"]["recipe"]: record["config"] for record in _entered(records)}
    base = config[race.REFERENCE]
    return {
        row["recipe"]: {
            key: value for key, value in config[row["recipe"]].items() if key != "recipe" and value != base.get(key)
        }
        for row in rows
    }
