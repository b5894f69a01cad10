"""A grid of runs (chapters x settings x seeds): resumable, each run in its own process.

A run counts as finished when a record with its chapter, preset, seed and configuration exists. Code is not compared,
because a study that lasts hours would otherwise start again after every edit. The plan says how many of the finished
records were made by other code, and `force` runs them again. A record is written in one step at the end of a run, so a
killed run leaves no record and runs again.
"""

import ast
import itertools
from dataclasses import replace
from pathlib import Path

from jepa_lab import provenance, records
from jepa_lab.publish import jobs, runner
from jepa_lab.publish.chapters import Chapter
from jepa_lab.publish.jobs import Job, Outcome


def seeds(text: str) -> list[int]:
    """'0:5' gives 0, 1, 2, 3, 4; '0,3,7' gives 0, 3, 7; '2' gives 2."""
    try:
        if ":" in text:
            first, end = text.split(":")
            found = list(range(int(first or 0), int(end)))
        else:
            found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 0 or max(found) > records.MAX_SEED:
        raise ValueError(f"--seeds takes 0:5 or 0,1,4 (up to {records.MAX_SEED}), not {text!r}")
    return found


def settings(grids: list[str]) -> list[dict[str, str]]:
    """['lr=0.1,0.2', 'depth=2,4'] gives the four combinations, with values as text. A name may be given once."""
    axes = {}
    for grid in grids:
        name, sign, text = grid.partition("=")
        values = _split(text)
        if not sign or not name or not values:
            raise ValueError(f"--grid takes name=a,b,c, not {grid!r}")
        if name in axes:
            raise ValueError(f"{name} is given twice in --grid; give all its values at once: --grid {name}=a,b,c")
        axes[name] = values
    return [dict(zip(axes, choice)) for choice in itertools.product(*axes.values())]


def _split(text: str) -> list[str]:
    """Splits at commas outside brackets: '(1,2),(3,4)' gives two values."""
    try:
        return [repr(value) if not isinstance(value, str) else value for value in ast.literal_eval(f"[{text}]")]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return [part.strip() for part in text.split(",")]


def plan(
    chapters: list[Chapter], preset: str, seeds: list[int], grid: list[dict[str, str]], *, device: str, out: Path
) -> list[Job]:
    """Every run of the grid, once each: what is given twice has the same record. All are checked before any starts."""
    planned = {}
    for chapter, setting, seed in itertools.product(chapters, grid, seeds):
        job = jobs.plan(chapter, preset, seed, setting, device=device, out=out)
        if job.record is None:
            raise ValueError(
                f"{chapter.name} has no jepa_lab/papers/{chapter.slug}/paper.py, so its runs leave no record; "
                "batch runs only chapters that have one"
            )
        place = chapter.root / "_build" / "batch" / chapter.name / f"{job.record.stem}.ipynb"
        job = replace(job, output=place, keep=False)
        other = planned.setdefault(job.record, job)
        if other.parameters != job.parameters:
            raise ValueError(
                f"two runs of this grid would write the same record {job.record}: vary the config's fields"
            )
    return list(planned.values())


def finished(job: Job) -> dict | None:
    """The run's record, or None where there is none. ValueError names a broken file and the record of another run."""
    if not job.record.exists():
        return None
    record = records.read(job.record)
    own = (record[name] for name in ("chapter", "preset", "seed", "config"))
    if records.record_path(job.record.parents[1], *own) != job.record:
        raise ValueError(f"{job.record} is the record of another run: move it away")
    return record


def split(planned: list[Job], force: bool) -> tuple[list[Job], list[dict]]:
    """(runs to do, records that exist already)."""
    existing = [None if force else finished(job) for job in planned]
    todo = [job for job, record in zip(planned, existing) if record is None]
    return todo, [record for record in existing if record is not None]


def describe(todo: list[Job], existing: list[dict]) -> str:
    """One sentence: how many runs are finished, how many by other code, how many are to do."""
    old = sum(record.get("code_hash") != provenance.code_hash(record["chapter"]) for record in existing)
    other = f" ({old} made by other code; --force runs them again)" if old else ""
    return f"{len(todo) + len(existing)} runs: {len(existing)} finished{other}, {len(todo)} to do"


def run(todo: list[Job], **options) -> list[Outcome]:
    """Runs the jobs. A job whose process died (not one whose code failed) is tried once more."""
    outcomes = runner.run(todo, **options)
    died = [outcome.job for outcome in outcomes if outcome.status == "died"]
    if not died:
        return outcomes
    return [outcome for outcome in outcomes if outcome.status != "died"] + runner.run(died, **options)
