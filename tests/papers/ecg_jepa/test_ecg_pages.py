"""What the page of chapter 07 shows and claims: each claim's value and baseline are those of its words."""

import pytest

from jepa_lab.papers.ecg_jepa import pages, paper
from jepa_lab.papers.ecg_jepa.scores import Result
from jepa_lab.probes.scores import Score


def result(points: float, validation: float = 0.0) -> Result:
    return Result(validation, Score(points / 100, points / 100 - 0.02, points / 100 + 0.02, 100))


PROBED = {
    "random initialisation": {0.1: result(60)},
    "lead statistics": {0.1: result(61, validation=0.2)},
    "spectrum and rhythm": {0.1: result(80, validation=0.3)},
    "average beat and rhythm": {0.1: result(70, validation=0.4)},
    "ECG-JEPA": {0.1: result(75), 1.0: result(77)},
    "masked auto-encoder": {0.1: result(62)},
    "SimCLR": {0.1: result(76)},
}
BREAKS = {
    "80% hidden, 3 stretches": result(75),
    "50% hidden": result(71, validation=0.5),
    "90% hidden": result(79, validation=0.4),
    "1 stretch": result(72, validation=0.4),
    "6 stretches": result(73, validation=0.5),
    "scattered tokens": result(74),
}
TUNED = {
    ("from scratch", 0.01): result(50),
    ("from ECG-JEPA", 0.01): result(58),
    ("from scratch", 0.05): result(60),
    ("from ECG-JEPA", 0.05): result(65),
    ("from scratch", 0.1): result(70),
    ("from ECG-JEPA", 0.1): result(73),
    ("from scratch", 1.0): result(80),
    ("from ECG-JEPA", 1.0): result(81),
}
CURVE = {20: result(74, validation=0.3), 40: result(76, validation=0.5), 80: result(75, validation=0.4)}
HISTORY = {"step": [20, 40, 60, 80], "loss": [3.0, 2.0, 1.0, 2.0]}


def found_claims() -> dict[str, tuple[float, float]]:
    controls = pages.compared_with(paper.preset("laptop"), PROBED, BREAKS)
    few_labels = pages.few_label_claims(TUNED)
    return pages.probe_claims(controls, PROBED, BREAKS) | few_labels | pages.peak_claims(CURVE, HISTORY, [20, 40])


def test_every_claim_of_the_chapter_gets_a_value_and_a_baseline():
    assert set(found_claims()) == {claim.id for claim in paper.CLAIMS}


@pytest.mark.parametrize(
    "claim, value, baseline",
    [
        ("beats-random", 75, 60),
        ("beats-hand-made", 75, 70),  # the best on validation records, not on test records
        ("beats-simclr", 75, 76),
        ("hide-80", 75, 71),
        ("stretches", 75, 73),
        ("blocks-beat-scattered", 75, 74),
        ("few-labels-1", 58, 50),
        ("few-labels-10", 73, 70),
        ("gain-shrinks", 8, 1),
        ("peaks-early", 76, 75),
        ("peaks-before-loss", 50, 75),
    ],
)
def test_a_claim_compares_what_its_words_say(claim, value, baseline):
    assert found_claims()[claim] == pytest.approx((value, baseline))


def test_claims_name_a_control_a_margin_and_where_the_papers_number_is_from():
    ids = [claim.id for claim in paper.CLAIMS]
    assert len(set(ids)) == len(ids)
    assert all(claim.baseline and claim.paper_value and claim.paper_source for claim in paper.CLAIMS)
    assert {f"few-labels-{round(100 * share)}" for share in paper.Config().shares if share < 1} <= set(ids)


def test_the_studys_values_are_found_by_kind_and_name():
    study = [{"values": {"probe 10%: SimCLR": 70.0, "switch: SimCLR": 1.0}}, {"values": {"probe 10%: SimCLR": 71.0}}]
    assert pages.past(study, "probe 10%", ["SimCLR", "none"]) == {"SimCLR": [70.0, 71.0], "none": []}


def test_a_table_shows_every_cell_and_escapes_it():
    shown = pages.share_table(
        {"<b>": {0.01: result(50), 0.1: result(60)}, "other": {0.01: result(40)}}, [0.01, 0.1]
    ).data
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown
    assert all(cell in shown for cell in ("50.0 ± 2.0", "60.0 ± 2.0", "40.0 ± 2.0", "1% of the labels"))
    log = {"rankme": 9.87, "feature_std": 1.0, "cosine_to_mean": 0.1, "rank_share": 0.5}
    costs = pages.cost_table({"reference": result(70), "change": result(68.5)}, {"reference": log}, "reference").data
    assert ">1.5<" in costs
    assert ">9.9<" in costs


def test_the_masks_of_an_arm_hide_what_its_slider_shows(cfg, data):
    hidden = pages.hidden_tokens({"reference": paper.arms(cfg, data)[paper.REFERENCE]})["reference"]
    assert len(hidden) == 32
    assert hidden == sorted(set(hidden))


def test_pictures_with_different_shading_become_one_figure_of_equal_shapes():
    import plotly.graph_objects as go

    pictures = []
    for name, spans in (("one", [(0, 1)]), ("three", [(0, 1), (2, 3), (4, 5)])):
        picture = go.Figure(go.Scatter(x=[0, 5], y=[0, 1]))
        for start, stop in spans:
            picture.add_vrect(start, stop)
        pictures.append((name, picture))
    figure = pages.mask_slider(pictures, "hidden")
    assert [len(frame.layout.shapes) for frame in figure.frames] == [3, 3]
    assert all(not frame.data for frame in figure.frames)
