"""The ECG viewer: it refuses malformed data, draws every lead where it belongs, and works in a browser alone."""

import base64
import json

import numpy as np
import pytest
import torch
from explorer_page import explorer_pages, faults, fits, javascript

from jepa_lab.data.ecg.records import LEADS
from jepa_lab.papers.ecg_jepa import explorer
from jepa_lab.papers.ecg_jepa.explorer_data import viewer_data

WAVES = (
    (-0.2, 0.025, (0.1, 0.12, 0.04)),
    (0.0, 0.011, (0.9, 0.8, 0.25)),
    (0.03, 0.012, (-0.3, -0.1, 0.6)),
    (0.24, 0.05, (0.2, 0.2, -0.15)),
)
CHEST = ((-0.35, 1.1), (-0.1, 1.6), (0.35, 1.5), (0.8, 0.9), (1.0, 0.3), (0.95, 0.0))
PATCHES = 40
PRINTED = ["I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6"]


def heart(rr: float = 0.8, rate: int = 100, seconds: int = 10) -> torch.Tensor:
    """Made here: beats of a moving dipole seen by twelve leads, millivolts [12, T]."""
    t = torch.arange(rate * seconds) / rate
    dipole = torch.zeros(3, len(t))
    for beat in range(int(seconds / rr) + 1):
        for at, width, direction in WAVES:
            dipole += torch.tensor(direction)[:, None] * torch.exp(-0.5 * ((t - 0.3 - beat * rr - at) / width) ** 2)
    x, y, z = dipole
    one, two = x, 0.5 * x + 0.87 * y
    return torch.stack(
        [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2, *(a * x - b * z for a, b in CHEST)]
    )


def record(name: str, rr: float = 0.8, **changed) -> dict:
    blocks, half = [*range(10, 20), *range(25, 40)], list(range(20, 40))
    masks = [
        {"name": "blocks", "hidden": blocks, "error": [0.1 + 0.01 * i for i in blocks]},
        {"name": "second half", "hidden": half, "error": [0.3] * 20},
    ]
    return {
        "name": name,
        "diagnoses": ["AF", "PVC"],
        "leads": heart(rr),
        "rate": 100,
        "patches": PATCHES,
        "masks": masks,
        "neighbours": [],
        "saliency": {"AF": [(-1) ** i * i / 100 for i in range(PATCHES)]},
        **changed,
    }


def three() -> list[dict]:
    near = {"neighbours": [{"record": 2, "distance": 0.31}, {"record": 1, "distance": 0.2}]}
    return [record("first", **near), record("second", 0.6, diagnoses=[], saliency={}), record("third", 1.1, masks=[])]


# ---- the data --------------------------------------------------------------------------------------


def test_the_page_gets_every_lead_to_five_microvolts_and_neighbours_by_distance():
    shown = viewer_data(three(), "title", "caption")
    packed = np.frombuffer(base64.b64decode(shown["records"][0]["leads"]), "<i2").reshape(12, 1000)
    assert np.abs(shown["step"] * packed - heart().numpy()).max() <= 0.0026
    assert [n["record"] for n in shown["records"][0]["neighbours"]] == [1, 2] and shown["leads"] == list(LEADS)
    assert json.loads(json.dumps(shown)) == shown, "plain values, so that the page can hold it"


def test_records_of_the_page_can_be_stored_and_shown_again():
    shown = viewer_data(three())
    assert viewer_data(json.loads(json.dumps(shown))["records"]) == shown


def test_eight_ten_second_records_at_500_hz_fit_a_page_and_keep_their_beats():
    fast = heart(rate=500)
    shown = viewer_data([record(f"r{i}", leads=fast.half(), rate=500) for i in range(8)])
    assert (
        len(json.dumps(shown)) < 400_000
        and shown["records"][0]["rate"] == 100
        and shown["records"][0]["samples"] == 1000
    )
    packed = np.frombuffer(base64.b64decode(shown["records"][0]["leads"]), "<i2").reshape(12, 1000)
    assert 0.005 * packed[1].max() > 0.85 * float(fast[1].max()), "a very sharp R wave loses less than a seventh"
    with pytest.raises(ValueError, match="kB of a page: show fewer"):
        viewer_data([record(f"r{i}") for i in range(14)])


