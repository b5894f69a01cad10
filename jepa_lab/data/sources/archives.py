"""Unpack archives that may be hostile.

Nothing is written outside the given folder or through a link, no more than a stated number of bytes is written, and no
pickle is kept (loading one runs its author's code). Every refusal is one `DataError`.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path, PurePosixPath

from jepa_lab import files

CHUNK = 1 << 20
# Errors of the file system that an archive's names cause, such as one name for a file and a folder. None: of a decoder.
OF_NAMES = {None, errno.EEXIST, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR}
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # the latter of an empty one
PICKLE_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".dill"}


class DataError(ValueError):
    """A data file is missing, broken or unsafe. The message says which one, what was tried and what to do."""


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def store(packed: Path, target: Path, *, sha256: str, size: int) -> None:
    """Write the content of `packed` (unzipped when its name ends in .gz) to `target`, all of it and right, or nothing.

    `size` (bytes) and `sha256` describe the content, which is checked before `target` appears. Raises `DataError`.
    """
    digest, written = hashlib.sha256(), 0
    opener = gzip.open if packed.name.endswith(".gz") else open
    with files.replacing(target) as out, opener(packed, "rb") as stream:
        for chunk in _content(stream, packed):
            written += len(chunk)
            if written > size:
                raise DataError(f"{packed.name} holds more than the {size} bytes it should")
            digest.update(chunk)
            out.write(chunk)
        if written < size:
            raise DataError(f"{packed.name} is truncated: {written} bytes of {size}")
        if digest.hexdigest() != sha256:
            raise DataError(f"{packed.name} has sha256 {digest.hexdigest()} where {sha256} was expected")


def _content(stream: BufferedIOBase, packed: Path) -> Iterator[bytes]:
    try:
        while chunk := stream.read(CHUNK):
            yield chunk
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{packed.name} is truncated or not a gzip file ({error})") from error


def unpack(archive: Path, folder: Path, *, max_bytes: int = 8 << 30) -> list[Path]:
    """Unpack a tar (any compression) or zip into the new folder `folder`; returns the written files, sorted.

    Names that leave the folder, devices, pickles, and more than `max_bytes` of content are refused. Links are left out,
    so nothing is written through one. On any refusal `folder` is removed again. Raises `DataError`.
    """
    folder.mkdir(parents=True)
    try:
        return sorted(_unpack(archive, folder, max_bytes))
    except BaseException as error:
        shutil.rmtree(folder)
        of_the_disk = isinstance(error, OSError) and error.errno not in OF_NAMES
        if of_the_disk or isinstance(error, DataError) or not isinstance(error, Exception):
            raise
        fault = f"truncated, locked or not an archive ({error or type(error).__name__})"
        raise DataError(f"{archive.name} is {fault}; fetch it again") from error


def _unpack(archive: Path, folder: Path, max_bytes: int) -> Iterator[Path]:
    left = max_bytes
    for name, stream in _members(archive):
        path = _inside(folder, name, archive)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            while chunk := stream.read(CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise DataError(f"{archive.name} unpacks to more than {max_bytes} bytes: refused")
                out.write(chunk)
        refuse_pickle(path, f"{name!r} in {archive.name}")
        yield path


def _members(archive: Path) -> Iterator[tuple[str, BufferedIOBase]]:
    """Name and content of each plain file in the archive."""
    if _is_zip(archive):
        with zipfile.ZipFile(archive) as bag:
            for info in bag.infolist():
                if not info.is_dir():
                    with bag.open(info) as stream:
                        yield info.filename, stream
    else:
        with tarfile.open(archive, tarinfo=_CheckedTarInfo) as bag:
            for member in bag:
                if member.ischr() or member.isblk() or member.isfifo():
                    raise DataError(f"{archive.name} holds the device file {member.name!r}: refused")
                if member.isfile():
                    yield member.name, bag.extractfile(member)


def _is_zip(archive: Path) -> bool:
    """By the first bytes: any archive may end in a zip, which may be its last file. Then by the end (self-extracting).

    Raises `BadZipFile` for a zip that was cut off and now ends in one of its files, a smaller zip.
    """
    with archive.open("rb") as stream:
        if stream.read(4) not in ZIP_STARTS:
            return not tarfile.is_tarfile(archive) and zipfile.is_zipfile(archive)
    with zipfile.ZipFile(archive) as bag:
        if min((info.header_offset for info in bag.infolist()), default=0) > 0:
            raise zipfile.BadZipFile("its list of files does not name the first one")
    return True


class _CheckedTarInfo(tarfile.TarInfo):
    """A tar must end with a block of zeros. `tarfile` takes a damaged or missing block for the end, silently."""

    @classmethod
    def fromtarfile(cls, bag: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(bag)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {bag.offset}") from error


def _inside(folder: Path, name: str, archive: Path) -> Path:
    """`folder/name`; `DataError` when the name leads out of the folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0].startswith("/") or ":" in parts[0] or ".." in parts or "\0" in name:
        raise DataError(f"{archive.name} holds {name!r}, which would leave the target folder: refused")
    return folder.joinpath(*parts)


def refuse_pickle(path: Path, what: str | None = None) -> None:
    """`DataError` when `path` is a pickle by its name or its first and last bytes (protocol 2 and later)."""
    with path.open("rb") as stream:
        head = stream.read(2)
        stream.seek(max(path.stat().st_size - 1, 0))
        tail = stream.read(1)
    pickled = len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5 and tail == b"."
    if pickled or path.suffix.lower() in PICKLE_SUFFIXES:
        raise DataError(f"{what or path} is a pickle, and loading one can run anything: refused")
