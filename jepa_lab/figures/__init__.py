"""Plotly figures in the book's one look.

Every function returns a `plotly.graph_objects.Figure` (a table: displayable HTML) and takes `description`, the sentence
that a reader who cannot see the plot gets instead. Colours come from a colour-blind-safe set in which each has a
contrast of at least 3:1 on white and on the dark page; an arm (a run, a control) keeps the colour and dash that it was
first drawn with. The page's script swaps neutral text and grid colours when the reader changes the theme. Plotly is
imported inside the functions, so that importing this package costs nothing.
"""

from jepa_lab.figures.look import DASHES, PALETTE, apply_theme, arms, colour, dash, description_of
from jepa_lab.figures.plots import COLLAPSE_HINTS, collapse_panel, curves, image_grid, with_slider
from jepa_lab.figures.verdicts import THIS_RUN, claim_figure, table, verdict_table

__all__ = [
    "COLLAPSE_HINTS",
    "DASHES",
    "PALETTE",
    "THIS_RUN",
    "apply_theme",
    "arms",
    "claim_figure",
    "collapse_panel",
    "colour",
    "curves",
    "dash",
    "description_of",
    "image_grid",
    "table",
    "verdict_table",
    "with_slider",
]
