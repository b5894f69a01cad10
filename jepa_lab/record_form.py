"""The form of a run record: what `records` writes, and what every reader may rely on."""

import math

from jepa_lab.configs import config_hash

FIELDS = {
    "chapter": str,
    "preset": str,
    "seed": int,
    "config": dict,
    "config_hash": str,
    "git_commit": str | None,
    "code_hash": str,
    "versions": dict,
    "device": str,
    "started": str,
    "wall_s": float,
    "peak_rss_mb": float | None,
    "data": list,
    "claims": dict,
    "series": dict,
    "values": dict,
}
WORDS = {str: "text", int: "a whole number", float: "a number", dict: "an object", list: "a list"}


def fault(record: object) -> str:
    """What keeps a JSON value from being a record of this version, in words; "" for a record."""
    if not isinstance(record, dict):
        return "no JSON object"
    for name, kind in FIELDS.items():
        if name not in record:
            return f"it has no {name!r}"
        if not _is(record[name], kind):
            return f"{name!r} is {_short(record[name])}, not {WORDS.get(kind, kind)}"
    return _fault_of_numbers(record) or _fault_of_config(record)


def _fault_of_numbers(record: dict) -> str:
    for name, claim in record["claims"].items():
        if not _is(claim, dict) or not all(_is(claim.get(part), float) for part in ("value", "baseline")):
            return f"claim {name!r} is {_short(claim)}, not a value and a baseline"
    for name, curve in record["series"].items():
        if not _is(curve, dict) or not _are_points(curve.get("x"), curve.get("y")):
            return f"series {name!r} is not x and y of equal length"
    for name, number in record["values"].items():
        if not _is(number, float):
            return f"value {name!r} is {_short(number)}, not a number"
    return ""


def _fault_of_config(record: dict) -> str:
    if config_hash(record["config"]) != record["config_hash"]:
        return "its config is not the one that was run: config_hash differs"
    return ""


def _are_points(x: object, y: object) -> bool:
    if not _is(x, list) or not _is(y, list) or len(x) != len(y):
        return False
    return all(_is(number, float | None) for number in [*x, *y])


def _is(value: object, kind) -> bool:
    """True for a value of that kind. Numbers are finite, whole ones fit 64 bits, and True is no number."""
    if isinstance(value, bool):
        return False
    if kind is int:
        return isinstance(value, int) and abs(value) < 2**63
    if kind is float:
        return isinstance(value, (int, float)) and abs(value) < math.inf
    if kind == float | None:
        return value is None or _is(value, float)
    return isinstance(value, kind)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:37]}…"
