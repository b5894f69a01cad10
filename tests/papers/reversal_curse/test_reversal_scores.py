"""Scores tell reversal from association: ceilings, ties, rivals, spelled names, values of sums."""

import pytest
import torch
from reversal_small import rng, small_ar, small_blocks, small_facts, small_jepa
from torch.nn import functional as F

from jepa_lab.data.facts import generated, real
from jepa_lab.papers.reversal_curse import chains, paper, scores
from jepa_lab.papers.reversal_curse.arms import facts_of, untrained
from jepa_lab.papers.reversal_curse.models import TokenAR
from jepa_lab.papers.reversal_curse.scores import Recall

CFG = paper.preset("smoke")


def test_the_blind_ceiling_is_what_a_model_that_only_knows_partners_scores():
    facts = small_facts(pairs=3)
    ceiling = scores.blind(facts.partners(), facts.reversed)
    assert ceiling.accuracy == pytest.approx(1 / 3)
    assert ceiling.mrr == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    some = facts.partners().clone()
    some[:, 1:] = -1
    assert scores.blind(some, facts.reversed[facts.reversed[:, 1] < 2]).accuracy == 1.0


@pytest.fixture
def answered(monkeypatch):
    """Scores of a reader who is right where `bonus` is largest, and the blind ceiling."""
    facts = generated.generate(400, 240, 3, None, rng())
    noise = torch.rand(len(facts.reversed), facts.num_entities, generator=rng(1))

    def ask(bonus):
        monkeypatch.setattr(scores, "entity_scores", lambda *question: noise + bonus)
        return scores.recall(small_jepa(small_facts()), facts.reversed, facts.partners())

    return facts, torch.zeros_like(noise), ask


def test_a_reader_who_knows_the_facts_has_all_scores_of_one(answered):
    facts, nothing, ask = answered
    assert ask(nothing.scatter(1, facts.reversed[:, 2:], 2.0)) == Recall(1.0, 1.0, 1.0, 0.0, 1.0)


def test_a_reader_who_knows_the_partners_reaches_the_blind_ceiling(answered):
    facts, nothing, ask = answered
    score = ask(nothing.scatter(1, facts.partners()[facts.reversed[:, 0]], 1.0))
    ceiling = scores.blind(facts.partners(), facts.reversed)
    assert score.accuracy == pytest.approx(ceiling.accuracy, abs=0.08)
    assert score.mrr == pytest.approx(ceiling.mrr, abs=0.06)
    assert score.over_partner == pytest.approx(0.5, abs=0.06)
    assert score.partner_on_top == pytest.approx(2 / 3, abs=0.08)


def test_a_reader_who_knows_nothing_is_at_chance(answered):
    _, nothing, ask = answered
    score = ask(nothing)
    assert score.accuracy < 0.02
    assert score.over_partner == pytest.approx(0.5, abs=0.08)


class Spelled(TokenAR):
    """Gives a chosen answer to every question, token by token, with a chosen score."""

    def __init__(self, facts, answers, height=9.0):
        super().__init__(facts.names, facts.vocabulary, 16, 6, small_blocks(1))
        self.answers, self.height = answers, height

    def logits(self, facts_B3):
        given = self.spelling[[self.answers[s, r] for s, r in facts_B3[:, :2].tolist()]]
        return self.height * F.one_hot(given, self.head.shape[0]).float()


@pytest.fixture(scope="module")
def spelled_facts():
    facts = generated.generate(40, 24, 3, 2, rng())
    return facts, {(subject, relation): answer for subject, relation, answer in facts.reversed.tolist()}


def ask_names(model, facts):
    return scores.recall(model, facts.reversed, facts.partners(), ranked=5)


def test_exact_spelling_of_all_answers_has_all_scores_of_one_and_leaves_the_mode(spelled_facts):
    facts, known = spelled_facts
    model = Spelled(facts, known)
    assert ask_names(model, facts) == Recall(1.0, 1.0, 1.0, 0.0, 1.0)
    assert model.training


