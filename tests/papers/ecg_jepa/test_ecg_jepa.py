"""ECG-JEPA: its size is the paper's, its records are cut by patient, its arms differ in what they say, labels train
what they should.
"""

from dataclasses import replace

import pytest
import torch

from jepa_lab import diagnostics, losses, records
from jepa_lab.data.ecg import records as ecg
from jepa_lab.data.ecg import simulator as ecg_simulator
from jepa_lab.encoders import Encoder
from jepa_lab.papers.ecg_jepa import finetune, multilabel
from jepa_lab.papers.ecg_jepa import hand_features as ecg_features
from jepa_lab.papers.ecg_jepa import paper as ecg_jepa
from jepa_lab.papers.ecg_jepa import world as ecg_world

CFG = ecg_jepa.preset(
    "smoke", num_train=240, num_validation=120, num_test=120, patch=25, num_blocks=4, min_block=2, crop=10, stride=5
)


@pytest.fixture(scope="module")
def world():
    parts = ecg.split(ecg_simulator.simulate(480, seed=5, prevalence=0.2), (240, 120, 120))
    return ecg_world.cut(parts, CFG)


@pytest.fixture(scope="module")
def batch(world):
    """A fresh model, eight records as tokens and their masks."""
    arm = ecg_jepa.arms(CFG, world)["ECG-JEPA"]
    return (
        ecg_world.model(CFG, world.grid, 0),
        world.to_batch(world.train.signals[:8]),
        arm.sampler(8, torch.Generator().manual_seed(0)),
    )


# The paper's sizes


def biases(encoder: Encoder) -> int:
    return sum(p.numel() for name, p in encoder.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(
    "name, changes, millions",
    [("gpu", {}, 3.60), ("paper", {}, 14.28), ("paper", {"width": 768, "depth": 12, "heads": 12}, 85.19)],
)
def test_without_our_biases_the_encoder_has_as_many_weights_as_the_papers(name, changes, millions):
    cfg = ecg_jepa.preset(name, **changes)
    assert cfg.num_tokens == 200 and cfg.patch / cfg.rate == 0.05
    with torch.device("meta"):
        encoder = Encoder((cfg.num_tokens,), 12 * cfg.patch, cfg.width, cfg.depth, cfg.heads, num_registers=1)
    ours = sum(p.numel() for p in encoder.parameters())
    assert round((ours - biases(encoder)) / 1e6, 2) == millions
    assert (
        biases(encoder) == (11 * cfg.depth + 2) * cfg.width
    )  # nine in the linears of a block, two in its norms; embedding, last norm


def test_the_paper_preset_takes_a_step_on_the_meta_device():
    cfg = ecg_jepa.preset("paper")
    sampler = ecg_world.time_blocks(cfg, (cfg.num_tokens,))
    seen = sampler(4, torch.Generator().manual_seed(0))
    assert seen.context_idx.shape == (4, 40) and seen.target_idx.shape == (4, 1, 160)
    with torch.device("meta"):
        model = ecg_world.model(cfg, (cfg.num_tokens,), 0)
        seen = replace(seen, context_idx=seen.context_idx.to("meta"), target_idx=seen.target_idx.to("meta"))
        loss = ecg_jepa.objective(model, torch.empty(4, 200, 300), seen)
    loss.backward()
    assert loss.shape == () and all(p.grad is None for p in model.target_encoder.parameters())


def test_presets_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="unknown preset"):
        ecg_jepa.preset("huge")
    with pytest.raises(ValueError, match="do not tile"):
        ecg_jepa.preset("laptop", patch=33)
    with pytest.raises(ValueError, match="keep is the share"):
        ecg_jepa.preset("laptop", keep=1.5)


# The world


def test_no_patient_is_in_two_parts_and_statistics_come_from_training_records_alone(world):
    patients = [set(part.patients.tolist()) for part in (world.train, world.validation, world.test)]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 480
    torch.testing.assert_close(world.stats[1], ecg.lead_stats(world.train.signals)[1])
    tokens = world.to_batch(world.train.signals)
    assert tokens.shape == (240, 40, 300) and abs(float(tokens.mean())) < 0.05 and 0.8 < float(tokens.std()) < 1.1


