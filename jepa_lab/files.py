"""Files as everyone reads and writes them: atomic writes, folders that can be written, what lies below a folder."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from jepa_lab.data.leftovers import is_leftover


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to, which takes the place of `path` when the block ends without an error.

    A reader, or a crash at any moment, sees the old file or the whole new one. The bytes go to a temporary file in the
    same folder, are flushed to the disk, and the file is renamed. The temporary name depends only on `path` and the
    process, so an interrupted write leaves at most one file behind.

        with files.replacing(path) as file:
            torch.save(state, file)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text to `path`, atomically. Missing folders are made."""
    with replacing(path) as file:
        file.write(text.encode())


def require_writable(path: Path) -> None:
    """Raises OSError, naming `path`, when a file could not be written there. Makes no folder, leaves nothing behind."""
    nearest = next(folder for folder in Path(path).absolute().parents if os.path.lexists(folder))
    try:
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder has the name of the file")
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OSError(f"cannot write {path} ({nearest}: {error.strerror}); choose another folder") from error


def below(folder: Path) -> Iterator[Path]:
    """Every file at any depth below `folder`, except those that tools left behind (`data.leftovers`).

    Links are followed; a folder that is reached twice is walked once. Raises OSError for a folder that can't be read.
    """
    walked = set()
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(place)
        if real in walked:
            folders.clear()
            continue
        walked.add(real)
        folders[:] = sorted(name for name in folders if not is_leftover(name))
        yield from (Path(place, name) for name in sorted(names) if not is_leftover(name))


def _raise(error: OSError) -> None:
    raise error
