"""Copies the book's sources and the executed notebooks to `_build/stage` and builds `_build/html` from there.

Only finished notebooks are staged. A notebook that failed or was not run is an error with its name. The HTML is built
beside its final place and moved there when it is complete and without warnings, so readers never see a partial book.
Where `_build/html` is a link or a disk of its own, each page is replaced as a whole, one after the other. One build at
a time works in `_build`; a second one waits.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import nbformat
import yaml

from jepa_lab import files
from jepa_lab.publish import cache, environment, ledger, ownership
from jepa_lab.publish.chapters import Chapter, find

STAMP = "book.stamp"
PAGES = "book.pages"  # the files of the last build, one a line


def toc_files(root: Path) -> list[str]:
    """Every document in _toc.yml, as 'folder/name' without an ending, the first page first."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [name.removesuffix(".md").removesuffix(".ipynb") for name in _documents(toc)]


def _documents(node) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _documents(item)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name in ("file", "root"):
                yield str(value)
            else:
                yield from _documents(value)


def stage(root: Path, preset: str) -> Path:
    """Fills _build/stage anew and returns it. ValueError names every notebook that failed or was not run."""
    executed = root / "_build" / "executed" / preset / "notebooks"
    pages = [Path(name).name for name in toc_files(root) if name.startswith("notebooks/")]
    _require_executed(pages, executed)
    place = root / "_build" / "stage"
    shutil.rmtree(place, ignore_errors=True)
    (place / "notebooks").mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copyfile(root / name, place / name)
    shutil.copytree(root / "book", place / "book", ignore=shutil.ignore_patterns(".*", "_generated"))
    for name in pages:
        nbformat.write(presentable(executed / f"{name}.ipynb"), place / "notebooks" / f"{name}.ipynb")
    _write_tables([chapter for chapter in find(root) if chapter.name in pages], preset, executed, place)
    return place


def _write_tables(chapters: list[Chapter], preset: str, executed: Path, place: Path) -> None:
    rows = ledger.rows_for_book(chapters, preset)
    runs = {chapter.name: cache.metadata(executed / f"{chapter.name}.ipynb") for chapter in chapters}
    generated = place / "book" / "_generated"
    generated.mkdir()
    claims_table = ledger.claims_table(rows, ledger.baselines(chapters))
    (generated / "claims_table.md").write_text(claims_table, encoding="utf-8")
    (generated / "status_table.md").write_text(ledger.status_table(chapters, runs, rows), encoding="utf-8")


def _require_executed(pages: list[str], executed: Path) -> None:
    problems = []
    for name in pages:
        if (executed / f"{name}.failed.ipynb").exists():
            problems.append(f"{name} failed (see {executed / name}.failed.ipynb)")
        elif not (executed / f"{name}.ipynb").exists():
            problems.append(f"{name} was not run")
    if problems:
        raise ValueError(f"the book is not built: {'; '.join(problems)}")


def presentable(executed: Path) -> nbformat.NotebookNode:
    """The executed notebook as a page: without the injected cell, with a paragraph on how it was executed."""
    notebook = nbformat.read(executed, as_version=4)
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    cell = nbformat.v4.new_markdown_cell(provenance_note(dict(notebook.metadata["jepa_lab"])))
    cell["id"] = "provenance"  # nbformat's id is random; an unchanged page must stay unchanged
    notebook.cells.append(cell)
    return notebook


def provenance_note(run: dict) -> str:
    """One paragraph of Markdown: when, how long, with what, and the command that runs the notebook again."""
    when = run["executed"][:16].replace("T", " ")
    return (
        "{.provenance}\n"
        f"Executed {when} UTC in {run['seconds']:.0f} s, preset {run['preset']}, seed {run['seed']}, "
        f"device {run['device']}, torch {run['versions'].get('torch', 'none')}, {_commit(run['git_commit'])}. "
        f"Again: `{run['command']}`"
    )


def _commit(commit: str | None) -> str:
    if not commit:
        return "no commit"
    return f"commit {commit[:10]}{' with changes' if commit.endswith('+') else ''}"


def build(root: Path, preset: str, force: bool = False) -> tuple[Path, bool]:
    """Stages and builds the book; returns (index.html, whether a build was needed).

    ValueError when Sphinx fails or warns. OSError, before the build, where its pages cannot be written.
    """
    made = root.resolve() / "_build"
    html, stamp = made / "html", made / STAMP
    with ownership.alone(made / "book"):
        place = stage(root, preset)
        wanted = _digest(place)
        if not force and is_current(root) and (html / "index.html").exists():
            return root / "_build" / "html" / "index.html", False
        files.require_writable(html.resolve() / "index.html")
        stamp.unlink(missing_ok=True)
        with ownership.fresh_folder(made / "running") as work:
            _run_jupyter_book(place, work, made / "sphinx.log")
            _put_in_place(work / "_build" / "html", html)
        files.write_text(stamp, wanted)
    return root / "_build" / "html" / "index.html", True


def _put_in_place(built: Path, html: Path) -> None:
    """Replaces the old pages by the new ones: the whole folder at once, or file by file where a folder has to stay.

    A link to a folder and a mounted disk stay. Files there that no build wrote stay too.
    """
    listed = html.with_name(PAGES)
    old = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    new = [path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file()]
    files.write_text(listed, "\n".join({*old, *new}))  # also true when this is interrupted
    if html.is_symlink() or os.path.ismount(html):
        for name in new:
            with files.replacing(html.resolve() / name) as file:
                file.write((built / name).read_bytes())
        for name in set(old) - set(new):
            (html / name).unlink(missing_ok=True)
    else:
        if html.exists():
            os.replace(html, built.with_name("old"))
        os.replace(built, html)
    files.write_text(listed, "\n".join(new))


def _run_jupyter_book(place: Path, work: Path, log: Path) -> None:
    if not find_spec("jupyter_book"):
        raise ValueError(f"the book is not built: {sys.executable} has no jupyter-book: pip install -e '.[book]'")
    program = [sys.executable, "-P", "-c", "from jupyter_book.cli.main import main; main()"]
    options = ["--path-output", str(work), "--all", "-W", "--keep-going", "-n", "-q"]
    command = [*program, "build", str(place), *options]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment.inherited())
    output = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    log.write_text(output, encoding="utf-8")
    if done.returncode or not (work / "_build" / "html" / "index.html").exists():
        lines = [line for line in output.splitlines() if line.strip()]
        shown = [line for line in lines if "WARNING" in line or "ERROR" in line][:20] or lines[-5:]
        raise ValueError("\n  ".join(["the book did not build cleanly:", *shown, f"(full log: {log})"]))


def is_current(root: Path) -> bool:
    """True when _build/html was built without warnings from what is staged now."""
    stamp, place = root / "_build" / STAMP, root / "_build" / "stage"
    return stamp.exists() and place.exists() and stamp.read_text() == _digest(place)


def _digest(place: Path) -> str:
    """A hash over what the HTML depends on: every staged file, the extension that renders it, every installed package.

    Packages count with their versions, but for this one, whose files are compared.
    """
    packages = {(package.name, package.version) for package in metadata.distributions()}
    others = sorted((name, version) for name, version in packages if name.replace("-", "_") != "jepa_lab")
    digest = hashlib.sha256(repr([sys.version, others]).encode())
    staged = {path.relative_to(place).as_posix(): path for path in place.rglob("*") if path.is_file()}
    extension = {path.name: path for path in Path(__file__).parent.glob("sphinx_*.py")}
    for name, path in sorted((staged | extension).items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
