"""Splits are disjoint, few labels are balanced, patches lie in order, pixels are normalised."""

from dataclasses import replace

import pytest
import torch
from blobs import blobs, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lab.data.image_sets import few_shot, normalise, patchify, pixel_stats, split
from jepa_lab.data.sources.archives import DataError


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) <= 24),
    seed=st.integers(0, 9),
)
def test_split_parts_are_disjoint_and_repeatable(sizes, seed):
    whole = replace(blobs(), images=torch.arange(24, dtype=torch.uint8)[:, None, None].expand(24, 2, 2))
    parts = split(whole, sizes, seed)
    seen = torch.cat([part.images[:, 0, 0] for part in parts])
    assert [len(part) for part in parts] == sizes and len(seen.unique()) == len(seen)
    again = split(whole, sizes, seed)
    assert all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in zip(parts, again, strict=True)
    )
    assert all(torch.equal(part.labels, part.images[:, 0, 0].long() % 4) for part in parts)


def test_split_refuses_more_than_there_is():
    with pytest.raises(DataError, match="24 images"):
        split(blobs(), (20, 5))


@settings(max_examples=25, deadline=None)
@given(per_class=st.integers(1, 6), seed=st.integers(0, 99))
def test_few_shot_takes_the_same_number_of_each_class(per_class, seed):
    labels = torch.tensor([0, 2, 5]).repeat(6)
    idx = few_shot(labels, per_class, seeded(seed))
    assert len(idx.unique()) == 3 * per_class
    assert labels[idx].bincount(minlength=6)[[0, 2, 5]].tolist() == [per_class] * 3


def test_few_shot_refuses_a_class_that_is_too_small():
    with pytest.raises(DataError, match="class 1 has 1 examples"):
        few_shot(torch.tensor([0, 0, 1]), 2, seeded())


def test_patches_lie_row_by_row():
    image = torch.arange(24, dtype=torch.uint8).reshape(1, 4, 6)
    tokens = patchify(image, 2)
    assert tokens.shape == (1, 6, 4)
    assert (
        tokens[0, 0].tolist() == [0, 1, 6, 7]
        and tokens[0, 2].tolist() == [4, 5, 10, 11]
        and tokens[0, 3].tolist() == [12, 13, 18, 19]
    )


@pytest.mark.parametrize("patch", [0, 5, 8])
def test_patches_that_do_not_tile_are_refused(patch):
    with pytest.raises(DataError, match="don't tile"):
        patchify(torch.zeros(1, 28, 28, dtype=torch.uint8), patch)


def test_normalised_pixels_have_mean_0_and_deviation_1():
    pixels = blobs().images
    normal = normalise(pixels, pixel_stats(pixels))
    assert abs(normal.mean().item()) < 1e-5 and normal.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(DataError, match="equal"):
        normalise(pixels, pixel_stats(torch.full_like(pixels, 7)))
