"""The phase diagram's figure: every cell opens its own curves, also by a click in a browser."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import plotly
import pytest
from images_case import digits
from in_browser import chromium, served, visit

from jepa_lab import diagnostics
from jepa_lab.papers.predictors import explorer, paper
from jepa_lab.papers.predictors.phase import phase

PAGE = """<!doctype html><html data-theme='light'><link rel='icon' href='data:,'><meta charset='utf-8'>
<div class="jl-plot" role="group" aria-label="map"><p class="jl-plot-alt">map</p>
<script type="application/json">SPEC</script></div>
<script src="plotly.min.js"></script><script src="plotly-book.js" defer></script></html>"""
WHERE_A_CELL_IS = """() => {
  const plot = document.querySelector('.jl-canvas'), box = plot.getBoundingClientRect(), layout = plot._fullLayout;
  const x = layout.xaxis._offset + layout.xaxis.c2p(2), y = layout.yaxis._offset + layout.yaxis.c2p(1);
  return [box.x + x, box.y + y];
}"""
REPO = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def cells():
    """A small phase diagram: with and without EMA, a predictor that stands still and one that hurries."""
    changes = {"phase_decays": (0.0, 0.99), "phase_factors": (0.0, 1.0, 10.0), "phase_steps": 40, "phase_width": 16}
    return phase(replace(paper.preset("smoke"), **changes), digits(), 0, progress=False)


def test_a_predictor_that_stands_still_loses_directions(cells):
    rank = {cell: history["rankme"][-1] for cell, history in cells.items()}
    assert rank[0.0, 10.0] > rank[0.0, 0.0] + 1


def test_every_cell_of_the_phase_diagram_opens_its_own_curves(cells):
    figure = explorer.phase_figure(cells, diagnostics.rank_limit(16), "Where")
    names = {explorer.cell_name(*cell): cell for cell in cells}
    assert {frame.name for frame in figure.frames} == set(names)
    assert {name for row in figure.data[0].customdata for name in row} == set(names)
    for frame in figure.frames:
        loss, rank = (trace for trace in frame.data if trace.name in ("loss", "rankme"))
        assert list(loss.y) == cells[names[frame.name]]["loss"] and list(rank.y) == cells[names[frame.name]]["rankme"]
    ringing = [name for name, cell in names.items() if diagnostics.last_alarm(cells[cell])]
    crossed = [
        name
        for texts, row in zip(figure.data[0].text, figure.data[0].customdata)
        for text, name in zip(texts, row)
        if "✕" in text
    ]
    assert sorted(crossed) == sorted(ringing)
    lowest = min(cells, key=lambda cell: cells[cell]["rankme"][-1])
    assert figure.frames[0].name == explorer.cell_name(*lowest)
    some = {cell: history for cell, history in cells.items() if cell != (0.0, 1.0)}
    with pytest.raises(ValueError, match="no run of EMA 0, lr × 1;"):
        explorer.phase_figure(some, 2.0)


def test_a_click_on_a_cell_goes_to_it_and_the_slider_follows(cells, browser_path, tmp_path):
    spec = json.dumps(json.loads(explorer.phase_figure(cells, 2.0).to_json())).replace("</", "<\\/")
    (tmp_path / "page.html").write_text(PAGE.replace("SPEC", spec))
    shutil.copy(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", tmp_path)
    shutil.copy(REPO / "book" / "_static" / "plotly-book.js", tmp_path)
    with chromium(browser_path) as browser, served(tmp_path) as base:
        seen = visit(browser, base, "page")
        seen.wait("document.querySelector('.jl-plot').dataset.drawn")
        seen.page.mouse.click(*seen.page.evaluate(WHERE_A_CELL_IS))
        seen.wait("document.querySelector('.jl-slider output').textContent === 'EMA 0.99, lr × 10'")
        assert seen.page.evaluate("document.querySelector('.jl-canvas').data[3].y.at(-1)") == pytest.approx(
            cells[0.99, 10.0]["rankme"][-1]
        )
        assert seen.trouble == []
