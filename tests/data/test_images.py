"""Loaders refuse what is broken; canvases are exact, reproducible and fair."""

import struct
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lab.data import canvases as scenes
from jepa_lab.data import images
from jepa_lab.data.images import (
    ImageSet,
    cluttered,
    digits,
    few_shot,
    image_folder,
    normalise,
    object_crops,
    patchify,
    pixel_stats,
    read_idx,
    split,
    write_image_folder,
)
from jepa_lab.data.sources import fetch
from jepa_lab.data.sources.archives import DataError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(num=24, side=28, seed=0, classes=4):
    """Small stand-ins for garments: a bright textured ellipse on black."""
    generator = seeded(seed)
    axis = torch.arange(side) - (side - 1) / 2
    radius = 6 + 7 * torch.rand(num, 2, generator=generator)
    inside = (axis[:, None] / radius[:, :1, None]) ** 2 + (axis / radius[:, 1:, None]) ** 2 <= 1
    grey = torch.randint(60, 256, (num, side, side), generator=generator)
    labels = torch.arange(num) % classes
    return ImageSet(
        (grey * inside).to(torch.uint8), labels, "blobs", "made here", "0" * 64, "generated", tuple("abcd"[:classes])
    )


def idx_bytes(tensor, kind=8):
    return (
        struct.pack(f">HBB{tensor.ndim}I", 0, kind, tensor.ndim, *tensor.shape)
        + tensor.to(torch.uint8).numpy().tobytes()
    )


# idx files


@settings(max_examples=25, deadline=None)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_idx_gives_back_what_was_written(tmp_path_factory, shape, seed):
    tensor = torch.randint(256, shape, generator=seeded(seed), dtype=torch.uint8)
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(idx_bytes(tensor))
    assert torch.equal(read_idx(path), tensor)


WHOLE = idx_bytes(torch.zeros(3, 4, 4))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (WHOLE[:3], "not an unsigned-byte idx"),
        (WHOLE[:10], "broken idx header"),
        (WHOLE[:-1], "holds 47"),
        (WHOLE + b"x", "holds 49"),
        (b"\x1f\x8b\x08\x08" + WHOLE, "not an unsigned-byte idx"),
        (idx_bytes(torch.zeros(3, 4, 4), kind=13), "not an unsigned-byte idx"),
        (b"\0\0\x08\x00", "broken idx header"),
        (b"\0\0\x08\xff" + bytes(2000), "255 axes"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "holds 0"),
        (struct.pack(">HBB3I", 0, 8, 3, 0, 28, 28), "0 x 28 x 28"),
    ],
    ids=[
        "empty",
        "three-bytes",
        "cut-header",
        "cut-data",
        "too-long",
        "still-zipped",
        "floats",
        "no-axes",
        "255-axes",
        "huge",
        "zero",
    ],
)
def test_broken_idx_is_one_clear_error(tmp_path, data, says):
    path = tmp_path / "train-images"
    path.write_bytes(data)
    with pytest.raises(DataError, match=says) as error:
        read_idx(path)
    assert "fetch it again" in str(error.value)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=64) | st.binary(max_size=40).map(lambda tail: b"\0\0\x08" + tail))