def nan_lead() -> torch.Tensor:
    leads = heart()
    leads[3, 7] = float("nan")
    return leads


MASK = {"name": "m", "hidden": [1, 2], "error": [0.1, 0.2]}
REFUSED = {
    "eight leads": (dict(leads=heart()[:8]), r"\[12, T\] in the order I, II.*got shape \(8, 1000\)"),
    "nan": (dict(leads=nan_lead()), "NaN"),
    "microvolts": (dict(leads=1000 * heart()), "give millivolts"),
    "no rate": (dict(rate=0), "rate must be a positive"),
    "no patches": (dict(patches=0), "patches must be a whole number"),
    "error length": (
        dict(masks=[{**MASK, "error": [0.1]}]),
        r"mask 'm': error \(one per hidden patch\) has 1 values, expected 2",
    ),
    "error nan": (dict(masks=[{**MASK, "error": [0.1, float("nan")]}]), "must be finite"),
    "hidden twice": (dict(masks=[{**MASK, "hidden": [1, 1]}]), "different patch indices"),
    "hidden outside": (dict(masks=[{**MASK, "hidden": [1, 40]}]), r"different patch indices in 0\.\.39"),
    "nothing hidden": (dict(masks=[{**MASK, "hidden": [], "error": []}]), "different patch indices"),
    "masks of one name": (dict(masks=[MASK, MASK]), "masks must have different names"),
    "neighbour outside": (dict(neighbours=[{"record": 3, "distance": 0.1}]), "indices of the other records"),
    "neighbour of itself": (dict(neighbours=[{"record": 0, "distance": 0.1}]), "indices of the other records"),
    "distance": (
        dict(neighbours=[{"record": 1, "distance": -1.0}]),
        "distance of a neighbour must be finite and at least 0",
    ),
    "saliency length": (dict(saliency={"AF": [0.1] * 39}), "saliency of 'AF' .* has 39 values, expected 40"),
    "unknown field": (dict(mask=[]), "unknown fields mask"),
    "twice the name": (dict(name="second"), "different names"),
}


@pytest.mark.parametrize("changed, reason", REFUSED.values(), ids=REFUSED)
def test_malformed_records_are_refused_with_the_reason(changed, reason):
    with pytest.raises(ValueError, match=reason):
        explorer.viewer([{**three()[0], "neighbours": [], **changed}, *three()[1:]])


def test_a_viewer_without_records_or_fields_is_refused():
    with pytest.raises(ValueError, match="at least one record"):
        explorer.viewer([])
    with pytest.raises(ValueError, match="'x' lacks leads, patches"):
        explorer.viewer([{"name": "x", "rate": 100}])


def test_the_widget_carries_its_data_and_asks_the_network_for_nothing():
    state = explorer.viewer(three(), caption="made in a test").get_state()
    code = state["_esm"] + state["_css"]
    assert state["data"]["caption"] == "made in a test" and len(state["data"]["records"]) == 3
    assert (
        "export default" in code
        and "http" not in code.replace("http://www.w3.org/2000/svg", "")
        and code.count("url(") == 2
    ), "patterns of the drawing"


# ---- the figure and the live viewer ----------------------------------------------------------------


