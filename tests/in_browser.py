"""A real Chromium on a local server with the rest of the network cut off; used by test_browser.py and
test_extension.py.
"""

import functools
import http.server
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",  # 3-D plots without a graphics card
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def served(folder: Path):
    """The address of a server for one folder, on a free port of this machine only."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@contextmanager
def chromium(path: str):
    """A browser for the tests of one file: Playwright's plain API allows one at a time in a process, so close it after."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """One open page, and everything that went wrong on it so far."""

    page: Page
    trouble: list[str] = field(default_factory=list)

    def wait(self, condition: str, argument=None, seconds: float = 20):
        """Until the JavaScript expression is true."""
        self.page.wait_for_function(condition, arg=argument, timeout=1000 * seconds)

    def scroll_through(self):
        """As a reader does: screen by screen to the end; then until every plot in sight of the scroll has been drawn."""
        self.page.evaluate(
            """async () => { for (let y = 0; y < document.documentElement.scrollHeight; y += innerHeight / 2) {
                 scrollTo({ top: y, behavior: 'instant' }); await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20))); } scrollTo({ top: 0, behavior: 'instant' }); }"""
        )
        self.wait(
            "[...document.querySelectorAll('.jl-plot')].every((p) => p.dataset.drawn || !p.offsetParent)", seconds=60
        )

    def theme(self, wanted: str):
        """Clicks the page's own switch until the wanted theme is on."""
        switch = self.page.locator(".theme-switch-button:visible").first
        for _ in range(3):
            if self.page.evaluate("document.documentElement.dataset.theme") == wanted:
                return
            switch.click()
        raise AssertionError(f"the switch never reached {wanted}")


def visit(browser: Browser, base: str, page_name: str, width: int = 1300, theme: str = "light") -> Visit:
    """Opens a page of the book. Requests to anywhere but ``base`` are refused and noted."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    seen = Visit(context.new_page())

    def gate(route):
        url = route.request.url
        if url.startswith((base, "data:", "blob:")):
            return route.continue_()
        seen.trouble.append(f"external request: {url}")
        return route.abort()

    context.route("**/*", gate)
    seen.page.on("console", lambda message: message.type == "error" and seen.trouble.append(f"console: {message.text}"))
    seen.page.on("pageerror", lambda error: seen.trouble.append(f"script error: {error}"))
    seen.page.on(
        "response", lambda answer: answer.status >= 400 and seen.trouble.append(f"{answer.status}: {answer.url}")
    )
    seen.page.goto(f"{base}{page_name}.html", wait_until="load")
    return seen
