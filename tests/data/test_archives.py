"""Archives are unpacked inside their folder and nowhere else, and checked against their list of sums."""

import errno
import hashlib
import os
import pickle
import tarfile

import pytest
from serving import NOISE, entry, left, make_tar, make_zip

from jepa_lab.data.sources import archives, fetch, listed
from jepa_lab.data.sources.archives import DataError, unpack

pytest_plugins = ("served",)

# many files in one archive, with a list of sums

RECORDS = {f"records/{k:03d}.dat": NOISE[k : k + 500] for k in range(5)}


@pytest.fixture
def bag(server, monkeypatch, tmp_path_factory):
    """`bag(...)` puts an archive on the server as PhysioNet makes them: one top folder, a list of sums; its files can
    be changed.
    """
    sums = "".join(
        f"{hashlib.sha256(data).hexdigest()} {name}\n" for name, data in {**RECORDS, "table.csv": b"1,2"}.items()
    ).encode()

    def serve(changes=(), top="toy-1.0/"):
        files = {"SUMS.txt": sums, "table.csv": b"1,2", "extra.py": b"unlisted", **RECORDS} | dict(changes)
        archive = make_zip(
            tmp_path_factory.mktemp("zip") / "a",
            *((top + name, data) for name, data in files.items() if data is not None),
        )
        server.body = archive.read_bytes()

    known = tuple(
        fetch.File(name, hashlib.sha256(data).hexdigest(), len(data))
        for name, data in (("table.csv", b"1,2"), ("SUMS.txt", sums))
    )
    sources = (fetch.Source("zip", f"{server.url}/get/1.0/"),)
    monkeypatch.setitem(
        fetch.DATASETS, "toy", fetch.DataSet("toy", "a toy", "real", "MIT", 900, known, sources, sums="SUMS.txt")
    )
    serve()
    return serve


WHOLE_BAG = sorted(["SOURCE.json", "SUMS.txt", "records", "table.csv"])


def test_archive_with_a_list_of_sums_comes_whole_and_once(server, bag, tmp_path):
    folder = fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == WHOLE_BAG and (folder / "records/003.dat").read_bytes() == RECORDS["records/003.dat"]
    assert (
        fetch.fetch("toy", root=tmp_path) == folder == fetch.verify("toy", root=tmp_path) and len(server.requests) == 1
    )
    assert (
        fetch.describe(tmp_path)[-1]["cached"] == "yes" and fetch.origin(folder)["source"] == f"{server.url}/get/1.0/"
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"records/002.dat": b"another"},
            "1 files in the archive .* are missing or wrong, the first is records/002.dat",
        ),
        ({"records/002.dat": None}, "missing or wrong, the first is records/002.dat"),
        ({"table.csv": b"3,4"}, "first is table.csv"),
        ({"SUMS.txt": b"0" * 64 + b" ../../evil\n"}, "first is SUMS.txt"),
        ({"SUMS.txt": None}, "holds no SUMS.txt"),
        ({"../evil": b"x"}, "would leave the target folder"),
    ],
    ids=["changed", "missing", "changed-table", "another-list", "no-list", "traversal"],
)
def test_archive_that_differs_from_its_list_leaves_nothing(bag, tmp_path, changes, says):
    bag(changes)
    with pytest.raises(DataError, match=says):
        fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == []


def test_lost_record_is_noticed_fetched_again_and_a_changed_one_named(server, bag, tmp_path):
    folder = fetch.fetch("toy", root=tmp_path)
    (folder / "records/001.dat").unlink()
    assert fetch.describe(tmp_path)[-1]["cached"] == "no"
    fetch.fetch("toy", root=tmp_path)
    assert len(server.requests) == 2 and fetch.verify("toy", root=tmp_path) == folder
    (folder / "records/004.dat").write_bytes(b"changed")
    with pytest.raises(DataError, match="1 files are missing or wrong, the first is records/004.dat"):
        fetch.verify("toy", root=tmp_path)


@pytest.mark.parametrize("line", ["../evil", "/etc/passwd", "C:/x", "a/../../x", "", ".", "./", "a\\b", "a\0b"])
def test_list_of_sums_that_names_other_places_is_refused(tmp_path, line):
    (tmp_path / "sums").write_text(f"{'0' * 64} fine.dat\n{'0' * 64} {line}\n")
    with pytest.raises(DataError, match="is damaged: it holds the line"):
        listed.listed(tmp_path / "sums")


# unpacking


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "zip"])
def test_honest_archives_are_unpacked(tmp_path, mode):
    if mode == "zip":
        archive = make_zip(tmp_path / "a.bin", ("one.txt", b"1"), ("deep/er/two.txt", b"2"))
    else:
        archive = make_tar(
            tmp_path / "a.bin", (entry("one.txt", b"1"), b"1"), (entry("./deep/er/two.txt", b"2"), b"2"), mode=mode
        )
    found = unpack(archive, tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in found] == ["deep/er/two.txt", "one.txt"]
    assert [path.read_bytes() for path in found] == [b"2", b"1"]


