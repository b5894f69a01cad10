"""Chapter 07's page: what it says of single records is what was computed, and its labelled stages are what they are
named.
"""

from dataclasses import replace

import pytest
import torch

from jepa_lab.data.ecg import records as ecg
from jepa_lab.data.ecg import simulator as ecg_simulator
from jepa_lab.papers.ecg_jepa import explain as ecg_explain
from jepa_lab.papers.ecg_jepa import explorer, finetune
from jepa_lab.papers.ecg_jepa import paper as ecg_jepa
from jepa_lab.papers.ecg_jepa import world as ecg_world

CFG = ecg_jepa.preset(
    "smoke", num_train=120, num_validation=80, num_test=80, patch=25, num_blocks=4, min_block=2, crop=10, stride=5
)


@pytest.fixture(scope="module")
def world():
    return ecg_world.cut(ecg.split(ecg_simulator.simulate(280, seed=6, prevalence=0.2), (120, 80, 80)), CFG)


@pytest.fixture(scope="module")
def reader(world):
    model = ecg_world.model(CFG, world.grid, 0)
    return ecg_explain.reader(model, world, torch.arange(120))


# What is predictable


def test_every_moment_can_be_hidden_and_what_is_kept_is_named():
    masks = ecg_explain.candidates(40, 10.0)
    windows = {name: hidden for name, hidden in masks.items() if not name.startswith("all but")}
    assert list(windows)[:2] == ["0 to 2 s", "1 to 3 s"] and windows["1 to 3 s"] == list(range(4, 12))
    assert set().union(*windows.values()) == set(range(40)) and all(len(hidden) == 8 for hidden in windows.values())
    assert masks["all but 8 to 10 s"] == list(range(32)) and len(masks) == len(windows) + 3


class Blind(torch.nn.Module):
    """Predicts the mean latent of every position, whatever it sees."""

    def __init__(self, mean_ND):
        super().__init__()
        self.mean_ND = mean_ND

    def forward(self, context_BCD, masks):
        return self.mean_ND[masks.target_idx]


def test_a_prediction_that_does_not_look_has_error_one_and_a_perfect_one_zero(reader, world):
    signals = world.validation.signals
    target_nND = ecg_world.latents(reader.model.target_encoder, world, signals)[1]
    model, hidden = ecg_world.model(CFG, world.grid, 0, lambda cfg, grid: Blind(target_nND.mean(0))), range(5, 17)
    model.target_encoder.load_state_dict(reader.model.target_encoder.state_dict())
    error_nK = ecg_explain.predictability(replace(reader, model=model), signals, hidden)
    torch.testing.assert_close(error_nK.mean(dim=0), torch.ones(12), atol=1e-4, rtol=1e-4)
    model.predictor.forward = lambda context, masks: target_nND[:1, masks.target_idx[0, 0]][:, None]
    assert float(ecg_explain.predictability(replace(reader, model=model), signals[:1], hidden).abs().max()) < 1e-4


def test_saliency_compares_with_a_record_of_which_the_window_was_never_seen(reader, world):
    signals = world.test.signals[:2].clone().float()
    before = ecg_explain.saliency(reader, signals)
    full = lambda x: reader.probe(ecg_world.encoded(reader.model.target_encoder, world)(x))  # noqa: E731
    without = full(signals) - before[:, :, 20]
    assert before.shape == (2, 9, 40)
    changed = signals.clone()
    changed[..., 19 * 25 : 22 * 25] = 0  # tokens 19 to 21
    torch.testing.assert_close(
        full(changed) - ecg_explain.saliency(reader, changed)[:, :, 20], without, atol=1e-4, rtol=1e-4
    )
    assert (full(changed) - full(signals)).abs().max() > 1e-2


def test_examples_have_their_diagnosis_and_their_nearest_record(reader, world):
    chosen = ecg_explain.examples(reader, ["AF", "LBBB"], near=2)
    assert len(set(chosen)) == 6 and world.test.labels[chosen[0], 0] and world.test.labels[chosen[3], 2]
    z = ecg_explain.placed(reader, world.test.signals)
    apart = (z - z[chosen[0]]).square().sum(1).sqrt()
    assert set(apart.argsort()[1:3].tolist()) == set(chosen[1:3])


def test_the_viewer_takes_what_is_said_of_records_and_of_a_readers_own(reader, world):
    chosen = ecg_explain.examples(reader, world.test.label_names[::2][:4])
    records = ecg_explain.records(reader, chosen)
    data = explorer.viewer_data(records)  # refuses what is too heavy for a page
    assert [record["patches"] for record in data["records"]] == [40] * 8
    for place, record in enumerate(records):
        assert len(record["saliency"]) == 3 and record["rate"] == 100
        assert [n["record"] for n in record["neighbours"]] != [] and place not in [
            n["record"] for n in record["neighbours"]
        ]
        assert record["neighbours"] == sorted(record["neighbours"], key=lambda n: n["distance"])
    own = ecg_explain.examine(reader, chosen)(world.test.signals[chosen[2]].float())
    assert own["neighbours"][0]["record"] == 2 and own["neighbours"][0]["distance"] < 0.02
    assert own["masks"][0]["error"] == pytest.approx(records[2]["masks"][0]["error"], abs=1e-3)
    moved = [
        {"name": "own", "leads": world.test.signals[0].float(), "rate": 100, **own, "neighbours": []},
        *({**r, "neighbours": []} for r in records[:2]),
    ]
    explorer.viewer_data(moved)


