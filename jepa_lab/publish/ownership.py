"""Who works in a folder of `_build`: one owner at a time, known by a lock and a heartbeat, never by a process number.

The operating system holds the lock and frees it when the owner's process ends, in whatever container it ran. Machines
that share a disk but not its locks see the heartbeat: the owner rewrites a note every second. A reader only looks
whether the note changes, so no clocks are compared.
"""

import os
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

BEAT = 1.0  # seconds between two signs of life
WATCH = 5.0  # seconds without a sign of life after which an owner that holds no lock counts as gone


class Ownership:
    """The right to work in one folder. `take` it and `leave` it; NAME.lock and NAME.owner lie beside the folder."""

    def __init__(self, folder: Path):
        self.lock = filelock.FileLock(folder.with_name(f"{folder.name}.lock"))
        self.note = folder.with_name(f"{folder.name}.owner")
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beats_on, daemon=True)

    def take(self) -> bool:
        """Makes this process the owner; False while there is another one."""
        try:
            self.lock.acquire(blocking=False)
        except filelock.Timeout:
            return False
        if self._beats():
            self.lock.release()
            return False
        self._beat(0)
        self._heart.start()
        return True

    def leave(self) -> None:
        self._over.set()
        self._heart.join()
        self.note.unlink(missing_ok=True)
        self.lock.release()

    def owner(self) -> str | None:
        """What the owner wrote about itself; None where there is no owner."""
        try:
            return self.note.read_text(encoding="utf-8")
        except OSError:
            return None

    def _beats(self) -> bool:
        noted, began = self.owner(), time.monotonic()
        while noted is not None and time.monotonic() - began < WATCH:
            time.sleep(BEAT / 4)
            if self.owner() != noted:
                return True
        return False

    def _beats_on(self) -> None:
        count = 0
        while not self._over.wait(BEAT):
            count += 1
            self._beat(count)

    def _beat(self, count: int) -> None:
        with suppress(OSError):  # a full disk: the lock still says who owns the folder
            self.note.write_text(f"process {os.getpid()} on {socket.gethostname()}, beat {count}", encoding="utf-8")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Waits until nobody else works in the folder, and owns it while the block runs."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    ownership, told = Ownership(folder), False
    while not ownership.take():
        if not told:
            print(
                f"waiting for another run that works in {folder} ({ownership.owner() or 'unknown'})",
                file=sys.stderr,
                flush=True,
            )
        told = True
        time.sleep(BEAT / 4)
    try:
        yield
    finally:
        ownership.leave()


@contextmanager
def fresh_folder(parent: Path) -> Iterator[Path]:
    """A new folder below `parent`, owned while the block runs and then removed. Abandoned folders there are removed."""
    parent.mkdir(parents=True, exist_ok=True)
    for abandoned in [path for path in parent.iterdir() if path.is_dir()]:
        _remove_if_free(abandoned)
    folder = parent / uuid.uuid4().hex
    ownership = Ownership(folder)
    ownership.take()
    try:
        folder.mkdir()
        yield folder
    finally:
        ownership.leave()
        _remove_if_free(folder)


def _remove_if_free(folder: Path) -> None:
    """Removes a folder that has no owner, and its lock."""
    ownership = Ownership(folder)
    with suppress(OSError):  # somebody removed the parent; or, on Windows, another process looks at the lock
        if ownership.take():
            shutil.rmtree(folder, ignore_errors=True)
            ownership.leave()
            Path(ownership.lock.lock_file).unlink()
