"""I-JEPA's masks: rectangular target blocks, and a context block without them.

Shapes: B batch, N tokens of the grid, P uniform numbers, R candidate draws, M target blocks, K tokens per block,
H x W rows and columns of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Int64
from torch import Generator, Tensor

from jepa_lab.masks.common import Grid, Masks, Shape, choose_true, require, require_targets, uniform

CANDIDATES = 8  # draws per sample; at 90 % acceptance the last resort is used once in 1e8 samples


def multi_block(
    grid: Grid,
    batch_size: int,
    generator: Generator,
    *,
    num_targets: int = 4,
    target_shapes: Sequence[Shape],
    context_scale: tuple[float, float] = (0.85, 1.0),
    num_context: int,
) -> Masks:
    """I-JEPA section 3 "Context", "Targets": M blocks to predict from one spread-out block without them.

    Corrected in three ways against the published code (`multi_block_published`): corners are uniform
    over all valid positions, last row and column included; shape and position are drawn per sample;
    exactly ``num_context`` tokens are kept at random, never the first ones in raster order.

    The sampler takes the first of 8 candidate draws that has enough context. When none has, all targets fall on the
    first target's block and the context comes from everything else. With ``num_context`` from `context_budget` this
    happens about once in 1e8 samples.
    Raises ValueError when a shape does not fit, areas differ, or ``num_context > N - K``.
    """
    size = _check_blocks(grid, num_targets, target_shapes, num_context)
    low, high = context_scale
    require(0 < low <= high <= 1, f"context_scale must satisfy 0 < low <= high <= 1, got {context_scale}")
    tokens, numbers = math.prod(grid), CANDIDATES * (3 * num_targets + 3)
    u_BP, keys_BN = uniform(batch_size, numbers + tokens, generator).split([numbers, tokens], dim=1)
    *blocks_MRB, open_HWRB = draw_blocks(u_BP, grid, num_targets, target_shapes, context_scale)
    blocks_MB, open_BN, feasible_B = _first_feasible(blocks_MRB, open_HWRB, num_context)
    target_idx = _block_tokens(*(x_MB.T for x_MB in blocks_MB), size, grid[1])
    outside_first_BN = torch.ones_like(open_BN).scatter(1, target_idx[:, 0], False)
    allowed_BN = torch.where(feasible_B[:, None], open_BN, outside_first_BN)
    return Masks(choose_true(allowed_BN, keys_BN, num_context), target_idx, grid)


def single_block(grid: Grid, batch_size: int, generator: Generator, *, target_size: int, num_context: int) -> Masks:
    """I-JEPA table 6 "block": one large block of ``target_size`` cells hidden, context from everything else.

    Give ``target_size = M * K`` to predict as many tokens as M blocks of K. Aspect within 1/2 and 2.
    """
    shapes = shapes_of_area(grid, target_size)
    require(
        bool(shapes),
        f"no block of {target_size} cells with aspect within 1/2 and 2 fits in a {grid[0]} x {grid[1]} grid",
    )
    return multi_block(
        grid,
        batch_size,
        generator,
        num_targets=1,
        target_shapes=shapes,
        context_scale=(1.0, 1.0),
        num_context=num_context,
    )


# Settings: which shapes, how much context


def shapes_of_area(grid: Grid, area: int, aspect: tuple[float, float] = (0.5, 2.0)) -> list[Shape]:
    """All (rows, columns) blocks of exactly ``area`` cells that fit, with rows / columns within ``aspect``."""
    sides = [(h, area // h) for h in range(1, grid[0] + 1) if area % h == 0 and area // h <= grid[1]]
    return [(h, w) for h, w in sides if aspect[0] <= h / w <= aspect[1]]


def block_shapes(
    grid: Grid, scale: tuple[float, float] = (0.15, 0.2), aspect: tuple[float, float] = (0.75, 1.5)
) -> list[Shape]:
    """Target shapes of one common area for `multi_block`: I-JEPA's scale and aspect ranges on a whole-cell grid.

    Rule: of the areas that have a shape within ``aspect`` (rows / columns), keep those nearest to
    ``scale`` times the grid (by ratio; inside the range counts as nearest), then those with the most
    shapes, then the one nearest to the middle of the range. A block never fills the grid.
    Raises ValueError when no block has that aspect.
    """
    require(len(grid) == 2 and min(grid) >= 1, f"block_shapes needs a grid (rows, columns), got {grid}")
    require(0 < scale[0] <= scale[1] < 1, f"scale must satisfy 0 < low <= high < 1, got {scale}")
    require(0 < aspect[0] <= aspect[1], f"aspect must satisfy 0 < low <= high, got {aspect}")
    tokens = grid[0] * grid[1]
    low, high = scale[0] * tokens, scale[1] * tokens
    found = {area: shapes for area in range(1, tokens) if (shapes := shapes_of_area(grid, area, aspect))}
    require(bool(found), f"no block with rows / columns in {aspect} fits in a {grid[0]} x {grid[1]} grid: widen aspect")

    def rank(area: int) -> tuple[float, int, float]:
        outside = max(0.0, math.log(low / area), math.log(area / high))
        return outside, -len(found[area]), abs(math.log(area / math.sqrt(low * high)))

    return found[min(found, key=rank)]


def context_budget(
    grid: Grid,
    target_shapes: Sequence[Shape],
    *,
    num_targets: int = 4,
    context_scale: tuple[float, float] = (0.85, 1.0),
    quantile: float = 0.1,
    draws: int = 2048,
) -> int:
    """The ``num_context`` that a share ``1 - quantile`` of the unconditioned draws can supply (at least 1).

    Raises ValueError for a quantile outside 0 <= quantile < 1 and for blocks that do not fit.
    """
    require(0 <= quantile < 1, f"quantile must satisfy 0 <= quantile < 1, got {quantile}")
    size = _check_blocks(grid, num_targets, target_shapes, 1)
    u_BP = uniform(draws, 3 * num_targets + 3, torch.Generator().manual_seed(0))
    open_HWRB = draw_blocks(u_BP, grid, num_targets, target_shapes, context_scale)[-1]
    open_B = open_HWRB.sum((0, 1)).flatten()
    budget = int(open_B.sort().values[int(quantile * draws)])
    return max(1, min(budget, math.prod(grid) - size))


# Drawing


def draw_blocks(
    u_BP: Tensor, grid: Grid, num_targets: int, shapes: Sequence[Shape], context_scale: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """R candidate draws per sample: target top, left, width [M,R,B], and the cells open to the context [H,W,R,B].

    The batch comes last because every step is elementwise over it: the inner loops are then long ones.
    """
    rows, cols = grid
    sizes = [num_targets, num_targets, num_targets, 1, 1, 1]
    u_PRB = rearrange(u_BP, "b (r p) -> p r b", p=sum(sizes)).contiguous()
    u_shape, u_top, u_left, u_scale, u_seen_top, u_seen_left = u_PRB.split(sizes)
    choice = (u_shape * len(shapes)).int()
    height, width = _pick([h for h, _ in shapes], choice), _pick([w for _, w in shapes], choice)
    top, left = _corner(u_top, height, rows), _corner(u_left, width, cols)
    side = (context_scale[0] + u_scale * (context_scale[1] - context_scale[0])).sqrt()
    tall, wide = (side * rows).round().int().clamp(min=1), (side * cols).round().int().clamp(min=1)
    seen_row = _span(_corner(u_seen_top, tall, rows), tall, rows)
    seen_col = _span(_corner(u_seen_left, wide, cols), wide, cols)
    open_HWRB = seen_row[0, :, None] & seen_col[0, None]
    for in_row_HRB, in_col_WRB in zip(_span(top, height, rows), _span(left, width, cols), strict=True):
        open_HWRB &= ~(in_row_HRB[:, None] & in_col_WRB[None])
    return top, left, width, open_HWRB


def _first_feasible(
    blocks_MRB: list[Tensor], open_HWRB: Tensor, num_context: int
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Each sample's first candidate with ``num_context`` open cells: blocks [M,B], open cells [B,N], feasible [B].

    A sample without such a candidate gets the first block of its first candidate M times.
    """
    enough_RB = open_HWRB.sum((0, 1), dtype=torch.int32) >= num_context
    first_RB = enough_RB.byte().argmax(dim=0, keepdim=True)  # the first true one, or 0 when there is none
    feasible_B = enough_RB.any(dim=0)
    chosen = [x_MRB.take_along_dim(first_RB[None], 1).squeeze(1) for x_MRB in blocks_MRB]
    blocks_MB = [torch.where(feasible_B, x_MB, x_MB[:1]) for x_MB in chosen]
    open_BN = rearrange(open_HWRB.take_along_dim(first_RB[None, None], 2), "h w 1 b -> b (h w)")
    return blocks_MB, open_BN, feasible_B


