"""Help for tests of downloads: a local server that misbehaves as planned, a toy data set, archives."""

import contextlib
import gzip
import hashlib
import io
import tarfile
import time
import zipfile
from http.server import BaseHTTPRequestHandler

from jepa_lab.data.sources import fetch

NOISE = hashlib.shake_256(b"content").digest(400_000)
PACKED = gzip.compress(NOISE, mtime=0)
TOY = fetch.File("toy-file", hashlib.sha256(NOISE).hexdigest(), len(NOISE))
COMPLETE = ["SOURCE.json", "toy-file"]  # what a fetched toy set consists of


class Handler(BaseHTTPRequestHandler):
    """Serves `script.body`; `script.plan` holds one behaviour per request, the last one stays.

    Behaviours: "whole", "missing", "silent", "slow", "no-range", "wrong-range", "endless", "stall", "hold" (sends the
    first 100,000 bytes, then waits for `script.go_on`), a number of bytes after which the connection breaks, or the
    bytes of an answer.
    """

    def do_GET(self):
        script = self.server.script
        plan = script.plan.pop(0) if len(script.plan) > 1 else script.plan[0]
        asked = self.headers.get("Range")
        script.requests.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and plan != "no-range" else 0
        if plan == "missing":
            return self.send_error(404)
        if isinstance(plan, bytes):
            return self.wfile.write(plan)
        if plan == "silent":
            return script.go_on.wait(60)
        if plan == "slow":
            time.sleep(0.5)
        if start and start >= len(script.body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            stated = 0 if plan == "wrong-range" else start
            self.send_header("Content-Range", f"bytes {stated}-{len(script.body) - 1}/{len(script.body)}")
        if plan != "endless":
            self.send_header("Content-Length", str(len(script.body) - start))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client left
            self.send_body(script.body[start:], plan)

    def send_body(self, body, plan):
        if plan == "endless":
            while True:
                self.wfile.write(body)
        if plan in ("stall", "hold"):
            self.wfile.write(body[:100_000])
            self.server.script.go_on.wait(60)
            body = body[100_000:] if plan == "hold" else b""
        self.wfile.write(body[:plan] if isinstance(plan, int) else body)

    def log_message(self, *args):
        pass


def toy(*sources, fallback=None):
    return fetch.DataSet("toy", "a toy", "generated", "MIT", 0.4, (TOY,), sources, fallback)


def web(url):
    return fetch.Source("http", url, "{name}.gz")


def left(root):
    """The names of what lies in the toy set's folder."""
    return sorted(path.name for path in (root / "toy").iterdir())


def entry(name, content=b"", kind=tarfile.REGTYPE, link=""):
    """The description of one member of a tar."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info


def make_tar(path, *entries, mode="w"):
    with tarfile.open(path, mode) as bag:
        for info, content in entries:
            bag.addfile(info, io.BytesIO(content))
    return path


def make_zip(path, *members, packing=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packing) as bag:
        for name, content in members:
            bag.writestr(name, content)
    return path
