"""Figures say what they were given, in one look, and can be read without colour or sight."""

import re

import pytest

from jepa_lab import claims, figures

X, Y = [0, 1, 2], [3.0, 2.0, 1.0]


@pytest.fixture(autouse=True)
def fresh_arms():
    figures.arms()


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_every_colour_stands_out_on_the_light_and_on_the_dark_page(page):
    assert all(contrast(colour, page) >= 3 for colour in figures.PALETTE)
    assert len(set(figures.PALETTE)) == len(figures.PALETTE)


def test_an_arm_keeps_its_colour_and_dash_whatever_is_drawn_next():
    first = figures.curves({"ours": (X, Y), "control": (X, Y)}, "step", "loss")
    later = figures.curves({"new": (X, Y), "control": (X, Y)}, "step", "loss")
    assert first.data[1].line.color == later.data[1].line.color == figures.colour("control")
    assert first.data[1].line.dash == later.data[1].line.dash
    assert len({figures.colour(name) for name in ("ours", "control", "new")}) == 3


def test_arms_fixes_the_order_of_a_chapter():
    figures.arms("a", "b")
    assert [figures.colour("b"), figures.colour("a")] == [figures.PALETTE[1], figures.PALETTE[0]]


def test_arms_can_be_told_apart_without_colour_and_do_not_repeat_a_look():
    names = [f"arm {i}" for i in range(16)]
    assert len({figures.dash(name) for name in names[:4]}) == 4
    assert len({(figures.colour(name), figures.dash(name)) for name in names}) == 16


def test_a_band_lies_around_its_line_in_its_colour():
    fig = figures.curves({"ours": (X, Y)}, "step", "loss", bands={"ours": (X, [2, 1, 0], [4, 3, 2])})
    band, line = fig.data
    assert band.fill == "toself" and list(band.x) == [0, 1, 2, 2, 1, 0] and list(band.y) == [4, 3, 2, 0, 1, 2]
    red, green, blue = (int(line.line.color[i : i + 2], 16) for i in (1, 3, 5))
    assert band.fillcolor.startswith(f"rgba({red},{green},{blue},") and band.showlegend is False
    assert fig.layout.xaxis.title.text == "step" and fig.layout.yaxis.title.text == "loss"


@pytest.mark.parametrize(
    "bad",
    [
        lambda: figures.curves({}, "x", "y"),
        lambda: figures.collapse_panel({}),
        lambda: figures.claim_figure({}, {}, "y"),
        lambda: figures.with_slider([], "k"),
        lambda: figures.curves({"a": (X, Y)}, "x", "y", bands={"a": (X, [1], [2])}),
    ],
)
def test_nothing_to_draw_is_an_error_that_says_what_to_pass(bad):
    with pytest.raises(ValueError, match="pass|make them equal"):
        bad()


def test_the_collapse_panel_has_one_plot_per_metric_and_one_line_per_run_in_it():
    runs = {
        "healthy": {"loss": (X, Y), "rankme": (X, Y), "lidar": (X, Y)},
        "collapsed": {"loss": (X, Y), "rankme": (X, Y)},
    }
    fig = figures.collapse_panel(runs)
    assert len(fig.data) == 5 and len({trace.xaxis for trace in fig.data}) == 3
    assert [trace.name for trace in fig.data if trace.showlegend] == ["healthy", "collapsed"]
    heads = [note.text for note in fig.layout.annotations]
    assert heads[0].startswith("loss") and "1 = collapsed" in heads[1]


def test_the_claim_figure_shows_seeds_interval_this_run_and_paper():
    fig = figures.claim_figure(
        {"ours": [1.0, 2.0, 3.0], "control": [0.5, 0.6, 0.7]}, {"ours": 2.5}, "accuracy", paper={"ours": 4.0}
    )
    named = {trace.name: trace for trace in reversed(fig.data)}  # the first of each name
    assert list(named["study, one seed each"].x) == [1.0, 2.0, 3.0]
    assert named["mean, 95 % interval"].x[0] == pytest.approx(2.0)
    half_width = 4.302652729911275 / 3**0.5  # t(2) sd / sqrt(3)
    assert named["mean, 95 % interval"].error_x.array[0] == pytest.approx(half_width)
    assert list(named[figures.THIS_RUN].x) == [2.5] and list(named["the paper"].x) == [4.0]
    assert sum(bool(trace.showlegend) for trace in fig.data if trace.name.startswith(("study", "mean"))) == 2
    assert "study mean 2 ± 2.5 over 3 seeds, this page's run 2.5, paper 4" in fig.layout.meta["description"]


