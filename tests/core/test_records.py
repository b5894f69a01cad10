"""A record says what was run, and is whole or absent."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from tiny_record import Config, started

from jepa_lab import configs, files, provenance

REPO = Path(__file__).resolve().parents[2]


def test_a_saved_record_holds_provenance_and_measurements(tmp_path):
    run = started(tmp_path, seed=3)
    run.data("fashion-mnist", "debian package", sha256="ab", kind="real")
    run.series("loss", range(3), torch.tensor([1.0, 0.5, 0.25]))
    run.value("accuracy", torch.tensor(0.75))
    run.claim("probe", value=torch.tensor(0.9), baseline=0.5)
    path = run.save()
    assert path == tmp_path / "01_tiny" / f"smoke-seed3-{configs.config_hash(Config())[:8]}.json"
    record = json.loads(path.read_text())
    keys = (
        "chapter preset seed config config_hash git_commit versions device processor threads "
        "started wall_s peak_rss_mb data claims series values"
    )
    assert set(keys.split()) <= set(record)
    assert record["config"] == {"lr": 0.1, "betas": [0.9, 0.95]} and record["device"] == "cpu"
    assert record["processor"] == provenance.processor() != ""
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


def test_config_hash_sees_values_not_field_order_or_container():
    assert configs.config_hash({"a": 1, "b": (1, 2)}) == configs.config_hash({"b": [1, 2], "a": 1})
    assert configs.config_hash(Config()) != configs.config_hash(Config(lr=0.2))


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int = 4
    depth: int = configs.added(2)


@dataclasses.dataclass(frozen=True)
class Grown:
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    hold: float = configs.added(0.0)
    inner: Inner = configs.added(Inner())


def test_an_added_field_changes_no_stored_hash_until_it_is_set():
    assert configs.config_hash(Grown()) == configs.config_hash(Config())
    assert configs.plain(Grown(hold=0.5)) == {"lr": 0.1, "betas": [0.9, 0.95], "hold": 0.5}
    assert configs.plain(Grown(inner=Inner(width=8)))["inner"] == {"width": 8}
    assert configs.plain(Grown(inner=Inner(depth=3)))["inner"] == {"width": 4, "depth": 3}


def test_stored_records_still_belong_to_their_configuration():
    stored = [json.loads(path.read_text()) for path in (REPO / "results").rglob("*.json")]
    assert len(stored) > 20
    assert [r["chapter"] for r in stored if configs.config_hash(r["config"]) != r["config_hash"]] == []


def test_names_that_would_leave_the_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="file names"):
        started(tmp_path, chapter="../evil")
