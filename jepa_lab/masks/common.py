"""The record that every sampler returns, and the helpers that several samplers share.

Shapes: B batch, N tokens of the grid, C context tokens, M target blocks, K tokens per block, P uniform numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

Grid = tuple[int, ...]
Shape = tuple[int, int]


@dataclass(frozen=True)
class Masks:
    """Which tokens of each sample the encoder sees and which the predictor must fill in.

    ``context_idx`` Int64[B, C] is ascending; ``target_idx`` Int64[B, M, K] holds M blocks of K tokens;
    both index the flattened ``grid`` (row-major for two dimensions).
    """

    context_idx: Int64[Tensor, "B C"]
    target_idx: Int64[Tensor, "B M K"]
    grid: Grid


def require(ok: bool, reason: str) -> None:
    """Raises ValueError with the reason unless `ok`."""
    if not ok:
        raise ValueError(reason)


def require_targets(num_targets: int, tokens: int) -> None:
    """Raises ValueError for no target, and for more targets than tokens."""
    require(1 <= num_targets <= tokens, f"num_targets must lie in 1..{tokens}, the number of tokens, got {num_targets}")


def uniform(batch_size: int, numbers: int, generator: Generator) -> Float[Tensor, "B P"]:
    """One row of uniform numbers per sample: the only randomness a sampler uses."""
    require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}")
    return torch.rand(batch_size, numbers, generator=generator, device=generator.device)


def choose_true(allowed_BN: Bool[Tensor, "... N"], keys_BN: Float[Tensor, "... N"], k: int) -> Int64[Tensor, "... k"]:
    """``k`` random true positions of each row, ascending. Each row needs at least ``k`` true entries."""
    chosen = keys_BN.masked_fill(~allowed_BN, -1.0).topk(k, dim=-1, sorted=False).indices
    return chosen.sort(dim=-1).values


def partition(hidden_BN: Bool[Tensor, "B N"], num_hidden: int, grid: Grid) -> Masks:
    """One target of all ``num_hidden`` true tokens of each row, and a context of all the others, both ascending."""
    order_BN = hidden_BN.byte().argsort(dim=1, stable=True)
    context_idx, target_idx = order_BN.split([order_BN.shape[1] - num_hidden, num_hidden], dim=1)
    return Masks(context_idx, target_idx[:, None], grid)
