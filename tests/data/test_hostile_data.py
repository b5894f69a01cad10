"""Whatever bytes a reader is given (cut, flipped, mislabelled, with huge sizes): it reads them or raises `DataError`.

The damage is drawn from fixed seeds, so a failure comes again.
"""

import contextlib
import io
import json
import random
import tarfile
import warnings
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from serving import NOISE, entry, make_tar, make_zip

from jepa_lab.data.image_files import read_idx
from jepa_lab.data.image_folders import image_folder
from jepa_lab.data.sources import cache, download, listed
from jepa_lab.data.sources.archives import DataError, store, unpack

pytest_plugins = ("served",)

HUGE = (b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 4, b"\x80" + b"\0" * 7, b"9" * 12)


def damaged(data: bytes, seed: object) -> bytes:
    """The data with one to three faults."""
    draw, found = random.Random(f"{seed}"), bytearray(data)
    for _ in range(draw.randint(1, 3)):
        at, length = draw.randrange(len(found) + 1), draw.choice((1, 1, 2, 4, 20, 500))
        if draw.random() < 0.5:  # headers are small and matter most
            at = min(at, draw.randrange(64))
        match draw.randrange(6):
            case 0:
                del found[at:]
            case 1:
                del found[at : at + length]
            case 2:
                found[at : at + length] = draw.randbytes(length)
            case 3:
                found[at:at] = draw.randbytes(length)
            case 4:
                size = draw.choice(HUGE)
                found[at : at + len(size)] = size
            case 5:
                found += found[at:]
    return bytes(found)


# pictures

FORMATS = ["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "DDS", "TGA", "ICO", "PCX", "PPM", "SGI", "JPEG2000", "AVIF"]


def packed(kind: str) -> bytes:
    """A small picture in Pillow's format `kind`."""
    file = io.BytesIO()
    noise = Image.frombytes("RGB", (24, 16), NOISE[: 24 * 16 * 3])
    noise.convert("P" if kind == "GIF" else "RGB").save(file, kind, exif=Image.Exif(), icc_profile=NOISE[:150])
    return file.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_no_bytes_crash_the_reader_of_pictures(tmp_path, monkeypatch, kind):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {kind}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 20)  # a false size may cost time and memory up to this
    whole, picture = packed(kind), tmp_path / "a" / "x.png"
    picture.parent.mkdir()
    picture.write_bytes(whole)
    folder = image_folder(tmp_path, 8)
    assert folder[0][0].shape == (8, 8, 3)
    refused = 0
    for seed in range(150):
        picture.write_bytes(damaged(whole, (kind, seed)))
        try:
            with warnings.catch_warnings(action="ignore"):
                assert folder[0][0].shape == (8, 8, 3)
        except DataError as error:
            refused += str(picture) in str(error)
    assert refused > 10


# idx


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_damage_crashes_the_idx_reader(tmp_path_factory, seed):
    path = tmp_path_factory.getbasetemp() / "idx"
    path.write_bytes(damaged(b"\0\0\x08\x03\0\0\0\x02\0\0\0\x03\0\0\0\x04" + bytes(24), seed))
    with contextlib.suppress(DataError):
        assert read_idx(path).numel() > 0


# archives

MEMBERS = {"one.txt": b"1" * 700, "deep/er/two.txt": NOISE[:3000], "l" * 150: b"a long name has a header of its own"}


def archives(folder):
    """The same files in every kind of archive, by a readable name."""
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        bag = make_tar(folder / mode, *((entry(name, data), data) for name, data in MEMBERS.items()), mode=mode)
        yield f"tar {mode}", bag.read_bytes()
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield f"zip {packing}", make_zip(folder / "zip", *MEMBERS.items(), packing=packing).read_bytes()
    gnu = io.BytesIO()
    with tarfile.open(fileobj=gnu, mode="w", format=tarfile.GNU_FORMAT) as bag:
        for name, data in MEMBERS.items():
            bag.addfile(entry(name, data), io.BytesIO(data))
    yield "tar gnu", gnu.getvalue()