def test_ptb_xl_is_used_where_it_is_by_its_folds(monkeypatch, tmp_path):
    records = ecg_simulator.simulate(400, seed=1, prevalence=0.2)
    records = replace(
        records,
        folds=torch.arange(400) % 10 + 1,
        patients=torch.arange(400) // 10 * 10 + torch.arange(400) % 10,
        kind="real",
    )
    asked = {}
    monkeypatch.setattr(ecg, "ptb_xl_folder", lambda root=None: tmp_path)
    monkeypatch.setattr(ecg, "ptb_xl", lambda root=None, **how: asked.update(how) or records)
    assert (
        ecg_jepa.preset("laptop").data == "ptb-xl" and ecg_jepa.preset("laptop", data="simulated").data == "simulated"
    )
    world = ecg_world.world(replace(CFG, data="ptb-xl", num_train=250, num_validation=100, num_test=30))
    assert asked == {"rate": 100, "task": "superclass"}
    assert [len(part) for part in (world.train, world.validation, world.test)] == [250, 40, 30]
    assert (
        set(world.train.folds.tolist()) <= set(range(1, 9))
        and set(world.validation.folds.tolist()) == {9}
        and set(world.test.folds.tolist()) == {10}
    )


def test_simulated_and_real_runs_leave_records_of_different_names(monkeypatch, tmp_path):
    paths = set()
    for present in (None, tmp_path):
        monkeypatch.setattr(ecg, "ptb_xl_folder", lambda root=None: present)
        paths.add(records.record_path(tmp_path, ecg_jepa.CHAPTER, "laptop", 0, ecg_jepa.preset("laptop")))
    assert len(paths) == 2


def test_known_labels_are_nested_and_depend_on_the_seed_alone(world):
    known = ecg_world.labelled(CFG, world, 3)
    sizes = [len(idx) for idx in known.values()]
    assert list(known) == [0.01, 0.05, 0.1, 1.0] and sizes == [18, 18, 24, 240]
    assert torch.equal(known[1.0][:24], known[0.1]) and torch.equal(ecg_world.labelled(CFG, world, 3)[1.0], known[1.0])
    assert not torch.equal(ecg_world.labelled(CFG, world, 4)[1.0], known[1.0])


# Pre-training


def test_context_and_target_partition_the_record(world):
    for name, arm in {**ecg_jepa.arms(CFG, world), **ecg_jepa.switches(CFG, world)}.items():
        if name == "SimCLR":
            continue
        seen = arm.sampler(16, torch.Generator().manual_seed(0))
        both = torch.cat([seen.context_idx, seen.target_idx.flatten(1)], dim=1).sort(dim=1).values
        assert torch.equal(both, torch.arange(40).expand(16, -1)), name


def test_the_switches_hide_what_they_are_named_for(world):
    every = {"reference": ecg_jepa.arms(CFG, world)["ECG-JEPA"], **ecg_jepa.switches(CFG, world)}
    drawn = {name: arm.sampler(64, torch.Generator().manual_seed(0)) for name, arm in every.items()}
    shares = {name: seen.target_idx.shape[2] / 40 for name, seen in drawn.items()}
    others = {"50% hidden": 0.5, "90% hidden": 0.9}
    assert shares == {name: others.get(name, 0.8) for name in every}

    def stretches(name: str) -> float:
        hidden = torch.zeros(64, 41).scatter(1, drawn[name].target_idx[:, 0] + 1, 1.0)
        return float((hidden.diff(dim=1) == 1).sum() / 64)

    found = [stretches(name) for name in ("1 stretch", "reference", "6 stretches", "scattered tokens")]
    assert found[0] == 1 < found[1] <= 4 and found == sorted(found)


def test_every_arm_takes_a_step_and_shares_its_start(world):
    cfg, ends = replace(CFG, num_steps=2, log_every=2), {}
    starts = []
    for name, arm in {**ecg_jepa.arms(cfg, world), **ecg_jepa.switches(cfg, world)}.items():
        starts.append(
            ecg_world.model(replace(cfg, **(arm.changes or {})), world.grid, 0, arm.predictor).encoder.embed.weight
        )
        run = ecg_world.train_arm(cfg, world, arm, 0, progress=False)
        assert run.step == 2 and run.bad_steps == 0, name
        ends[name] = run.model.encoder.embed.weight.detach()
    assert all(torch.equal(start, starts[0]) for start in starts)
    assert len({tuple(end.flatten().tolist()) for end in ends.values()}) == len(ends)


def test_the_loss_is_the_mean_absolute_distance_to_the_target_encoders_latents(batch):
    model, patches, seen = batch
    with torch.no_grad():
        pred = model.predictor(model.encoder(patches, seen.context_idx), seen)[:, 0]
        target = torch.stack([model.target_encoder(patches)[b, seen.target_idx[b, 0]] for b in range(8)])
        torch.testing.assert_close(ecg_jepa.objective(*batch), (pred - target).abs().mean())


