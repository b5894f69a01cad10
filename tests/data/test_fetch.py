"""Whatever the network, the disk or an archive does: the right bytes arrive, or one clear error and nothing
half-written.
"""

import errno
import gzip
import hashlib
import io
import os
import pickle
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from jepa_lab.data import images
from jepa_lab.data.sources import archives, download, fetch, listed
from jepa_lab.data.sources.archives import DataError, unpack

NOISE = hashlib.shake_256(b"content").digest(400_000)
PACKED = gzip.compress(NOISE, mtime=0)
TOY = fetch.File("toy-file", hashlib.sha256(NOISE).hexdigest(), len(NOISE))


class Handler(BaseHTTPRequestHandler):
    """Serves `script.body`; `script.plan` holds one behaviour per request, the last one stays."""

    def do_GET(self):
        script = self.server.script
        plan = script.plan.pop(0) if len(script.plan) > 1 else script.plan[0]
        asked = self.headers.get("Range")
        script.requests.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and plan != "no-range" else 0
        if plan == "missing":
            return self.send_error(404)
        if plan == "silent":
            return time.sleep(2)
        if start and start >= len(script.body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range",
                f"bytes {0 if plan == 'wrong-range' else start}-{len(script.body) - 1}/{len(script.body)}",
            )
        if plan != "endless":
            self.send_header("Content-Length", str(len(script.body) - start))
        self.end_headers()
        self.send_body(script.body[start:], plan)

    def send_body(self, body, plan):
        try:
            if plan == "slow":
                for first in range(0, len(body), 20_000):
                    self.wfile.write(body[first : first + 20_000])
                    time.sleep(0.1)
            elif plan == "endless":
                while True:
                    self.wfile.write(body)
            elif plan == "stall":
                self.wfile.write(body[:100_000])
                time.sleep(1)
            else:
                self.wfile.write(body[:plan] if isinstance(plan, int) else body)
        except OSError:
            pass  # the client left

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.script = SimpleNamespace(
        body=PACKED, plan=["whole"], requests=[], url=f"http://127.0.0.1:{httpd.server_port}"
    )
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield httpd.script
    httpd.shutdown()
    httpd.server_close()


def toy(*sources, fallback=None):
    return fetch.DataSet("toy", "a toy", "generated", "MIT", 0.4, (TOY,), sources, fallback)


def web(url):
    return fetch.Source("http", url, "{name}.gz")


@pytest.fixture
def known(server, monkeypatch):
    """The toy set, with the local server as its one source."""
    monkeypatch.setitem(fetch.DATASETS, "toy", toy(web(server.url)))


def left(root):
    return sorted(path.name for path in (root / "toy").iterdir())


COMPLETE = ["SOURCE.json", "toy-file"]


# downloads


def test_fetched_set_is_whole_and_not_fetched_again(server, known, tmp_path):
    folder = fetch.fetch("toy", root=tmp_path)
    assert (folder / "toy-file").read_bytes() == NOISE and left(tmp_path) == COMPLETE
    assert (
        fetch.fetch("toy", root=tmp_path)
        == folder
        == fetch.verify("toy", root=tmp_path)
        == fetch.locate("toy", root=tmp_path)
    )
    assert server.requests == [None]
    assert fetch.origin(folder)["source"] == server.url and not fetch.origin(folder)["fallback"]
    assert stat.S_IMODE((folder / "toy-file").stat().st_mode) == 0o644


def test_broken_connection_is_resumed_where_it_broke(server, known, tmp_path):
    server.plan = [100_000, 50_000, 50_000, 50_000, 50_000, "whole"]  # as often as it takes, while something new comes
    fetch.fetch("toy", root=tmp_path)
    starts = [f"bytes={start}-" for start in range(100_000, 300_001, 50_000)]
    assert server.requests == [None, *starts] and left(tmp_path) == COMPLETE


def test_next_run_goes_on_from_a_broken_download(server, known, tmp_path):
    server.plan = [100_000, 0]
    with pytest.raises(DataError, match="broke off at 100000 of"):
        fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == ["toy-file.gz.part"]
    server.plan, server.requests[:] = ["whole"], []
    fetch.fetch("toy", root=tmp_path)
    assert server.requests == ["bytes=100000-"] and left(tmp_path) == COMPLETE


def test_killed_download_is_resumed(server, tmp_path):
    server.plan = ["slow"]
    child = subprocess.Popen(worker(server, tmp_path), stderr=subprocess.DEVNULL)
    part = tmp_path / "toy" / "toy-file.gz.part"
    deadline = time.time() + 15
    while time.time() < deadline and not (part.exists() and part.stat().st_size > 60_000):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    server.plan, server.requests[:] = ["whole"], []
    fetch_here(server, tmp_path)
    assert len(server.requests) == 1 and int(server.requests[0][6:-1]) > 60_000
    assert (tmp_path / "toy" / "toy-file").read_bytes() == NOISE and left(tmp_path) == COMPLETE


