"""The time-to-quality race of chapter 02, drawn from its run records alone.

plotly is imported inside the functions, so that importing this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jepa_lab import figures, race


def rows_of(records: Sequence[dict]) -> list[dict]:
    """The race's table, fastest recipe first; [] while the reference, which sets the level, has no record."""
    entered = _entered(records)
    has_reference = any(record["config"]["recipe"] == race.REFERENCE for record in entered)
    return race.race_table(entered) if has_reference else []


def _entered(records: Sequence[dict], recipe: str | None = None) -> list[dict]:
    """The runs that count (of one recipe): those scored on the test split, not the ones used for tuning."""
    return [r for r in records if r["config"]["scored_on"] == "test" and recipe in (None, r["config"]["recipe"])]


def curves_figure(records: Sequence[dict], rows: Sequence[Mapping], title: str | None = None):
    """Accuracy over core-seconds, one line per run in its recipe's colour, and the level as a horizontal line."""
    import plotly.graph_objects as go

    fig, last = go.Figure(), 1.0
    for row in rows:
        name, first = row["recipe"], True
        for record in _entered(records, name):
            seconds, accuracy = race.curve(record)
            last = max(last, seconds[-1])
            fig.add_trace(go.Scatter(
                x=seconds[1:], y=[100 * a for a in accuracy[1:]], mode="lines", name=name, legendgroup=name, showlegend=first, opacity=0.75,
                line=dict(color=figures.colour(name), dash=figures.dash(name), width=1.8),
                hovertemplate=f"{name}, seed {record['seed']}: %{{y:.1f}} % after %{{x:.0f}} s<extra></extra>"))  # fmt: skip
            first = False
    level = 100 * rows[0]["level"]
    fig.add_hline(y=level, line=dict(color="#7A7A7A", dash="dash", width=1.5), annotation_text=f"the level, {level:.1f} %", annotation_position="top left")
    ticks = [mantissa * 10**power for power in range(6) for mantissa in (1, 2, 5)]
    fig.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks], title=dict(text="core-seconds of training"))
    fig.update_yaxes(title=dict(text="accuracy of a linear probe, %"))
    said = f"Accuracy over core-seconds for {', '.join(row['recipe'] for row in rows)}, up to {last:.0f} core-seconds. The level is {level:.1f} percent. "
    return figures.house(fig.update_layout(height=440), said + ladder_text(rows), title)


def ladder_figure(rows: Sequence[Mapping], title: str | None = None):
    """Core-seconds to the level: every run as a dot, the median as a square with the range behind it; slowest on top.

    A run that never reached the level has no dot; how many did stands beside the recipe's name.
    """
    import plotly.graph_objects as go

    fig, shown = go.Figure(), list(reversed(rows))
    for i, row in enumerate(shown):
        tint = figures.colour(row["recipe"])
        reached = [s for s in row["seconds"] if s is not None]
        fig.add_trace(go.Scatter(x=reached, y=[i + 0.18] * len(reached), mode="markers", showlegend=False, marker=dict(color=tint, size=8, opacity=0.6),
                                 hovertemplate=f"{row['recipe']}: %{{x:.0f}} s<extra>one seed</extra>"))  # fmt: skip
        if row["median"] is not None:
            high = row["high"] if row["high"] is not None else max(reached)
            fig.add_trace(go.Scatter(
                x=[row["median"]], y=[i], mode="markers+text", showlegend=False, marker=dict(color=tint, size=12, symbol="square"),
                text=[f"{row['ratio']:.1f} ×" if row["ratio"] else ""], textposition="top center",
                error_x=dict(type="data", symmetric=False, array=[high - row["median"]], arrayminus=[row["median"] - row["low"]], color=tint, thickness=3, width=6),
                hovertemplate=f"{row['recipe']}: %{{x:.0f}} s<extra>median of {len(row['seconds'])} seeds</extra>"))  # fmt: skip
    ticks = [f"{row['recipe']}<br>{row['reached']} of {len(row['seeds'])} seeds" for row in shown]
    fig.update_xaxes(rangemode="tozero", title=dict(text="core-seconds to the level"))
    fig.update_yaxes(tickvals=list(range(len(shown))), ticktext=ticks, range=[len(shown) - 0.4, -0.6], showgrid=False, zeroline=False)
    return figures.house(fig.update_layout(height=140 + 64 * len(shown)), ladder_text(rows), title)


def ladder_text(rows: Sequence[Mapping]) -> str:
    """The table in words."""
    parts = []
    for row in rows:
        took = "never in half of its runs" if row["median"] is None else f"median {row['median']:.0f} core-seconds, from {row['low']:.0f}"
        parts.append(f"{row['recipe']}: {took}, {row['reached']} of {len(row['seeds'])} seeds reached it")
    return "To the level. " + "; ".join(parts) + "."


def settings_of(records: Sequence[dict], rows: Sequence[Mapping]) -> dict[str, dict]:
    """What each recipe changes of the reference, by name: {recipe: {field: value}}, from the records' configs."""
    config = {record["config"]["recipe"]: record["config"] for record in _entered(records)}
    base = config[race.REFERENCE]
    return {
        row["recipe"]: {key: value for key, value in config[row["recipe"]].items() if key != "recipe" and value != base.get(key)} for row in rows
    }
