"""PTB-XL in the layout of 1.0.3: its folds, its labels, its paths, and what a broken table says."""

import json
from pathlib import Path

import pytest
from wfdb_files import ROWS, STATEMENTS, UPPER, beats, close, cut, write, write_ptb_xl

from jepa_lab.data.ecg.ptb_xl import TASKS, ptb_xl, ptb_xl_folder
from jepa_lab.data.ecg.sets import by_fold
from jepa_lab.data.sources.archives import DataError

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # inside wfdb 4.3.1


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A cache with the small PTB-XL in it."""
    root = tmp_path_factory.mktemp("cache")
    write_ptb_xl(root / "ptb-xl")
    return root


def test_ptb_xl_comes_in_the_order_of_its_folds_with_patients_and_voltages(small):
    data = ptb_xl(small, task="all")
    assert data.folds.tolist() == [1, 3, 3, 9, 10] and data.patients.tolist() == [103, 101, 101, 102, 104]
    assert data.label_names == ("AFIB", "IMI", "NDT", "NORM", "PVC", "SR")
    assert data.rate == 100 and data.kind == "real" and data.refused == {}
    assert all(close(data.signals[k].float(), beats(seed=seed)) for k, seed in enumerate((4, 1, 5, 2, 6)))


@pytest.mark.parametrize(
    ("task", "names", "rows"),
    [
        (
            "all",
            ("AFIB", "IMI", "NDT", "NORM", "PVC", "SR"),
            {4: "NDT SR", 1: "NORM SR", 5: "SR", 2: "AFIB IMI PVC", 6: "NDT NORM"},
        ),
        ("diagnostic", ("IMI", "NDT", "NORM"), {4: "NDT", 1: "NORM", 2: "IMI", 6: "NDT NORM"}),
        ("subclass", ("IMI", "NORM", "STTC"), {4: "STTC", 1: "NORM", 2: "IMI", 6: "NORM STTC"}),
        ("superclass", ("MI", "NORM", "STTC"), {4: "STTC", 1: "NORM", 2: "MI", 6: "NORM STTC"}),
        ("form", ("NDT", "PVC"), {4: "NDT", 2: "PVC", 6: "NDT"}),
        ("rhythm", ("AFIB", "SR"), {4: "SR", 1: "SR", 5: "SR", 2: "AFIB"}),
    ],
)
def test_each_task_has_its_labels_whatever_their_likelihood_and_drops_records_without_any(small, task, names, rows):
    data = ptb_xl(small, task=task)
    assert data.label_names == names
    assert [" ".join(name for name, has in zip(names, row) if has) for row in data.labels.tolist()] == [*rows.values()]
    assert all(close(data.signals[k].float(), beats(seed=seed)) for k, seed in enumerate(rows))


def test_both_rates_come_from_their_own_files_and_others_from_500_hz(small):
    for rate, samples in ((500, 5000), (250, 2500)):
        data = ptb_xl(small, rate=rate, task="all")
        assert data.signals.shape == (5, 12, samples) and data.rate == rate
        assert close(data.signals[1].float(), beats(rate, seed=1))


def test_tasks_share_one_cache_file_and_folds_of_the_whole_are_views(small):
    for task in TASKS:
        ptb_xl(small, task=task)
    sizes = [json.loads(path.read_text())["bytes"] for path in (small / "ecg").glob("*.json")]
    assert sizes.count(6 * 24_000) == 1
    data = ptb_xl(small, task="superclass")
    assert by_fold(data, range(1, 9)).signals.data_ptr() == data.signals.data_ptr()
    assert {path.suffix for path in (small / "ecg").iterdir()} == {".f16", ".json"}


def test_the_folder_itself_can_be_named_and_is_left_as_it_was(tmp_path, monkeypatch):
    folder = write_ptb_xl(tmp_path / "somewhere" / "ptb-xl-1.0.3", ROWS[:2])
    monkeypatch.setenv("JEPA_LAB_DATA", str(tmp_path / "cache"))
    before = sorted(folder.rglob("*"))
    assert len(ptb_xl(folder)) == 2 and ptb_xl_folder(folder) == folder and sorted(folder.rglob("*")) == before
    assert ptb_xl_folder() is None


def test_hostile_paths_and_broken_lines_are_refused_by_record(tmp_path):
    folder = write_ptb_xl(tmp_path / "ptb-xl")
    write(tmp_path, "outside", beats(), leads=UPPER)
    table = folder / "ptbxl_database.csv"
    good = table.read_text()
    row = '{},7.0,56.0,1,"x","{}",{},{},{}\n'
    hostile = [
        "../outside",
        str(tmp_path / "outside"),
        "records100/../../outside",
        "s3://bucket/r",
        "records100/00000/none",
        ".",
    ]
    table.write_text(
        good
        + "".join(row.format(50 + k, "{'NORM': 100.0}", 5, name, name) for k, name in enumerate(hostile))
        + row.format(60, "__import__('os').system('touch hacked')", 5, "records100/00000/00001_lr", "x")
        + row.format(61, "[1]", 5, "records100/00000/00001_lr", "x")
        + row.format(62, "{'NORM': 100.0}", 11, "records100/00000/00001_lr", "x")
        + row.format("?", "{'NORM': 100.0}", 5, "records100/00000/00001_lr", "x")
        + "63,7\n"
        + row.format(64, "(" * 5000, 5, "x", "x")
    )
    cut(folder / "records100" / "00000" / "00002_lr")
    data = ptb_xl(tmp_path, task="all")
    assert len(data) == 4 and 5 not in data.folds.tolist()
    assert data.refused == {
        "path outside the data folder": 5,
        "header missing": 1,
        "line of ptbxl_database.csv unreadable": 6,
        "signal file truncated": 1,
    }
    assert not Path("hacked").exists()


def test_unknown_task_wrong_folder_and_other_tables_say_what_to_do(tmp_path, small):
    with pytest.raises(DataError, match="no task 'supreme'; choose one of all, diagnostic"):
        ptb_xl(small, task="supreme")
    with pytest.raises(DataError, match="no PTB-XL in .*data fetch ptb-xl"):
        ptb_xl(tmp_path)
    (tmp_path / "ptbxl_database.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="cannot read .*scp_statements.csv"):
        ptb_xl(tmp_path)
    (tmp_path / "scp_statements.csv").write_text(STATEMENTS)
    with pytest.raises(DataError, match="lacks the columns .*'ecg_id'"):
        ptb_xl(tmp_path)
    (tmp_path / "scp_statements.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read"):
        ptb_xl(tmp_path)
