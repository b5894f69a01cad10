"""Runs notebooks: one fresh process each, some side by side, with time-outs, and nothing half-written.

A run works in a folder of its own under ``_build/running/<pid>``; only a finished notebook is moved to its place. A
notebook that fails is kept as ``NN_slug.failed.ipynb`` and named with cell and exception; the others go on.
"""

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import nbformat
import psutil

from jepa_lab import records
from jepa_lab.publish import cache, parameters
from jepa_lab.publish.chapters import Chapter
from jepa_lab.publish.progress import Progress

CELL_TIMEOUT = {"smoke": 180, "laptop": 1200, "gpu": 3 * 3600}  # seconds; other presets: a week
START_TIMEOUT = 180
GRACE = 60  # seconds a worker may be late before the watchdog ends it
EXPECTED = {"smoke": 20, "laptop": 240, "gpu": 3600}  # seconds, until something was measured
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One notebook with everything that decides its outputs. Without ``keep`` only a failed one is kept."""

    chapter: Chapter
    preset: str
    seed: int
    parameters: dict
    record: Path | None  # where the paper's record will lie
    output: Path
    command: str  # runs the same again
    keep: bool = True

    @property
    def name(self) -> str:
        return self.chapter.name if self.keep else f"{self.chapter.name}/{self.output.stem}"

    @property
    def failed(self) -> Path:
        return self.output.with_name(f"{self.output.stem}.failed.ipynb")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a job ended: 'done', 'cached', 'failed' (its own exception) or 'died' (killed, crashed, out of time)."""

    job: Job
    status: str
    seconds: float = 0.0
    message: str = ""

    @property
    def ok(self) -> bool:
        return self.status in ("done", "cached")


def plan(
    chapter: Chapter, preset: str, seed: int, given: dict[str, str], *, device="auto", out: Path | None = None
) -> Job:
    """Checks the parameters of one run and says where its notebook and record go; raises ValueError, starts nothing."""
    build = chapter.root / "_build"
    out = Path(out).resolve() if out else build / "records"
    values, config = parameters.resolve(chapter, preset, seed, given, device, str(out))
    record = records.record_path(out, chapter.name, preset, seed, config) if config is not None else None
    options = [f"-p {shlex.quote(f'{name}={text}')}" for name, text in given.items()]
    options += [f"--device {device}"] * (device != "auto")
    command = " ".join([f"python -m jepa_lab run {chapter.name} --preset {preset} --seed {seed}", *options])
    return Job(
        chapter,
        preset,
        seed,
        values,
        record,
        build / "executed" / preset / "notebooks" / f"{chapter.name}.ipynb",
        command,
    )


def run(
    jobs: list[Job],
    *,
    side_by_side=2,
    threads=1,
    cell_timeout=None,
    start_timeout=START_TIMEOUT,
    force=False,
    progress=None,
) -> list[Outcome]:
    """Executes the jobs that the cache does not answer and returns one Outcome per job, in order of ending.

    On SIGINT or SIGTERM every child is ended, temporary folders are removed, and the exception goes on.
    """
    stale = [
        job
        for job in jobs
        if force or not job.keep or not cache.fresh(job.output, cache.key(job.chapter, job.parameters))
    ]
    outcomes = [Outcome(job, "cached") for job in jobs if job not in stale]
    progress = progress or Progress(side_by_side)
    alike = {id(job): (job.chapter.name, job.preset) for job in stale}
    progress.begin({id(job): expected_seconds(job) for job in stale}, len(outcomes), alike)
    with _workplace(jobs) as place, _terminate_as_interrupt():
        waiting, running = list(stale), []
        try:
            while waiting or running:
                while waiting and len(running) < side_by_side:
                    job = waiting.pop(0)
                    limit = cell_timeout or CELL_TIMEOUT.get(job.preset, 7 * 86400)
                    running.append(_Child(job, place / str(len(stale) - len(waiting)), threads, limit, start_timeout))
                    progress.started(id(job), job.name)
                time.sleep(0.1)
                for child in [c for c in running if c.ended()]:
                    running.remove(child)
                    outcomes.append(child.outcome())
                    progress.finished(id(child.job), outcomes[-1])
                progress.tick({id(c.job): c.cell() for c in running})
        finally:
            for child in running:
                child.kill()
            progress.end()
    return outcomes


