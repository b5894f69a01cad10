"""The ECG viewer of chapter 07: one 12-lead record on paper, what is hidden, how well it was predicted, what is near.

In the page by JavaScript from data computed before (`viewer`), as a plotly figure (`twelve_leads`), and with a kernel
on
a reader's own WFDB record (`live_viewer`). plotly, ipywidgets and anywidget are imported inside the functions, so that
importing this file costs nothing.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from jepa_lab import figures
from jepa_lab.data.ecg.records import LEADS

HERE = Path(__file__).parent
STEP = 0.005  # millivolts per integer in the page
SAMPLES = 1000  # at most, per lead: ten seconds at 100 Hz are all that a page is wide
MAX_KB = 400  # what a page may weigh
MAX_MV = 20.0  # more is not an ECG but another unit
FIELDS = {"name", "leads", "rate", "patches", "diagnoses", "masks", "neighbours", "saliency", "samples"}
PAPER = dict(fine="rgba(214,70,90,.22)", bold="rgba(214,70,90,.5)")  # legible on a light and on a dark page
PRINTOUT = ((0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11), (1,))  # rows of a print-out: four leads in turn, lead II below


# ---- what the page holds ---------------------------------------------------------------------------


def _numbers(values, count: int | None, what: str, least: float = -math.inf) -> list[float]:
    """Finite numbers as a list, of the wanted length and not below `least`; rounded to 4 digits."""
    found = [float(v) for v in values]
    if count is not None and len(found) != count:
        raise ValueError(f"{what} has {len(found)} values, expected {count}")
    if not all(math.isfinite(v) and v >= least for v in found):
        raise ValueError(f"{what} must be finite{'' if least == -math.inf else f' and at least {least:g}'}")
    return [float(f"{v:.4g}") for v in found]


def _unpack(text: str, samples: int, who: str) -> Tensor:
    """Millivolts [12, T] from what `_pack` made."""
    raw = base64.b64decode(text, validate=True)
    if len(raw) != 2 * len(LEADS) * samples:
        raise ValueError(f"{who}: packed leads hold {len(raw)} bytes, expected 2 x 12 x {samples} (samples)")
    return STEP * torch.frombuffer(bytearray(raw), dtype=torch.int16).reshape(len(LEADS), samples).float()


def _millivolts(record: Mapping, who: str) -> tuple[Tensor, float]:
    """The leads as float32 millivolts [12, T <= SAMPLES] and their rate in Hz; longer records become means of
    neighbouring samples.
    """
    leads, rate = record["leads"], float(record["rate"])
    leads_LT = (
        _unpack(leads, record.get("samples", 0), who)
        if isinstance(leads, str)
        else torch.as_tensor(leads).detach().cpu().float()
    )
    if leads_LT.ndim != 2 or leads_LT.shape[0] != len(LEADS) or leads_LT.shape[1] < 2:
        raise ValueError(
            f"{who}: leads must be [12, T] in the order {', '.join(LEADS)}, got shape {tuple(leads_LT.shape)}"
        )
    if not torch.isfinite(leads_LT).all():
        raise ValueError(f"{who}: leads hold NaN or infinite values; interpolate them first")
    if leads_LT.abs().max() > MAX_MV:
        raise ValueError(f"{who}: leads reach {float(leads_LT.abs().max()):.0f}; give millivolts (at most {MAX_MV:g})")
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"{who}: rate must be a positive number of samples per second, got {record['rate']}")
    block = math.ceil(leads_LT.shape[1] / SAMPLES)
    whole = leads_LT.shape[1] // block * block
    return leads_LT[:, :whole].reshape(len(LEADS), -1, block).mean(-1), rate / block


def _mask(mask: Mapping, patches: int, who: str) -> dict:
    """One candidate mask: name, hidden patch indices in order, the latent error of each."""
    what = f"{who}: mask {mask.get('name')!r}"
    if not isinstance(mask.get("name"), str) or not mask["name"] or set(mask) != {"name", "hidden", "error"}:
        raise ValueError(f"{what} must have a name, hidden and error, got {sorted(mask)}")
    hidden = [int(i) for i in mask["hidden"]]
    if not hidden or len(set(hidden)) != len(hidden) or not all(0 <= i < patches for i in hidden):
        raise ValueError(f"{what}: hidden must be different patch indices in 0..{patches - 1}, got {hidden}")
    error = _numbers(mask["error"], len(hidden), f"{what}: error (one per hidden patch)", 0.0)
    pairs = sorted(zip(hidden, error))
    return {"name": mask["name"], "hidden": [i for i, _ in pairs], "error": [e for _, e in pairs]}


def _record(record: Mapping, index: int, count: int) -> dict:
    """One checked record as the page wants it; ValueError says what is wrong with which."""
    name = record.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"record {index} needs a name")
    who = f"record {name!r}"
    if missing := {"leads", "rate", "patches"} - set(record):
        raise ValueError(f"{who} lacks {', '.join(sorted(missing))}")
    if unknown := set(record) - FIELDS:
        raise ValueError(
            f"{who} has unknown fields {', '.join(sorted(unknown))}; known are {', '.join(sorted(FIELDS))}"
        )
    leads_LT, rate = _millivolts(record, who)
    patches = record["patches"]
    if not isinstance(patches, int) or not 1 <= patches <= leads_LT.shape[1]:
        raise ValueError(
            f"{who}: patches must be a whole number from 1 to the {leads_LT.shape[1]} samples, got {patches}"
        )
    near = [
        (int(n["record"]), *_numbers([n["distance"]], 1, f"{who}: distance of a neighbour", 0.0))
        for n in record.get("neighbours", ())
    ]
    if bad := [i for i, _ in near if not 0 <= i < count or i == index]:
        raise ValueError(
            f"{who}: neighbours must be indices of the other records, 0..{count - 1} without {index}, got {bad}"
        )
    masks = [_mask(mask, patches, who) for mask in record.get("masks", ())]
    if len({mask["name"] for mask in masks}) != len(masks):
        raise ValueError(f"{who}: masks must have different names, got {[mask['name'] for mask in masks]}")
    packed = base64.b64encode((leads_LT / STEP).round().to(torch.int16).numpy().astype("<i2").tobytes()).decode()
    return {
        "name": name,
        "diagnoses": [str(d) for d in record.get("diagnoses", ())],
        "leads": packed,
        "samples": leads_LT.shape[1],
        "rate": rate,
        "patches": patches,
        "masks": masks,
        "neighbours": [{"record": i, "distance": d} for i, d in sorted(near, key=lambda pair: pair[1])],
        "saliency": {
            str(d): _numbers(v, patches, f"{who}: saliency of {d!r} (one per patch)")
            for d, v in record.get("saliency", {}).items()
        },
    }


def viewer_data(records: Sequence[Mapping], title: str = "", caption: str = "") -> dict:
    """The data of `viewer` as plain JSON values (below 400 kB: about ten records), or a ValueError that names what is
    wrong.

    A record is a dict. Needed: ``name`` (unique), ``leads`` ([12,T] millivolts in the order of LEADS: tensor, array or
    lists),
    ``rate`` (Hz), ``patches`` (N equal pieces of the whole time). Where known: ``diagnoses`` [str]; ``masks``
    [{name, hidden: patch indices, error: one latent error >= 0 per hidden patch}]; ``neighbours`` [{record: index in
    this
    list, distance: >= 0}]; ``saliency`` {diagnosis: N numbers, positive where hiding the patch lowers its score}.
    The returned ``records`` are records again (leads packed to text, ``samples`` = T), so they can be stored and shown
    later.
    """
    if not records:
        raise ValueError("the viewer needs at least one record")
    found = [_record(record, i, len(records)) for i, record in enumerate(records)]
    names = [record["name"] for record in found]
    if len(set(names)) != len(names):
        raise ValueError(f"records must have different names, got {names}")
    data = {"title": title, "caption": caption, "leads": list(LEADS), "step": STEP, "records": found}
    size = len(json.dumps(data)) / 1000
    if size > MAX_KB:
        raise ValueError(f"{len(records)} records weigh {size:.0f} kB, more than the {MAX_KB} kB of a page: show fewer")
    return data


@lru_cache
def _widget_class():
    import anywidget
    import traitlets

    class EcgViewer(anywidget.AnyWidget):
        """Draws in the browser; `data` as from `viewer_data`."""

        _esm = HERE / "explorer.js"
        _css = HERE / "explorer.css"
        data = traitlets.Dict().tag(sync=True)

    return EcgViewer


def viewer(records: Sequence[Mapping], title: str = "", caption: str = ""):
    """The viewer as a widget that needs no kernel; ``records`` as in `viewer_data`.

    ``title`` stands above it, ``caption`` below: say there where the records come from (simulated or real) and what the
    latent error and the distance are.
    """
    return _widget_class()(data=viewer_data(records, title, caption))


# ---- as a plotly figure ----------------------------------------------------------------------------


def _runs(hidden: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring indices as half-open runs: [0, 1, 4] gives (0, 2), (4, 5)."""
    cells = sorted(set(hidden))
    starts = [i for i in cells if i - 1 not in cells]
    return list(zip(starts, [i + 1 for i in cells if i + 1 not in cells], strict=True))


