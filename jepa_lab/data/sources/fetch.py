"""Bring a named data set into the cache, check what is there, and say what is known of each.

The sources of a set are tried in their order; the first whose content has the expected sha256 wins. If none answers, a
set with a `fallback` says which other data set stands in for it, and a set without one raises a `DataError` that lists
what was tried. A file gets its final name only when it is complete and checked.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jepa_lab.data.sources import debian, listed
from jepa_lab.data.sources.archives import DataError, sha256_of, store
from jepa_lab.data.sources.cache import alone, cache_root, disk_errors, origin, sweep, write_origin
from jepa_lab.data.sources.catalogue import DATASETS, DataSet, File, Source, everyday
from jepa_lab.data.sources.download import SourceFailed, download

__all__ = [
    "DATASETS",
    "DataError",
    "DataSet",
    "File",
    "Source",
    "cache_root",
    "describe",
    "everyday",
    "fetch",
    "locate",
    "origin",
    "verify",
]

SLACK = 1 << 16  # bytes that a compressed file may be longer than its content


def fetch(name: str, *, root: str | Path | None = None, progress: bool = True, fallback: bool = True) -> Path:
    """Bring a data set into the cache and return its folder; nothing is downloaded when it is there and right.

    When no source answers and the set has a fallback (and `fallback` is true), the folder holds only a note that says
    so; the loader then returns the stand-in under its own name. Several processes and threads may call this at once.
    Raises `DataError`: every source failed and there is no fallback, disk full, no write permission, unknown name.
    """
    data_set = _named(name)
    folder = cache_root(root) / name
    with disk_errors(folder):
        if origin(folder).get("name") == name and _complete(data_set, folder):
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder):
            return _fetch(data_set, folder, progress, fallback)


def locate(name: str, *, root: str | Path | None = None) -> Path:
    """A set's folder for a loader, fetched on first use.

    Where an earlier fetch had to fall back, this repeats the warning without another wait for the network; `fetch`
    tries again.
    """
    folder = cache_root(root) / name
    note = origin(folder)
    if note.get("fallback") and not any((folder / file.name).is_file() for file in _named(name).files):
        again = f"`python -m jepa_lab data fetch {name}` tries again."
        _print(f"WARNING: {name} is not in {folder}; {note.get('name')} stands in for it. {again}")
        return folder
    return fetch(name, root=root)


def verify(name: str, *, root: str | Path | None = None) -> Path:
    """Check every file of a cached set against its sha256; returns the folder. `DataError` names the bad files."""
    data_set = _named(name)
    folder = cache_root(root) / name
    with disk_errors(folder):
        faults = [f"{file.name}: {fault}" for file in data_set.files if (fault := _fault(folder, file))]
        if data_set.sums and not faults and (bad := listed.faults(folder, folder / data_set.sums)):
            faults = [f"{len(bad)} files are missing or wrong, the first is {bad[0]}"]
    if faults:
        stand_in = f" ({data_set.fallback} stands in for it)" if origin(folder).get("fallback") else ""
        remedy = f"Run `python -m jepa_lab data fetch {name}`."
        raise DataError(f"{name} in {folder}{stand_in}: {'; '.join(faults)}. {remedy}")
    return folder


def describe(root: str | Path | None = None) -> list[dict[str, str]]:
    """One row of text per known set: name, title, kind, licence, download, sources (in order), cached, path."""
    rows = []
    for data_set in DATASETS.values():
        folder = cache_root(root) / data_set.name
        sizes = {file: (folder / file.name).stat().st_size for file in data_set.files if (folder / file.name).is_file()}
        complete = all(sizes.get(file) == file.size for file in data_set.files) and not _unlisted(data_set, folder)
        stand_in = data_set.fallback if origin(folder).get("fallback") else "no"
        rows.append(
            {
                "name": data_set.name,
                "title": data_set.title,
                "kind": data_set.kind,
                "licence": data_set.licence,
                "download": f"{data_set.download_mb:g} MB",
                "cached": "yes" if complete else stand_in,
                "path": str(folder),
                "sources": "; ".join([*map(str, data_set.sources), *filter(None, [data_set.fallback])]),
            }
        )
    return rows


def _named(name: str) -> DataSet:
    if name not in DATASETS:
        raise DataError(f"no data set is called {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def _fault(folder: Path, file: File) -> str | None:
    """What is wrong with a cached file, in words; None when it is right."""
    path = folder / file.name
    if not path.is_file():
        return "missing"
    if path.stat().st_size != file.size:
        return f"{path.stat().st_size} bytes instead of {file.size}"
    return None if sha256_of(path) == file.sha256 else "wrong sha256"


def _unlisted(data_set: DataSet, folder: Path) -> list[str]:
    """The files that the set's own list names and the folder lacks."""
    return listed.missing(folder, folder / data_set.sums) if data_set.sums else []


