"""Cluttered canvases are exact, reproducible and fair."""

from dataclasses import replace

import pytest
import torch
from blobs import blobs, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lab.data import canvases
from jepa_lab.data.clutter import cluttered, object_crops
from jepa_lab.data.sources.archives import DataError


@settings(max_examples=6, deadline=None)
@given(canvas=st.integers(40, 56), low=st.floats(0.6, 1.0), clutter=st.integers(0, 5), seed=st.integers(0, 999))
def test_canvas_masks_boxes_and_labels_agree(canvas, low, clutter, seed):
    source = blobs(seed=seed)
    made = cluttered(source, canvas, (low, 1.2), clutter, generator=seeded(seed))
    assert made.images.shape == made.masks.shape == (24, canvas, canvas) and made.images.dtype == torch.uint8
    assert torch.equal(made.labels, source.labels)
    assert made.scales.min() >= low and made.scales.max() <= 1.2
    for mask, (top, left, bottom, right) in zip(made.masks, made.boxes.tolist(), strict=True):
        assert mask[top:bottom, left:right].sum() == mask.sum() > 0
        assert mask[top].any() and mask[bottom - 1].any() and mask[:, left].any() and mask[:, right - 1].any()


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 999), clutter=st.integers(0, 5))
def test_object_contributes_nothing_outside_its_mask_and_scenery_nothing_inside(seed, clutter):
    source, others = blobs(seed=seed), blobs(seed=seed + 1)
    support = canvases.foreground(source.images)
    repainted = replace(
        source,
        images=torch.where(support & (source.images > canvases.DARKEST), 315 - source.images.int(), 0).to(torch.uint8),
    )
    elsewhere = replace(others, images=torch.where(others.images > 0, 315 - others.images.int(), 0).to(torch.uint8))
    one = cluttered(source, clutter=clutter, generator=seeded(seed), distractors=others)
    new_object = cluttered(repainted, clutter=clutter, generator=seeded(seed), distractors=others)
    new_scenery = cluttered(source, clutter=clutter, generator=seeded(seed), distractors=elsewhere)
    assert torch.equal(one.masks, new_object.masks) and torch.equal(one.masks, new_scenery.masks)
    assert torch.equal(one.images[~one.masks], new_object.images[~one.masks])
    assert torch.equal(one.images[one.masks], new_scenery.images[one.masks])
    assert not torch.equal(one.images[one.masks], new_object.images[one.masks])
    assert clutter == 0 or not torch.equal(one.images[~one.masks], new_scenery.images[~one.masks])


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(0.4, 2.0), row=st.floats(-5, 20), column=st.floats(-5, 20))
def test_pasted_colour_is_a_mean_of_supported_pixels_only(seed, scale, row, column):
    support = (torch.rand(1, 12, 12, generator=seeded(seed)) < 0.5).float()
    grey = torch.where(support > 0, 0.5, 100.0)
    rows, columns = (canvases.sampling(torch.tensor([at]), torch.tensor([scale]), 12, 24) for at in (row, column))
    painted, mask = canvases.paste(torch.full((1, 24, 24), -1.0), grey, support, rows, columns)
    assert torch.allclose(painted[mask], torch.tensor(0.5)) and (painted[~mask] == -1).all() and mask.any()


def test_foreground_closes_narrow_gaps_and_ignores_scanning_noise():
    image = torch.full((1, 12, 12), 5, dtype=torch.uint8)
    image[0, 2:10, 1:4] = image[0, 2:10, 6:8] = image[0, 2:10, 11] = 200  # gaps of 2 and of 3 columns
    found = canvases.foreground(image)[0]
    assert found[5].tolist() == [False, *[True] * 7, *[False] * 3, True]
    assert not found[:2].any() and not found[10:].any()


def test_canvas_pixels_are_where_the_geometry_says():
    """A bright dot at source pixel (3, 8) of an object at offset (10, 5) and scale 2 covers rows 16-17 and columns
    21-22.
    """
    support = torch.zeros(1, 12, 12)
    support[0, 3, 8] = 1
    rows, columns = (canvases.sampling(torch.tensor([at]), torch.tensor([2.0]), 12, 40) for at in (10.0, 5.0))
    _, mask = canvases.paste(torch.zeros(1, 40, 40), support, support, rows, columns)
    assert mask.nonzero()[:, 1:].tolist() == [[16, 21], [16, 22], [17, 21], [17, 22]]
    assert canvases.boxes(mask).tolist() == [[16, 21, 18, 23]]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(0.6, 1.4), canvas=st.sampled_from([40, 48, 56]))
