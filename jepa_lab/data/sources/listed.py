"""Data sets of many files that come in one archive with a list of their sha256, as PhysioNet publishes them.

The catalogue holds the sha256 of the list; the list holds those of the other files.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from jepa_lab.data.sources.archives import DataError, sha256_of, unpack
from jepa_lab.data.sources.download import download

LARGEST = 8 << 30  # bytes: no archive of the catalogue is larger, packed or unpacked


def listed(sums: Path) -> dict[str, str]:
    """{name: sha256} of a file of lines "sha256 name". `DataError`: a broken line, or a name that leaves the folder."""
    found = {}
    for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})\s+\*?(\S.*)", line)
        if match is None or not _is_inside(match[2]):
            raise DataError(f"{sums} is damaged: it holds the line {line[:120]!r}; remove it and fetch it again")
        found[match[2]] = match[1]
    return found


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    drive = ":" in name.split("/")[0]
    return bool(path.parts) and not (path.is_absolute() or ".." in path.parts or drive or set(name) & set("\\\0"))


def missing(folder: Path, sums: Path) -> list[str]:
    """The listed files that aren't in `folder`; none where the list itself is missing."""
    return [name for name in listed(sums) if not (folder / name).is_file()] if sums.is_file() else []


def faults(folder: Path, sums: Path) -> list[str]:
    """The listed files that aren't in `folder` or differ from their sha256. Reads all of them."""
    return _faults(folder, listed(sums))


def _faults(folder: Path, known: Mapping[str, str]) -> list[str]:
    return [
        name for name, sha256 in known.items() if not (folder / name).is_file() or sha256_of(folder / name) != sha256
    ]


def from_zip(url: str, folder: Path, sums: str, known: dict[str, str], progress: bool) -> None:
    """Download the archive at `url`, check every file that its list `sums` names, and move those files into `folder`.

    known: {name: sha256} that don't depend on the list, the list among them; these are moved last. Raises `DataError`,
    `SourceFailed`; then `folder` is as it was.
    """

    def check(archive: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".tmp-") as work:
            content = Path(work) / "content"
            unpack(archive, content, max_bytes=LARGEST)
            lists = sorted(content.glob(sums)) + sorted(content.glob(f"*/{sums}"))
            if not lists:
                raise DataError(f"the archive from {url} holds no {sums}")
            top = lists[0].parent
            bad = _faults(top, known) or faults(top, top / sums)
            if bad:
                what = f"{len(bad)} files in the archive from {url} are missing or wrong"
                raise DataError(f"{what}, the first is {bad[0]}")
            for name in [*(name for name in listed(top / sums) if name not in known), *known]:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(top / name, folder / name)

    download(url, folder / PurePosixPath(url).name, check, max_bytes=LARGEST, progress=progress)
