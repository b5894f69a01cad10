"""Local windows of an image, each a task of its own.

Shapes: B batch, X = B x windows, A tokens of a window.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Generator, Tensor

from jepa_lab.masks.common import Grid, Masks, partition, require, uniform


def local_windows(
    grid: Grid, batch_size: int, generator: Generator, *, window: int, num_windows: int, num_hidden: int
) -> Masks:
    """SAR-JEPA section 3 (LoMaR windows): ``num_windows`` squares per image, in each ``num_hidden`` tokens hidden.

    Every window is a task of its own, so row ``b * num_windows + w`` of the masks is window ``w`` of
    image ``b``. The windows of an image have different tops and different lefts. The published code
    shares one set of windows in the whole batch; here each image draws its own.
    """
    require(
        len(grid) == 2 and window >= 1,
        f"windows of at least 1 need a grid (rows, columns), got window={window}, grid {grid}",
    )
    area, starts = window * window, [side - window + 1 for side in grid]
    require(1 <= num_hidden < area, f"num_hidden must lie in 1..{area - 1}, got {num_hidden}")
    require(
        1 <= num_windows <= min(starts),
        f"{num_windows} different {window} x {window} windows do not fit in the grid {grid}",
    )
    sizes = [*starts, num_windows * area]
    u_top, u_left, keys = uniform(batch_size, sum(sizes), generator).split(sizes, dim=1)
    top_X1, left_X1 = (rearrange(u.argsort(1)[:, :num_windows], "b w -> (b w) 1") for u in (u_top, u_left))
    keys_XA = rearrange(keys, "b (w a) -> (b w) a", a=area)
    hidden_XA = torch.zeros_like(keys_XA, dtype=torch.bool).scatter(1, keys_XA.topk(num_hidden).indices, True)
    local = partition(hidden_XA, num_hidden, (window, window))

    def placed(cell: Tensor) -> Tensor:
        return (top_X1 + cell // window) * grid[1] + left_X1 + cell % window

    return Masks(placed(local.context_idx), placed(local.target_idx[:, 0])[:, None], grid)
