"""Impossible requests to the mask samplers are refused with the reason."""

import pytest
import torch
from mask_cases import rng

from jepa_lab import masks

BLOCKS = {"target_shapes": [(2, 2)], "num_context": 4}
IMPOSSIBLE = {
    "context larger than what a block leaves": (
        lambda g: masks.multi_block((4, 4), 2, g, target_shapes=[(2, 2)], num_context=13),
        "leaves 12 of 16",
    ),
    "block larger than the grid": (
        lambda g: masks.multi_block((4, 4), 2, g, target_shapes=[(5, 1)], num_context=4),
        "does not fit",
    ),
    "blocks of different area": (
        lambda g: masks.multi_block((4, 4), 2, g, target_shapes=[(2, 2), (1, 2)], num_context=4),
        "one common area",
    ),
    "no shape": (lambda g: masks.multi_block((4, 4), 2, g, target_shapes=[], num_context=4), "is empty"),
    "no target": (lambda g: masks.multi_block((4, 4), 2, g, num_targets=0, **BLOCKS), "num_targets"),
    "more targets than tokens": (
        lambda g: masks.multi_block((4, 4), 2, g, num_targets=17, **BLOCKS),
        r"1\.\.16, the number of tokens",
    ),
    "more scattered targets than tokens": (
        lambda g: masks.random_tokens((3, 3), 2, g, num_targets=10, target_size=1, num_context=1),
        r"1\.\.9, the number of tokens",
    ),
    "no context": (
        lambda g: masks.multi_block((4, 4), 2, g, target_shapes=[(2, 2)], num_context=0),
        "num_context must be",
    ),
    "scale above one": (lambda g: masks.multi_block((4, 4), 2, g, context_scale=(0.9, 1.2), **BLOCKS), "context_scale"),
    "empty batch": (lambda g: masks.multi_block((4, 4), 0, g, **BLOCKS), "batch_size"),
    "blocks on a line": (lambda g: masks.multi_block((16,), 2, g, **BLOCKS), r"\(rows, columns\)"),
    "aspect that no block has": (lambda g: masks.block_shapes((3, 3), aspect=(5.0, 6.0)), "widen aspect"),
    "a budget that no draw can supply": (
        lambda g: masks.context_budget((4, 4), [(2, 2)], quantile=1.0),
        "0 <= quantile < 1, got 1.0",
    ),
    "scale of the whole grid": (lambda g: masks.block_shapes((3, 3), scale=(0.5, 1.0)), "scale must"),
    "area without a block": (lambda g: masks.single_block((5, 5), 2, g, target_size=7, num_context=4), "no block of 7"),
    "more tokens than there are": (
        lambda g: masks.random_tokens((3, 3), 2, g, num_targets=2, target_size=5, num_context=5),
        "needs? 10",
    ),
    "more columns than there are": (
        lambda g: masks.columns(5, 2, g, num_targets=1, target_size=3, num_context=3),
        "the grid has 5",
    ),
    "blocks longer than the hidden part": (
        lambda g: masks.time_blocks(20, 2, g, num_context=10, num_blocks=4, min_block=3),
        "10 hidden",
    ),
    "everything seen": (lambda g: masks.time_blocks(20, 2, g, num_context=20, num_blocks=1, min_block=1), "1..19"),
    "occupancy of another batch": (
        lambda g: masks.bev_cells((4, 4), 3, g, occupied=torch.ones(2, 4, 4, dtype=torch.bool), num_hidden=4),
        r"\(3, 4, 4\)",
    ),
    "block that does not divide": (
        lambda g: masks.bev_cells((5, 5), 2, g, occupied=torch.ones(2, 5, 5, dtype=torch.bool), num_hidden=4, block=2),
        "does not divide",
    ),
    "every cell hidden": (
        lambda g: masks.bev_cells((4, 4), 2, g, occupied=torch.ones(2, 4, 4, dtype=torch.bool), num_hidden=16),
        "num_hidden",
    ),
    "more cells hidden than there are": (
        lambda g: masks.bev_cells((4, 4), 2, g, occupied=torch.ones(2, 4, 4, dtype=torch.bool), num_hidden=17),
        r"num_hidden must be .* 1\.\.15",
    ),
    "block of no cells": (
        lambda g: masks.bev_cells((4, 4), 2, g, occupied=torch.ones(2, 4, 4, dtype=torch.bool), num_hidden=4, block=0),
        "block=0 does not divide",
    ),
    "windows on a line": (
        lambda g: masks.local_windows((16,), 2, g, window=2, num_windows=1, num_hidden=1),
        r"\(rows, columns\)",
    ),
    "window of no cells": (
        lambda g: masks.local_windows((4, 4), 2, g, window=0, num_windows=1, num_hidden=1),
        "window=0",
    ),
    "more windows than places": (
        lambda g: masks.local_windows((4, 4), 2, g, window=3, num_windows=3, num_hidden=4),
        "do not fit",
    ),
    "no time block": (lambda g: masks.time_blocks(20, 2, g, num_context=10, num_blocks=0, min_block=1), "at least 1"),
    "window larger than the grid": (
        lambda g: masks.local_windows((4, 4), 2, g, window=5, num_windows=1, num_hidden=3),
        "do not fit",
    ),
    "window fully hidden": (lambda g: masks.local_windows((4, 4), 2, g, window=2, num_windows=1, num_hidden=4), "1..3"),
    "published on a tiny grid": (lambda g: masks.multi_block_published((3, 3), 2, g), "never keeps more than"),
    "published for an empty batch": (lambda g: masks.multi_block_published((7, 7), 0, g), "batch_size"),
    "published on a line": (lambda g: masks.multi_block_published((49,), 2, g), r"\(rows, columns\)"),
    "published without a target": (lambda g: masks.multi_block_published((7, 7), 2, g, num_targets=0), "num_targets"),
    "published without room for a target": (
        lambda g: masks.multi_block_published((2, 2), 2, g, min_keep=0),
        "too small",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_requests_are_refused_with_the_reason(case):
    call, reason = IMPOSSIBLE[case]
    with pytest.raises(ValueError, match=reason):
        call(rng())
