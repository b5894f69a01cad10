"""I-JEPA's sampler as its authors published it, for comparison with `blocks.multi_block`.

A set of cells is one whole number here: bit i stands for cell i.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Generator

from jepa_lab.masks.common import Grid, Masks, Shape, require, require_targets


def multi_block_published(
    grid: Grid,
    batch_size: int,
    generator: Generator,
    *,
    num_targets: int = 4,
    target_scale: tuple[float, float] = (0.15, 0.2),
    target_aspect: tuple[float, float] = (0.75, 1.5),
    context_scale: tuple[float, float] = (0.85, 1.0),
    min_keep: int = 10,
) -> Masks:
    """I-JEPA's sampler as published (facebookresearch/ijepa, src/masks/multiblock.py): C and K vary per call.

    Kept on purpose: (1) one target and one context size per batch, scale and aspect from the same uniform
    number; (2) sides strictly below the grid's and the last corner excluded, so the last row and column
    are never used; (3) a context of ``min_keep`` tokens or fewer is drawn again, and every 20 failures one
    target less is kept out of it; (4) all contexts cut to the shortest of the batch in raster order.

    Left out: the authors draw a *target* of ``min_keep`` tokens or fewer again, too. A target's size is fixed for the
    batch, so that check passes at once or never. On 7 x 7 tokens targets have at most 12 tokens, mostly 6 to 9, and
    with their ``min_keep`` of 10 their code hangs in nine batches of ten.
    """
    require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}")
    require(len(grid) == 2, f"block masks need a grid (rows, columns), got {grid}")
    require_targets(num_targets, math.prod(grid))
    rng = random.Random(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
    target_size = published_size(grid, rng.random(), target_scale, target_aspect)
    context_size = published_size(grid, rng.random(), context_scale, (1.0, 1.0))
    _check_sizes(grid, target_size, context_size, target_scale, min_keep)
    contexts, targets = [], []
    for _ in range(batch_size):
        blocks = [_block(grid, target_size, rng) for _ in range(num_targets)]
        contexts.append(_cells(_context(grid, context_size, blocks, min_keep, rng)))
        targets.append([_cells(block) for block in blocks])
    shortest = min(map(len, contexts))
    context_idx = torch.tensor([context[:shortest] for context in contexts], device=generator.device)
    return Masks(context_idx, torch.tensor(targets, device=generator.device), grid)


def published_size(grid: Grid, u: float, scale: tuple[float, float], aspect: tuple[float, float]) -> Shape:
    """Rows and columns of a block. One uniform number sets scale and aspect; both sides stay below the grid's."""
    area = int(math.prod(grid) * (scale[0] + u * (scale[1] - scale[0])))
    ratio = aspect[0] + u * (aspect[1] - aspect[0])
    return min(round(math.sqrt(area * ratio)), grid[0] - 1), min(round(math.sqrt(area / ratio)), grid[1] - 1)


def _check_sizes(
    grid: Grid, target_size: Shape, context_size: Shape, target_scale: tuple[float, float], min_keep: int
) -> None:
    """Raises ValueError when a target would be empty, or no context could ever be large enough."""
    require(
        min(target_size) >= 1, f"a {grid[0]} x {grid[1]} grid is too small for target blocks of scale {target_scale}"
    )
    require(
        math.prod(context_size) > min_keep,
        f"a context block of {context_size} never keeps more than min_keep={min_keep} tokens",
    )


def _context(grid: Grid, size: Shape, blocks: list[int], min_keep: int, rng: random.Random) -> int:
    """A block without the target blocks, drawn until it keeps enough; every 20 failures one target more may overlap."""
    context = failures = 0
    while context.bit_count() <= min_keep:
        context = _block(grid, size, rng)
        for hidden in blocks[: max(len(blocks) - failures // 20, 0)]:
            context &= ~hidden
        failures += 1
    return context


def _block(grid: Grid, size: Shape, rng: random.Random) -> int:
    """The cells of one block at a random corner; the last corner is never drawn."""
    top, left = (rng.randrange(side - length) for side, length in zip(grid, size, strict=True))
    line = ((1 << size[1]) - 1) << left
    return sum(line << (row * grid[1]) for row in range(top, top + size[0]))


def _cells(bits: int) -> list[int]:
    """The numbers of the cells in a set, ascending."""
    return [cell for cell, bit in enumerate(reversed(f"{bits:b}")) if bit == "1"]
