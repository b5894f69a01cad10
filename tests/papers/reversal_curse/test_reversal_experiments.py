"""Arms and experiments of chapter 11: every claim is measured, and the curse can be told from its cure."""

from dataclasses import replace

import pytest
import torch
from reversal_small import rng

from jepa_lab import configs, diagnostics, experiment, records
from jepa_lab.data.facts import generated, real
from jepa_lab.papers.reversal_curse import chains, experiments, long, paper, scores
from jepa_lab.papers.reversal_curse.arms import ceiling, fact_arm, facts_of, footprint, one_token_each, train_variant
from jepa_lab.papers.reversal_curse.variants import VARIANTS

CFG = paper.preset("smoke")


@pytest.fixture(scope="module")
def measured():
    """Every experiment of the page at preset smoke."""
    return {run.__name__: run(CFG, 0) for run in experiments.EXPERIMENTS}


def test_no_two_arms_end_at_the_same_weights():
    arms, ends = paper.arms(CFG, facts_of(CFG, 0)), set()
    for arm in arms.values():
        short = replace(arm, changes={**arm.changes, "num_steps": 2, "log_every": 2}, measure=None)
        model = experiment.train_arm(CFG, short, 0, progress=False).model
        ends.add(tuple(next(model.parameters()).flatten()[:200].tolist()))
    assert len(ends) == len(arms) == len(VARIANTS)


def test_the_concept_level_has_the_same_facts_with_one_token_for_every_entity():
    facts = facts_of(CFG, 0)
    direct = generated.generate(CFG.num_taught, CFG.num_tested, CFG.num_pairs, None, rng())
    derived = one_token_each(facts)
    assert torch.equal(derived.train, facts.train) and torch.equal(derived.names, direct.names)
    assert torch.equal(derived.train, direct.train) and derived.vocabulary == direct.vocabulary


def test_every_claim_is_measured_once_and_no_other(measured):
    found = [claim for outcome in measured.values() for claim in outcome.claims]
    assert sorted(found) == sorted(claim.id for claim in paper.CLAIMS)


def test_long_experiments_measure_their_claims_and_store_their_records(tmp_path, monkeypatch):
    monkeypatch.setattr(long, "preset", lambda name: CFG)
    for name, claims in paper.LONG_CLAIMS.items():
        path = long.long_study(name, 3, tmp_path)
        found = records.load(paper.CHAPTER, "long", tmp_path, config=paper.long_config(name))
        assert path.name.startswith("long-seed3-")
        assert [set(record["claims"]) for record in found] == [{claim.id for claim in claims}]


def test_an_unknown_long_experiment_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="no long experiment 'x'; there are: patience"):
        long.long_study("x", 0)


def test_committed_records_belong_to_todays_presets():
    assert len(records.load(paper.CHAPTER, "laptop", config=paper.preset("laptop"))) == 5
    for name in long.LONG:
        assert len(records.load(paper.CHAPTER, "long", config=paper.long_config(name))) == 3, name


def test_scores_sizes_and_ceilings_land_in_the_record(measured, tmp_path):
    record = records.start(paper.CHAPTER, preset="smoke", seed=0, config=CFG, claims=paper.CLAIMS, out=tmp_path)
    for outcome in measured.values():
        outcome.put(record)
    record.save()
    values = records.load(root=tmp_path)[0]["values"]
    for name in (*experiments.NAMES, *experiments.CONCEPTS):
        fields = ("test accuracy", "test mrr", "test over_partner", "test closed", "weights")
        assert {f"{name}: {field}" for field in fields} <= set(values)
    controls = {"JEPA, untrained: test mrr", "AR, untrained: test closed", "branching 2, order-blind reader: inner"}
    assert controls | {"AR: cosine of sharing names, layer 2"} <= set(values)
    assert values["blind accuracy"] == pytest.approx(1 / 3) and values["blind mrr"] == pytest.approx(11 / 18)
    assert values["JEPA + memory: rankme"] > 1 and "AR: rankme" not in values


def test_the_history_of_a_jepa_ends_with_the_collapse_panel_of_its_concepts(measured):
    jepa = measured["names_duel"].data["trained"]["JEPA"]
    panel = diagnostics.panel(scores.all_concepts(jepa.model))
    assert jepa.history["rankme"][-1] == pytest.approx(panel["rankme"], rel=1e-6)
    assert len(jepa.history["test accuracy"]) == len(jepa.history["step"]) == 2


