"""The third-party files that the pages load, at pinned versions: `book/_static/vendor/manifest.json` lists them.

`python -m jepa_lab.publish.assets` checks the files against their sha256. After a version was changed in the manifest,
`--refresh` downloads the files from npm and writes the new sums (it needs `npm`; readers never do). plotly.min.js and
anywidget.js are not here: the Sphinx extension copies them from the installed Python packages.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from jepa_lab import files

VENDOR = Path(__file__).resolve().parents[2] / "book" / "_static" / "vendor"


def manifest(vendor: Path = VENDOR) -> list[dict]:
    """The packages: name, version, licence, and files with `path` here, `source` in the npm archive, `sha256`."""
    return json.loads((vendor / "manifest.json").read_text(encoding="utf-8"))


def problems(vendor: Path = VENDOR) -> list[str]:
    """One line for each file that is missing, altered, or present without being listed."""
    listed = {file["path"]: file["sha256"] for package in manifest(vendor) for file in package["files"]}
    present = {path.relative_to(vendor).as_posix() for path in files.below(vendor)} - {"manifest.json"}
    altered = [name for name in listed.keys() & present if _sha256(vendor / name) != listed[name]]
    return [
        *(f"{name}: missing" for name in sorted(listed.keys() - present)),
        *(f"{name}: not in manifest.json" for name in sorted(present - listed.keys())),
        *(f"{name}: sha256 differs" for name in sorted(altered)),
    ]


def refresh(vendor: Path = VENDOR) -> None:
    """Downloads every package at its manifest version and rewrites the files and their sums."""
    packages = manifest(vendor)
    with tempfile.TemporaryDirectory() as folder:
        for package in packages:
            with tarfile.open(_npm_pack(f"{package['name']}@{package['version']}", folder)) as archive:
                for file in package["files"]:
                    content = archive.extractfile("package/" + file["source"]).read()
                    file["sha256"] = hashlib.sha256(content).hexdigest()
                    target = vendor / file["path"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
    (vendor / "manifest.json").write_text(json.dumps(packages, indent=1) + "\n", encoding="utf-8")


def _npm_pack(spec: str, folder: str) -> Path:
    command = ["npm", "pack", "--silent", spec]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return Path(folder, packed.stdout.split()[-1])


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    if "--refresh" in sys.argv[1:]:
        refresh()
    wrong = problems()
    print("\n".join(wrong) or f"all vendored files are as listed in {VENDOR / 'manifest.json'}")
    sys.exit(1 if wrong else 0)
