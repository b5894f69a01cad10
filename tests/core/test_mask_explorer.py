"""The mask explorer: the page's samplers are the tested ones, its numbers are counted, and it works in a real browser
without a network.
"""

import json

import pytest
import torch
from explorer_page import explorer_pages, faults, fits, javascript

from jepa_lab import masks
from jepa_lab.widgets import mask_examples
from jepa_lab.widgets import mask_explorer as explorer


@pytest.fixture(scope="module")
def run(tmp_path_factory, request):
    """The value of an expression over the explorer's module ``m``."""
    return javascript(explorer.SCRIPT, tmp_path_factory.mktemp("module"), request)


def counted(tokens: int, call: str, draws: int, flat: str = "") -> str:
    """JavaScript: statistics over many draws of ``call``, which may use ``rng``."""
    samples = f"Array.from({{ length: {draws} }}, () => {call}){flat}"
    return f"(() => {{ const rng = m.generator(3); return m.statistics({tokens}, {samples}); }})()"


def far(found: dict, expected: dict) -> float:
    """The largest difference of two frequencies of one token in one role."""
    roles = ("context", "target")
    return max(
        float((torch.tensor(found[role], dtype=torch.float64) - expected[role].flatten()).abs().max()) for role in roles
    )


def five_sigma(page_draws: int, python_draws: int) -> float:
    """Five standard deviations of the difference of two shares, at most."""
    return 5 * (0.25 * (1 / page_draws + 1 / python_draws)) ** 0.5


@pytest.mark.parametrize(
    "grid, num_targets, num_context", [((14, 14), 4, 60), ((7, 7), 2, 20), ((4, 4), 2, 12), ((1, 40), 3, 12)]
)
def test_the_page_samples_like_python_multi_block(run, grid, num_targets, num_context):
    shapes = masks.block_shapes(grid) if grid[0] > 1 else [(1, 7)]
    setting = {"numTargets": num_targets, "shapes": shapes, "contextScale": [0.85, 1.0], "numContext": num_context}
    tokens = grid[0] * grid[1]
    found = run(counted(tokens, f"m.multiBlock({list(grid)}, {json.dumps(setting)}, rng)", 16_000))
    expected = explorer.mask_statistics(
        lambda b, g: masks.multi_block(
            grid, b, g, num_targets=num_targets, target_shapes=shapes, num_context=num_context
        ),
        16_000,
        1000,
    )
    assert far(found, expected) < five_sigma(16_000, 16_000)
    assert found["after"] == pytest.approx(num_context / tokens)