def test_no_bytes_crash_the_idx_parser(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "hostile"
    path.write_bytes(data)
    try:
        tensor = read_idx(path)
    except DataError:
        return
    assert tensor.numel() == len(data) - 4 - 4 * tensor.ndim


def cache_with(tmp_path, monkeypatch, image_bytes, label_bytes):
    """A cache whose fashion-mnist files hold these bytes, with hashes to match."""
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    files = []
    for name, data in (("train-images-idx3-ubyte", image_bytes), ("train-labels-idx1-ubyte", label_bytes)):
        (folder / name).write_bytes(data)
        files.append(fetch.File(name, fetch.sha256_of(folder / name), len(data)))
    spec = replace(fetch.DATASETS["fashion-mnist"], files=tuple(files), sources=())
    monkeypatch.setitem(fetch.DATASETS, "fashion-mnist", spec)
    return files


def test_fashion_mnist_is_loaded_from_the_cache(tmp_path, monkeypatch):
    files = cache_with(tmp_path, monkeypatch, idx_bytes(torch.ones(3, 28, 28)), idx_bytes(torch.tensor([0, 9, 4])))
    loaded = images.fashion_mnist("train", root=tmp_path)
    assert loaded.images.shape == (3, 28, 28) and loaded.labels.tolist() == [0, 9, 4]
    assert (loaded.kind, loaded.sha256, loaded.name) == ("real", files[0].sha256, "Fashion-MNIST [train]")


@pytest.mark.parametrize(
    ("image_shape", "labels", "says"),
    [
        ((3, 28, 28), [0, 1], "3 images but 2 labels"),
        ((2, 28, 28), [0, 10], "labels run from 0 to 10"),
        ((2, 784), [0, 1], "2 and 1 axes"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, monkeypatch, image_shape, labels, says):
    cache_with(tmp_path, monkeypatch, idx_bytes(torch.ones(image_shape)), idx_bytes(torch.tensor(labels)))
    with pytest.raises(DataError, match=says):
        images.fashion_mnist("train", root=tmp_path)


def test_unknown_split_is_refused(tmp_path):
    for loader in (digits, lambda part: images.fashion_mnist(part, root=tmp_path)):
        with pytest.raises(DataError, match="'val'"):
            loader("val")


def test_digits_splits_are_disjoint_and_fixed():
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1500, 297) and train.images.shape[1:] == (28, 28)
    assert train.sha256 == "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
    assert test.labels.bincount().min() >= 20 and train.images.max() == 255


@pytest.mark.skipif(
    not (fetch.cache_root() / "fashion-mnist" / "train-images-idx3-ubyte").is_file(),
    reason="Fashion-MNIST is not in the cache",
)
def test_real_fashion_mnist_is_what_it_says():
    train, test = images.fashion_mnist("train"), images.fashion_mnist("test")
    assert train.labels.bincount().tolist() == [6000] * 10 and test.labels.bincount().tolist() == [1000] * 10
    assert pixel_stats(train.images) == pytest.approx((0.2860, 0.3530), abs=1e-4)  # the numbers everybody uses
    assert test.labels[:5].tolist() == [9, 2, 1, 1, 6]


# splits, few labels, patches


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


# cluttered canvases


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
    support = scenes.foreground(source.images)
    repainted = replace(
        source,
        images=torch.where(support & (source.images > scenes.DARKEST), 315 - source.images.int(), 0).to(torch.uint8),
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
    rows, columns = (scenes.sampling(torch.tensor([at]), torch.tensor([scale]), 12, 24) for at in (row, column))
    painted, mask = scenes.paste(torch.full((1, 24, 24), -1.0), grey, support, rows, columns)
    assert torch.allclose(painted[mask], torch.tensor(0.5)) and (painted[~mask] == -1).all() and mask.any()


def test_foreground_closes_narrow_gaps_and_ignores_scanning_noise():
    image = torch.full((1, 12, 12), 5, dtype=torch.uint8)
    image[0, 2:10, 1:4] = image[0, 2:10, 6:8] = image[0, 2:10, 11] = 200  # gaps of 2 and of 3 columns
    found = scenes.foreground(image)[0]
    assert found[5].tolist() == [False, *[True] * 7, *[False] * 3, True]
    assert not found[:2].any() and not found[10:].any()


def test_canvas_pixels_are_where_the_geometry_says():
    """A bright dot at source pixel (3, 8) of an object at offset (10, 5) and scale 2 covers rows 16-17 and columns
    21-22.
    """
    support = torch.zeros(1, 12, 12)
    support[0, 3, 8] = 1
    rows, columns = (scenes.sampling(torch.tensor([at]), torch.tensor([2.0]), 12, 40) for at in (10.0, 5.0))
    _, mask = scenes.paste(torch.zeros(1, 40, 40), support, support, rows, columns)
    assert mask.nonzero()[:, 1:].tolist() == [[16, 21], [16, 22], [17, 21], [17, 22]]
    assert scenes.boxes(mask).tolist() == [[16, 21, 18, 23]]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 999), scale=st.floats(0.6, 1.4), canvas=st.sampled_from([40, 48, 56]))
def test_at_least_four_fifths_of_every_object_is_on_its_canvas(seed, scale, canvas):
    """Counted by painting the same objects again on a frame wide enough to hold what sticks out."""
    source, margin = blobs(seed=seed), 20
    drawn = scenes.draw_objects(len(source), (scale, scale), seeded(seed))
    support = scenes.foreground(source.images)
    offset = scenes.offsets(support, drawn["scale"], canvas, drawn["where"]) + margin
    wide = canvas + 2 * margin
    rows, columns = (scenes.sampling(offset[:, axis], drawn["scale"], 28, wide) for axis in (0, 1))
    _, everything = scenes.paste(
        torch.zeros(len(source), wide, wide), source.images.float(), support.float(), rows, columns
    )
    seen = everything[:, margin:-margin, margin:-margin]
    _, mask = scenes.paint_objects(torch.zeros(len(source), canvas, canvas), source.images, drawn)
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
    seen = [scenes.draw_scenery(2, 48, 5, pair.images, seeded(seed))["which"] for seed in range(5)]
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
    top, left, bottom, right = scenes.boxes(scenes.foreground(source.images)).unbind(1)
    straight = replace(
        made,
        images=torch.nn.functional.pad(source.images, (10, 10, 10, 10)),
        boxes=torch.stack([top, left, bottom, right], 1) + 10,
    )
    expected = object_crops(replace(straight, images=(straight.images > 12).to(torch.uint8) * 255)) > 127
    assert whole.sum() > 5
    assert (silhouettes == expected)[whole].float().mean() > 0.93


# image folders


def test_image_folder_gives_back_images_and_labels(tmp_path):
    source = replace(blobs(8), classes=("T-shirt/top", "b", "../c", "d"))
    found = image_folder(write_image_folder(source, tmp_path / "set"), size=28)
    assert len(found) == 8 and found.classes[0] == "0000-T-shirt-top" and found.classes[2] == "0002----c"
    order = torch.tensor([int(path.stem) for path in found.paths])
    assert torch.equal(found.labels, source.labels[order])
    for k, i in enumerate(order.tolist()):
        pixels, label = found[k]
        assert pixels.shape == (28, 28, 3) and label == source.labels[i]
        assert torch.equal(pixels[..., 0], source.images[i]) and torch.equal(pixels[..., 2], source.images[i])


def test_image_folder_takes_the_middle_square(tmp_path):
    from PIL import Image

    (tmp_path / "a").mkdir()
    stripes = torch.zeros(20, 60, 3, dtype=torch.uint8)
    stripes[:, 20:40] = 200
    Image.fromarray(stripes.numpy()).save(tmp_path / "a" / "wide.png")
    pixels, _ = image_folder(tmp_path, size=20)[0]
    assert (pixels == 200).all()


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"<html>not found</html>"]
)
def test_corrupt_image_is_named(tmp_path, damage):
    found = image_folder(write_image_folder(blobs(4), tmp_path), size=28)
    found.paths[2].write_bytes(damage(found.paths[2].read_bytes()))
    with pytest.raises(DataError, match=found.paths[2].name):
        found[2]
    assert found[1][1] == 1


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="no class folders"):
        image_folder(tmp_path / "nowhere")
    write_image_folder(blobs(4), tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="empty holds no images"):
        image_folder(tmp_path)


def test_links_out_of_an_image_folder_are_not_followed(tmp_path):
    outside = write_image_folder(blobs(1), tmp_path / "outside") / "0000-a" / "0000000.png"
    root = write_image_folder(blobs(4), tmp_path / "set")
    (root / "0001-b" / "sneaky.png").symlink_to(outside)
    assert len(image_folder(root)) == 4