def test_server_that_ignores_ranges_starts_over(server, known, tmp_path):
    server.plan = [100_000, "no-range"]
    fetch.fetch("toy", root=tmp_path)
    assert server.requests == [None, "bytes=100000-"] and left(tmp_path) == COMPLETE


def test_stalled_download_is_resumed(server, known, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "READ_S", 0.2)
    server.plan = ["stall", "whole"]
    fetch.fetch("toy", root=tmp_path)
    assert server.requests == [None, "bytes=100000-"] and left(tmp_path) == COMPLETE


def test_server_that_sends_another_range_is_left_behind(server, known, tmp_path):
    server.plan = [100_000, "wrong-range"]
    with pytest.raises(DataError, match="answered a range with 'bytes 0-"):
        fetch.fetch("toy", root=tmp_path)


@pytest.mark.parametrize(
    "old", [b"part of an older file", PACKED, PACKED + b"more"], ids=["stale", "complete", "longer"]
)
def test_unusable_leftover_is_replaced(server, known, tmp_path, old):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy-file.gz.part").write_bytes(old)
    fetch.fetch("toy", root=tmp_path)
    assert (tmp_path / "toy" / "toy-file").read_bytes() == NOISE and left(tmp_path) == COMPLETE


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (gzip.compress(NOISE[:-1] + bytes([NOISE[-1] ^ 1])), "sha256"),
        (gzip.compress(NOISE[:-9]), "truncated: 399991 bytes of 400000"),
        (gzip.compress(NOISE + b"x"), "more than the 400000 bytes"),
        (PACKED[:-100], "truncated or not a gzip"),
        (b"<html>please log in</html>", "not a gzip"),
        (b"", "truncated"),
        (bytes(600_000), "more than the 465536 bytes"),
    ],
    ids=["wrong-hash", "short", "long", "cut-archive", "portal-page", "empty", "huge"],
)
def test_wrong_content_is_refused_and_leaves_nothing(server, known, tmp_path, body, says):
    server.body, server.plan = body, ["no-range"]
    with pytest.raises(DataError, match=says) as error:
        fetch.fetch("toy", root=tmp_path)
    assert server.url in str(error.value) and "data fetch toy" in str(error.value)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("plan", "says"), [("missing", "404"), ("endless", "more than the"), ("silent", "no connection to .* within 0.3 s")]
)
def test_server_that_misbehaves_is_left_behind(server, known, tmp_path, monkeypatch, plan, says):
    monkeypatch.setattr(download, "CONNECT_S", 0.3)
    server.plan, started = [plan], time.time()
    with pytest.raises(DataError, match=says):
        fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == [] and time.time() - started < 3


