"""A Chromium for the browser tests: `python -m jepa_lab.publish.browser` prints its path and downloads one if needed.

Order: $JEPA_LAB_BROWSER; a Chromium, Chrome or Edge of the system; Playwright's own download; for root, Debian's
package. A candidate counts only if it starts.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)


@cache
def find() -> str | None:
    """The path of a browser on this machine that starts headless, or None."""
    return next((path for path in _candidates() if starts(path)), None)


def _candidates() -> Iterator[str]:
    if os.environ.get("JEPA_LAB_BROWSER"):
        yield os.environ["JEPA_LAB_BROWSER"]
    yield from filter(None, map(shutil.which, NAMES))
    yield from filter(os.path.exists, APPLICATIONS)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        downloaded = playwright.chromium.executable_path
    if os.path.exists(downloaded):
        yield downloaded


def starts(path: str) -> bool:
    """True when the browser renders an empty page without a screen (a snap's stub or missing libraries do not)."""
    command = [
        path,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--dump-dom",
        "data:text/html,<p>ready",
    ]
    try:
        return "ready" in subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False


def obtain() -> str | None:
    """As `find`, but downloads a browser if there is none: Playwright's, for root also Debian's. None if both fail."""
    if path := find():
        return path
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    attempts = [[sys.executable, "-m", "playwright", "install", *(["--with-deps"] if root else []), "chromium"]]
    if root and shutil.which("apt-get"):
        attempts += [["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]]
    for command in attempts:
        print(f"no browser found, running: {' '.join(command)}", file=sys.stderr)
        try:
            subprocess.run(
                command, stdout=sys.stderr, timeout=1800, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"  {error}", file=sys.stderr)
        find.cache_clear()
        if path := find():
            return path
    return None


if __name__ == "__main__":
    found = obtain()
    print(found or "no browser was found and none could be downloaded: the browser tests cannot run")
    sys.exit(0 if found else 1)
