"""Each recording counts once, whatever its files are called; what tools left in a folder is no data."""

import shutil

import pytest
import torch
from scipy.signal import resample_poly
from wfdb_files import ROWS, beats, write, write_cinc, write_ptb_xl

from jepa_lab.data.ecg.folders import databases, wfdb_folder
from jepa_lab.data.ecg.ptb_xl import ptb_xl
from jepa_lab.data.sources.archives import DataError

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # inside wfdb 4.3.1


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_LAB_DATA", str(tmp_path / "cache"))


def site(folder, count=4, rate=100):
    for k in range(count):
        write_cinc(folder, f"r{k}", beats(rate, seed=k), rate=rate, dx=f"label{k % 2}")
    return folder


def test_equal_recordings_are_one_patient(tmp_path):
    site(tmp_path / "ecg" / "site")
    shutil.copytree(tmp_path / "ecg" / "site", tmp_path / "ecg" / "site-backup")
    write(tmp_path / "ecg" / "site", "r0-gain", beats(seed=0), gain=200.0)
    write(tmp_path / "ecg" / "site", "r1-long", beats(seconds=25.0, seed=1))
    (tmp_path / "ecg" / "site-backup" / "r0.hea").write_text(
        (tmp_path / "ecg" / "site" / "r0.hea").read_text().replace("label0", "old label")
    )
    data = wfdb_folder(tmp_path / "ecg")
    assert len(data) == 4 and data.refused == {"stored twice": 6}
    assert data.label_names == ("label0", "label1")  # those of `site`, not of `site-backup`


@pytest.mark.parametrize("rate", [100, 500])
def test_a_recording_kept_at_two_sampling_rates_counts_once(tmp_path, rate):
    site(tmp_path / "ecg" / "records500", rate=500)
    for k in range(4):
        write(tmp_path / "ecg" / "records100", f"r{k}", resample_poly(beats(500, seed=k), 1, 5))
    assert wfdb_folder(tmp_path / "ecg", rate).refused == {"stored twice": 4}


def test_recordings_that_differ_by_their_noise_alone_are_different(tmp_path):
    for k in range(20):
        noise = 0.05 * torch.randn(1000, 12, generator=torch.Generator().manual_seed(k)).numpy()
        write(tmp_path / "ecg", f"r{k}", beats(seed=0) + noise)
    assert wfdb_folder(tmp_path / "ecg").refused == {}


def test_a_recording_that_two_databases_share_is_in_the_first_alone(tmp_path):
    site(tmp_path / "a", 40)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for k in range(40, 60):
        write_cinc(tmp_path / "b", f"s{k}", beats(seed=k), rate=100)
    parts = databases([str(tmp_path / "a"), str(tmp_path / "b")], 100, 10, (400, 50, 50))
    assert [len(part) for part in parts] == [48, 6, 6] and parts[0].refused == {"stored twice": 40}
    assert len(torch.cat([part.patients for part in parts]).unique()) == 60
    with pytest.raises(DataError, match="a has 0 .left out: 40 stored twice.; each folder needs at least 10"):
        databases([str(tmp_path / "a"), str(tmp_path / "a")], 100, 10, (400, 50, 50))


@pytest.mark.parametrize("left", [".snapshot", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "in/.hidden"])
def test_what_tools_left_in_a_folder_is_no_data(tmp_path, left):
    site(tmp_path / "ecg" / "in", 2)
    write(tmp_path / "ecg" / left, "old", beats(seed=9))
    (tmp_path / "ecg" / "in" / "._r0.hea").write_bytes(b"\0\5\x16\7" * 30)
    data = wfdb_folder(tmp_path / "ecg")
    assert len(data) == 2 and data.refused == {}


def test_links_to_folders_are_followed_once(tmp_path):
    site(tmp_path / "elsewhere")
    (tmp_path / "ecg" / "own").mkdir(parents=True)
    (tmp_path / "ecg" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "ecg" / "own" / "loop").symlink_to(tmp_path / "ecg")
    data = wfdb_folder(tmp_path / "ecg")
    assert len(data) == 4 and data.refused == {}


def test_a_colon_or_a_pattern_in_a_name_is_a_name(tmp_path):
    for k, name in enumerate(("10:30", "x[1]", "x1", "a*b", "a?b", "{a,b}")):
        write(tmp_path / "ecg" / name, "r", beats(seed=k))
    data = wfdb_folder(tmp_path / "ecg")
    assert len(data) == 6 and data.refused == {}


def test_a_patient_or_recording_in_two_folds_of_ptb_xl_stays_in_the_first(tmp_path):
    folder = write_ptb_xl(tmp_path / "ptb-xl", [*ROWS, (9, 103, {"SR": 0.0}, 10)])
    table = folder / "ptbxl_database.csv"
    again = table.read_text().splitlines()[2].replace("2,102.0", "70,190.0", 1).replace(",9,", ",10,", 1)
    table.write_text(table.read_text() + again + "\n")
    data = ptb_xl(folder, task="all")
    assert data.refused == {"patient in two folds": 1, "stored twice": 1}
    assert data.folds.tolist() == [1, 3, 3, 9, 10] and data.patients.tolist() == [103, 101, 101, 102, 104]
