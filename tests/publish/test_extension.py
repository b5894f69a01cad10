"""The Sphinx extension: plotly, widgets and math from local files only, on a small book built here and opened in
Chromium.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import anywidget
import ipywidgets
import nbformat
import plotly
import plotly.graph_objects as go
import pytest
import traitlets
from in_browser import chromium, served, visit
from ipywidgets.embed import dependency_state

from jepa_lab import figures
from jepa_lab.publish import assets, sphinx_book

REPO = Path(__file__).resolve().parents[2]
COUNTER = """export default { render({ model, el }) {
  const button = document.createElement("button");
  const show = () => { button.textContent = `count ${model.get("value")}`; };
  button.className = "counter";
  button.onclick = () => { model.set("value", model.get("value") + 1); model.save_changes(); };
  model.on("change:value", show); show(); el.append(button); } };"""


class Counter(anywidget.AnyWidget):
    _esm = COUNTER
    value = traitlets.Int(3).tag(sync=True)


def plots() -> list[go.Figure]:
    grids = [
        (f"{k}", go.Figure([go.Scatter(x=[0, 1, 2], y=[0, k, 0], mode="lines", line_color="black")])) for k in (1, 2, 3)
    ]
    moving = figures.with_slider(grids, "height", title="A hill </script><b>grows</b>", description="A triangle.")
    moving.update_layout(annotations=[dict(x=1, y=1, text="peak", font_color="black")])
    menu = go.Figure([go.Bar(y=[1, 2]), go.Bar(y=[2, 1], visible=False)])
    menu.update_layout(
        updatemenus=[
            dict(
                name="series",
                buttons=[
                    dict(label=n, method="update", args=[{"visible": v}])
                    for n, v in (("one", [True, False]), ("two", [False, True]))
                ],
            ),
            dict(
                type="buttons",
                buttons=[
                    dict(label=n, method="relayout", args=["yaxis.type", t])
                    for n, t in (("straight", "linear"), ("log", "log"))
                ],
            ),
        ]
    )
    solid = go.Figure([go.Scatter3d(x=[0, 1], y=[0, 1], z=[0, 1])])
    return [moving, menu, solid]


def output(data: dict) -> nbformat.NotebookNode:
    return nbformat.v4.new_output("display_data", data=data)


def notebook(outputs: list, widgets: dict | None = None) -> nbformat.NotebookNode:
    cells = [
        nbformat.v4.new_markdown_cell("# Page"),
        *(nbformat.v4.new_code_cell("pass", outputs=[one]) for one in outputs),
    ]
    made = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    if widgets:
        made.metadata["widgets"] = {
            "application/vnd.jupyter.widget-state+json": {"version_major": 2, "version_minor": 0, "state": widgets}
        }
    return made


def widget_page() -> nbformat.NotebookNode:
    slider, bar = ipywidgets.IntSlider(3, 0, 9), ipywidgets.IntProgress(3, 0, 9)
    link = ipywidgets.jslink((slider, "value"), (bar, "value"))
    tops = [Counter(), ipywidgets.VBox([slider, bar])]
    view = "application/vnd.jupyter.widget-view+json"
    outputs = [
        output({view: {"model_id": top.model_id, "version_major": 2, "version_minor": 0}, "text/plain": "widget"})
        for top in tops
    ]
    return notebook(outputs, dependency_state([*tops, link], drop_defaults=False))


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    """A three-page book built with the real configuration, warnings as errors."""
    place = tmp_path_factory.mktemp("small") / "stage"
    shutil.copytree(REPO / "book" / "_static", place / "book" / "_static")
    for name in ("_config.yml", "book/references.bib"):
        shutil.copyfile(REPO / name, place / name)
    (place / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n- file: plots\n- file: widgets\n")
    (place / "intro.md").write_text(
        "# Start\n\nInline $x^2$ and\n\n$$\n\\boldsymbol{a} = \\color{red}{b}\n$$ (eq)\n\nSee {eq}`eq`.\n"
    )
    nbformat.write(
        notebook([output({sphinx_book.MIME: json.loads(fig.to_json())}) for fig in plots()]), place / "plots.ipynb"
    )
    nbformat.write(widget_page(), place / "widgets.ipynb")
    command = [
        *(sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build"),
        str(place),
        "--path-output",
        str(place),
        "--all",
        "-W",
        "--keep-going",
        "-n",
        "-q",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return place / "_build" / "html"


@pytest.fixture(scope="module")
def open_page(html, browser_path):
    with chromium(browser_path) as browser, served(html) as base:
        yield lambda name, **how: visit(browser, base, name, **how)


def test_heavy_scripts_load_only_on_the_pages_that_need_them(html):
    text = {name: (html / f"{name}.html").read_text(encoding="utf-8") for name in ("intro", "plots", "widgets")}
    loads = {
        script: [name for name in text if script in text[name]]
        for script in ("plotly.min.js", "embed-amd.js", "tex-chtml-full.js")
    }
    assert loads == {"plotly.min.js": ["plots"], "embed-amd.js": ["widgets"], "tex-chtml-full.js": ["intro"]}
    assert not any("THEBE_JS_URL" in page or "cdn" in page for page in text.values())


def test_libraries_are_those_of_the_installed_python_packages(html):
    installed = {
        "plotly.min.js": Path(plotly.__file__).parent / "package_data" / "plotly.min.js",
        "anywidget.js": Path(anywidget.__file__).parent / "nbextension" / "index.js",
    }
    for name, source in installed.items():
        assert (html / "_static" / "vendor" / name).read_bytes() == source.read_bytes()


def test_a_figure_is_described_without_javascript_and_cannot_break_its_script():
    said = sphinx_book.placeholder(json.loads(plots()[0].to_json()))
    assert said.count("</script>") == 1 and 'aria-label="A hill grows"' in said and "A triangle." in said
    assert sphinx_book.figure_title({"layout": {"meta": {"description": "Loss falls. Slowly."}}}) == "Loss falls"
    assert sphinx_book.figure_title({}) == "Plot"


def test_vendored_files_are_the_listed_ones(tmp_path):
    assert assets.problems() == []
    shutil.copytree(assets.VENDOR, tmp_path / "vendor")
    (tmp_path / "vendor" / "require.js").write_text("altered")
    (tmp_path / "vendor" / "mathjax" / "tex-chtml-full.js").unlink()
    (tmp_path / "vendor" / "extra.js").write_text("new")
    assert assets.problems(tmp_path / "vendor") == [
        "mathjax/tex-chtml-full.js: missing",
        "extra.js: not in manifest.json",
        "require.js: sha256 differs",
    ]


def test_every_vendored_package_is_named_in_notice():
    notice = (REPO / "NOTICE").read_text(encoding="utf-8").lower()
    assert all(package["name"] in notice and package["version"] in notice for package in assets.manifest())


def test_plots_wait_for_the_reader_and_follow_slider_menu_theme_and_print(open_page):
    seen = open_page("plots")
    page = seen.page
    seen.scroll_through()
    assert page.locator(".jl-plot[data-drawn]").count() == 3
    assert page.locator(".main-svg[role=img][aria-label='A hill grows']").count() == 1
    peak = "document.querySelector('.jl-canvas').data[0].y[1]"
    page.get_by_label("height").press("End")
    seen.wait(f"{peak} === 3")
    seen.theme("dark")
    colour = "document.querySelector('.jl-canvas').data[0].line.color"
    seen.wait(f"{colour} !== 'black'")
    seen.wait(f"{peak} === 3")  # the new theme keeps where the slider stood
    visible = "JSON.stringify(document.querySelectorAll('.jl-canvas')[1].data.map((trace) => trace.visible))"
    page.get_by_label("series").select_option("two")
    seen.wait(f"{visible} === '[false,true]'")
    page.get_by_role("button", name="log").click()
    seen.wait("document.querySelectorAll('.jl-canvas')[1].layout.yaxis.type === 'log'")
    assert page.locator(".jl-buttons [aria-pressed=true]").inner_text() == "log"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    seen.wait("document.documentElement.dataset.theme === 'light'")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    seen.wait("document.documentElement.dataset.theme === 'dark'")
    assert seen.trouble == []


def test_only_plots_near_the_viewport_are_drawn(open_page):
    seen = open_page("plots", width=390)
    seen.page.set_viewport_size({"width": 390, "height": 200})
    seen.page.reload(wait_until="load")
    seen.wait("document.querySelector('.jl-plot').dataset.drawn")
    assert seen.page.evaluate("document.querySelectorAll('.jl-plot')[2].dataset.drawn") is None


def test_widgets_work_without_a_kernel_and_without_a_network(open_page):
    seen = open_page("widgets", theme="dark")
    button = seen.page.locator("button.counter")
    button.click()
    button.click()
    assert button.inner_text() == "count 5"
    seen.page.locator(".noUi-handle").press("ArrowRight")
    seen.wait("document.querySelector('.jupyter-widgets .progress-bar').style.width.startsWith('44')")
    assert seen.trouble == []


def test_math_is_typeset_from_local_files(open_page):
    seen = open_page("intro")
    seen.wait("document.querySelectorAll('mjx-container').length >= 2")
    assert seen.page.locator("mjx-merror").count() == 0 and seen.trouble == []
