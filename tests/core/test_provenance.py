"""Where a number comes from: which code, which commit, which machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from jepa_lab import provenance

REPO = Path(__file__).resolve().parents[2]
CHAPTERS = [path.stem for path in sorted((REPO / "notebooks").glob("*.py"))]


@pytest.fixture
def small_package(tmp_path) -> Path:
    """A package of two papers, with the script of one chapter beside it."""
    contents = {
        "jepa_lab/__init__.py": "",
        "jepa_lab/masks.py": "",
        "jepa_lab/diagnostics.py": "",
        "jepa_lab/unused.py": "",
        "jepa_lab/widgets/__init__.py": "",
        "jepa_lab/widgets/kit.js": "",
        "jepa_lab/papers/__init__.py": "",
        "jepa_lab/papers/tiny/__init__.py": "",
        "jepa_lab/papers/tiny/paper.py": "def late():\n    from jepa_lab import masks",
        "jepa_lab/papers/tiny/pilots.py": "",
        "jepa_lab/papers/other/paper.py": "import jepa_lab.unused",
        "jepa_lab/publish/stage.py": "import jepa_lab.masks",
        "notebooks/01_tiny.py": "import jepa_lab.diagnostics\nfrom jepa_lab.widgets import something",
    }
    for name, text in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path / "jepa_lab"


def test_code_files_are_what_notebook_and_paper_reach_by_imports(small_package):
    found = {p.relative_to(small_package).as_posix() for p in provenance.code_files("01_tiny", small_package)}
    assert found == {
        "__init__.py",
        "diagnostics.py",  # imported by the notebook
        "masks.py",  # imported inside a function of the paper
        "papers/tiny/__init__.py",
        "papers/tiny/paper.py",
        "papers/tiny/pilots.py",  # part of the paper's folder, although nothing imports it
        "widgets/__init__.py",
        "widgets/kit.js",  # beside a module that is reached
    }


def test_code_hash_sees_content_and_names_of_these_files(small_package):
    before = provenance.code_hash("01_tiny", small_package)
    (small_package / "unused.py").write_text("changed = True")
    assert provenance.code_hash("01_tiny", small_package) == before
    (small_package / "masks.py").write_text("changed = True")
    changed = provenance.code_hash("01_tiny", small_package)
    assert changed != before
    (small_package / "papers/tiny/pilots.py").rename(small_package / "papers/tiny/renamed.py")
    assert provenance.code_hash("01_tiny", small_package) not in (before, changed)


def expected_stale(name: str) -> set[str] | None:
    """The chapters that an edit of this file must re-run: none, all, or its paper's; None where the closure decides."""
    room = name.split("/")[0]
    if room == "papers" and name.count("/") > 1:
        return {chapter for chapter in CHAPTERS if chapter.partition("_")[2] == name.split("/")[1]}
    if room in ("publish", "cli", "__main__.py"):
        return set()
    return set(CHAPTERS) if name in ("__init__.py", "records.py", "figures.py") else None


@pytest.fixture(scope="module")
def copied_package(tmp_path_factory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(REPO / "jepa_lab", copy / "jepa_lab", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPO / "notebooks", copy / "notebooks")
    return copy / "jepa_lab"


def test_touching_each_file_makes_the_right_chapters_stale(copied_package):
    before = {chapter: provenance.code_hash(chapter, copied_package) for chapter in CHAPTERS}
    files = [p for p in sorted(copied_package.rglob("*")) if p.is_file()]
    assert len(before) >= 5 and len(files) > 50
    for path in files:
        name, content = path.relative_to(copied_package).as_posix(), path.read_bytes()
        path.write_bytes(content + b"\n")
        stale = {chapter for chapter in CHAPTERS if provenance.code_hash(chapter, copied_package) != before[chapter]}
        path.write_bytes(content)
        expected = expected_stale(name)
        if expected is None:
            assert stale, f"{name}: no chapter reaches this shared file"
        else:
            assert stale == expected, name


def test_a_shared_room_makes_only_those_chapters_stale_that_import_it(copied_package):
    trained = {"01_masking", "02_predictors", "07_ecg_jepa"}
    reach = {chapter: provenance.code_files(chapter, copied_package) for chapter in CHAPTERS}
    assert {chapter for chapter in CHAPTERS if copied_package / "train.py" in reach[chapter]} >= trained
    assert {chapter for chapter in CHAPTERS if copied_package / "data/ecg/simulator.py" in reach[chapter]} == {
        "07_ecg_jepa"
    }


def test_the_record_says_how_much_memory_was_used_where_the_system_tells_it(monkeypatch):
    assert 10 < provenance.peak_rss_mb() < 100_000
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=windows_process))
    assert provenance.peak_rss_mb() == 300.0
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert provenance.peak_rss_mb() is None


def windows_process():
    return SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=300 * 2**20))


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def test_the_commit_is_that_of_the_code_never_of_another_repository(tmp_path, monkeypatch):
    other, around = tmp_path / "other", tmp_path / "around"
    for folder in (other, around, around / "checkout"):
        folder.mkdir()
        git(folder, "init", "-q")
        git(folder, "commit", "-q", "--allow-empty", "-m", folder.name)
    monkeypatch.setattr(provenance, "REPO", around / "checkout")
    commit = provenance.git_commit()
    for name in ("GIT_DIR", "GIT_COMMON_DIR"):  # hooks, rebase --exec and bisect run set such variables
        monkeypatch.setenv(name, str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert len(commit) == 40 and provenance.git_commit() == commit
    shutil.rmtree(around / "checkout" / ".git" / "refs")  # git would go on to the repository around it
    assert provenance.git_commit() is None


@pytest.mark.parametrize("value, expected", [("3", 3), ("4,2", 4), ("", os.cpu_count()), ("many", os.cpu_count())])
def test_the_number_of_threads_is_read_from_any_environment(value, expected, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert provenance.threads() == expected
