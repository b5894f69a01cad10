"""One look for all figures: colours and dashes of arms, the theme, the text that stands for a figure."""

from __future__ import annotations

# Okabe-Ito hues, moved to the lightness band that is legible on #ffffff and on #121212.
PALETTE = ("#0072B2", "#D55E00", "#008F68", "#C06090", "#A67C00", "#7D6BC4", "#3E8FC4", "#7A7A7A")
DASHES = ("solid", "dash", "dot", "dashdot")
TEXT = "#333333"
GRID = "#d8d8d8"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
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


def rgba(hex_colour: str, alpha: float) -> str:
    """A colour "#rrggbb" with an opacity, as plotly and CSS read it."""
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def apply_theme(fig, description: str = "", title: str | None = None):
    """Give any plotly figure the book's look and a text alternative; returns the same figure."""
    axis = dict(gridcolor=GRID, zerolinecolor=GRID, linecolor=GRID, automargin=True, title=dict(standoff=8))
    has_title = bool(title or fig.layout.title.text)
    look = dict(
        font=dict(family=FONT, size=14, color=TEXT),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        colorway=list(PALETTE),
        xaxis=axis,
        yaxis=axis,
        hoverlabel=dict(font=dict(size=13)),
        title=dict(x=0, xref="paper", xanchor="left", font=dict(size=16)),
        legend=dict(orientation="h", yanchor="bottom", y=1.02, x=0),
        margin=dict(l=10, r=10, t=70 if has_title else 40, b=10),
    )
    fig.update_layout(template=dict(layout=look), meta=dict(description=" ".join(description.split())))
    if title:
        fig.update_layout(title=dict(text=title))
    return fig


def description_of(fig) -> str:
    """The text alternative of a figure, "" where it has none."""
    meta = fig.layout.meta
    return meta.get("description", "") if isinstance(meta, dict) else ""
