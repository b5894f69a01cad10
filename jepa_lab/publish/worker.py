"""Executes one notebook with papermill in a process of its own: `python -m jepa_lab.publish.worker FOLDER`.

FOLDER holds job.txt (a Python literal). The worker writes notebook.ipynb, progress.txt (number of the running cell and
of all cells) and, at the end, result.json. The worker ends itself when its standard input ends, which the process that
started it holds open.
"""

import ast
import json
import math
import os
import re
import sys
import threading
from pathlib import Path

import papermill
import psutil
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.translators import PythonTranslator, papermill_translators

from jepa_lab import files


class TupleTranslator(PythonTranslator):
    """Writes a tuple as a tuple, for config fields such as betas=(0.9, 0.95); papermill itself writes a string."""

    @classmethod
    def translate(cls, value):
        if isinstance(value, tuple):
            return f"({''.join(cls.translate(item) + ', ' for item in value)})"
        return super().translate(value)


class ReportingEngine(NBClientEngine):
    """Papermill's own engine, which also writes to progress.txt which cell of the source notebook runs."""

    folder: Path

    @classmethod
    def execute_managed_notebook(cls, manager, kernel_name, **options):
        start = manager.cell_start

        def cell_start(cell, cell_index=None, **more):
            tags = [tag for c in manager.nb.cells[: cell_index + 1] for tag in c.metadata.get("tags", [])]
            number = cell_index + 1 - tags.count("injected-parameters")  # papermill added that cell
            (cls.folder / "progress.txt").write_text(f"{number} {len(manager.nb.cells) - 1}")
            start(cell, cell_index, **more)

        manager.cell_start = cell_start
        super().execute_managed_notebook(manager, kernel_name, **options)


def main(folder: Path) -> None:
    """Executes the notebook that FOLDER/job.txt names and writes FOLDER/result.json."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = ast.literal_eval((folder / "job.txt").read_text(encoding="utf-8"))
    ReportingEngine.folder = folder
    papermill_engines.register("reporting", ReportingEngine)
    papermill_translators.register("python", TupleTranslator)
    error, died = None, False
    try:
        _execute(job, folder / "notebook.ipynb")
    except PapermillExecutionError as stopped:
        error = f"{stopped.ename}: {_one_line(stopped.evalue)}"
    except Exception as stopped:  # time-out, dead kernel, broken notebook: the parent reports it
        died = type(stopped).__name__ == "DeadKernelError"
        error = f"{type(stopped).__name__}: {_one_line(str(stopped))}{' (out of memory?)' if died else ''}"
    files.write_text(folder / "result.json", json.dumps({"error": error, "died": died}))


def _execute(job: dict, output: Path) -> None:
    papermill.execute_notebook(
        _literal(job["notebook"]),
        _literal(output),
        parameters=job["parameters"],
        engine_name="reporting",
        kernel_name="python3",
        cwd=job["cwd"],
        progress_bar=False,
        autosave_cell_every=0,
        start_timeout=job["start_timeout"],
        execution_timeout=math.ceil(job["cell_timeout"]),  # older versions of nbclient take whole seconds only
    )


def _one_line(text: str) -> str:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines()
    return lines[0][:300] if lines else ""


def _literal(path) -> str:
    """The path for papermill, which fills in parameters where a path holds braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
