"""The rooms of jepa_lab: who may import whom, who uses what, how long a file is, and how cheap an import stays."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jepa_lab import provenance

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jepa_lab"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "notebooks").glob("*.py"))
PAPERS = sorted(path.parent.name for path in (PACKAGE / "papers").glob("*/paper.py"))
EXPLORERS = sorted(path.parent.name for path in (PACKAGE / "papers").glob("*/explorer.py"))
TOOLS = {"publish", "cli", "__main__"}  # they run notebooks and print results; nothing that computes imports them
USED_BY_PUBLISH = {"publish", "records", "provenance", "claims", "configs", "files", "data"}

# Shared files that fewer than two papers reach, each with the reason why they do not lie in a paper's folder.
ONE_PAPER = {
    "data/": "all data sets lie in one room, also those of one chapter",
    "widgets/mask_": "the mask explorer shows the shared samplers of masks, chapter 01 is the first to use it",
}
MAX_FILE, MAX_FUNCTION = 300, 40
# Longer than the limits, each with its reason; at most five.
LONGER = {
    "jepa_lab/train.py fit": "the algorithm, straight from top to bottom in the papers' order",
}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported(path: Path, code: str | None = None) -> set[str]:
    """What a file imports from jepa_lab, anywhere in it: {'data.sources.fetch', 'masks.multi_block', …}."""
    names = set()
    for node in ast.walk(ast.parse(code if code is not None else path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("jepa_lab.") for name in names if name.startswith("jepa_lab.")}


def room(name: str) -> str:
    """'data.images.digits' and 'data/images.py' lie in the room 'data'."""
    return name.replace("/", ".").split(".")[0]


def is_under(name: str, *folders: str) -> bool:
    return any(name == folder or name.startswith(f"{folder}.") for folder in folders)


def forbidden(path: Path) -> list[str]:
    """The imports of one file that break a rule of its room."""
    uses, place = imported(path), name_of(path)
    home = room(place)
    if home in ("cli", "__main__"):
        return []
    if home == "publish":
        return sorted(use for use in uses if room(use) not in USED_BY_PUBLISH and room(use) != "__version__")
    bad = {use for use in uses if room(use) in TOOLS}
    if home == "papers":
        parts = place.split("/")
        allowed = f"papers.{parts[1]}" if len(parts) > 2 else "papers itself imports no paper"
        return sorted(bad | {use for use in uses if room(use) == "papers" and not is_under(use, allowed)})
    if home == "data":
        return sorted(use for use in uses if not is_under(use, "data", "files"))
    return sorted(bad | {use for use in uses if room(use) == "papers"})


def test_there_are_papers_to_check():
    assert len(PAPERS) >= 5 and len(SCRIPTS) >= 5 and EXPLORERS and len(FILES) > 50
    assert {script.stem.partition("_")[2] for script in SCRIPTS} == set(PAPERS)
    folders = {path.parent.name for path in (PACKAGE / "papers").glob("*/__init__.py")}
    assert folders == set(PAPERS), "each folder of papers has a paper.py"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_imports_against_the_rules_of_its_room(path):
    assert forbidden(path) == []


@pytest.mark.parametrize(
    "place, code, bad",
    [
        ("masks.py", "def f():\n    from jepa_lab.papers.masking import paper", ["papers.masking.paper"]),
        ("train.py", "import jepa_lab.publish.runner", ["publish.runner"]),
        ("papers/masking/paper.py", "from jepa_lab.papers import predictors", ["papers.predictors"]),
        ("papers/masking/paper.py", "from jepa_lab.papers.masking import claims", []),
        ("papers/masking/paper.py", "from jepa_lab.papers.masking_two import claims", ["papers.masking_two.claims"]),
        ("data/images.py", "from jepa_lab import files, masks", ["masks"]),
        ("publish/stage.py", "from jepa_lab import records, train", ["train"]),
        ("records.py", "import torch", []),
    ],
)
def test_the_rules_of_the_rooms_can_be_broken(place, code, bad, monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda self, encoding=None: code)
    assert forbidden(PACKAGE / place) == bad


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_imports_shared_rooms_and_its_own_paper(script):
    own_paper = f"papers.{script.stem.partition('_')[2]}"
    uses = imported(script)
    assert any(is_under(use, own_paper) for use in uses)
    assert [use for use in uses if room(use) in TOOLS] == []
    assert [use for use in uses if room(use) == "papers" and not is_under(use, own_paper)] == []


@pytest.mark.parametrize("paper", EXPLORERS)
def test_an_explorer_is_imported_by_its_notebook_alone(paper):
    explorer = f"papers.{paper}.explorer"
    benchmarks = sorted((ROOT / "benchmarks").rglob("*.py"))
    files = [path for path in [*FILES, *SCRIPTS, *benchmarks] if any(is_under(u, explorer) for u in imported(path))]
    assert [path.stem.partition("_")[2] for path in files] == [paper]


def test_a_shared_file_is_reached_by_two_papers():
    reached = {script.stem: provenance.code_files(script.stem) for script in SCRIPTS}
    few = set()
    for path in FILES:
        name = name_of(path)
        if room(name) not in TOOLS | {"papers"} and sum(path in files for files in reached.values()) < 2:
            few.add(name)
    assert sorted(name for name in few if not any(name.startswith(part) for part in ONE_PAPER)) == []


@pytest.mark.parametrize("arguments", [["format", "--check"], ["check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(arguments):
    done = subprocess.run([sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def lengths() -> dict[str, tuple[int, int]]:
    """{what: (lines, limit)} for every file and function of the package and the benchmarks."""
    found = {}
    for path in [*FILES, *sorted((ROOT / "benchmarks").rglob("*.py"))]:
        code, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        found[name] = len(code.splitlines()), MAX_FILE
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                found[f"{name} {node.name}"] = node.end_lineno - node.lineno + 1, MAX_FUNCTION
    return found


def test_files_and_functions_stay_short():
    too_long = {what: lines for what, (lines, limit) in lengths().items() if lines > limit}
    assert {what: lines for what, lines in too_long.items() if what not in LONGER} == {}
    assert sorted(set(LONGER) - set(too_long)) == [], "these are short now: take them off the list"
    assert len(LONGER) <= 5


@pytest.mark.parametrize(
    "code, found",
    [
        ("from jepa_lab import masks", {"masks"}),
        ("import jepa_lab.data.sources.fetch", {"data.sources.fetch"}),
        ("def f():\n    from jepa_lab.data.images import digits", {"data.images.digits"}),
        ("import torch", set()),
    ],
)
def test_the_reader_of_imports_sees_every_form(code, found):
    assert imported(Path("x.py"), code) == found


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_the_package_and_the_command_line_loads_nothing_heavy():
    heavy = {"torch", "numpy", "plotly", "timm", "duckdb", "scipy", "papermill"}
    assert loaded_by("import jepa_lab") & heavy == set()
    assert loaded_by("from jepa_lab import records, claims, configs, __main__") & heavy == set()


def test_the_claims_of_every_paper_load_without_torch():
    imports = "\n".join(f"import jepa_lab.papers.{name}.claims" for name in PAPERS)
    assert loaded_by(imports) & {"torch", "numpy", "scipy", "plotly"} == set()


def test_importing_every_paper_loads_neither_timm_nor_plotly():
    imports = "\n".join(f"import jepa_lab.papers.{name}.paper" for name in PAPERS)
    assert loaded_by(imports) & {"timm", "plotly"} == set()