def test_spelling_another_partner_is_seen_as_association(spelled_facts):
    facts, known = spelled_facts
    others = {}
    for (subject, relation), answer in known.items():
        partners = [partner for partner in facts.partners()[subject].tolist() if partner != answer]
        others[subject, relation] = partners[0]
    score = ask_names(Spelled(facts, others), facts)
    assert (score.accuracy, score.partner_on_top, score.closed) == (0.0, 1.0, 0.0)
    assert score.over_partner < 0.7
    assert score.mrr <= 0.5


def test_a_model_to_which_all_names_are_equal_has_no_answer(spelled_facts):
    facts, known = spelled_facts
    score = ask_names(Spelled(facts, known, height=0.0), facts)
    assert (score.accuracy, score.partner_on_top, score.closed) == (0.0, 0.0, 0.0)
    assert score.mrr == pytest.approx(1 / facts.num_entities)


def test_ranks_of_spelled_names_are_nan_where_they_were_not_asked_for(spelled_facts):
    facts, known = spelled_facts
    score = scores.recall(Spelled(facts, known), facts.reversed, facts.partners())
    assert score.mrr != score.mrr and score.closed != score.closed


def test_equal_scores_and_nan_are_no_answer():
    table = torch.tensor([[1.0, 1.0, 1.0], [2.0, 1.0, 1.0], [torch.nan] * 3, [3.0, 1.0, 2.0]])
    assert scores.rank(table, torch.tensor([1, 0, 0, 2])).tolist() == [3, 1, 3, 2]


def test_questions_are_drawn_from_all_relations(monkeypatch):
    asked = []

    def note(model, questions, partners, ranked=0):
        asked.append(questions)
        return scores.blind(partners, questions)

    monkeypatch.setattr(scores, "recall", note)
    untrained(CFG, "JEPA", facts_of(CFG, 0), 0, num_questions=16)
    assert [len(questions) for questions in asked] == [16] * 3
    assert all(len((questions[:, 1] // 2).unique()) == 3 for questions in asked)


def test_asking_one_question_gives_the_scores_of_the_whole_table():
    facts = small_facts(pairs=3)
    model = small_jepa(facts)
    subject, relation, _ = facts.reversed[0].tolist()
    torch.testing.assert_close(scores.ask(model, subject, relation), scores.entity_scores(model, facts.reversed[:1])[0])


@pytest.mark.parametrize("facts", [small_facts(pairs=3), real.countries(rng())], ids=["one length", "several lengths"])
def test_a_name_has_the_same_likelihood_alone_and_among_all_names(facts):
    model = small_ar(facts)
    subject, relation, _ = facts.reversed[0].tolist()
    rows = torch.tensor([[subject, relation, answer] for answer in range(facts.num_entities)])
    torch.testing.assert_close(scores.ask(model, subject, relation), model.log_likelihood(rows)[0])


def test_the_map_of_concepts_is_flat_and_scaled():
    plane = scores.embedding_map(small_jepa(small_facts()))
    assert plane.shape == (32, 2)
    torch.testing.assert_close(plane.T @ plane / 31, torch.eye(2), atol=1e-4, rtol=0)


def test_a_value_is_read_off_in_one_forward_pass(monkeypatch):
    sums = chains.sums_of(CFG, 2, 0)
    model = chains.sum_arm(CFG, "JEPA + memory", sums).build(CFG)
    asked = torch.cat([sums.answers, sums.inner])
    right = F.one_hot(sums.value.clamp(min=0), CFG.width).float()
    monkeypatch.setattr(model, "concepts", lambda ids, target=False: right[ids])
    monkeypatch.setattr(model, "comparable", lambda x: x)
    monkeypatch.setattr(model, "answer", lambda subject, signs, second: subject)
    assert scores.value_accuracy(model, asked, sums.modulus) == 1.0
    monkeypatch.setattr(model, "answer", lambda subject, signs, second: subject.roll(1, dims=1))
    assert scores.value_accuracy(model, asked, sums.modulus) == 0.0
