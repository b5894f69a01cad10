"""A paper's configuration: named presets, fields that may be added later, and its hash."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")


def choose(presets: Mapping[str, Config], name: str, overrides: Mapping[str, object]) -> Config:
    """The preset `name` with some fields replaced. Unknown names and unknown fields raise ValueError."""
    if name not in presets:
        raise ValueError(f"unknown preset {name!r}; there are: {', '.join(presets)}")
    known = [field.name for field in dataclasses.fields(presets[name])]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; the fields are: {', '.join(known)}")
    return dataclasses.replace(presets[name], **overrides)


def added(default: Any) -> Any:
    """A dataclass field that does not change the hash of stored records while it holds its default.

    Use this function for a field that a configuration gets after records of it were stored:

        hold: float = configs.added(0.0)
    """
    return dataclasses.field(default=default, metadata={"added": True})


def config_hash(config) -> str:
    """sha256 of the configuration as canonical JSON."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True, allow_nan=False).encode()).hexdigest()


def plain(config) -> dict:
    """A dataclass or dict as JSON values: tuples as lists, paths and dtypes as text, `added` fields at their default
    left out."""
    return json.loads(json.dumps(config, default=_json_value))


def _json_value(value):
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return str(value)
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if not _untouched(value, f)}


def _untouched(config, field: dataclasses.Field) -> bool:
    return field.metadata.get("added", False) and getattr(config, field.name) == field.default
