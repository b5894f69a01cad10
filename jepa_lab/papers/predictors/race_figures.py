"""The time-to-quality race of chapter 02 and its ladder, drawn from their run records alone.

plotly is imported inside the functions, so that importing this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from jepa_lab import figures
from jepa_lab.papers.predictors import race
from jepa_lab.papers.predictors.race_tables import arrival_text, entered

GREY = "#7A7A7A"
TICKS = [mantissa * 10**power for power in range(6) for mantissa in (1, 2, 5)]


# ---- the race --------------------------------------------------------------------------------------


def _run_line(record: dict, step_s: float, showlegend: bool):
    """Accuracy of one run over core-seconds, without the untrained encoder: the axis is logarithmic."""
    import plotly.graph_objects as go

    name = record["config"]["recipe"]
    steps, accuracy = race.curve(record)
    return go.Scatter(
        x=[step_s * step for step in steps[1:]],
        y=[100 * share for share in accuracy[1:]],
        mode="lines",
        name=name,
        legendgroup=name,
        showlegend=showlegend,
        opacity=0.75,
        line=dict(color=figures.colour(name), dash=figures.dash(name), width=1.8),
        hovertemplate=f"{name}, seed {record['seed']}: %{{y:.1f}} % after %{{x:.0f}} s<extra></extra>",
    )


def curves_figure(records: Sequence[dict], rows: Sequence[Mapping], title: str | None = None):
    """Accuracy over core-seconds, one line per run in its recipe's colour, and the level as a horizontal line."""
    import plotly.graph_objects as go

    fig = go.Figure()
    for row in rows:
        runs = entered(records, row["recipe"])
        fig.add_traces([_run_line(record, row["step_s"], record is runs[0]) for record in runs])
    level = 100 * rows[0]["level"]
    fig.add_hline(
        y=level,
        line=dict(color=GREY, dash="dash", width=1.5),
        annotation_text=f"the level, {level:.1f} %",
        annotation_position="top left",
    )
    labels = dict(tickvals=TICKS, ticktext=[f"{tick:,}" for tick in TICKS])
    fig.update_xaxes(type="log", title=dict(text="core-seconds: steps × cost of a step"), **labels)
    fig.update_yaxes(title=dict(text="accuracy of a linear probe, %"))
    fig.update_layout(height=440)
    last = max((trace.x[-1] for trace in fig.data), default=1.0)
    names = ", ".join(row["recipe"] for row in rows)
    words = f"Accuracy over core-seconds for {names}, up to {last:.0f} core-seconds. The level is {level:.1f} percent."
    return figures.apply_theme(fig, f"{words} {arrival_text(rows)}", title)


def _arrivals(row: Mapping, place: int):
    """Core-seconds to the level of every run of a recipe that reached it."""
    import plotly.graph_objects as go

    reached = [seconds for seconds in row["seconds"] if seconds is not None]
    return go.Scatter(
        x=reached,
        y=[place + 0.18] * len(reached),
        mode="markers",
        showlegend=False,
        marker=dict(color=figures.colour(row["recipe"]), size=8, opacity=0.6),
        hovertemplate=f"{row['recipe']}: %{{x:.0f}} s<extra>one seed</extra>",
    )


def _median(row: Mapping, place: int, furthest: float):
    """The median of a recipe with the range of its runs and both ratios; the label stands where there is room."""
    import plotly.graph_objects as go

    tint, middle = figures.colour(row["recipe"]), row["median"]
    reached = [seconds for seconds in row["seconds"] if seconds is not None]
    high = row["high"] if row["high"] is not None else max(reached)
    bar = dict(type="data", symmetric=False, array=[high - middle], arrayminus=[middle - row["low"]])
    return go.Scatter(
        x=[middle],
        y=[place],
        mode="markers+text",
        showlegend=False,
        marker=dict(color=tint, size=12, symbol="square"),
        text=[" and ".join(f"{row[key]:.1f} ×" for key in ("ratio", "ratio_bf16") if row[key])],
        textposition="top left" if middle > furthest / 2 else "top right",
        error_x=dict(color=tint, thickness=3, width=6, **bar),
        hovertemplate=f"{row['recipe']}: %{{x:.0f}} s<extra>median of {len(row['seconds'])} seeds</extra>",
    )


