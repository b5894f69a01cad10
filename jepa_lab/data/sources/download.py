"""Download one file: resumed where it broke, never trusted before it is checked, never shared by two writers."""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import re
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path

from jepa_lab.data.sources.archives import DataError

CONNECT_S = 6  # for name, connection and first answer together: a closed network is left behind in seconds
READ_S = 15  # between two reads; a stalled download is resumed
TRIES = 3  # reconnections in a row that bring nothing new
CHUNK = 1 << 16


class SourceFailed(Exception):
    """This source didn't deliver; the next one may."""


def download(url: str, target: Path, check: Callable[[Path], None], *, max_bytes: int, progress: bool = True) -> None:
    """Download `url` to a temporary file beside `target` and hand that file to `check`, which stores it or raises
    `DataError`.

    `target` itself isn't written. A broken download stays as `target` + '.part' and the next call goes on from there;
    one
    that fails `check` is thrown away, and fetched once more from the start if its first part was an old one.
    Raises `SourceFailed` (no network, HTTP error, broken off, too long), `DataError` from `check`, OSError from the
    disk.
    """
    while True:
        with _claim(target.with_name(target.name + ".part")) as (part, path):
            resumed = part.seek(0, os.SEEK_END) > 0
            _fill(url, part, max_bytes, progress)
            part.flush()
            # Out of the way of other processes, with the suffix that `check` goes by.
            named = path.with_name(f".tmp-{os.getpid()}-{path.stat().st_ino}-{target.name}")
            os.replace(path, named)
        try:
            return check(named)
        except DataError:
            if not resumed:
                raise
        finally:
            named.unlink(missing_ok=True)


@contextlib.contextmanager
def _claim(path: Path) -> Iterator[tuple[BufferedIOBase, Path]]:
    """The .part file, if no other process is writing it; else a private temporary file, which does not outlive us."""
    import fcntl  # not on Windows, where the embedded sets still work

    part = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = path.stat().st_ino == os.fstat(part.fileno()).st_ino  # its last owner may have renamed it meanwhile
    except OSError:
        mine = False
    if not mine:
        part.close()
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
        part, path = os.fdopen(handle, "r+b"), Path(name)
    try:
        with part:
            yield part, path
    except BaseException as error:
        # Only a broken connection leaves something worth going on from.
        keep = mine and isinstance(error, (SourceFailed, KeyboardInterrupt)) and path.exists() and path.stat().st_size
        if not keep:
            path.unlink(missing_ok=True)
        raise


def _fill(url: str, part: BufferedIOBase, max_bytes: int, progress: bool) -> None:
    idle = 0
    while True:
        start = part.seek(0, os.SEEK_END)
        try:
            response = _open(url, start)
        except SourceFailed:
            if start == 0 or idle + 1 >= TRIES:
                raise
            idle += 1
            continue
        with response:
            if start and response.status != 206:  # the server ignores Range, or has nothing after `start`
                start = part.seek(0)
                part.truncate()
            if response.status == 416:
                continue
            total = _total(response, start)
            ended = _copy(response, part, max_bytes, progress and sys.stderr.isatty(), url, total)
        done = part.tell()
        if ended and done == (total if total is not None else done):
            return
        idle = 0 if done > start else idle + 1
        if idle >= TRIES:
            raise SourceFailed(
                f"{url} broke off at {done} of {total or 'unknown'} bytes; what came is kept, run again to go on"
            )


def _open(url: str, start: int):
    """The open response for `url` from byte `start` on, or a 416 error, which reads like one. Raises `SourceFailed`."""
    headers = {"User-Agent": "jepa-lab", "Accept-Encoding": "identity"} | (
        {"Range": f"bytes={start}-"} if start else {}
    )
    request, answer = urllib.request.Request(url, headers=headers), queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(urllib.request.urlopen(request, timeout=READ_S))
        except Exception as error:  # noqa: BLE001  (handed on to the caller)
            answer.put(error)

    # In a thread, because a socket's time-out counts anew for each of a host's addresses and never for the name
    # look-up.
    threading.Thread(target=ask, daemon=True).start()
    try:
        got = answer.get(timeout=CONNECT_S)
    except queue.Empty:
        raise SourceFailed(f"no connection to {url} within {CONNECT_S} s") from None
    match got:
        case urllib.error.HTTPError() if got.code == 416 and start:
            return got  # nothing after `start`
        case urllib.error.HTTPError():
            raise SourceFailed(f"{url} answered {got.code} {got.reason}") from got
        case OSError() | http.client.HTTPException():
            raise SourceFailed(f"no connection to {url} ({getattr(got, 'reason', got)})") from got
        case Exception():
            raise got
    return got


def _total(response, start: int) -> int | None:
    """Length of the whole file as the server states it; None when it doesn't."""
    if response.status == 206:
        stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not stated or int(stated[1]) != start:
            raise SourceFailed(f"{response.url} answered a range with {response.headers.get('Content-Range')!r}")
        return int(stated[2])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _copy(response, part: BufferedIOBase, max_bytes: int, bar: bool, url: str, total: int | None) -> bool:
    """Append the body to `part`; False when the connection broke before its end."""
    ended = False
    while True:
        try:
            chunk = response.read1(CHUNK)  # what is there: a stall loses nothing
        except (OSError, http.client.HTTPException):
            break
        if not chunk:
            ended = True
            break
        if part.tell() + len(chunk) > max_bytes:
            raise DataError(f"{url} sends more than the {max_bytes} bytes it should")
        part.write(chunk)
        if bar:
            _draw(url.rsplit("/", 1)[-1], part.tell(), total)
    if bar:
        print(file=sys.stderr)
    return ended


def _draw(label: str, done: int, total: int | None) -> None:
    filled = "#" * int(30 * done / total) if total else ""
    share = f"{100 * done / total:3.0f} %" if total else ""
    print(f"\r{label} [{filled:<30}] {share} {done / 1e6:.1f} MB", end="", file=sys.stderr, flush=True)
