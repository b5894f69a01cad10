"""What is minimised: duplicates never compete with themselves, gradients go where they should, collapse collapses."""

from dataclasses import replace

import pytest
import torch
from reversal_small import rng, small_facts, small_jepa
from torch.nn import functional as F

from jepa_lab import experiment
from jepa_lab.papers.reversal_curse import objectives, paper
from jepa_lab.papers.reversal_curse.arms import fact_arm, facts_of
from jepa_lab.papers.reversal_curse.objectives import concept_objective

CFG = paper.preset("smoke")


def test_masking_repeated_candidates_equals_listing_each_entity_once():
    facts = small_facts()
    model = small_jepa(facts)
    batch = facts.train[torch.randint(len(facts.train), (24,), generator=rng())]
    entities = batch[:, [0, 2]].unique()
    concepts, signs = model.concepts(torch.arange(facts.num_entities)), model.sign_concepts()
    logits = model.answer(concepts[batch[:, 0]], signs, batch[:, 1]) @ torch.cat([concepts[entities], signs]).T
    expected = F.cross_entropy(logits, torch.searchsorted(entities, batch[:, 2].contiguous()))
    torch.testing.assert_close(concept_objective(model, batch), expected)
    assert bool(concept_objective(model, batch, distance=objectives.contrast_with_duplicates) > expected)


def test_duplicates_compete_among_four_candidates_per_fact():
    facts = small_facts()
    model, batch = small_jepa(facts), facts.train[torch.tensor([0, 0, 1])]
    signs = model.sign_concepts()
    z = model.answer(model.concepts(batch[:, 0]), signs, batch[:, 1])
    entities = torch.cat([model.concepts(batch[:, 2]), model.concepts(batch[:, 0])])
    candidates = torch.cat([entities, signs[batch[:, 1]], signs[-1:].expand(3, -1)])
    found = concept_objective(model, batch, distance=objectives.contrast_with_duplicates)
    torch.testing.assert_close(found, F.cross_entropy(z @ candidates.T, torch.arange(3)))


def test_stop_gradient_keeps_gradients_out_of_the_target_side_only():
    facts = small_facts()
    model = small_jepa(facts, target=True)
    concept_objective(model, facts.train[:16], stop_gradient=True).backward()
    assert all(p.grad is None for p in model.target.parameters())
    assert any(float(p.grad.abs().sum()) > 0 for p in model.entities.parameters())
    concept_objective(model, facts.train[:16]).backward()
    assert any(p.grad is not None for p in model.target.parameters())


def test_squared_distance_compares_directions_alone(monkeypatch):
    facts = small_facts()
    model, batch = small_jepa(facts), facts.train[:8]
    loss = concept_objective(model, batch, distance=objectives.squared_distance)
    answer = model.answer
    monkeypatch.setattr(model, "answer", lambda *x: 3 * answer(*x))
    torch.testing.assert_close(concept_objective(model, batch, distance=objectives.squared_distance), loss)


def test_squared_distance_collapses_and_the_contrast_does_not():
    cfg = replace(CFG, num_steps=150, lr=1e-2, weight_decay=(0.1, 0.1), log_every=150)
    facts, last = facts_of(cfg, 0), {}
    for name in ("JEPA", "JEPA, squared distance"):
        last[name] = experiment.train_arm(cfg, fact_arm(cfg, name, facts), 0, progress=False).history
    assert last["JEPA, squared distance"]["rankme"][-1] < 1.5 < 2.5 < last["JEPA"]["rankme"][-1]
    assert last["JEPA, squared distance"]["cosine_to_mean"][-1] > 0.999 > 0.95 > last["JEPA"]["cosine_to_mean"][-1]


def test_the_language_loss_is_off_by_default_and_teaches_to_spell_the_predicted_concept():
    cfg = replace(CFG, language_weight=1.0, num_steps=40, lr=1e-2, weight_decay=(0.1, 0.1), log_every=40)
    facts = facts_of(cfg, 0)
    plain = experiment.fresh_model(CFG, fact_arm(CFG, "JEPA", facts), 0)
    arm = fact_arm(cfg, "JEPA", facts)
    model = experiment.fresh_model(cfg, arm, 0)
    assert plain.spell is None
    added = concept_objective(model, facts.train) - concept_objective(plain, facts.train)
    before = spelled(model, facts)
    assert float(added.detach()) == pytest.approx(before, rel=1e-4)
    trained = experiment.train_arm(cfg, arm, 0, progress=False).model
    assert spelled(trained, facts) < 0.9 * before


@torch.no_grad()
def spelled(model, facts):
    z = model.answer(model.concepts(facts.train[:, 0]), model.sign_concepts(), facts.train[:, 1])
    return float(objectives.language_loss(model, z, facts.train[:, 2]))


def test_every_arm_has_nearly_its_float32_loss_in_bf16():
    for name, arm in paper.arms(CFG, facts_of(CFG, 0)).items():
        model = experiment.fresh_model(replace(CFG, **arm.changes), arm, 0)
        batch = arm.task.load(torch.arange(CFG.batch_size), None)
        full = float(arm.objective(model, batch, None).detach())
        with torch.autocast("cpu", torch.bfloat16):
            half = float(arm.objective(model, batch, None).detach())
        assert half == pytest.approx(full, rel=0.02), name
