"""Plotly figures in the book's one look.

Every function returns a `plotly.graph_objects.Figure` (the table: displayable HTML) and takes `description`, the
sentence that a reader who cannot see the plot gets instead. Colours come from a colour-blind-safe set in which each has
a contrast of at least 3:1 on white and on the dark page; an arm (a run, a control) keeps the colour and dash that it
was first drawn with. Neutral text and grid colours are swapped by the page's script when the reader changes the theme.
Plotly is imported inside the functions, so that importing this file costs nothing.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence

# Okabe-Ito hues, moved to the lightness band that is legible on #ffffff and on #121212.
PALETTE = ("#0072B2", "#D55E00", "#008F68", "#C06090", "#A67C00", "#7D6BC4", "#3E8FC4", "#7A7A7A")
DASHES = ("solid", "dash", "dot", "dashdot")
# What a value means when a run has collapsed; shown under the metric's name.
COLLAPSE_HINTS = {
    "loss": "can be low when collapsed",
    "feature_std": "0 = collapsed",
    "rankme": "1 = collapsed",
    "lidar": "1 = collapsed, but knows no scale",
    "alpha_req": "slope of the spectrum, knows no scale",
    "cosine_to_mean": "1 = collapsed",
    "target_variance": "0 = collapsed",
}
_TEXT, _GRID = "#333333", "#d8d8d8"
_seen: dict[str, int] = {}  # arm -> order of first use in this process; one chapter runs in one process


def colour(arm: str) -> str:
    """The colour of an arm, the same on every later call."""
    return PALETTE[_seen.setdefault(arm, len(_seen)) % len(PALETTE)]


def dash(arm: str) -> str:
    """The line dash of an arm, the second channel beside its colour; no two of the first 32 arms share both."""
    place = _seen.setdefault(arm, len(_seen))
    return DASHES[(place + place // len(PALETTE)) % len(DASHES)]


def arms(*names: str) -> None:
    """Fix the order of a chapter's arms, so that colours do not depend on which figure is drawn first."""
    _seen.clear()
    for name in names:
        colour(name)


def house(fig, description: str = "", title: str | None = None):
    """Give any plotly figure the book's look and a text alternative; returns the same figure."""
    axis = dict(gridcolor=_GRID, zerolinecolor=_GRID, linecolor=_GRID, automargin=True, title=dict(standoff=8))
    template = dict(
        layout=dict(
            font=dict(family="system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", size=14, color=_TEXT),
            paper_bgcolor="rgba(0,0,0,0)",
            plot_bgcolor="rgba(0,0,0,0)",
            colorway=list(PALETTE),
            xaxis=axis,
            yaxis=axis,
            hoverlabel=dict(font=dict(size=13)),
            title=dict(x=0, xref="paper", xanchor="left", font=dict(size=16)),
            legend=dict(orientation="h", yanchor="bottom", y=1.02, x=0),
            margin=dict(l=10, r=10, t=70 if title or fig.layout.title.text else 40, b=10),
        )
    )
    fig.update_layout(template=template, meta=dict(description=" ".join(description.split())))
    if title:
        fig.update_layout(title=dict(text=title))
    return fig


def _rgba(hex_colour: str, alpha: float) -> str:
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


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
    """A shaded band as one closed outline, so that it is one trace and has no legend entry of its own."""
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
        fillcolor=_rgba(colour(name), 0.18),
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

    if not lines and not bands:
        raise ValueError("curves: nothing to draw; pass at least one line or band")
    for name in lines:  # lines fix the colours, bands follow
        colour(name)
    fig = go.Figure([_band(name, *band) for name, band in (bands or {}).items()])
    fig.add_traces([_line(name, *line) for name, line in lines.items()])
    fig.update_layout(xaxis_title=dict(text=x_title), yaxis_title=dict(text=y_title), height=420, hovermode="x unified")
    default = f"{y_title} over {x_title} for {', '.join(dict.fromkeys([*lines, *(bands or {})]))}."
    return house(fig, description or default, title)


