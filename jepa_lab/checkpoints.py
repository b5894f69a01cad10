"""Files that survive a kill at any moment and are safe to read: written beside their name, flushed, renamed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

FORMAT = "jepa_lab/2"


def writable(path: Path) -> None:
    """Raises OSError, before anything is trained, when `path` cannot be written; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.touch()
    temporary.unlink()


def write(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values. A kill, also inside the write, leaves the old file or the new one.

    Raises OSError naming the file when the disk is full or read-only; the old file is untouched then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, (OSError, RuntimeError)):  # torch reports a full disk as RuntimeError
            raise OSError(f"could not write {path} ({error}); the checkpoint before it is intact: make room, then resume") from error
        raise


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote, on the CPU. Nothing but tensors and plain values is ever unpickled.

    Raises FileNotFoundError, or ValueError on a corrupt or foreign file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError(f"format {state['format']!r}")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a usable checkpoint of this engine ({error}); delete it to start afresh") from None
    return state


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")  # one name, so that what a kill leaves is overwritten by the next write