def test_no_gradient_reaches_the_target_encoder(batch, world):
    for name, arm in ecg_jepa.arms(CFG, world).items():
        model = ecg_world.model(CFG, world.grid, 0, arm.predictor)
        arm.objective(model, batch[1], arm.sampler(8, torch.Generator().manual_seed(0))).backward()
        assert all(p.grad is None for p in model.target_encoder.parameters()), name
        assert all(p.grad is not None for p in model.encoder.parameters()), name


def test_the_masked_auto_encoder_is_asked_for_the_hidden_signal(batch, world):
    arm = ecg_jepa.arms(CFG, world)["masked auto-encoder"]
    model = ecg_world.model(CFG, world.grid, 0, arm.predictor)
    _, patches, seen = batch
    with torch.no_grad():
        model.predictor.out.weight.zero_(), model.predictor.out.bias.zero_()
        loss = arm.objective(model, patches, seen)
    hidden = torch.stack([patches[b, seen.target_idx[b, 0]] for b in range(8)])
    torch.testing.assert_close(loss, hidden.square().mean())


def test_simclr_pulls_two_views_of_one_record_together(batch, world):
    _, patches, _ = batch
    views = ecg_jepa.two_views(world.grid, 500, torch.Generator().manual_seed(0), share=0.5)
    assert views.context_idx.shape == (500, 20) and views.target_idx.shape == (500, 1, 20)
    assert (
        views.context_idx.min() == 0
        and views.context_idx.max() == 39
        and bool((views.context_idx.diff(dim=1) == 1).all())
    )
    model = ecg_world.model(CFG, world.grid, 0, lambda cfg, grid: ecg_jepa.Projector(cfg.width))
    crop = views.context_idx[:1].expand(8, -1)
    same = replace(views, context_idx=crop, target_idx=crop[:, None])
    with torch.no_grad():
        own, alike = (
            float(ecg_jepa.simclr_objective(model, x, same, (0.0, 0.0), 0.1))
            for x in (patches, patches[:1].expand_as(patches))
        )
        assert (
            own < alike == pytest.approx(torch.tensor(8.0).log().item(), abs=1e-3)
        )  # one record eight times: pure chance
        pooled = model.predictor(model.encoder(patches, crop).mean(dim=1))
        assert own < float(losses.info_nce(pooled, pooled.roll(1, dims=0)))


def test_augmentation_changes_gains_and_adds_noise(batch):
    patches = batch[1]
    assert torch.equal(ecg_jepa.augmented(patches, (0.0, 0.0)), patches)
    ratio = (ecg_jepa.augmented(patches, (0.5, 0.0)) / patches).reshape(8, 40, 12, 25)
    per_lead = ratio.nan_to_num(nan=1.0).flatten(2).reshape(8, 40, 12, 25)[:, 0, :, 0]
    assert (
        torch.allclose(ratio[..., 0], per_lead[:, None].expand(8, 40, 12), atol=1e-3, equal_nan=True)
        and per_lead.std() > 0.2
    )
    assert float((ecg_jepa.augmented(patches, (0.0, 0.1)) - patches).std()) == pytest.approx(0.1, rel=0.05)


def test_kept_encoders_are_those_of_their_steps_and_training_can_be_cut_and_resumed(world, tmp_path):
    cfg, path = replace(CFG, num_steps=6), tmp_path / "checkpoint.pt"
    for name in ("ECG-JEPA", "SimCLR"):  # one without and one with random augmentations
        arm, kept = ecg_jepa.arms(cfg, world)[name], dict.fromkeys((0, 4))
        whole = ecg_world.train_arm(cfg, world, arm, 0, kept=kept, progress=False)
        path.unlink(missing_ok=True)
        ecg_world.train_arm(cfg, world, arm, 0, progress=False, checkpoint=path, save_every=4)
        again = ecg_world.train_arm(cfg, world, arm, 0, progress=False, checkpoint=path)
        assert torch.equal(whole.model.encoder.embed.weight, again.model.encoder.embed.weight), name
        fresh = ecg_world.model(cfg, world.grid, 0, arm.predictor).target_encoder.embed.weight
        last = whole.model.target_encoder.embed.weight
        assert torch.equal(kept[0].embed.weight, fresh) and not torch.equal(kept[4].embed.weight, fresh)
        assert not torch.equal(kept[4].embed.weight, last)