def _block_tokens(top: Tensor, left: Tensor, width: Tensor, size: int, cols: int) -> Int64[Tensor, "B M K"]:
    """Flat indices of blocks [B,M], row-major inside a block; widths may differ between blocks of equal area."""
    cell = torch.arange(size, device=top.device)
    row = torch.div(cell, width[..., None], rounding_mode="floor")
    tokens_BMK = (top[..., None] + row) * cols + left[..., None] + cell - row * width[..., None]
    return tokens_BMK.contiguous()  # compiled graphs need plain strides


def _span(start: Tensor, size: Tensor, length: int) -> Tensor:
    """Boolean [..., length, R, B] for starts [..., R, B]: true on ``start .. start + size``."""
    position = torch.arange(length, device=start.device, dtype=start.dtype)[:, None, None]
    start, stop = start.unsqueeze(-3), (start + size).unsqueeze(-3)
    return (position >= start) & (position < stop)


def _pick(values: Sequence[int], choice: Tensor) -> Tensor:
    """``values[choice]`` without copying a Python list to the device, which would stall it."""
    return sum((choice == i) * value for i, value in enumerate(values)).int()


def _corner(u: Tensor, size: Tensor, length: int) -> Tensor:
    """Uniform over all ``length - size + 1`` valid starts, the last one included."""
    return (u * (length - size + 1)).int()


def _check_blocks(grid: Grid, num_targets: int, shapes: Sequence[Shape], num_context: int) -> int:
    """The common area K of ``shapes``; raises ValueError when the request cannot always be met."""
    require(len(grid) == 2 and min(grid) >= 1, f"block masks need a grid (rows, columns), got {grid}")
    require(len(shapes) >= 1, "target_shapes is empty: give at least one (rows, columns)")
    for height, width in shapes:
        require(
            1 <= height <= grid[0] and 1 <= width <= grid[1],
            f"a {height} x {width} block does not fit in a {grid[0]} x {grid[1]} grid",
        )
    areas = {height * width for height, width in shapes}
    require(len(areas) == 1, f"target_shapes must have one common area, got areas {sorted(areas)}: use block_shapes")
    size, tokens = areas.pop(), grid[0] * grid[1]
    require_targets(num_targets, tokens)
    require(num_context >= 1, f"num_context must be at least 1, got {num_context}")
    require(
        num_context <= tokens - size,
        f"num_context={num_context} is impossible: a block of {size} leaves {tokens - size} of {tokens} tokens",
    )
    return size
