"""Shared by the tests of masks: any sampler with any feasible setting, and what well-formed masks are."""

from functools import partial

import torch
from hypothesis import settings
from hypothesis import strategies as st

from jepa_lab import masks
from jepa_lab.masks import Masks

repeatable = settings(derandomize=True, deadline=None, max_examples=100)
few = settings(repeatable, max_examples=15)
SIDE, SEED = st.integers(2, 10), st.integers(0, 2**31)
NAMES = (
    "multi_block",
    "single_block",
    "random_tokens",
    "columns",
    "time_blocks",
    "bev_cells",
    "local_windows",
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def frequency(indices: torch.Tensor, grid) -> torch.Tensor:
    """Share of the rows of ``indices`` that hold each cell."""
    flat = indices.flatten(0, -2)
    return torch.zeros(len(flat), torch.Size(grid).numel()).scatter(1, flat, 1.0).mean(0).reshape(grid)


def occupancy(batch_size, grid, generator):
    return torch.rand(batch_size, *grid, generator=generator) < 0.3


def blocks_of(grid, count, scale):
    shapes = masks.block_shapes(grid, (scale, scale + 0.1), (0.5, 2.0))
    budget = masks.context_budget(grid, shapes, num_targets=count, draws=256)
    return partial(masks.multi_block, grid, num_targets=count, target_shapes=shapes, num_context=budget)


def cells_of(grid, size):
    occupied = occupancy(64, grid, rng(1))
    return lambda b, g: masks.bev_cells(grid, b, g, occupied=occupied[:b], num_hidden=size)


def windows_of(grid, count, size):
    window = min(size, *grid)
    num_windows = min(count, min(grid) - window + 1)
    return partial(masks.local_windows, grid, window=window, num_windows=num_windows, num_hidden=window)


def sampler_of(name, grid, count, length, size, scale, block):
    """A sampler as a function of batch size and generator, with settings that it can always meet."""
    if name == "multi_block":
        return blocks_of(grid, count, scale)
    if name == "single_block":
        return partial(masks.single_block, grid, target_size=1, num_context=size)
    if name == "random_tokens":
        return partial(masks.random_tokens, grid, num_targets=count, target_size=size, num_context=size)
    if name == "columns":
        return partial(masks.columns, length, num_targets=count, target_size=3, num_context=4)
    if name == "time_blocks":
        return partial(masks.time_blocks, length, num_context=length // 4, num_blocks=count, min_block=block)
    if name == "bev_cells":
        return cells_of(grid, size)
    return windows_of(grid, count, size)


@st.composite
def requests(draw):
    """The arguments of `sampler_of`: any sampler, any feasible setting."""
    grid = draw(SIDE), draw(SIDE)
    name, count, length = draw(st.sampled_from(NAMES)), draw(st.integers(1, 4)), draw(st.integers(12, 60))
    return (
        name,
        grid,
        count,
        length,
        draw(st.integers(2, grid[0] * grid[1] // 2)),
        draw(st.floats(0.1, 0.3)),
        draw(st.integers(1, 2)),
    )


def assert_well_formed(drawn: Masks):
    tokens = torch.Size(drawn.grid).numel()
    context, targets = drawn.context_idx, drawn.target_idx
    assert context.dtype == targets.dtype == torch.int64 and context.ndim == 2 and targets.ndim == 3
    for indices in (context, targets.flatten(0, 1)):
        assert indices.min() >= 0 and indices.max() < tokens, "in range"
        assert (indices.sort(dim=-1).values.diff(dim=-1) > 0).all(), "unique"
    assert (context.diff(dim=-1) > 0).all(), "context ascending"
    assert not (context[:, :, None] == targets.flatten(1)[:, None]).any(), "context and targets are disjoint"