def test_the_claim_figure_draws_this_run_alone_before_there_is_a_study():
    fig = figures.claim_figure({}, {"ours": 1.0, "control": 0.5}, "accuracy")
    assert len(fig.data) == 1 and list(fig.data[0].x) == [1.0, 0.5]


def test_one_seed_has_no_interval():
    fig = figures.claim_figure({"ours": [2.0]}, {}, "accuracy")
    assert fig.data[1].error_x.array[0] == 0
    assert fig.layout.meta["description"] == "accuracy. ours: study mean 2 over 1 seed."


def test_a_slider_has_one_frame_and_one_step_per_label_and_the_data_of_each():
    steps = [(f"{k} blocks", figures.curves({"ours": (X, [k, k, k])}, "x", "y")) for k in range(4)]
    fig = figures.with_slider(steps, "blocks")
    labels = [f"{k} blocks" for k in range(4)]
    assert [frame.name for frame in fig.frames] == labels
    assert [step.label for step in fig.layout.sliders[0].steps] == labels
    assert [list(frame.data[0].y) for frame in fig.frames] == [[k, k, k] for k in range(4)]
    assert list(fig.data[0].y) == [0, 0, 0]
    assert all(step.method == "animate" and list(step.args[0]) == [step.label] for step in fig.layout.sliders[0].steps)
    assert "blocks" in fig.layout.meta["description"] and len(steps[0][1].frames) == 0  # the input is left alone


def test_frames_with_other_traces_are_refused():
    one, two = figures.curves({"a": (X, Y)}, "x", "y"), figures.curves({"a": (X, Y), "b": (X, Y)}, "x", "y")
    with pytest.raises(ValueError, match=r"frames \['2'\] have other traces"):
        figures.with_slider([("1", one), ("2", two)], "k")
    with pytest.raises(ValueError, match="labels must differ"):
        figures.with_slider([("1", one), ("1", one)], "k")


def test_every_figure_carries_the_sentence_it_was_given():
    words = "Loss falls\n for both runs."
    drawn = [
        figures.curves({"a": (X, Y)}, "x", "y", description=words),
        figures.collapse_panel({"a": {"loss": (X, Y)}}, description=words),
        figures.claim_figure({}, {"a": 1.0}, "y", description=words),
        figures.with_slider([("1", figures.curves({"a": (X, Y)}, "x", "y"))], "k", description=words),
    ]
    assert {fig.layout.meta["description"] for fig in drawn} == {"Loss falls for both runs."}


def test_the_verdict_table_names_verdicts_in_words_and_escapes_text():
    row = dict(
        statement="a < b",
        paper_value=None,
        mean=1.234,
        ci_low=None,
        ci_high=None,
        margin=0.5,
        verdict="not supported",
        n_seeds=1,
    )
    html = figures.verdict_table([row], caption="Verdicts").data
    assert "a &lt; b" in html and "not supported" in re.sub("<[^>]+>", "", html)
    assert "1.23" in html and html.count("<tr>") == 2
    with pytest.raises(ValueError, match="none of supported"):
        claims.badge("maybe")


def test_a_table_escapes_its_text_and_names_its_rows():
    html = figures.table("Costs & gains", ["arm", "points"], [["a < b", 1.5], ["c", "d"]]).data
    assert "Costs &amp; gains</caption>" in html and '<th scope="row">a &lt; b</th><td>1.5</td>' in html
    assert html.count('scope="col"') == 2 and html.count("<tr>") == 3


def test_image_grid_keeps_every_pixel_in_its_place():
    import numpy as np

    images = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    sheet = figures.image_grid(images, columns=2, gap=1).data[0].z
    assert np.asarray(sheet).shape == (9, 11)
    np.testing.assert_array_equal(np.asarray(sheet)[:4, 6:], images[1])
    np.testing.assert_array_equal(np.asarray(sheet)[5:, :5], images[2])
    with pytest.raises(ValueError, match="grey images"):
        figures.image_grid(images[0])
