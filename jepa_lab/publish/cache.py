"""Decides when an executed notebook may be used again: when nothing that can change its outputs has changed.

The key is a sha256 over the notebook's cells, its parameters, the code that the notebook and its paper reach by
imports (so an edit in one paper's folder re-runs one chapter, and an edit in `publish/` none), the versions of the
packages that compute and draw, and the chapter's committed study, which its figures draw. The key is stored in the
executed notebook's metadata, together with the state of the data cache: a run on a stand-in is repeated once the real
data set is there.
"""

import hashlib
import json
from pathlib import Path

import nbformat

from jepa_lab import provenance
from jepa_lab.data.sources import fetch
from jepa_lab.publish.chapters import Chapter


def key(chapter: Chapter, parameters: dict) -> str:
    """The content hash of one run. The folder for its record ('out') is left out: it does not change what is shown."""
    notebook = nbformat.read(chapter.notebook, as_version=4)
    whole = [
        [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells],
        {name: value for name, value in parameters.items() if name != "out"},
        provenance.code_hash(chapter.name, chapter.package, chapter.notebook.with_suffix(".py")),
        provenance.versions(),
        _study(chapter),
    ]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _study(chapter: Chapter) -> dict[str, str]:
    folder = chapter.root / "results" / chapter.name
    found = [path for path in folder.rglob("*") if path.is_file()]
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


def is_fresh(executed: Path, wanted: str) -> bool:
    """True when the executed notebook has this key, used the data that is here now, and its record still exists."""
    entry = metadata(executed)
    return (
        entry.get("key") == wanted
        and entry.get("data") == data_state()
        and all(Path(path).exists() for path in entry.get("records", []))
    )
