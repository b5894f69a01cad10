"""A process that executes one notebook, seen from outside: start it, watch it, end it, take its result."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import psutil

from jepa_lab import provenance
from jepa_lab.publish import cache, environment
from jepa_lab.publish.jobs import Job, Outcome

GRACE = 60  # seconds that a worker may be late before it is ended from outside
REMARK = re.compile(r"\b(INFO|DEBUG|WARNING)\b|[Ww]arning:")  # in a log: a line that reports no error


class WorkerProcess:
    """`python -m jepa_lab.publish.worker FOLDER`, which runs in a session of its own and writes into that folder."""

    def __init__(self, job: Job, folder: Path, threads: int, cell_timeout: float, start_timeout: float):
        self.job, self.folder = job, folder
        self.cell_timeout, self.start_timeout = cell_timeout, start_timeout
        self.began = self.changed = time.monotonic()  # `changed`: when this process last saw progress.txt change
        self.seen, self.overdue = None, False
        self.before = cache.file_state(job.record)
        self.data = cache.data_state()
        self.key = cache.key(job.chapter, job.parameters) if job.keep else None
        folder.mkdir(parents=True)
        self.source = folder / "source.ipynb"  # what is executed, also when the notebook is edited meanwhile
        shutil.copyfile(job.chapter.notebook, self.source)
        (folder / "job.txt").write_text(repr(self._assignment()), encoding="utf-8")
        with (folder / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "jepa_lab.publish.worker", str(folder)],
                stdout=log,
                stderr=log,
                stdin=subprocess.PIPE,  # it closes when this process ends, however that happens
                env=environment.for_notebook(folder, threads),
                start_new_session=True,
            )

    def _assignment(self) -> dict:
        return {
            "notebook": str(self.source),
            "parameters": self.job.parameters,
            "cwd": str(self.job.chapter.notebook.parent.resolve()),
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
        state = cache.file_state(self.folder / "progress.txt")
        if state != self.seen:
            self.seen, self.changed = state, time.monotonic()
        limit = self.cell_timeout if state else self.start_timeout  # no file: not in its first cell yet
        return time.monotonic() - self.changed > limit + GRACE

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
        try:
            status, problem = self._verdict()
            if status == "done" and self.job.keep:
                self._keep(executed, seconds)
        except Exception as error:  # the disk is full, the folder was removed: the other runs go on
            status, problem = "failed", f"at its end: {type(error).__name__}: {error}"
        if status != "done":
            return failure(self.job, problem, status, seconds, executed)
        self.job.failed.unlink(missing_ok=True)
        return Outcome(self.job, status, seconds)

    def _verdict(self) -> tuple[str, str]:
        """(status, what went wrong and where)."""
        try:
            result = json.loads((self.folder / "result.json").read_text())
        except (OSError, ValueError):
            return "died", f"{self._where()}: {self._cause_of_death()}"
        if result["error"]:
            return "died" if result["died"] else "failed", f"{self._where()}: {result['error']}"
        record = self.job.record
        if record and cache.file_state(record) in (None, self.before):
            return "failed", (
                f"at its end: it wrote no record {record}. "
                "The notebook must pass its cfg to records.start and call record.save()"
            )
        return "done", ""

    def _cause_of_death(self) -> str:
        code = self.process.returncode
        if self.overdue:
            return "no sign of life, so it was ended"
        if code < 0:
            return f"killed by signal {-code} ({'out of memory?' if code == -9 else signal.strsignal(-code)})"
        lines = (self.folder / "log.txt").read_text(errors="replace").strip().splitlines()
        words = [line.strip()[:200] for line in lines if line.strip() and not REMARK.search(line)]
        return f"the worker ended with code {code}" + (f" ({words[-1]})" if words else "")

    def _where(self) -> str:
        number, _ = self.cell()
        if number == 0:
            return "before the first cell"
        source = nbformat.read(self.source, as_version=4).cells[number - 1].source
        lines = [line.strip() for line in source.splitlines()]
        code = [line for line in lines if line and not line.startswith("#")]
        return f"in cell {number} ({code[0][:80] if code else 'empty'})"

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
            "device": self._device(),
            "records": cache.record_state(self.job.record),
            "data": cache.data_used(self.data),
            "versions": provenance.versions(),
            "git_commit": provenance.git_commit(),
        }
        nbformat.write(notebook, executed)
        self.job.output.parent.mkdir(parents=True, exist_ok=True)
        os.replace(executed, self.job.output)

    def _device(self) -> str:
        """What the parameter `device` became: the record knows, where there is one."""
        if self.job.record:
            return json.loads(self.job.record.read_text(encoding="utf-8"))["device"]
        return self.job.parameters.get("device", "auto")


def failure(job: Job, problem: str, status="failed", seconds=0.0, executed: Path | None = None) -> Outcome:
    """The outcome of a run that failed. Its page is removed; what was executed is kept beside, as a failed notebook."""
    with suppress(OSError):  # a folder that cannot be written to: `problem` says so
        job.output.unlink(missing_ok=True)
        job.failed.unlink(missing_ok=True)
        if executed and executed.exists():
            job.failed.parent.mkdir(parents=True, exist_ok=True)
            os.replace(executed, job.failed)
    return Outcome(job, status, seconds, f"{job.name} failed {' '.join(problem.split())}")