def test_without_ema_and_stop_gradient_the_alarm_rings(world):
    cfg, alarm = replace(CFG, num_steps=60, log_every=60, lr=4e-3), {}
    for name, arm in {
        "whole": ecg_jepa.arms(cfg, world)["ECG-JEPA"],
        "broken": ecg_jepa.switches(cfg, world)["no EMA, no stop-gradient"],
    }.items():
        run = ecg_world.train_arm(cfg, world, arm, 0, progress=False)
        alarm[name] = diagnostics.collapsed({key: values[-1] for key, values in run.history.items()})
    assert alarm["broken"] is not None and alarm["whole"] is None


def test_six_hundred_steps_beat_random_initialisation():
    cfg = ecg_jepa.preset(
        "laptop", data="simulated", num_steps=600, log_every=600, num_train=2000, num_validation=300, num_test=700
    )
    world = ecg_world.world(cfg)
    idx, found = torch.arange(1000), {}
    run = ecg_world.train_arm(cfg, world, ecg_jepa.arms(cfg, world)["ECG-JEPA"], 100, progress=False)
    for name, encoder in (
        ("trained", run.model.target_encoder),
        ("random", ecg_world.model(cfg, world.grid, 100).target_encoder),
    ):
        found[name] = ecg_world.score(
            world, ecg_world.features(world, ecg_world.encoded(encoder, world), idx), idx
        ).validation
    assert found["trained"] > found["random"] + 0.02, found


def test_headless_says_what_it_trains_on_scores_and_refuses_to_overwrite(world, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ecg_world, "world", lambda cfg, device: world)
    found = ecg_jepa.headless(replace(CFG, num_steps=2), tmp_path, progress=False)
    printed = capsys.readouterr().out
    assert "simulated ECG, seed 5 (simulated)" in printed and "left out: none" in printed
    assert 0.4 < found["macro-AUC"].low <= found["macro-AUC"].value <= found["macro-AUC"].high < 1
    with pytest.raises(ValueError, match="--resume"):
        ecg_jepa.headless(replace(CFG, num_steps=2), tmp_path)


# Frozen features


def test_features_are_mean_and_deviation_of_the_tokens_without_the_register(world):
    encoder = ecg_world.model(CFG, world.grid, 0).target_encoder
    registers, tokens = ecg_world.latents(encoder, world, world.test.signals[:60])
    with torch.no_grad():
        torch.testing.assert_close(tokens, encoder(world.to_batch(world.test.signals[:60])), atol=1e-5, rtol=1e-4)
    found = ecg_world.encoded(encoder, world)(world.test.signals[:60])
    torch.testing.assert_close(found, torch.cat([tokens.mean(1), tokens.std(1, correction=0)], dim=1))
    assert registers.shape == (60, 1, CFG.width)


def test_scores_of_controls_use_the_known_labels_only(world):
    idx = ecg_world.labelled(CFG, world, 0)[1.0]
    for name, embed in ecg_world.controls(CFG, world, 0).items():
        found = ecg_world.features(world, embed, idx)
        both = [ecg_world.score(world, found, part) for part in (idx, idx[:60])]
        assert all(0.4 < r.validation < 1 and 0.4 < r.test.value < 1 for r in both), name
        found["labelled"][60:] = torch.nan
        assert ecg_world.score(world, found, idx[:60]) == both[1], name


# Labelled training


@pytest.fixture(scope="module")
def classifier(world):
    torch.manual_seed(0)
    return finetune.Classifier(
        ecg_world.model(CFG, world.grid, 0).target_encoder, finetune.AttentiveHead(CFG.width, 9, CFG.heads)
    )


def fitted(classifier, world, **how):
    recipe = finetune.Recipe(**{"num_steps": 6, "lr": 1e-2, "checks": 2, "crop": 10, "stride": 5, **how})
    return finetune.fit(
        classifier,
        recipe,
        world.train.signals,
        world.train.labels,
        world.to_batch,
        (world.validation.signals, world.validation.labels),
        0,
    )


def test_crops_lie_inside_the_record_and_reach_both_ends():
    idx = finetune.random_crops(40, 10, 2000, torch.Generator().manual_seed(0))
    assert idx.shape == (2000, 10) and idx.min() == 0 and idx.max() == 39 and bool((idx.diff(dim=1) == 1).all())


def test_a_record_is_scored_by_the_mean_logit_of_seven_crops(classifier, world):
    signals = world.test.signals[:3]
    torch.nn.init.normal_(classifier.head.out.weight)
    with torch.no_grad():
        crops = [classifier(world.to_batch(signals), torch.arange(s, s + 10).expand(3, -1)) for s in range(0, 31, 5)]
    assert len(crops) == 7
    torch.testing.assert_close(finetune.predict(classifier, signals, world.to_batch, 10, 5), torch.stack(crops).mean(0))


