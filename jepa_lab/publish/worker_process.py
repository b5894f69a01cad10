"""A process that executes one notebook, seen from outside: start it, watch it, end it, take its result."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import psutil

from jepa_lab import provenance
from jepa_lab.publish import cache
from jepa_lab.publish.jobs import Job, Outcome

GRACE = 60  # seconds that a worker may be late before it is ended from outside
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class WorkerProcess:
    """`python -m jepa_lab.publish.worker FOLDER`, which runs in a session of its own and writes into that folder."""

    def __init__(self, job: Job, folder: Path, threads: int, cell_timeout: float, start_timeout: float):
        self.job, self.folder = job, folder
        self.cell_timeout, self.start_timeout = cell_timeout, start_timeout
        self.began, self.began_at = time.monotonic(), time.time() - 1  # file times may be a second coarse
        self.overdue = False
        self.key = cache.key(job.chapter, job.parameters)
        folder.mkdir(parents=True)
        (folder / "job.txt").write_text(repr(self._assignment()), encoding="utf-8")
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
        environment |= {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1", "PYTHONUNBUFFERED": "1"}
        with (folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jepa_lab.publish.worker", str(folder)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )

    def _assignment(self) -> dict:
        notebook = self.job.chapter.notebook
        return {
            "notebook": str(notebook),
            "parameters": self.job.parameters,
            "cwd": str(notebook.parent),
            "cell_timeout": self.cell_timeout,
            "start_timeout": self.start_timeout,
        }

    def cell(self) -> tuple[int, int]:
        """The number of the running cell and of all cells; (0, 0) before the first."""
        try:
            number, total = (self.folder / "progress.txt").read_text().split()
            return int(number), int(total)
        except (OSError, ValueError):
            return 0, 0

    def has_ended(self) -> bool:
        """True when the process is gone. A process that shows no sign of life for too long is ended here."""
        if self.process.poll() is not None:
            return True
        if self._is_late():
            self.overdue = True
            self.kill()
        return self.overdue

    def _is_late(self) -> bool:
        try:
            since = (self.folder / "progress.txt").stat().st_mtime
            return time.time() - since > self.cell_timeout + GRACE
        except OSError:  # not in its first cell yet
            return time.monotonic() - self.began > self.start_timeout + GRACE

    def kill(self) -> None:
        """Ends the worker, its kernel and whatever they started."""
        with suppress(psutil.NoSuchProcess):
            worker = psutil.Process(self.process.pid)
            for member in [*worker.children(recursive=True), worker]:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
        self.process.wait()

    def outcome(self) -> Outcome:
        """How the run ended. The finished notebook moves to its place, a failed one to the name beside it."""
        seconds = round(time.monotonic() - self.began, 1)
        executed = self.folder / "notebook.ipynb"
        status, problem = self._verdict()
        if status != "done":
            self.job.output.unlink(missing_ok=True)
            if executed.exists():
                self.job.failed.parent.mkdir(parents=True, exist_ok=True)
                os.replace(executed, self.job.failed)
            return Outcome(self.job, status, seconds, f"{self.job.name} failed {problem}")
        self.job.failed.unlink(missing_ok=True)
        if self.job.keep:
            self._keep(executed, seconds)
        return Outcome(self.job, status, seconds)

    def _verdict(self) -> tuple[str, str]:
        """(status, what went wrong and where)."""
        try:
            result = json.loads((self.folder / "result.json").read_text())
        except (OSError, ValueError):
            reason = "no sign of life" if self.overdue else f"the worker ended with code {self.process.returncode}"
            return "died", f"{self._where()}: {reason} {self._last_line_of_log()}".strip()
        if result["error"]:
            return "died" if result["died"] else "failed", f"{self._where()}: {result['error']}"
        record = self.job.record
        if record and not (record.exists() and record.stat().st_mtime >= self.began_at):
            return "failed", (
                f"at its end: it wrote no record {record}. "
                "The notebook must pass its cfg to records.start and call record.save()"
            )
        return "done", ""

    def _where(self) -> str:
        number, _ = self.cell()
        if number == 0:
            return "before the first cell"
        source = nbformat.read(self.job.chapter.notebook, as_version=4).cells[number - 1].source
        lines = [line.strip() for line in source.splitlines()]
        code = [line for line in lines if line and not line.startswith("#")]
        return f"in cell {number} ({code[0][:80] if code else 'empty'})"

    def _last_line_of_log(self) -> str:
        lines = (self.folder / "log.txt").read_text(errors="replace").strip().splitlines()
        return f"({lines[-1][:200]})" if lines else ""

    def _keep(self, executed: Path, seconds: float) -> None:
        notebook = nbformat.read(executed, as_version=4)
        notebook.metadata["jepa_lab"] = {
            "key": self.key,
            "chapter": self.job.chapter.name,
            "preset": self.job.preset,
            "seed": self.job.seed,
            "parameters": {name: value for name, value in self.job.parameters.items() if name != "out"},
            "command": self.job.command,
            "executed": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": seconds,
            "records": [str(self.job.record)] if self.job.record else [],
            "data": cache.data_state(),
            "versions": provenance.versions(),
            "git_commit": provenance.git_commit(),
        }
        nbformat.write(notebook, executed)
        self.job.output.parent.mkdir(parents=True, exist_ok=True)
        os.replace(executed, self.job.output)
