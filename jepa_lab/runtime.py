"""What surrounds a step: device, memory, compilation, several processes, dropout's randomness, the progress bar.

Nothing in this file changes what is computed, except for rounding.
"""

from __future__ import annotations

import ctypes
import inspect
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from jepa_lab import diagnostics, distributed

# Buffers need no exchange before a forward pass: tables of positions are the same everywhere, and running statistics
# are those of the whole batch (`distributed.synchronise_batch_norms`). torch renamed the switch.
_DDP_ARGUMENTS = inspect.signature(nn.parallel.DistributedDataParallel).parameters
_BUFFERS_STAY = "forward_sync_buffers" if "forward_sync_buffers" in _DDP_ARGUMENTS else "broadcast_buffers"
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def choose_device(device: str = "auto") -> str:
    """The device of that name; for "auto" an NVIDIA GPU, else Apple's GPU, else the CPU."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def require_one_device(devices: dict[str, torch.device]) -> None:
    """Raises ValueError when the named devices differ. A GPU without a number is any GPU."""
    types = {device.type for device in devices.values()}
    numbers = {device.index for device in devices.values()} - {None}
    if len(types) > 1 or len(numbers) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"everything must be on one device, but {where}; give train.start the device of the data")


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for the next allocation; elsewhere it does nothing. Holds for the whole process.

    By default glibc maps large tensors anew and gives them back, so that every step faults its activations in again,
    page by page: 5 to 12 % of a CPU step. Results are the same to the last bit.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def choose_attention(model: nn.Module, plain: bool) -> None:
    """Switch attention between plain products and the fused kernel.

    On CPUs the fused kernel's bf16 backward is slow: a small step takes 27 ms with it, 24 ms with plain products.
    """
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = not plain


class Step(nn.Module):
    """Model and objective as one module, for `torch.compile` and DDP. Returns the loss and its named parts."""

    def __init__(self, model: nn.Module, objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch, drawn) -> tuple[Tensor, dict[str, Tensor]]:
        result = self.objective(self.model, batch, drawn)
        return result if isinstance(result, tuple) else (result, {})


def wrap(model: nn.Module, objective, compile: bool, micro_batches: int = 1) -> nn.Module:
    """The step that `fit` calls: averaged over processes where there are several, compiled where asked."""
    num_processes = distributed.world()
    if num_processes > 1:
        distributed.synchronise_batch_norms(model)
    step: nn.Module = Step(model, objective)
    if num_processes > 1:
        step = nn.parallel.DistributedDataParallel(
            step,
            gradient_as_bucket_view=True,
            static_graph=micro_batches == 1,  # `no_sync` forbids a static graph
            **{_BUFFERS_STAY: False},
        )
    return compiled(step, graphs=num_processes * micro_batches == 1) if compile else step


def compiled(step, graphs: bool = True):
    """The step compiled for fixed shapes; what was compiled before is forgotten.

    To torch all arms are one piece of code, of which it keeps 8 versions and then runs others uncompiled. graphs: a GPU
    replays the step as one CUDA graph, since small models wait for their launches. Loss and gradients are then
    overwritten by the next call, so gradients cannot add up over several calls.
    """
    torch.compiler.reset()
    return torch.compile(step, dynamic=False, mode="reduce-overhead" if graphs else "default")


def without_exchange(step: nn.Module, more_to_come: bool):
    """A context in which processes do not exchange gradients: they do so once a step, after the last micro-batch."""
    return step.no_sync() if more_to_come and hasattr(step, "no_sync") else nullcontext()


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """A block that may seed torch's global generators; they are as before when it ends."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def seed_dropout(seed: int, step: int, device: torch.device) -> None:
    """Seed the device's global generator, which dropout draws from, as a function of run, step and process.

    `torch.manual_seed` would seed all devices, and formats a stack trace at every call where CUDA has not started.
    """
    value = (seed * 1_000_003 + step) * 1009 + distributed.rank()
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)
    else:
        torch.default_generator.manual_seed(value)


def changing_buffers(model: nn.Module) -> list[Tensor]:
    """Buffers that training changes, such as BatchNorm's running statistics: those that a checkpoint holds."""
    held = model.state_dict(keep_vars=True)
    return [buffer for name, buffer in model.named_buffers() if name in held]


def progress_bar(state, cfg, shown: bool):
    """The remaining steps with time left, on stderr."""
    from tqdm import tqdm

    steps = range(state.step, cfg.num_steps)
    return tqdm(
        steps,
        initial=state.step,
        total=cfg.num_steps,
        disable=not shown,
        file=sys.stderr,
        mininterval=1.0,
        unit="step",
    )


def status(state, cfg, steps_per_s: float | None) -> str:
    """Loss, samples per second, skipped batches if any, and the collapse alarm, as of the last log."""
    last = {name: values[-1] for name, values in state.history.items()}
    parts = [f"loss {last['loss']:.4f}"]
    if steps_per_s:
        parts.append(f"{steps_per_s * cfg.batch_size:.0f} samples/s")
    if state.bad_steps:
        parts.append(f"{state.bad_steps} non-finite batches skipped")
    alarm = diagnostics.collapsed(last) if "rankme" in last else None
    if alarm:
        parts.append(f"ALARM: {alarm}")
    return ", ".join(parts)
