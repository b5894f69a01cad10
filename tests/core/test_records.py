"""A record says what was run, is whole or absent, and is found again."""

import dataclasses
import json
import math
import multiprocessing

import pytest
import torch

from jepa_lab import files, records
from jepa_lab.claims import Claim

CLAIMS = (Claim("probe", "01_tiny", "A paper", "features beat pixels", "accuracy", "higher", 0.0),)


@dataclasses.dataclass(frozen=True)
class Config:
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)


def started(out, seed=0, chapter="01_tiny", preset="smoke", config=Config(), claims=CLAIMS):
    return records.start(
        chapter, preset=preset, seed=seed, config=config, claims=claims, device=torch.device("cpu"), out=out
    )


def saved(out, seed=0, value=0.9, **more):
    run = started(out, seed, **more)
    run.claim("probe", value=value, baseline=0.5)
    return run.save()


def test_a_saved_record_holds_provenance_and_measurements(tmp_path):
    run = started(tmp_path, seed=3)
    run.data("fashion-mnist", "debian package", sha256="ab", kind="real")
    run.series("loss", range(3), torch.tensor([1.0, 0.5, 0.25]))
    run.value("accuracy", torch.tensor(0.75))
    run.claim("probe", value=torch.tensor(0.9), baseline=0.5)
    path = run.save()
    assert path == tmp_path / "01_tiny" / f"smoke-seed3-{records.config_hash(Config())[:8]}.json"
    record = json.loads(path.read_text())
    keys = "chapter preset seed config config_hash git_commit versions device processor threads started wall_s peak_rss_mb data claims series values"
    assert set(keys.split()) <= set(record)
    assert record["config"] == {"lr": 0.1, "betas": [0.9, 0.95]} and record["device"] == "cpu"
    assert record["processor"] == records.processor() != ""
    assert record["series"] == {"loss": {"x": [0.0, 1.0, 2.0], "y": [1.0, 0.5, 0.25]}} and record["values"] == {
        "accuracy": 0.75
    }
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] and record["wall_s"] >= 0
    assert 10 < record["peak_rss_mb"] < 100_000


def test_a_record_with_an_unmeasured_claim_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="no value for claim probe"):
        started(tmp_path).save()
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_and_unknown_claims_are_refused(tmp_path, bad):
    run = started(tmp_path)
    with pytest.raises(ValueError, match="finite"):
        run.claim("probe", value=bad, baseline=0.0)
    with pytest.raises(ValueError, match="finite"):
        run.value("accuracy", bad)
    with pytest.raises(ValueError, match="unknown claim 'prob'.*probe"):
        run.claim("prob", value=1.0, baseline=0.0)


def test_long_series_are_thinned_but_keep_their_ends(tmp_path):
    run = started(tmp_path, claims=())
    run.series("loss", range(5000), [math.nan] + [1 / 3] * 4998 + [7.0])
    kept = run.record["series"]["loss"]
    assert len(kept["x"]) == len(kept["y"]) == 200 and (kept["x"][0], kept["x"][-1]) == (0, 4999)
    assert kept["y"][0] is None and kept["y"][1] == 0.333333 and kept["y"][-1] == 7.0
    json.dumps(run.record, allow_nan=False)
    with pytest.raises(ValueError, match="x has 2 points, y has 1"):
        run.series("bad", [0, 1], [0])


def test_a_crash_while_writing_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_text(path, "old")

    def broken(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        files.write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"] and path.read_text() == "old"


def test_records_are_found_by_chapter_preset_and_configuration(tmp_path):
    for seed in range(3):
        saved(tmp_path, seed)
    saved(tmp_path, chapter="02_other")
    saved(tmp_path, preset="laptop")
    saved(tmp_path, config=Config(lr=0.2))
    assert len(records.load(root=tmp_path)) == 6
    assert len(records.load("01_tiny", "smoke", tmp_path)) == 4
    assert [r["seed"] for r in records.load("01_tiny", "smoke", tmp_path, config=Config())] == [0, 1, 2]
    assert records.load("nobody", root=tmp_path) == [] == records.load(root=tmp_path / "missing")


def test_sql_sees_records_and_claims(tmp_path):
    for seed, value in enumerate([0.7, 0.8, 0.9]):
        saved(tmp_path, seed, value)
    assert records.query("SELECT count(*), max(seed), any_value(device) FROM records", tmp_path) == [(3, 2, "cpu")]
    ((gain,),) = records.query("SELECT avg(value - baseline) FROM claims WHERE claim_id = ?", tmp_path, ["probe"])
    assert gain == pytest.approx(0.3)
    assert records.query("SELECT DISTINCT (config->>'lr')::DOUBLE FROM records", tmp_path) == [(0.1,)]


@pytest.mark.parametrize("content", [b'{"chapter": "01_ti', b"[1, 2]", b"", b"\xff\xfe\x00", b'{"foreign": 1}'])
def test_a_broken_record_is_one_error_that_names_the_file(tmp_path, content):
    saved(tmp_path)
    (tmp_path / "01_tiny" / "broken.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.json"):
        records.load(root=tmp_path)


def test_unfinished_writes_of_others_are_not_read(tmp_path):
    saved(tmp_path)
    (tmp_path / "01_tiny" / ".smoke-seed1.json.x1.tmp").write_text('{"chap')
    assert len(records.load(root=tmp_path)) == 1


def test_two_processes_writing_the_same_record_leave_one_whole_file(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        paths = set(pool.starmap(saved, [(tmp_path, 0, 0.5 + k / 100) for k in range(20)]))
    assert len(paths) == 1 and len(records.load(root=tmp_path)) == 1
    assert [p.suffix for p in (tmp_path / "01_tiny").iterdir()] == [".json"]


def test_config_hash_sees_values_not_field_order_or_container():
    assert records.config_hash({"a": 1, "b": (1, 2)}) == records.config_hash({"b": [1, 2], "a": 1})
    assert records.config_hash(Config()) != records.config_hash(Config(lr=0.2))


def test_code_hash_sees_rooms_and_the_own_paper_only(tmp_path):
    for name in (
        "masks.py",
        "papers/tiny/paper.py",
        "papers/other/paper.py",
        "publish/stage.py",
        "__main__.py",
        "widgets/a.js",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    before = records.code_hash("01_tiny", tmp_path)
    for name, matters in (
        ("masks.py", True),
        ("papers/tiny/paper.py", True),
        ("widgets/a.js", True),
        ("papers/other/paper.py", False),
        ("publish/stage.py", False),
        ("__main__.py", False),
    ):
        (tmp_path / name).write_text("2")
        assert (records.code_hash("01_tiny", tmp_path) != before) == matters, name
        (tmp_path / name).write_text("1")


def test_names_that_would_leave_the_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="file names"):
        started(tmp_path, chapter="../evil")
