"""The chapters of the book: notebooks/NN_slug.ipynb and the paper module with the same slug."""

import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from jepa_lab.provenance import PACKAGE, REPO


@dataclass(frozen=True)
class Chapter:
    """One notebook of the book; `name` is its file name without the ending, e.g. 01_masking."""

    name: str
    root: Path

    @property
    def slug(self) -> str:
        return self.name.split("_", 1)[1]

    @property
    def notebook(self) -> Path:
        return self.root / "notebooks" / f"{self.name}.ipynb"

    @property
    def package(self) -> Path:
        """The code that decides the chapter's results: the checkout's, else the installed one."""
        return self.root / "jepa_lab" if (self.root / "jepa_lab").is_dir() else PACKAGE

    def paper(self) -> ModuleType | None:
        """The module jepa_lab.papers.<slug>.paper, or None where a chapter has none."""
        return paper(self.slug)


def paper(slug: str) -> ModuleType | None:
    package = f"jepa_lab.papers.{slug}"
    try:
        return importlib.import_module(f"{package}.paper")
    except ModuleNotFoundError as error:
        if error.name in (package, f"{package}.paper"):
            return None
        raise


def root() -> Path:
    """The book's checkout as a full path: $JEPA_LAB_ROOT, else the one jepa_lab lies in, else the current folder."""
    named = os.environ.get("JEPA_LAB_ROOT")
    for place in [Path(named).expanduser().resolve()] if named else [REPO, Path.cwd()]:
        if any((place / part).exists() for part in ("_toc.yml", "notebooks")):
            return place
    if named:
        raise ValueError(f"there is no book in JEPA_LAB_ROOT={named}: name a checkout (the folder with _toc.yml)")
    raise ValueError("there is no book here: run this inside a checkout (the folder with _toc.yml)")


def find(root: Path) -> list[Chapter]:
    """Every chapter under root, in the book's order."""
    names = [path.stem for path in (root / "notebooks").glob("*.ipynb")]
    return [Chapter(name, root) for name in sorted(names) if re.fullmatch(r"\d+_\w+", name)]


def pick(names: list[str], root: Path) -> list[Chapter]:
    """The chapters with names such as 01_masking, masking, 1, or all. Unknown names raise ValueError."""
    known = find(root)
    if "all" in names:
        return known
    chosen = []
    for name in names:
        found = [chapter for chapter in known if _is_called(chapter, name)]
        if not found:
            raise ValueError(f"no chapter {name!r}; there are: {', '.join(c.name for c in known) or 'none yet'}")
        chosen += [chapter for chapter in found if chapter not in chosen]
    return chosen


def _is_called(chapter: Chapter, name: str) -> bool:
    name = Path(name).name.removesuffix(".ipynb").removesuffix(".py")
    number = chapter.name.split("_")[0]
    return name in (chapter.name, chapter.slug) or (name.isdecimal() and int(name) == int(number))


def in_sync(chapters: list[Chapter]) -> list[Chapter]:
    """The same chapters. ValueError when a script was edited but its notebook, which is what runs, was not."""
    import jupytext
    import nbformat

    for chapter in chapters:
        script = chapter.notebook.with_suffix(".py")
        if not script.exists():
            continue
        if _cells(jupytext.read(script)) != _cells(nbformat.read(chapter.notebook, as_version=4)):
            raise ValueError(f"{script.name} and {chapter.notebook.name} differ: run  jupytext --sync {script}")
    return chapters


def _cells(notebook) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]
