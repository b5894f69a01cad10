"""Sphinx extension of the book: plotly figures, local scripts only, light pages.

- Renders `application/vnd.plotly.v1+json` (which myst-nb drops) as a placeholder that `plotly-book.js` draws. The one
  `plotly.min.js` is copied from the installed plotly package, so that it fits the figures, and is loaded only on pages
  with a figure. `anywidget.js` is copied from the installed anywidget package in the same way.
- Removes Thebe's scripts from every page: the book has no Thebe button, the theme writes the set-up line twice (an
  error on every page), and the library itself would come from a CDN.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

from docutils import nodes
from myst_nb.core.render import load_mime_renders

MIME = "application/vnd.plotly.v1+json"


class PlotlyMime:
    """myst-nb MIME renderer: a plotly output becomes one placeholder with its JSON and its text alternative."""

    mime_priority_overrides = (("*", MIME, 5),)  # "*": the linkcheck builder must not warn about the type either

    @staticmethod
    def handle_mime(renderer, data, inline):
        if inline or data.mime_type != MIME:
            return None
        spec = data.content if isinstance(data.content, dict) else json.loads(data.content)
        return [nodes.raw(text=placeholder(spec), format="html", jl_plotly=True)]


def figure_title(spec: dict) -> str:
    """The accessible name of a figure: its title, else the first sentence of its description, else "Plot"."""
    layout = spec.get("layout", {})
    title = layout.get("title") or ""
    text = title.get("text", "") if isinstance(title, dict) else title
    text = re.sub(r"<[^>]+>", " ", text or "") or figure_description(spec).split(". ")[0].rstrip(".")
    return " ".join(html.unescape(text).split()) or "Plot"


def figure_description(spec: dict) -> str:
    """The figure's text alternative (`layout.meta.description`), or an empty string."""
    meta = spec.get("layout", {}).get("meta")
    return meta.get("description", "") if isinstance(meta, dict) else ""


def placeholder(spec: dict) -> str:
    """HTML of one undrawn figure. A reader without JavaScript sees its text."""
    height = int(spec.get("layout", {}).get("height") or 450)
    body = json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c")  # no "</script>" or "<!--" inside the script
    title, text = html.escape(figure_title(spec)), html.escape(figure_description(spec))
    return (
        f'<div class="jl-plot" role="group" aria-label="{title}" style="min-height:{height}px">'
        f'<p class="jl-plot-alt">{title}. {text}</p><script type="application/json">{body}</script></div>'
    )


def copy_libraries(app) -> None:
    """Copies plotly.min.js and anywidget.js from the installed Python packages to the output's _static."""
    import anywidget
    import plotly

    static = Path(app.outdir, "_static", "vendor")
    static.mkdir(parents=True, exist_ok=True)
    sources = {
        "plotly.min.js": Path(plotly.__file__).parent / "package_data" / "plotly.min.js",
        "anywidget.js": Path(anywidget.__file__).parent / "nbextension" / "index.js",
    }
    for name, source in sources.items():
        if not source.is_file():
            raise FileNotFoundError(
                f"{source} is missing: reinstall the pinned {source.parts[-3]} (pip install -r requirements.txt)"
            )
        if not (static / name).is_file() or (static / name).read_bytes() != source.read_bytes():
            shutil.copyfile(source, static / name)


def add_plotly(app, pagename, templatename, context, doctree) -> None:
    """Loads plotly only on pages with a figure."""
    if doctree is not None and any(node.get("jl_plotly") for node in doctree.findall(nodes.raw)):
        app.add_js_file("vendor/plotly.min.js", loading_method="defer")
        app.add_js_file("plotly-book.js", loading_method="defer")


def drop_thebe(app, pagename, templatename, context, doctree) -> None:
    """Removes Thebe's constants and loader from the page's scripts."""

    def thebe(script) -> bool:
        inline = getattr(script, "attributes", {}).get("body") or ""
        return "THEBE_JS_URL" in inline or "sphinx-thebe.js" in str(getattr(script, "filename", script))

    context["script_files"] = [script for script in context["script_files"] if not thebe(script)]


def setup(app):
    renderers = load_mime_renders()  # myst-nb caches this list, so appending registers the renderer
    if PlotlyMime not in renderers:
        renderers.append(PlotlyMime)
    app.add_css_file("book.css")
    app.connect("builder-inited", copy_libraries)
    app.connect("html-page-context", add_plotly)
    app.connect("html-page-context", drop_thebe, priority=950)  # after sphinx-thebe and the theme
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
