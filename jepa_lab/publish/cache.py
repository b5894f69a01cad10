"""When may an executed notebook be used again? When nothing that can change its outputs has changed.

The key is a sha256 over the notebook's cells, its parameters, the package's code (without ``publish/``, which only runs
and shows notebooks, and without other chapters' papers), the versions of the packages that compute and draw, and the
chapter's committed study, which its figures draw. It is stored in the executed notebook's metadata, beside what the
data
cache held, so that a run on a stand-in is done again once the real data set is there.
"""

import hashlib
import json
from pathlib import Path

import nbformat

from jepa_lab import records
from jepa_lab.data.sources import fetch
from jepa_lab.publish.chapters import Chapter


def key(chapter: Chapter, parameters: dict) -> str:
    """The content hash of one run; where the record goes ('out') does not change what it shows."""
    cells = [
        (c.cell_type, c.source, c.metadata.get("tags", [])) for c in nbformat.read(chapter.notebook, as_version=4).cells
    ]
    study = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in _study(chapter)}
    shown = {name: value for name, value in parameters.items() if name != "out"}
    whole = [cells, shown, records.code_hash(chapter.name, chapter.package), records.versions(), study]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _study(chapter: Chapter) -> list[Path]:
    return sorted(p for p in (chapter.root / "results" / chapter.name).rglob("*") if p.is_file())


def metadata(executed: Path) -> dict:
    """What the runner noted in an executed notebook; {} when there is none or it cannot be read."""
    try:
        return dict(json.loads(executed.read_text(encoding="utf-8"))["metadata"]["jepa_lab"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def data_state() -> dict[str, str]:
    """For each known data set whether it is cached, or what stands in for it."""
    return {row["name"]: row["cached"] for row in fetch.describe()}


def fresh(executed: Path, wanted: str) -> bool:
    """True when the executed notebook has this key, used the data there is, and the record it wrote is still there."""
    noted = metadata(executed)
    return (
        noted.get("key") == wanted
        and noted.get("data") == data_state()
        and all(Path(path).exists() for path in noted.get("records", []))
    )