def test_a_memory_makes_the_model_smaller_or_leaves_it_equal():
    cfg = paper.preset("laptop")
    arms = paper.arms(cfg, facts_of(cfg, 0))
    size = {name: footprint(cfg, arm)["parameters"] for name, arm in arms.items()}
    assert size["JEPA + memory"] < size["JEPA"] == size["AR"]
    assert abs(size["JEPA + memory, equal weights"] / size["JEPA"] - 1) < 0.02


def test_with_a_small_budget_jepa_reverses_what_the_autoregressive_model_only_remembers():
    changes = {"num_steps": 250, "batch_size": 128, "log_every": 250, "width": 24, "heads": 6}
    cfg = paper.preset("laptop", num_taught=80, num_tested=48, num_pairs=2, **changes)
    facts = facts_of(cfg, 100)
    ar, jepa = (train_variant(cfg, name, facts, 100, progress=False) for name in ("AR", "JEPA + memory"))
    assert jepa.reversed.accuracy > ar.reversed.accuracy + 0.15
    assert ar.reversed.accuracy < 0.05
    assert min(ar.atomic.accuracy, jepa.atomic.accuracy) > 0.5


def test_the_paper_preset_has_the_published_facts_size_and_rate():
    cfg = paper.preset("paper")
    facts = facts_of(cfg, 0)
    assert len(facts.train) == 390_000 and len(facts.reversed) == 90_000
    assert facts.vocabulary == 2 + 12 + 16_000 and one_token_each(facts).vocabulary == 80_014
    assert {cfg.lr_at(step) for step in (1999, 2_000_000, 2_999_999)} == {1e-4}  # constant after the warm-up
    block = 12 * 768**2 + 13 * 768
    size = {name: footprint(cfg, fact_arm(cfg, name, facts)) for name in ("JEPA", "AR", "JEPA + memory")}
    assert size["JEPA"]["parameters"] == 16_014 * 768 + 2 * block
    assert size["AR"]["parameters"] == size["JEPA"]["parameters"] + 2 * 768
    assert size["JEPA + memory"]["parameters"] == (80_000 + 14) * 768 + block + 2 * 768
    assert 0.05 < size["JEPA + memory"]["tflop_per_step"] < size["JEPA"]["tflop_per_step"] < 0.7


def test_the_reference_run_resumes_refuses_to_overwrite_and_does_not_cut_batches(tmp_path):
    found = paper.train_reference(CFG, tmp_path)
    assert set(found) == {"reversed", "trained", "group A", "relation-blind ceiling"}
    assert all(score.low <= score.value <= score.high for score in found.values())
    with pytest.raises(ValueError, match="--resume"):
        paper.train_reference(CFG, tmp_path)
    assert paper.train_reference(CFG, tmp_path, resume=True) == found
    with pytest.raises(ValueError, match="cannot be cut"):
        paper.train_reference(CFG, tmp_path, resume=True, micro_batches=2)


def test_an_unknown_arm_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="no arm 'GPT'; there are: JEPA; AR"):
        paper.preset("smoke", arm="GPT")


@pytest.mark.parametrize("pairs", [1, 7])
def test_numbers_of_relation_pairs_that_cannot_be_judged_or_named_are_refused_before_anything_trains(pairs):
    with pytest.raises(ValueError, match=f"num_pairs = {pairs}: choose 2 to 6"):
        paper.preset("smoke", num_pairs=pairs)


def test_sums_are_learned_by_every_kind_of_model():
    sums = chains.sums_of(CFG, 2, 0)
    cfg = replace(CFG, chain_steps=100, lr=1e-2, weight_decay=(0.1, 0.1))
    for name in experiments.CHAINED:
        shares = chains.chain(cfg, name, sums, 0)
        assert set(shares) == {"answers", "inner", "taught"}
        assert shares["taught"] > 0.4, name  # chance 1 / 7


@pytest.mark.parametrize("name", ["AR", "JEPA"])
@pytest.mark.parametrize("source", ["countries", "typed"])
def test_real_and_typed_facts_train_every_kind_of_model(name, source):
    facts = real.countries(rng()) if source == "countries" else typed()
    cfg = replace(CFG, num_steps=2, batch_size=2, log_every=2)
    trained = train_variant(cfg, name, facts, 0, num_questions=20, progress=False)
    assert 0 <= trained.reversed.accuracy <= 1
    assert trained.history["bad_steps"] == [0]


def typed():
    return real.typed("A B | knows | C\n? D C | knows | B", "knows | is known by")


def test_the_ceiling_of_typed_facts_counts_only_known_partners():
    assert ceiling(typed()).accuracy == 1.0


def test_long_configs_differ_by_experiment_alone_or_by_size():
    hashes = {configs.config_hash(paper.long_config(name)) for name in long.LONG}
    assert len(hashes) == len(long.LONG)
