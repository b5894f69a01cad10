"""What pyproject.toml, requirements.txt and .ci/environment promise about installation."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TINY = '[project]\nname = "jepa_lab"\nversion = "1"\n[tool.setuptools]\npy-modules = ["jepa_lab"]\n'


@pytest.fixture
def checkout(tmp_path, repo):
    """A tiny project with our .ci/environment and a .venv that has pip already."""
    root = tmp_path / "checkout"
    (root / ".ci").mkdir(parents=True)
    shutil.copy(repo / ".ci" / "environment", root / ".ci")
    (root / "pyproject.toml").write_text(TINY)
    (root / "jepa_lab.py").touch()
    (root / "requirements.txt").touch()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    site = sysconfig.get_path("purelib", "venv", vars={"base": str(root / ".venv")})
    Path(site, "pip.pth").write_text(sysconfig.get_path("purelib"))
    return root


@pytest.mark.parametrize("settings", ["variables", "file"])
def test_a_shells_settings_do_not_move_the_installation(checkout, tmp_path, settings):
    elsewhere = tmp_path / "elsewhere"
    pip_conf = tmp_path / "pip.conf"
    pip_conf.write_text(f"[install]\nuser = true\ntarget = {elsewhere}\n")
    older = tmp_path / "older" / "jepa_lab-1.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: jepa_lab\nVersion: 1\n")
    (tmp_path / "projects" / ".ci").mkdir(parents=True)
    variables = {
        "PIP_USER": "1",
        "PIP_TARGET": elsewhere,
        "PIP_PREFIX": elsewhere,
        "PIP_DRY_RUN": "1",
        "PIP_REQUIRE_HASHES": "1",
        "PYTHONHOME": elsewhere,
        "PYTHONPATH": older.parent,
        "CDPATH": tmp_path / "projects",
    }
    given = variables if settings == "variables" else {"PIP_CONFIG_FILE": pip_conf}
    environment = os.environ | {name: str(value) for name, value in given.items()}
    done = subprocess.run([".ci/environment"], cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((checkout / ".venv").rglob("jepa_lab-*.dist-info")) and not elsewhere.exists()


def declared(repo) -> dict[str, list[Requirement]]:
    """The requirements of the package itself (under "") and of each extra."""
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {group: [Requirement(line) for line in lines] for group, lines in groups.items()}


def pinned(repo) -> dict[str, str]:
    """The version of each package in requirements.txt, markers left out."""
    lines = (repo / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in found}


def test_every_declared_package_is_pinned_within_its_range(repo):
    versions = pinned(repo)
    outside = {
        str(requirement)
        for requirements in declared(repo).values()
        for requirement in requirements
        if not requirement.specifier.contains(versions.get(canonicalize_name(requirement.name), "0"))
    }
    assert outside == set()


def imported(folder: Path, skip: str = "none") -> set[str]:
    """The distributions that the Python files in a folder import by name, as this environment knows them."""
    modules = set()
    for path in folder.rglob("*.py"):
        if skip not in path.relative_to(folder).parts:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    modules |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    modules.add(node.module)
    owners = metadata.packages_distributions()
    names = {module.split(".")[0] for module in modules} - {"jepa_lab"}
    return {canonicalize_name(owners[name][0]) for name in names if name in owners}


def test_every_direct_import_is_declared(repo):
    names = {group: {canonicalize_name(r.name) for r in found} for group, found in declared(repo).items()}
    everything = set().union(*names.values())
    package = repo / "jepa_lab"
    assert imported(package, skip="publish") - names[""] == {"wfdb", "psutil"}  # asked for where they are missed
    assert imported(package / "publish") - names[""] - names["book"] == {"playwright"}  # the browser of the tests
    assert imported(repo / "tests") | imported(repo / "notebooks") <= everything
