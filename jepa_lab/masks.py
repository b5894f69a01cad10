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
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
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


def _check_targets(num_targets: int, tokens: int) -> None:
    _require(
        1 <= num_targets <= tokens, f"num_targets must lie in 1..{tokens}, the number of tokens, got {num_targets}"
    )


def _check_blocks(grid: Grid, num_targets: int, shapes: Sequence[Shape], num_context: int) -> int:
    """The common area K of ``shapes``; raises when the request cannot always be met."""
    _require(len(grid) == 2 and min(grid) >= 1, f"block masks need a grid (rows, columns), got {grid}")
    _require(len(shapes) >= 1, "target_shapes is empty: give at least one (rows, columns)")
    for height, width in shapes:
        _require(
            1 <= height <= grid[0] and 1 <= width <= grid[1],
            f"a {height} x {width} block does not fit in a {grid[0]} x {grid[1]} grid",
        )
    areas = {height * width for height, width in shapes}
    _require(len(areas) == 1, f"target_shapes must have one common area, got areas {sorted(areas)}: use block_shapes")
    (size,), tokens = areas, grid[0] * grid[1]
    _check_targets(num_targets, tokens)
    _require(num_context >= 1, f"num_context must be at least 1, got {num_context}")
    _require(
        num_context <= tokens - size,
        f"num_context={num_context} is impossible: a block of {size} leaves {tokens - size} of {tokens} tokens",
    )
    return size


def _draw_blocks(
    u_BP: Tensor, grid: Grid, num_targets: int, shapes: Sequence[Shape], context_scale: tuple[float, float]
):
    """R candidate draws per sample: target top, left, width [M,R,B], and the cells open to the context [H,W,R,B].

    The batch comes last because every step is elementwise over it: the inner loops are then long ones.
    """
    (rows, cols), sizes = grid, [num_targets, num_targets, num_targets, 1, 1, 1]
    u_PRB = rearrange(u_BP, "b (r p) -> p r b", p=sum(sizes)).contiguous()
    u_shape, u_top, u_left, u_scale, u_seen_top, u_seen_left = u_PRB.split(sizes)
    choice = (u_shape * len(shapes)).int()
    height, width = _pick([h for h, _ in shapes], choice), _pick([w for _, w in shapes], choice)
    top, left = _corner(u_top, height, rows), _corner(u_left, width, cols)
    side = (context_scale[0] + u_scale * (context_scale[1] - context_scale[0])).sqrt()
    tall, wide = (side * rows).round().int().clamp(min=1), (side * cols).round().int().clamp(min=1)
    seen_row, seen_col = (
        _span(_corner(u_seen_top, tall, rows), tall, rows),
        _span(_corner(u_seen_left, wide, cols), wide, cols),
    )
    open_HWRB = seen_row[0, :, None] & seen_col[0, None]
    for in_row_HRB, in_col_WRB in zip(_span(top, height, rows), _span(left, width, cols), strict=True):
        open_HWRB &= ~(in_row_HRB[:, None] & in_col_WRB[None])
    return top, left, width, open_HWRB


