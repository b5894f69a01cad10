"""A real Chromium on a local server, with the rest of the network cut off, for the tests of pages and explorers."""

import functools
import http.server
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

PATIENCE = 180_000  # milliseconds to wait for a condition; only a broken page ever takes so long
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
    """A browser for the tests of one file. It is closed after them: Playwright allows one at a time in a process."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """One open page, and everything that went wrong on it so far."""

    page: Page
    trouble: list[str] = field(default_factory=list)

    def wait(self, condition: str, argument=None):
        """Waits until the JavaScript expression is true."""
        self.page.wait_for_function(condition, arg=argument)

    def scroll_through(self):
        """Scrolls to the end and back, as a reader does, and waits until every plot on the way has been drawn."""
        self.page.evaluate(
            """async () => {
              const pause = (done) => requestAnimationFrame(() => setTimeout(done, 20));
              for (let top = 0; top < document.documentElement.scrollHeight; top += innerHeight / 2) {
                scrollTo({ top, behavior: 'instant' });
                await new Promise(pause);
              }
              scrollTo({ top: 0, behavior: 'instant' });
            }"""
        )
        self.wait("[...document.querySelectorAll('.jl-plot')].every((p) => p.dataset.drawn || !p.offsetParent)")

    def theme(self, wanted: str):
        """Clicks the page's own switch until the wanted theme is on."""
        switch = self.page.locator(".theme-switch-button:visible").first
        for _ in range(3):
            if self.page.evaluate("document.documentElement.dataset.theme") == wanted:
                return
            switch.click()
        raise AssertionError(f"the switch never reached {wanted}")


def visit(browser: Browser, base: str, page_name: str, width: int = 1300, theme: str = "light") -> Visit:
    """Opens a page of the book. Requests to anywhere but `base` are refused and noted."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    context.set_default_timeout(PATIENCE)
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
