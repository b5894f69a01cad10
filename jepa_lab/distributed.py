"""One run on several processes. With one process every function here is the identity.

Each process draws the batch order and the masks of the *whole* batch from the same seed and keeps its own rows
(`share`), so a run is the same function of its seed on any number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from jepa_lab.masks import Masks


def start() -> str:
    """Join the other processes when torchrun started this one; returns the device to train on."""
    has_gpu = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if has_gpu else "gloo")
    if not has_gpu:
        return "cpu"
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return f"cuda:{torch.cuda.current_device()}"


def stop() -> None:
    """Leave the group that `start` joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0. Rank 0 alone writes files and draws the progress bar."""
    return dist.get_rank() if dist.is_initialized() else 0


def share(
    idx_B: Int64[Tensor, " B"], masks: Masks, micro_batches: int = 1
) -> Iterator[tuple[Int64[Tensor, " b"], Masks]]:
    """This process's rows of a batch, in `micro_batches` equal parts.

    Raises ValueError when the batch does not divide into processes times parts.
    """
    parts = world() * micro_batches
    if micro_batches < 1 or len(idx_B) % parts:
        raise ValueError(
            f"a batch of {len(idx_B)} does not divide into {world()} processes x {micro_batches} micro-batches; "
            "choose a batch_size that does"
        )
    size = len(idx_B) // parts
    for part in range(rank() * micro_batches, (rank() + 1) * micro_batches):
        rows = slice(part * size, (part + 1) * size)
        yield idx_B[rows], Masks(masks.context_idx[rows], masks.target_idx[rows], masks.grid)


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