def _block_tokens(top: Tensor, left: Tensor, width: Tensor, size: int, cols: int) -> Int64[Tensor, "B M K"]:
    """Flat indices of blocks [B,M], row-major inside a block; widths may differ between blocks of equal area."""
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
    tokens, numbers = math.prod(grid), CANDIDATES * (3 * num_targets + 3)
    u_BP, keys_BN = _uniform(batch_size, numbers + tokens, generator).split([numbers, tokens], dim=1)
    *blocks_MRB, open_HWRB = _draw_blocks(u_BP, grid, num_targets, target_shapes, context_scale)
    enough_RB = open_HWRB.sum((0, 1), dtype=torch.int32) >= num_context
    first_RB = enough_RB.byte().argmax(dim=0, keepdim=True)  # the first true one, or 0 when there is none
    feasible_B = enough_RB.any(dim=0)
    top_MB, left_MB, width_MB = (
        torch.where(feasible_B, x_MB, x_MB[:1])
        for x_MB in (x.take_along_dim(first_RB[None], 1).squeeze(1) for x in blocks_MRB)
    )
    target_idx = _block_tokens(
        top_MB.T, left_MB.T, width_MB.T, size, grid[1]
    ).contiguous()  # compiled graphs need plain strides
    open_BN = rearrange(open_HWRB.take_along_dim(first_RB[None, None], 2), "h w 1 b -> b (h w)")
    outside_first_BN = torch.ones_like(open_BN).scatter(1, target_idx[:, 0], False)
    context_idx = choose_true(torch.where(feasible_B[:, None], open_BN, outside_first_BN), keys_BN, num_context)
    return Masks(context_idx, target_idx, grid)


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
    _require(len(grid) == 2 and min(grid) >= 1, f"block_shapes needs a grid (rows, columns), got {grid}")
    _require(0 < scale[0] <= scale[1] < 1, f"scale must satisfy 0 < low <= high < 1, got {scale}")
    _require(0 < aspect[0] <= aspect[1], f"aspect must satisfy 0 < low <= high, got {aspect}")
    tokens = grid[0] * grid[1]
    low, high = scale[0] * tokens, scale[1] * tokens
    found = {area: shapes for area in range(1, tokens) if (shapes := shapes_of_area(grid, area, aspect))}
    _require(
        bool(found), f"no block with rows / columns in {aspect} fits in a {grid[0]} x {grid[1]} grid: widen aspect"
    )

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
    _require(0 <= quantile < 1, f"quantile must satisfy 0 <= quantile < 1, got {quantile}")
    size = _check_blocks(grid, num_targets, target_shapes, 1)
    u_BP = _uniform(draws, 3 * num_targets + 3, torch.Generator().manual_seed(0))
    open_B = _draw_blocks(u_BP, grid, num_targets, target_shapes, context_scale)[-1].sum((0, 1)).flatten()
    budget = int(open_B.sort().values[int(quantile * draws)])
    return max(1, min(budget, math.prod(grid) - size))


