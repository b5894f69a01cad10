"""What a shell leaves in the environment changes no chapter and stops none."""

import os
import sys

import nbformat
import pytest
from small_notebook import write_notebook

from jepa_lab import provenance
from jepa_lab.publish import chapters, environment, jobs, runner, stage

CELL = """
import os, sys, warnings, jepa_lab, plotly.io, torch
warnings.warn("this is only a warning")
print(sys.executable, os.path.dirname(jepa_lab.__file__), "torch.compiled" in sys.modules)
print(torch.get_num_threads(), plotly.io.renderers.default, "set_by_startup_file" in globals(), __debug__)
"""


@pytest.fixture
def littered(tmp_path, monkeypatch):
    """An environment in which a start-up file, a foreign kernel, strict warnings and a false renderer are set."""
    startup = tmp_path / "startup.py"
    startup.write_text("set_by_startup_file = True")
    foreign = tmp_path / "foreign" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text('{"argv": ["false"], "display_name": "another Python", "language": "python"}')
    settings = {
        "PYTHONSTARTUP": startup,
        "PYTHONWARNINGS": "error",
        "PYTHONOPTIMIZE": "1",
        "PYTHONPATH": "beside",
        "JUPYTER_PATH": foreign.parents[1],
        "JUPYTER_RUNTIME_DIR": "/proc/not-writable",
        "PLOTLY_RENDERER": "no such renderer",
        "MPLBACKEND": "no such backend",
        "OMP_NUM_THREADS": "4,2",
        "OMP_DYNAMIC": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)


def test_inherited_settings_reach_no_chapter(littered, tmp_path):
    write_notebook(tmp_path / "notebooks" / "01_plain.ipynb", CELL)
    job = jobs.plan(chapters.Chapter("01_plain", tmp_path), "smoke", 0, {})
    (outcome,) = runner.run([job])
    assert outcome.ok, outcome.message
    outputs = nbformat.read(job.output, as_version=4).cells[-1].outputs
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    first, second = printed.splitlines()
    assert first == f"{sys.executable} {provenance.PACKAGE} False"
    assert second.split()[0] == "1" and second.endswith("False True") and "no such" not in second


def test_a_process_imports_what_this_one_imports_wherever_it_works(littered, tmp_path):
    places = environment.inherited()["PYTHONPATH"].split(os.pathsep)
    assert places == [str(provenance.REPO), str(tmp_path / "beside")]


def test_variables_that_say_where_files_are_stay(monkeypatch, tmp_path):
    kept = {"PYTHONUSERBASE": str(tmp_path), "CUDA_VISIBLE_DEVICES": "1", "JEPA_LAB_DATA": str(tmp_path)}
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    assert kept.items() <= environment.inherited().items()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """This Python under a name in a folder of its own, with no program beside it."""
    program = tmp_path / "bin" / "python3"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return tmp_path


def test_the_book_is_built_by_the_jupyter_book_that_this_python_imports(elsewhere):
    with pytest.raises(ValueError, match="(?s)did not build cleanly.*find a Table of Contents"):
        stage._run_jupyter_book(elsewhere, elsewhere / "work", elsewhere / "log.txt")


def test_a_python_without_jupyter_book_is_told_what_to_install(elsewhere, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyter_book", None)
    with pytest.raises(ValueError, match="bin/python3 has no jupyter-book: pip install"):
        stage._run_jupyter_book(elsewhere, elsewhere / "work", elsewhere / "log.txt")