def test_closed_network_falls_through_to_the_next_source(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(fetch.DATASETS, "toy", toy(web("http://127.0.0.1:9"), web(server.url)))
    folder = fetch.fetch("toy", root=tmp_path)
    said = capsys.readouterr().err
    assert "no connection to http://127.0.0.1:9" in said and f"trying {server.url}" in said
    assert fetch.origin(folder)["source"] == server.url


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


def test_bar_is_drawn_on_a_terminal_only(server, known, tmp_path, monkeypatch, capsys):
    fetch.fetch("toy", root=tmp_path / "pipe")
    assert "\r" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fetch.fetch("toy", root=tmp_path / "terminal")
    assert "100 % 0.4 MB" in capsys.readouterr().err
    fetch.fetch("toy", root=tmp_path / "quiet", progress=False)
    assert "\r" not in capsys.readouterr().err


# several processes

WORKER = """
import sys
from jepa_lab.data import fetch
url, root, sha256, size = sys.argv[1:]
file = fetch.File("toy-file", sha256, int(size))
source = fetch.Source("http", url, "{name}.gz")
fetch.DATASETS["toy"] = fetch.DataSet("toy", "a toy", "generated", "MIT", 0.4, (file,), (source,))
fetch.fetch("toy", root=root)
"""


def worker(server, root):
    return [sys.executable, "-c", WORKER, server.url, str(root), TOY.sha256, str(TOY.size)]


def fetch_here(server, root):
    subprocess.run(worker(server, root), check=True, stderr=subprocess.DEVNULL, timeout=60)


def test_processes_that_fetch_at_once_all_succeed(server, tmp_path):
    server.plan = ["slow"]
    children = [subprocess.Popen(worker(server, tmp_path), stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for child in children:
        assert child.wait(timeout=60) == 0, child.stderr.read()
        child.stderr.close()
    assert (tmp_path / "toy" / "toy-file").read_bytes() == NOISE and left(tmp_path) == COMPLETE


def test_threads_that_fetch_at_once_all_succeed(server, known, tmp_path):
    faults = []

    def run():
        try:
            fetch.fetch("toy", root=tmp_path)
        except BaseException as error:  # noqa: BLE001
            faults.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == [] and (tmp_path / "toy" / "toy-file").read_bytes() == NOISE and left(tmp_path) == COMPLETE


def test_old_leftovers_are_swept_and_young_ones_left_alone(server, known, tmp_path):
    folder = tmp_path / "toy"
    (folder / ".tmp-old-folder").mkdir(parents=True)
    for name in (".tmp-old", ".tmp-young", "other.part"):
        (folder / name).write_bytes(b"x")
    for name in (".tmp-old-folder", ".tmp-old", "other.part"):
        os.utime(folder / name, (0, 0))
    fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == [".tmp-young", *COMPLETE]


# the disk


@pytest.mark.parametrize(
    ("code", "says"), [(errno.ENOSPC, "is full"), (errno.EDQUOT, "is full"), (errno.EROFS, "cannot write")]
)
@pytest.mark.parametrize("module", [download, archives], ids=["downloading", "unpacking"])
def test_full_or_read_only_disk_ends_the_fetch_and_leaves_nothing(
    server, known, tmp_path, monkeypatch, code, says, module
):
    class Full(io.BufferedWriter):
        def write(self, data):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(
        module, "os", SimpleNamespace(**{**vars(os), "fdopen": lambda handle, mode: Full(io.FileIO(handle, mode))})
    )
    with pytest.raises(DataError, match=f"{says}.*JEPA_LAB_DATA"):
        fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == []


def test_cache_that_cannot_be_a_folder_is_one_clear_error(known, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="cannot write to .*JEPA_LAB_DATA"):
        fetch.fetch("toy", root=tmp_path / "file")


def test_folder_without_write_permission_is_one_clear_error(server, known, tmp_path, monkeypatch):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy").chmod(0o555)
    if os.access(tmp_path / "toy", os.W_OK):  # root may write anywhere: let the system say what it says to others

        def denied(*args, **kwargs):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(download, "os", SimpleNamespace(**{**vars(os), "open": denied}))
    with pytest.raises(DataError, match="cannot write to .*Permission denied"):
        fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == [] and server.requests == []


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
    said = capsys.readouterr().err
    assert (
        loaded.name == "digits (scikit-learn), fallback [test]"
        and loaded.classes[3] == "3"
        and loaded.images.shape[1:] == (28, 28)
    )
    assert "WARNING" in said and "404" in said and "digits (scikit-learn)" in said
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


# Debian's package

APT = """#!/bin/sh
for word in "$@"; do case "$word" in Dir::State::Lists=*) lists="${word#*=}";; update) update=1;; esac; done
if [ "$update" ]; then touch "$lists/fresh"; exit 0; fi
if [ "$FAKE_LISTS" = missing ] && [ ! -e "$lists/fresh" ]; then echo "E: Unable to locate package toy-package" >&2; exit 100; fi
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
        with tarfile.open(tmp_path / "deb.tar", "w") as bag:
            for name, content in members:
                bag.addfile(entry(name, content), io.BytesIO(content))

    build(("./usr/share/doc/readme", b"hello"), ("./usr/share/toy-file.gz", PACKED))
    return build


def entry(name, content=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info


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


def test_machine_without_apt_is_told_so(debian, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataError, match="has no apt-get"):
        fetch.fetch("toy", root=tmp_path)


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


@pytest.mark.parametrize("line", ["../evil", "/etc/passwd", "C:/x", "a/../../x", ""])
def test_list_of_sums_that_names_other_places_is_refused(tmp_path, line):
    (tmp_path / "sums").write_text(f"{'0' * 64} fine.dat\n{'0' * 64} {line}\n")
    with pytest.raises(DataError, match="is damaged: it holds the line"):
        listed.listed(tmp_path / "sums")


def test_large_sets_come_by_name_only():
    assert "ptb-xl" in fetch.DATASETS and "ptb-xl" not in fetch.everyday() and "fashion-mnist" in fetch.everyday()


# archives


def make_tar(path, *entries, mode="w"):
    with tarfile.open(path, mode) as bag:
        for info, content in entries:
            bag.addfile(info, io.BytesIO(content))
    return path


def make_zip(path, *members):
    with zipfile.ZipFile(path, "w") as bag:
        for name, content in members:
            bag.writestr(name, content)
    return path


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


# the list of sets


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
