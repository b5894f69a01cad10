"""What chapter 07 says about single records is what was computed."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from jepa_lab.data.ecg import records as ecg
from jepa_lab.papers.ecg_jepa import explain, explorer, features


@pytest.fixture
def explainer(data, model):
    return explain.explainer(model, data, torch.arange(240))


def test_every_moment_can_be_hidden_and_what_is_kept_is_named():
    masks = explain.candidate_masks(40, 10.0)
    windows = {name: hidden for name, hidden in masks.items() if not name.startswith("all but")}
    assert list(windows)[:2] == ["0 to 2 s", "1 to 3 s"]
    assert windows["1 to 3 s"] == list(range(4, 12))
    assert set().union(*windows.values()) == set(range(40))
    assert all(len(hidden) == 8 for hidden in windows.values())
    assert masks["all but 8 to 10 s"] == list(range(32))
    assert len(masks) == len(windows) + 3


class Constant(torch.nn.Module):
    """Predicts the same latents at every call: one for each position."""

    def __init__(self, latents_ND):
        super().__init__()
        self.latents_ND = latents_ND

    def forward(self, context_BCD, masks):
        return self.latents_ND[masks.target_idx]


def test_a_prediction_that_does_not_look_has_error_one_and_a_perfect_one_zero(explainer, data):
    signals = data.validation.signals
    target_nND = features.latents(explainer.model.target_encoder, data, signals)[1]
    explainer.model.predictor = Constant(target_nND.mean(0))
    error_nK = explain.predictability(explainer, signals, range(5, 17))
    torch.testing.assert_close(error_nK.mean(dim=0), torch.ones(12), atol=1e-4, rtol=1e-4)
    explainer.model.predictor = Constant(target_nND[0])
    assert float(explain.predictability(explainer, signals[:1], range(5, 17)).abs().max()) < 1e-4


def test_saliency_compares_with_a_record_of_which_the_window_was_never_seen(explainer, data):
    signals = data.test.signals[:2].clone().float()
    changed = signals.clone()
    changed[..., 19 * 25 : 22 * 25] = 0  # tokens 19 to 21
    whole, without = [], []
    for part in (signals, changed):
        drop_nLN = explain.saliency(explainer, part)
        assert drop_nLN.shape == (2, 9, 40)
        whole.append(explainer.probe(explainer.pooled(part)))
        without.append(whole[-1] - drop_nLN[:, :, 20])
    torch.testing.assert_close(without[0], without[1], atol=1e-4, rtol=1e-4)
    assert float((whole[0] - whole[1]).abs().max()) > 1e-2


def test_examples_have_their_diagnosis_and_their_nearest_record(explainer, data):
    chosen = explain.examples(explainer, ["AF", "LBBB"], near=2)
    assert len(set(chosen)) == 6
    names = data.test.label_names
    assert data.test.labels[chosen[0], names.index("AF")]
    assert data.test.labels[chosen[3], names.index("LBBB")]
    placed = explain.standardised(explainer, data.test.signals)
    apart = (placed - placed[chosen[0]]).square().sum(1).sqrt()
    assert set(apart.argsort()[1:3].tolist()) == set(chosen[1:3])


def test_records_with_artefacts_are_not_shown(explainer, data):
    chosen = explain.examples(explainer, ["AF"])
    signals = data.test.signals.clone()
    signals[chosen[0], 0, 500] = 900.0
    spiked = replace(explainer, data=replace(data, test=replace(data.test, signals=signals)))
    assert chosen[0] not in explain.examples(spiked, ["AF"])


def test_the_viewer_takes_every_record_with_its_neighbours_in_order(explainer, data):
    chosen = explain.examples(explainer, data.test.label_names[::2][:4])
    records = explain.viewer_records(explainer, chosen)
    shown = explorer.viewer_data(records)  # refuses what is too heavy for a page
    assert [record["patches"] for record in shown["records"]] == [40] * 8
    for place, record in enumerate(records):
        near = record["neighbours"]
        assert len(record["saliency"]) == 3
        assert record["rate"] == 100
        assert len(near) == 3
        assert place not in [neighbour["record"] for neighbour in near]
        assert near == sorted(near, key=lambda neighbour: neighbour["distance"])


def test_a_readers_own_record_is_explained_as_the_same_test_record_is(explainer, data):
    chosen = explain.examples(explainer, data.test.label_names[::2][:2])
    records = explain.viewer_records(explainer, chosen)
    found = explain.examine(data.test.signals[chosen[2]].float(), explainer, chosen)
    assert found["neighbours"][0]["record"] == 2
    assert found["neighbours"][0]["distance"] < 0.02
    assert found["masks"][0]["error"] == pytest.approx(records[2]["masks"][0]["error"], abs=1e-3)
    signals = data.test.signals[chosen[2]].float()
    explorer.viewer_data([*records, {"name": "mine", "leads": signals, "rate": 100, **found}])


def test_a_readers_wfdb_record_is_examined_and_shown(explainer, data, tmp_path, monkeypatch):
    wfdb = pytest.importorskip("wfdb")
    signals, how = data.test.signals[5].T.double().numpy(), {"fmt": ["16"] * 12, "write_dir": str(tmp_path)}
    wfdb.wrsamp("mine", 100, ["mV"] * 12, list(ecg.LEADS), signals, **how)
    chosen = explain.examples(explainer, ["AF", "LBBB"])
    examine = partial(explain.examine, explainer=explainer, chosen=chosen)
    shown = []
    monkeypatch.setattr(explorer, "viewer", lambda records, title: shown.extend(records))
    explorer.live_viewer(examine, explain.viewer_records(explainer, chosen), path=str(tmp_path / "mine"), rate=100)
    first, *others = shown
    assert len(others) == 4
    assert first["patches"] == 40
    assert first["masks"]
    assert len(first["saliency"]) == 3
    assert len(first["neighbours"]) == 3
