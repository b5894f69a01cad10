"""Stretches of a time series.

Shapes: B batch, N steps of the series, P keys, X parts of a whole number.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from jepa_lab.masks.common import Masks, choose_true, partition, require, uniform


def time_blocks(
    length: int, batch_size: int, generator: Generator, *, num_context: int, num_blocks: int, min_block: int
) -> Masks:
    """ECG-JEPA section 3: hide ``num_blocks`` stretches of a series; one target holds every hidden step.

    The hidden ``length - num_context`` steps are cut into blocks of at least ``min_block``, placed
    uniformly over all arrangements (blocks may touch). The paper draws the number of blocks too; it is
    a setting here. Context and target partition the series: M = 1, K = length - num_context.
    """
    hidden, spare = length - num_context, length - num_context - num_blocks * min_block
    require(num_blocks >= 1 and min_block >= 1, "num_blocks and min_block must be at least 1")
    require(1 <= num_context < length, f"num_context must lie in 1..{length - 1}, got {num_context}")
    require(spare >= 0, f"{num_blocks} blocks of at least {min_block} steps need more than the {hidden} hidden steps")
    bars = [spare + num_blocks - 1, num_context + num_blocks]
    u_size, u_gap = uniform(batch_size, sum(bars), generator).split(bars, dim=1)
    size_BX = _compose(spare, num_blocks, u_size) + min_block
    gap_BX = _compose(num_context, num_blocks + 1, u_gap)[:, :-1]
    stop_BX = (gap_BX + size_BX).cumsum(1)
    start_BX = stop_BX - size_BX
    step = torch.arange(length, device=generator.device)
    hidden_BN = ((step >= start_BX[..., None]) & (step < stop_BX[..., None])).any(1)
    return partition(hidden_BN, hidden, (length,))


def _compose(total: int, parts: int, keys_BP: Float[Tensor, "B P"]) -> Int64[Tensor, "B X"]:
    """Uniform over all ways to write ``total`` as ``parts`` ordered whole numbers >= 0 (stars and bars)."""
    bars = choose_true(torch.ones_like(keys_BP, dtype=torch.bool), keys_BP, parts - 1)
    before, after = F.pad(bars, (1, 0), value=-1), F.pad(bars, (0, 1), value=total + parts - 1)
    return after - before - 1
