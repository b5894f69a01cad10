"""Every page of the built book in a real browser with the network cut off: quiet, drawn, movable, legible, usable.

`make test` builds the book first; alone: make book PRESET=smoke.
"""

import contextlib
import json
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from in_browser import chromium, served, visit
from playwright import sync_api as playwright

from jepa_lab.publish.stage import toc_files

REPO = Path(__file__).resolve().parents[2]
HTML, STAGE = REPO / "_build" / "html", REPO / "_build" / "stage"
PAGES = toc_files(REPO)

# Findings in other projects' markup, each with the reason why it is not ours: (axe rule, selector of the part).
BIBLIOGRAPHY = "Sphinx marks its bibliography as a list of deprecated doc-biblioentry items"
NOT_OURS = {
    ("aria-required-children", ".citation-list"): BIBLIOGRAPHY,
    ("aria-input-field-name", ".jupyter-widgets"): "ipywidgets' own slider handles have no name",
    ("button-name", ".jupyter-widgets"): "ipywidgets' own icon buttons have no name",
}
# What a slider may change in a figure: data, and the texts and shapes on it.
STATE = """(plot) => {
  const { data, layout } = plot.querySelector('.jl-canvas');
  return JSON.stringify([data, layout.annotations, layout.shapes]);
}"""
# Of the page's ink; the numbers in a heat map's cells take the colour that is legible on the cell, in any theme.
INK = """(plot) => {
  const page = plot.querySelector('.xtick text, .ytick text, .legendtext, .gtitle, .annotation-text');
  return getComputedStyle(page || plot.querySelector('svg text')).fill;
}"""
# The parts of the article that reach beyond the right edge and cannot be scrolled to.
WIDE = """() => {
  const scrolls = (e) => e && (getComputedStyle(e).overflowX !== 'visible' || scrolls(e.parentElement));
  const parts = [...document.querySelectorAll('article *')].filter((e) => e.offsetParent);
  const wide = parts.filter((e) => e.getBoundingClientRect().right > innerWidth + 1);
  const ours = wide.filter((e) => !e.closest('mjx-container, svg') && !scrolls(e.parentElement));
  return ours.map((e) => e.outerHTML.slice(0, 120));
}"""


@pytest.fixture(scope="module")
def browser(browser_path):
    with chromium(browser_path) as running:
        yield running


@pytest.fixture(scope="module")
def base():
    if not (HTML / "index.html").exists():
        pytest.fail("there is no built book in _build/html: run  make book PRESET=smoke")
    with served(HTML) as address:
        yield address


@pytest.fixture(scope="module", params=PAGES)
def opened(request, browser, base):
    """One page on a wide screen, scrolled through once; the tests below use it in turn."""
    seen = visit(browser, base, request.param)
    seen.scroll_through()
    yield seen
    seen.page.context.close()


def plotly_outputs(page_name: str) -> int:
    notebook = STAGE / f"{page_name}.ipynb"
    if not notebook.exists():
        return 0
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    hidden = {"remove-cell", "remove-output", "remove_cell", "remove_output"}
    shown = [c for c in cells if not hidden & set(c["metadata"].get("tags", []))]
    return sum(
        "application/vnd.plotly.v1+json" in output.get("data", {})
        for cell in shown
        for output in cell.get("outputs", [])
    )


def test_every_plotly_output_is_drawn(opened, request):
    drawn = "() => document.querySelectorAll('.jl-plot[data-drawn] .main-svg[role=img]').length"
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")  # also those in closed boxes
    opened.wait("[...document.querySelectorAll('.jl-plot')].every((plot) => plot.dataset.drawn)")
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.evaluate(drawn) == plotly_outputs(request.node.callspec.params["opened"])


def test_math_is_typeset(opened):
    written = opened.page.locator("article .math").count()
    if written:
        opened.wait("document.querySelectorAll('article mjx-container').length > 0")
    typeset = opened.page.evaluate(
        "[...document.querySelectorAll('article .math')].filter((m) => m.querySelector('mjx-container')).length"
    )
    assert typeset == written and opened.page.locator("article mjx-merror").count() == 0


def test_moving_a_slider_changes_its_figure(opened):
    for plot in opened.page.locator(".jl-plot:visible:has(.jl-slider)").element_handles():
        for slider in plot.query_selector_all(".jl-slider input"):
            before, last = plot.evaluate(STATE), slider.evaluate("(input) => input.value === input.max")
            slider.press("ArrowLeft" if last else "ArrowRight")  # by keyboard, so it is usable without a mouse
            opened.page.wait_for_function(f"([plot, before]) => ({STATE})(plot) !== before", arg=[plot, before])


def test_the_theme_switch_recolours_every_plot(opened):
    plots = opened.page.locator(".jl-plot:visible").element_handles()
    opened.theme("light")
    light = [plot.evaluate(INK) for plot in plots if plot.query_selector("svg text")]
    opened.theme("dark")
    for plot, ink in zip([p for p in plots if p.query_selector("svg text")], light):
        opened.page.wait_for_function(f"([plot, ink]) => ({INK})(plot) !== ink", arg=[plot, ink])
    opened.theme("light")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault_in_our_content(opened, theme):
    opened.theme(theme)
    options = {"resultTypes": ["violations"], "preload": False}  # axe would load style sheets from wrong addresses
    found = Axe().run(opened.page, context="article.bd-article", options=options).response["violations"]
    serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    ours = [
        f"{fault['id']}: {node['html'][:200]}"
        for fault in serious
        for node in fault["nodes"]
        if not is_known(opened.page, fault["id"], node["target"][0])
    ]
    assert ours == []


def is_known(page, rule: str, target: str) -> bool:
    """True for a finding in other projects' markup."""
    part = page.locator(target).first
    return any(rule == known and part.evaluate("(e, p) => Boolean(e.closest(p))", p) for known, p in NOT_OURS)


def test_nothing_overflows_on_a_phone(opened):
    opened.page.set_viewport_size({"width": 390, "height": 800})
    opened.scroll_through()
    with contextlib.suppress(playwright.TimeoutError):  # the assertion below names what is too wide
        opened.wait(f"({WIDE})().length === 0 && document.documentElement.scrollWidth <= 390")  # plots follow the width
    assert opened.page.evaluate(WIDE) == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_sent_no_other_request_and_reported_no_error(opened):
    assert opened.trouble == []  # last: this covers what the tests above did


def test_search_finds_a_word(browser, base):
    seen = visit(browser, base, "search")
    seen.page.goto(f"{base}search.html?q=collapse", wait_until="load")
    seen.wait("document.querySelectorAll('#search-results ul.search li').length > 0")
    assert seen.page.locator("#search-results a[href*='glossary']").count() > 0
    assert seen.trouble == []


def test_the_first_address_leads_to_the_front_page(browser, base):
    seen = visit(browser, base, "index")
    seen.page.wait_for_url("**/book/intro.html")
    hidden = "() => document.querySelectorAll('#jl-holes rect').length"
    seen.page.locator(".jl-hero input").press("End")
    seen.wait(f"({hidden})() > 12")
    assert f"{seen.page.evaluate(hidden)} of 49" in seen.page.locator(".jl-said").inner_text()
    assert seen.trouble == []
