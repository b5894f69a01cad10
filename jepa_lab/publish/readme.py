"""README's table of chapters, from the first line of every paper: `python -m jepa_lab.publish.readme` writes it."""

import ast
import re
from pathlib import Path

from jepa_lab.provenance import PACKAGE, REPO

BLOCK = re.compile(r"(<!-- chapters -->\n).*?(<!-- end -->)", re.DOTALL)
LINE = re.compile(r"(?P<title>.+) \((?P<source>[^()]+)\)\. Chapter (?P<number>\d\d)\.")


def chapters(package: Path = PACKAGE) -> list[tuple[str, str, str]]:
    """Number, title and source of every chapter, in order.

    Raises ValueError for a package whose docstring is not "Title (source). Chapter NN.".
    """
    found = []
    for path in (package / "papers").glob("*/__init__.py"):
        match = LINE.fullmatch(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
        if match is None:
            raise ValueError(f'{path}: the docstring must read "Title (source). Chapter NN."')
        found.append((match["number"], match["title"], match["source"]))
    return sorted(found)


def with_table(readme: str, rows: list[tuple[str, str, str]]) -> str:
    """The README's text with a fresh table between its two markers."""
    table = "| | chapter | source |\n|---|---|---|\n"
    table += "".join(f"| {number} | {title} | {source} |\n" for number, title, source in rows)
    return BLOCK.sub(lambda block: block[1] + table + block[2], readme)


if __name__ == "__main__":
    place = REPO / "README.md"
    place.write_text(with_table(place.read_text(encoding="utf-8"), chapters()), encoding="utf-8")
