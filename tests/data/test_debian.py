"""Debian's package serves a set without root; fake apt-get and dpkg-deb stand in for the real ones."""

import os

import pytest
from serving import COMPLETE, NOISE, PACKED, entry, left, make_tar, toy

from jepa_lab.data.sources import fetch
from jepa_lab.data.sources.archives import DataError

pytest_plugins = ("served",)

APT = """#!/bin/sh
for word in "$@"; do case "$word" in Dir::State::Lists=*) lists="${word#*=}";; update) update=1;; esac; done
if [ "$update" ]; then touch "$lists/fresh"; exit 0; fi
if [ "$FAKE_LISTS" = missing ] && [ ! -e "$lists/fresh" ]; then
    echo "E: Unable to locate package toy-package" >&2
    exit 100
fi
[ "$FAKE_LISTS" = never ] && { echo "W: something"; echo "E: Failed to fetch" >&2; exit 100; }
cp "$FAKE_DEB" toy-package_1.0_all.deb
"""
DPKG = """#!/bin/sh
[ "$1" = --fsys-tarfile ] && cat "$2"
"""


@pytest.fixture
def debian(tmp_path, monkeypatch):
    """Fake apt-get and dpkg-deb whose package is the tar that `build` writes."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("apt-get", APT), ("dpkg-deb", DPKG)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_DEB", str(tmp_path / "deb.tar"))
    monkeypatch.setitem(fetch.DATASETS, "toy", toy(fetch.Source("debian", "toy-package", "usr/share/{name}.gz")))

    def build(*members):
        make_tar(tmp_path / "deb.tar", *((entry(name, content), content) for name, content in members))

    build(("./usr/share/doc/readme", b"hello"), ("./usr/share/toy-file.gz", PACKED))
    return build


@pytest.mark.parametrize("lists", ["there", "missing"])
def test_debian_package_serves_the_set_without_root(debian, tmp_path, monkeypatch, lists):
    monkeypatch.setenv("FAKE_LISTS", lists)
    folder = fetch.fetch("toy", root=tmp_path)
    assert (folder / "toy-file").read_bytes() == NOISE and left(tmp_path) == COMPLETE
    assert fetch.origin(folder)["source"] == "Debian package toy-package"


def test_debian_troubles_are_named_and_leave_nothing(debian, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_LISTS", "never")
    with pytest.raises(DataError, match="could not download it .E: Failed to fetch"):
        fetch.fetch("toy", root=tmp_path)
    monkeypatch.setenv("FAKE_LISTS", "there")
    for member, says in (
        (("usr/share/other", b"x"), "does not hold usr/share/toy-file.gz"),
        (("../../evil", b"x"), "leave the target folder"),
        (("usr/share/toy-file.gz", PACKED[:-50]), "truncated"),
    ):
        debian(member)
        with pytest.raises(DataError, match=says):
            fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == []


def test_debian_tool_that_prints_other_bytes_or_does_not_start_is_named(debian, tmp_path, monkeypatch):
    (tmp_path / "bin" / "apt-get").write_bytes(b"#!/bin/sh\necho 'E: \xff\xfe' >&2; exit 100\n")
    with pytest.raises(DataError, match="could not download it .E: "):
        fetch.fetch("toy", root=tmp_path)
    (tmp_path / "bin" / "apt-get").write_bytes(b"#!/nowhere/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(DataError, match="apt-get cannot be started"):
        fetch.fetch("toy", root=tmp_path)


def test_machine_without_apt_is_named_as_such(debian, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataError, match="has no apt-get"):
        fetch.fetch("toy", root=tmp_path)
