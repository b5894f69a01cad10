"""What a notebook may be run with: the names in its cell tagged "parameters" and its paper's Config fields.

Papermill only warns about a name it does not know; here a wrong name or type is an error before anything starts.
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
                f"{notebook.name}: the parameters cell may hold only lines like  name = constant"
            ) from None
    return defaults


def resolve(
    chapter: Chapter, preset: str, seed: int, given: dict[str, str], device: str = "auto", out: str = ""
) -> tuple[dict, object]:
    """The notebook's parameters and the paper's config for one run.

    ``given`` maps names to text, as typed after ``-p``. Names of the tagged cell go straight to the notebook, names of
    Config fields into ``overrides``. Returns (parameters, config); config is None where the chapter has no paper.
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
    config, overrides = _configure(chapter, preset, rest, [n for n in defaults if n not in CONTRACT])
    if overrides:
        parameters["overrides"] = overrides
    return parameters, config


def _configure(chapter: Chapter, preset: str, texts: dict[str, str], own: list[str]) -> tuple[object, dict]:
    paper, also = chapter.paper(), ["device", "out", *own]
    if paper is None:
        if texts:
            raise ValueError(f"{chapter.name} has no parameter {_names(texts)}; it knows: {', '.join(also)}")
        return None, {}
    return configure(paper, chapter.name, preset, texts, also)


def configure(
    paper: ModuleType, name: str, preset: str, texts: dict[str, str], also: Sequence[str] = ()
) -> tuple[object, dict]:
    """A paper's config of a preset with fields given as text; returns it and the converted fields.

    ``name`` and ``also``, names that are known elsewhere, are for the message of the ValueError on an unknown field.
    """
    base = paper.preset(preset)
    fields = [field.name for field in dataclasses.fields(base)]
    unknown = [field for field in texts if field not in fields]
    if unknown:
        raise ValueError(f"{name} has no parameter {_names(unknown)}; it knows: {', '.join([*also, *fields])}")
    overrides = {field: convert(field, text, getattr(base, field)) for field, text in texts.items()}
    return (paper.preset(preset, **overrides) if overrides else base), overrides


def convert(name: str, text: str, default):
    """Text as the type of the parameter's default; ValueError when it is not one."""
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(
            {"true": "True", "false": "False", "none": "None"}.get(text.strip().lower(), text.strip())
        )
    except (ValueError, SyntaxError):
        value = text
    if default is None:
        return value
    if dataclasses.is_dataclass(default):
        raise ValueError(f"{name} is a group of settings, not one value")
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if isinstance(default, tuple) and isinstance(value, tuple) and default and all(type(d) is float for d in default):
        value = tuple(float(v) if type(v) is int else v for v in value)
    if isinstance(default, list) and isinstance(value, tuple):
        value = list(value)
    if type(value) is not type(default):
        raise ValueError(f"{name} must be {type(default).__name__} like {default!r}, not {text!r}")
    return value


def _names(names) -> str:
    return ", ".join(map(repr, names))
