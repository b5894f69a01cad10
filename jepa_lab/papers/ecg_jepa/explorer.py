"""The ECG viewer of chapter 07: one 12-lead record on paper, what is hidden, how well it was predicted, what is near.

`viewer` draws in the page by JavaScript from data computed before, `twelve_leads` is a plotly figure, `live_viewer`
needs a kernel and shows a reader's own WFDB record. plotly and ipywidgets are imported inside the functions, so that
importing this file costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from jepa_lab import figures, widgets
from jepa_lab.data.ecg.records import LEADS, RecordError, read_record
from jepa_lab.papers.ecg_jepa.explorer_data import checked_mask, millivolts, viewer_data

SCRIPT = Path(__file__).with_suffix(".js")
RULINGS = {  # lines of ECG paper: seconds, millivolts, width, colour; legible on a light and on a dark page
    "fine": (0.04, 0.1, 0.7, "rgba(214,70,90,.22)"),
    "bold": (0.2, 0.5, 1.2, "rgba(214,70,90,.5)"),
}
PRINTOUT = ((0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11), (1,))  # rows of a print-out: four leads in turn, lead II below
LEAST_MV = 1.2  # height of a row above its zero line


def viewer(records: Sequence[Mapping], title: str = "", caption: str = ""):
    """The viewer as a widget that needs no kernel; ``records`` as in `viewer_data`.

    ``title`` stands above it, ``caption`` below: say there where the records come from (simulated or real) and what the
    latent error and the distance are.
    """
    return widgets.show(SCRIPT, viewer_data(records, title, caption))


# ---- as a plotly figure ----------------------------------------------------------------------------


def _runs(hidden: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring indices as half-open runs: [0, 1, 4] gives (0, 2), (4, 5)."""
    cells = set(hidden)
    starts = sorted(i for i in cells if i - 1 not in cells)
    stops = sorted(i + 1 for i in cells if i + 1 not in cells)
    return list(zip(starts, stops, strict=True))


def _ruling(name: str, seconds: float, depth: float):
    """The fine or the bold lines of ECG paper as one trace: plotly's own minor grid takes seconds to draw."""
    import plotly.graph_objects as go

    time, volts, width, colour = RULINGS[name]
    x, y = [], []
    for k in range(math.floor(seconds / time + 1e-6) + 1):
        x += [k * time, k * time, None]
        y += [depth, 0, None]
    for k in range(round(depth / volts), 1):
        x += [0, seconds, None]
        y += [k * volts, k * volts, None]
    line = dict(color=colour, width=width)
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False, name=f"{name} lines")


def _lead_trace(lead: int, piece: Tensor, start: int, rate: float, zero: float):
    import plotly.graph_objects as go

    time = (start + torch.arange(len(piece))) / rate
    return go.Scatter(
        x=time.numpy(),
        y=(zero + piece).numpy(),
        customdata=piece.numpy(),
        name=LEADS[lead],
        mode="lines",
        showlegend=False,
        line=dict(color="#222222", width=1.3),
        hovertemplate="%{x:.2f} s: %{customdata:.2f} mV",
    )


def _lead_name(lead: int, x: float, y: float) -> dict:
    return dict(x=x, y=y, text=f"<b>{LEADS[lead]}</b>", showarrow=False, xanchor="left", font=dict(size=12))


def _print_out(leads_LT: Tensor, rate: float) -> tuple[list, list[dict], float]:
    """Traces of the leads, their names, and the depth of the paper in millivolts below its top."""
    traces, names, depth = [], [], 0.0
    length = leads_LT.shape[1]
    for row in PRINTOUT:
        cuts = [round(k * length / len(row)) for k in range(len(row) + 1)]
        pieces = [leads_LT[lead, start:stop] for lead, start, stop in zip(row, cuts, cuts[1:])]
        high = max(float(piece.max()) for piece in pieces)
        low = min(float(piece.min()) for piece in pieces)
        zero = depth - math.ceil(2 * max(LEAST_MV, 0.3 + high)) / 2  # falls on a bold line
        for lead, piece, start in zip(row, pieces, cuts):
            traces.append(_lead_trace(lead, piece, start, rate, zero))
            names.append(_lead_name(lead, start / rate + 0.04, depth - 0.2))
        depth = zero + math.floor(2 * min(-0.3, low - 0.1)) / 2
    return traces, names, depth


