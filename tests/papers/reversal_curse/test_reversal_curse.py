"""Chapter 11: the models compute what they say, duplicates never compete with themselves, and the curse can be told
from its cure.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jepa_lab import records, train
from jepa_lab.data.facts import generated as facts
from jepa_lab.data.facts import real as real_facts
from jepa_lab.papers.reversal_curse import arms as fact_arms
from jepa_lab.papers.reversal_curse import entanglement
from jepa_lab.papers.reversal_curse import models as binding
from jepa_lab.papers.reversal_curse import paper as rc
from jepa_lab.papers.reversal_curse import scores as recall


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def world(multiplicity=2, pairs=2):
    return facts.generate(20, 12, pairs, multiplicity, rng())


def blocks(depth, width=16):
    return nn.ModuleList(binding.Block(width, 4, 32) for _ in range(depth))


def jepa(world, rec=1, sem=1, target=False, memory=False):
    torch.manual_seed(0)
    make = lambda: binding.Recognition(world.vocabulary, 16, 4, 32, rec)
    entities = binding.Memory(world.names, world.vocabulary, 16) if memory else make()
    signs = binding.Recognition(world.vocabulary, 16, 4, 32, 0) if memory else entities
    model = binding.ConceptJEPA(
        world.names, entities, signs, world.num_relations, blocks(sem), make() if target else None
    )
    with torch.no_grad():  # a start of 0.02 leaves all answers nearly equal
        for p in model.parameters():
            p.mul_(10) if p.ndim > 1 else None
    return model


def test_reading_only_the_last_positions_changes_no_number():
    block, x = blocks(1)[0], torch.randn(3, 5, 16)
    for read in (1, 2, 5):
        torch.testing.assert_close(block(x, read=read), block(x)[:, -read:])


def test_attention_and_its_gradients_are_those_of_plain_products():
    block = blocks(1)[0]
    parts = [torch.randn(3, n, 16, dtype=torch.float64, requires_grad=True) for n in (2, 5, 5)]
    q, k, v = (x.unflatten(2, (4, 4)).transpose(1, 2) for x in parts)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()[3:]
    plain = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
    ours, weight = block.attend(*parts, None), torch.randn(3, 2, 16, dtype=torch.float64)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)  # the softmax is in float32
    for one, other in zip(
        torch.autograd.grad((ours * weight).sum(), parts), torch.autograd.grad((plain * weight).sum(), parts)
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_gradients_of_the_sums_are_right_in_double_precision():
    q, k, w, v = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 3, 4, 2), (5, 3, 4, 2), (2, 5, 3, 2), (5, 3, 4, 2))
    )
    assert torch.autograd.gradcheck(binding.Dot.apply, (q, k)) and torch.autograd.gradcheck(binding.Blend.apply, (w, v))


def test_attention_in_bf16_adds_up_in_float32():
    block = binding.Block(256, 4, 32)
    parts = [torch.randn(3, 5, 256).bfloat16() for _ in range(3)]
    exact = block.attend(*(x.float() for x in parts), None)
    assert torch.equal(block.attend(*parts, None), exact.bfloat16()), "nothing but the result is rounded"


def test_a_block_is_causal():
    block, x = blocks(1)[0], torch.randn(3, 5, 16)
    y = x.clone()
    y[:, 3:] += 1
    assert torch.equal(block(x)[:, :3], block(y)[:, :3]) and not torch.equal(block(x)[:, 3:], block(y)[:, 3:])


def test_padding_on_the_left_changes_no_concept_and_no_answer():
    model = binding.Recognition(30, 16, 4, 32, 2)
    names = torch.randint(5, 30, (6, 3), generator=rng())
    longer = F.pad(names, (2, 0), value=facts.PAD)
    torch.testing.assert_close(model(names), model(longer, padded=True))


def test_two_recognition_layers_equal_plain_blocks_read_at_the_last_token():
    model = binding.Recognition(30, 16, 4, 32, 2)
    names = torch.randint(5, 30, (6, 3), generator=rng())
    plain = model.blocks[1](model.blocks[0](model.tokens(names)))[:, -1]
    torch.testing.assert_close(model(names), plain)


def test_masking_repeated_candidates_equals_listing_each_entity_once():
    w = world()
    model = jepa(w)
    batch = w.train[torch.randint(len(w.train), (24,), generator=rng())]
    entities = batch[:, [0, 2]].unique()
    concepts, signs = model.concepts(torch.arange(w.num_entities)), model.sign_concepts()
    logits = model.answer(concepts[batch[:, 0]], signs, batch[:, 1]) @ torch.cat([concepts[entities], signs]).T
    expected = F.cross_entropy(logits, torch.searchsorted(entities, batch[:, 2].contiguous()))
    torch.testing.assert_close(binding.jepa_loss(model, batch), expected)
    assert bool(binding.jepa_loss(model, batch, mask_duplicates=False) > expected)


def test_stop_gradient_keeps_gradients_out_of_the_target_side_only():
    w = world()
    model = jepa(w, target=True)
    binding.jepa_loss(model, w.train[:16], stop_gradient=True).backward()
    assert all(p.grad is None for p in model.target.parameters())
    assert any(float(p.grad.abs().sum()) > 0 for p in model.entities.parameters())
    binding.jepa_loss(model, w.train[:16]).backward()
    assert any(p.grad is not None for p in model.target.parameters())


def test_a_name_always_retrieves_its_own_memory_and_collisions_are_refused():
    w = world()
    assert binding.Memory(w.names, w.vocabulary, 16)(torch.arange(4)).shape == (4, 16)
    with pytest.raises(ValueError, match="another name's row"):
        binding.Memory(torch.tensor([[5, 6], [6, 5]]), 10, 16)


def test_names_of_several_tokens_need_a_recognition_layer():
    with pytest.raises(ValueError, match="at least one recognition layer"):
        binding.Recognition(30, 16, 4, 32, 0)(torch.tensor([[5, 6]]))


def test_likelihood_of_a_name_is_the_product_over_its_tokens_and_greedy_spelling_is_exact_match():
    w = world()
    torch.manual_seed(0)
    model = binding.TokenAR(w.names, w.vocabulary, 16, w.num_relations, blocks(2))
    fact = w.train[:5]
    first = model.logits(fact)[:, 0].log_softmax(-1)
    second = model.logits(fact)[:, 1].log_softmax(-1)
    likelihood, exact = model.log_likelihood(fact)
    picked = first.gather(1, w.names[fact[:, 2], :1]) + second.gather(1, w.names[fact[:, 2], 1:])
    torch.testing.assert_close(likelihood, picked[:, 0])
    greedy = torch.stack([first.argmax(-1), second.argmax(-1)], 1)
    assert torch.equal(exact, (greedy == w.names[fact[:, 2]]).all(1))


def test_the_first_token_of_an_answer_is_predicted_without_seeing_it():
    w = world()
    model = binding.TokenAR(w.names, w.vocabulary, 16, w.num_relations, blocks(2))
    fact = w.train[:4]
    other = fact.clone()
    other[:, 2] = (other[:, 2] + 1) % w.num_entities
    torch.testing.assert_close(model.logits(fact)[:, 0], model.logits(other)[:, 0])


def test_names_of_different_lengths_are_spelled_with_a_full_stop():
    names = torch.tensor([[0, 8], [9, 8], [0, 9]])
    model = binding.TokenAR(names, 10, 16, 2, blocks(1))
    assert model.spelling.tolist() == [[8, 0, 0], [9, 8, 0], [9, 0, 0]]
    assert model.counted(model.spelling).tolist() == [[True, True, False], [True, True, True], [True, True, False]]


def test_the_blind_ceiling_is_what_a_model_that_only_knows_partners_scores():
    w = world(pairs=3)
    ceiling = recall.blind(w.partners(), w.reversed)
    assert ceiling.accuracy == pytest.approx(1 / 3) and ceiling.mrr == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    some = w.partners().clone()
    some[:, 1:] = -1
    assert recall.blind(some, w.reversed[w.reversed[:, 1] < 2]).accuracy == 1.0


@pytest.mark.parametrize("skill", ["knows", "blind", "ignorant"])
def test_scores_tell_knowing_the_relation_from_knowing_the_partners(monkeypatch, skill):
    model = jepa(world())
    w = facts.generate(400, 240, 3, None, rng())
    partners, asked = w.partners(), w.reversed
    noise = torch.rand(len(asked), w.num_entities, generator=rng(1))
    bonus = torch.zeros_like(noise)
    if skill != "ignorant":
        bonus.scatter_(1, partners[asked[:, 0]], 1.0)
    if skill == "knows":
        bonus.scatter_(1, asked[:, 2:], 2.0)
    monkeypatch.setattr(recall, "entity_scores", lambda *_: noise + bonus)
    score, ceiling = recall.recall(model, asked, partners), recall.blind(partners, asked)
    if skill == "knows":
        assert score == recall.Recall(1.0, 1.0, 1.0, 0.0, 1.0)
    if skill == "blind":
        assert score.accuracy == pytest.approx(ceiling.accuracy, abs=0.08) and score.mrr == pytest.approx(
            ceiling.mrr, abs=0.06
        )
        assert score.over_partner == pytest.approx(0.5, abs=0.06) and score.partner_on_top == pytest.approx(
            2 / 3, abs=0.08
        )
    if skill == "ignorant":
        assert score.accuracy < 0.02 and score.over_partner == pytest.approx(0.5, abs=0.08)


class Spelled(binding.TokenAR):
    """Says a chosen answer to every question, token by token, with a chosen score."""

    def __init__(self, names, vocabulary, answers, height=9.0):
        super().__init__(names, vocabulary, 16, 6, blocks(1))
        self.answers, self.height = answers, height

    def logits(self, facts_B3):
        said = self.spelling[[self.answers[s, r] for s, r in facts_B3[:, :2].tolist()]]
        return self.height * F.one_hot(said, self.head.shape[0]).float()


def test_exact_match_rivals_and_the_closed_choice_of_spelled_names():
    w = facts.generate(40, 24, 3, 2, rng())
    known = {(s, r): o for s, r, o in w.reversed.tolist()}
    other = {(s, r): next(p for p in w.partners()[s].tolist() if p != o) for (s, r), o in known.items()}
    right, rival, mute = (
        Spelled(w.names, w.vocabulary, answers, height)
        for answers, height in ((known, 9.0), (other, 9.0), (known, 0.0))
    )
    ask = lambda model: recall.recall(model, w.reversed, w.partners(), ranked=5)
    assert ask(right) == recall.Recall(1.0, 1.0, 1.0, 0.0, 1.0) and right.training
    score = ask(rival)
    assert (
        (score.accuracy, score.partner_on_top, score.closed) == (0.0, 1.0, 0.0)
        and score.over_partner < 0.7
        and score.mrr <= 0.5
    )
    assert ask(mute)._replace(over_partner=0) == recall.Recall(
        0.0, pytest.approx(1 / w.num_entities), 0, 0.0, 0.0
    )  # all names equal: no answer
    assert torch.tensor(recall.recall(right, w.reversed, w.partners())[1::3]).isnan().all()


def test_equal_scores_and_nan_are_no_answer():
    scores = torch.tensor([[1.0, 1.0, 1.0], [2.0, 1.0, 1.0], [torch.nan] * 3, [3.0, 1.0, 2.0]])
    assert recall.rank(scores, torch.tensor([1, 0, 0, 2])).tolist() == [3, 1, 3, 2]


def test_questions_are_drawn_from_all_relations(monkeypatch):
    asked = []
    monkeypatch.setattr(
        recall,
        "recall",
        lambda model, questions, partners, ranked=0: (asked.append(questions), recall.blind(partners, questions))[1],
    )
    fact_arms.train_arm(CFG, "JEPA", 0, probe=16, fit=False)
    assert [len(questions) for questions in asked] == [16] * 3 and all(
        len((questions[:, 1] // 2).unique()) == 3 for questions in asked
    )


def small(**changes):
    return train.Config(**(dict(num_steps=6, batch_size=8, lr=1e-2, weight_decay=(0.1, 0.1), log_every=2) | changes))


def test_training_resumed_from_a_checkpoint_is_bit_equal(tmp_path):
    w = world()
    whole = recall.fit(train.start(jepa(w), 0, "cpu"), small(), w.train, binding.jepa_loss, progress=False)
    path = tmp_path / "checkpoint.pt"
    half = train.start(jepa(w), 0, "cpu")
    with pytest.raises(KeyboardInterrupt):
        recall.fit(half, small(), w.train, interrupt_after(4), checkpoint=path, save_every=2, progress=False)
    again = recall.fit(
        train.start(jepa(w), 0, "cpu"), small(), w.train, interrupt_after(2), checkpoint=path, progress=False
    )
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters()))
    assert again.history == whole.history
    with pytest.raises(ValueError, match=r"other settings \(loss, lr\)"):
        recall.fit(
            train.start(jepa(w), 0, "cpu"), small(lr=1.0), w.train, binding.jepa_loss, checkpoint=path, progress=False
        )


def interrupt_after(steps):
    count = iter(range(steps))

    def loss(model, batch):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return binding.jepa_loss(model, batch)

    return loss


def test_a_bad_batch_moves_nothing_and_too_many_stop_the_run():
    w, run = world(), train.start(jepa(world()), 0, "cpu")
    before = [p.clone() for p in run.model.parameters()]
    bad = lambda model, batch: binding.jepa_loss(model, batch) * float("nan")
    recall.fit(run, small(num_steps=2, max_bad_steps=2), w.train, bad, progress=False)
    assert run.bad_steps == 2 and all(torch.equal(a, b) for a, b in zip(before, run.model.parameters()))
    with pytest.raises(RuntimeError, match="non-finite batches"):
        recall.fit(train.start(jepa(w), 0, "cpu"), small(max_bad_steps=1), w.train, bad, progress=False)


def test_contamination_is_zero_for_a_memory_and_follows_the_overlap_of_a_shared_module():
    w = world()
    everyone, some = torch.arange(w.num_entities), w.train[:4]
    memory = entanglement.measure(jepa(w, memory=True), some, everyone, centred=False)
    assert memory.mean() == (0.0, 0.0)
    shared = entanglement.measure(jepa(w), some, everyone)
    assert shared.contamination.nan_to_num(0).abs().max() > 0.01
    assert bool((shared.overlap.isnan() == (some[:, :1] == everyone)).all())


def test_with_only_the_last_projection_learning_contamination_equals_the_overlap():
    w, model = world(), jepa(world())
    for name, p in model.entities.named_parameters():
        p.requires_grad_(name.endswith("down.weight"))
    full = list(model.entities.parameters())
    model.entities.parameters = lambda: [p for p in full if p.requires_grad]
    plain, centred = (
        entanglement.measure(model, w.train[:4], torch.arange(w.num_entities), step=1e-2, centred=c)
        for c in (False, True)
    )
    torch.testing.assert_close(plain.overlap, plain.contamination, equal_nan=True, atol=2e-3, rtol=2e-2)
    assert torch.equal(
        plain.overlap.nan_to_num(), centred.overlap.nan_to_num()
    ) and centred.correlation() == pytest.approx(1, abs=1e-3)


def test_measuring_entanglement_leaves_the_model_as_it_was():
    w, model = world(), jepa(world())
    before = [p.clone() for p in model.parameters()]
    entanglement.measure(model, w.train[:2], torch.arange(5))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


# The paper


CFG = rc.preset("smoke")


def test_every_arm_takes_its_steps_and_differs_from_the_reference():
    ends = {}
    for name in fact_arms.ARMS:
        one = fact_arms.train_arm(CFG, name, 0)
        assert one.run.step == CFG.num_steps and one.run.bad_steps == 0, name
        assert len(one.history["test accuracy"]) == len(one.history["step"]) == 2
        ends[name] = tuple(next(one.run.model.parameters()).flatten()[:200].tolist())
    assert len(set(ends.values())) == len(ends)


def test_arms_of_one_seed_share_world_and_start():
    one, other = (
        fact_arms.start(CFG, fact_arms.ARMS[name], *world_parts(), 0).model for name in ("JEPA", "JEPA, stop-gradient")
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    surface, concept = fact_arms.world_of(CFG, 0), fact_arms.world_of(CFG, 0, concept_level=True)
    assert torch.equal(surface.train, concept.train) and concept.names.shape[1] == 1


def world_parts():
    w = fact_arms.world_of(CFG, 0)
    return w.names, w.vocabulary, w.num_relations


def test_every_claim_is_measured_once_and_no_other():
    measured = [id for experiment in rc.EXPERIMENTS for id in experiment(CFG, 0).claims]
    assert sorted(measured) == sorted(claim.id for claim in rc.CLAIMS)


def test_long_experiments_measure_their_claims_and_store_their_records(tmp_path, monkeypatch):
    monkeypatch.setattr(rc, "preset", lambda name: CFG)
    for name, claims in rc.LONG_CLAIMS.items():
        path = rc.long_study(name, 3, tmp_path)
        found = records.load(rc.CHAPTER, "long", tmp_path, config=rc.long_config(name))
        assert path.name.startswith("long-seed3-") and [set(r["claims"]) for r in found] == [
            {claim.id for claim in claims}
        ]
    with pytest.raises(ValueError, match="no long experiment 'x'; there are: patience"):
        rc.long_study("x", 0, tmp_path)


def test_an_outcome_lands_in_the_record(tmp_path, capsys):
    record = records.start(rc.CHAPTER, preset="smoke", seed=0, config=CFG, claims=rc.CLAIMS, out=tmp_path)
    for experiment in rc.EXPERIMENTS:
        experiment(CFG, 0).put(record)
    record.save()
    values = records.load(root=tmp_path)[0]["values"]
    trained = [
        name for name in fact_arms.ARMS if name in ("AR", "JEPA", "AR + memory", "JEPA + memory") or "concepts" in name
    ]
    assert all(
        f"{name}: {field}" in values
        for name in trained
        for field in ("test accuracy", "test mrr", "test over_partner", "test closed", "weights")
    )
    assert {
        "JEPA, untrained: test mrr",
        "AR, untrained: test closed",
        "AR: cosine of sharing names, layer 2",
        "branching 2, order-blind reader: inner",
    } <= set(values)
    assert values["blind accuracy"] == pytest.approx(1 / 3) and values["blind mrr"] == pytest.approx(11 / 18)
    assert "jepa-relation" in capsys.readouterr().out


def test_a_memory_with_its_model_is_smaller_than_the_recognition_it_replaces_or_of_equal_size():
    size = {name: fact_arms.footprint(rc.preset("laptop"), name)["parameters"] for name in fact_arms.ARMS}
    assert size["JEPA + memory"] < size["JEPA"] == size["AR"]
    assert abs(size["JEPA + memory, equal weights"] / size["JEPA"] - 1) < 0.02


def test_every_arm_steps_in_bf16_near_its_float32_loss():
    for name in fact_arms.ARMS:
        losses = [
            fact_arms.train_arm(replace(CFG, num_steps=1, concept_steps=1, precision=precision), name, 0, probe=4).run
            for precision in ("bf16", "float32")
        ]
        half, full = (run.history["loss"][-1] for run in losses)
        assert half == pytest.approx(full, rel=0.02) and losses[0].bad_steps == 0, name


def test_squared_distance_collapses_and_the_contrast_does_not():
    cfg = rc.preset("smoke", num_steps=150, lr=1e-2, weight_decay=(0.1, 0.1), log_every=150)
    last = {name: fact_arms.train_arm(cfg, name, 0).history for name in ("JEPA", "JEPA, squared distance")}
    assert last["JEPA, squared distance"]["rankme"][-1] < 1.5 < 2.5 < last["JEPA"]["rankme"][-1]
    assert last["JEPA, squared distance"]["cosine_to_mean"][-1] > 0.999 > 0.95 > last["JEPA"]["cosine_to_mean"][-1]


def test_squared_distance_compares_directions_alone():
    w = world()
    model, batch = jepa(w), w.train[:8]
    loss = binding.jepa_loss(model, batch, contrast=False)
    answer = model.answer
    model.answer = lambda *x: 3 * answer(*x)
    torch.testing.assert_close(binding.jepa_loss(model, batch, contrast=False), loss)


def test_duplicates_compete_among_four_candidates_per_fact():
    w = world()
    model, batch = jepa(w), w.train[torch.tensor([0, 0, 1])]
    z = model.answer(model.concepts(batch[:, 0]), model.sign_concepts(), batch[:, 1])
    signs = model.sign_concepts()
    candidates = torch.cat(
        [model.concepts(batch[:, 2]), model.concepts(batch[:, 0]), signs[batch[:, 1]], signs[-1:].expand(3, -1)]
    )
    torch.testing.assert_close(
        binding.jepa_loss(model, batch, mask_duplicates=False), F.cross_entropy(z @ candidates.T, torch.arange(3))
    )


def test_the_language_loss_is_off_by_default_and_teaches_to_spell_the_predicted_concept():
    w = fact_arms.world_of(CFG, 0)
    assert fact_arms.start(CFG, fact_arms.ARMS["JEPA"], *world_parts(), 0).model.spell is None
    run = fact_arms.start(replace(CFG, language_weight=1.0), fact_arms.ARMS["JEPA"], *world_parts(), 0)
    z = lambda: run.model.answer(run.model.concepts(w.train[:, 0]), run.model.sign_concepts(), w.train[:, 1])
    spelled = lambda: float(binding.language_loss(run.model, z(), w.train[:, 2]).detach())
    plain = float(
        binding.jepa_loss(fact_arms.start(CFG, fact_arms.ARMS["JEPA"], *world_parts(), 0).model, w.train).detach()
    )
    assert float(binding.jepa_loss(run.model, w.train).detach()) == pytest.approx(plain + spelled(), rel=1e-5)
    before = spelled()
    recall.fit(
        run, replace(CFG, num_steps=40, lr=1e-2, weight_decay=(0.1, 0.1)), w.train, binding.jepa_loss, progress=False
    )
    assert spelled() < 0.9 * before


def test_with_a_small_budget_jepa_reverses_what_the_autoregressive_model_only_remembers():
    cfg = rc.preset(
        "laptop",
        num_taught=80,
        num_tested=48,
        num_pairs=2,
        num_steps=250,
        batch_size=128,
        log_every=250,
        width=24,
        heads=6,
    )
    ar, one = (fact_arms.train_arm(cfg, name, 100) for name in ("AR", "JEPA + memory"))
    assert (
        one.reversed.accuracy > ar.reversed.accuracy + 0.15
        and ar.reversed.accuracy < 0.05
        and min(ar.atomic.accuracy, one.atomic.accuracy) > 0.5
    )


def test_the_paper_preset_has_the_published_size_and_batch(monkeypatch):
    cfg = rc.preset("paper")
    w = fact_arms.world_of(cfg, 0)
    assert fact_arms.world_of(cfg, 0, concept_level=True).vocabulary == 80_014
    monkeypatch.setattr(fact_arms, "world_of", lambda *_: w)
    assert len(w.train) == 390_000 and len(w.reversed) == 90_000 and w.vocabulary == 2 + 12 + 16_000
    assert [train.learning_rate(step, cfg) for step in (1999, 2_000_000, 2_999_999)] == [
        1e-4
    ] * 3  # constant after the warm-up
    block = 12 * 768**2 + 13 * 768
    size = {name: fact_arms.footprint(cfg, name) for name in ("JEPA", "AR", "JEPA + memory")}
    assert (
        size["JEPA"]["parameters"] == 16_014 * 768 + 2 * block
        and size["AR"]["parameters"] == size["JEPA"]["parameters"] + 2 * 768
    )
    assert size["JEPA + memory"]["parameters"] == (80_000 + 14) * 768 + block + 2 * 768
    assert (
        all(0.05 < row["tflop_per_step"] < 0.7 for row in size.values())
        and size["JEPA + memory"]["tflop_per_step"] < size["JEPA"]["tflop_per_step"]
    )


def test_headless_training_resumes_refuses_to_overwrite_and_does_not_cut_batches(tmp_path):
    scores = rc.headless(CFG, tmp_path)
    assert (
        set(scores) == {"reversed", "trained", "group A", "relation-blind ceiling"} and (tmp_path / "JEPA.pt").exists()
    )
    assert all(score.low <= score.value <= score.high for score in scores.values())
    with pytest.raises(ValueError, match="--resume"):
        rc.headless(CFG, tmp_path)
    assert rc.headless(CFG, tmp_path, resume=True) == scores
    with pytest.raises(ValueError, match="cannot be cut"):
        rc.headless(CFG, tmp_path, resume=True, micro_batches=2)


def test_an_unknown_arm_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="no arm 'GPT'; there are: AR; JEPA"):
        rc.preset("smoke", arm="GPT")


@pytest.mark.parametrize("pairs", [1, 7])
def test_numbers_of_relation_pairs_that_cannot_be_judged_or_named_are_refused_before_anything_trains(pairs):
    with pytest.raises(ValueError, match=f"num_pairs = {pairs}: .*no other partner.*words are there for 6"):
        rc.preset("smoke", num_pairs=pairs)


def test_presets_refuse_unknown_names():
    with pytest.raises(ValueError, match="unknown preset"):
        rc.preset("huge")
    with pytest.raises(ValueError, match="num_pears.*the fields are: .*num_pairs"):
        rc.preset("smoke", num_pears=3)


def test_a_value_is_read_off_in_one_forward_pass(monkeypatch):
    sums = rc.sums_of(CFG, 2, 0)
    model = fact_arms.start(CFG, fact_arms.ARMS["JEPA + memory"], sums.names, sums.vocabulary, 0, 0).model
    asked = torch.cat([sums.answers, sums.inner])
    right = F.one_hot(sums.value.clamp(min=0), CFG.width).float()
    monkeypatch.setattr(model, "concepts", lambda ids, target=False: right[ids])
    monkeypatch.setattr(model, "comparable", lambda x: x)
    monkeypatch.setattr(model, "answer", lambda subject, signs, second: subject)
    assert recall.value_accuracy(model, asked, sums.modulus) == 1.0
    monkeypatch.setattr(model, "answer", lambda subject, signs, second: subject.roll(1, dims=1))
    assert recall.value_accuracy(model, asked, sums.modulus) == 0.0


def test_sums_are_trained_with_every_kind_of_model():
    sums = rc.sums_of(CFG, 2, 0)
    for name in rc.CHAINED:
        scores = rc.chain(
            replace(CFG, chain_steps=100, lr=1e-2, weight_decay=(0.1, 0.1)), fact_arms.ARMS[name], sums, 0
        )
        assert set(scores) == {"answers", "inner", "taught"} and scores["taught"] > 0.4  # chance 1 / 7


def test_asking_one_question_gives_the_scores_of_the_whole_table():
    w = world(pairs=3)
    model = jepa(w)
    torch.testing.assert_close(
        recall.ask(model, *w.reversed[0, :2].tolist()), recall.entity_scores(model, w.reversed[:1])[0]
    )
    for w in (w, real_facts.countries(rng())):  # names of one length, and of several with a full stop
        torch.manual_seed(0)
        spelled = binding.TokenAR(w.names, w.vocabulary, 16, w.num_relations, blocks(2))
        subject, relation, _ = w.reversed[0].tolist()
        rows = torch.tensor([[subject, relation, answer] for answer in range(w.num_entities)])
        torch.testing.assert_close(recall.ask(spelled, subject, relation), spelled.log_likelihood(rows)[0])


def test_the_map_of_concepts_is_flat_and_scaled():
    plane = recall.embedding_map(jepa(world()))
    assert plane.shape == (32, 2)
    torch.testing.assert_close(plane.T @ plane / 31, torch.eye(2), atol=1e-4, rtol=0)


def test_real_and_typed_worlds_train_with_every_kind_of_model():
    for w in (
        real_facts.countries(rng()),
        real_facts.typed("A B | knows | C\n? D C | knows | B", "knows | is known by"),
    ):
        for name in ("AR", "JEPA"):
            run = fact_arms.start(CFG, fact_arms.ARMS[name], w.names, w.vocabulary, w.num_relations, 0)
            recall.fit(
                run, small(num_steps=2, batch_size=2), w.train, fact_arms.loss_of(fact_arms.ARMS[name]), progress=False
            )
            score = recall.recall(run.model, w.reversed, w.partners())
            assert 0 <= score.accuracy <= 1 and run.bad_steps == 0


def test_one_vector_for_both_roles_is_consistent_and_two_are_not():
    w, concept = world(), world(multiplicity=None)
    tied, untied = (
        fact_arms.build(CFG, fact_arms.ARMS[name], concept.names, concept.vocabulary, 4)
        for name in ("AR, concepts", "AR, concepts, untied")
    )
    assert entanglement.consistency(tied) == pytest.approx(1) and abs(entanglement.consistency(untied)) < 0.3
    assert (
        entanglement.consistency(jepa(w)) == pytest.approx(1) and entanglement.consistency(jepa(w, target=True)) < 0.9
    )
    with pytest.raises(ValueError, match="concept level"):
        entanglement.consistency(binding.TokenAR(w.names, w.vocabulary, 16, w.num_relations, blocks(1)))


def test_overlap_by_layer_parts_names_that_share_a_token_from_those_that_do_not():
    rows = entanglement.by_layer(jepa(world(), rec=2, sem=2))
    assert (
        list(rows) == ["recognition 1", "recognition 2", "semantic 1", "semantic 2"]
        and rows["recognition 1"][0] > rows["recognition 1"][1]
    )
    memory = entanglement.by_layer(jepa(world(), memory=True))
    assert list(memory) == ["memory", "semantic 1"] and memory["memory"] == (0.0, 0.0)
    w = world()
    spelled = binding.TokenAR(w.names, w.vocabulary, 16, w.num_relations, blocks(2))
    with torch.no_grad():
        spelled.tokens.weight.mul_(50)
    assert (
        list(entanglement.by_layer(spelled)) == ["layer 1", "layer 2"]
        and entanglement.by_layer(spelled)["layer 1"][0] > 0.1
    )
