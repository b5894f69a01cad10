"""Each chapter is a script and a notebook with the same cells, in the form that the book needs."""

import ast
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from jepa_lab.publish import parameters
from jepa_lab.publish.stage import toc_files

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
MAX_LINES = 15
each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)


def read(path: Path):
    return nbformat.read(path.with_suffix(".ipynb"), as_version=4)


def test_every_notebook_has_both_halves_and_a_page():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert [p.stem for p in SCRIPTS] == [p.stem for p in notebooks]
    assert [p.stem for p in SCRIPTS] == sorted(Path(f).name for f in toc_files(ROOT) if f.startswith("notebooks/"))


@each
def test_script_and_notebook_have_the_same_cells(script):
    def cells(notebook):
        return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]

    assert cells(jupytext.read(script)) == cells(read(script)), f"run: jupytext --sync notebooks/{script.name}"


@each
def test_no_outputs_are_committed(script):
    code = [cell for cell in read(script).cells if cell.cell_type == "code"]
    assert [cell.source for cell in code if cell.outputs or cell.execution_count] == []


@each
def test_the_parameters_cell_is_the_contract(script):
    defaults = parameters.tagged(script.with_suffix(".ipynb"))
    contract = {"preset": "laptop", "seed": 0, "device": "auto", "out": "", "overrides": {}}
    assert {name: defaults.get(name) for name in contract} == contract


@each
def test_the_header_names_pairing_and_kernel(script):
    header = script.read_text(encoding="utf-8").split("# ---\n")[1]
    assert "formats: ipynb,py:percent" in header and "name: python3" in header
    assert read(script).metadata["kernelspec"]["name"] == "python3"


def code_cells(script):
    """(where, cell) of every code cell, where the first is for messages."""
    for number, cell in enumerate(read(script).cells, 1):
        if cell.cell_type == "code":
            yield f"cell {number} ({cell.source.splitlines()[0] if cell.source else 'empty'})", cell


@each
def test_cells_are_short(script):
    lengths = {where: len(cell.source.splitlines()) for where, cell in code_cells(script)}
    assert len(lengths) > 3
    assert {where: lines for where, lines in lengths.items() if lines > MAX_LINES} == {}


@each
def test_cells_define_nothing_outside_exercises(script):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    defining = []
    for where, cell in code_cells(script):
        if {"solution", "exercise"} & set(cell.metadata.get("tags", [])):
            continue
        code = "\n".join(re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in cell.source.splitlines())
        if any(isinstance(node, kinds) for node in ast.walk(ast.parse(code))):
            defining.append(where)
    assert defining == [], "tag the cell 'solution' or move the definition to jepa_lab"
