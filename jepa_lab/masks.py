"""Who sees what: mask samplers for every modality, all returning one record of token indices.

A sampler is a pure function of (grid, batch size, generator, settings). Everything stays on the
generator's device, nothing is read back to the host, and the shapes depend on the settings only.
Row ``i`` of a batch uses row ``i`` of one table of uniform numbers and nothing else, so a sample's
masks never depend on its batch mates.

Shapes: B batch, N tokens of the grid, R candidate draws, M target blocks, K tokens per block,
C context tokens, H x W rows and columns of a 2-D grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

Grid = tuple[int, ...]
Shape = tuple[int, int]
CANDIDATES = 8  # draws per sample; at 90 % acceptance the last resort is used once in 1e8 samples


@dataclass(frozen=True)
class Masks:
    """Which tokens of each sample the encoder sees and which the predictor must fill in.

    ``context_idx`` Int64[B, C] is ascending; ``target_idx`` Int64[B, M, K] holds M blocks of K tokens;
    both index the flattened ``grid`` (row-major for two dimensions).
    """

    context_idx: Int64[Tensor, "B C"]
    target_idx: Int64[Tensor, "B M K"]
    grid: Grid


def _require(ok: bool, reason: str) -> None:
    if not ok:
        raise ValueError(reason)


def _uniform(batch_size: int, numbers: int, generator: Generator) -> Float[Tensor, "B P"]:
    """One row of uniform numbers per sample: the only randomness a sampler uses."""
    _require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}")
    return torch.rand(batch_size, numbers, generator=generator, device=generator.device)


def choose_true(allowed_BN: Bool[Tensor, "... N"], keys_BN: Float[Tensor, "... N"], k: int) -> Int64[Tensor, "... k"]:
    """``k`` random true positions of each row, ascending. Each row needs at least ``k`` true entries."""
    chosen = keys_BN.masked_fill(~allowed_BN, -1.0).topk(k, dim=-1, sorted=False).indices
    return chosen.sort(dim=-1).values


def _span(start: Tensor, size: Tensor, length: int) -> Tensor:
    """Boolean [..., length]: true on ``start .. start + size``."""
    position = torch.arange(length, device=start.device)
    return (position >= start[..., None]) & (position < (start + size)[..., None])


def _pick(values: Sequence[int], choice: Tensor) -> Tensor:
    """``values[choice]`` without copying a Python list to the device, which would stall it."""
    return sum((choice == i) * value for i, value in enumerate(values))


def _corner(u: Tensor, size: Tensor, length: int) -> Tensor:
    """Uniform over all ``length - size + 1`` valid starts, the last one included."""
    return (u * (length - size + 1)).long()


def _check_blocks(grid: Grid, num_targets: int, shapes: Sequence[Shape], num_context: int) -> int:
    """The common area K of ``shapes``; raises when the request cannot always be met."""
    _require(len(grid) == 2 and min(grid) >= 1, f"block masks need a grid (rows, columns), got {grid}")
    _require(num_targets >= 1, f"num_targets must be at least 1, got {num_targets}")
    _require(len(shapes) >= 1, "target_shapes is empty: give at least one (rows, columns)")
    for height, width in shapes:
        _require(1 <= height <= grid[0] and 1 <= width <= grid[1], f"a {height} x {width} block does not fit in a {grid[0]} x {grid[1]} grid")
    areas = {height * width for height, width in shapes}
    _require(len(areas) == 1, f"target_shapes must have one common area, got areas {sorted(areas)}: use block_shapes")
    (size,), tokens = areas, grid[0] * grid[1]
    _require(num_context >= 1, f"num_context must be at least 1, got {num_context}")
    _require(
        num_context <= tokens - size,
        f"num_context={num_context} is impossible: a block of {size} leaves {tokens - size} of {tokens} tokens",
    )
    return size


def _draw_blocks(u_BRP: Tensor, grid: Grid, num_targets: int, shapes: Sequence[Shape], context_scale: tuple[float, float]):
    """Candidate draws: target corners and sizes [B,R,M] and the cells open to the context [B,R,H*W]."""
    rows, cols = grid
    u_shape, u_top, u_left, u_context = u_BRP.split([num_targets, num_targets, num_targets, 3], dim=-1)
    choice = (u_shape * len(shapes)).long()
    height, width = _pick([h for h, _ in shapes], choice), _pick([w for _, w in shapes], choice)
    top, left = _corner(u_top, height, rows), _corner(u_left, width, cols)
    low, high = context_scale
    side = (low + u_context[..., 0] * (high - low)).sqrt()
    tall, wide = (side * rows).round().long().clamp(min=1), (side * cols).round().long().clamp(min=1)
    seen = _span(_corner(u_context[..., 1], tall, rows), tall, rows)[..., :, None]
    seen = seen & _span(_corner(u_context[..., 2], wide, cols), wide, cols)[..., None, :]
    in_row, in_col = _span(top, height, rows), _span(left, width, cols)
    hidden = torch.einsum("brmh,brmw->brhw", in_row.float(), in_col.float()) > 0
    return top, left, height, width, (seen & ~hidden).flatten(-2)


def _block_tokens(top: Tensor, left: Tensor, width: Tensor, size: int, cols: int) -> Tensor:
    """Flat indices [..., size] of blocks, row-major; ``width`` may differ between blocks of equal area."""
    cell = torch.arange(size, device=top.device)
    row = torch.div(cell, width[..., None], rounding_mode="floor")
    return (top[..., None] + row) * cols + left[..., None] + cell - row * width[..., None]


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
    Of 8 candidate draws per sample the first with enough context is taken; when none has enough, all
    targets fall on the first target's block and the context comes from everything else. Choose
    ``num_context`` with `context_budget` and that happens about once in 1e8 samples.

    Raises ValueError when a shape does not fit, areas differ, or ``num_context > N - K``.
    """
    size = _check_blocks(grid, num_targets, target_shapes, num_context)
    low, high = context_scale
    _require(0 < low <= high <= 1, f"context_scale must satisfy 0 < low <= high <= 1, got {context_scale}")
    tokens, per_draw = math.prod(grid), 3 * num_targets + 3
    u_draw, keys_BN = _uniform(batch_size, CANDIDATES * per_draw + tokens, generator).split([CANDIDATES * per_draw, tokens], dim=-1)
    u_BRP = u_draw.unflatten(-1, (CANDIDATES, per_draw))
    top, left, height, width, open_BRN = _draw_blocks(u_BRP, grid, num_targets, target_shapes, context_scale)
    enough_BR = open_BRN.sum(-1) >= num_context
    first_B = enough_BR.byte().argmax(dim=1)  # the first true one, or 0 when there is none
    feasible_B1 = enough_BR.any(dim=1, keepdim=True)

    def first(x_BRX: Tensor) -> Tensor:
        return x_BRX.take_along_dim(first_B[:, None, None], dim=1).squeeze(1)

    top_BM, left_BM, width_BM = (torch.where(feasible_B1, first(x), first(x)[:, :1]) for x in (top, left, width))
    target_idx = _block_tokens(top_BM, left_BM, width_BM, size, grid[1])
    outside_first = torch.ones_like(keys_BN, dtype=torch.bool).scatter(1, target_idx[:, 0], False)
    context_idx = choose_true(torch.where(feasible_B1, first(open_BRN), outside_first), keys_BN, num_context)
    return Masks(context_idx, target_idx, grid)


