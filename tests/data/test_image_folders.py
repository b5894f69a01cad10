"""Folders of pictures: classes go by their names, tools' leftovers and links mislead nobody, damage is named."""

import io
import os
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import blobs
from PIL import Image

from jepa_lab.data.image_folders import image_folder, warn_of_shared, write_image_folder
from jepa_lab.data.sources.archives import DataError


@pytest.fixture
def animals(tmp_path):
    """A folder of two classes, one picture each."""
    for name in ("cat", "dog"):
        put(tmp_path / "animals" / name / "0.png")
    return tmp_path / "animals"


def put(path, image=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (8, 8))).save(path)


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
    (tmp_path / "a").mkdir()
    stripes = torch.zeros(20, 60, 3, dtype=torch.uint8)
    stripes[:, 20:40] = 200
    Image.fromarray(stripes.numpy()).save(tmp_path / "a" / "wide.png")
    pixels, _ = image_folder(tmp_path, size=20)[0]
    assert (pixels == 200).all()


# classes


def test_classes_are_numbered_by_the_training_images_names(animals, tmp_path):
    put(tmp_path / "train" / "bee" / "0.png")
    scored = image_folder(animals, classes=("ant", "bee", "cat", "dog"))
    assert scored.labels.tolist() == [2, 3] and scored.classes == ("ant", "bee", "cat", "dog")
    assert image_folder(animals, classes=("dog", "cat")).labels.tolist() == [0, 1]
    assert [path.parent.name for path in image_folder(animals, classes=("dog", "cat")).paths] == ["dog", "cat"]


def test_class_that_the_training_images_lack_is_named(animals):
    with pytest.raises(DataError, match="holds the classes dog, which the training images lack; they have ant, cat"):
        image_folder(animals, classes=("ant", "cat"))


@pytest.mark.parametrize(
    "leftover",
    [
        ".ipynb_checkpoints/0-checkpoint.png",
        "__MACOSX/cat/._0.png",
        "@eaDir/x.png",
        "$RECYCLE.BIN/x.png",
        "lost+found/x.png",
        "cat/.ipynb_checkpoints/0-checkpoint.png",
        "cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
        "cat/._0.png",
    ],
)
def test_what_tools_leave_behind_is_no_class_and_no_picture(animals, leftover):
    put(animals / leftover)
    (animals / ".empty").mkdir()
    found = image_folder(animals)
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [0, 1]


