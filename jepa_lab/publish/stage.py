"""Puts the book's sources and the executed notebooks into ``_build/stage`` and builds ``_build/html`` from there.

Only finished notebooks are staged; a page whose notebook failed or was not run is refused by name. The HTML is built
beside its final place and moved there when it is complete and without warnings, so readers never see half a book.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

from jepa_lab import files, records
from jepa_lab.publish import cache, ledger
from jepa_lab.publish.chapters import find

STAMP = "book.stamp"
TOOLS = Path(__file__).resolve().parent


def toc_files(root: Path) -> list[str]:
    """Every document in _toc.yml, as 'folder/name' without an ending, the first page first."""

    def walk(node):
        if isinstance(node, dict):
            for name, value in node.items():
                if name in ("file", "root"):
                    yield str(value)
                else:
                    yield from walk(value)
        elif isinstance(node, list):
            for item in node:
                yield from walk(item)

    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [name.removesuffix(".md").removesuffix(".ipynb") for name in walk(toc)]


def stage(root: Path, preset: str) -> Path:
    """Fills _build/stage anew and returns it. ValueError names every page whose executed notebook is missing or failed."""
    executed = root / "_build" / "executed" / preset / "notebooks"
    pages = [Path(name).name for name in toc_files(root) if name.startswith("notebooks/")]
    _refuse(pages, executed)
    place = root / "_build" / "stage"
    shutil.rmtree(place, ignore_errors=True)
    (place / "notebooks").mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copyfile(root / name, place / name)
    shutil.copytree(root / "book", place / "book", ignore=shutil.ignore_patterns(".*", "_generated"))
    for name in pages:
        (place / "notebooks" / f"{name}.ipynb").write_text(
            nbformat.writes(presentable(executed / f"{name}.ipynb")) + "\n", encoding="utf-8"
        )
    chapters = [chapter for chapter in find(root) if chapter.name in pages]
    rows = ledger.rows_for_book(chapters, preset)
    noted = {chapter.name: cache.metadata(executed / f"{chapter.name}.ipynb") for chapter in chapters}
    generated = place / "book" / "_generated"
    generated.mkdir()
    (generated / "claims_table.md").write_text(ledger.claims_table(rows, ledger.baselines(chapters)), encoding="utf-8")
    (generated / "status_table.md").write_text(ledger.status_table(chapters, noted, rows), encoding="utf-8")
    return place


def _refuse(pages: list[str], executed: Path) -> None:
    problems = []
    for name in pages:
        if (executed / f"{name}.failed.ipynb").exists():
            problems.append(f"{name} failed (see {executed / name}.failed.ipynb)")
        elif not (executed / f"{name}.ipynb").exists():
            problems.append(f"{name} was not run")
    if problems:
        raise ValueError(f"the book is not built: {'; '.join(problems)}")


def presentable(executed: Path) -> nbformat.NotebookNode:
    """The executed notebook as a page: without the injected cell, with a line saying how it was made."""
    notebook = nbformat.read(executed, as_version=4)
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    cell = nbformat.v4.new_markdown_cell(provenance(dict(notebook.metadata["jepa_lab"])))
    cell["id"] = "provenance"  # not random: an unchanged page stays unchanged
    notebook.cells.append(cell)
    return notebook


def provenance(noted: dict) -> str:
    """One paragraph of Markdown: when, how long, with what, and the command that does it again."""
    device = noted["parameters"].get("device", "auto")
    commit = noted["git_commit"] or ""
    commit = f"commit {commit[:10]}{' with changes' if commit.endswith('+') else ''}" if commit else "no commit"
    for path in noted["records"]:  # the record knows what 'auto' became
        device = json.loads(Path(path).read_text(encoding="utf-8"))["device"]
    when = noted["executed"][:16].replace("T", " ")
    return (
        "{.provenance}\n"
        f"Executed {when} UTC in {noted['seconds']:.0f} s, preset {noted['preset']}, seed {noted['seed']}, device {device}, "
        f"torch {noted['versions'].get('torch', 'none')}, {commit}. Again: `{noted['command']}`"
    )


def build(root: Path, preset: str, force: bool = False) -> tuple[Path, bool]:
    """Stages and builds; returns (index.html, whether anything had to be built). ValueError when Sphinx warns or fails."""
    place = stage(root, preset)
    html, stamp = root / "_build" / "html", root / "_build" / STAMP
    wanted = _digest(place)
    if not force and (html / "index.html").exists() and stamp.exists() and stamp.read_text() == wanted:
        return html / "index.html", False
    stamp.unlink(missing_ok=True)
    work = root / "_build" / "sphinx"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(place), "--path-output", str(work)]
    done = subprocess.run([*command, "--all", "-W", "--keep-going", "-n", "-q"], capture_output=True, text=True)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    log = root / "_build" / "sphinx.log"
    log.write_text(said, encoding="utf-8")
    if done.returncode or not (work / "_build" / "html" / "index.html").exists():
        warnings = [line for line in said.splitlines() if "WARNING" in line or "ERROR" in line]
        raise ValueError("the book did not build cleanly:\n  " + "\n  ".join([*warnings[:20], f"(all of it: {log})"]))
    shutil.rmtree(html, ignore_errors=True)
    os.replace(work / "_build" / "html", html)
    shutil.rmtree(work, ignore_errors=True)
    files.write_text(stamp, wanted)
    return html / "index.html", True


def is_current(root: Path) -> bool:
    """True when _build/html was built without warnings from what is staged now."""
    stamp, place = root / "_build" / STAMP, root / "_build" / "stage"
    return stamp.exists() and place.exists() and stamp.read_text() == _digest(place)


def _digest(place: Path) -> str:
    """What the HTML depends on: every staged file, the extension that renders it, the versions of the tools."""
    digest = hashlib.sha256(repr(sorted(records.versions().items())).encode())
    files = [
        *place.rglob("*"),
        *TOOLS.glob("sphinx_*.py"),
        *TOOLS.parent.glob("publish/*.js"),
        *TOOLS.parent.glob("publish/*.css"),
    ]
    for path in sorted(p for p in files if p.is_file()):
        digest.update(str(path.name if path.is_relative_to(TOOLS) else path.relative_to(place)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