def test_the_page_samples_table_columns_like_python(run):
    found = run(counted(13, "m.columns(13, { numTargets: 3, targetSize: 2, numContext: 4 }, rng)", 16_000))
    expected = explorer.mask_statistics(
        lambda b, g: masks.columns(13, b, g, num_targets=3, target_size=2, num_context=4), 16_000, 1000
    )
    assert far(found, expected) < five_sigma(16_000, 16_000)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_page_reproduces_the_published_sampler(run, batch_size):
    """Block sizes are fixed here, because they are drawn per batch and would hide a difference in the rest."""
    scales = {"target_scale": (0.18, 0.18), "target_aspect": (1.2, 1.2), "context_scale": (0.9, 0.9)}
    setting = "{ numTargets: 4, targetScale: [0.18, 0.18], aspect: [1.2, 1.2], contextScale: [0.9, 0.9], minKeep: 10 }"
    batch = f"m.multiBlockPublished([12, 12], {batch_size}, {setting}, rng)"
    found = run(counted(144, batch, 8_000 // batch_size, ".flat()"))
    expected = explorer.mask_statistics(explorer.published((12, 12), **scales), 4_000, batch_size)
    assert far(found, expected) < five_sigma(8_000, 4_000)
    assert found["after"] == pytest.approx(expected["context_share"], abs=0.005)
    assert found["never"] == pytest.approx(expected["never"]) == pytest.approx(23 / 144)


def test_the_page_chooses_the_same_block_shapes(run):
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

    assert run(f"{json.dumps(asked)}.map((a) => m.blockShapes(...a))") == [python(*a) for a in asked]


# Counted in Python


def test_statistics_count_what_was_drawn():
    def sampler(batch_size, generator):
        context = torch.tensor([[0, 1], [0, 3]]).repeat(batch_size // 2, 1)
        return masks.Masks(context, torch.tensor([[[2], [3]]]).repeat(batch_size, 1, 1), (2, 3))

    found = explorer.mask_statistics(sampler, draws=10, batch_size=4)
    assert found["draws"] == 12
    assert found["context_share"] == pytest.approx(1 / 3)
    assert found["never"] == pytest.approx(2 / 6)
    assert found["context"].tolist() == [[1.0, 0.5, 0.0], [0.5, 0.0, 0.0]]
    assert found["target"].tolist() == [[0.0, 0.0, 0.5], [0.5, 0.0, 0.0]]


def test_windows_of_one_image_count_as_samples_of_their_own():
    found = explorer.mask_statistics(
        lambda b, g: masks.local_windows((6, 6), b, g, window=3, num_windows=2, num_hidden=4), 100, 50
    )
    assert found["draws"] == 200 and found["context_share"] == pytest.approx(5 / 36)


def test_statistics_figure_shows_measured_frequencies_for_each_batch_size():
    figure = explorer.statistics_figure((8, 8), batch_sizes=(2, 16), draws=64)
    names = [frame.name for frame in figure.frames]
    assert names == ["2", "16"] == [step.label for step in figure.layout.sliders[0].steps]
    expected = explorer.mask_statistics(explorer.published((8, 8)), 384, 16)
    shown = torch.tensor([[value or 0.0 for value in line] for line in figure.frames[1].data[1].z], dtype=torch.float64)
    assert (shown / 100 - expected["context"]).abs().max() < 0.001
    assert f"{expected['context_share']:.1%}" in figure.layout.meta["description"]
    corrected, published = figure.data[0].z, figure.data[1].z
    never = [*published[-1], *(line[-1] for line in published)]
    assert all(value is None for value in never), "the last row and column are never drawn and stay blank"
    assert all(value > 0 for line in corrected for value in line)


# With a kernel


def test_live_view_follows_its_settings_and_says_why_not():
    image = torch.rand(28, 28)
    setting = dict(side=7, num_targets=2, scale=0.175, aspect=1.5, keep=0.25, seed=0)
    figure, words = explorer._live_view(image, **setting)
    assert words.startswith("context 24% of the tokens") and "12 context" in figure.layout.meta["description"]
    other, _ = explorer._live_view(image, **{**setting, "seed": 1})
    assert figure.data[1].z != other.data[1].z
    with pytest.raises(ValueError, match="widen aspect"):
        explorer._live_view(image, **{**setting, "side": 2, "aspect": 0.25})


def test_live_explorer_offers_every_control():
    box = explorer.live_mask_explorer(torch.rand(3, 1, 28, 28))
    names = "Image, Patches per side, Target blocks, Size of one target, Aspect, at most, Context kept, Seed"
    assert ", ".join(control.description for control in box.children[:-1]) == names
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


# In the page


def test_the_widget_carries_its_data_and_asks_the_network_for_nothing():
    widget = explorer.mask_explorer(torch.arange(784).reshape(28, 28) / 784, caption="a ramp")
    state = widget.get_state()
    assert state["data"]["image"]["caption"] == "a ramp" and state["data"]["image"]["pixels"][27][27] == 255
    assert json.loads(json.dumps(state["data"])) == state["data"], "plain lists, so that the page can hold it"
    code = state["_esm"] + state["_css"]
    assert "export default" in code and "import {" not in code and "url(" not in code
    assert code.count("http") == 1, "only the SVG namespace looks like an address"


@pytest.fixture(scope="module")
def page_for(tmp_path_factory, browser_path):
    data, folder = mask_examples.explorer_data(), tmp_path_factory.mktemp("explorer")
    with explorer_pages(folder, browser_path, explorer.SCRIPT, data, ".jl-x-table") as open_at:
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
    published = page.locator(".jl-x-table tbody tr").nth(1).inner_text().split("\t")
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
    page = page_for(390).page
    for name, maps in (("Table row", 2), ("Bird’s-eye view", 4), ("Time series", 2), ("Image", 4)):
        page.get_by_role("tab", name=name).click()
        page.wait_for_function("n => document.querySelectorAll('.jl-m-maps figure').length === n", arg=maps)
        assert fits(page, 390)
    assert faults(page) == []
