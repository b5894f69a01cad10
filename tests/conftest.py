"""Shared by all tests: shapes and types of jepa_lab's public functions are checked at run time here, and only here."""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch starts: workers side by side would fight for the cores

from jaxtyping import install_import_hook

install_import_hook("jepa_lab", "typecheck.check")  # before any test imports the package

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout's root."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def run_program(request):
    """Run a program in a process of its own, with the test's folder on its path; what it prints."""

    def run(program: str, *arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(request.path.parent), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def browser_path() -> str:
    """A Chromium that starts. None on this machine: skipped loudly, and with CI=true a failure."""
    from jepa_lab.publish import browser

    path = browser.find()
    if path is None:
        message = "no Chromium starts on this machine: python -m jepa_lab.publish.browser"
        pytest.fail(message) if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip(message)
    return path