def shapes_of_area(grid: Grid, area: int, aspect: tuple[float, float] = (0.5, 2.0)) -> list[Shape]:
    """All (rows, columns) blocks of exactly ``area`` cells that fit, with rows / columns within ``aspect``."""
    sides = [(h, area // h) for h in range(1, grid[0] + 1) if area % h == 0 and area // h <= grid[1]]
    return [(h, w) for h, w in sides if aspect[0] <= h / w <= aspect[1]]


def block_shapes(grid: Grid, scale: tuple[float, float] = (0.15, 0.2), aspect: tuple[float, float] = (0.75, 1.5)) -> list[Shape]:
    """Target shapes of one common area for `multi_block`: I-JEPA's scale and aspect ranges on a whole-cell grid.

    Rule: of the areas that have a shape within ``aspect`` (rows / columns), keep those nearest to
    ``scale`` times the grid (by ratio; inside the range counts as nearest), then those with the most
    shapes, then the one nearest to the middle of the range. A block never fills the grid.
    Raises ValueError when no block has that aspect.
    """
    _require(len(grid) == 2 and min(grid) >= 1, f"block_shapes needs a grid (rows, columns), got {grid}")
    _require(0 < scale[0] <= scale[1] < 1, f"scale must satisfy 0 < low <= high < 1, got {scale}")
    _require(0 < aspect[0] <= aspect[1], f"aspect must satisfy 0 < low <= high, got {aspect}")
    tokens = grid[0] * grid[1]
    low, high = scale[0] * tokens, scale[1] * tokens
    found = {area: shapes for area in range(1, tokens) if (shapes := shapes_of_area(grid, area, aspect))}
    _require(bool(found), f"no block with rows / columns in {aspect} fits in a {grid[0]} x {grid[1]} grid: widen aspect")

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
    """The ``num_context`` that a share ``1 - quantile`` of the unconditioned draws can supply (at least 1)."""
    size = _check_blocks(grid, num_targets, target_shapes, 1)
    generator = torch.Generator().manual_seed(0)
    u_BRP = _uniform(draws, 3 * num_targets + 3, generator)[:, None]
    open_B = _draw_blocks(u_BRP, grid, num_targets, target_shapes, context_scale)[-1].sum(-1)[:, 0]
    budget = int(open_B.sort().values[int(quantile * draws)])
    return max(1, min(budget, math.prod(grid) - size))
