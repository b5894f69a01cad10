"""One notebook run, planned: its parameters, where its notebook and record go, how long it may take."""

import dataclasses
import shlex
from pathlib import Path
from statistics import median_high

from jepa_lab import files, records
from jepa_lab.publish import cache, parameters
from jepa_lab.publish.chapters import Chapter

EXPECTED = {"smoke": 20, "laptop": 240, "gpu": 3600}  # seconds, until something was measured
START_SECONDS = 8  # imports, which a record does not time


@dataclasses.dataclass(frozen=True)
class Job:
    """One notebook with everything that decides its outputs. Without `keep` the notebook is kept only if it fails."""

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
        """Where a notebook that failed is kept."""
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
    """The job of one run. Raises ValueError for its parameters, OSError where its record or notebook cannot be written;
    starts nothing.
    """
    build = chapter.root / "_build"
    out = Path(out).expanduser().resolve() if out else build / "records"
    values, config = parameters.resolve(chapter, preset, seed, given, device, str(out))
    job = Job(
        chapter=chapter,
        preset=preset,
        seed=seed,
        parameters=values,
        record=None if config is None else records.record_path(out, chapter.name, preset, seed, config),
        output=build / "executed" / preset / "notebooks" / f"{chapter.name}.ipynb",
        command=_command(chapter, preset, seed, given | _full_paths(values), device, out),
    )
    for path in filter(None, (job.record, job.output)):
        files.require_writable(path)
    return job


def _command(chapter: Chapter, preset: str, seed: int, given: dict[str, str], device: str, out: Path) -> str:
    words = ["python", "-m", "jepa_lab", "run", chapter.name, "--preset", preset, "--seed", str(seed)]
    for name, text in given.items():
        words += ["-p", f"{name}={text}"]
    words += ["--device", device] if device != "auto" else []
    words += ["--out", str(out)] if out != chapter.root / "_build" / "records" else []
    return shlex.join(words)


def _full_paths(values: dict) -> dict[str, str]:
    """The overrides that are text: a folder's full path means the same wherever the command is typed."""
    return {name: value for name, value in values.get("overrides", {}).items() if isinstance(value, str)}


def expected_seconds(job: Job) -> float:
    """The seconds of the last execution at this preset; else the committed study's median; else a guess."""
    seconds = cache.metadata(job.output).get("seconds")
    if seconds is not None:
        return float(seconds)
    study = job.chapter.root / "results" / job.chapter.name
    walls = [record["wall_s"] for record in records.load(preset=job.preset, root=study)]
    if walls:
        return float(median_high(walls) + START_SECONDS)
    return float(EXPECTED.get(job.preset, 3600))