def test_the_figure_draws_each_lead_in_its_own_time_on_paper_and_shades_the_hidden():
    signals = heart()
    figure = explorer.twelve_leads(signals, 100, hidden=[4, 5, 30], patches=PATCHES, title="made here")
    leads = {trace.name: trace for trace in figure.data[2:14]}
    assert list(leads) == PRINTED and figure.data[14].name == "II"
    assert leads["V2"].x[0] == 5.0 and np.allclose(leads["V2"].customdata, signals[7, 500:750])
    assert len(figure.data[14].x) == 1000
    zero = leads["V2"].y[0] - leads["V2"].customdata[0]
    assert zero / 0.5 == pytest.approx(round(zero / 0.5)), "the zero line falls on a bold one"
    assert [(s.x0, s.x1) for s in figure.layout.shapes] == [(1.0, 1.5), (7.5, 7.75)]
    assert "1.00 to 1.50 s" in figure.layout.meta["description"]
    fine = [x for x in figure.data[0].x if x is not None]
    assert fine[2] - fine[0] == pytest.approx(0.04) and figure.layout.yaxis.scaleratio == pytest.approx(10 / 25)
    with pytest.raises(ValueError, match="need patches"):
        explorer.twelve_leads(signals, 100, hidden=[1])


def test_the_live_viewer_shows_a_readers_record_beside_the_references(tmp_path, capsys):
    import wfdb

    fast = heart(rate=250).T.double().numpy()
    wfdb.wrsamp("mine", 250, ["mV"] * 12, list(LEADS), fast, fmt=["16"] * 12, write_dir=str(tmp_path))
    found = {"patches": PATCHES, "diagnoses": ["AF?"], "neighbours": [{"record": 1, "distance": 0.5}]}
    mine, *others = explorer._own_record(str(tmp_path / "mine.hea"), lambda signals: found, three(), 100, 10)
    assert mine["name"] == "mine" and mine["leads"].shape == (12, 1000)
    assert mine["neighbours"] == [{"record": 2, "distance": 0.5}]
    assert [n["record"] for n in others[0]["neighbours"]] == [3, 2]
    assert len(explorer.viewer([mine, *others]).data["records"]) == 4
    explorer.live_viewer(lambda signals: found, three(), path=str(tmp_path / "mine"))
    assert "ecg_jepa_explorer" in capsys.readouterr().out, "displayed; without a notebook that is its name"


def test_the_live_viewer_says_in_one_line_why_it_cannot_read(capsys, tmp_path):
    field, _ = explorer.live_viewer(lambda signals: {}, three()).children
    assert "Type the path" in capsys.readouterr().out
    field.value = str(tmp_path / "nowhere")
    line = capsys.readouterr().out.replace("\x1b[2K\r", "")  # how a terminal clears the line before
    assert line.startswith(str(tmp_path / "nowhere")) and line.count("\n") == 1 and line.count("nowhere") == 1


# ---- in the page -----------------------------------------------------------------------------------


def test_the_page_unpacks_what_python_packed(tmp_path, request):
    shown = viewer_data(three())
    run = javascript(explorer.SCRIPT, tmp_path, request)
    found = run(f"m.decode({json.dumps(shown['records'][0])}, {shown['step']}).map((lead) => Array.from(lead))")
    assert torch.allclose(torch.tensor(found), heart(), atol=0.003)


@pytest.fixture(scope="module")
def page_for(tmp_path_factory, browser_path):
    data, folder = viewer_data(three(), "Three records", "Made in a test."), tmp_path_factory.mktemp("ecg")
    with explorer_pages(folder, browser_path, explorer.SCRIPT, data, ".jl-e-ink path") as open_at:
        yield open_at


def picture(page) -> str:
    return page.locator(".jl-e-svg").get_attribute("aria-label")


