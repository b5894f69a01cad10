"""What was run: one JSON file per run, written atomically, queried in place with DuckDB.

A run of a chapter opens a record, adds what it measured, and saves it:

    run = records.start("01_masking", preset="laptop", seed=0, config=cfg, claims=CLAIMS, device="cpu", out="results")
    run.data("fashion-mnist", source="debian package", sha256="…")
    run.series("loss", steps, losses)
    run.claim("feature-targets", value=0.81, baseline=0.79)
    run.save()          # results/01_masking/laptop-seed0-1f3a5b7c.json

Two runs never write the same file unless chapter, preset, seed and configuration are all equal.
"""

import hashlib
import json
import math
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import SupportsFloat

from jepa_lab import files
from jepa_lab.claims import Claim
from jepa_lab.configs import config_hash, plain

PACKAGE = Path(__file__).resolve().parent
REPO = PACKAGE.parent
VERSIONED = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "einops", "plotly")
KINDS = ("real", "generated", "simulated")
MAX_POINTS = 200
CODE_SUFFIXES = {".py", ".js", ".css"}


def start(
    chapter: str, *, preset: str, seed: int, config, claims: Sequence[Claim] = (), device="cpu", out=None
) -> "Run":
    """Opens the record of one run; the clock starts here.

    ``config`` is the paper's frozen dataclass (or a dict). ``out`` is the folder for records; empty means
    ``_build/records`` of a checkout, else ``./records``.
    """
    if not re.fullmatch(r"[\w.-]+", chapter) or not re.fullmatch(r"[\w.-]+", preset):
        raise ValueError(f"chapter {chapter!r} and preset {preset!r} become file names: letters, digits, _ . - only")
    return Run(
        chapter, preset, int(seed), plain(config), tuple(claims), str(device), Path(out) if out else default_out()
    )


