"""Files of a Debian package, downloaded and unpacked as any user: nothing is installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from jepa_lab.data.sources.archives import store, unpack
from jepa_lab.data.sources.catalogue import File
from jepa_lab.data.sources.download import SourceFailed

OPTIONS = ["-o", "Acquire::http::Timeout=10", "-o", "Acquire::Retries=1", "-o", "APT::Sandbox::User=root"]
TIMEOUT_S = 300


def from_package(package: str, wanted: Mapping[str, File], folder: Path) -> None:
    """Put files of a package into `folder`. wanted: {path in the package: file}. Raises `SourceFailed`, `DataError`."""
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise SourceFailed(f"this machine has no {tool} (not a Debian or Ubuntu)")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tmp-") as temporary:
        work = Path(temporary).resolve()
        archive = _download(package, work)
        command = ["dpkg-deb", "--fsys-tarfile", archive]
        with (work / "data.tar").open("wb") as tar:
            done = _run(command, stdout=tar, stderr=subprocess.PIPE)
        if done.returncode:
            raise SourceFailed(f"{archive.name} is damaged: {_last_line(done.stderr)}")
        unpack(work / "data.tar", work / "content")
        for path, file in wanted.items():
            packed = work / "content" / path
            if not packed.is_file():
                raise SourceFailed(f"{archive.name} does not hold {path}")
            store(packed, folder / file.name, sha256=file.sha256, size=file.size)


def _download(package: str, work: Path) -> Path:
    """The downloaded package. Where the machine's package lists are missing or old, new lists are made in `work`."""
    own_lists = [*OPTIONS, "-o", f"Dir::State::Lists={work}/lists", "-o", f"Dir::Cache={work}/cache"]
    (work / "lists" / "partial").mkdir(parents=True)
    (work / "cache" / "archives" / "partial").mkdir(parents=True)
    attempts = ([[*OPTIONS, "download", package]], [[*own_lists, "update"], [*own_lists, "download", package]])
    reason = ""
    for steps in attempts:
        for step in steps:
            command = ["apt-get", "-q", *step]
            done = _run(command, cwd=work, capture_output=True)
            reason = _last_line(done.stderr) or reason
        if found := sorted(work.glob(f"{package}_*.deb")):
            return found[0]
    raise SourceFailed(f"apt-get could not download it ({reason})")


def _run(command: list, **how) -> subprocess.CompletedProcess:
    """The ended program, whatever bytes it printed. Raises `SourceFailed`: it took too long or cannot be started."""
    try:
        return subprocess.run(command, text=True, errors="replace", timeout=TIMEOUT_S, **how)
    except subprocess.TimeoutExpired as error:
        raise SourceFailed(f"{command[0]} took more than {TIMEOUT_S} s") from error
    except OSError as error:
        raise SourceFailed(f"{command[0]} cannot be started ({error.strerror})") from error


def _last_line(text: str) -> str:
    """The last line of an error, of those that start with E: if there are any."""
    errors = [line for line in text.splitlines() if line.startswith("E:")] or text.splitlines()
    return errors[-1].strip() if errors else ""