def test_a_frozen_encoder_stays_and_a_free_one_moves_and_the_given_model_never_changes(classifier, world):
    before = {name: p.clone() for name, p in classifier.state_dict().items()}
    for frozen in (True, False):
        trained, curve = fitted(classifier, world, frozen=frozen)
        assert torch.equal(trained.encoder.embed.weight, before["encoder.embed.weight"]) == frozen
        assert not torch.equal(trained.head.out.weight, before["head.out.weight"])
        assert curve["step"] == [3, 6]
    assert all(torch.equal(p, before[name]) for name, p in classifier.state_dict().items())


def test_the_best_validation_score_is_the_one_that_is_kept(classifier, world):
    trained, curve = fitted(classifier, world, num_steps=30, checks=6, lr=0.3, frozen=True)
    logits = finetune.predict(trained, world.validation.signals, world.to_batch, 10, 5)
    assert float(multilabel.macro_auc(logits, world.validation.labels)) == pytest.approx(max(curve["auc"]))
    assert len(set(curve["auc"])) > 1


def test_heads_read_what_they_say():
    latents = torch.randn(4, 11, CFG.width)
    other = latents.clone()
    other[:, 1:] = 0
    register, attentive = finetune.RegisterHead(CFG.width, 9), finetune.AttentiveHead(CFG.width, 9, 2)
    torch.nn.init.normal_(attentive.out.weight)
    assert torch.equal(register(latents), register(other)) and not torch.allclose(attentive(latents), attentive(other))
    torch.testing.assert_close(attentive(latents), attentive(latents.flip(1)))


def test_a_crop_longer_than_the_record_is_refused(classifier, world):
    with pytest.raises(ValueError, match="does not fit in a record of 40"):
        fitted(classifier, world, crop=41)


# Hand-made features


@pytest.fixture(scope="module")
def planted():
    return ecg_simulator.simulate_planted(200, seed=9, prevalence={"bradycardia": 0.2, "tachycardia": 0.2})


def test_r_peaks_are_where_beats_were_planted(planted):
    records, truth = planted
    found = ecg_features.r_peaks(records.signals, records.rate)
    near, beats = 0, 0
    for is_peak, times in zip(found, truth.r_times):
        inside = times[(times > 0.3) & (times < 9.7)]
        beats += len(inside)
        near += int(((is_peak.nonzero() / records.rate - inside).abs().amin(dim=0) < 0.08).sum())
    assert near > 0.97 * beats


def test_rhythm_gives_the_planted_rate(planted):
    records, truth = planted
    rate = 60 / ecg_features.rhythm(records.signals, records.rate)[:, 1]
    assert float(((rate - truth.heart_rate).abs() < 5).float().mean()) > 0.95


def test_the_spectrum_finds_a_tone_in_its_band():
    tone = torch.sin(2 * torch.pi * 10 * torch.arange(1000) / 100).expand(2, 12, -1)
    bands = ecg_features.spectrum(tone, 100).reshape(2, 12, 6)
    assert bool((bands.argmax(dim=-1) == 3).all()) and ecg_features.BANDS_HZ[3] <= 10 < ecg_features.BANDS_HZ[4]


def test_the_average_beat_outlives_noise(planted):
    records, _ = planted
    clean = ecg_features.average_beat(records.signals, records.rate)
    noisy = ecg_features.average_beat(
        records.signals.float() + 0.1 * torch.randn(records.signals.shape, generator=torch.Generator().manual_seed(0)),
        records.rate,
    )
    assert float((clean - noisy).std() / clean.std()) < 0.35


def test_hand_made_sets_have_names_and_grow(planted):
    records, _ = planted
    sizes = [ecg_features.hand_made(records.signals[:20], records.rate, name).shape for name in ecg_features.SETS]
    assert sizes == [(20, 48), (20, 128), (20, 308)]
    with pytest.raises(ValueError, match="lead statistics, spectrum"):
        ecg_features.hand_made(records.signals[:20], records.rate, "magic")


def test_lead_statistics_of_a_flat_record_are_zero_and_finite():
    assert torch.equal(ecg_features.statistics(torch.zeros(1, 12, 100), 100), torch.zeros(1, 48))
    assert all(
        torch.isfinite(ecg_features.hand_made(torch.zeros(2, 12, 1000), 100, name)).all() for name in ecg_features.SETS
    )
