"""Runs notebooks: each in a fresh process, some side by side, with time-outs, and no partial files.

A run works in a folder of its own under `_build/running`; only a finished notebook is moved to its place. A notebook
that fails is kept as `NN_slug.failed.ipynb` and reported with cell and exception; the other notebooks go on.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext

from jepa_lab.publish import cache, ownership
from jepa_lab.publish.jobs import Job, Outcome, expected_seconds
from jepa_lab.publish.progress import Progress
from jepa_lab.publish.worker_process import WorkerProcess, failure

HOUR, WEEK = 3600, 7 * 24 * 3600
CELL_TIMEOUT = {"smoke": HOUR / 2, "laptop": HOUR, "gpu": 4 * HOUR}  # against cells that hang; other presets: a week
START_TIMEOUT = 600


def run(
    jobs: list[Job],
    *,
    side_by_side: int = 2,
    threads: int = 1,
    cell_timeout: float | None = None,
    start_timeout: float = START_TIMEOUT,
    force: bool = False,
) -> list[Outcome]:
    """Executes the jobs whose notebook is not up to date and returns one Outcome per job, in order of ending.

    On SIGINT or SIGTERM every process is ended, temporary folders are removed, and KeyboardInterrupt is raised.
    """
    stale = [job for job in jobs if force or _needs_run(job)]
    unchanged = [Outcome(job, "cached") for job in jobs if job not in stale]
    if unchanged:
        print(f"{len(unchanged)} unchanged, not run again", file=sys.stderr)
    alike = {id(job): (job.chapter.name, job.preset) for job in stale}
    progress = Progress({id(job): expected_seconds(job) for job in stale}, side_by_side, alike)
    running = ownership.fresh_folder(jobs[0].chapter.root.resolve() / "_build" / "running") if stale else nullcontext()
    with _sigterm_as_interrupt(), running as place, closing(progress):

        def start(job: Job) -> WorkerProcess:
            limit = cell_timeout or CELL_TIMEOUT.get(job.preset, WEEK)
            return WorkerProcess(job, place / str(stale.index(job) + 1), threads, limit, start_timeout)

        return unchanged + _execute(stale, start, side_by_side, progress)


def _execute(
    jobs: list[Job], start: Callable[[Job], WorkerProcess], side_by_side: int, progress: Progress
) -> list[Outcome]:
    waiting, running, outcomes = list(jobs), [], []
    try:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                job = waiting.pop(0)
                progress.started(id(job), job.name)
                try:
                    running.append(start(job))
                except Exception as error:  # its notebook is gone or half saved, the disk is full: the others go on
                    outcomes.append(failure(job, f"before its start: {type(error).__name__}: {error}"))
                    progress.finished(id(job), outcomes[-1])
            time.sleep(0.1)
            for process in [process for process in running if process.has_ended()]:
                running.remove(process)
                outcomes.append(process.outcome())
                progress.finished(id(process.job), outcomes[-1])
            progress.tick({id(process.job): process.cell() for process in running})
    finally:
        for process in running:
            process.kill()
    return outcomes


def _needs_run(job: Job) -> bool:
    return not job.keep or not cache.is_fresh(job.output, cache.key(job.chapter, job.parameters), job.record)


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt like Ctrl-C, so that the same clean-up runs."""

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
