"""The phase diagram of chapter 02: where does a JEPA collapse? A heat map whose cells open their curves, without a
kernel.

plotly is imported inside the functions, so that importing this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jepa_lab import figures
from jepa_lab.diagnostics import last_alarm

Curves = Mapping[str, Sequence[float]]
Cell = tuple[float, float]  # EMA decay, factor of the predictor's learning rate
CHOSEN = figures.PALETTE[1]
METRICS = ("loss", "rankme")


def cell_name(ema_decay: float, factor: float) -> str:
    return f"EMA {ema_decay:g}, lr × {factor:g}"


def phase_figure(cells: Mapping[Cell, Curves], limit: float, title: str | None = None):
    """Rank at the end over EMA decay and predictor learning-rate factor; the chosen cell's loss and rank beside it.

    `cells` maps (ema_decay, factor) to a history with step, loss, rankme and the rest of the collapse panel; all pairs
    of the two sets of values must be there. `limit` is the rank below which the alarm fires, drawn as a line.
    The first cell shown is the one of the lowest rank. Raises ValueError when a pair is missing.
    """
    decays, factors = _axes(cells)
    missing = [cell_name(d, f) for d in decays for f in factors if (d, f) not in cells]
    if missing:
        raise ValueError(f"phase_figure: no run of {', '.join(missing)}; give every pair of values")
    lowest = min(cells, key=lambda cell: cells[cell]["rankme"][-1])
    order = [lowest, *sorted(cell for cell in cells if cell != lowest)]
    frames = [(cell_name(*cell), _map_and_curves(cells, cell, limit)) for cell in order]
    figure = figures.with_slider(frames, "cell", title, _in_words(cells))
    for frame in figure.frames:
        frame.layout = {}  # a frame that repeats the axes would undo the page's narrow layout
    return figure


def _axes(cells: Mapping[Cell, Curves]) -> tuple[list[float], list[float]]:
    """The values of EMA decay and of the learning-rate factor, ascending."""
    return sorted({decay for decay, _ in cells}), sorted({factor for _, factor in cells})


def _in_words(cells: Mapping[Cell, Curves]) -> str:
    ranks = {cell: history["rankme"][-1] for cell, history in cells.items()}
    low, high = min(ranks, key=ranks.get), max(ranks, key=ranks.get)
    fired = [cell_name(*cell) for cell in sorted(cells) if last_alarm(cells[cell])]
    where = f": {'; '.join(fired)}" if fired else ""
    return (
        f"A heat map of the rank at the end of {len(cells)} runs, over EMA decay and the predictor's learning rate. "
        f"Lowest: {ranks[low]:.1f} at {cell_name(*low)}; highest: {ranks[high]:.1f} at {cell_name(*high)}. "
        f"The alarm fires at the end of {len(fired)} runs{where}. "
        "A slider or a click chooses the cell whose loss and rank are drawn over the steps."
    )


def _heat_map(cells: Mapping[Cell, Curves]):
    """Rank at the end of every run; a cross marks an alarm."""
    import plotly.graph_objects as go

    decays, factors = _axes(cells)
    rows = [[(decay, factor) for factor in factors] for decay in decays]
    ranks = [[round(cells[cell]["rankme"][-1], 2) for cell in row] for row in rows]
    alarms = [[" ✕" if last_alarm(cells[cell]) else "" for cell in row] for row in rows]
    text = [[f"{rank:.2g}{alarm}" for rank, alarm in zip(*pair)] for pair in zip(ranks, alarms)]
    return go.Heatmap(
        z=ranks,
        x=[f"× {factor:g}" for factor in factors],
        y=[f"{decay:g}" for decay in decays],
        colorscale="Cividis",
        zmin=1,
        xgap=2,
        ygap=2,
        text=text,
        texttemplate="%{text}",
        textfont=dict(size=12),
        showscale=False,
        customdata=[[cell_name(*cell) for cell in row] for row in rows],
        name="rank",
        hovertemplate="%{customdata}<br>rank %{z}<extra></extra>",
    )


def _frame_of(chosen: Cell):
    """A frame around the chosen cell."""
    import plotly.graph_objects as go

    marker = dict(symbol="square-open", size=34, color=CHOSEN, line=dict(width=4, color=CHOSEN))
    at = dict(x=[f"× {chosen[1]:g}"], y=[f"{chosen[0]:g}"])
    return go.Scatter(**at, mode="markers", name="chosen", hoverinfo="skip", showlegend=False, marker=marker)


def _map_and_curves(cells: Mapping[Cell, Curves], chosen: Cell, limit: float):
    """The map with one cell marked, and that cell's curves."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    fig = make_subplots(
        2,
        2,
        specs=[[{"rowspan": 2}, {}], [None, {}]],
        subplot_titles=["rank at the end (✕: alarm)", "loss of the chosen cell", "its rank, and the alarm's limit"],
        horizontal_spacing=0.16,
        vertical_spacing=0.22,
        column_widths=[0.56, 0.44],
    )
    fig.add_traces([_heat_map(cells), _frame_of(chosen)], rows=1, cols=1)
    history = cells[chosen]
    last = history["step"][-1]
    plain = dict(mode="lines", showlegend=False)
    solid = dict(color=figures.PALETTE[0], width=2.5)
    dashed = dict(color=figures.PALETTE[1], dash="dash", width=2)
    for row, metric in enumerate(METRICS, start=1):
        line = go.Scatter(x=list(history["step"]), y=list(history[metric]), name=metric, line=solid, **plain)
        fig.add_trace(line, row, 2)
        top = 1.05 * max(max(cell[metric]) for cell in cells.values())
        fig.update_yaxes(range=[0, top], row=row, col=2)
    level = go.Scatter(x=[0, last], y=[limit, limit], name="the alarm's limit", line=dashed, **plain)
    fig.add_trace(level, 2, 2)
    fig.update_xaxes(type="category", title=dict(text="predictor's learning rate"), row=1, col=1)
    fig.update_yaxes(type="category", title=dict(text="EMA decay"), row=1, col=1)
    fig.update_xaxes(range=[0, last], col=2)
    fig.update_xaxes(title=dict(text="step"), row=2, col=2)
    fig.update_annotations(font_size=13)
    return fig.update_layout(height=440)
