"""One notebook run, planned: its parameters, where its notebook and record go, how long it may take."""

import dataclasses
import json
import shlex
from pathlib import Path
from statistics import median_high

from jepa_lab import records
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
    """The job of one run, its parameters checked. Raises ValueError; starts nothing."""
    build = chapter.root / "_build"
    out = Path(out).resolve() if out else build / "records"
    values, config = parameters.resolve(chapter, preset, seed, given, device, str(out))
    options = [f"-p {shlex.quote(f'{name}={text}')}" for name, text in given.items()]
    if device != "auto":
        options.append(f"--device {device}")
    return Job(
        chapter=chapter,
        preset=preset,
        seed=seed,
        parameters=values,
        record=None if config is None else records.record_path(out, chapter.name, preset, seed, config),
        output=build / "executed" / preset / "notebooks" / f"{chapter.name}.ipynb",
        command=" ".join([f"python -m jepa_lab run {chapter.name} --preset {preset} --seed {seed}", *options]),
    )


def expected_seconds(job: Job) -> float:
    """The seconds of the last execution at this preset; else the committed study's median; else a guess."""
    seconds = cache.metadata(job.output).get("seconds")
    if seconds is not None:
        return float(seconds)
    study = job.chapter.root / "results" / job.chapter.name
    walls = [json.loads(path.read_text())["wall_s"] for path in study.glob(f"{job.preset}-*.json")]
    if walls:
        return float(median_high(walls) + START_SECONDS)
    return float(EXPECTED.get(job.preset, 3600))
