"""The folder that data files are kept in: where it is, the note of where its content came from, what goes wrong there.

The cache is `$JEPA_LAB_DATA`, else the platform's cache folder.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from jepa_lab import files
from jepa_lab.data.sources.archives import DataError

NOTE = "SOURCE.json"  # beside the files: where they came from, or what stands in for them
TEMPORARY = (".tmp-*", ".*.tmp", ".part-*")
STALE_S = 24 * 3600  # temporary and partial files of killed runs are swept when older


def cache_root(root: str | Path | None = None) -> Path:
    """The cache folder: `root`, else $JEPA_LAB_DATA, else the platform's (XDG on Linux, Library/Caches on macOS)."""
    if root or os.environ.get("JEPA_LAB_DATA"):
        return Path(root or os.environ["JEPA_LAB_DATA"]).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "jepa_lab"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jepa_lab"


def origin(folder: Path) -> dict:
    """What the note in a data folder says: name, source, fallback, tried. Empty when there is none (copied by hand)."""
    try:
        note = json.loads((folder / NOTE).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def write_origin(folder: Path, note: dict) -> None:
    """Write the note of `folder`, with the time."""
    fetched = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    files.write_text(folder / NOTE, json.dumps(note | {"fetched": fetched}, indent=1))


def sweep(folder: Path) -> None:
    """Remove what killed runs left behind. Younger files may belong to a running process."""
    for path in [path for pattern in TEMPORARY for path in folder.glob(pattern)]:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk, missing permission and every other trouble of the file system into one `DataError`.

    No other source would help, so the fetch ends.
    """
    remedy = "or point JEPA_LAB_DATA at another folder"
    try:
        yield
    except (OSError, NotImplementedError) as error:  # the latter of a file system without locks
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"the disk of {folder} is full; free some space {remedy}") from error
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read and write in {folder} ({reason}); make that possible {remedy}") from error


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process or thread at a time work on `folder`; the others wait. A killed process leaves no lock."""
    import filelock

    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        print(f"waiting for another process that works on {folder}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
