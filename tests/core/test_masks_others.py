"""Scattered tokens, time blocks, bird's-eye cells and local windows: statistics as stated."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mask_cases import SEED, SIDE, few, frequency, occupancy, rng

from jepa_lab import masks


@few
@given(SIDE, SIDE, st.integers(1, 3), SEED, st.data())
def test_scattered_tokens_are_equally_likely_to_be_seen_and_asked_for(rows, cols, count, seed, data):
    tokens, draws = rows * cols, 4000
    size = data.draw(st.integers(1, tokens - 1))
    num_context = data.draw(st.integers(1, tokens - size))
    drawn = masks.random_tokens(
        (rows, cols), draws, rng(seed), num_targets=count, target_size=size, num_context=num_context
    )
    for indices, share in ((drawn.context_idx, num_context / tokens), (drawn.target_idx, size / tokens)):
        assert (frequency(indices, (rows, cols)) - share).abs().max() < 5 * 0.5 / draws**0.5


def test_time_blocks_partition_the_series_into_long_enough_stretches():
    drawn = masks.time_blocks(50, 500, rng(), num_context=12, num_blocks=4, min_block=5)
    everything = torch.cat([drawn.context_idx, drawn.target_idx[:, 0]], dim=1).sort().values
    assert torch.equal(everything, torch.arange(50).expand(500, -1))
    for hidden in drawn.target_idx[:, 0].tolist():
        starts = [i for i, step in enumerate(hidden) if i == 0 or step != hidden[i - 1] + 1]
        lengths = [b - a for a, b in zip(starts, [*starts[1:], len(hidden)], strict=True)]
        assert len(lengths) <= 4 and min(lengths) >= 5


def test_time_blocks_are_uniform_over_all_arrangements():
    """Length 5, 3 seen, 1 block of 2: four arrangements, equally often."""
    drawn = masks.time_blocks(5, 20_000, rng(), num_context=3, num_blocks=1, min_block=2)
    starts = Counter(drawn.target_idx[:, 0, 0].tolist())
    assert set(starts) == {0, 1, 2, 3} and max(abs(n - 5000) for n in starts.values()) < 5 * 5000**0.5


@pytest.mark.parametrize("block", [1, 2])
def test_bev_masks_hide_the_same_share_of_occupied_and_empty_cells(block):
    occupied = torch.rand(200, 6, 6, generator=rng(5)) < torch.linspace(0, 1, 200)[:, None, None]
    occupied = occupied.repeat_interleave(block, 1).repeat_interleave(block, 2)
    drawn = masks.bev_cells(
        (6 * block, 6 * block), 200, rng(), occupied=occupied, num_hidden=12 * block**2, block=block
    )
    hidden_occupied = occupied.flatten(1).gather(1, drawn.target_idx[:, 0]).sum(1) / block**2
    assert ((hidden_occupied - occupied.flatten(1).sum(1) / block**2 / 3).abs() <= 0.5001).all()
    cells = drawn.target_idx[:, 0]
    squares = cells // (6 * block) // block * 6 + cells % (6 * block) // block
    assert all(count == block**2 for row in squares.tolist() for count in Counter(row).values())


@few
@given(st.integers(2, 8), st.integers(2, 8), SEED)
def test_cells_of_one_kind_are_equally_likely_to_be_hidden(rows, cols, seed):
    draws, occupied = 4000, occupancy(1, (rows, cols), rng(seed))
    hidden = rows * cols // 2
    drawn = masks.bev_cells((rows, cols), draws, rng(seed), occupied=occupied.expand(draws, -1, -1), num_hidden=hidden)
    share = frequency(drawn.target_idx, (rows, cols))
    for kind in (occupied[0], ~occupied[0]):
        if kind.any():
            assert (share[kind] - share[kind].mean()).abs().max() < 5 * 0.5 / draws**0.5


def test_local_windows_are_squares_with_different_tops_and_lefts():
    drawn = masks.local_windows((14, 14), 50, rng(), window=7, num_windows=4, num_hidden=39)
    assert drawn.context_idx.shape == (200, 10) and drawn.target_idx.shape == (200, 1, 39)
    window = torch.cat([drawn.context_idx, drawn.target_idx[:, 0]], dim=1).sort().values
    top, left = window[:, 0] // 14, window[:, 0] % 14
    row, col = torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij")
    assert torch.equal(window, (top[:, None] + row.flatten()) * 14 + left[:, None] + col.flatten())
    for starts in (top.reshape(50, 4), left.reshape(50, 4)):
        assert (starts.sort().values.diff() > 0).all()
    assert torch.corrcoef(torch.stack([top, left]).float())[0, 1].abs() < 0.4, "tops and lefts are paired at random"


@few
@given(st.integers(3, 9), st.integers(3, 9), st.integers(2, 3), SEED)
def test_windows_lie_uniformly_and_hide_each_of_their_tokens_alike(rows, cols, window, seed):
    draws, hidden = 4000, window * window // 2
    drawn = masks.local_windows((rows, cols), draws, rng(seed), window=window, num_windows=1, num_hidden=hidden)
    corner = torch.cat([drawn.context_idx, drawn.target_idx[:, 0]], dim=1).amin(1)
    for starts, size in ((corner // cols, rows - window + 1), (corner % cols, cols - window + 1)):
        assert (starts.bincount(minlength=size) / draws - 1 / size).abs().max() < 5 * 0.5 / draws**0.5
    inside = drawn.target_idx[:, 0] - corner[:, None]
    share = frequency(inside // cols * window + inside % cols, (window, window))
    assert (share - hidden / window**2).abs().max() < 5 * 0.5 / draws**0.5