def twelve_leads(
    signals_12T: Float[Tensor, "12 T"],
    rate: float,
    hidden: Sequence[int] | None = None,
    patches: int | None = None,
    title: str = "",
):
    """One record (millivolts, LEADS order, ``rate`` in Hz) as a print-out: 3 x 4 leads in turn and lead II below, on
    ECG paper.

    ``hidden`` are indices among ``patches`` equal pieces of the time; they are shaded. Boxes are 40 ms by 0.1 mV, bold
    0.2 s by 0.5 mV.
    """
    import plotly.graph_objects as go

    hidden = list(hidden or ())
    if hidden:
        if patches is None:
            raise ValueError("hidden patches need patches, their number over the whole record")
        checked_mask({"name": "hidden", "hidden": hidden, "error": [0.0] * len(hidden)}, patches, "twelve_leads")
    leads_LT, rate = millivolts({"leads": signals_12T, "rate": rate}, title or "ECG")
    seconds = leads_LT.shape[1] / rate
    traces, names, depth = _print_out(leads_LT, rate)
    fig = go.Figure([*(_ruling(name, seconds, depth) for name in RULINGS), *traces])
    spans = [(start * seconds / patches, stop * seconds / patches) for start, stop in _runs(hidden)]
    for start, stop in spans:
        fig.add_vrect(start, stop, fillcolor="#888888", opacity=0.35, line_width=0)
    plain = dict(showgrid=False, zeroline=False, showline=False, showticklabels=False, ticks="")
    fig.update_xaxes(range=[0, seconds], title=dict(text=f"{seconds:g} s, 25 mm/s, 10 mm/mV"), **plain)
    fig.update_yaxes(range=[depth, 0], scaleanchor="x", scaleratio=0.4, constrain="domain", **plain)
    fig.update_layout(height=round(90 - depth * 28), annotations=names)
    shaded = "; ".join(f"{start:.2f} to {stop:.2f} s" for start, stop in spans)
    words = f"12-lead ECG of {seconds:g} s on paper. {title} {f'Hidden: {shaded}.' if shaded else ''}"
    return figures.apply_theme(fig, words, title or None)


# ---- with a kernel, on a reader's own record -------------------------------------------------------


def _moved(neighbours: Sequence[Mapping]) -> list[dict]:
    """Neighbours whose indices are one higher, because a record was put before them."""
    return [{**neighbour, "record": neighbour["record"] + 1} for neighbour in neighbours]


def _own_record(
    path: str, model: Callable[[Tensor], Mapping], references: Sequence[Mapping], rate: int, seconds: float
) -> list[dict]:
    """The reader's record with what the model says of it, then the references."""
    signals_12T = read_record(path, rate, seconds)
    found = {"name": Path(path).name.removesuffix(".hea"), "leads": signals_12T, "rate": rate, **model(signals_12T)}
    return [{**record, "neighbours": _moved(record.get("neighbours", ()))} for record in (found, *references)]


def live_viewer(
    model: Callable[[Tensor], Mapping],
    references: Sequence[Mapping] = (),
    path: str = "",
    rate: int = 100,
    seconds: float = 10,
):
    """The viewer on a WFDB record of the reader's own, for a running kernel: type its path (with or without .hea),
    press Enter.

    ``model`` takes the record (float32 [12,T] millivolts at ``rate``) and returns ``patches`` and where known
    ``diagnoses``, ``masks``, ``saliency`` and ``neighbours`` (indices among ``references``), as in `viewer_data`;
    ``references`` are records too. What cannot be read or shown is said in one line. In a page without a kernel nothing
    follows: show `viewer` there.
    """
    import ipywidgets
    from IPython.display import display

    field = ipywidgets.Text(
        path,
        description="WFDB record",
        placeholder="folder/record",
        style={"description_width": "7rem"},
        layout={"width": "32rem", "max_width": "100%"},
        continuous_update=False,
    )

    def draw(path):
        path = path.strip()
        if not path:
            print("Type the path of a WFDB record and press Enter.")
            return
        try:
            display(viewer(_own_record(path, model, references, rate, seconds), path))
        except (RecordError, ValueError, OSError) as reason:
            print(reason if path in str(reason) else f"{path}: {reason}")

    return ipywidgets.VBox([field, ipywidgets.interactive_output(draw, {"path": field})])
