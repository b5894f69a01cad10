"""Download one file: resumed where it broke, not trusted before it is checked.

Why not pooch: pooch 1.9 starts a broken download over, and PTB-XL's 1.8 GB can take hours from PhysioNet. It also
neither bounds what a server may send nor keeps two processes from downloading the same file.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path

from tqdm import tqdm

from jepa_lab.data.sources.archives import DataError

CONNECT_S = 6  # for name and connection together, so that a closed network costs seconds
ANSWER_S = 60  # from then on to the first answer: PhysioNet packs its archive when asked for it
READ_S = 15  # between two reads; a stalled download is resumed
TRIES = 3  # reconnections in a row that bring nothing new
CHUNK = 1 << 16
LENGTH = r"[0-9]{1,15}"  # as a server may state it; longer numbers are nonsense that int() and the bar refuse


class SourceFailed(Exception):
    """This source didn't deliver; the next one may."""


def download(url: str, target: Path, check: Callable[[Path], None], *, max_bytes: int, progress: bool = True) -> None:
    """Download `url` to a partial file beside `target` and hand it to `check`, which stores it or raises `DataError`.

    `target` itself isn't written. A broken download is kept, and the next call continues it. One that fails `check` is
    removed, and is fetched once more from the start if it continued an older one. The caller makes sure that no other
    process downloads to the same `target`.
    Raises `SourceFailed` (no network, HTTP error, broken off), `DataError` (too long, or from `check`), OSError (disk).
    """
    part = target.with_name(f".part-{target.name}")
    while True:
        continued = part.is_file() and part.stat().st_size > 0
        _fill(url, part, max_bytes, progress)
        try:
            return check(part)
        except DataError:
            if not continued:
                raise
        finally:
            part.unlink(missing_ok=True)


def _fill(url: str, part: Path, max_bytes: int, progress: bool) -> None:
    """Append to `part` until it is complete. A broken connection leaves what came; any other error removes `part`."""
    try:
        with part.open("ab") as out:
            _reconnect_until_complete(url, out, max_bytes, progress)
    except (SourceFailed, KeyboardInterrupt):
        if not part.stat().st_size:
            part.unlink()
        raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _reconnect_until_complete(url: str, out: BufferedIOBase, max_bytes: int, progress: bool) -> None:
    idle = furthest = 0
    while True:
        start = out.seek(0, os.SEEK_END)
        try:
            response = _open(url, start)
        except SourceFailed:
            if start == 0 or idle + 1 >= TRIES:
                raise
            idle += 1
            continue
        with response:
            if start and response.status != 206:  # the server ignores Range, or has nothing after `start`
                start = out.seek(0)
                out.truncate()
            if response.status == 416:
                continue
            total = _total(response, start)
            ended = _copy(response, out, max_bytes, progress, total)
        done = out.tell()
        if ended and (total is None or done == total):
            return
        idle = 0 if done > furthest else idle + 1  # not `start`: a server without ranges begins again each time
        furthest = max(furthest, done)
        if idle >= TRIES:
            raise SourceFailed(
                f"{url} broke off at {done} of {total or 'unknown'} bytes; what came is kept, run again to continue"
            )


def _open(url: str, start: int):
    """The open response for `url` from byte `start` on; status 416 where nothing is left. Raises `SourceFailed`."""
    headers = {"User-Agent": "jepa-lab", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    got, lacking = _answer(urllib.request.Request(url, headers=headers))
    match got:
        case urllib.error.HTTPError() if got.code == 416 and start:
            return got
        case urllib.error.HTTPError():
            raise SourceFailed(f"{url} answered {got.code} {_line(got.reason)}") from got
        case Exception():
            reason = getattr(got, "reason", None) or str(got) or type(got).__name__
            raise SourceFailed(f"no {lacking} {url} ({_line(reason)})") from got
    return got


def _line(reason: object) -> str:
    return " ".join(str(reason).split())[:200]


def _answer(request: urllib.request.Request) -> tuple:
    """The response or the error that `request` brings, and what is lacking if it is one. Raises `SourceFailed`."""
    news = queue.SimpleQueue()  # None for each connection (a redirect makes another one), then the answer

    def ask() -> None:
        try:
            news.put(urllib.request.build_opener(_Reporting(news)).open(request, timeout=ANSWER_S))
        except Exception as error:  # noqa: BLE001  (whatever a server or a proxy setting causes; raised by `_open`)
            news.put(error)

    # In a thread: a socket's time-out starts anew for each of a host's addresses and does not cover the name look-up.
    threading.Thread(target=ask, daemon=True).start()
    seconds, lacking, got = CONNECT_S, "connection to", None
    while got is None:
        try:
            got = news.get(timeout=seconds)
        except queue.Empty:
            raise SourceFailed(f"no {lacking} {request.full_url} within {seconds} s") from None
        if got is None:
            seconds, lacking = ANSWER_S, "answer from"
    return got, lacking


class _Reporting(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens addresses as urllib does, and puts None into a queue when a server or a proxy has taken the connection."""

    def __init__(self, news: queue.SimpleQueue) -> None:
        super().__init__()
        self.news = news

    def http_open(self, request):
        return self.do_open(self._reporting(http.client.HTTPConnection), request)

    def https_open(self, request):
        return self.do_open(self._reporting(http.client.HTTPSConnection), request)

    def _reporting(self, kind: type) -> type:
        news = self.news

        class Connection(kind):
            def connect(self):
                super().connect()
                news.put(None)

            def getresponse(self):
                connected = self.sock  # the response keeps it
                response = super().getresponse()
                with contextlib.suppress(OSError):  # an answer without content has closed it
                    connected.settimeout(READ_S)
                return response

        return Connection


def _total(response, start: int) -> int | None:
    """Length of the whole file as the server states it; None when it doesn't."""
    if response.status == 206:
        content_range = response.headers.get("Content-Range", "")
        stated = re.fullmatch(rf"bytes ({LENGTH})-\d+/({LENGTH})", content_range)
        if not stated or int(stated[1]) != start:
            raise SourceFailed(f"{response.url} answered a range with {content_range[:80]!r}")
        return int(stated[2])
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch(LENGTH, length) else None


def _copy(response, out: BufferedIOBase, max_bytes: int, progress: bool, total: int | None) -> bool:
    """Append the body to `out`; False when the connection broke before its end. The bar is drawn on terminals only."""
    name, hidden = response.url.rsplit("/", 1)[-1], None if progress else True
    with tqdm(desc=name, total=total, initial=out.tell(), unit="B", unit_scale=True, disable=hidden) as bar:
        while True:
            try:
                chunk = response.read1(CHUNK)  # what is there: a stall loses nothing
            except Exception:  # noqa: BLE001  (of the network, the server or its encoding; asked for once more)
                return False
            if not chunk:
                return True
            if out.tell() + len(chunk) > max_bytes:
                raise DataError(f"{response.url} sends more than the {max_bytes} bytes it should")
            out.write(chunk)
            bar.update(len(chunk))
