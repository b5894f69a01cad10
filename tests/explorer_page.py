"""An explorer alone on a page, light and dark, with its script and style sheet as a reader gets them; and its functions
called from Python.
"""

import json
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from in_browser import chromium, served, visit

from jepa_lab import widgets

PAGE = """<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>Explorer</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<link rel="stylesheet" href="explorer.css"><style>{colours}</style></head>
<body><main><h1>Chapter</h1><h2>Explorer</h2><div id="explorer"></div></main><script type="module">
import {{ mount }} from "./explorer.js"; mount(document.getElementById("explorer"), {data});</script></body></html>"""
DARK = """html { --pst-color-background: #14181e; --pst-color-text-base: #ced6dd; --pst-color-text-muted: #9ca4af;
  --jl-line: #454b54; --jl-accent: #6bb6e8; --jl-warm: #f0925a; background: #14181e; color: #ced6dd; }"""
THEMES = {"light": "", "dark": DARK}


@contextmanager
def explorer_pages(folder: Path, browser_path: str, script: Path, data: dict, ready: str):
    """A function (width, theme) -> Visit that opens the explorer and waits for an element that matches `ready`.

    Every request to anywhere but the folder is refused and noted in the visit's trouble.
    """
    (folder / "explorer.js").write_text(widgets.module(script), encoding="utf-8")
    (folder / "explorer.css").write_text(widgets.style(script), encoding="utf-8")
    for theme, colours in THEMES.items():
        page = PAGE.format(theme=theme, colours=colours, data=json.dumps(data))
        (folder / f"{theme}.html").write_text(page, encoding="utf-8")
    with served(folder) as base, chromium(browser_path) as browser:

        def open_at(width: int, theme: str = "light"):
            seen = visit(browser, base, theme, width=width)
            seen.page.wait_for_selector(ready)
            return seen

        yield open_at


def faults(page) -> list[dict]:
    """What breaks the accessibility rules on the page."""
    return Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]


def fits(page, width: int) -> bool:
    """Whether nothing on the page is wider than the page."""
    return page.evaluate("document.documentElement.scrollWidth") <= width


def javascript(script: Path, folder: Path, request):
    """A function that returns the value of an expression over the explorer's module `m`, found by node.

    On a machine without node the browser computes it, which CI demands.
    """
    module = folder / "explorer.mjs"
    module.write_text(widgets.module(script), encoding="utf-8")
    node = shutil.which("node")
    if node is None:
        return _in_page(module, request.getfixturevalue("browser_path"))

    def run(expression: str):
        program = f"const m = await import({json.dumps(module.as_uri())}); console.log(JSON.stringify({expression}));"
        done = subprocess.run(
            [node, "--input-type=module", "-"], input=program, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def _in_page(module: Path, browser_path: str):
    def run(expression: str):
        with served(module.parent) as base, chromium(browser_path) as browser:
            page = browser.new_page()
            page.goto(base)
            return page.evaluate(f"async () => {{ const m = await import('./{module.name}'); return {expression}; }}")

    return run
