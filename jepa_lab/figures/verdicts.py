"""What the study says: the figure of a claim, the verdict in words, and tables."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from jepa_lab.claims import badge, mean_and_half_width
from jepa_lab.figures.look import apply_theme, colour, rgba

THIS_RUN = "this page's run"
MARK = "#222222"


def _study_traces(arm: str, row: int, values: Sequence[float], first: bool) -> list:
    """Dots of one arm's seeds, spread a little so that equal ones show, and the mean with its 95 % interval."""
    import plotly.graph_objects as go

    mean, half = mean_and_half_width(values)
    spread = [row + 0.22 + 0.16 * (i / max(1, len(values) - 1) - 0.5) for i in range(len(values))]
    dots = go.Scatter(
        x=list(values),
        y=spread,
        mode="markers",
        name="study, one seed each",
        legendgroup="seeds",
        showlegend=first,
        marker=dict(color=rgba(colour(arm), 0.65), size=8),
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
        error_x=dict(type="data", array=[half or 0], color=colour(arm), thickness=3, width=6),
        hovertemplate=f"{arm}: %{{x:.4g}}<extra>mean of {len(values)} seeds</extra>",
    )
    return [dots, bar]


def _marks(values: Mapping[str, float], names: Sequence[str], label: str, **look):
    """One marker per arm of one kind (this page's run, the paper's number); `look` holds symbol, size and `offset`."""
    import plotly.graph_objects as go

    offset = look.pop("offset", 0.0)
    held = [name for name in names if name in values]
    return go.Scatter(
        x=[values[name] for name in held],
        y=[names.index(name) + offset for name in held],
        mode="markers",
        name=label,
        text=held,
        hovertemplate=f"%{{text}}: %{{x:.4g}}<extra>{label}</extra>",
        marker=dict(color=MARK, line=dict(width=2, color=MARK), **look),
    )


def claim_figure(
    study: Mapping[str, Sequence[float]],
    this_run: Mapping[str, float],
    y_title: str,
    paper: Mapping[str, float] | None = None,
    title: str | None = None,
    description: str = "",
):
    """One row per arm: the study's seeds as dots with mean and 95 % interval, this page's run as a diamond, the paper's
    number as a dash.

    An arm may lack any of the three. `y_title` names the measured value (drawn along the horizontal axis, so that long
    arm names stay readable on a phone).
    """
    import plotly.graph_objects as go

    paper = paper or {}
    names = list(dict.fromkeys([*study, *this_run, *paper]))
    if not names:
        raise ValueError("claim_figure: no arm; pass values of the study, of this run or of the paper")
    fig = go.Figure()
    for name in names:
        colour(name)
    with_seeds = [name for name in names if len(study.get(name, ())) > 0]
    for name in with_seeds:
        fig.add_traces(_study_traces(name, names.index(name), study[name], name == with_seeds[0]))
    if this_run:
        fig.add_trace(_marks(this_run, names, THIS_RUN, symbol="diamond-open", size=11, offset=-0.2))
    if paper:
        fig.add_trace(_marks(paper, names, "the paper", symbol="line-ns", size=22))
    ticks = ["<br>".join(textwrap.wrap(name, 20)) for name in names]
    rows = dict(tickvals=list(range(len(names))), ticktext=ticks, range=[len(names) - 0.5, -0.5])
    fig.update_xaxes(title=dict(text=y_title))
    fig.update_yaxes(showgrid=False, zeroline=False, **rows)
    fig.update_layout(height=max(340, 130 + 64 * len(names)))  # on a phone the legend takes a third of that
    words = "; ".join(f"{name}: {_values_in_words(name, study, this_run, paper)}" for name in names)
    return apply_theme(fig, description or f"{y_title}. {words}.", title)


def _values_in_words(name: str, study: Mapping, this_run: Mapping, paper: Mapping) -> str:
    """What the claim figure draws of one arm."""
    parts = []
    values = study.get(name, ())
    if len(values) > 0:
        mean, half = mean_and_half_width(values)
        spread = f" ± {half:.2g}" if half is not None else ""
        parts.append(f"study mean {mean:.4g}{spread} over {len(values)} seed{'s' * (len(values) > 1)}")
    parts += [f"{who} {held[name]:.4g}" for who, held in ((THIS_RUN, this_run), ("paper", paper)) if name in held]
    return ", ".join(parts)


def _html_table(label: str, head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", kind: str = ""):
    """A table of HTML cells that scrolls sideways on a narrow page; the first cell of a row is its heading."""
    from IPython.display import HTML

    top = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    body = ""
    for first, *others in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>'
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    attributes = f' class="{kind}"' if kind else ""
    return HTML(
        f'<div class="jl-table" tabindex="0" role="group" aria-label="{html.escape(label)}"><table{attributes}>{above}'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]]):
    """An HTML table of plain text; the first cell of each row names the row."""
    escaped = ([html.escape(str(cell)) for cell in row] for row in rows)
    return _html_table(caption, head, escaped, caption)


VERDICT_HEAD = ("Claim", "Verdict", "Gain we measured", "95 % interval", "Margin", "Paper", "Seeds")


def _number(value: float | None) -> str:
    return f"{value:.3g}" if value is not None and math.isfinite(value) else "–"


def verdict_table(rows: Sequence[Mapping], caption: str = ""):
    """Claims as an HTML table: one row per dict of `claims --json` (statement, paper_value, mean, ci_low, ci_high,
    margin, verdict, n_seeds). What matters most comes first, for phones.
    """
    cells = (
        (
            html.escape(row["statement"]),
            badge(row["verdict"]),
            _number(row["mean"]),
            f"{_number(row['ci_low'])} … {_number(row['ci_high'])}",
            _number(row["margin"]),
            html.escape(str(row.get("paper_value") or "–")),
            str(row["n_seeds"]),
        )
        for row in rows
    )
    return _html_table("verdicts", VERDICT_HEAD, cells, caption, "jl-verdicts")
