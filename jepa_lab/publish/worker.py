"""Executes one notebook with papermill in a process of its own: ``python -m jepa_lab.publish.worker FOLDER``.

FOLDER holds job.txt (a Python literal); the worker leaves notebook.ipynb, progress.txt ("cell of cells" while it runs)
and, at the end, result.json. It ends itself when the process that started it is gone.
"""

import ast
import json
import os
import re
import sys
import threading
import time
from pathlib import Path

import papermill
import psutil
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.translators import PythonTranslator, papermill_translators

from jepa_lab import files


class TupleTranslator(PythonTranslator):
    """Papermill writes a tuple as a string; config fields such as betas=(0.9, 0.95) need a tuple."""

    @classmethod
    def translate(cls, value):
        if isinstance(value, tuple):
            return f"({''.join(cls.translate(item) + ', ' for item in value)})"
        return super().translate(value)


class ReportingEngine(NBClientEngine):
    """Papermill's own engine, telling the folder's progress.txt which cell of the source notebook runs."""

    folder: Path

    @classmethod
    def execute_managed_notebook(cls, manager, kernel_name, **options):
        start = manager.cell_start

        def cell_start(cell, cell_index=None, **more):
            injected = sum(
                "injected-parameters" in c.metadata.get("tags", []) for c in manager.nb.cells[: cell_index + 1]
            )
            (cls.folder / "progress.txt").write_text(f"{cell_index + 1 - injected} {len(manager.nb.cells) - 1}")
            start(cell, cell_index, **more)

        manager.cell_start = cell_start
        super().execute_managed_notebook(manager, kernel_name, **options)


def main(folder: Path) -> None:
    threading.Thread(target=_die_with_parent, args=(os.getppid(),), daemon=True).start()
    job = ast.literal_eval((folder / "job.txt").read_text(encoding="utf-8"))
    ReportingEngine.folder = folder
    papermill_engines.register("reporting", ReportingEngine)
    papermill_translators.register("python", TupleTranslator)
    began = time.perf_counter()
    error, died = None, False
    try:
        papermill.execute_notebook(
            job["notebook"],
            folder / "notebook.ipynb",
            parameters=job["parameters"],
            engine_name="reporting",
            kernel_name="python3",
            cwd=job["cwd"],
            progress_bar=False,
            autosave_cell_every=0,
            start_timeout=job["start_timeout"],
            execution_timeout=job["cell_timeout"],
        )
    except PapermillExecutionError as stopped:
        error = f"{stopped.ename}: {_one_line(stopped.evalue)}"
    except Exception as stopped:  # time-out, dead kernel, broken notebook: the parent reports it and goes on
        error = f"{type(stopped).__name__}: {_one_line(str(stopped))}"
        died = type(stopped).__name__ == "DeadKernelError"
    result = {"error": error, "died": died, "seconds": round(time.perf_counter() - began, 2)}
    files.write_text(folder / "result.json", json.dumps(result))


def _one_line(text: str) -> str:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines()
    return lines[0][:300] if lines else ""


def _die_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
