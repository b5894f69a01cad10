"""A folder has one owner, who is told by a lock and a heartbeat: no process number and no clock decides."""

import os
import shutil
import subprocess
import sys
import threading

import pytest

from jepa_lab.publish import ownership

LONG = 1200  # seconds: a limit against hanging, never reached on a machine that works
OWNS_A_FOLDER = """
import sys
from pathlib import Path
from jepa_lab.publish import ownership
with ownership.fresh_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path):
    """A process that owns a folder below tmp_path, and that folder."""
    command = [sys.executable, "-c", OWNS_A_FOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        folder = tmp_path / process.stdout.readline().strip()
        assert folder.is_dir() and folder != tmp_path
        yield process, folder
        process.kill()


def test_a_folder_is_removed_only_when_its_owner_is_gone(owner, tmp_path, monkeypatch):
    process, folder = owner
    with ownership.fresh_folder(tmp_path) as first, ownership.fresh_folder(tmp_path) as second:
        assert len({first, second, folder}) == 3 and folder.is_dir() and first.is_dir()
    assert folder.is_dir() and not first.exists()
    process.kill()
    process.wait()
    monkeypatch.setattr(ownership, "WATCH", 0.1)
    with ownership.fresh_folder(tmp_path):
        assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_an_owner_on_a_machine_that_shares_no_locks_is_seen_by_its_heartbeat(tmp_path, monkeypatch):
    folder, over = tmp_path / "elsewhere", threading.Event()
    folder.mkdir()
    note = tmp_path / "elsewhere.owner"

    def beat():
        count = 0
        while not over.wait(0.05):
            note.write_text(f"process 1 on another machine, beat {count}")
            count += 1

    note.write_text("process 1 on another machine")
    heart = threading.Thread(target=beat)
    heart.start()
    monkeypatch.setattr(ownership, "WATCH", LONG)
    with ownership.fresh_folder(tmp_path):
        assert folder.is_dir()
    over.set()
    heart.join()
    monkeypatch.setattr(ownership, "WATCH", 0.1)
    with ownership.fresh_folder(tmp_path):
        assert not folder.exists() and not note.exists()


def test_a_second_run_waits_for_the_first_and_says_for_whom(tmp_path, capsys):
    order = []

    def second():
        with ownership.alone(tmp_path / "book"):
            order.append("second")

    with ownership.alone(tmp_path / "book"):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(1)
        order.append("first")
    waiting.join(LONG)
    assert order == ["first", "second"]
    assert (
        f"waiting for another run that works in {tmp_path / 'book'} (process {os.getpid()} on "
        in capsys.readouterr().err
    )


def test_a_folder_that_somebody_removed_ends_without_an_error(tmp_path):
    with ownership.fresh_folder(tmp_path / "running") as folder:
        shutil.rmtree(tmp_path / "running")
    assert not folder.exists()