def _complete(data_set: DataSet, folder: Path) -> bool:
    return not any(_fault(folder, file) for file in data_set.files) and not _unlisted(data_set, folder)


def _fetch(data_set: DataSet, folder: Path, progress: bool, fallback: bool) -> Path:
    name = data_set.name
    sweep(folder)
    broken = [file.name for file in data_set.files if (folder / file.name).exists() and _fault(folder, file)]
    if broken:
        _print(f"{name}: {', '.join(broken)} in {folder} is damaged: fetching it again")
    tried = _try_sources(data_set, folder, progress)
    if not _complete(data_set, folder):
        return _fall_back(data_set, folder, tried, fallback)
    if origin(folder).get("fallback", True):
        write_origin(folder, {"name": name, "source": "copied by hand, sha256 checked", "fallback": False})
    return folder


def _try_sources(data_set: DataSet, folder: Path, progress: bool) -> list[str]:
    """Fetch what is missing from one source after the other; returns what each failed source answered."""
    tried: list[str] = []
    for source in data_set.sources:
        if _complete(data_set, folder):
            break
        _print(f"{data_set.name}: trying {source}")
        try:
            _fetch_from(source, data_set, folder, progress)
            write_origin(folder, {"name": data_set.name, "source": str(source), "fallback": False})
        except (SourceFailed, DataError) as error:
            tried.append(f"{source}: {error}")
            _print(f"{data_set.name}: failed: {error}")
    return tried


def _fetch_from(source: Source, data_set: DataSet, folder: Path, progress: bool) -> None:
    missing = [file for file in data_set.files if _fault(folder, file)]
    if source.kind == "zip":
        known = {file.name: file.sha256 for file in data_set.files}
        listed.from_zip(source.where, folder, data_set.sums, known, progress)
    elif source.kind == "debian":
        wanted = {source.pattern.format(name=file.name): file for file in missing}
        debian.from_package(source.where, wanted, folder)
    else:
        for file in missing:
            _from_http(source, file, folder, progress)


def _from_http(source: Source, file: File, folder: Path, progress: bool) -> None:
    remote = source.pattern.format(name=file.name)

    def check(path: Path) -> None:
        store(path, folder / file.name, sha256=file.sha256, size=file.size)

    target = folder / Path(remote).name
    download(f"{source.where}/{remote}", target, check, max_bytes=file.size + SLACK, progress=progress)


def _fall_back(data_set: DataSet, folder: Path, tried: list[str], allowed: bool) -> Path:
    attempts = "\n".join(f"  - {line}" for line in tried)
    names = ", ".join(file.name for file in data_set.files)
    listed_too = " and all that the last one lists" if data_set.sums else ""
    remedy = (
        f"Connect to the network and run `python -m jepa_lab data fetch {data_set.name}`, "
        f"or copy {names} (unpacked){listed_too} into {folder}."
    )
    if not (allowed and data_set.fallback):
        raise DataError(f"could not get {data_set.name}. Tried:\n{attempts}\n{remedy}")
    _print(
        f"WARNING: could not get {data_set.name}. Tried:\n{attempts}\n"
        f"Another data set stands in for it: {data_set.fallback}. Results will be of that one.\n{remedy}"
    )
    write_origin(folder, {"name": data_set.fallback, "source": "embedded", "fallback": True, "tried": tried})
    return folder


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
