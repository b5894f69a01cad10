"""A paper's configuration: named presets, what its fields take, fields that may be added later, and its hash."""

import dataclasses
import hashlib
import json
import math
import numbers
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")

WORDS = {float: "a number", int: "a whole number", bool: "True or False", str: "text", types.NoneType: "None"}
PLURALS = {float: "numbers", int: "whole numbers", str: "texts"}
COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}


def choose(presets: Mapping[str, Config], name: str, overrides: Mapping[str, object]) -> Config:
    """The preset `name` with some fields replaced. ValueError for unknown names and what `fitted` refuses."""
    if name not in presets:
        raise ValueError(f"unknown preset {name!r}; there are: {', '.join(presets)}")
    return dataclasses.replace(presets[name], **fitted(presets[name], overrides))


def fitted(config: Any, values: Mapping[str, object]) -> dict[str, Any]:
    """The values as the config's fields take them: an int as a float, a list as a tuple, a folder as its full path.

    ValueError for an unknown field, and for a value of another type, length or size than the field's annotation says.
    Whole numbers of a config are counts and sizes: none is negative.
    """
    known = hints(config)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; the fields are: {', '.join(known)}")
    found = {name: fit(name, value, known[name], getattr(config, name)) for name, value in values.items()}
    for name, value in found.items():
        if any(type(item) is int and item < 0 for item in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{name} must not be negative, got {value!r}")
    return found


def fit(name: str, value: object, hint: Any, like: object) -> Any:
    """The value as a field of this annotation takes it, else ValueError; `like` is an example for its message."""
    try:
        return _fit(value, hint)
    except TypeError:
        example = "" if like is None else f" like {like!r}"
        raise ValueError(f"{name} must be {_words(hint)}{example}, not {value!r:.60}") from None
    except OverflowError:
        raise ValueError(f"{name} must be finite and fit 64 bits, not {value!r:.60}") from None


@dataclasses.dataclass(frozen=True)
class Folders:
    """Marks a field of text that names a folder, or several with commas between: Annotated[str, Folders()].

    Full paths mean the same folders everywhere, so a relative one belongs to who gives it, and ~ is the home folder.
    `words` are texts that name something else.
    """

    words: tuple[str, ...] = ()
    several: bool = False

    def full(self, text: str) -> str:
        """The text with full paths. Raises TypeError for a list of no folders."""
        if text in self.words:
            return text
        if self.several and not self.split(text):
            raise TypeError
        return ",".join(self.split(text))

    def split(self, text: str) -> list[str]:
        """The full paths of the folders, each once."""
        if text in self.words:
            return []
        names = [name.strip() for name in text.split(",")] if self.several else [text]
        return list(dict.fromkeys(os.path.abspath(os.path.expanduser(name)) for name in names if name))


def folders(config: Any) -> list[str]:
    """The full paths of all folders that the config names."""
    marked = [(name, mark) for name, hint in hints(config).items() for mark in _marks(hint)]
    return [folder for name, mark in marked for folder in mark.split(getattr(config, name) or "")]


def kind_of(value: object) -> Any:
    """The annotation that a default stands for where none is written."""
    if isinstance(value, tuple) and value:
        return tuple[tuple(map(kind_of, value))]
    return Any if value is None else type(value)


def takes(value: object, hint: Any) -> bool:
    """Whether a value is of the type and length that the annotation says."""
    try:
        _fit(value, hint)
    except (TypeError, OverflowError) as error:
        return isinstance(error, OverflowError)
    return True


def hints(config: Any) -> dict[str, Any]:
    """The annotation of each field, by name."""
    found = typing.get_type_hints(type(config), include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(config)}


def _fit(value: Any, hint: Any) -> Any:
    """Raises TypeError for another type or length, OverflowError for a number out of range."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        value = _fit(value, inner[0])
        for mark in _marks(hint) if isinstance(value, str) else ():
            value = mark.full(value)
        return value
    if origin in (typing.Union, types.UnionType):
        return _fit_one_of(value, inner)
    if origin is tuple:
        return _fit_tuple(value, inner)
    if hint in (int, float):
        return _fit_number(value, hint)
    if hint is list and isinstance(value, tuple):
        return list(value)
    if hint is not Any and not isinstance(value, origin or hint):
        raise TypeError
    return value


def _fit_one_of(value: Any, kinds: tuple) -> Any:
    for kind in kinds:
        try:
            return _fit(value, kind)
        except TypeError:
            continue
    raise TypeError


def _fit_tuple(value: Any, kinds: tuple) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise TypeError
    if kinds[-1:] == (...,):
        kinds = kinds[:1] * max(1, len(value))
    if len(kinds) != len(value):
        raise TypeError
    return tuple(map(_fit, value, kinds))


def _fit_number(value: Any, kind: type) -> float | int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if kind is int else numbers.Real):
        raise TypeError
    if not abs(value) < (2**63 if kind is int else math.inf):
        raise OverflowError
    return kind(value)


def _marks(hint: Any) -> list[Folders]:
    return [mark for mark in typing.get_args(hint) if isinstance(mark, Folders)]


def _words(hint: Any) -> str:
    """What an annotation asks for: 'two numbers', 'a whole number or None'."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _words(inner[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, inner))
    if origin is tuple:
        count = "one or more" if inner[-1] is ... else COUNTS.get(len(inner), len(inner))
        return f"{count} {PLURALS.get(inner[0], 'values')}"
    return WORDS.get(hint, getattr(hint, "__name__", str(hint)))


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