def test_at_least_four_fifths_of_every_object_is_on_its_canvas(seed, scale, canvas):
    """Counted by painting the same objects again on a frame wide enough to hold what sticks out."""
    source, margin = blobs(seed=seed), 20
    drawn = canvases.draw_objects(len(source), (scale, scale), seeded(seed))
    support = canvases.foreground(source.images)
    offset = canvases.offsets(support, drawn["scale"], canvas, drawn["where"]) + margin
    wide = canvas + 2 * margin
    rows, columns = (canvases.sampling(offset[:, axis], drawn["scale"], 28, wide) for axis in (0, 1))
    _, everything = canvases.paste(
        torch.zeros(len(source), wide, wide), source.images.float(), support.float(), rows, columns
    )
    seen = everything[:, margin:-margin, margin:-margin]
    _, mask = canvases.paint_objects(torch.zeros(len(source), canvas, canvas), source.images, drawn)
    assert torch.equal(seen, mask)
    assert (seen.sum((1, 2)) / everything.sum((1, 2))).min() >= 0.8


def test_objects_reach_every_part_of_the_canvas():
    made = cluttered(blobs(600), generator=seeded())
    reached = made.masks.any(0)
    assert reached[4:-4, 4:-4].all() and reached.any(0).all() and reached.any(1).all()  # round objects miss the corners
    centres = (made.boxes[:, :2] + made.boxes[:, 2:]).float() / 2
    assert (centres.mean(0) - 24).abs().max() < 1.5  # no side is preferred


def test_canvases_depend_on_the_generator_and_not_on_the_chunk():
    source = blobs()
    first = cluttered(source, generator=seeded(3))
    assert torch.equal(first.images, cluttered(source, generator=seeded(3), chunk=7).images)
    assert not torch.equal(first.images, cluttered(source, generator=seeded(4)).images)


def test_fragments_are_never_cut_from_the_object_itself():
    """Two images, one of them almost black: the bright one's clutter must come from the other and so be dark."""
    source = blobs(2)
    pair = replace(source, images=torch.stack([source.images[0].clamp(max=0) + 20, source.images[1]]))
    seen = [canvases.draw_scenery(2, 48, 5, pair.images, seeded(seed))["which"] for seed in range(5)]
    assert torch.cat(seen).unique().tolist() == [0, 1]  # the draw itself could hit either
    alone = cluttered(pair, generator=seeded(1), clutter=5)
    forced = cluttered(pair, generator=seeded(1), clutter=5, distractors=replace(pair, images=pair.images[[0, 0]]))
    assert torch.equal(alone.images[1], forced.images[1])


def test_canvases_know_where_they_come_from():
    made = cluttered(blobs(), generator=seeded())
    assert made.kind == "generated" and made.sha256 == blobs().sha256 and "blobs" in made.name
    part = made.subset(torch.tensor([5, 2]))
    assert (
        torch.equal(part.boxes, made.boxes[[5, 2]]) and torch.equal(part.masks, made.masks[[5, 2]]) and len(part) == 2
    )


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ({}, {"scale": (0.6, 2.0)}, "don't fit a canvas of 48"),
        ({}, {"scale": (1.2, 0.6)}, "don't fit"),
        ({}, {"clutter": -1}, "clutter must be"),
        ({"images": torch.zeros(24, 28, 28, 3, dtype=torch.uint8)}, {}, "square grey"),
        ({"images": torch.zeros(24, 28, 30, dtype=torch.uint8)}, {}, "square grey"),
        ({"images": torch.zeros(24, 8, 8, dtype=torch.uint8)}, {}, "at least 12 px"),
        ({"images": torch.zeros(24, 28, 28, dtype=torch.uint8)}, {}, "image 0 is empty"),
    ],
)
def test_scenes_that_cannot_be_painted_are_refused(change, options, says):
    with pytest.raises(DataError, match=says):
        cluttered(replace(blobs(), **change), generator=seeded(), **options)


def test_exact_box_gives_the_object_back():
    source = blobs()
    made = cluttered(source, scale=(1.0, 1.0), clutter=0, generator=seeded())
    whole = (made.boxes[:, 0] > 0) & (made.boxes[:, 1] > 0) & (made.boxes[:, 2] < 48) & (made.boxes[:, 3] < 48)
    silhouettes = object_crops(replace(made, images=(255 * made.masks).to(torch.uint8))) > 127
    top, left, bottom, right = canvases.boxes(canvases.foreground(source.images)).unbind(1)
    straight = replace(
        made,
        images=torch.nn.functional.pad(source.images, (10, 10, 10, 10)),
        boxes=torch.stack([top, left, bottom, right], 1) + 10,
    )
    expected = object_crops(replace(straight, images=(straight.images > 12).to(torch.uint8) * 255)) > 127
    assert whole.sum() > 5
    assert (silhouettes == expected)[whole].float().mean() > 0.93
