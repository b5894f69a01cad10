"""Scattered tokens instead of blocks: on a grid of any dimension, and on the columns of a table.

Shapes: B batch, N tokens of the grid, M target blocks, K tokens per block, X one row for the context and M for targets.
"""

from __future__ import annotations

import math

import torch
from torch import Generator

from jepa_lab.masks.common import Grid, Masks, choose_true, require, require_targets, uniform


def random_tokens(
    grid: Grid, batch_size: int, generator: Generator, *, num_targets: int, target_size: int, num_context: int
) -> Masks:
    """I-JEPA table 6 "random": scattered tokens instead of blocks, on a grid of any dimension.

    The context is a uniform subset; each of the M targets is a uniform subset of the other tokens, so
    targets may share tokens, as blocks do. Needs ``num_context + target_size <= N``.
    """
    tokens, needed = math.prod(grid), num_context + target_size
    require_targets(num_targets, tokens)
    require(min(target_size, num_context) >= 1, "target_size and num_context must be at least 1")
    require(
        needed <= tokens,
        f"num_context={num_context} and target_size={target_size} need {needed} tokens, the grid has {tokens}",
    )
    keys_BXN = uniform(batch_size, (1 + num_targets) * tokens, generator).unflatten(1, (1 + num_targets, tokens))
    everywhere_BN = torch.ones_like(keys_BXN[:, 0], dtype=torch.bool)
    context_idx = choose_true(everywhere_BN, keys_BXN[:, 0], num_context)
    hidden_BN = everywhere_BN.scatter(1, context_idx, False)
    target_idx = choose_true(hidden_BN[:, None].expand(-1, num_targets, -1), keys_BXN[:, 1:], target_size)
    return Masks(context_idx, target_idx, grid)


def columns(
    num_columns: int, batch_size: int, generator: Generator, *, num_targets: int, target_size: int, num_context: int
) -> Masks:
    """T-JEPA section 3: a random subset of a table's columns is seen, each target is a subset of the others."""
    return random_tokens(
        (num_columns,), batch_size, generator, num_targets=num_targets, target_size=target_size, num_context=num_context
    )
