"""Where a number comes from: which code, which packages, which machine."""

import ast
import hashlib
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
REPO = PACKAGE.parent
VERSIONED = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "einops", "plotly")
PAGE_SUFFIXES = {".js", ".css", ".json", ".html"}


def code_hash(chapter: str, package: Path = PACKAGE, script: Path | None = None) -> str:
    """sha256 over the files of `code_files`: it changes when code that this chapter can execute changes."""
    digest = hashlib.sha256()
    for path in code_files(chapter, package, script):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def code_files(chapter: str, package: Path = PACKAGE, script: Path | None = None) -> list[Path]:
    """The files of the package that the chapter's notebook and its paper's folder reach by import statements.

    An import counts wherever it stands, also inside a function. With a module come the scripts, styles and data
    (.js, .css, .json, .html) in its folder. `script` is the notebook as a Python file; empty means
    notebooks/CHAPTER.py beside the package.
    """
    script = script or package.parent / "notebooks" / f"{chapter}.py"
    slug = chapter.partition("_")[2]
    paper = list((package / "papers" / slug).rglob("*.py")) if slug else []
    waiting = {path.relative_to(package).as_posix() for path in paper}
    if script.is_file():
        waiting |= _imported(script.read_text(encoding="utf-8"))
    seen, reached = set(), set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        path = package / name
        if path.is_file():
            reached.add(path)
            waiting |= _imported(path.read_text(encoding="utf-8")) - seen
    beside = {p for folder in {path.parent for path in reached} for p in folder.iterdir() if p.suffix in PAGE_SUFFIXES}
    return sorted(reached | beside)


@cache
def _imported(source: str) -> frozenset[str]:
    """The files of the package that the source may import: 'data/images.py', 'data/__init__.py', and so on.

    `from jepa_lab.data import images` does not tell a module from a function, so some of the files do not exist.
    """
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    files = set()
    for parts in [module.split(".") for module in modules]:
        if parts[0] == PACKAGE.name:
            files |= {"/".join([*parts[1:end], "__init__.py"]) for end in range(1, len(parts) + 1)}
            files |= {"/".join(parts[1:end]) + ".py" for end in range(2, len(parts) + 1)}
    return frozenset(files)


def git_commit() -> str | None:
    """The checkout's commit, with '+' when files under version control were changed since; None outside a checkout."""
    if not (REPO / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD").strip()
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "jepa_lab", "notebooks")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+" if changed else commit


def _git(*arguments: str) -> str:
    """What git answers about this checkout and no other: not the one of GIT_DIR, which hooks set, nor one around it."""
    command = ["git", "-C", str(REPO), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_CEILING_DIRECTORIES"] = str(REPO.parent)
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment).stdout


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor(device: str = "cpu") -> str:
    """The name of the processor, or of the GPU where the device is a CUDA device."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def threads() -> int:
    """The number of CPU threads that torch uses in this process, or would use if it were imported."""
    if "torch" in sys.modules:
        return sys.modules["torch"].get_num_threads()
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # one number for each nested level
    return (int(first) if first.isdecimal() else 0) or os.cpu_count() or 1


def peak_rss_mb() -> float | None:
    """This process's peak resident memory in MB; None where neither the system nor psutil tells it."""
    try:
        import resource
    except ImportError:  # Windows
        return _peak_rss_on_windows()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kilobytes = peak / 1024 if sys.platform == "darwin" else peak  # macOS counts bytes
    return round(kilobytes / 1024, 1)


def _peak_rss_on_windows() -> float | None:
    try:
        import psutil
    except ImportError:
        return None
    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
    return None if peak is None else round(peak / 2**20, 1)
