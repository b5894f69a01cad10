"""The parameters of a notebook: the names in its cell tagged "parameters" and the fields of its paper's Config.

Papermill only warns about an unknown name. Here a wrong name or type is an error before anything starts.
"""

import ast
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat

from jepa_lab import configs
from jepa_lab.publish.chapters import Chapter

OPTIONS = ("preset", "seed", "device", "out")
CONTRACT = (*OPTIONS, "overrides")


def tagged(notebook: Path) -> dict:
    """Names and defaults in the notebook's one cell tagged "parameters"."""
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{notebook.name} has {len(cells)} cells tagged 'parameters', it needs exactly one")
    defaults = {}
    try:
        for statement in ast.parse(cells[0].source).body:
            (target,) = statement.targets
            defaults[target.id] = ast.literal_eval(statement.value)
    except (AttributeError, ValueError, SyntaxError, TypeError):
        raise ValueError(f"{notebook.name}: the parameters cell may contain only lines like  name = constant") from None
    return defaults


def resolve(
    chapter: Chapter, preset: str, seed: int, given: dict[str, str], device: str = "auto", out: str = ""
) -> tuple[dict, object]:
    """The notebook's parameters and the paper's config for one run.

    `given` maps names to text, as typed after `-p`. Names of the tagged cell become parameters of the notebook; fields
    of the Config become entries of `overrides`. Returns (parameters, config); config is None if there is no paper.
    """
    defaults = tagged(chapter.notebook)
    for name in OPTIONS:
        if name in given:
            raise ValueError(f"{name} is not set with -p: use --{name}")
    known = {"preset": preset, "seed": seed, "device": device, "out": out}
    parameters = {name: value for name, value in known.items() if name in defaults}
    rest = {}
    for name, text in given.items():
        if name in defaults and name != "overrides":
            kind = configs.kind_of(defaults[name])
            parameters[name] = configs.fit(name, _parse(text, kind), kind, defaults[name])
        else:
            rest[name] = text
    notebook_names = [name for name in defaults if name not in CONTRACT]
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
    hints = configs.hints(base)
    unknown = [field for field in texts if field not in hints]
    if unknown:
        raise ValueError(f"{name} has no parameter {_names(unknown)}; it knows: {', '.join([*other_names, *hints])}")
    overrides = configs.fitted(base, {field: _parse(text, hints[field]) for field, text in texts.items()})
    config = paper.preset(preset, **overrides) if overrides else base
    for folder in configs.folders(config):
        if not Path(folder).is_dir():
            raise ValueError(f"there is no folder {folder}")
    return config, overrides


def _parse(text: str, hint: Any) -> Any:
    """The text as a literal, or as it is where the annotation takes text and no such literal."""
    value = _literal(text)
    return text if configs.takes(text, hint) and not configs.takes(value, hint) else value


def _literal(text: str):
    words = {"true": True, "false": False, "none": None}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that literal_eval can raise
        return text


def _names(names) -> str:
    return ", ".join(map(repr, names))
