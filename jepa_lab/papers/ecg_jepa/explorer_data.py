"""The data of the ECG viewer: records as plain JSON values, checked, with their leads packed to text."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jepa_lab.data.ecg.records import LEADS, MAX_MV

STEP = 0.005  # millivolts per integer in the page
SAMPLES = 1000  # at most, per lead: ten seconds at 100 Hz are all that a page is wide
MAX_KB = 400  # what a page may weigh
NEEDED = {"name", "leads", "rate", "patches"}
KNOWN = NEEDED | {"diagnoses", "masks", "neighbours", "saliency", "samples"}


def _numbers(values, count: int, what: str, least: float = -math.inf) -> list[float]:
    """Finite numbers as a list, of the wanted length and not below `least`; rounded to 4 digits."""
    found = [float(v) for v in values]
    if len(found) != count:
        raise ValueError(f"{what} has {len(found)} values, expected {count}")
    if not all(math.isfinite(v) and v >= least for v in found):
        raise ValueError(f"{what} must be finite{'' if least == -math.inf else f' and at least {least:g}'}")
    return [float(f"{v:.4g}") for v in found]


# ---- leads -----------------------------------------------------------------------------------------


def _pack(leads_LT: Tensor) -> str:
    """Millivolts [12, T] as text: 16-bit integers of STEP, little-endian, base64."""
    return base64.b64encode((leads_LT / STEP).round().to(torch.int16).numpy().astype("<i2").tobytes()).decode()


def _unpack(text: str, samples: int, who: str) -> Tensor:
    """Millivolts [12, T] from the text of `_pack`."""
    raw = base64.b64decode(text, validate=True)
    if len(raw) != 2 * len(LEADS) * samples:
        raise ValueError(f"{who}: packed leads hold {len(raw)} bytes, expected 2 x 12 x {samples} (samples)")
    return STEP * torch.frombuffer(bytearray(raw), dtype=torch.int16).reshape(len(LEADS), samples).float()


def _check_leads(leads_LT: Tensor, who: str) -> None:
    if leads_LT.ndim != 2 or leads_LT.shape[0] != len(LEADS) or leads_LT.shape[1] < 2:
        raise ValueError(
            f"{who}: leads must be [12, T] in the order {', '.join(LEADS)}, got shape {tuple(leads_LT.shape)}"
        )
    if not torch.isfinite(leads_LT).all():
        raise ValueError(f"{who}: leads hold NaN or infinite values; interpolate them first")
    if leads_LT.abs().max() > MAX_MV:
        raise ValueError(f"{who}: leads reach {float(leads_LT.abs().max()):.0f}; give millivolts (at most {MAX_MV:g})")


def millivolts(record: Mapping, who: str) -> tuple[Tensor, float]:
    """The leads as float32 millivolts [12, T <= SAMPLES] and their rate in Hz.

    Longer records become means of neighbouring samples. Raises ValueError for leads that are no electrocardiogram.
    """
    leads, rate = record["leads"], float(record["rate"])
    if isinstance(leads, str):
        leads_LT = _unpack(leads, record.get("samples", 0), who)
    else:
        leads_LT = torch.as_tensor(leads).detach().cpu().float()
    _check_leads(leads_LT, who)
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"{who}: rate must be a positive number of samples per second, got {record['rate']}")
    block = math.ceil(leads_LT.shape[1] / SAMPLES)
    whole = leads_LT.shape[1] // block * block
    return leads_LT[:, :whole].reshape(len(LEADS), -1, block).mean(-1), rate / block


# ---- what is known of a record ---------------------------------------------------------------------


def checked_mask(mask: Mapping, patches: int, who: str) -> dict:
    """One mask: name, hidden patch indices in order, the latent error of each."""
    what = f"{who}: mask {mask.get('name')!r}"
    if not isinstance(mask.get("name"), str) or not mask["name"] or set(mask) != {"name", "hidden", "error"}:
        raise ValueError(f"{what} must have a name, hidden and error, got {sorted(mask)}")
    hidden = [int(i) for i in mask["hidden"]]
    if not hidden or len(set(hidden)) != len(hidden) or not all(0 <= i < patches for i in hidden):
        raise ValueError(f"{what}: hidden must be different patch indices in 0..{patches - 1}, got {hidden}")
    error = _numbers(mask["error"], len(hidden), f"{what}: error (one per hidden patch)", 0.0)
    pairs = sorted(zip(hidden, error))
    return {"name": mask["name"], "hidden": [i for i, _ in pairs], "error": [e for _, e in pairs]}


def _masks(record: Mapping, patches: int, who: str) -> list[dict]:
    masks = [checked_mask(mask, patches, who) for mask in record.get("masks", ())]
    names = [mask["name"] for mask in masks]
    if len(set(names)) != len(names):
        raise ValueError(f"{who}: masks must have different names, got {names}")
    return masks


def _neighbours(record: Mapping, index: int, count: int, who: str) -> list[dict]:
    """The other records that are near, nearest first."""
    found = []
    for neighbour in record.get("neighbours", ()):
        distance = _numbers([neighbour["distance"]], 1, f"{who}: distance of a neighbour", 0.0)[0]
        found.append({"record": int(neighbour["record"]), "distance": distance})
    if bad := [n["record"] for n in found if not 0 <= n["record"] < count or n["record"] == index]:
        raise ValueError(
            f"{who}: neighbours must be indices of the other records, 0..{count - 1} without {index}, got {bad}"
        )
    return sorted(found, key=lambda n: n["distance"])


def _name(record: Mapping, index: int) -> str:
    """The record's name, after a check that the fields are the known ones."""
    name = record.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"record {index} needs a name")
    if missing := NEEDED - set(record):
        raise ValueError(f"record {name!r} lacks {', '.join(sorted(missing))}")
    if unknown := set(record) - KNOWN:
        raise ValueError(
            f"record {name!r} has unknown fields {', '.join(sorted(unknown))}; known are {', '.join(sorted(KNOWN))}"
        )
    return name