def test_a_readers_wfdb_record_is_examined_and_shown(reader, world, tmp_path, capsys):
    wfdb = pytest.importorskip("wfdb")
    wfdb.wrsamp(
        "mine",
        100,
        ["mV"] * 12,
        list(ecg.LEADS),
        world.test.signals[5].T.double().numpy(),
        fmt=["16"] * 12,
        write_dir=str(tmp_path),
    )
    chosen = ecg_explain.examples(reader, ["AF", "LBBB"])
    explorer.live_viewer(
        ecg_explain.examine(reader, chosen), ecg_explain.records(reader, chosen), path=str(tmp_path / "mine"), rate=100
    )
    assert "EcgViewer" in capsys.readouterr().out  # displayed; without a notebook that is its name
    own, *_ = explorer._own_record(str(tmp_path / "mine.hea"), ecg_explain.examine(reader, chosen), (), 100, 10)
    assert own["patches"] == 40 and own["masks"] and len(own["saliency"]) == 3 and len(own["neighbours"]) == 3


def test_records_with_artefacts_are_not_shown(reader, world):
    chosen = ecg_explain.examples(reader, ["AF"])
    signals = world.test.signals.clone()
    signals[chosen[0], 0, 500] = 900.0
    spiked = replace(reader, world=replace(world, test=replace(world.test, signals=signals)))
    assert chosen[0] not in ecg_explain.examples(spiked, ["AF"])


# Labels


def test_stages_train_what_they_are_named_for(world):
    start = ecg_jepa.classifier(CFG, world, ecg_world.model(CFG, world.grid, 0).target_encoder, 0, attentive=True)
    idx = torch.arange(120)
    before = start.encoder.embed.weight.clone()
    head, result = ecg_jepa.learn(CFG, world, start, idx, 0, "head")
    assert (
        torch.equal(head.encoder.embed.weight, before)
        and 0.3 < result.validation < 1
        and 0.3 < result.test.low <= result.test.high < 1
    )
    for stage in ("all", "second"):
        trained, _ = ecg_jepa.learn(CFG, world, head, idx, 0, stage)
        assert not torch.equal(trained.encoder.embed.weight, before), stage
    assert torch.equal(head.encoder.embed.weight, before)
    with pytest.raises(ValueError, match="head, all, second"):
        ecg_jepa.learn(CFG, world, start, idx, 0, "third")


def test_both_starts_of_the_few_label_runs_have_one_head(world):
    encoders = [ecg_world.model(CFG, world.grid, seed).target_encoder for seed in (0, 1)]
    one, two = (ecg_jepa.classifier(CFG, world, encoder, 5) for encoder in encoders)
    assert torch.equal(one.head.out.weight, two.head.out.weight) and isinstance(one.head, finetune.RegisterHead)


def test_pooling_reads_the_register_the_mean_and_the_features_of_the_arms(world):
    encoder, idx = ecg_world.model(CFG, world.grid, 0).target_encoder, torch.arange(120)
    found = ecg_world.pooling(world, encoder, idx)
    assert set(found) == {"register", "mean", "mean and deviation"}
    same = ecg_world.score(world, ecg_world.features(world, ecg_world.encoded(encoder, world), idx), idx)
    assert found["mean and deviation"].validation == pytest.approx(same.validation, abs=1e-3)
    assert len({round(result.test.value, 4) for result in found.values()}) == 3


# Claims


def test_encoders_are_kept_before_the_end_and_the_lowest_loss_is_found():
    cfg = ecg_jepa.preset("laptop")
    looks = ecg_jepa.looks(cfg)
    assert (
        len(looks) == cfg.looks - 1
        and looks[0] > 0
        and looks[-1] < cfg.num_steps
        and all(step % cfg.log_every == 0 for step in looks)
    )
    assert ecg_jepa.lowest({"step": [100, 200, 300], "loss": [3.0, 1.0, 2.0]}) == 200


def test_claims_name_a_control_a_margin_and_where_the_papers_number_is_from():
    ids = [claim.id for claim in ecg_jepa.CLAIMS]
    assert len(set(ids)) == len(ids)
    assert all(claim.baseline and claim.paper_value and claim.paper_source for claim in ecg_jepa.CLAIMS)
    assert {f"few-labels-{round(100 * share)}" for share in ecg_jepa.Config().shares if share < 1} <= set(ids)
