"""Checkpoints: files that survive a kill at any moment and are safe to read, and the fingerprint of a run."""

from __future__ import annotations

import hashlib
import math
import re
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from jepa_lab import distributed, files

FORMAT = "jepa_lab/4"


@dataclass
class TrainState:
    """All that a training run changes; a checkpoint is exactly this."""

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    generator: torch.Generator  # masks, views and noise
    seed: int
    ema: list[tuple[nn.Module, nn.Module]] = field(default_factory=list)  # (target, source) modules
    step: int = 0
    bad_steps: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)


def fingerprint(state: TrainState, cfg: Any, **given: Any) -> dict[str, str]:
    """A description of the run: settings, seed, weight shapes, data, functions.

    Only a run with the same description may resume its checkpoint.

    Functions are described by name and bound arguments, tensors by a thousand rows, dataclasses by their fields. The
    number of processes may differ: it changes results by rounding alone.
    Raises ValueError for a function defined inside another function or as a lambda: two of them can share a name.
    """
    shapes = {name: tuple(p.shape) for name, p in state.model.state_dict().items()}
    parts = {**asdict(cfg), "seed": state.seed, "model": shapes, **given}
    return {name: describe(part) for name, part in parts.items()}


def describe(part: Any) -> str:
    """One value of a fingerprint as text; errors as in `fingerprint`."""
    if isinstance(part, Tensor):
        return _describe_tensor(part)
    if isinstance(part, partial):
        bound = [*map(describe, part.args), *(f"{name}={describe(value)}" for name, value in part.keywords.items())]
        return f"{describe(part.func)}({', '.join(bound)})"
    if isinstance(part, MethodType):
        return f"{part.__func__.__qualname__} of {describe(part.__self__)}"
    if is_dataclass(part) and not isinstance(part, type):
        values = [f"{f.name}={describe(getattr(part, f.name))}" for f in fields(part)]
        return f"{type(part).__qualname__}({', '.join(values)})"
    if isinstance(part, Mapping):
        return f"{{{', '.join(f'{key}: {describe(value)}' for key, value in part.items())}}}"
    if isinstance(part, (list, tuple)):
        return f"({', '.join(map(describe, part))})"
    name = str(part)
    if hasattr(part, "__qualname__"):  # functions and classes; those of C have no module
        name = f"{getattr(part, '__module__', None)}.{part.__qualname__}"
    if "<locals>" in name or "<lambda>" in name:
        raise ValueError(
            f"{name} cannot be told apart from another function of that name in a checkpoint; "
            "use a function of a module, or functools.partial of one"
        )
    return re.sub(" at 0x[0-9a-f]+", "", name)  # where an object lies in memory


def _describe_tensor(tensor: Tensor) -> str:
    rows = tensor[:: max(1, math.ceil(len(tensor) / 1000))] if tensor.ndim else tensor[None]
    digest = hashlib.sha256(rows.cpu().contiguous().view(torch.uint8).numpy()).hexdigest()
    return f"{list(tensor.shape)} {tensor.dtype} {digest}"


def resume(path: Path | None, state: TrainState, fingerprint: dict[str, str]) -> None:
    """Go on from the checkpoint at `path` where there is one.

    Raises OSError, before anything is trained, when `path` cannot be written, and what `load` raises.
    """
    if path is None:
        return
    if distributed.rank() == 0:
        writable(path)
    if path.exists():
        load(path, state, fingerprint)


def save(path: Path, state: TrainState, fingerprint: dict[str, str]) -> None:
    """Write all of a run: weights, EMA, optimisers, generator, step, history. Errors as in `write`."""
    contents = {
        "model": state.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
        "generator": state.generator.get_state(),
        "step": state.step,
        "bad_steps": state.bad_steps,
        "history": state.history,
    }
    write(path, {"format": FORMAT, "fingerprint": fingerprint, "state": contents})


def load(path: Path, state: TrainState, fingerprint: dict[str, str]) -> None:
    """Put a checkpoint's contents into `state`.

    Raises FileNotFoundError, and ValueError on a corrupt or foreign file and on one of another run.
    """
    file = read(path)
    written = file["fingerprint"]
    differ = sorted(name for name in written.keys() | fingerprint.keys() if written.get(name) != fingerprint.get(name))
    if differ:
        raise ValueError(f"{path} was written with other settings ({', '.join(differ)}); use another folder")
    contents = file["state"]
    state.model.load_state_dict(contents["model"])
    for optimizer, stored in zip(state.optimizers, contents["optimizers"], strict=True):
        optimizer.load_state_dict(stored)
    state.generator.set_state(contents["generator"])
    state.step, state.bad_steps, state.history = contents["step"], contents["bad_steps"], contents["history"]


def writable(path: Path) -> None:
    """Make the folder of `path` and clear it of interrupted writes. Raises OSError when `path` cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            leftover.unlink()
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OSError(f"cannot write checkpoints to {path} ({error}); choose a folder that can be written") from error


def write(path: Path, contents: dict[str, Any]) -> None:
    """Write tensors and plain values. A kill, also inside the write, leaves the old file or the new one.

    Raises OSError naming the file when the disk is full or read-only; the old file is untouched then.
    """
    try:
        with files.replacing(path) as stream:
            torch.save(contents, stream)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OSError(
            f"could not write {path} ({error}); the checkpoint before it is intact: "
            "make room or make it writable, then resume"
        ) from error


def read(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, on the CPU. Nothing but tensors and plain values is ever unpickled.

    Raises FileNotFoundError, or ValueError on a corrupt or foreign file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None  # torch compares no checksums
        file = torch.load(path, map_location="cpu", weights_only=True) if whole else {}
        if file.keys() == {"format", "fingerprint", "state"} and file["format"] == FORMAT:
            return file
    except FileNotFoundError:
        raise
    except Exception:  # whatever a damaged or hostile file provokes in zipfile and torch, whose advice is to trust it
        pass
    raise ValueError(f"{path} is damaged or not a checkpoint of this engine ({FORMAT}); delete it to start afresh")
