"""Plots of what was measured along a run: curves, the collapse panel, sliders, image grids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jepa_lab.figures.look import apply_theme, colour, dash, description_of, rgba

# What a value means when a run has collapsed; shown under the metric's name.
COLLAPSE_HINTS = {
    "loss": "can be low when collapsed",
    "feature_std": "0 = collapsed",
    "rankme": "1 = collapsed",
    "lidar": "1 = collapsed, does not see scale",
    "alpha_req": "slope of the spectrum, does not see scale",
    "cosine_to_mean": "1 = collapsed",
    "target_variance": "0 = collapsed",
}
MOVING = ("annotations", "shapes", "xaxis", "yaxis", "title")  # parts of a layout that a slider may change


def _line(name: str, x, y, **options):
    import plotly.graph_objects as go

    return go.Scatter(
        x=list(x),
        y=list(y),
        name=name,
        mode="lines",
        legendgroup=name,
        line=dict(color=colour(name), dash=dash(name), width=2),
        **options,
    )


def _band(name: str, x, low, high):
    """A shaded band as one closed outline: one trace without an entry in the legend."""
    import plotly.graph_objects as go

    x, low, high = list(x), list(low), list(high)
    if not len(x) == len(low) == len(high):
        raise ValueError(
            f"band {name!r}: x, low and high have lengths {len(x)}, {len(low)}, {len(high)}; make them equal"
        )
    return go.Scatter(
        x=x + x[::-1],
        y=high + low[::-1],
        name=name,
        legendgroup=name,
        mode="lines",
        line=dict(width=0),
        fill="toself",
        fillcolor=rgba(colour(name), 0.18),
        hoverinfo="skip",
        showlegend=False,
    )


def curves(
    lines: Mapping[str, tuple],
    x_title: str,
    y_title: str,
    title: str | None = None,
    bands: Mapping[str, tuple] | None = None,
    description: str = "",
):
    """Lines `{arm: (x, y)}` over optional shaded bands `{arm: (x, low, high)}`."""
    import plotly.graph_objects as go

    bands = bands or {}
    if not lines and not bands:
        raise ValueError("curves: nothing to draw; pass at least one line or band")
    names = list(dict.fromkeys([*lines, *bands]))
    for name in names:  # lines fix the colours, bands follow
        colour(name)
    fig = go.Figure([_band(name, *band) for name, band in bands.items()])
    fig.add_traces([_line(name, *line) for name, line in lines.items()])
    fig.update_layout(xaxis_title=dict(text=x_title), yaxis_title=dict(text=y_title), height=420, hovermode="x unified")
    return apply_theme(fig, description or f"{y_title} over {x_title} for {', '.join(names)}.", title)


def _heading(metric: str) -> str:
    hint = COLLAPSE_HINTS.get(metric)
    return f"{metric}<br><sup>{hint}</sup>" if hint else metric


def collapse_panel(runs: Mapping[str, Mapping[str, tuple]], title: str | None = None, description: str = ""):
    """Small multiples: one plot per metric, one line per run, from `{run: {metric: (x, y)}}`."""
    from plotly.subplots import make_subplots

    metrics = list(dict.fromkeys(metric for run in runs.values() for metric in run))
    if not metrics:
        raise ValueError("collapse_panel: no metric in any run; pass {run: {metric: (steps, values)}}")
    cols = 1 if len(metrics) == 1 else 2
    rows = math.ceil(len(metrics) / cols)
    fig = make_subplots(
        rows,
        cols,
        subplot_titles=[_heading(metric) for metric in metrics],
        horizontal_spacing=0.12,
        vertical_spacing=min(0.2, 0.55 / rows),
    )
    shown = set()
    for name, run in runs.items():
        for metric, (x, y) in run.items():
            row, col = divmod(metrics.index(metric), cols)
            fig.add_trace(_line(name, x, y, showlegend=name not in shown), row + 1, col + 1)
            shown.add(name)
    fig.update_xaxes(title=dict(text="step"), row=rows)
    fig.update_annotations(font_size=14)
    fig.update_layout(height=60 + 230 * rows)
    words = f"Collapse metrics over training: {', '.join(metrics)}, for {', '.join(runs)}."
    apply_theme(fig, description or words, title)
    return fig.update_layout(margin=dict(t=110), legend=dict(y=1.0, yref="container", yanchor="top"))


def _check_frames(labels: Sequence[str], drawn: Sequence) -> None:
    """ValueError unless labels differ and all figures have the same kinds of traces in the same order."""
    if not labels:
        raise ValueError("with_slider: no frames; pass [(label, figure), ...]")
    if len(set(labels)) != len(labels):
        raise ValueError(f"with_slider: labels must differ, got {labels}")
    kinds = [[trace.type for trace in fig.data] for fig in drawn]
    odd = [label for label, kind in zip(labels, kinds) if kind != kinds[0]]
    if odd:
        raise ValueError(
            f"with_slider: frames {odd} have other traces than {labels[0]!r}; draw empty traces to keep them equal"
        )


def _slider_step(label: str) -> dict:
    at_once = dict(mode="immediate", frame=dict(duration=0, redraw=True), transition=dict(duration=0))
    return dict(label=label, method="animate", args=[[label], at_once])


def with_slider(frames: Sequence[tuple[str, object]], name: str, title: str | None = None, description: str = ""):
    """One figure with a slider from `[(label, figure)]`; `name` says what the slider changes.

    Every figure must have the same traces in the same order (same number and types), because a step replaces their
    data.
    """
    import plotly.graph_objects as go

    labels, drawn = [str(label) for label, _ in frames], [fig for _, fig in frames]
    _check_frames(labels, drawn)
    out = go.Figure(drawn[0])
    out.frames = [
        go.Frame(name=label, data=fig.data, layout={part: fig.layout[part] for part in MOVING if fig.layout[part]})
        for label, fig in zip(labels, drawn)
    ]
    slider = dict(
        name=name,
        active=0,
        steps=[_slider_step(label) for label in labels],
        currentvalue=dict(prefix=f"{name}: "),
        pad=dict(t=40),
    )
    out.update_layout(sliders=[slider])
    words = f"{description_of(drawn[0])} A slider changes {name}: {', '.join(labels)}.".strip()
    return apply_theme(out, description or words, title)


def image_grid(images, title: str | None = None, columns: int = 6, gap: int = 2, description: str = ""):
    """Grey uint8 images [n, height, width] side by side, `columns` to a row, with `gap` empty pixels between them."""
    import numpy as np
    import plotly.graph_objects as go

    images = np.asarray(images)
    if images.ndim != 3 or len(images) == 0:
        raise ValueError(f"image_grid: expected grey images [n, height, width], got shape {images.shape}")
    count, height, width = images.shape
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan, dtype=np.float32)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    fig = go.Figure(go.Heatmap(z=sheet, colorscale="gray", zmin=0, zmax=255, showscale=False, hoverinfo="skip"))
    fig.update_xaxes(visible=False, constrain="domain")
    fig.update_yaxes(visible=False, autorange="reversed", scaleanchor="x")
    fig.update_layout(height=80 + 110 * rows)
    words = f"{count} grey images of {height} x {width} pixels. {title or ''}".strip()
    return apply_theme(fig, description or words, title)