class Run:
    """One run in the making. Nothing is on disk until ``save``."""

    def __init__(
        self, chapter: str, preset: str, seed: int, config: dict, claims: tuple[Claim, ...], device: str, out: Path
    ):
        self.claims = {claim.id: claim for claim in claims}
        self.out = out
        self._clock = time.perf_counter()
        self.record = {
            "chapter": chapter,
            "preset": preset,
            "seed": seed,
            "config": config,
            "config_hash": config_hash(config),
            "git_commit": git_commit(),
            "code_hash": code_hash(chapter),
            "versions": versions(),
            "device": device,
            "processor": processor(device),
            "threads": threads(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "wall_s": None,
            "peak_rss_mb": None,
            "data": [],
            "claims": {},
            "series": {},
            "values": {},
        }

    @property
    def path(self) -> Path:
        return record_path(
            self.out, self.record["chapter"], self.record["preset"], self.record["seed"], self.record["config"]
        )

    def data(self, name: str, source: str, sha256: str | None = None, kind: str = "real") -> None:
        """Notes a data set the run used and where it really came from."""
        if kind not in KINDS:
            raise ValueError(f"data kind must be one of {', '.join(KINDS)}, not {kind!r}")
        self.record["data"].append({"name": name, "source": source, "sha256": sha256, "kind": kind})

    def claim(self, id: str, *, value: SupportsFloat, baseline: SupportsFloat) -> None:
        """Sets this run's measurement for a claim and for what it is compared with."""
        if id not in self.claims:
            raise ValueError(f"unknown claim {id!r}; this chapter has: {', '.join(self.claims) or 'none'}")
        self.record["claims"][id] = {
            "value": _finite(value, f"claim {id!r}: value"),
            "baseline": _finite(baseline, f"claim {id!r}: baseline"),
        }

    def series(self, name: str, x: Iterable, y: Iterable) -> None:
        """Keeps a curve for the plots: at most 200 points (first and last stay), 6 digits; NaN and inf become null."""
        x, y = _numbers(x), _numbers(y)
        if len(x) != len(y):
            raise ValueError(f"series {name!r}: x has {len(x)} points, y has {len(y)}")
        keep = range(len(x))
        if len(x) > MAX_POINTS:
            keep = [round(i * (len(x) - 1) / (MAX_POINTS - 1)) for i in range(MAX_POINTS)]
        self.record["series"][name] = {"x": [_short(x[i]) for i in keep], "y": [_short(y[i]) for i in keep]}

    def value(self, name: str, number: SupportsFloat) -> None:
        """Keeps one named number."""
        self.record["values"][name] = _finite(number, f"value {name!r}")

    def save(self) -> Path:
        """Writes the record atomically and returns its path. Refuses while a claim has no value."""
        missing = [id for id in self.claims if id not in self.record["claims"]]
        if missing:
            raise ValueError(f"no value for claim {', '.join(missing)}: call run.claim(...) before run.save()")
        self.record["wall_s"] = round(time.perf_counter() - self._clock, 2)
        self.record["peak_rss_mb"] = peak_rss_mb()
        files.write_text(self.path, json.dumps(self.record, indent=1, allow_nan=False) + "\n")
        return self.path


def load(chapter: str | None = None, preset: str | None = None, root=None, *, config=None) -> list[dict]:
    """The finished records under ``root`` (default: the committed study), oldest file name first; [] when there are
    none.

    ``config`` keeps only the records of exactly that configuration. A file that is no record raises ValueError.
    """
    conditions, arguments = ["true"], []
    for column, wanted in (
        ("chapter", chapter),
        ("preset", preset),
        ("config_hash", config_hash(plain(config)) if config is not None else None),
    ):
        if wanted is not None:
            conditions.append(f"{column} = ?")
            arguments.append(wanted)
    sql = f"SELECT record FROM records WHERE {' AND '.join(conditions)} ORDER BY file"
    return [json.loads(text) for (text,) in query(sql, root, arguments)]


def query(sql: str, root=None, arguments: Sequence = ()) -> list[tuple]:
    """Runs DuckDB SQL over the records under ``root`` and returns the rows.

    Tables: ``records`` (file, chapter, preset, seed, config_hash, git_commit, device, started, wall_s, peak_rss_mb and
    the JSON columns config, claims, series, numbers (the record's "values") and record), ``claims`` (file, chapter,
    preset, seed, config_hash, claim_id, value, baseline).

        records.query("SELECT claim_id, avg(value - baseline) FROM claims GROUP BY claim_id")
    """
    import duckdb

    with duckdb.connect() as db:
        _make_tables(db, Path(root) if root else REPO / "results")
        return db.execute(sql, list(arguments)).fetchall()


def _make_tables(db, root: Path) -> None:
    import duckdb

    files = sorted(map(str, root.rglob("*.json")))
    source = "read_text(?)" if files else "(SELECT '' AS filename, '' AS content WHERE len(?) > 0)"
    try:
        db.execute(f"CREATE TABLE files AS SELECT filename, content FROM {source}", [files])
    except duckdb.Error as error:  # not UTF-8, unreadable: DuckDB names the file
        raise ValueError(f"cannot read the run records: {str(error).splitlines()[0]}") from error
    needed = " AND ".join(
        f"json_exists(content, '$.{key}')" for key in ("chapter", "preset", "seed", "config_hash", "claims")
    )
    bad = db.execute(
        f"SELECT filename FROM files WHERE NOT CASE WHEN json_valid(content) THEN {needed} ELSE false END LIMIT 1"
    ).fetchone()
    if bad:
        raise ValueError(f"{bad[0]} is not a run record (broken or foreign JSON): delete it and run that seed again")
    texts = ", ".join(
        f"content->>'{k}' AS {k}" for k in ("chapter", "preset", "config_hash", "git_commit", "device", "started")
    )
    numbers = ", ".join(f"(content->>'{k}')::DOUBLE AS {k}" for k in ("wall_s", "peak_rss_mb"))
    parts = ", ".join(f"content->'{k}' AS {k}" for k in ("config", "claims", "series"))
    db.execute(
        f"CREATE TABLE records AS SELECT filename AS file, {texts}, (content->>'seed')::BIGINT AS seed, {numbers}, {parts}, "
        "content->'values' AS numbers, content AS record FROM files"
    )
    db.execute(
        "CREATE TABLE claims AS SELECT file, chapter, preset, seed, config_hash, claim_id, "
        "(claims->claim_id->>'value')::DOUBLE AS value, (claims->claim_id->>'baseline')::DOUBLE AS baseline "
        "FROM (SELECT *, unnest(json_keys(claims)) AS claim_id FROM records)"
    )


def record_path(out, chapter: str, preset: str, seed: int, config) -> Path:
    """Where the record of a run lies: <out>/<chapter>/<preset>-seed<k>-<first 8 digits of the config's hash>.json."""
    return Path(out) / chapter / f"{preset}-seed{seed}-{config_hash(plain(config))[:8]}.json"


def default_out() -> Path:
    return REPO / "_build" / "records" if (REPO / "notebooks").is_dir() else Path("records")


def code_hash(chapter: str, package: Path = PACKAGE) -> str:
    """sha256 over every file of the package that can change this chapter's results.

    Left out: ``publish/`` and the command line, which run and print results, and the other chapters' papers, which
    this chapter's paper never imports. Tests enforce both.
    """
    digest, slug = hashlib.sha256(), chapter.split("_", 1)[-1]
    for path in sorted(p for p in package.rglob("*") if p.suffix in CODE_SUFFIXES):
        room, name = path.relative_to(package).parts[0], path.relative_to(package).as_posix()
        if (
            room == "publish"
            or name == "__main__.py"
            or (room == "papers" and path.relative_to(package).parts[1] not in (slug, "__init__.py"))
        ):
            continue
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def git_commit() -> str | None:
    """The checkout's commit, with '+' when files under version control were changed since; None outside a checkout."""

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(REPO), *arguments], capture_output=True, text=True, check=True, timeout=20
        ).stdout

    try:
        if not (REPO / ".git").exists():
            return None
        commit = git("rev-parse", "HEAD").strip()
        return commit + (
            "+" if git("status", "--porcelain", "--untracked-files=no", "--", "jepa_lab", "notebooks") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def processor(device: str = "cpu") -> str:
    """The name of the processor, or of the GPU where the device is one."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def threads() -> int:
    """CPU threads that torch uses in this process (or would)."""
    if "torch" in sys.modules:
        return sys.modules["torch"].get_num_threads()
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def peak_rss_mb() -> float:
    """This process's peak resident memory in MB (ru_maxrss counts bytes on macOS, kilobytes elsewhere)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _finite(number: SupportsFloat, what: str) -> float:
    number = float(number)
    if not math.isfinite(number):
        raise ValueError(f"{what} is {number}: a record holds finite numbers")
    return number


def _numbers(values: Iterable) -> list[float]:
    return [float(v) for v in (values.tolist() if hasattr(values, "tolist") else values)]


def _short(number: float) -> float | None:
    return float(f"{number:.6g}") if math.isfinite(number) else None
