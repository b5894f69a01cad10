"""Decides when an executed notebook may be used again: when nothing that can change its outputs has changed.

The key is a sha256 over the notebook's cells, its parameters, the files in folders that a parameter names, the code
that the notebook and its paper reach by imports (so an edit in one paper's folder re-runs one chapter, and an edit in
`publish/` none), the versions of the packages that this code imports and that execute it, and the chapter's committed
study, which its figures draw. The key is stored in the executed notebook's metadata, together with the record that the
run wrote and the state of the data cache: a run on a stand-in is repeated once the real data set is there.
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator
from importlib import metadata as installed
from pathlib import Path

import nbformat

from jepa_lab import files, provenance
from jepa_lab.data.sources import fetch
from jepa_lab.publish.chapters import Chapter

EXECUTE = ("ipykernel", "ipython", "nbclient", "papermill")  # packages
IMPORT = re.compile(r"^\s*(?:import|from)\s+(\w+)", re.MULTILINE)


def key(chapter: Chapter, parameters: dict) -> str:
    """The content hash of one run. The folder for its record ('out') is left out: it does not change what is shown."""
    notebook = nbformat.read(chapter.notebook, as_version=4)
    values = {name: value for name, value in parameters.items() if name != "out"}
    code = chapter.name, chapter.package, chapter.notebook.with_suffix(".py")
    sources = [path.read_text(encoding="utf-8") for path in provenance.code_files(*code) if path.suffix == ".py"]
    sources += [cell.source for cell in notebook.cells]
    whole = [
        [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells],
        values,
        {place: _content(place) for place in _places(values, chapter.notebook.parent)},
        provenance.code_hash(*code),
        _tools(sources),
        _study(chapter),
    ]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _places(value, folder: Path) -> Iterator[str]:
    """Every file or folder that a parameter names, alone or in a list with commas; relative ones lie in `folder`."""
    if isinstance(value, str):
        named = {name for name in (value, *map(str.strip, value.split(","))) if name}
        places = [os.path.join(folder, os.path.expanduser(name)) for name in named]
        yield from filter(os.path.exists, places)
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _places(item, folder)


def _content(place: str) -> str | tuple | None:
    """Names, sizes and times of a file, or a hash over those of all files in a folder."""
    if os.path.isfile(place):
        return file_state(Path(place))
    digest = hashlib.sha256()
    for path in files.below(Path(place)):
        digest.update(f"{path.relative_to(place).as_posix()} {file_state(path)}\0".encode())
    return digest.hexdigest()


def file_state(path: Path | None) -> tuple[int, int, int] | None:
    """Size and times of a file, which differ once it was written or replaced; None where there is no file.

    The time of its last change (ctime) also differs where another file of the same size and date took its place.
    """
    try:
        found = path.stat()
    except (OSError, AttributeError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _tools(sources: list[str]) -> dict[str, str]:
    """The versions of Python, of the packages that the sources import, and of those that execute a notebook."""
    modules = {name for source in sources for name in IMPORT.findall(source)}
    packages = {package for name in modules for package in _packages().get(name, ())}
    return provenance.versions() | {name: installed.version(name) for name in packages | set(EXECUTE)}


@functools.cache
def _packages() -> dict[str, list[str]]:
    """The packages that hold each module."""
    return dict(installed.packages_distributions())


def _study(chapter: Chapter) -> dict[str, str]:
    folder = chapter.root / "results" / chapter.name
    found = files.below(folder) if folder.is_dir() else ()
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def metadata(executed: Path) -> dict:
    """The runner's entry in an executed notebook; {} when the notebook is missing or cannot be read."""
    try:
        return dict(json.loads(executed.read_text(encoding="utf-8"))["metadata"]["jepa_lab"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def data_state() -> dict[str, str]:
    """For each known data set: whether it is cached, or what stands in for it."""
    return {row["name"]: row["cached"] for row in fetch.describe()}


def data_used(before: dict[str, str]) -> dict[str, str]:
    """The state of the data that a run used, from the state at its start: what was missing then, it fetched itself."""
    return {name: now if before.get(name, "no") == "no" else before[name] for name, now in data_state().items()}


def record_state(record: Path | None) -> dict[str, str | None]:
    """The record of a run and the sha256 of its content, None where the file is missing; {} without a record."""
    if record is None:
        return {}
    return {str(record): hashlib.sha256(record.read_bytes()).hexdigest() if record.is_file() else None}


def is_fresh(executed: Path, wanted: str, record: Path | None = None) -> bool:
    """True when the executed notebook has this key, used the data that is here now, and wrote this record as it is."""
    entry = metadata(executed)
    state = record_state(record)
    return (
        entry.get("key") == wanted
        and entry.get("data") == data_state()
        and entry.get("records") == state
        and None not in state.values()
    )
