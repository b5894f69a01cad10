"""The phase diagram of chapter 02: where does a JEPA collapse? A heat map whose cells open their curves, without a
kernel.

plotly is imported inside the function, so that importing this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jepa_lab import diagnostics, figures

Curves = Mapping[str, Sequence[float]]


def last_alarm(history: Curves) -> str | None:
    """The alarm at the end of a run's history, in words."""
    return diagnostics.collapsed({name: values[-1] for name, values in history.items()})


def first_alarm(history: Curves) -> tuple[int, str] | None:
    """The first logged step at which the alarm fired, and what it said."""
    for i, step in enumerate(history["step"]):
        said = diagnostics.collapsed({name: values[i] for name, values in history.items()})
        if said:
            return int(step), said
    return None


def cell_name(ema_decay: float, factor: float) -> str:
    return f"EMA {ema_decay:g}, lr × {factor:g}"


def phase_figure(cells: Mapping[tuple[float, float], Curves], limit: float, title: str | None = None):
    """Rank at the end over EMA decay and predictor learning-rate factor; the chosen cell's loss and rank beside it.

    `cells` maps (ema_decay, factor) to a history with step, loss, rankme and the rest of the collapse panel; all pairs
    of the two sets of values must be there. `limit` is the rank below which the alarm fires, drawn as a line.
    The first cell shown is the one of the lowest rank. Raises ValueError when a pair is missing.
    """
    decays, factors = sorted({d for d, _ in cells}), sorted({f for _, f in cells})
    missing = [cell_name(d, f) for d in decays for f in factors if (d, f) not in cells]
    if missing:
        raise ValueError(f"phase_figure: no run of {', '.join(missing)}; give every pair of values")
    order = sorted(cells, key=lambda cell: cells[cell]["rankme"][-1] != min(c["rankme"][-1] for c in cells.values()))
    frames = [(cell_name(*cell), _cell(cells, cell, decays, factors, limit)) for cell in [order[0], *sorted(order[1:])]]
    fired = [cell_name(*cell) for cell in sorted(cells) if last_alarm(cells[cell])]
    ranks = {cell: history["rankme"][-1] for cell, history in cells.items()}
    low, high = min(ranks, key=ranks.get), max(ranks, key=ranks.get)
    said = (
        f"A heat map of the rank at the end of {len(cells)} runs, over EMA decay and the predictor's learning rate. Lowest: {ranks[low]:.1f} at "
        f"{cell_name(*low)}; highest: {ranks[high]:.1f} at {cell_name(*high)}. The alarm rings at the end of {len(fired)} runs"
        f"{': ' + '; '.join(fired) if fired else ''}. A slider or a click chooses the cell whose loss and rank are drawn over the steps."
    )
    figure = figures.with_slider(frames, "cell", title, said)
    for frame in figure.frames:
        frame.layout = {}  # a frame that repeats the axes would undo the page's narrow layout
    return figure


def _cell(cells: Mapping, chosen: tuple[float, float], decays: list[float], factors: list[float], limit: float):
    """The map with one cell marked, and that cell's curves."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    across, up = [f"× {f:g}" for f in factors], [f"{d:g}" for d in decays]
    heads = ["rank at the end (✕: alarm)", "loss of the chosen cell", "its rank, and the alarm's limit"]
    fig = make_subplots(
        2,
        2,
        specs=[[{"rowspan": 2}, {}], [None, {}]],
        subplot_titles=heads,
        horizontal_spacing=0.16,
        vertical_spacing=0.22,
        column_widths=[0.56, 0.44],
    )
    fig.add_trace(
        go.Heatmap(
            z=[[round(cells[d, f]["rankme"][-1], 2) for f in factors] for d in decays],
            x=across,
            y=up,
            colorscale="Cividis",
            zmin=1,
            xgap=2,
            ygap=2,
            text=[
                [f"{cells[d, f]['rankme'][-1]:.2g}{' ✕' * bool(last_alarm(cells[d, f]))}" for f in factors]
                for d in decays
            ],
            texttemplate="%{text}",
            textfont=dict(size=12),
            showscale=False,
            customdata=[[cell_name(d, f) for f in factors] for d in decays],
            name="rank",
            hovertemplate="%{customdata}<br>rank %{z}<extra></extra>",
        ),
        1,
        1,
    )
    fig.add_trace(
        go.Scatter(
            x=[f"× {chosen[1]:g}"],
            y=[f"{chosen[0]:g}"],
            mode="markers",
            name="chosen",
            hoverinfo="skip",
            showlegend=False,
            marker=dict(symbol="square-open", size=34, color="#D55E00", line=dict(width=4, color="#D55E00")),
        ),
        1,
        1,
    )
    history = cells[chosen]
    for row, metric in enumerate(("loss", "rankme"), start=1):
        fig.add_trace(
            go.Scatter(
                x=list(history["step"]),
                y=list(history[metric]),
                mode="lines",
                name=metric,
                showlegend=False,
                line=dict(color=figures.PALETTE[0], width=2.5),
            ),
            row,
            2,
        )
    fig.add_trace(
        go.Scatter(
            x=[0, history["step"][-1]],
            y=[limit, limit],
            mode="lines",
            name="the alarm's limit",
            showlegend=False,
            line=dict(color=figures.PALETTE[1], dash="dash", width=2),
        ),
        2,
        2,
    )
    tops = [1.05 * max(max(cell[metric]) for cell in cells.values()) for metric in ("loss", "rankme")]
    fig.update_xaxes(type="category", title=dict(text="predictor's learning rate"), row=1, col=1)
    fig.update_yaxes(type="category", title=dict(text="EMA decay"), row=1, col=1)
    fig.update_xaxes(range=[0, history["step"][-1]], col=2)
    fig.update_xaxes(title=dict(text="step"), row=2, col=2)
    for row, top in enumerate(tops, start=1):
        fig.update_yaxes(range=[0, top], row=row, col=2)
    fig.update_annotations(font_size=13)
    return fig.update_layout(height=440)