def arrival_figure(rows: Sequence[Mapping], title: str | None = None):
    """Core-seconds to the level: every run as a dot, the median as a square with the range behind it; slowest on top.

    A run that never reached the level has no dot; how many did stands beside the recipe's name.
    """
    import plotly.graph_objects as go

    fig, shown = go.Figure(), list(reversed(rows))
    furthest = max((s for row in rows for s in row["seconds"] if s is not None), default=1.0)
    for place, row in enumerate(shown):
        fig.add_trace(_arrivals(row, place))
        if row["median"] is not None:
            fig.add_trace(_median(row, place, furthest))
    names = [f"{row['recipe']}<br>{row['reached']} of {len(row['seeds'])} seeds" for row in shown]
    places = dict(tickvals=list(range(len(shown))), ticktext=names, range=[len(shown) - 0.4, -0.6])
    fig.update_xaxes(range=[0, 1.1 * furthest], title=dict(text="core-seconds to the level"))
    fig.update_yaxes(showgrid=False, zeroline=False, **places)
    return figures.apply_theme(fig.update_layout(height=140 + 64 * len(shown)), arrival_text(rows), title)


# ---- the ladder ------------------------------------------------------------------------------------


def _rung_dots(rung: Mapping, place: int):
    """Accuracy at the end, one dot per seed; another colour where the rung took accuracy away."""
    import plotly.graph_objects as go

    took = rung["gain"] is not None and rung["gain"] < 0
    return go.Scatter(
        x=[100 * final for final in rung["finals"]],
        y=[place] * len(rung["finals"]),
        mode="markers",
        showlegend=False,
        marker=dict(color=figures.PALETTE[1 if took else 0], size=11),
        hovertemplate=f"{rung['recipe']}: %{{x:.1f}} %<extra>one seed</extra>",
    )


def ladder_figure(rungs: Sequence[Mapping], level: float, title: str | None = None):
    """Accuracy at the end of about equal time, rung by rung from the top: one dot per seed, and the change from the
    rung above it.
    """
    import plotly.graph_objects as go

    means = [100 * mean(rung["finals"]) for rung in rungs]
    gains = ["" if rung["gain"] is None else f"{100 * rung['gain']:+.1f}" for rung in rungs]
    places = list(range(len(rungs)))
    fig = go.Figure([_rung_dots(rung, place) for place, rung in enumerate(rungs)])
    grey = dict(line=dict(color=GREY, width=1), hoverinfo="skip", showlegend=False)
    fig.add_scatter(x=means, y=places, mode="lines+text", text=gains, textposition="top center", **grey)
    marked = {"untrained": 100 * mean(rung["untrained"] for rung in rungs), "the level": 100 * level}
    for name, at in marked.items():
        dashed = dict(color=GREY, dash="dash", width=1.5)
        fig.add_vline(x=at, line=dashed, annotation_text=f"{name}<br>{at:.1f} %", annotation_position="top")
    names = dict(tickvals=places, ticktext=[rung["recipe"] for rung in rungs], range=[len(rungs) - 0.5, -0.8])
    fig.update_xaxes(title=dict(text="accuracy at the end, %"), range=[min(means) - 1, max(*means, 100 * level) + 1.5])
    fig.update_yaxes(showgrid=False, zeroline=False, **names)
    fig.update_layout(height=120 + 44 * len(rungs), margin=dict(t=90))
    parts = []
    for rung, value, gain in zip(rungs, means, gains):
        change = f", {gain} points" if gain else ""
        parts.append(f"{rung['recipe']}: {value:.1f} percent{change}")
    return figures.apply_theme(fig, f"Accuracy at the end, each with one idea more. {'; '.join(parts)}.", title)