def expected_seconds(job: Job) -> float:
    """From the last execution at this preset, else from the committed study, else a guess."""
    seconds = cache.metadata(job.output).get("seconds")
    if seconds is None:
        study = job.chapter.root / "results" / job.chapter.name
        walls = [json.loads(path.read_text())["wall_s"] for path in study.glob(f"{job.preset}-*.json")]
        seconds = sorted(walls)[len(walls) // 2] + 8 if walls else EXPECTED.get(job.preset, 3600)
    return float(seconds)


class _Child:
    """A worker process and its folder."""

    def __init__(self, job: Job, folder: Path, threads: int, cell_timeout: float, start_timeout: float):
        self.job, self.folder, self.began, self.began_at = job, folder, time.monotonic(), time.time() - 1
        self.cell_timeout, self.start_timeout, self.overdue = cell_timeout, start_timeout, False
        self.key = cache.key(job.chapter, job.parameters)
        folder.mkdir(parents=True)
        spec = {
            "notebook": str(job.chapter.notebook),
            "parameters": job.parameters,
            "cwd": str(job.chapter.notebook.parent),
            "cell_timeout": cell_timeout,
            "start_timeout": start_timeout,
        }
        (folder / "job.txt").write_text(repr(spec), encoding="utf-8")
        environment = os.environ | {name: str(threads) for name in THREAD_VARIABLES}
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

    def cell(self) -> tuple[int, int]:
        """The number of the running cell and of all cells; (0, 0) before the first."""
        try:
            number, total = (self.folder / "progress.txt").read_text().split()
            return int(number), int(total)
        except (OSError, ValueError):
            return 0, 0

    def ended(self) -> bool:
        if self.process.poll() is not None:
            return True
        try:
            late = time.time() - (self.folder / "progress.txt").stat().st_mtime > self.cell_timeout + GRACE
        except OSError:
            late = time.monotonic() - self.began > self.start_timeout + GRACE
        if late:
            self.overdue = True
            self.kill()
        return late

    def kill(self) -> None:
        """Ends the worker, its kernel and whatever they started."""
        try:
            family = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        except psutil.NoSuchProcess:
            family = []
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                pass
        self.process.wait()

    def outcome(self) -> Outcome:
        """Moves the finished notebook to its place, or the failed one beside it."""
        seconds = round(time.monotonic() - self.began, 1)
        executed = self.folder / "notebook.ipynb"
        error, died = self._verdict()
        if error:
            self.job.output.unlink(missing_ok=True)
            if executed.exists():
                self.job.failed.parent.mkdir(parents=True, exist_ok=True)
                os.replace(executed, self.job.failed)
            return Outcome(self.job, "died" if died else "failed", seconds, f"{self.job.name} failed {error}")
        self.job.failed.unlink(missing_ok=True)
        if self.job.keep:
            self._publish(executed, seconds)
        return Outcome(self.job, "done", seconds)

    def _verdict(self) -> tuple[str | None, bool]:
        """(what went wrong and where, or None; whether the process died rather than its code failed)."""
        record = self.job.record
        try:
            result = json.loads((self.folder / "result.json").read_text())
        except (OSError, ValueError):
            reason = "no sign of life" if self.overdue else f"the worker ended with code {self.process.returncode}"
            return f"{self._where()}: {reason} {self._last_words()}".strip(), True
        if result["error"]:
            return f"{self._where()}: {result['error']}", result["died"]
        if record and not (record.exists() and record.stat().st_mtime >= self.began_at):
            return f"at its end: it wrote no record {record} (records.start takes cfg; run.save() writes)", False
        return None, False

    def _where(self) -> str:
        number, _ = self.cell()
        if number == 0:
            return "before the first cell"
        source = nbformat.read(self.job.chapter.notebook, as_version=4).cells[number - 1].source
        code = [line.strip() for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        return f"in cell {number} ({code[0][:80] if code else 'empty'})"

    def _publish(self, executed: Path, seconds: float) -> None:
        notebook = nbformat.read(executed, as_version=4)
        record = self.job.record
        notebook.metadata["jepa_lab"] = {
            "key": self.key,
            "chapter": self.job.chapter.name,
            "preset": self.job.preset,
            "seed": self.job.seed,
            "parameters": {k: v for k, v in self.job.parameters.items() if k != "out"},
            "command": self.job.command,
            "executed": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": seconds,
            "records": [str(record)] if record else [],
            "data": cache.data_state(),
            "versions": records.versions(),
            "git_commit": records.git_commit(),
        }
        nbformat.write(notebook, executed)
        self.job.output.parent.mkdir(parents=True, exist_ok=True)
        os.replace(executed, self.job.output)

    def _last_words(self) -> str:
        lines = (self.folder / "log.txt").read_text(errors="replace").strip().splitlines()
        return f"({lines[-1][:200]})" if lines else ""


@contextmanager
def _workplace(jobs: list[Job]) -> Iterator[Path]:
    """A folder for this process under _build/running; what killed runs left there goes."""
    if not jobs:
        yield Path()
        return
    running = jobs[0].chapter.root / "_build" / "running"
    for left in running.glob("*"):
        if not (left.name.isdigit() and psutil.pid_exists(int(left.name))):
            shutil.rmtree(left, ignore_errors=True)
    place = running / str(os.getpid())
    shutil.rmtree(place, ignore_errors=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that the children end with us."""

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