def _record(record: Mapping, index: int, count: int) -> dict:
    """One checked record; ValueError says what is wrong with which."""
    name = _name(record, index)
    who = f"record {name!r}"
    leads_LT, rate = millivolts(record, who)
    samples, patches = leads_LT.shape[1], record["patches"]
    if not isinstance(patches, int) or not 1 <= patches <= samples:
        raise ValueError(f"{who}: patches must be a whole number from 1 to the {samples} samples, got {patches}")
    saliency = {
        str(diagnosis): _numbers(weights, patches, f"{who}: saliency of {diagnosis!r} (one per patch)")
        for diagnosis, weights in record.get("saliency", {}).items()
    }
    return {
        "name": name,
        "diagnoses": [str(diagnosis) for diagnosis in record.get("diagnoses", ())],
        "leads": _pack(leads_LT),
        "samples": samples,
        "rate": rate,
        "patches": patches,
        "masks": _masks(record, patches, who),
        "neighbours": _neighbours(record, index, count, who),
        "saliency": saliency,
    }


def viewer_data(records: Sequence[Mapping], title: str = "", caption: str = "") -> dict:
    """The data of the viewer as plain JSON values (below 400 kB: about ten records).

    A record is a dict. Needed: ``name`` (unique), ``leads`` ([12,T] millivolts in the order of LEADS: tensor, array or
    lists), ``rate`` (Hz), ``patches`` (N equal pieces of the whole time). Where known: ``diagnoses`` [str]; ``masks``
    [{name, hidden: patch indices, error: one latent error >= 0 per hidden patch}]; ``neighbours`` [{record: index in
    this list, distance: >= 0}]; ``saliency`` {diagnosis: N numbers, positive where hiding the patch lowers its score}.

    The returned ``records`` are records again (leads packed to text, ``samples`` = T): they can be stored and shown
    later. Raises ValueError, which names what is wrong with which record.
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
