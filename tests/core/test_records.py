"""A record says what was run, is whole or absent, and is found again."""

import dataclasses
import json
import math
import multiprocessing
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jepa_lab import configs, files, provenance, records
from jepa_lab.claims import Claim

REPO = Path(__file__).resolve().parents[2]
CHAPTERS = [path.stem for path in sorted((REPO / "notebooks").glob("*.py"))]
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


@pytest.fixture
def small_package(tmp_path) -> Path:
    """A package of two papers, with the script of one chapter beside it."""
    contents = {
        "jepa_lab/__init__.py": "",
        "jepa_lab/masks.py": "",
        "jepa_lab/diagnostics.py": "",
        "jepa_lab/unused.py": "",
        "jepa_lab/widgets/__init__.py": "",
        "jepa_lab/widgets/kit.js": "",
        "jepa_lab/papers/__init__.py": "",
        "jepa_lab/papers/tiny/__init__.py": "",
        "jepa_lab/papers/tiny/paper.py": "def late():\n    from jepa_lab import masks",
        "jepa_lab/papers/tiny/pilots.py": "",
        "jepa_lab/papers/other/paper.py": "import jepa_lab.unused",
        "jepa_lab/publish/stage.py": "import jepa_lab.masks",
        "notebooks/01_tiny.py": "import jepa_lab.diagnostics\nfrom jepa_lab.widgets import something",
    }
    for name, text in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "jepa_lab"


def test_code_files_are_what_notebook_and_paper_reach_by_imports(small_package):
    found = {p.relative_to(small_package).as_posix() for p in provenance.code_files("01_tiny", small_package)}
    assert found == {
        "__init__.py",
        "diagnostics.py",  # imported by the notebook
        "masks.py",  # imported inside a function of the paper
        "papers/tiny/__init__.py",
        "papers/tiny/paper.py",
        "papers/tiny/pilots.py",  # part of the paper's folder, although nothing imports it
        "widgets/__init__.py",
        "widgets/kit.js",  # beside a module that is reached
    }


def test_code_hash_sees_content_and_names_of_these_files(small_package):
    before = provenance.code_hash("01_tiny", small_package)
    (small_package / "unused.py").write_text("changed = True")
    assert provenance.code_hash("01_tiny", small_package) == before
    (small_package / "masks.py").write_text("changed = True")
    changed = provenance.code_hash("01_tiny", small_package)
    assert changed != before
    (small_package / "papers/tiny/pilots.py").rename(small_package / "papers/tiny/renamed.py")
    assert provenance.code_hash("01_tiny", small_package) not in (before, changed)


def expected_stale(name: str) -> set[str] | None:
    """The chapters that an edit of this file must re-run: none, all, or its paper's; None where the closure decides."""
    room = name.split("/")[0]
    if room == "papers" and name.count("/") > 1:
        return {chapter for chapter in CHAPTERS if chapter.partition("_")[2] == name.split("/")[1]}
    if room in ("publish", "cli", "__main__.py"):
        return set()
    return set(CHAPTERS) if name in ("__init__.py", "records.py", "figures.py") else None


@pytest.fixture(scope="module")
def copied_package(tmp_path_factory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(REPO / "jepa_lab", copy / "jepa_lab", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPO / "notebooks", copy / "notebooks")
    return copy / "jepa_lab"


def test_touching_each_file_makes_the_right_chapters_stale(copied_package):
    before = {chapter: provenance.code_hash(chapter, copied_package) for chapter in CHAPTERS}
    files = [p for p in sorted(copied_package.rglob("*")) if p.is_file()]
    assert len(before) >= 5 and len(files) > 50
    for path in files:
        name, content = path.relative_to(copied_package).as_posix(), path.read_bytes()
        path.write_bytes(content + b"\n")
        stale = {chapter for chapter in CHAPTERS if provenance.code_hash(chapter, copied_package) != before[chapter]}
        path.write_bytes(content)
        expected = expected_stale(name)
        if expected is None:
            assert stale, f"{name}: no chapter reaches this shared file"
        else:
            assert stale == expected, name


def test_a_shared_room_makes_only_those_chapters_stale_that_import_it(copied_package):
    trained = {"01_masking", "02_predictors", "07_ecg_jepa"}
    reach = {chapter: provenance.code_files(chapter, copied_package) for chapter in CHAPTERS}
    assert {chapter for chapter in CHAPTERS if copied_package / "train.py" in reach[chapter]} >= trained
    assert {chapter for chapter in CHAPTERS if copied_package / "data/ecg/simulator.py" in reach[chapter]} == {
        "07_ecg_jepa"
    }


def test_the_record_says_how_much_memory_was_used_where_the_system_tells_it(monkeypatch):
    assert 10 < provenance.peak_rss_mb() < 100_000
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=windows_process))
    assert provenance.peak_rss_mb() == 300.0
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert provenance.peak_rss_mb() is None


def windows_process():
    return SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=300 * 2**20))


def test_names_that_would_leave_the_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="file names"):
        started(tmp_path, chapter="../evil")