def test_bad_folders_are_refused(animals, tmp_path):
    with pytest.raises(DataError, match="there is no folder /.*nowhere"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no class folders"):
        image_folder(animals / "cat")
    (animals / "empty").mkdir()
    (animals / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="empty holds no images"):
        image_folder(animals)


def test_folder_without_permission_is_named(animals, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", denied)
    with pytest.raises(DataError, match="cannot read .*animals .Permission denied"):
        image_folder(animals)


# links


def test_linked_classes_and_pictures_are_read(animals, tmp_path):
    subset = tmp_path / "subset"
    (subset / "mixed").mkdir(parents=True)
    (subset / "cat").symlink_to(animals / "cat")
    (subset / "mixed" / "linked.png").symlink_to(animals / "dog" / "0.png")
    found = image_folder(subset, 8)
    assert found.classes == ("cat", "mixed") and len(found) == 2 and found[1][1] == 1


def test_picture_that_several_links_lead_to_counts_once(animals):
    (animals / "cat" / "again.png").symlink_to("0.png")
    os.link(animals / "cat" / "0.png", animals / "cat" / "hard.png")
    (animals / "cat" / "loop").symlink_to(animals / "cat")
    (animals / "cat" / "up").symlink_to(animals)
    assert [path.name for path in image_folder(animals).paths if path.parent.name == "cat"] == ["0.png"]


@pytest.mark.parametrize("place", ["pig", "cat/1.png"])
def test_broken_link_is_named_with_what_it_leads_to(animals, place):
    (animals / place).symlink_to("/gone/far")
    with pytest.raises(DataError, match=f"cannot read .*{place}, a link to /gone/far, .No such file"):
        image_folder(animals)


def test_folders_and_pipes_named_like_pictures_are_not_pictures(animals):
    put(animals / "cat" / "album.png" / "1.png")
    os.mkfifo(animals / "dog" / "pipe.png")
    assert [path.name for path in image_folder(animals).paths] == ["0.png", "1.png", "0.png"]


def test_pictures_that_are_also_trained_on_are_told(animals, tmp_path, capsys):
    put(tmp_path / "other" / "cat" / "0.png", Image.new("RGB", (8, 8), "red"))
    other = image_folder(tmp_path / "other")
    warn_of_shared(other, image_folder(animals))
    assert capsys.readouterr().err == ""
    put(tmp_path / "other" / "cat" / "copy.png")
    warn_of_shared(image_folder(tmp_path / "other"), image_folder(animals))
    assert "WARNING: 2 of the 2 images to score on are also among those to train on" in capsys.readouterr().err


# pixels

RAMP = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(64, 0)


def middle(tmp_path, write):
    """The pixels read of the picture that `write` makes."""
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "x.png")
    return image_folder(tmp_path, 64)[0][0]


def test_grey_of_16_bits_keeps_its_levels(tmp_path):
    pixels = middle(tmp_path, Image.fromarray(RAMP).save)
    assert torch.equal(pixels, torch.from_numpy((RAMP / 257).round().astype(np.uint8))[..., None].expand(64, 64, 3))


@pytest.mark.parametrize("dtype", [">u2", "<u2"])
def test_grey_of_16_bits_in_either_byte_order_keeps_its_levels(tmp_path, dtype):
    pixels = middle(tmp_path, lambda path: Image.fromarray(RAMP.astype(dtype)).save(path, "TIFF"))
    assert len(pixels.unique()) == 64 and pixels.float().mean() == 127.5


@pytest.mark.parametrize("dtype, mode", [("int32", "I"), ("float32", "F")])
def test_numbers_without_a_known_black_and_white_are_refused(tmp_path, dtype, mode):
    with pytest.raises(DataError, match=f"x.png has pixels of Pillow's mode {mode}, whose black and white are unknown"):
        middle(tmp_path, lambda path: Image.fromarray(RAMP.astype(dtype)).save(path, "TIFF"))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_eight_bits_and_less_keep_black_and_white(tmp_path, mode):
    image = Image.fromarray(np.where(np.arange(64) < 32, 0, 255).astype(np.uint8)[None].repeat(64, 0))
    pixels = middle(tmp_path, image.convert("RGB").convert(mode).save)
    assert (pixels[:, :32] == 0).all() and (pixels[:, 32:] == 255).all()


# damage


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"<html>not found</html>"]
)
def test_corrupt_image_is_named(tmp_path, damage):
    found = image_folder(write_image_folder(blobs(4), tmp_path), size=28)
    found.paths[2].write_bytes(damage(found.paths[2].read_bytes()))
    with pytest.raises(DataError, match=found.paths[2].name):
        found[2]
    assert found[1][1] == 1


def test_file_that_is_gone_is_not_called_damaged(animals):
    found = image_folder(animals)
    found.paths[0].unlink()
    with pytest.raises(DataError, match="cannot read .*0.png .No such file"):
        found[0]


def test_pillows_other_exceptions_name_the_file(animals):
    """An empty colour profile after the pixels: IndexError. No pixel format in a DDS file: NotImplementedError."""
    packed = io.BytesIO()
    Image.new("RGB", (16, 16)).save(packed, "PNG")
    png, profile = packed.getvalue(), struct.pack(">I4sI", 0, b"iCCP", zlib.crc32(b"iCCP"))
    packed = io.BytesIO()
    Image.new("RGB", (16, 16)).save(packed, "DDS")
    dds = packed.getvalue()
    found = image_folder(animals)
    for data in (png[:-12] + profile + png[-12:], dds[:80] + bytes(4) + dds[84:]):
        found.paths[0].write_bytes(data)
        with pytest.raises(DataError, match="cat/0.png is damaged or not an image"):
            found[0]