def test_the_reader_chooses_what_is_hidden_and_sees_its_errors(page_for):
    seen = page_for(1400)
    page = seen.page
    assert page.locator(".jl-e-names text").all_text_contents() == [*PRINTED, "II"]
    assert page.locator(".jl-e-error").count() == 25 and page.locator(".jl-e-veil").count() == 2
    assert "Hidden by “blocks”: 25 of 40 patches (2.5–5.0 s, 6.3–10.0 s)" in picture(page)
    assert "largest at 9.75–10.00 s" in picture(page)
    page.get_by_role("button", name="second half").focus()
    page.keyboard.press("Enter")
    assert page.locator(".jl-e-error").count() == 20 and page.locator(".jl-e-veil").count() == 1
    assert page.evaluate("document.activeElement.textContent") == "second half", "the keyboard stays where it was"
    page.get_by_role("button", name="nothing").click()
    assert page.locator(".jl-e-error, .jl-e-veil").count() == 0 and "Nothing is hidden" in picture(page)
    assert seen.trouble == []


def test_neighbours_and_diagnoses_lead_on(page_for):
    seen = page_for(1000)
    page = seen.page
    page.get_by_label("Explain").select_option(label="AF")
    assert page.locator(".jl-e-for").count() == 20 and page.locator(".jl-e-against").count() == 20
    assert "AF rests most on 9.50–9.75 s (+0.38)" in picture(page)
    assert page.locator(".jl-e-near li").all_inner_texts() == [
        "second distance 0.2; no diagnosis",
        "third distance 0.31; AF, PVC",
    ]
    page.locator(".jl-e-near button").nth(0).click()
    assert picture(page).startswith("12-lead ECG. second: no diagnosis.")
    assert page.get_by_label("Record", exact=True).input_value() == "1"
    assert "was not explained for this record" in page.locator(".jl-e-svg").text_content()
    page.get_by_label("Record", exact=True).select_option(label="third")
    assert page.get_by_role("group", name="Hidden").count() == 0, "a record without masks offers none"
    assert seen.trouble == []


def test_pointing_and_the_keyboard_read_values(page_for):
    page = page_for(1000).page
    readout = page.locator(".jl-e-readout")
    assert "Point at the paper" in readout.inner_text()
    box = page.locator(".jl-e-svg").bounding_box()
    mm = box["width"] / 260
    page.mouse.move(box["x"] + mm * (10 + 25 * 8.3), box["y"] + 10 * mm)  # V4 has the last quarter of the first row
    text = readout.inner_text()
    assert text.startswith("V4 at 8.30 s: ")
    assert "patch 34 of 40 (8.25–8.50 s), hidden, latent error 0.43" in text
    shown = float(text.split(": ")[1].split(" mV")[0].replace("−", "-"))
    assert shown == pytest.approx(float(heart()[9, 830]), abs=0.02)
    patch = page.get_by_role("slider", name="Patch")
    patch.fill("2")
    patch.press("ArrowRight")
    assert readout.inner_text() == "Patch 4 of 40 (0.75–1.00 s), seen by the model"
    assert patch.get_attribute("aria-valuetext") == "patch 4 of 40 (0.75–1.00 s), seen by the model"


def test_the_window_follows_the_patch_and_the_layout_follows_the_width(page_for):
    page = page_for(1000).page
    page.get_by_role("button", name="12 leads, 2.5 s").click()
    assert page.locator(".jl-e-names text").count() == 12
    page.get_by_role("slider", name="Patch").fill("35")
    assert page.get_by_role("slider", name="Start of the window").get_attribute("aria-valuetext") == "7.50 to 10.00 s"
    page.get_by_role("button", name="Print-out").click()
    assert page.locator(".jl-e-names text").count() == 13
    page.set_viewport_size({"width": 390, "height": 900})
    page.wait_for_function("document.querySelectorAll('.jl-e-names text').length === 12")
    assert page.get_by_role("button", name="Print-out").count() == 0
    assert fits(page, 390)


@pytest.mark.parametrize("width, theme", [(1400, "light"), (390, "dark")])
def test_the_viewer_fits_and_passes_the_accessibility_rules(page_for, width, theme):
    page = page_for(width, theme).page
    page.get_by_label("Explain").select_option(label="AF")
    assert fits(page, width)
    assert faults(page) == []
