"""The parameters of a notebook: the names in its cell tagged "parameters" and the fields of its paper's Config.

Papermill only warns about an unknown name. Here a wrong name or type is an error before anything starts.
"""

import ast
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import nbformat

from jepa_lab.publish.chapters import Chapter

CONTRACT = ("preset", "seed", "device", "out", "overrides")


def tagged(notebook: Path) -> dict:
    """Names and defaults in the notebook's one cell tagged "parameters"."""
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{notebook.name} has {len(cells)} cells tagged 'parameters', it needs exactly one")
    defaults = {}
    for statement in ast.parse(cells[0].source).body:
        try:
            (target,) = statement.targets
            defaults[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            raise ValueError(
                f"{notebook.name}: the parameters cell may contain only lines like  name = constant"
            ) from None
    return defaults


def resolve(
    chapter: Chapter, preset: str, seed: int, given: dict[str, str], device: str = "auto", out: str = ""
) -> tuple[dict, object]:
    """The notebook's parameters and the paper's config for one run.

    `given` maps names to text, as typed after `-p`. Names of the tagged cell become parameters of the notebook; fields
    of the Config become entries of `overrides`. Returns (parameters, config); config is None if there is no paper.
    """
    defaults = tagged(chapter.notebook)
    for name in {"preset", "seed"} & set(given):
        raise ValueError(f"{name} is not set with -p: use --{name}")
    known = {"preset": preset, "seed": seed, "device": device, "out": out}
    parameters = {name: value for name, value in known.items() if name in defaults}
    rest = {}
    for name, text in given.items():
        if name in defaults and name != "overrides":
            parameters[name] = convert(name, text, defaults[name])
        else:
            rest[name] = text
    notebook_names = ["device", "out", *(name for name in defaults if name not in CONTRACT)]
    paper = chapter.paper()
    if paper is None:
        if rest:
            raise ValueError(f"{chapter.name} has no parameter {_names(rest)}; it knows: {', '.join(notebook_names)}")
        return parameters, None
    config, overrides = configure(paper, chapter.name, preset, rest, notebook_names)
    if overrides:
        parameters["overrides"] = overrides
    return parameters, config


def configure(
    paper: ModuleType, name: str, preset: str, texts: dict[str, str], other_names: Sequence[str] = ()
) -> tuple[object, dict]:
    """A paper's config of a preset with some fields given as text; returns the config and the converted fields.

    ValueError for an unknown field: its message names the chapter or paper `name` and what it knows, `other_names` too.
    """
    base = paper.preset(preset)
    fields = [field.name for field in dataclasses.fields(base)]
    unknown = [field for field in texts if field not in fields]
    if unknown:
        raise ValueError(f"{name} has no parameter {_names(unknown)}; it knows: {', '.join([*other_names, *fields])}")
    overrides = {field: convert(field, text, getattr(base, field)) for field, text in texts.items()}
    return (paper.preset(preset, **overrides) if overrides else base), overrides


def convert(name: str, text: str, default):
    """Text as a value of the default's type. ValueError when the text is not such a value."""
    if isinstance(default, str):
        return text
    if dataclasses.is_dataclass(default):
        raise ValueError(f"{name} is a group of settings, not one value")
    value = _literal(text)
    if default is None:
        return value
    value = _in_kind(value, default)
    if type(value) is not type(default):
        raise ValueError(f"{name} must be {type(default).__name__} like {default!r}, not {text!r}")
    return value


def _literal(text: str):
    words = {"true": True, "false": False, "none": None}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text


def _in_kind(value, default):
    """An int as a float, a list as a tuple and the reverse, where the default is of that kind."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, list) and isinstance(value, tuple):
        return list(value)
    if isinstance(default, tuple) and isinstance(value, (list, tuple)):
        floats = bool(default) and all(type(d) is float for d in default)
        return tuple(float(v) if floats and type(v) is int else v for v in value)
    return value


def _names(names) -> str:
    return ", ".join(map(repr, names))
