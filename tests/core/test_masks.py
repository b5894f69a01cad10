"""What every mask sampler promises: indices in range, unique, disjoint, every token reachable, samples independent."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mask_cases import (
    NAMES,
    SEED,
    assert_well_formed,
    few,
    frequency,
    occupancy,
    repeatable,
    requests,
    rng,
    sampler_of,
)
from torch.utils._python_dispatch import TorchDispatchMode

from jepa_lab import masks


@repeatable
@given(requests(), st.integers(1, 24), SEED)
def test_indices_are_in_range_unique_and_disjoint_for_any_grid_count_and_seed(request, batch_size, seed):
    sampler = sampler_of(*request)
    drawn = sampler(batch_size, rng(seed))
    assert_well_formed(drawn)
    assert len(drawn.context_idx) == len(drawn.target_idx) and len(drawn.context_idx) % batch_size == 0


@repeatable
@given(requests(), st.integers(1, 12), st.integers(1, 12), SEED)
def test_a_sample_does_not_depend_on_its_batch_mates(request, batch_size, more, seed):
    sampler = sampler_of(*request)
    small, large = sampler(batch_size, rng(seed)), sampler(batch_size + more, rng(seed))
    rows = len(small.context_idx)
    assert torch.equal(small.context_idx, large.context_idx[:rows])
    assert torch.equal(small.target_idx, large.target_idx[:rows])


@repeatable
@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 2**31))
def test_a_bev_sample_does_not_depend_on_what_its_batch_mates_see(rows, cols, seed):
    ours, theirs = occupancy(6, (rows, cols), rng(1)), occupancy(6, (rows, cols), rng(2))
    theirs[2] = ours[2]
    first, second = (
        masks.bev_cells((rows, cols), 6, rng(seed), occupied=seen, num_hidden=rows * cols // 2)
        for seen in (ours, theirs)
    )
    assert torch.equal(first.target_idx[2], second.target_idx[2]) and torch.equal(
        first.context_idx[2], second.context_idx[2]
    )


def covariance_of_mates(draw, batches: int) -> tuple[float, float]:
    """Over many batches of two: largest covariance, over tokens, of being seen in both, and largest variance of being
    seen.
    """
    drawn = [draw() for _ in range(batches)]
    first_of_each = [
        d.context_idx[:: len(d.context_idx) // 2] for d in drawn
    ]  # local windows have several rows per sample
    seen = torch.stack(
        [torch.zeros(2, torch.Size(d.grid).numel()).scatter(1, idx, 1.0) for d, idx in zip(drawn, first_of_each)]
    )
    one, other = seen.unbind(1)
    return float(((one * other).mean(0) - one.mean(0) * other.mean(0)).abs().max()), float(one.var(0).max())


@pytest.mark.parametrize("name", NAMES)
def test_the_masks_of_two_batch_mates_are_uncorrelated(name):
    """One mask for the whole batch would give the variance, 0.1 and more."""
    sampler, generator = sampler_of(name, (6, 5), 2, 24, 8, 0.15, 1), rng()
    covariance, variance = covariance_of_mates(lambda: sampler(2, generator), 400)
    assert covariance < 5 * variance / 400**0.5 and variance > 0.1


def test_the_published_sampler_would_fail_the_check_of_uncorrelated_batch_mates():
    generator = rng()
    covariance, variance = covariance_of_mates(lambda: masks.multi_block_published((8, 8), 2, generator), 400)
    assert covariance > 5 * variance / 400**0.5


@repeatable
@given(requests(), SEED)
def test_the_generator_alone_decides_and_shapes_never_change(request, seed):
    sampler = sampler_of(*request)
    generator = rng(seed)
    first, second, again = sampler(8, generator), sampler(8, generator), sampler(8, rng(seed))
    assert torch.equal(first.context_idx, again.context_idx) and torch.equal(first.target_idx, again.target_idx)
    assert first.context_idx.shape == second.context_idx.shape and first.target_idx.shape == second.target_idx.shape


def reachable(request) -> tuple[set[int], set[int]]:
    """Tokens that some draw shows, and that some draw asks for: all of them, unless the request forbids it."""
    name, grid, count, length, *_ = request
    if name == "time_blocks" and count == 1:  # one block of 3/4 of the series: the middle is always in it
        seen = length // 4
        return set(range(seen)) | set(range(length - seen, length)), set(range(length))
    tokens = set(range(length if name in ("columns", "time_blocks") else grid[0] * grid[1]))
    if name == "multi_block":
        return tokens - always_hidden(grid, sampler_of(*request).keywords["target_shapes"]), tokens
    return tokens, tokens


def always_hidden(grid, shapes) -> set[int]:
    """Tokens that lie in every block of these shapes, wherever it is: the middle of a 3 x 3 grid for 2 x 2 blocks."""
    cells = torch.arange(grid[0] * grid[1]).reshape(grid)
    blocks = [
        set(cells[top : top + height, left : left + width].flatten().tolist())
        for height, width in shapes
        for top in range(grid[0] - height + 1)
        for left in range(grid[1] - width + 1)
    ]
    return set.intersection(*blocks)


@settings(few, max_examples=40)
@given(requests(), SEED)
@example(("multi_block", (3, 3), 1, 12, 2, 0.28, 1), 0)
def test_every_sampler_reaches_every_token_for_any_grid_count_and_seed(request, seed):
    sampler, generator = sampler_of(*request), rng(seed)
    drawn = [sampler(64, generator) for _ in range(40)]
    seen, asked = (
        set(torch.cat([getattr(d, name).flatten() for d in drawn]).tolist()) for name in ("context_idx", "target_idx")
    )
    assert (seen, asked) == reachable(request)


@settings(few, max_examples=30)
@given(requests().filter(lambda request: request[0] != "bev_cells"), SEED)
def test_no_direction_of_a_grid_or_a_series_is_preferred(request, seed):
    """Mirrored masks are equally likely, except where occupied cells decide."""
    drawn = sampler_of(*request)(4000, rng(seed))
    for indices in (drawn.context_idx, drawn.target_idx):
        share = frequency(indices, drawn.grid)
        for axis in range(share.ndim):
            assert (share - share.flip(axis)).abs().max() < 5 * (2 * 0.25 / 4000) ** 0.5


class HostReads(TorchDispatchMode):
    """Counts the operations that would make a GPU wait for the host."""

    def __init__(self):
        super().__init__()
        self.reads = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero")):
            self.reads.append(str(func))
        return func(*args, **(kwargs or {}))


@few
@given(requests())
def test_samplers_stay_on_the_generators_device_and_never_read_back(request):
    sampler = sampler_of(*request)
    with HostReads() as host, torch.device("meta"):  # a factory call without an explicit device would land on meta
        drawn = sampler(4, rng())
    assert drawn.context_idx.device.type == drawn.target_idx.device.type == "cpu"
    assert host.reads == []