INNER = (("inner.txt", b"x"),)


def test_format_is_told_by_the_first_bytes_not_by_the_last_file(tmp_path):
    inner = make_zip(tmp_path / "inner.zip", *INNER).read_bytes()
    for last in (inner, b"PK\x05\x06" + bytes(18)):
        tar = make_tar(tmp_path / "a.tar", (entry("train.csv", b"1"), b"1"), (entry("last", last), last))
        found = unpack(tar, tmp_path / f"out-{len(last)}")
        assert [path.name for path in found] == ["last", "train.csv"] and found[0].read_bytes() == last
    (tmp_path / "self-extracting").write_bytes(b"#!/bin/sh\nexit\n" + inner)
    assert [path.name for path in unpack(tmp_path / "self-extracting", tmp_path / "out")] == ["inner.txt"]
    assert unpack(make_zip(tmp_path / "empty.zip"), tmp_path / "nothing") == []


def test_zip_cut_off_after_a_zip_inside_it_is_not_taken_for_that_zip(tmp_path):
    inner = make_zip(tmp_path / "inner.zip", *INNER).read_bytes()
    whole = make_zip(tmp_path / "a.zip", ("train.csv", b"1"), ("extra.zip", inner)).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: whole.index(inner) + len(inner)])
    with pytest.raises(DataError, match="cut.zip is truncated"):
        unpack(tmp_path / "cut.zip", tmp_path / "out")


def test_tar_without_its_end_or_with_a_damaged_member_is_refused_not_shortened(tmp_path):
    members = [(entry(name, b"1"), b"1") for name in "abc"]
    whole = make_tar(tmp_path / "a.tar", *members).read_bytes()  # blocks of 512: a header and a content for each
    for damaged in (whole[: 4 * 512], whole[: 4 * 512 + 100], whole[: 4 * 512] + b"?" + whole[4 * 512 + 1 :]):
        (tmp_path / "damaged.tar").write_bytes(damaged)
        with pytest.raises(DataError, match="damaged.tar is truncated, locked or not an archive .*at byte 2048"):
            unpack(tmp_path / "damaged.tar", tmp_path / "out")


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000 + "b"])
def test_name_that_the_disk_refuses_is_the_archives_fault(tmp_path, name):
    archive = make_tar(tmp_path / "a.tar", (entry(name, b"1"), b"1"))
    with pytest.raises(DataError, match="a.tar is truncated, locked or not an archive"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_full_disk_is_not_called_a_broken_archive(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "a.zip", *INNER)

    def full(path, *how, **kinds):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archives, "_inside", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "C:evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name, kind):
    if kind == "tar":
        archive = make_tar(tmp_path / "a", (entry("good", b"1"), b"1"), (entry(name, b"1"), b"1"))
    else:
        archive = make_zip(tmp_path / "a", ("good", b"1"), (name, b"1"))
    with pytest.raises(DataError, match="leave the target folder"):
        unpack(archive, tmp_path / "in" / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "in"]


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "outside").mkdir()
    archive = make_tar(
        tmp_path / "a",
        (entry("door", kind=tarfile.SYMTYPE, link="../outside"), b""),
        (entry("door/evil", b"1"), b"1"),
        (entry("hard", kind=tarfile.LNKTYPE, link="/etc/passwd"), b""),
    )
    assert [path.name for path in unpack(archive, tmp_path / "out")] == ["evil"]
    assert list((tmp_path / "outside").iterdir()) == [] and not (tmp_path / "out" / "hard").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("weights.pkl", b"anything"),
        ("batch.PT", b"anything"),
        ("data_batch_1", pickle.dumps({"a": 1}, protocol=2)),
        ("data", pickle.dumps([1], protocol=5)),
    ],
)
def test_pickles_are_refused(tmp_path, name, content):
    with pytest.raises(DataError, match="pickle"):
        unpack(make_zip(tmp_path / "a", (name, content)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bombs_devices_and_broken_archives_are_refused(tmp_path):
    whole = make_zip(tmp_path / "zip", ("zeros", bytes(100_000))).read_bytes()
    tar = make_tar(tmp_path / "tar", (entry("noise", NOISE), NOISE), mode="w:gz").read_bytes()
    clash = make_tar(tmp_path / "clash", (entry("a", b"1"), b"1"), (entry("a/b", b"1"), b"1")).read_bytes()
    device = make_tar(tmp_path / "device", (entry("null", kind=tarfile.CHRTYPE), b"")).read_bytes()
    for data, says in (
        (whole, "unpacks to more than 5000"),
        (tar, "unpacks to more than 5000"),
        (tar[:3000], "truncated"),
        (clash, "clash|not an archive"),
        (device, "device file"),
        (b"", "not an archive"),
        (b"<html>", "not an archive"),
        (whole[:-30], "not an archive"),
    ):
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(DataError, match=says):
            unpack(tmp_path / "bad", tmp_path / "out", max_bytes=5000)
        assert not (tmp_path / "out").exists()
