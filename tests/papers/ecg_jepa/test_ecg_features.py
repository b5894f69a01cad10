"""Frozen features of chapter 07: pooled latents, hand-made features, and probes that know the known labels only."""

from functools import partial

import pytest
import torch

from jepa_lab.data.ecg import simulator
from jepa_lab.papers.ecg_jepa import features, hand_features, scores, world

# Latents and probes


def test_features_are_mean_and_deviation_of_the_tokens_without_the_register(cfg, data, model):
    encoder, signals = model.encoder, data.test.signals[:60]
    registers, tokens = features.latents(encoder, data, signals)
    with torch.no_grad():
        torch.testing.assert_close(tokens, encoder(data.to_batch(signals)), atol=1e-5, rtol=1e-4)
    pooled = features.pooled(encoder, data, signals)
    torch.testing.assert_close(pooled, torch.cat([tokens.mean(1), tokens.std(1, correction=0)], dim=1))
    assert registers.shape == (60, 1, cfg.width)


def test_scores_of_controls_use_the_known_labels_only(cfg, data, model):
    idx = world.labelled(cfg, data, 0)[1.0]
    for name, feature_fn in features.controls(data, model.encoder).items():
        found = features.of_parts(data, feature_fn, idx)
        whole, few = (scores.probe(data, found, part) for part in (idx, idx[:60]))
        assert 0.4 < whole.test.value < 1, name
        found["labelled"][60:] = torch.nan
        assert scores.probe(data, found, idx[:60]) == few, name


def test_shares_are_probed_where_their_records_were_encoded(cfg, data, model):
    known = world.labelled(cfg, data, 0)
    found = features.of_parts(data, partial(features.pooled, model.encoder, data), known[0.1])
    probed = scores.probe_shares(data, found, known)
    assert list(probed) == [0.01, 0.05, 0.1]
    assert probed[0.1] == scores.probe_encoder(data, model.encoder, known[0.1])
    assert scores.best({"a": probed[0.1], "b": scores.Result(2.0, probed[0.1].test)}) == "b"


def test_pooling_reads_the_register_the_mean_and_the_features_of_the_arms(data, model):
    idx = torch.arange(120)
    found = scores.pooling(data, model.encoder, idx)
    assert set(found) == {"register", "mean", "mean and deviation"}
    same = scores.probe_encoder(data, model.encoder, idx)
    assert found["mean and deviation"].validation == pytest.approx(same.validation, abs=1e-3)
    assert len({round(result.test.value, 4) for result in found.values()}) == 3


# Hand-made features


@pytest.fixture(scope="module")
def planted():
    return simulator.simulate_planted(200, seed=9, prevalence={"bradycardia": 0.2, "tachycardia": 0.2})


def test_r_peaks_are_where_beats_were_planted(planted):
    records, truth = planted
    found = hand_features.r_peaks(records.signals, records.rate)
    near, beats = 0, 0
    for is_peak, times in zip(found, truth.r_times):
        inside = times[(times > 0.3) & (times < 9.7)]
        apart = (is_peak.nonzero() / records.rate - inside).abs().amin(dim=0)
        beats += len(inside)
        near += int((apart < 0.08).sum())
    assert near > 0.97 * beats


def test_rhythm_gives_the_planted_rate(planted):
    records, truth = planted
    rate = 60 / hand_features.rhythm(records.signals, records.rate)[:, 1]
    assert float(((rate - truth.heart_rate).abs() < 5).float().mean()) > 0.95


def test_the_spectrum_finds_a_tone_in_its_band():
    tone = torch.sin(2 * torch.pi * 10 * torch.arange(1000) / 100).expand(2, 12, -1)
    bands = hand_features.spectrum(tone, 100).reshape(2, 12, 6)
    assert hand_features.BANDS_HZ[3] <= 10 < hand_features.BANDS_HZ[4]
    assert bool((bands.argmax(dim=-1) == 3).all())


def test_the_average_beat_outlives_noise(planted):
    records, _ = planted
    noise = 0.1 * torch.randn(records.signals.shape, generator=torch.Generator().manual_seed(0))
    clean = hand_features.average_beat(records.signals, records.rate)
    noisy = hand_features.average_beat(records.signals.float() + noise, records.rate)
    assert float((clean - noisy).std() / clean.std()) < 0.35


def test_hand_made_sets_have_names_and_grow(planted):
    records, _ = planted
    made = [hand_features.hand_made(records.signals[:20], records.rate, name) for name in hand_features.SETS]
    assert [found.shape for found in made] == [(20, 48), (20, 128), (20, 308)]
    assert torch.equal(made[1], made[2][:, :128])
    with pytest.raises(ValueError, match="lead statistics, spectrum"):
        hand_features.hand_made(records.signals[:20], records.rate, "magic")


def test_hand_made_features_of_a_flat_record_are_finite():
    assert torch.equal(hand_features.statistics(torch.zeros(1, 12, 100), 100), torch.zeros(1, 48))
    for name in hand_features.SETS:
        assert bool(torch.isfinite(hand_features.hand_made(torch.zeros(2, 12, 1000), 100, name)).all()), name
