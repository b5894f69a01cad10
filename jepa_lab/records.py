"""What was run: one JSON file per run, written atomically, queried in place with DuckDB.

A run of a chapter opens a record, adds what it measured, and saves the record:

    record = records.start("01_masking", preset="laptop", seed=0, config=cfg, claims=CLAIMS, out="results")
    record.data("fashion-mnist", source="debian package", sha256="…")
    record.series("loss", steps, losses)
    record.claim("feature-targets", value=0.81, baseline=0.79)
    record.save()          # results/01_masking/laptop-seed0-1f3a5b7c.json

Two runs write the same file only if chapter, preset, seed and configuration are all equal.
"""

import json
import math
import re
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import SupportsFloat

from jepa_lab import files, record_form
from jepa_lab.claims import Claim
from jepa_lab.configs import config_hash, plain
from jepa_lab.provenance import REPO, code_hash, git_commit, peak_rss_mb, processor, threads, versions

KINDS = ("real", "generated", "simulated")
MAX_POINTS = 200
MAX_SEED = 2**32 - 1  # what every generator that a run seeds takes


def start(
    chapter: str, *, preset: str, seed: int, config, claims: Sequence[Claim] = (), device="cpu", out=None
) -> "Record":
    """Opens the record of one run and starts its clock.

    `config` is the paper's frozen dataclass (or a dict). `out` is the folder for records; empty means
    `_build/records` of a checkout, else `./records`.
    """
    if not re.fullmatch(r"[\w.-]+", chapter) or not re.fullmatch(r"[\w.-]+", preset):
        raise ValueError(f"chapter {chapter!r} and preset {preset!r} become file names: use letters, digits, _ . -")
    out = Path(out).expanduser().absolute() if out else default_out()
    provenance = {
        "chapter": chapter,
        "preset": preset,
        "seed": int(seed),
        "config": plain(config),
        "config_hash": config_hash(config),
        "git_commit": git_commit(),
        "code_hash": code_hash(chapter),
        "versions": versions(),
        "device": str(device),
        "processor": processor(str(device)),
        "threads": threads(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "wall_s": None,
        "peak_rss_mb": None,
    }
    return Record(provenance, claims, out)


class Record:
    """The record of one run that is still going on. Nothing is on the disk until `save`."""

    def __init__(self, provenance: dict, claims: Iterable[Claim], out: Path):
        self.claims = {claim.id: claim for claim in claims}
        self.out = out
        self.record = provenance | {"data": [], "claims": {}, "series": {}, "values": {}}
        self._clock = time.perf_counter()

    @property
    def path(self) -> Path:
        content = self.record
        return record_path(self.out, content["chapter"], content["preset"], content["seed"], content["config"])

    def data(self, name: str, source: str, sha256: str | None = None, kind: str = "real") -> None:
        """Notes a data set that the run used, and where its files came from."""
        if kind not in KINDS:
            raise ValueError(f"data kind must be one of {', '.join(KINDS)}, not {kind!r}")
        self.record["data"].append({"name": name, "source": source, "sha256": sha256, "kind": kind})

    def claim(self, id: str, *, value: SupportsFloat, baseline: SupportsFloat) -> None:
        """Sets the run's measurement for a claim, and the measurement that the claim compares it with."""
        if id not in self.claims:
            raise ValueError(f"unknown claim {id!r}; this chapter has: {', '.join(self.claims) or 'none'}")
        self.record["claims"][id] = {
            "value": _finite(value, f"claim {id!r}: value"),
            "baseline": _finite(baseline, f"claim {id!r}: baseline"),
        }

    def series(self, name: str, x: Iterable, y: Iterable) -> None:
        """Stores a curve for the plots: at most 200 points (first and last stay), 6 digits; NaN and inf become null."""
        x, y = _numbers(x), _numbers(y)
        if len(x) != len(y):
            raise ValueError(f"series {name!r}: x has {len(x)} points, y has {len(y)}")
        keep = range(len(x))
        if len(x) > MAX_POINTS:
            keep = [round(i * (len(x) - 1) / (MAX_POINTS - 1)) for i in range(MAX_POINTS)]
        self.record["series"][name] = {"x": [_short(x[i]) for i in keep], "y": [_short(y[i]) for i in keep]}

    def value(self, name: str, number: SupportsFloat) -> None:
        """Stores one named number."""
        self.record["values"][name] = _finite(number, f"value {name!r}")

    def save(self) -> Path:
        """Writes the record atomically and returns its path. ValueError while a claim has no value."""
        missing = [id for id in self.claims if id not in self.record["claims"]]
        if missing:
            raise ValueError(f"no value for claim {', '.join(missing)}: call record.claim(...) before record.save()")
        self.record["wall_s"] = round(time.perf_counter() - self._clock, 2)
        self.record["peak_rss_mb"] = peak_rss_mb()
        files.write_text(self.path, json.dumps(self.record, indent=1, allow_nan=False) + "\n")
        return self.path


def load(chapter: str | None = None, preset: str | None = None, root=None, *, config=None) -> list[dict]:
    """The finished records under `root`, sorted by file name; [] when there are none.

    `root` is the committed study unless it is given. `config` keeps only the records of exactly that configuration.
    A run counts once, however its file is called. ValueError names a file that is no record, and two of one run.
    """
    wanted = {"chapter": chapter, "preset": preset, "config_hash": config_hash(config) if config is not None else None}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    return [record for _, record in _runs(root) if all(record[name] == value for name, value in wanted.items())]


def query(sql: str, root=None, arguments: Sequence = ()) -> list[tuple]:
    """The rows that DuckDB SQL returns over the records under `root` (the committed study unless it is given).

    Tables: `records` (file, chapter, preset, seed, config_hash, git_commit, device, started, wall_s, peak_rss_mb and
    the JSON columns config, claims, series, numbers (the record's "values") and record), `claims` (file, chapter,
    preset, seed, config_hash, claim_id, value, baseline).

        records.query("SELECT claim_id, avg(value - baseline) FROM claims GROUP BY claim_id")
    """
    import duckdb

    runs = _runs(root)
    columns = [[str(path) for path, _ in runs], [json.dumps(record) for _, record in runs]]
    with duckdb.connect() as db:
        db.execute("CREATE TABLE files AS SELECT unnest(?::TEXT[]) AS filename, unnest(?::TEXT[]) AS content", columns)
        db.execute(RECORDS_TABLE)
        db.execute(CLAIMS_TABLE)
        return db.execute(sql, list(arguments)).fetchall()


def read(path: Path) -> dict:
    """The record in a file. ValueError names a file that does not hold a whole record of this version."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        json.dumps(record, allow_nan=False)  # NaN and Infinity are no JSON, though Python reads them
        reason = record_form.fault(record)
    except (ValueError, RecursionError) as error:
        reason = f"broken JSON: {error}"
    if reason:
        raise ValueError(f"{path} is not a run record ({reason}): delete it and run that seed again")
    return record


def _runs(root) -> list[tuple[Path, dict]]:
    """Every run's file and record under `root`, once each. Copies of a file are left out, other doubles refused."""
    root = Path(root).expanduser() if root else REPO / "results"
    paths = sorted(path for path in files.below(root) if path.suffix == ".json") if root.is_dir() else []
    runs = {}
    for path in paths:
        record = read(path)
        run = tuple(record[name] for name in ("chapter", "preset", "config_hash", "seed"))
        first, other = runs.setdefault(run, (path, record))
        if other != record:
            raise ValueError(
                f"{first} and {path} are two records of one run, seed {record['seed']}: remove one of them"
            )
    return list(runs.values())


RECORDS_TABLE = """
    CREATE TABLE records AS SELECT
        filename AS file,
        content->>'chapter' AS chapter,
        content->>'preset' AS preset,
        (content->>'seed')::BIGINT AS seed,
        content->>'config_hash' AS config_hash,
        content->>'git_commit' AS git_commit,
        content->>'device' AS device,
        content->>'started' AS started,
        (content->>'wall_s')::DOUBLE AS wall_s,
        (content->>'peak_rss_mb')::DOUBLE AS peak_rss_mb,
        content->'config' AS config,
        content->'claims' AS claims,
        content->'series' AS series,
        content->'values' AS numbers,
        content AS record
    FROM files
"""
CLAIMS_TABLE = """
    CREATE TABLE claims AS SELECT
        file, chapter, preset, seed, config_hash, claim_id,
        (claims->claim_id->>'value')::DOUBLE AS value,
        (claims->claim_id->>'baseline')::DOUBLE AS baseline
    FROM (SELECT *, unnest(json_keys(claims)) AS claim_id FROM records)
"""


def record_path(out, chapter: str, preset: str, seed: int, config) -> Path:
    """Where the record of a run lies: <out>/<chapter>/<preset>-seed<k>-<first 8 digits of the config's hash>.json."""
    return Path(out) / chapter / f"{preset}-seed{seed}-{config_hash(config)[:8]}.json"


def default_out() -> Path:
    """The folder for records when none is named: `_build/records` of a checkout, else `./records`."""
    return REPO / "_build" / "records" if (REPO / "notebooks").is_dir() else Path("records")


def _finite(number: SupportsFloat, what: str) -> float:
    number = float(number)
    if not math.isfinite(number):
        raise ValueError(f"{what} is {number}: a record holds finite numbers")
    return number


def _numbers(values: Iterable) -> list[float]:
    return [float(v) for v in (values.tolist() if hasattr(values, "tolist") else values)]


def _short(number: float) -> float | None:
    return float(f"{number:.6g}") if math.isfinite(number) else None
