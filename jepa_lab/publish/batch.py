"""A grid of runs, chapters x settings x seeds: resumable, each run in its own process.

A run counts as finished when its record is there: same chapter, preset, seed and configuration. Code is not compared,
because a study that lasts hours would otherwise start again after every edit; instead the plan says how many of the
finished records were made by other code, and ``force`` runs them again. A record is written in one step at the end, so
a killed run leaves none and is run again.
"""

import ast
import itertools
import json
from dataclasses import replace
from pathlib import Path

from jepa_lab import records
from jepa_lab.publish import runner
from jepa_lab.publish.chapters import Chapter
from jepa_lab.publish.runner import Job, Outcome


def seeds(text: str) -> list[int]:
    """'0:5' -> 0..4; '0,3,7' -> those; '2' -> that one."""
    try:
        if ":" in text:
            first, end = text.split(":")
            found = list(range(int(first or 0), int(end)))
        else:
            found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise ValueError(f"--seeds takes 0:5 or 0,1,4, not {text!r}")
    return found


def settings(grids: list[str]) -> list[dict[str, str]]:
    """['lr=0.1,0.2', 'depth=2,4'] -> the four combinations, values still as text."""
    axes = []
    for grid in grids:
        name, sign, text = grid.partition("=")
        if not sign or not name or not text:
            raise ValueError(f"--grid takes name=a,b,c, not {grid!r}")
        axes.append([(name, value) for value in _split(text)])
    return [dict(choice) for choice in itertools.product(*axes)]


def _split(text: str) -> list[str]:
    """At commas, but not inside brackets: '(1,2),(3,4)' are two values."""
    try:
        return [repr(value) if not isinstance(value, str) else value for value in ast.literal_eval(f"[{text}]")]
    except (ValueError, SyntaxError):
        return [part.strip() for part in text.split(",")]


def plan(
    chapters: list[Chapter], preset: str, seeds: list[int], grid: list[dict[str, str]], *, device: str, out: Path
) -> list[Job]:
    """Every run of the grid, checked before anything starts."""
    jobs = []
    for chapter, setting, seed in itertools.product(chapters, grid, seeds):
        job = runner.plan(chapter, preset, seed, setting, device=device, out=out)
        if job.record is None:
            raise ValueError(
                f"{chapter.name} has no jepa_lab/papers/{chapter.slug}.py, so its runs leave no record to resume from"
            )
        place = chapter.root / "_build" / "batch" / chapter.name / f"{job.record.stem}.ipynb"
        jobs.append(replace(job, output=place, keep=False))
    return jobs


def finished(job: Job) -> dict | None:
    """The run's record if it is there and whole; a broken one is an error that names the file."""
    if not job.record.exists():
        return None
    try:
        record = json.loads(job.record.read_text(encoding="utf-8"))
        return record if record["seed"] == job.seed and record["wall_s"] is not None else None
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{job.record} is not a run record (broken or foreign JSON): delete it and start the batch again"
        ) from None


def split(jobs: list[Job], force: bool) -> tuple[list[Job], list[dict]]:
    """(runs to do, records that are there already)."""
    there = {id(job): None if force else finished(job) for job in jobs}
    return [job for job in jobs if there[id(job)] is None], [record for record in there.values() if record]


def describe(todo: list[Job], there: list[dict]) -> str:
    old = sum(record.get("code_hash") != records.code_hash(record["chapter"]) for record in there)
    other = f" ({old} made by other code; --force runs them again)" if old else ""
    return f"{len(todo) + len(there)} runs: {len(there)} finished{other}, {len(todo)} to do"


def run(todo: list[Job], **options) -> list[Outcome]:
    """Runs the jobs; one whose worker died (not one whose code failed) is tried once more."""
    outcomes = runner.run(todo, **options)
    died = [outcome.job for outcome in outcomes if outcome.status == "died"]
    if not died:
        return outcomes
    return [outcome for outcome in outcomes if outcome.status != "died"] + runner.run(died, **options)