def _ruling(seconds: float, depth: float):
    """ECG paper as two traces, fine and bold lines: plotly's own minor grid takes seconds to draw."""
    import plotly.graph_objects as go

    for name, time, volts, width in (("fine", 0.04, 0.1, 0.7), ("bold", 0.2, 0.5, 1.2)):
        across = [k * time for k in range(math.floor(seconds / time + 1e-6) + 1)]
        down = [k * volts for k in range(round(depth / volts), 1)]
        x = [v for t in across for v in (t, t, None)] + [0, seconds, None] * len(down)
        y = [depth, 0, None] * len(across) + [v for level in down for v in (level, level, None)]
        yield go.Scatter(
            x=x,
            y=y,
            mode="lines",
            line=dict(color=PAPER[name], width=width),
            hoverinfo="skip",
            showlegend=False,
            name=f"{name} lines",
        )


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

    record = {"name": title or "ECG", "leads": signals_12T, "rate": rate, "patches": patches or 1}
    if hidden is not None:
        if patches is None:
            raise ValueError("hidden patches need patches, their number over the whole record")
        record["masks"] = [
            _mask({"name": "hidden", "hidden": hidden, "error": [0.0] * len(hidden)}, patches, "twelve_leads")
        ]
    leads_LT, rate = _millivolts(record, record["name"])
    seconds, length = leads_LT.shape[1] / rate, leads_LT.shape[1]
    traces, base, marks = [], 0.0, []
    for row in PRINTOUT:
        cuts = [round(k * length / len(row)) for k in range(len(row) + 1)]
        pieces = [leads_LT[lead, a:b] for lead, a, b in zip(row, cuts, cuts[1:])]
        top, base = (
            base,
            base - math.ceil(2 * max(1.2, 0.3 + max(float(p.max()) for p in pieces))) / 2,
        )  # the zero line falls on a bold one
        for lead, a, piece in zip(row, cuts, pieces):
            time = (a + torch.arange(len(piece))) / rate
            traces.append(
                go.Scatter(
                    x=time.numpy(),
                    y=(base + piece).numpy(),
                    customdata=piece.numpy(),
                    name=LEADS[lead],
                    mode="lines",
                    showlegend=False,
                    line=dict(color="#222222", width=1.3),
                    hovertemplate="%{x:.2f} s: %{customdata:.2f} mV",
                )
            )
            marks.append(
                dict(
                    x=a / rate + 0.04,
                    y=top - 0.2,
                    text=f"<b>{LEADS[lead]}</b>",
                    showarrow=False,
                    xanchor="left",
                    font=dict(size=12),
                )
            )
        base += math.floor(2 * min(-0.3, min(float(p.min()) for p in pieces) - 0.1)) / 2
    fig = go.Figure([*_ruling(seconds, base), *traces])
    for start, stop in _runs(hidden or ()):
        fig.add_vrect(
            start * seconds / patches, stop * seconds / patches, fillcolor="#888888", opacity=0.35, line_width=0
        )
    plain = dict(showgrid=False, zeroline=False, showline=False, showticklabels=False, ticks="")
    fig.update_xaxes(range=[0, seconds], title=dict(text=f"{seconds:g} s, 25 mm/s, 10 mm/mV"), **plain)
    fig.update_yaxes(range=[base, 0], scaleanchor="x", scaleratio=0.4, constrain="domain", **plain)
    fig.update_layout(height=round(90 - base * 28), annotations=marks)
    shaded = "; ".join(f"{a * seconds / patches:.2f} to {b * seconds / patches:.2f} s" for a, b in _runs(hidden or ()))
    return figures.house(
        fig, f"12-lead ECG of {seconds:g} s on paper. {title} {f'Hidden: {shaded}.' if shaded else ''}", title or None
    )


