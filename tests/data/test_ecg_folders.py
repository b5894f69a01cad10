"""Folders of records: read once into a file, found again, labelled; several folders become one set."""

import os
import subprocess
import sys

import pytest
import torch
from wfdb_files import TROUBLES, beats, close, cut, edit, write, write_cinc

from jepa_lab.data.ecg import wfdb
from jepa_lab.data.ecg.folders import databases, wfdb_folder
from jepa_lab.data.ecg.sets import scorable
from jepa_lab.data.sources.archives import DataError

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # inside wfdb 4.3.1


def test_a_truncated_matlab_file_is_refused_and_counted(tmp_path):
    for k in range(2):
        write_cinc(tmp_path / "data", f"A{k}", beats(500, seed=k))
    path = tmp_path / "data" / "A1.mat"
    path.write_bytes(path.read_bytes()[:-100])
    data = wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    assert len(data) == 1 and data.refused == {"signal file truncated": 1}


def test_a_challenge_folder_is_read_with_its_labels(tmp_path):
    for k, dx in enumerate(("426783006", "59118001, 164889003", "Unknown")):
        write_cinc(tmp_path / "data" / "g1", f"A{k:04d}", beats(500, seed=k), dx=dx)
    data = wfdb_folder(tmp_path / "data", 100, 10, root=tmp_path / "cache")
    assert data.label_names == ("164889003", "426783006", "59118001") and data.kind == "real" and data.refused == {}
    assert data.labels.int().tolist() == [[0, 1, 0], [1, 0, 1], [0, 0, 0]] and data.folds.tolist() == [0, 0, 0]
    assert data.patients.tolist() == [0, 1, 2]
    assert all(close(data.signals[k].float(), beats(seed=k), 4e-3) for k in range(3))


