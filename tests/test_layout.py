"""The arrows between the rooms of jepa_lab point one way, and importing stays cheap."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "jepa_lab"
FILES = sorted(PACKAGE.rglob("*.py"))
MODELS = {"encoders", "predictors", "losses", "train", "probes", "diagnostics", "widgets", "figures"}
PIPELINE = {"publish", "records", "claims", "data"}  # what publish/ may use


def imported(path: Path, code: str | None = None) -> set[tuple[str, ...]]:
    """What a file takes from jepa_lab, anywhere in it: {('data', 'fetch'), ('masks',), …}."""
    names = set()
    for node in ast.walk(ast.parse(code if code is not None else path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "jepa_lab" and "." in name}


def wrong(path: Path) -> list[str]:
    """The arrows of one file that point the wrong way."""
    inside = path.relative_to(PACKAGE)
    room, uses = inside.parts[0].removesuffix(".py"), imported(path)
    if room == "__main__":
        return []
    if room == "publish":
        return [str(use) for use in uses if use[0] not in PIPELINE and not use[0].startswith("__")]
    bad = [use for use in uses if use[0] == "publish"]
    if room == "papers":
        bad += [use for use in uses if use[0] == "papers" and use[1:2] != (inside.stem,)]
    else:
        bad += [use for use in uses if use[0] == "papers"]
    if room == "data":
        bad += [use for use in uses if use[0] in MODELS]
    return [".".join(use) for use in bad]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_imports_against_the_arrows(path):
    assert wrong(path) == []


def test_a_notebook_imports_its_own_paper_only():
    for path in sorted((PACKAGE.parent / "notebooks").glob("*.py")):
        slug = path.stem.split("_", 1)[1]
        uses = imported(path)
        assert [use for use in uses if use[0] == "publish" or (use[0] == "papers" and use[1:2] != (slug,))] == [], (
            path.name
        )


@pytest.mark.parametrize(
    "code, found",
    [
        ("from jepa_lab import masks", {("masks",)}),
        ("import jepa_lab.data.sources.fetch", {("data", "fetch")}),
        ("import torch", set()),
    ],
)
def test_the_reader_of_imports_sees_every_form(code, found):
    assert imported(Path("x.py"), code) == found


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    return set(
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    )


def test_importing_the_package_and_the_record_keeping_loads_nothing_heavy():
    assert loaded_by("import jepa_lab") & {"torch", "numpy", "plotly", "timm", "duckdb"} == set()
    assert (
        loaded_by("from jepa_lab import records, claims, __main__") & {"torch", "numpy", "plotly", "timm", "duckdb"}
        == set()
    )


def test_importing_every_paper_loads_neither_timm_nor_plotly():
    papers = [p.parent.name for p in (PACKAGE / "papers").glob("*/paper.py")]
    assert papers
    imports = "\n".join(f"import jepa_lab.papers.{name}.paper" for name in papers)
    assert loaded_by(imports) & {"timm", "plotly"} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_stay_short(path):
    functions = [
        n
        for n in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert [
        f"{n.name}: {n.end_lineno - n.lineno + 1} lines" for n in functions if n.end_lineno - n.lineno + 1 > 60
    ] == []
