"""Cells of a bird's-eye grid, some of which are occupied.

Shapes: B batch, N squares of the grid, H x W rows and columns.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from jepa_lab.masks.common import Grid, Masks, partition, require, uniform


def bev_cells(
    grid: Grid,
    batch_size: int,
    generator: Generator,
    *,
    occupied: Bool[Tensor, "B H W"],
    num_hidden: int,
    block: int = 1,
) -> Masks:
    """AD-L-JEPA section 3 "modified BEV-guided masking": hide the same share of occupied and of empty cells.

    ``num_hidden`` cells of each sample are the target (M = 1), the others the context. The published
    code draws the share over the batch and per empty cell; here it is exact in every sample, up to
    rounding, so that shapes are fixed. ``block`` > 1 hides ``block x block`` squares, occupied when any cell is.
    """
    require(
        tuple(occupied.shape) == (batch_size, *grid),
        f"occupied must have shape {(batch_size, *grid)}, got {tuple(occupied.shape)}",
    )
    require(block >= 1 and all(side % block == 0 for side in grid), f"block={block} does not divide the grid {grid}")
    area = block**2
    squares, hidden = math.prod(grid) // area, num_hidden // area
    require(
        num_hidden % area == 0 and 1 <= hidden < squares,
        f"num_hidden must be a multiple of {area} in {area}..{(squares - 1) * area}",
    )
    occupied_BN = rearrange(occupied, "b (h i) (w j) -> b (h w) (i j)", i=block, j=block).any(-1)
    hidden_BN = _hide_both_kinds(occupied_BN, hidden, uniform(batch_size, squares, generator))
    rows = rearrange(hidden_BN, "b (h w) -> b h w", w=grid[1] // block)
    return partition(repeat(rows, "b h w -> b (h i w j)", i=block, j=block), num_hidden, grid)


def _hide_both_kinds(
    occupied_BN: Bool[Tensor, "B N"], num_hidden: int, keys_BN: Float[Tensor, "B N"]
) -> Bool[Tensor, "B N"]:
    """``num_hidden`` true squares of each row, the same share of the occupied and of the empty ones."""
    squares = occupied_BN.shape[1]
    order_BN = (keys_BN + (~occupied_BN).float()).argsort(dim=1)  # occupied squares first, random inside each kind
    num_occupied_B1 = occupied_BN.sum(1, keepdim=True)
    from_occupied_B1 = (num_occupied_B1 * (num_hidden / squares)).round().long()
    last_empty_B1 = num_occupied_B1 + num_hidden - from_occupied_B1
    rank = torch.arange(squares, device=keys_BN.device)
    chosen_BN = (rank < from_occupied_B1) | ((rank >= num_occupied_B1) & (rank < last_empty_B1))
    return torch.zeros_like(occupied_BN).scatter(1, order_BN, chosen_BN)
