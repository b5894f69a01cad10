"""Records are found again, each run once, and a file that is no record is refused by name."""

import json
import math
import multiprocessing
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_record import CLAIMS, Config, saved

from jepa_lab import claims, records

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


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


def edited(path, **changes):
    """Rewrites a record with other fields; a field that becomes `...` is removed."""
    record = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in record.items() if value is not ...}))


@pytest.mark.parametrize("name", ["{} (1).json", "x-backup.json", ".ipynb_checkpoints/{}-checkpoint.json"])
def test_a_run_counts_once_whatever_its_file_is_called(tmp_path, name):
    path = saved(tmp_path)
    copy = path.parent / name.format(path.stem)
    copy.parent.mkdir(exist_ok=True)
    shutil.copy(path, copy)
    shutil.copytree(tmp_path / "01_tiny", tmp_path / "backup")
    (tmp_path / "linked").symlink_to(tmp_path / "01_tiny")
    saved(tmp_path, seed=1)
    assert [r["seed"] for r in records.load(root=tmp_path)] == [0, 1]
    assert records.query("SELECT count(*) FROM claims", tmp_path) == [(2,)]


def test_two_different_records_of_one_run_are_refused_by_name(tmp_path):
    path = saved(tmp_path)
    other = path.with_name("other.json")
    shutil.copy(path, other)
    edited(other, wall_s=99.0)
    with pytest.raises(ValueError, match=rf"other\.json and .*{path.name} are two records of one run"):
        records.load(root=tmp_path)


@pytest.mark.parametrize(
    "folder, neighbour", [("run[12]", "run1"), ("exp?", "exp1"), ("all*", "all2"), ("a{b,c}", "ab")]
)
def test_a_folder_is_a_name_and_no_pattern(tmp_path, folder, neighbour):
    saved(tmp_path / folder, seed=1)
    saved(tmp_path / neighbour, seed=2)
    assert [r["seed"] for r in records.load(root=tmp_path / folder)] == [1]
    assert records.query("SELECT seed FROM records", tmp_path / folder) == [(1,)]


WRONG_FIELDS = {
    "started": [..., None, 5],
    "device": [..., None],
    "seed": [..., None, "abc", True, 1.5, 2**63],
    "wall_s": [None, "fast", math.nan, math.inf],
    "claims": [..., None, [], {"probe": 0.5}, {"probe": {"baseline": 0.5}}, {"probe": {"value": "1", "baseline": 0}}],
    "values": [..., {"accuracy": None}, {"accuracy": [1]}],
    "series": [..., {"loss": [1]}, {"loss": {"x": [1], "y": []}}, {"loss": {"x": [1], "y": ["a"]}}],
    "config": [..., None, {"lr": 0.2}, {"lr": math.nan}],
    "data": [..., {}, [math.nan]],
}


@pytest.mark.parametrize("field, value", [(field, value) for field, values in WRONG_FIELDS.items() for value in values])
def test_a_record_of_another_version_is_one_error_that_names_the_file(tmp_path, field, value):
    saved(tmp_path)
    path = saved(tmp_path, seed=1)
    edited(path, **{field: value})
    for read in (records.load, lambda root: records.query("SELECT 1", root)):
        with pytest.raises(ValueError, match=rf"{path.name} is not a run record") as error:
            read(root=tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["seed", "started", "config", "claims", "series", "values", "data"])
@given(value=json_values)
@settings(max_examples=30)
def test_no_json_value_in_a_record_is_a_traceback(tmp_path_factory, field, value):
    path = saved(tmp_path_factory.mktemp("fuzz"))
    for changed in (value, {"probe": value}, {"probe": {"value": 1, "baseline": value}}):
        edited(path, **{field: changed})
        try:
            claims.table(CLAIMS, records.load(root=path.parent))
            records.query("SELECT claims, series FROM records", path.parent)
        except ValueError as error:
            assert f"{path.name} is not a run record" in str(error)


def test_unfinished_writes_of_others_are_not_read(tmp_path):
    saved(tmp_path)
    (tmp_path / "01_tiny" / ".smoke-seed1.json.x1.tmp").write_text('{"chap')
    assert len(records.load(root=tmp_path)) == 1


def test_two_processes_writing_the_same_record_leave_one_whole_file(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        paths = set(pool.starmap(saved, [(tmp_path, 0, 0.5 + k / 100) for k in range(20)]))
    assert len(paths) == 1 and len(records.load(root=tmp_path)) == 1
    assert [p.suffix for p in (tmp_path / "01_tiny").iterdir()] == [".json"]
