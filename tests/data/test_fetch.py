"""The cache: checked, repaired, swept, clear about a disk that refuses, and about what stands in for a set."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest
from serving import COMPLETE, NOISE, left, toy, web

from jepa_lab import files
from jepa_lab.data import images
from jepa_lab.data.sources import fetch
from jepa_lab.data.sources.archives import DataError

pytest_plugins = ("served",)


def test_damaged_cache_is_noticed_and_repaired(server, known, tmp_path, capsys):
    path = fetch.fetch("toy", root=tmp_path) / "toy-file"
    path.write_bytes(NOISE[:-1] + b"?")
    with pytest.raises(DataError, match="toy-file: wrong sha256"):
        fetch.verify("toy", root=tmp_path)
    fetch.fetch("toy", root=tmp_path)
    assert path.read_bytes() == NOISE and "damaged" in capsys.readouterr().err
    path.unlink()
    with pytest.raises(DataError, match="toy-file: missing.*data fetch toy"):
        fetch.verify("toy", root=tmp_path)


def test_old_leftovers_are_swept_and_young_ones_left_alone(server, known, tmp_path):
    folder = tmp_path / "toy"
    (folder / ".tmp-old-folder").mkdir(parents=True)
    for name in (".tmp-old", ".tmp-young", ".toy-file.7.tmp", ".part-other"):
        (folder / name).write_bytes(b"x")
    for name in (".tmp-old-folder", ".tmp-old", ".toy-file.7.tmp", ".part-other"):
        os.utime(folder / name, (0, 0))
    fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == [".tmp-young", *COMPLETE]


# the disk


class Full(io.BufferedWriter):
    """A file on a disk that refuses to write."""

    def __init__(self, path, code):
        super().__init__(io.FileIO(path, "w"))
        self.code = code

    def write(self, data):
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize(
    ("code", "says"), [(errno.ENOSPC, "is full"), (errno.EDQUOT, "is full"), (errno.EROFS, "cannot read and write")]
)
@pytest.mark.parametrize("stage", ["downloading", "unpacking"])
def test_full_or_read_only_disk_ends_the_fetch_and_leaves_nothing(
    server, known, tmp_path, monkeypatch, code, says, stage
):
    plain = Path.open
    if stage == "downloading":
        monkeypatch.setattr(
            Path, "open", lambda path, mode="r", **how: Full(path, code) if mode == "ab" else plain(path, mode, **how)
        )
    else:
        monkeypatch.setattr(files, "open", lambda path, mode: Full(path, code), raising=False)
    with pytest.raises(DataError, match=f"{says}.*JEPA_LAB_DATA"):
        fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == [] and len(server.requests) == 1


def test_cache_that_cannot_be_a_folder_is_one_clear_error(known, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="cannot read and write in .*JEPA_LAB_DATA"):
        fetch.fetch("toy", root=tmp_path / "file")


def test_folder_without_write_permission_is_one_clear_error(server, known, tmp_path, monkeypatch):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy").chmod(0o555)
    if os.access(tmp_path / "toy", os.W_OK):  # root may write anywhere: let the system say what it says to others

        def denied(path, mode="r", **how):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError, match="cannot read and write in .*Permission denied"):
        fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == [] and server.requests == []


@pytest.mark.parametrize("trouble", [OSError(errno.EIO, "Input/output error"), NotImplementedError("no flock")])
def test_every_trouble_of_the_disk_is_one_clear_error(known, tmp_path, monkeypatch, trouble):
    def troubled(folder):
        raise trouble

    monkeypatch.setattr(fetch, "alone", troubled)
    with pytest.raises(DataError, match="cannot read and write in .*(output error|no flock).*JEPA_LAB_DATA"):
        fetch.fetch("toy", root=tmp_path)


def test_folder_in_the_place_of_a_file_is_one_clear_error(server, known, tmp_path):
    (tmp_path / "toy" / "toy-file").mkdir(parents=True)
    with pytest.raises(DataError, match="cannot read and write in .*Is a directory"):
        fetch.fetch("toy", root=tmp_path)


@pytest.mark.parametrize("note", ["", "[" * 100_000, "7", '{"name": ', "\udcff"])
def test_damaged_note_is_no_note(tmp_path, note):
    (tmp_path / "SOURCE.json").write_text(note, encoding="utf-8", errors="surrogateescape")
    assert fetch.origin(tmp_path) == {}


def test_complete_set_in_a_folder_of_others_is_read_without_writing(server, known, tmp_path, monkeypatch):
    folder = fetch.fetch("toy", root=tmp_path)
    monkeypatch.setattr(files, "open", None, raising=False)
    monkeypatch.setattr(fetch, "alone", None)
    assert fetch.fetch("toy", root=tmp_path) == folder


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"JEPA_LAB_DATA": "/here"}, "/here"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/jepa_lab"),
        ("linux", {}, "/home/me/.cache/jepa_lab"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "/home/me/Library/Caches/jepa_lab"),
        ("darwin", {"JEPA_LAB_DATA": "~/mine"}, "/home/me/mine"),
    ],
)
def test_cache_is_where_the_platform_keeps_caches(monkeypatch, platform, environment, expected):
    for name in ("JEPA_LAB_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert fetch.cache_root() == Path(expected) and fetch.cache_root("/given") == Path("/given")


# fall-back


@pytest.fixture
def unreachable(monkeypatch, server):
    """Fashion-MNIST with a server that has nothing as its only source."""
    server.plan = ["missing"]
    real = fetch.DATASETS["fashion-mnist"]
    spec = fetch.DataSet(
        real.name, real.title, real.kind, real.licence, 1.0, real.files, (web(server.url),), real.fallback
    )
    monkeypatch.setitem(fetch.DATASETS, real.name, spec)


def test_stand_in_is_announced_and_carries_its_own_name(server, unreachable, tmp_path, capsys):
    loaded = images.fashion_mnist("test", root=tmp_path)
    printed = capsys.readouterr().err
    assert (
        loaded.name == "digits (scikit-learn), fallback [test]"
        and loaded.classes[3] == "3"
        and loaded.images.shape[1:] == (28, 28)
    )
    assert "WARNING" in printed and "404" in printed and "digits (scikit-learn)" in printed
    assert fetch.describe(tmp_path)[0]["cached"] == "digits (scikit-learn), fallback"
    with pytest.raises(DataError, match="stands in for it"):
        fetch.verify("fashion-mnist", root=tmp_path)


def test_loaders_repeat_the_warning_without_waiting_for_the_network_again(server, unreachable, tmp_path, capsys):
    images.fashion_mnist("train", root=tmp_path)
    capsys.readouterr()
    asked = len(server.requests)
    assert "fallback" in images.fashion_mnist("train", root=tmp_path).name
    assert len(server.requests) == asked and "WARNING" in capsys.readouterr().err
    fetch.fetch("fashion-mnist", root=tmp_path)
    assert len(server.requests) == asked + 1


def test_fallback_can_be_forbidden(unreachable, tmp_path):
    with pytest.raises(DataError, match="could not get fashion-mnist"):
        fetch.fetch("fashion-mnist", root=tmp_path, fallback=False)


def test_set_copied_by_hand_ends_the_fallback(server, tmp_path, monkeypatch):
    server.plan = ["missing"]
    monkeypatch.setitem(fetch.DATASETS, "toy", toy(web(server.url), fallback="a stand-in"))
    folder = fetch.fetch("toy", root=tmp_path)
    assert fetch.origin(folder)["name"] == "a stand-in"
    (folder / "toy-file").write_bytes(NOISE)
    fetch.locate("toy", root=tmp_path)
    assert fetch.origin(folder)["name"] == "toy" and not fetch.origin(folder)["fallback"]


def test_large_sets_come_by_name_only():
    assert "ptb-xl" in fetch.DATASETS and "ptb-xl" not in fetch.everyday() and "fashion-mnist" in fetch.everyday()


def test_every_set_is_described_and_fully_hashed(tmp_path):
    rows = {row["name"]: row for row in fetch.describe(tmp_path)}
    assert rows.keys() == fetch.DATASETS.keys()
    row = rows["fashion-mnist"]
    assert row["cached"] == "no" and row["licence"] == "MIT" and row["download"] == "30.9 MB"
    assert row["sources"].index("amazonaws") < row["sources"].index("Debian package") < row["sources"].index("digits")
    assert rows["ptb-xl"]["licence"] == "CC BY 4.0" and rows["ptb-xl"]["sources"].startswith("https://physionet.org/")
    for spec in fetch.DATASETS.values():
        assert spec.sums is None or spec.sums in {file.name for file in spec.files}
        assert spec.kind in ("real", "generated", "simulated") and spec.name in fetch.DATASETS
        assert all(len(bytes.fromhex(file.sha256)) == 32 and file.size > 0 for file in spec.files)


def test_unknown_set_is_refused_with_the_known_ones(tmp_path):
    for act in (fetch.fetch, fetch.verify, fetch.locate):
        with pytest.raises(DataError, match="'mnist'; known: fashion-mnist"):
            act("mnist", root=tmp_path)
