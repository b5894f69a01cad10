"""Loaders of images refuse what is broken: idx files, Fashion-MNIST."""

import struct
from dataclasses import replace

import pytest
import torch
from blobs import seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lab.data.image_files import digits, fashion_mnist, read_idx
from jepa_lab.data.image_sets import pixel_stats
from jepa_lab.data.sources import fetch
from jepa_lab.data.sources.archives import DataError, sha256_of


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


def test_idx_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot read .*nowhere"):
        read_idx(tmp_path / "nowhere")


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
        files.append(fetch.File(name, sha256_of(folder / name), len(data)))
    spec = replace(fetch.DATASETS["fashion-mnist"], files=tuple(files), sources=())
    monkeypatch.setitem(fetch.DATASETS, "fashion-mnist", spec)
    return files


def test_fashion_mnist_is_loaded_from_the_cache(tmp_path, monkeypatch):
    files = cache_with(tmp_path, monkeypatch, idx_bytes(torch.ones(3, 28, 28)), idx_bytes(torch.tensor([0, 9, 4])))
    loaded = fashion_mnist("train", root=tmp_path)
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
        fashion_mnist("train", root=tmp_path)


def test_unknown_split_is_refused(tmp_path):
    for loader in (digits, lambda part: fashion_mnist(part, root=tmp_path)):
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
    train, test = fashion_mnist("train"), fashion_mnist("test")
    assert train.labels.bincount().tolist() == [6000] * 10 and test.labels.bincount().tolist() == [1000] * 10
    assert pixel_stats(train.images) == pytest.approx((0.2860, 0.3530), abs=1e-4)  # the numbers everybody uses
    assert test.labels[:5].tolist() == [9, 2, 1, 1, 6]
