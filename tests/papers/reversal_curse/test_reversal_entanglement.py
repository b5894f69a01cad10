"""The alpha . beta diagnostic: what moves when one entity is taught, and where names that look alike part."""

import pytest
import torch
from reversal_small import small_ar, small_facts, small_jepa

from jepa_lab.papers.reversal_curse import entanglement, paper
from jepa_lab.papers.reversal_curse.arms import fact_arm

CFG = paper.preset("smoke")


def test_contamination_is_zero_for_a_memory_and_not_for_a_shared_module():
    facts = small_facts()
    everyone, some = torch.arange(facts.num_entities), facts.train[:4]
    memory = entanglement.measure(small_jepa(facts, memory=True), some, everyone, centred=False)
    assert memory.mean() == (0.0, 0.0)
    shared = entanglement.measure(small_jepa(facts), some, everyone)
    assert shared.contamination.nan_to_num(0).abs().max() > 0.01
    assert bool((shared.overlap.isnan() == (some[:, :1] == everyone)).all())


def test_with_only_the_last_projection_learning_contamination_equals_the_overlap(monkeypatch):
    facts = small_facts()
    model = small_jepa(facts)
    last = [p for name, p in model.entities.named_parameters() if name.endswith("down.weight")]
    monkeypatch.setattr(model.entities, "parameters", lambda: last)
    everyone = torch.arange(facts.num_entities)
    plain, centred = (
        entanglement.measure(model, facts.train[:4], everyone, step=1e-2, centred=c) for c in (False, True)
    )
    torch.testing.assert_close(plain.overlap, plain.contamination, equal_nan=True, atol=2e-3, rtol=2e-2)
    assert torch.equal(plain.overlap.nan_to_num(), centred.overlap.nan_to_num())
    assert centred.correlation() == pytest.approx(1, abs=1e-3)


def test_measuring_entanglement_leaves_the_model_as_it_was():
    facts = small_facts()
    model = small_jepa(facts)
    before = [p.clone() for p in model.parameters()]
    entanglement.measure_some(model, facts, num_taught=2, num_others=5)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_entities_to_measure_are_the_same_at_every_call():
    facts = small_facts()
    model = small_jepa(facts)
    first, second = (entanglement.measure_some(model, facts, num_taught=2) for _ in range(2))
    assert first.overlap.shape == (2, 32)
    torch.testing.assert_close(first.contamination, second.contamination, equal_nan=True, rtol=0, atol=0)


def test_one_vector_for_both_roles_is_consistent_and_two_are_not():
    facts = small_facts()
    tied, untied = (fact_arm(CFG, name, facts).build(CFG) for name in ("AR, concepts", "AR, concepts, untied"))
    assert entanglement.consistency(tied) == pytest.approx(1)
    assert abs(entanglement.consistency(untied)) < 0.3
    assert entanglement.consistency(small_jepa(facts)) == pytest.approx(1)
    assert entanglement.consistency(small_jepa(facts, target=True)) < 0.9
    with pytest.raises(ValueError, match="every name is one token"):
        entanglement.consistency(small_ar(facts))


def test_cosines_by_layer_part_names_that_share_a_token_from_those_that_do_not():
    rows = entanglement.by_layer(small_jepa(small_facts(), recognition=2, semantic=2))
    assert list(rows) == ["recognition 1", "recognition 2", "semantic 1", "semantic 2"]
    assert rows["recognition 1"][0] > rows["recognition 1"][1]


def test_names_in_a_memory_share_nothing():
    rows = entanglement.by_layer(small_jepa(small_facts(), memory=True))
    assert list(rows) == ["memory", "semantic 1"]
    assert rows["memory"] == (0.0, 0.0)


def test_the_layers_of_an_autoregressive_model_are_compared_too():
    model = small_ar(small_facts())
    with torch.no_grad():
        model.tokens.weight.mul_(50)
    rows = entanglement.by_layer(model)
    assert list(rows) == ["layer 1", "layer 2"]
    assert rows["layer 1"][0] > 0.1


def test_of_many_entities_the_first_are_compared():
    model = small_jepa(small_facts())
    some = entanglement.by_layer(model, most=20)
    assert some != entanglement.by_layer(model) == entanglement.by_layer(model, most=10**6)


def test_sharing_a_token_is_mutual_and_every_name_shares_with_itself():
    names = small_facts().names
    shared = entanglement.sharing(names, names)
    assert torch.equal(shared, shared.T)
    assert bool(shared.diagonal().all()) and not bool(shared.all())