def collapse_panel(runs: Mapping[str, Mapping[str, tuple]], title: str | None = None, description: str = ""):
    """Small multiples: one plot per metric, one line per run, from `{run: {metric: (x, y)}}`."""
    from plotly.subplots import make_subplots

    metrics = list(dict.fromkeys(metric for run in runs.values() for metric in run))
    if not metrics:
        raise ValueError("collapse_panel: no metric in any run; pass {run: {metric: (steps, values)}}")
    cols = 1 if len(metrics) == 1 else 2
    rows = math.ceil(len(metrics) / cols)
    heads = [f"{m}<br><sup>{COLLAPSE_HINTS[m]}</sup>" if m in COLLAPSE_HINTS else m for m in metrics]
    fig = make_subplots(
        rows, cols, subplot_titles=heads, horizontal_spacing=0.12, vertical_spacing=min(0.2, 0.55 / rows)
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
    house(fig, description or f"Collapse metrics over training: {', '.join(metrics)}, for {', '.join(runs)}.", title)
    return fig.update_layout(margin=dict(t=110), legend=dict(y=1.0, yref="container", yanchor="top"))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % Student-t interval (the verdicts' own); half width is nan below 2 values."""
    from jepa_lab.claims import judge

    said = judge(values, [0.0] * len(values), "higher", 0.0)
    return said.mean, math.nan if said.ci_high is None else said.ci_high - said.mean


def _study_traces(arm: str, row: int, values: Sequence[float], first: bool) -> list:
    """Dots of one arm's seeds, spread a little so that equal ones show, and the mean with its 95 % interval."""
    import plotly.graph_objects as go

    mean, half = mean_interval(values)
    spread = [row + 0.22 + 0.16 * (i / max(1, len(values) - 1) - 0.5) for i in range(len(values))]
    dots = go.Scatter(
        x=list(values),
        y=spread,
        mode="markers",
        name="study, one seed each",
        legendgroup="seeds",
        showlegend=first,
        marker=dict(color=_rgba(colour(arm), 0.65), size=8),
        hovertemplate=f"{arm}: %{{x:.4g}}<extra>one seed</extra>",
    )
    bar = go.Scatter(
        x=[mean],
        y=[row],
        mode="markers",
        name="mean, 95 % interval",
        legendgroup="mean",
        showlegend=first,
        marker=dict(color=colour(arm), size=11, symbol="square"),
        error_x=dict(type="data", array=[0 if math.isnan(half) else half], color=colour(arm), thickness=3, width=6),
        hovertemplate=f"{arm}: %{{x:.4g}}<extra>mean of {len(values)} seeds</extra>",
    )
    return [dots, bar]


def _marks(values: Mapping[str, float], names: Sequence[str], label: str, symbol: str, offset: float, size: int):
    """One marker per arm of one kind (today's run, the paper's number)."""
    import plotly.graph_objects as go

    held = [n for n in names if n in values]
    return go.Scatter(
        x=[values[n] for n in held],
        y=[names.index(n) + offset for n in held],
        mode="markers",
        name=label,
        text=held,
        hovertemplate=f"%{{text}}: %{{x:.4g}}<extra>{label}</extra>",
        marker=dict(symbol=symbol, size=size, color="#222222", line=dict(width=2, color="#222222")),
    )


def claim_figure(
    study_values: Mapping[str, Sequence[float]],
    today: Mapping[str, float],
    y_title: str,
    paper: Mapping[str, float] | None = None,
    title: str | None = None,
    description: str = "",
):
    """One row per arm: the study's seeds as dots with mean and 95 % interval, today's run as a diamond, the paper's
    number as a dash.

    An arm may lack any of the three. `y_title` names the measured value (drawn along the horizontal axis, so that long
    arm names stay readable on a phone).
    """
    import plotly.graph_objects as go

    names = list(dict.fromkeys([*study_values, *today, *(paper or {})]))
    if not names:
        raise ValueError("claim_figure: no arm; pass study values, today's values or the paper's")
    fig = go.Figure()
    with_seeds = [n for n in names if len(study_values.get(n, ())) > 0]
    for name in names:
        colour(name)
    for name in with_seeds:
        fig.add_traces(_study_traces(name, names.index(name), study_values[name], name == with_seeds[0]))
    if today:
        fig.add_trace(_marks(today, names, "today's run", "diamond-open", -0.2, 11))
    if paper:
        fig.add_trace(_marks(paper, names, "the paper", "line-ns", 0.0, 22))
    ticks = ["<br>".join(textwrap.wrap(name, 20)) for name in names]
    fig.update_xaxes(title=dict(text=y_title))
    fig.update_yaxes(
        tickvals=list(range(len(names))), ticktext=ticks, range=[len(names) - 0.5, -0.5], showgrid=False, zeroline=False
    )
    fig.update_layout(height=max(340, 130 + 64 * len(names)))  # on a phone the legend takes a third of that
    return house(fig, description or _claim_text(study_values, today, paper or {}, names, y_title), title)


def _claim_text(study, today, paper, names, y_title) -> str:
    """The claim figure in words, from the numbers drawn."""
    parts = []
    for name in names:
        said = []
        if len(study.get(name, ())) > 0:
            mean, half = mean_interval(study[name])
            spread = "" if math.isnan(half) else f" ± {half:.2g}"
            said.append(f"study mean {mean:.4g}{spread} over {len(study[name])} seeds")
        said += [f"{who} {of[name]:.4g}" for who, of in (("today", today), ("paper", paper)) if name in of]
        parts.append(f"{name}: {', '.join(said)}")
    return f"{y_title}. " + "; ".join(parts) + "."


def with_slider(frames: Sequence[tuple[str, object]], name: str, title: str | None = None, description: str = ""):
    """One figure with a slider from `[(label, figure)]`; `name` says what the slider changes.

    Every figure must have the same traces in the same order (same number and types), because a step replaces their
    data.
    """
    import plotly.graph_objects as go

    if not frames:
        raise ValueError("with_slider: no frames; pass [(label, figure), ...]")
    labels = [str(label) for label, _ in frames]
    if len(set(labels)) != len(labels):
        raise ValueError(f"with_slider: labels must differ, got {labels}")
    kinds = {label: [trace.type for trace in fig.data] for label, (_, fig) in zip(labels, frames)}
    odd = [label for label, kind in kinds.items() if kind != kinds[labels[0]]]
    if odd:
        raise ValueError(
            f"with_slider: frames {odd} have other traces than {labels[0]!r}; draw empty traces to keep them equal"
        )
    first = frames[0][1]
    moving = ("annotations", "shapes", "xaxis", "yaxis", "title")
    out = go.Figure(first)
    out.frames = [
        go.Frame(name=label, data=fig.data, layout={k: fig.layout[k] for k in moving if fig.layout[k]})
        for label, (_, fig) in zip(labels, frames)
    ]
    steps = [
        dict(
            label=label,
            method="animate",
            args=[[label], dict(mode="immediate", frame=dict(duration=0, redraw=True), transition=dict(duration=0))],
        )
        for label in labels
    ]
    out.update_layout(
        sliders=[dict(name=name, active=0, steps=steps, currentvalue=dict(prefix=f"{name}: "), pad=dict(t=40))]
    )
    was = (first.layout.meta or {}).get("description", "") if isinstance(first.layout.meta, dict) else ""
    text = description or f"{was} A slider changes {name}: {', '.join(labels)}.".strip()
    return house(out, text, title)


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
    fig.update_xaxes(visible=False, constrain="domain").update_yaxes(
        visible=False, autorange="reversed", scaleanchor="x"
    )
    fig.update_layout(height=80 + 110 * rows)
    return house(fig, description or f"{count} grey images of {height} x {width} pixels. {title or ''}".strip(), title)


SIGNS = {"supported": "✓", "not supported": "✗", "inconclusive": "?"}


def badge(verdict: str) -> str:
    """A verdict as HTML: a sign and the word, so that it does not hang on colour."""
    if verdict not in SIGNS:
        raise ValueError(f"verdict {verdict!r} is none of {', '.join(SIGNS)}")
    return f'<span class="jl-verdict jl-{verdict.replace(" ", "-")}">{SIGNS[verdict]} {verdict}</span>'


def verdict_table(rows: Sequence[Mapping], caption: str = ""):
    """Claims as an HTML table: one row per dict of `claims --json` (statement, paper_value, mean, ci_low, ci_high,
    margin, verdict, n_seeds).
    """
    from IPython.display import HTML

    def number(row, key):
        value = row.get(key)
        return "–" if value is None or not math.isfinite(value) else f"{value:.3g}"

    head = (
        "Claim",
        "Verdict",
        "Gain we measured",
        "95 % interval",
        "Margin",
        "Paper",
        "Seeds",
    )  # what matters first, for phones
    body = []
    for row in rows:
        cells = (
            html.escape(row["statement"]),
            badge(row["verdict"]),
            number(row, "mean"),
            f"{number(row, 'ci_low')} … {number(row, 'ci_high')}",
            number(row, "margin"),
            html.escape(str(row.get("paper_value") or "–")),
            str(row["n_seeds"]),
        )
        body.append('<tr><th scope="row">' + cells[0] + "</th>" + "".join(f"<td>{c}</td>" for c in cells[1:]) + "</tr>")
    top = "".join(f'<th scope="col">{h}</th>' for h in head)
    said = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return HTML(
        f'<div class="jl-table" tabindex="0" role="group" aria-label="verdicts"><table class="jl-verdicts">{said}'
        f"<thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )
