"""Chapter 02: the arms are what they are named, and what should collapse does."""

from dataclasses import replace

import pytest
import torch
from images_case import digits

from jepa_lab import diagnostics, experiment, image_world, losses
from jepa_lab.objectives import jepa_objective, predict
from jepa_lab.papers.predictors import costs, models, paper
from jepa_lab.papers.predictors.objectives import contrast

CFG = paper.preset("smoke")


@pytest.fixture(scope="module")
def data():
    return digits()


@pytest.fixture(scope="module")
def arms(data):
    return paper.arms(CFG, data)


@pytest.fixture(scope="module")
def batch(arms, data):
    """A fresh I-JEPA, eight images and their masks."""
    masks = arms["I-JEPA"].task.draw(torch.arange(8), torch.Generator().manual_seed(0))
    return experiment.fresh_model(CFG, arms["I-JEPA"], 0), data.to_batch(data.patches[:8]), masks


def test_an_arm_is_trained_and_its_cost_measured(arms):
    state, seconds = costs.train_timed(replace(CFG, num_steps=3), arms["L1"], 0, progress=False)
    assert state.step == 3 and state.bad_steps == 0 and seconds > 0


def test_without_a_transformer_the_predictor_is_linear_and_knows_position_and_context(batch):
    model, patches, masks = batch
    predictor = models.linear_predictor(CFG, masks.grid)
    first = model.encoder(patches, masks.context_idx)
    second = torch.randn(8, masks.context_idx.shape[1], CFG.width)
    zero = predictor(torch.zeros_like(first), masks)
    added = predictor(first, masks) + predictor(second, masks) - 2 * zero
    torch.testing.assert_close(predictor(first + second, masks) - zero, added, atol=1e-4, rtol=1e-4)
    assert (predictor(first, masks) - zero).abs().max() > 0.01  # context
    assert zero.flatten(0, 2).std(dim=0).max() > 0.01  # position


def test_without_a_predictor_every_hidden_token_is_the_mean_context_latent(batch):
    model, patches, masks = batch
    context = model.encoder(patches, masks.context_idx)
    pred = models.no_predictor(CFG, masks.grid)(context, masks)
    assert pred.shape == (*masks.target_idx.shape, CFG.width)
    torch.testing.assert_close(pred, context.mean(1)[:, None, None].expand_as(pred))


def test_the_gradient_reaches_the_targets_only_where_it_should(batch, arms):
    _, patches, masks = batch
    for name, arm in arms.items():
        model, lengths = experiment.fresh_model(replace(CFG, **arm.changes), arm, 0), []
        model.encoder.register_forward_hook(lambda module, inputs, out, lengths=lengths: lengths.append(out.shape[1]))
        arm.objective(model, patches, masks).backward()
        assert all(p.grad is None for p in model.target_encoder.parameters()), name
        sees_everything = masks.grid[0] * masks.grid[1] in lengths  # the trained encoder made the targets
        assert sees_everything == (name in ("no stop-gradient", "SIGReg", "VICReg")), name


def test_raw_targets_equal_normalised_ones_while_the_encoders_last_norm_is_fresh(batch, arms):
    torch.testing.assert_close(arms["raw targets"].objective(*batch), jepa_objective(*batch), atol=1e-5, rtol=1e-4)


def test_losses_of_the_arms_are_those_they_name(batch, arms):
    model, patches, masks = batch
    with torch.no_grad():
        target = losses.gather_blocks(losses.normalise(model.target_encoder(patches)), masks.target_idx)
        pred = predict(model, patches, masks)
        expected = {
            "L1": (pred - target).abs().mean(),
            "cosine": 1 - torch.cosine_similarity(pred, target, dim=-1).mean(),
            "InfoNCE": contrast(pred, target),
        }
        for name, loss in expected.items():
            torch.testing.assert_close(arms[name].objective(*batch), loss)


def test_the_contrast_prefers_the_right_image():
    target = torch.randn(8, 2, 4, 16, generator=torch.Generator().manual_seed(0))
    assert contrast(target, target) < 0.01 < contrast(target.roll(1, dims=0), target)


def test_the_regularisers_make_a_constant_encoder_expensive():
    normal = torch.randn(256, CFG.width, generator=torch.Generator().manual_seed(0))
    for term in (paper.sigreg(CFG), paper.vicreg(CFG)):
        assert term(torch.ones_like(normal)) > 5 * term(normal)


def test_collapse_is_seen_where_it_is_built_in_and_nowhere_else(data):
    cfg = replace(CFG, num_steps=60, log_every=20)
    arms = paper.arms(cfg, data)
    for name in ("I-JEPA", "no stop-gradient", "SIGReg", "VICReg"):
        history = experiment.train_arm(cfg, arms[name], 0, progress=False).history
        assert (diagnostics.first_alarm(history) is not None) == (name == "no stop-gradient"), name


def test_more_predictor_costs_more(data):
    cfg = paper.preset("laptop")
    mflop = {name: costs.step_mflop(cfg, arm) for name, arm in paper.arms(cfg, data).items()}
    order = ("no predictor", "linear predictor", "predictor width 16", "I-JEPA", "predictor depth 4")
    assert [mflop[name] for name in order] == sorted(mflop[name] for name in order)
    assert len({mflop[name] for name in order}) == len(order)
    assert mflop["I-JEPA"] < mflop["predictor width 128"]


def test_the_race_is_a_preset_whose_arm_hides_everything_but_the_context(tmp_path, monkeypatch):
    cfg = paper.preset("race", num_steps=2, batch_size=8)
    seven = digits(patch=4)
    masks = paper.race_arm(cfg, seven).task.draw(torch.arange(8), torch.Generator().manual_seed(0))
    assert masks.context_idx.shape == (8, 24) and masks.target_idx.shape == (8, 1, 25)
    monkeypatch.setattr(image_world, "load", lambda cfg, device: seven)
    assert set(paper.train_reference(cfg, tmp_path, progress=False)) == {"linear", "knn", "few_label"}
    assert (tmp_path / "checkpoint.pt").is_file()
