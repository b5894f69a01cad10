"""Whatever the network or the server does: the right bytes arrive, or one clear error and nothing half-written."""

import gzip
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest
from serving import COMPLETE, NOISE, PACKED, TOY, left, toy, web

from jepa_lab.data.sources import download, fetch
from jepa_lab.data.sources.archives import DataError

pytest_plugins = ("served",)


def test_fetched_set_is_whole_and_not_fetched_again(server, known, tmp_path):
    folder = fetch.fetch("toy", root=tmp_path)
    assert (folder / "toy-file").read_bytes() == NOISE and left(tmp_path) == COMPLETE
    for again in (fetch.fetch, fetch.verify, fetch.locate):
        assert again("toy", root=tmp_path) == folder
    assert server.requests == [None]
    assert fetch.origin(folder)["source"] == server.url and not fetch.origin(folder)["fallback"]
    assert stat.S_IMODE((folder / "toy-file").stat().st_mode) == 0o644


def test_broken_connection_is_resumed_where_it_broke(server, known, tmp_path):
    server.plan = [100_000, 50_000, 50_000, 50_000, 50_000, "whole"]  # as often as it takes, while something new comes
    fetch.fetch("toy", root=tmp_path)
    starts = [f"bytes={start}-" for start in range(100_000, 300_001, 50_000)]
    assert server.requests == [None, *starts] and left(tmp_path) == COMPLETE


def test_next_run_continues_a_broken_download(server, known, tmp_path):
    server.plan = [100_000, 0]
    with pytest.raises(DataError, match="broke off at 100000 of"):
        fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == [".part-toy-file.gz"]
    server.plan, server.requests[:] = ["whole"], []
    fetch.fetch("toy", root=tmp_path)
    assert server.requests == ["bytes=100000-"] and left(tmp_path) == COMPLETE


def test_server_that_ignores_ranges_starts_over(server, known, tmp_path):
    server.plan = [100_000, "no-range"]
    fetch.fetch("toy", root=tmp_path)
    assert server.requests == [None, "bytes=100000-"] and left(tmp_path) == COMPLETE


def test_server_that_ignores_ranges_and_always_breaks_off_is_given_up(server, known, tmp_path):
    server.plan = [b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nhello"]
    with pytest.raises(DataError, match="broke off at 5 of 9 bytes"):
        fetch.fetch("toy", root=tmp_path)
    assert len(server.requests) == 1 + download.TRIES


def test_stalled_download_is_resumed(server, known, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "READ_S", 0.2)
    server.plan = ["stall", "whole"]
    fetch.fetch("toy", root=tmp_path)
    assert server.requests == [None, "bytes=100000-"] and left(tmp_path) == COMPLETE


def test_server_that_sends_another_range_is_given_up(server, known, tmp_path):
    server.plan = [100_000, "wrong-range"]
    with pytest.raises(DataError, match="answered a range with 'bytes 0-"):
        fetch.fetch("toy", root=tmp_path)


@pytest.mark.parametrize(
    "old", [b"part of an older file", PACKED, PACKED + b"more"], ids=["stale", "complete", "longer"]
)
def test_unusable_leftover_is_replaced(server, known, tmp_path, old):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / ".part-toy-file.gz").write_bytes(old)
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
    ("plan", "says"), [("missing", "404"), ("endless", "more than the"), ("silent", "no answer from .* within 0.3 s")]
)
def test_server_that_misbehaves_is_given_up(server, known, tmp_path, monkeypatch, plan, says):
    if plan == "silent":  # for a minute, unless it is given up
        monkeypatch.setattr(download, "ANSWER_S", 0.3)
    server.plan = [plan]
    with pytest.raises(DataError, match=says):
        fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == []


def test_connected_server_may_take_its_time_to_answer(server, known, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "CONNECT_S", 0.25)
    server.plan = ["slow"]
    fetch.fetch("toy", root=tmp_path)
    assert server.requests == [None] and left(tmp_path) == COMPLETE


def test_name_look_up_that_hangs_is_no_connection(known, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "CONNECT_S", 0.1)
    hang = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **how: hang.wait(60) and [])
    with pytest.raises(DataError, match="no connection to .* within 0.1 s"):
        fetch.fetch("toy", root=tmp_path)
    hang.set()


def redirect(to):
    return f"HTTP/1.0 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")


