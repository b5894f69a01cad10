"""A paper's presets: frozen configs by name."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TypeVar

Config = TypeVar("Config")


def choose(presets: Mapping[str, Config], name: str, overrides: Mapping[str, object]) -> Config:
    """The preset `name` with some fields replaced. Unknown names and unknown fields raise ValueError."""
    if name not in presets:
        raise ValueError(f"unknown preset {name!r}; there are: {', '.join(presets)}")
    known = [f.name for f in fields(presets[name])]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; the fields are: {', '.join(known)}")
    return replace(presets[name], **overrides)
