"""One run on several processes. With one process every function here is the identity.

Each process draws the batch order and the masks, views or noise of the *whole* batch from the same seed and keeps its
own rows (`share`), so a run is the same function of its seed on any number of processes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

Drawn = TypeVar("Drawn")


def join() -> str:
    """Join the other processes when torchrun started this one; returns the device to train on."""
    has_gpu = torch.cuda.is_available()
    if (os.environ.get("WORLD_SIZE") or "1") != "1" and not dist.is_initialized():
        _require_torchrun()
        dist.init_process_group("nccl" if has_gpu else "gloo")
    if not has_gpu:
        return "cpu"
    if dist.is_initialized():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return f"cuda:{torch.cuda.current_device()}"


def _require_torchrun() -> None:
    """Raises ValueError when WORLD_SIZE is set, but not what torchrun sets with it: another program left it behind."""
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} is not set. "
            "To train on several processes, start them with torchrun; to train on one, unset WORLD_SIZE"
        )


def leave() -> None:
    """Leave the group that `join` joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0. Rank 0 alone writes files and draws the progress bar."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(idx_B: Int64[Tensor, " B"], drawn: Drawn, micro_batches: int = 1) -> Iterator[tuple[Tensor, Drawn]]:
    """This process's rows of a batch and of what was drawn for it, in `micro_batches` equal parts.

    drawn: tensors, alone or in (frozen) dataclasses, tuples and dictionaries. A leading axis of k B rows holds k rows
    for each sample, sample by sample, and is cut accordingly; values that are no tensors stay.
    Raises ValueError when the batch does not divide into processes times parts, or a leading axis is no multiple of B.
    """
    parts = world() * micro_batches
    if micro_batches < 1 or len(idx_B) % parts:
        raise ValueError(
            f"a batch of {len(idx_B)} does not divide into {world()} processes x {micro_batches} micro-batches; "
            "choose a batch_size that does"
        )
    size = len(idx_B) // parts
    for part in range(rank() * micro_batches, (rank() + 1) * micro_batches):
        start, stop = part * size, (part + 1) * size
        yield idx_B[start:stop], rows_of(drawn, start, stop, len(idx_B))


def rows_of(drawn: Drawn, start: int, stop: int, batch_size: int) -> Drawn:
    """The rows of samples `start` to `stop` in everything that was drawn; errors as in `share`."""
    if isinstance(drawn, Tensor):
        if drawn.ndim == 0 or len(drawn) % batch_size:
            raise ValueError(
                f"a tensor of shape {list(drawn.shape)} was drawn for a batch of {batch_size}; "
                "its first axis must be a multiple of the batch"
            )
        rows = len(drawn) // batch_size
        return drawn[start * rows : stop * rows]
    if dataclasses.is_dataclass(drawn):
        cut = {f.name: rows_of(getattr(drawn, f.name), start, stop, batch_size) for f in dataclasses.fields(drawn)}
        return dataclasses.replace(drawn, **cut)
    if isinstance(drawn, dict):
        return {name: rows_of(part, start, stop, batch_size) for name, part in drawn.items()}
    if isinstance(drawn, tuple):
        cut = [rows_of(part, start, stop, batch_size) for part in drawn]
        return type(drawn)(*cut) if hasattr(drawn, "_fields") else tuple(cut)
    return drawn


def gather(z_nD: Float[Tensor, "n D"]) -> Float[Tensor, "m D"]:
    """The rows of all processes in rank order, with gradients: for losses that need the statistics of the whole batch.

    Every process then holds the same loss. Its gradient reaches each process's rows once per process, and averaging the
    gradients over processes, as DDP does, takes that factor out again.
    """
    return z_nD if world() == 1 else _Gather.apply(z_nD)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z_nD: Tensor) -> Tensor:
        parts = [torch.empty_like(z_nD) for _ in range(world())]
        dist.all_gather(parts, z_nD.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad_mD: Tensor) -> Tensor:
        grad_mD = grad_mD.contiguous()
        dist.all_reduce(grad_mD)
        return grad_mD.chunk(world())[rank()]


def mean(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Average over processes, without gradients."""
    if world() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= world()
    return values


def agree(ok: Bool[Tensor, ""]) -> Bool[Tensor, ""]:
    """True where it is true on every process: all of them skip a bad batch, or none."""
    if world() > 1:
        votes = ok.float()
        dist.all_reduce(votes, op=dist.ReduceOp.MIN)
        ok = votes > 0
    return ok


def synchronise_batch_norms(model: nn.Module) -> None:
    """Replace every BatchNorm by one whose statistics are those of the whole batch, with the same weights and buffers.

    torch's own SyncBatchNorm does this on GPUs only.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, _SharedBatchNorm):
                setattr(module, name, _SharedBatchNorm.of(child))


class _SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the samples of all processes, which hold equal shares of a batch."""

    @classmethod
    def of(cls, norm: nn.Module) -> _SharedBatchNorm:
        shared = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        shared._parameters, shared._buffers, shared.training = norm._parameters, norm._buffers, norm.training
        return shared

    def _check_input_dim(self, x: Tensor) -> None:
        pass  # any number of axes behind the channels

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world() == 1:
            return super().forward(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        mean_C = gather(x.float().mean(axes)[None]).mean(0)
        variance_C = gather((x.float() - mean_C.view(shape)).square().mean(axes)[None]).mean(0)
        self._track(mean_C.detach(), variance_C.detach(), world() * x.numel() // x.shape[1])
        normal = (x - mean_C.view(shape)) * torch.rsqrt(variance_C.view(shape) + self.eps)
        return normal * self.weight.view(shape) + self.bias.view(shape) if self.affine else normal

    @torch.no_grad()
    def _track(self, mean_C: Tensor, variance_C: Tensor, count: int) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(variance_C * count / (count - 1), self.momentum)
