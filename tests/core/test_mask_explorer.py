"""The mask explorer: the page's samplers are the tested ones, its numbers are counted, and it works in a real browser
without a network.
"""

import base64
import json
import shutil
import subprocess

import pytest
import torch
from in_browser import chromium, served, visit

from jepa_lab import masks
from jepa_lab.widgets import mask_explorer as explorer

SCRIPT = explorer.HERE / "mask_explorer.js"


@pytest.fixture(scope="module")
def javascript(request):
    """Runs an expression over the explorer's module ``m`` and returns its value: by node, else in the browser (which CI
    demands).
    """
    module = "data:text/javascript;base64," + base64.b64encode(SCRIPT.read_bytes()).decode()
    node = shutil.which("node")
    if node:

        def run(expression):
            program = f'const m = await import("{module}"); console.log(JSON.stringify({expression}));'
            done = subprocess.run(
                [node, "--input-type=module", "-"], input=program, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        yield run
    else:
        with chromium(request.getfixturevalue("browser_path")) as browser:
            page = browser.new_page()
            yield lambda expression: page.evaluate(
                f'async () => {{ const m = await import("{module}"); return {expression}; }}'
            )


def repeated(call: str, draws: int, seed: int = 3) -> str:
    """JavaScript: statistics over many draws of ``call``, which may use ``rng``."""
    return f"(() => {{ const rng = m.generator({seed}); return Array.from({{ length: {draws} }}, () => {call}); }})()"


def far(found: list, expected: torch.Tensor) -> float:
    return float((torch.tensor(found, dtype=torch.float64) - expected.flatten()).abs().max())


# Per position both sides are shares of at least 16,000 draws: 5 sigma of their difference is below 0.028.
TOLERANCE = 0.028


@pytest.mark.parametrize(
    "grid, num_targets, num_context", [((14, 14), 4, 60), ((7, 7), 2, 20), ((4, 4), 2, 12), ((1, 40), 3, 12)]
)
def test_the_page_samples_like_python_multi_block(javascript, grid, num_targets, num_context):
    shapes = masks.block_shapes(grid) if grid[0] > 1 else [(1, 7)]
    setting = json.dumps(
        {"numTargets": num_targets, "shapes": shapes, "contextScale": [0.85, 1.0], "numContext": num_context}
    )
    found = javascript(
        f"m.statistics({grid[0] * grid[1]}, {repeated(f'm.multiBlock({list(grid)}, {setting}, rng)', 16_000)})"
    )
    expected = explorer.mask_statistics(
        lambda b, g: masks.multi_block(
            grid, b, g, num_targets=num_targets, target_shapes=shapes, num_context=num_context
        ),
        20_000,
        1000,
    )
    assert (
        far(found["context"], expected["context"]) < TOLERANCE and far(found["target"], expected["target"]) < TOLERANCE
    )
    assert found["after"] == pytest.approx(num_context / (grid[0] * grid[1]))


def test_the_page_samples_table_columns_like_python(javascript):
    found = javascript(
        f"m.statistics(13, {repeated('m.columns(13, { numTargets: 3, targetSize: 2, numContext: 4 }, rng)', 16_000)})"
    )
    expected = explorer.mask_statistics(
        lambda b, g: masks.columns(13, b, g, num_targets=3, target_size=2, num_context=4), 20_000, 1000
    )
    assert (
        far(found["context"], expected["context"]) < TOLERANCE and far(found["target"], expected["target"]) < TOLERANCE
    )


@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_page_reproduces_the_published_sampler(javascript, batch_size):
    """Block sizes are fixed here, because they are drawn per batch and would hide a difference in the rest."""
    scales = {"target_scale": (0.18, 0.18), "target_aspect": (1.2, 1.2), "context_scale": (0.9, 0.9)}
    setting = "{ numTargets: 4, targetScale: [0.18, 0.18], aspect: [1.2, 1.2], contextScale: [0.9, 0.9], minKeep: 10 }"
    calls = 12_000 // batch_size
    found = javascript(
        f"m.statistics(144, {repeated(f'm.multiBlockPublished([12, 12], {batch_size}, {setting}, rng)', calls)}.flat())"
    )
    expected = explorer.mask_statistics(explorer.published((12, 12), **scales), 4_000, batch_size)
    allowed = 5 * (0.25 * (1 / 12_000 + 1 / 4_000)) ** 0.5  # 5 sigma of the difference of two shares
    assert far(found["context"], expected["context"]) < allowed and far(found["target"], expected["target"]) < allowed
    assert found["after"] == pytest.approx(expected["context_share"], abs=0.005)
    assert found["never"] == pytest.approx(expected["never"]) == pytest.approx(23 / 144)


def test_the_page_chooses_the_same_block_shapes(javascript):
    asked = [
        [[r, c], [s, s + 0.05], [a / 2, a]]
        for r in range(2, 16, 3)
        for c in (4, 9, 14)
        for s in (0.05, 0.15, 0.35)
        for a in (0.5, 1.5, 4.0)
    ]

    def python(grid, scale, aspect):
        try:
            return [list(shape) for shape in masks.block_shapes(tuple(grid), tuple(scale), tuple(aspect))]
        except ValueError:
            return []

    assert javascript(f"{json.dumps(asked)}.map((a) => m.blockShapes(...a))") == [python(*a) for a in asked]


def test_statistics_count_what_was_drawn():
    def sampler(batch_size, generator):
        context = torch.tensor([[0, 1], [0, 3]]).repeat(batch_size // 2, 1)
        return masks.Masks(context, torch.tensor([[[2], [3]]]).repeat(batch_size, 1, 1), (2, 3))

    found = explorer.mask_statistics(sampler, draws=10, batch_size=4)
    assert (
        found["draws"] == 12
        and found["context_share"] == pytest.approx(1 / 3)
        and found["never"] == pytest.approx(2 / 6)
    )
    assert found["context"].tolist() == [[1.0, 0.5, 0.0], [0.5, 0.0, 0.0]] and found["target"].tolist() == [
        [0.0, 0.0, 0.5],
        [0.5, 0.0, 0.0],
    ]


def test_windows_of_one_image_count_as_samples_of_their_own():
    found = explorer.mask_statistics(
        lambda b, g: masks.local_windows((6, 6), b, g, window=3, num_windows=2, num_hidden=4), 100, 50
    )
    assert found["draws"] == 200 and found["context_share"] == pytest.approx(5 / 36)


def test_statistics_figure_shows_measured_frequencies_for_each_batch_size():
    figure = explorer.statistics_figure((8, 8), batch_sizes=(2, 16), draws=64)
    assert (
        [frame.name for frame in figure.frames]
        == ["2", "16"]
        == [step.label for step in figure.layout.sliders[0].steps]
    )
    expected = explorer.mask_statistics(explorer.published((8, 8)), 384, 16)
    shown = torch.tensor([[value or 0.0 for value in line] for line in figure.frames[1].data[1].z], dtype=torch.float64)
    assert (shown / 100 - expected["context"]).abs().max() < 0.001
    assert f"{expected['context_share']:.1%}" in figure.layout.meta["description"]
    corrected, published = figure.data[0].z, figure.data[1].z
    assert all(value is None for value in published[-1]) and all(line[-1] is None for line in published), (
        "never drawn stays blank"
    )
    assert all(value > 0 for line in corrected for value in line)


def test_live_view_follows_its_settings_and_says_why_not():
    image = torch.rand(28, 28)
    setting = dict(side=7, num_targets=2, scale=0.175, aspect=1.5, keep=0.25, seed=0)
    figure, said = explorer._live_view(image, **setting)
    assert said.startswith("context 24% of the tokens") and "12 context" in figure.layout.meta["description"]
    other, _ = explorer._live_view(image, **{**setting, "seed": 1})
    assert figure.data[1].z != other.data[1].z
    with pytest.raises(ValueError, match="widen aspect"):
        explorer._live_view(image, **{**setting, "side": 2, "aspect": 0.25})


def test_live_explorer_offers_every_control():
    box = explorer.live_mask_explorer(torch.rand(3, 1, 28, 28))
    names = [control.description for control in box.children[:-1]]
    assert names == [
        "Image",
        "Patches per side",
        "Target blocks",
        "Size of one target",
        "Aspect, at most",
        "Context kept",
        "Seed",
    ]
    assert box.children[0].max == 2


@pytest.mark.parametrize(
    "image, reason",
    [(torch.rand(3, 28, 28), r"got shape \(3, 28, 28\)"), (torch.full((4, 4), float("nan")), "NaN")],
    ids=["colour", "nan"],
)
def test_unusable_images_are_refused(image, reason):
    with pytest.raises(ValueError, match=reason):
        explorer.mask_explorer(image)
    with pytest.raises(ValueError, match="grey images"):
        explorer.live_mask_explorer(torch.rand(28, 28))


def test_the_widget_carries_its_data_and_asks_the_network_for_nothing():
    widget = explorer.mask_explorer(torch.arange(784).reshape(28, 28) / 784, caption="a ramp")
    state = widget.get_state()
    assert state["data"]["image"]["caption"] == "a ramp" and state["data"]["image"]["pixels"][27][27] == 255
    assert json.loads(json.dumps(state["data"])) == state["data"], "plain lists, so that the page can hold it"
    code = state["_esm"] + state["_css"]
    assert "export default" in code and "url(" not in code and code.count("http") == 1, (
        "only the SVG namespace looks like an address"
    )


# ---- in a real browser -----------------------------------------------------------------------------

PAGE = """<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>masks</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><style>{css}</style></head><body><main><h1>Masks</h1><div id="here"></div></main>
<script type="module">import {{ mount }} from "./mask_explorer.js"; mount(document.getElementById("here"), {data});</script></body></html>"""


@pytest.fixture(scope="module")
def page_for(tmp_path_factory, browser_path):
    """Opens the explorer at a width, with every request outside the folder refused and noted."""
    folder = tmp_path_factory.mktemp("explorer")
    shutil.copy(SCRIPT, folder)
    css = (explorer.HERE / "mask_explorer.css").read_text()
    (folder / "index.html").write_text(PAGE.format(css=css, data=json.dumps(explorer.explorer_data())))
    with served(folder) as base, chromium(browser_path) as browser:

        def open_at(width):
            seen = visit(browser, base, "index", width=width)
            seen.wait("document.querySelector('.jl-m-table')")
            return seen

        yield open_at


def drawn_now(page):
    return page.eval_on_selector_all(
        ".jl-m-sample .jl-m-token, .jl-m-cell", "all => all.map((e) => e.getAttribute('class').split(' ').pop())"
    )


def test_explorer_draws_all_four_kinds_and_its_sliders_change_the_masks(page_for):
    seen = page_for(1000)
    page = seen.page
    for name, tokens in [("Image", 196), ("Time series", 40), ("Table row", 13), ("Bird’s-eye view", 256)]:
        page.get_by_role("tab", name=name).click()
        before = drawn_now(page)
        assert len(before) == tokens and {"context", "target"} <= set(before)
        page.get_by_label("Context kept").fill("50")
        assert drawn_now(page).count("context") > before.count("context")
        page.get_by_label("Context kept").fill("25")
        assert drawn_now(page) == before, "the same setting draws the same masks"
        page.get_by_role("button", name="Draw again").click()
        assert drawn_now(page) != before
    assert seen.trouble == []


def test_explorer_counts_the_published_samplers_faults(page_for):
    page = page_for(1000).page
    published = page.locator(".jl-m-table tbody tr").nth(1).inner_text().split("\t")
    assert published[0] == "Published" and published[3] == "14 %", "27 of 196 tokens are never drawn"
    assert float(published[2].rstrip(" %")) < 30 < float(published[1].rstrip(" %"))
    assert page.locator(".jl-m-maps figure").nth(1).locator(".jl-m-never").count() == 27
    page.get_by_label("Patches").select_option("4")
    assert "cannot run on this grid" in page.locator(".jl-m-said").first.inner_text()


def test_explorer_works_by_keyboard(page_for):
    page = page_for(1000).page
    page.get_by_role("tab", name="Image").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", name="Time series").get_attribute("aria-selected") == "true"
    assert page.get_by_label("Aspect, rows : columns").is_hidden(), "a line has no aspect"
    before = page.get_by_label("Target blocks").input_value()
    page.get_by_label("Target blocks").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_label("Target blocks").input_value() == str(int(before) + 1)
    assert page.get_by_label("Target blocks").get_attribute("aria-valuetext") == "5"


def test_explorer_fits_a_phone_and_passes_the_accessibility_rules(page_for):
    from axe_playwright_python.sync_playwright import Axe

    page = page_for(390).page
    for name in ("Table row", "Bird’s-eye view", "Time series", "Image"):
        page.get_by_role("tab", name=name).click()
        page.wait_for_timeout(250)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert Axe().run(page).response["violations"] == []
