"""What pyproject.toml, requirements.txt and .ci/environment promise about installation."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

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