def test_no_bytes_crash_the_unpacker_or_leave_its_folder(tmp_path):
    refused = 0
    for kind, whole in archives(tmp_path):
        for seed in range(100):
            work = tmp_path / kind / str(seed)
            work.mkdir(parents=True)
            (work / "archive").write_bytes(damaged(whole, (kind, seed)))
            try:
                found = unpack(work / "archive", work / "out", max_bytes=100_000)
            except DataError:
                refused += 1
                assert not (work / "out").exists()
            else:
                assert all(path.is_relative_to(work / "out") for path in found)
            assert {path.name for path in work.iterdir()} <= {"archive", "out"}
    assert refused > 400


def test_no_bytes_crash_the_check_of_a_download(tmp_path):
    whole = next(data for kind, data in archives(tmp_path) if kind == "tar w:gz")
    for seed in range(200):
        (tmp_path / "x.gz").write_bytes(damaged(whole, seed))
        with pytest.raises(DataError):
            store(tmp_path / "x.gz", tmp_path / "x", sha256="0" * 64, size=10_240)


# lists of sums, notes

NAME = st.text(st.characters(), max_size=8) | st.text(st.sampled_from("./\\:\0 a"), max_size=3)


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(NAME.map(lambda name: f"{'0' * 64} {name}") | NAME, max_size=3), raw=st.binary(max_size=5))
def test_no_bytes_crash_the_list_of_sums(tmp_path_factory, lines, raw):
    path = tmp_path_factory.getbasetemp() / "sums"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass") + raw)
    with contextlib.suppress(DataError):
        assert listed.missing(path.parent, path) == list(listed.listed(path))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_bytes_crash_the_note_of_a_cache(tmp_path_factory, seed):
    folder = tmp_path_factory.getbasetemp()
    (folder / cache.NOTE).write_bytes(damaged(json.dumps({"name": "toy", "fallback": False}).encode(), seed))
    assert isinstance(cache.origin(folder), dict)


# answers of a server

HEADERS = (
    b"Content-Length: 5",
    b"Content-Length: 99",
    b"Content-Length: 99999999999999999999",
    b"Content-Range: bytes 5-9/10",
    b"Content-Range: bytes */*",
    b"Transfer-Encoding: chunked",
    b"Content-Encoding: gzip",
    b"Location: /other",
    b"Location: http://.bad/",
    b"Connection: keep-alive",
    b": no name",
    b"x" * 70_000,
)
STARTS = (b"HTTP/1.1 200 OK", b"HTTP/1.0 206 Partial", b"HTTP/1.1 302 Found", b"HTTP/9.9 x", b"HTTP/1.1 416 \xff", b"")
BODIES = (
    b"hello",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello",
    b"fffffffffffffffff\r\nhello",
    b"zz\r\n",
    b"",
    b"x" * 2000,
)


def answer(seed: int) -> bytes:
    draw = random.Random(f"answer {seed}")
    head = [draw.choice(STARTS), *draw.sample(HEADERS, draw.randint(0, 3))]
    whole = b"\r\n".join(head) + b"\r\n\r\n" + draw.choice(BODIES)
    return damaged(whole, seed) if draw.random() < 0.5 else whole


def test_no_answer_crashes_the_downloader(server, tmp_path):
    arrived = []
    for seed in range(200):
        server.plan = [answer(4 * seed + k) for k in range(4)]
        with contextlib.suppress(DataError, download.SourceFailed):
            download.download(
                f"{server.url}/x", tmp_path / "x", lambda part: arrived.append(part.read_bytes()), max_bytes=1000
            )
        (tmp_path / ".part-x").unlink(missing_ok=True)
    assert b"hello" in arrived and max(map(len, arrived)) <= 1000