def test_circle_of_redirects_is_told_in_one_line(server, known, tmp_path):
    server.plan = [redirect("\xfc")]
    with pytest.raises(DataError, match="toy-file.gz answered 302 .* infinite loop. The last 30x"):
        fetch.fetch("toy", root=tmp_path)


BAD_REDIRECTS = [
    "http://.bad/",
    "http://[::1/",
    "http://a:b/",
    f"http://{'a' * 70}.org/",
    "ftp://127.0.0.1:9/x",
    "\xfc",
]


@pytest.mark.parametrize("to", BAD_REDIRECTS)
def test_bad_redirect_falls_through_to_the_next_source(server, tmp_path, monkeypatch, to):
    monkeypatch.setitem(fetch.DATASETS, "toy", toy(web(server.url), web(server.url)))
    server.plan = [redirect(to), "whole"]
    fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == COMPLETE


@pytest.mark.parametrize("proxy", ["http://.proxy.example:3128", "http://proxy:port", "http://[::1", "http://"])
def test_bad_proxy_is_a_failed_source(known, tmp_path, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(DataError, match="could not get toy. Tried:\n  - http://127.0.0.1.*: no connection to"):
        fetch.fetch("toy", root=tmp_path)


@pytest.mark.parametrize("header", [f"Content-Length: {'9' * 5000}", "Content-Length: \xb2", "Content-Length: -7"])
def test_nonsensical_length_is_no_length(server, known, tmp_path, header):
    server.plan = [f"HTTP/1.0 200 OK\r\n{header}\r\n\r\n".encode("latin-1") + server.body]
    fetch.fetch("toy", root=tmp_path)
    assert left(tmp_path) == COMPLETE


def test_closed_network_falls_through_to_the_next_source(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(fetch.DATASETS, "toy", toy(web("http://127.0.0.1:9"), web(server.url)))
    folder = fetch.fetch("toy", root=tmp_path)
    printed = capsys.readouterr().err
    assert "no connection to http://127.0.0.1:9" in printed
    assert f"trying {server.url}" in printed and fetch.origin(folder)["source"] == server.url


def test_bar_is_drawn_on_a_terminal_only(server, known, tmp_path, monkeypatch, capsys):
    fetch.fetch("toy", root=tmp_path / "pipe")
    assert "\r" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fetch.fetch("toy", root=tmp_path / "terminal")
    assert "toy-file.gz: 100%" in capsys.readouterr().err
    fetch.fetch("toy", root=tmp_path / "quiet", progress=False)
    assert "\r" not in capsys.readouterr().err


# several processes

WORKER = """
import sys
from jepa_lab.data.sources import fetch
url, root, sha256, size = sys.argv[1:]
file = fetch.File("toy-file", sha256, int(size))
source = fetch.Source("http", url, "{name}.gz")
fetch.DATASETS["toy"] = fetch.DataSet("toy", "a toy", "generated", "MIT", 0.4, (file,), (source,))
fetch.fetch("toy", root=root)
"""


def start_worker(server, root):
    command = [sys.executable, "-c", WORKER, server.url, str(root), TOY.sha256, str(TOY.size)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_until(condition):
    """A generous limit, so that a busy machine does not decide."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_download_is_resumed(server, known, tmp_path):
    server.plan = ["hold"]
    child, part = start_worker(server, tmp_path), tmp_path / "toy" / ".part-toy-file.gz"
    wait_until(lambda: part.exists() and part.stat().st_size > 60_000)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    server.plan, server.requests[:] = ["whole"], []
    fetch.fetch("toy", root=tmp_path)
    assert len(server.requests) == 1 and int(server.requests[0][6:-1]) > 60_000
    assert (tmp_path / "toy" / "toy-file").read_bytes() == NOISE and left(tmp_path) == COMPLETE


def test_processes_that_fetch_at_once_download_once_and_all_succeed(server, tmp_path):
    server.plan = ["hold"]
    children = [start_worker(server, tmp_path) for _ in range(2)]
    wait_until(lambda: server.requests)
    waiting = [child.stderr.readline() for child in children]  # one tries the source, the other waits
    assert sorted(line.split()[0] for line in waiting) == ["toy:", "waiting"]
    server.go_on.set()
    for child in children:
        _, printed = child.communicate(timeout=120)
        assert child.returncode == 0, printed
    assert server.requests == [None]
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
    assert faults == [] and server.requests == [None]
    assert (tmp_path / "toy" / "toy-file").read_bytes() == NOISE and left(tmp_path) == COMPLETE