# ---- with a kernel, on a reader's own record -------------------------------------------------------


def _own_record(
    path: str, model: Callable[[Tensor], Mapping], references: Sequence[Mapping], rate: int, seconds: float
) -> list[dict]:
    """The reader's record with what the model says of it, then the references, whose indices move up by one."""
    from jepa_lab.data.ecg.records import read_record

    signals_12T = read_record(path, rate, seconds)
    said = dict(model(signals_12T))
    own = {"name": Path(path).name.removesuffix(".hea"), "leads": signals_12T, "rate": rate, **said}
    moved = [
        {**r, "neighbours": [{**n, "record": n["record"] + 1} for n in r.get("neighbours", ())]} for r in references
    ]
    own["neighbours"] = [{**n, "record": n["record"] + 1} for n in said.get("neighbours", ())]
    return [own, *moved]


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
    ``diagnoses``,
    ``masks``, ``saliency`` and ``neighbours`` (indices among ``references``), as in `viewer_data`; ``references`` are
    records
    too. What cannot be read or shown is said in one line. In a page without a kernel nothing follows: show `viewer`
    there.
    """
    import ipywidgets as widgets
    from IPython.display import display

    from jepa_lab.data.ecg.records import RecordError

    field = widgets.Text(
        path,
        description="WFDB record",
        placeholder="folder/record",
        style={"description_width": "7rem"},
        layout={"width": "32rem", "max_width": "100%"},
        continuous_update=False,
    )

    def show(path):
        if not path.strip():
            return print("Type the path of a WFDB record and press Enter.")
        try:
            display(viewer(_own_record(path.strip(), model, references, rate, seconds), path.strip()))
        except (RecordError, ValueError, OSError) as reason:
            print(reason if path.strip() in str(reason) else f"{path.strip()}: {reason}")

    return widgets.VBox([field, widgets.interactive_output(show, {"path": field})])
