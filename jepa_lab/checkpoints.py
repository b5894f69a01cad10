"""Checkpoints: files that survive a kill at any moment and are safe to read, and what two runs must share to be one."""

from __future__ import annotations

import hashlib
import math
import os
import re
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepa_lab import distributed

FORMAT = "jepa_lab/3"


@dataclass
class Run:
    """All that a training run changes; a checkpoint is exactly this."""

    model: nn.Module  # a train.JEPA wherever an EMA copy is kept
    optimizer: torch.optim.Optimizer
    generator: torch.Generator  # masks
    seed: int
    step: int = 0
    bad_steps: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)


def work(run: Run, cfg: Any, **given: Any) -> dict[str, str]:
    """In words what two runs share when one goes on as the other: settings, seed, shapes of the weights, what else they
    were given.

    Of functions that is their names and settings, of tensors a thousand rows. The number of processes may differ: it
    changes results by rounding alone.
    """
    shapes = {name: tuple(p.shape) for name, p in run.model.state_dict().items()}
    parts = {**asdict(cfg), "seed": run.seed, "model": shapes, **given}
    return {name: _words(part) for name, part in parts.items()}


def _words(part: Any) -> str:
    if isinstance(part, Tensor):
        rows = part[:: max(1, math.ceil(len(part) / 1000))].cpu().contiguous()
        return f"{list(part.shape)} {part.dtype} {hashlib.sha256(rows.view(torch.uint8).numpy()).hexdigest()}"
    return re.sub(" at 0x[0-9a-f]+", "", str(part))  # where a function lies in memory


def resume(path: Path | None, run: Run, cfg: Any, **given: Any) -> dict[str, str]:
    """Go on from the checkpoint at `path` where there is one; returns the `work` that `save` wants.

    Raises OSError, before anything is trained, when `path` cannot be written, and what `load` raises.
    """
    if path is None:
        return {}
    words = work(run, cfg, **given)
    if distributed.rank() == 0:
        writable(path)
    if path.exists():
        load(path, run, words)
    return words


def save(path: Path, run: Run, work: dict[str, str]) -> None:
    """Write all of a run: weights, EMA, optimiser, generators, step, history. Errors as in `write`."""
    state = {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "generator": run.generator.get_state(),
        "torch_generator": torch.get_rng_state(),  # dropout, where a model has it
        "step": run.step,
        "bad_steps": run.bad_steps,
        "history": run.history,
    }
    write(path, {"format": FORMAT, "work": work, "state": state})


def load(path: Path, run: Run, work: dict[str, str]) -> None:
    """Put a checkpoint's state into `run`, and torch's own generator where it was.

    Raises FileNotFoundError, and ValueError on a corrupt or foreign file and on one of another run's work.
    """
    file = read(path)
    differ = sorted(name for name in file["work"].keys() | work.keys() if file["work"].get(name) != work.get(name))
    if differ:
        raise ValueError(f"{path} was written with other settings ({', '.join(differ)}); use another folder")
    state = file["state"]
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.generator.set_state(state["generator"])
    torch.set_rng_state(state["torch_generator"])
    run.step, run.bad_steps, run.history = state["step"], state["bad_steps"], state["history"]


def writable(path: Path) -> None:
    """Raises OSError when `path` cannot be written; creates its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise OSError(f"cannot write checkpoints to {path} ({error}); choose a folder that can be written") from error


def write(path: Path, file: dict[str, Any]) -> None:
    """Write tensors and plain values. A kill, also inside the write, leaves the old file or the new one.

    Raises OSError naming the file when the disk is full or read-only; the old file is untouched then.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            torch.save(file, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, (OSError, RuntimeError)):  # torch reports a full disk as RuntimeError
            raise OSError(
                f"could not write {path} ({error}); the checkpoint before it is intact: make room or make it writable, then resume"
            ) from error
        raise


def read(path: Path) -> dict[str, Any]:
    """What `save` wrote, on the CPU: format, work, state. Nothing but tensors and plain values is ever unpickled.

    Raises FileNotFoundError, or ValueError on a corrupt or foreign file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None  # torch compares no checksums
        file = torch.load(path, map_location="cpu", weights_only=True) if whole else {}
        if file.keys() == {"format", "work", "state"} and file["format"] == FORMAT:
            return file
    except FileNotFoundError:
        raise
    except Exception:  # whatever a damaged or hostile file provokes in zipfile and torch, whose advice is to trust it
        pass
    raise ValueError(f"{path} is damaged or not a checkpoint of this engine ({FORMAT}); delete it to start afresh")


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")  # one name, so that what a kill leaves is overwritten by the next write