def single_block(grid: Grid, batch_size: int, generator: Generator, *, target_size: int, num_context: int) -> Masks:
    """I-JEPA table 6 "block": one large block of ``target_size`` cells hidden, context from everything else.

    Give ``target_size = M * K`` to predict as many tokens as M blocks of K. Aspect within 1/2 and 2.
    """
    shapes = shapes_of_area(grid, target_size)
    _require(
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


def random_tokens(
    grid: Grid, batch_size: int, generator: Generator, *, num_targets: int, target_size: int, num_context: int
) -> Masks:
    """I-JEPA table 6 "random": scattered tokens instead of blocks, on a grid of any dimension.

    The context is a uniform subset; each of the M targets is a uniform subset of the other tokens, so
    targets may share tokens, as blocks do. Needs ``num_context + target_size <= N``.
    """
    tokens = math.prod(grid)
    _check_targets(num_targets, tokens)
    _require(min(target_size, num_context) >= 1, "target_size and num_context must be at least 1")
    _require(
        num_context + target_size <= tokens,
        f"num_context={num_context} and target_size={target_size} need {num_context + target_size} tokens, the grid has {tokens}",
    )
    keys_BXN = _uniform(batch_size, (1 + num_targets) * tokens, generator).unflatten(1, (1 + num_targets, tokens))
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


def _compose(total: int, parts: int, keys_BP: Float[Tensor, "B P"]) -> Int64[Tensor, "B parts"]:
    """Uniform over all ways to write ``total`` as ``parts`` ordered whole numbers >= 0 (stars and bars)."""
    bars = choose_true(torch.ones_like(keys_BP, dtype=torch.bool), keys_BP, parts - 1)
    edges = (
        torch.nn.functional.pad(bars, (1, 0), value=-1),
        torch.nn.functional.pad(bars, (0, 1), value=total + parts - 1),
    )
    return edges[1] - edges[0] - 1


def time_blocks(
    length: int, batch_size: int, generator: Generator, *, num_context: int, num_blocks: int, min_block: int
) -> Masks:
    """ECG-JEPA section 3: hide ``num_blocks`` stretches of a series; one target holds every hidden step.

    The hidden ``length - num_context`` steps are cut into blocks of at least ``min_block``, placed
    uniformly over all arrangements (blocks may touch). The paper draws the number of blocks too; it is
    a setting here. Context and target partition the series: M = 1, K = length - num_context.
    """
    hidden, spare = length - num_context, length - num_context - num_blocks * min_block
    _require(num_blocks >= 1 and min_block >= 1, "num_blocks and min_block must be at least 1")
    _require(1 <= num_context < length, f"num_context must lie in 1..{length - 1}, got {num_context}")
    _require(spare >= 0, f"{num_blocks} blocks of at least {min_block} steps need more than the {hidden} hidden steps")
    bars = [spare + num_blocks - 1, num_context + num_blocks]
    u_size, u_gap = _uniform(batch_size, sum(bars), generator).split(bars, dim=1)
    size_BX = _compose(spare, num_blocks, u_size) + min_block
    gap_BX = _compose(num_context, num_blocks + 1, u_gap)[:, :-1]
    stop_BX = (gap_BX + size_BX).cumsum(1)
    step = torch.arange(length, device=generator.device)
    hidden_BN = ((step >= (stop_BX - size_BX)[..., None]) & (step < stop_BX[..., None])).any(1)
    return _partition(hidden_BN, hidden, (length,))


def _partition(hidden_BN: Bool[Tensor, "B N"], hidden: int, grid: Grid) -> Masks:
    """One target of all ``hidden`` true tokens of each row, the context all the others, both ascending."""
    order_BN = hidden_BN.byte().argsort(dim=1, stable=True)
    context_idx, target_idx = order_BN.split([order_BN.shape[1] - hidden, hidden], dim=1)
    return Masks(context_idx, target_idx[:, None], grid)


def future_steps(
    length: int, batch_size: int, generator: Generator, *, num_context: int, num_future: int, gap: int = 0
) -> Masks:
    """Sequences: a window of ``num_context`` steps is seen, the ``num_future`` steps after ``gap`` more are the target.

    The window starts uniformly anywhere it fits. M = 1, K = num_future.
    """
    needed = num_context + gap + num_future
    _require(
        num_context >= 1 and num_future >= 1 and gap >= 0,
        "num_context and num_future must be at least 1, gap at least 0",
    )
    _require(needed <= length, f"context, gap and future need {needed} steps, the sequence has {length}")
    start_B1 = (_uniform(batch_size, 1, generator) * (length - needed + 1)).long()
    step = start_B1 + torch.arange(needed, device=generator.device)
    return Masks(step[:, :num_context], step[:, None, num_context + gap :], (length,))


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
    _require(
        tuple(occupied.shape) == (batch_size, *grid),
        f"occupied must have shape {(batch_size, *grid)}, got {tuple(occupied.shape)}",
    )
    _require(block >= 1 and all(side % block == 0 for side in grid), f"block={block} does not divide the grid {grid}")
    tokens, hidden, area = math.prod(grid) // block**2, num_hidden // block**2, block**2
    _require(
        num_hidden % area == 0 and 1 <= hidden < tokens,
        f"num_hidden must be a multiple of {area} in {area}..{(tokens - 1) * area}",
    )
    squares_BN = rearrange(occupied, "b (h i) (w j) -> b (h w) (i j)", i=block, j=block).any(-1)
    keys_BN = _uniform(batch_size, tokens, generator)
    order_BN = (keys_BN + (~squares_BN).float()).argsort(dim=1)  # occupied cells first, random inside each kind
    num_occupied_B1 = squares_BN.sum(1, keepdim=True)
    from_occupied_B1 = (num_occupied_B1 * (hidden / tokens)).round().long()
    rank = torch.arange(tokens, device=generator.device)
    chosen = (rank < from_occupied_B1) | (
        (rank >= num_occupied_B1) & (rank < num_occupied_B1 + hidden - from_occupied_B1)
    )
    hidden_BN = torch.zeros_like(squares_BN).scatter(1, order_BN, chosen)
    rows = rearrange(hidden_BN, "b (h w) -> b h w", w=grid[1] // block)
    return _partition(repeat(rows, "b h w -> b (h i w j)", i=block, j=block), num_hidden, grid)


def local_windows(
    grid: Grid, batch_size: int, generator: Generator, *, window: int, num_windows: int, num_hidden: int
) -> Masks:
    """SAR-JEPA section 3 (LoMaR windows): ``num_windows`` squares per image, in each ``num_hidden`` tokens hidden.

    Every window is a task of its own, so row ``b * num_windows + w`` of the masks is window ``w`` of
    image ``b``. The windows of an image have different tops and different lefts. The published code
    shares one set of windows in the whole batch; here each image draws its own.
    """
    _require(
        len(grid) == 2 and window >= 1,
        f"windows of at least 1 need a grid (rows, columns), got window={window}, grid {grid}",
    )
    area, starts = window * window, [side - window + 1 for side in grid]
    _require(1 <= num_hidden < area, f"num_hidden must lie in 1..{area - 1}, got {num_hidden}")
    _require(
        1 <= num_windows <= min(starts),
        f"{num_windows} different {window} x {window} windows do not fit in the grid {grid}",
    )
    sizes = [*starts, num_windows * area]
    u_top, u_left, keys = _uniform(batch_size, sum(sizes), generator).split(sizes, dim=1)
    top, left = (rearrange(u.argsort(1)[:, :num_windows], "b w -> (b w) 1") for u in (u_top, u_left))
    keys_XA = rearrange(keys, "b (w a) -> (b w) a", a=area)
    hidden_XA = torch.zeros_like(keys_XA, dtype=torch.bool).scatter(1, keys_XA.topk(num_hidden).indices, True)
    local = _partition(hidden_XA, num_hidden, (window, window))

    placed = [
        (top + cell // window) * grid[1] + left + cell % window for cell in (local.context_idx, local.target_idx[:, 0])
    ]
    return Masks(placed[0], placed[1][:, None], grid)


def _published_size(grid: Grid, u: float, scale: tuple[float, float], aspect: tuple[float, float]) -> Shape:
    """One uniform number sets scale and aspect; both sides are then kept strictly below the grid's."""
    area = int(math.prod(grid) * (scale[0] + u * (scale[1] - scale[0])))
    ratio = aspect[0] + u * (aspect[1] - aspect[0])
    return min(round(math.sqrt(area * ratio)), grid[0] - 1), min(round(math.sqrt(area / ratio)), grid[1] - 1)


def _published_block(grid: Grid, size: Shape, rng: random.Random) -> int:
    """The cells of one block at a random corner, as the bits of an integer; the last corner is never drawn."""
    top, left = (rng.randrange(side - length) for side, length in zip(grid, size, strict=True))
    line = ((1 << size[1]) - 1) << left
    return sum(line << (row * grid[1]) for row in range(top, top + size[0]))


def _cells(bits: int) -> list[int]:
    return [cell for cell, bit in enumerate(reversed(f"{bits:b}")) if bit == "1"]


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
    """I-JEPA's sampler as its authors published it, for comparison with `multi_block`: C and K vary per call.

    Kept on purpose: (1) one target and one context size per batch, scale and aspect from the same uniform
    number; (2) sides strictly below the grid's and the last corner excluded, so the last row and column
    are never used; (3) a context of ``min_keep`` tokens or fewer is drawn again, and every 20 failures one
    target less is kept out of it; (4) all contexts cut to the shortest of the batch in raster order.

    Left out: the authors draw a *target* of ``min_keep`` tokens or fewer again, too. Its size is fixed for the batch,
    so
    that check passes at once or never: on 7 x 7 tokens with their ``min_keep`` of 10 their code hangs in nine batches
    of
    ten, since targets have 12 tokens at most and mostly 6 to 9.
    """
    _require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}")
    _require(len(grid) == 2, f"block masks need a grid (rows, columns), got {grid}")
    _check_targets(num_targets, math.prod(grid))
    rng = random.Random(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
    target_size = _published_size(grid, rng.random(), target_scale, target_aspect)
    context_size = _published_size(grid, rng.random(), context_scale, (1.0, 1.0))
    _require(
        min(target_size) >= 1, f"a {grid[0]} x {grid[1]} grid is too small for target blocks of scale {target_scale}"
    )
    _require(
        math.prod(context_size) > min_keep,
        f"a context block of {context_size} never keeps more than min_keep={min_keep} tokens",
    )

    contexts, targets = [], []
    for _ in range(batch_size):
        blocks = [_published_block(grid, target_size, rng) for _ in range(num_targets)]
        context = failures = 0
        while context.bit_count() <= min_keep:
            context = _published_block(grid, context_size, rng)
            for hidden in blocks[: max(num_targets - failures // 20, 0)]:
                context &= ~hidden
            failures += 1
        contexts.append(_cells(context))
        targets.append([_cells(hidden) for hidden in blocks])
    shortest = min(map(len, contexts))
    context_idx = torch.tensor([context[:shortest] for context in contexts], device=generator.device)
    return Masks(context_idx, torch.tensor(targets, device=generator.device), grid)
