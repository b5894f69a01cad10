"""Pre-training in chapter 07: the paper's sizes, what each arm hides and predicts, checkpoints, snapshots, collapse."""

from dataclasses import replace

import pytest
import torch

from jepa_lab import diagnostics, experiment
from jepa_lab.masks import Masks
from jepa_lab.papers.ecg_jepa import models, paper, scores, world


def every_arm(cfg, data):
    return {**paper.arms(cfg, data), **paper.switches(cfg, data)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The paper's sizes


@pytest.mark.parametrize(
    "name, changes, millions",
    [("gpu", {}, 3.60), ("paper", {}, 14.28), ("paper", {"width": 768, "depth": 12, "heads": 12}, 85.19)],
)
def test_without_our_biases_the_encoder_has_as_many_weights_as_the_papers(name, changes, millions):
    cfg = paper.preset(name, **changes)
    assert cfg.num_tokens == 200
    assert cfg.patch / cfg.rate == 0.05
    with torch.device("meta"):
        encoder = models.new_encoder(cfg, (cfg.num_tokens,))
    biases = sum(p.numel() for name, p in encoder.named_parameters() if name.endswith("bias"))
    assert round((sum(p.numel() for p in encoder.parameters()) - biases) / 1e6, 2) == millions
    # a block has nine in its linear maps and two in its norms; the embedding and the last norm have one each
    assert biases == (11 * cfg.depth + 2) * cfg.width


def test_the_paper_preset_takes_a_step_on_the_meta_device():
    cfg = paper.preset("paper")
    seen = paper.time_blocks(cfg, (cfg.num_tokens,))(4, generator())
    assert seen.context_idx.shape == (4, 40)
    assert seen.target_idx.shape == (4, 1, 160)
    with torch.device("meta"):
        model = models.masked_jepa(cfg, (cfg.num_tokens,))
        seen = Masks(seen.context_idx.to("meta"), seen.target_idx.to("meta"), seen.grid)
        loss = paper.ecg_jepa_objective(model, torch.empty(4, 200, 300), seen)
    loss.backward()
    assert loss.shape == ()
    assert all(p.grad is None for p in model.target_encoder.parameters())


# Masks


def test_context_and_target_partition_the_record(cfg, data):
    for name, arm in every_arm(cfg, data).items():
        if name != "SimCLR":
            seen = arm.task.draw(torch.arange(16), generator())
            both = torch.cat([seen.context_idx, seen.target_idx.flatten(1)], dim=1).sort(dim=1).values
            assert torch.equal(both, torch.arange(40).expand(16, -1)), name


def test_the_switches_hide_what_they_are_named_for(cfg, data):
    arms = {"reference": paper.arms(cfg, data)[paper.REFERENCE], **paper.switches(cfg, data)}
    hidden, stretches = {}, {}
    for name, arm in arms.items():
        target_idx = arm.task.draw(torch.arange(64), generator()).target_idx[:, 0]
        hidden[name] = target_idx.shape[1] / 40
        covered = torch.zeros(64, 41).scatter(1, target_idx + 1, 1.0)
        stretches[name] = float((covered.diff(dim=1) == 1).sum() / 64)
    others = {"50% hidden": 0.5, "90% hidden": 0.9}
    assert hidden == {name: others.get(name, 0.8) for name in arms}
    few, reference = stretches["1 stretch"], stretches["reference"]
    assert few == 1 < reference <= 4
    assert reference < stretches["6 stretches"] < stretches["scattered tokens"]


# Objectives


@pytest.fixture
def batch(model, cfg, data):
    """A fresh model, eight records as tokens and their masks."""
    return model, data.to_batch(data.train.signals[:8]), paper.time_blocks(cfg, data.grid)(8, generator())


def test_the_loss_is_the_mean_absolute_distance_to_the_target_encoders_latents(batch):
    model, patches, seen = batch
    with torch.no_grad():
        pred = model.predictor(model.encoder(patches, seen.context_idx), seen)[:, 0]
        target = torch.stack([model.target_encoder(patches)[b, seen.target_idx[b, 0]] for b in range(8)])
        torch.testing.assert_close(paper.ecg_jepa_objective(*batch), (pred - target).abs().mean())


def test_the_masked_auto_encoder_is_asked_for_the_hidden_signal(batch, cfg, data):
    arm = paper.arms(cfg, data)["masked auto-encoder"]
    model = experiment.fresh_model(cfg, arm, 0)
    _, patches, seen = batch
    with torch.no_grad():
        model.predictor.out.weight.zero_()
        model.predictor.out.bias.zero_()
        loss = arm.objective(model, patches, seen)
    hidden = torch.stack([patches[b, seen.target_idx[b, 0]] for b in range(8)])
    torch.testing.assert_close(loss, hidden.square().mean())


# Training


def test_every_arm_ends_elsewhere_from_the_same_encoder(cfg, data):
    cfg = replace(cfg, num_steps=2, log_every=2)
    starts, ends = set(), set()
    arms = every_arm(cfg, data)
    for name, arm in arms.items():
        starts.add(weights(experiment.fresh_model(cfg, arm, 0).encoder))
        state = experiment.train_arm(cfg, arm, 0, progress=False)
        assert state.step == 2, name
        assert state.bad_steps == 0, name
        ends.add(weights(state.model.encoder))
    assert len(starts) == 1
    assert len(ends) == len(arms)


def weights(module: torch.nn.Module) -> tuple[float, ...]:
    return tuple(torch.cat([p.detach().flatten()[:50] for p in module.parameters()]).tolist())


def test_a_checkpoint_of_another_arm_is_refused(cfg, data, tmp_path):
    """These two arms share config, model and objective; they hide another share of the record."""
    cfg, path = replace(cfg, num_steps=2), tmp_path / "checkpoint.pt"
    switches = paper.switches(cfg, data)
    experiment.train_arm(cfg, switches["50% hidden"], 0, checkpoint=path, save_every=1, progress=False)
    with pytest.raises(ValueError, match=r"other settings \(arm, task\)"):
        experiment.train_arm(cfg, switches["90% hidden"], 0, checkpoint=path, progress=False)


def test_snapshots_are_the_encoders_of_their_steps(cfg, data):
    cfg = replace(cfg, num_steps=6, ema_memory=0.5)
    arm, snapshots = paper.arms(cfg, data)[paper.REFERENCE], paper.Snapshots()
    at = dict.fromkeys((0, 4), snapshots.keep)
    state = experiment.train_arm(cfg, arm, 0, at=at, progress=False)
    four = experiment.start_arm(cfg, arm, 0)[0]
    assert weights(snapshots.encoders[0]) == weights(four.model.target_encoder)
    assert weights(snapshots.encoders[4]) not in (
        weights(four.model.target_encoder),
        weights(state.model.target_encoder),
    )
    without = experiment.train_arm(cfg, arm, 0, progress=False)
    assert weights(state.model) == weights(without.model)


def test_snapshots_lie_before_the_end_at_logged_steps_and_the_lowest_loss_is_found():
    cfg = paper.preset("laptop")
    steps = paper.snapshot_steps(cfg)
    assert len(steps) == cfg.num_snapshots - 1
    assert 0 < steps[0] < steps[-1] < cfg.num_steps
    assert all(step % cfg.log_every == 0 for step in steps)
    assert paper.lowest({"step": [100, 200, 300], "loss": [3.0, 1.0, 2.0]}) == 200


def test_the_probed_copy_is_as_fresh_as_the_encoder_in_short_runs():
    """It remembers a twentieth of the run throughout, and less than a thousandth of its random start at the end."""
    cfg = paper.preset("laptop")
    decays = {cfg.ema_decay_at(step) for step in range(cfg.num_steps)}
    assert decays == {1 - 1 / (0.05 * cfg.num_steps)}
    assert decays.pop() ** cfg.num_steps < 1e-3
    published = paper.preset("paper")
    assert (published.ema_decay_at(0), published.ema_decay_at(published.num_steps)) == (0.998, 0.9995)


def test_both_encoders_of_a_run_have_a_name_and_the_probed_one_has_the_arms(model):
    assert paper.encoders("SimCLR", model) == {"SimCLR": model.target_encoder, "SimCLR, encoder": model.encoder}


def test_without_ema_and_stop_gradient_the_alarm_rings(cfg, data):
    cfg, alarm = replace(cfg, num_steps=60, log_every=60, lr=4e-3), {}
    arms = every_arm(cfg, data)
    for name in (paper.REFERENCE, "no EMA, no stop-gradient"):
        history = experiment.train_arm(cfg, arms[name], 0, progress=False).history
        alarm[name] = diagnostics.collapsed({metric: values[-1] for metric, values in history.items()})
    assert alarm[paper.REFERENCE] is None
    assert alarm["no EMA, no stop-gradient"] is not None


def test_a_hundred_and_fifty_steps_beat_random_initialisation():
    cfg = paper.preset("laptop", data="simulated", num_steps=150, log_every=150, lr=4e-3)
    data = world.load(replace(cfg, num_train=1000, num_validation=400, num_test=100))
    arm, everyone = paper.arms(cfg, data)[paper.REFERENCE], torch.arange(1000)
    trained = experiment.train_arm(cfg, arm, 100, progress=False, measure=None).model.target_encoder
    random = experiment.fresh_model(cfg, arm, 100).target_encoder
    gain = [scores.probe_encoder(data, encoder, everyone).validation for encoder in (trained, random)]
    assert gain[0] > gain[1] + 0.02


def test_training_the_reference_says_what_it_trains_on_scores_and_refuses_to_overwrite(
    cfg, data, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(world, "load", lambda cfg, device: data)
    cfg = replace(cfg, num_steps=2)
    score = paper.train_reference(cfg, tmp_path, progress=False)["macro-AUC"]
    printed = capsys.readouterr().out
    assert "simulated ECG, seed 5 (simulated)" in printed
    assert "left out: none" in printed
    assert 0.4 < score.low <= score.value <= score.high < 1
    with pytest.raises(ValueError, match="--resume"):
        paper.train_reference(cfg, tmp_path)