def test_two_folders_become_one_set_with_constants_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_LAB_DATA", str(tmp_path / "cache"))
    for k in range(80):  # the second folder's recorder has three times the gain
        gain, folder = (1, "a") if k % 2 == 0 else (3, "b")
        labels = "rare, common" if k == 4 else ("common", "other")[k // 2 % 2]
        write_cinc(tmp_path / folder, f"r{k}", gain * beats(100, seed=k), rate=100, dx=labels)
    cut(write(tmp_path / "b", "broken", beats()))
    parts = scorable(databases([str(tmp_path / "a"), f" {tmp_path / 'b'}"], 100, 10, (64, 8, 8)))
    assert [len(part) for part in parts] == [64, 8, 8]
    assert parts[0].name == "WFDB folder a, WFDB folder b" and parts[0].label_names == ("common", "other")
    assert parts[0].refused == {"signal file truncated": 1, "label too rare to score": 1}
    assert len(torch.cat([part.patients for part in parts]).unique()) == 80
    first, second = parts[0].signals[:32].float(), parts[0].signals[32:].float()
    spread = second.std(dim=(0, 2)) / first.std(dim=(0, 2))
    assert torch.allclose(spread, torch.ones(12), atol=0.02)  # where the gain alone would give 3


def test_folders_that_cannot_be_scored_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("JEPA_LAB_DATA", str(tmp_path / "cache"))
    for k in range(12):
        write(tmp_path / "plain", f"r{k}", beats(seed=k))
    for folder, sizes, says in (
        ("plain", (9, 9, 9), "none of the 0 labels"),
        ("plain", (4, 9, 0), "too few records"),
        ("nowhere", (9, 9, 9), "holds no WFDB records"),
    ):
        with pytest.raises(DataError, match=says):
            scorable(databases([str(tmp_path / folder)], 100, 10, sizes))


def test_broken_records_are_counted_and_the_run_goes_on(tmp_path):
    folder = tmp_path / "data"
    for reason, harm in TROUBLES.items():
        harm(write(folder / reason.replace(" ", "_"), "r", beats()))
    for k in range(3):
        write(folder / "fine", f"r{k}", beats(seed=k))
    (folder / "header_missing" / "other.hea").unlink()
    data = wfdb_folder(folder, root=tmp_path / "cache")
    assert len(data) == 3 and close(data.signals[1].float(), beats(seed=1)) and data.labels.shape == (3, 0)
    assert data.refused == {reason: 1 for reason in TROUBLES if reason != "header missing"}


def test_long_records_give_their_beginning_and_short_ones_are_refused(tmp_path):
    for seed, (name, seconds) in enumerate((("long", 25.0), ("exact", 10.0), ("short", 9.9))):
        write(tmp_path / "data", name, beats(seconds=seconds, seed=seed))
    data = wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    assert len(data) == 2 and data.refused == {"shorter than asked": 1}
    assert close(data.signals[1].float(), beats(seconds=25.0)[:1000])


def test_folder_without_records_or_without_readable_ones_is_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        with pytest.raises(DataError, match="holds no WFDB records; expected"):
            wfdb_folder(tmp_path / folder)
    for name in "ab":
        cut(write(tmp_path / "broken", name, beats()))
    with pytest.raises(DataError, match="none of the 2 records in .*signal file truncated': 2"):
        wfdb_folder(tmp_path / "broken", root=tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("*.*")) == []
    with pytest.raises(DataError, match="ask for some samples"):
        wfdb_folder(tmp_path / "broken", seconds=0, root=tmp_path / "cache")


# the cache


def test_second_call_reads_no_record_again_until_one_changes(tmp_path, monkeypatch):
    for k in range(3):
        write(tmp_path / "data", f"r{k}", beats(seed=k))
    first = wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    read, calls = wfdb.read_with_comments, []
    monkeypatch.setattr(wfdb, "read_with_comments", lambda path, *how: calls.append(path.name) or read(path, *how))
    again = wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    assert calls == [] and torch.equal(first.signals, again.signals) and first.sha256 == again.sha256
    write(tmp_path / "data", "r1", beats(seed=9))
    changed = wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    assert calls == ["r0", "r1", "r2"] and changed.sha256 != first.sha256
    assert close(changed.signals[1].float(), beats(seed=9))


def test_a_signal_file_of_another_name_is_watched_too(tmp_path):
    path = write(tmp_path / "data", "r", beats())
    edit(path, "r.dat", "voltages.bin")
    path.with_suffix(".dat").rename(tmp_path / "data" / "voltages.bin")
    wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    other = write(tmp_path / "other", "r", beats(seed=5))
    (tmp_path / "data" / "voltages.bin").write_bytes(other.with_suffix(".dat").read_bytes())
    with pytest.raises(DataError, match="differ from the header's sums"):
        wfdb_folder(tmp_path / "data", root=tmp_path / "cache")


@pytest.mark.parametrize(
    "harm",
    [lambda f: f.write_bytes(f.read_bytes()[:-2]), lambda f: f.with_suffix(".json").write_text("{"), os.unlink],
    ids=["cut", "half-a-note", "gone"],
)
def test_a_damaged_cache_file_is_made_again(tmp_path, harm):
    write(tmp_path / "data", "r", beats())
    first = wfdb_folder(tmp_path / "data", root=tmp_path / "cache").signals.clone()
    [stored] = (tmp_path / "cache").rglob("*.f16")
    harm(stored)
    assert torch.equal(wfdb_folder(tmp_path / "data", root=tmp_path / "cache").signals, first)


def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(tmp_path, monkeypatch):
    for k in range(3):
        write(tmp_path / "data", f"r{k}", beats(seed=k))
    read = wfdb.read_with_comments

    def dies(path, *args):
        if path.name == "r2":
            raise KeyboardInterrupt
        return read(path, *args)

    monkeypatch.setattr(wfdb, "read_with_comments", dies)
    with pytest.raises(KeyboardInterrupt):
        wfdb_folder(tmp_path / "data", root=tmp_path / "cache")
    cache = tmp_path / "cache" / "ecg"
    assert list(cache.iterdir()) == []
    (cache / ".records.f16.7.tmp").write_bytes(b"of a run that was killed")
    os.utime(cache / ".records.f16.7.tmp", (0, 0))
    monkeypatch.setattr(wfdb, "read_with_comments", read)
    assert len(wfdb_folder(tmp_path / "data", root=tmp_path / "cache")) == 3 and len(list(cache.iterdir())) == 2


def test_nobody_can_write_the_cache_through_the_tensor(tmp_path):
    write(tmp_path / "data", "r", beats())
    wfdb_folder(tmp_path / "data", root=tmp_path / "cache").signals.zero_()
    assert close(wfdb_folder(tmp_path / "data", root=tmp_path / "cache").signals[0].float(), beats())


MEMORY = """
import resource, sys
import torch
from pathlib import Path
from jepa_lab.data.ecg import wfdb
from jepa_lab.data.ecg.piles import pile
wfdb.read_with_comments = lambda path, rate, seconds: (torch.randn(12, 5000), ())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = pile(Path(sys.argv[1]), [f"r{k}" for k in range(400)], 500, 10, Path(sys.argv[1]) / "cache")
built = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(found.signals.nbytes, (built - before) * 1024)
"""


def test_building_needs_the_memory_of_one_record_not_of_all(tmp_path, repo):
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, cwd=repo, check=True
    )
    size, grown = map(int, done.stdout.split())
    assert size == 48_000_000 and grown < 15_000_000
