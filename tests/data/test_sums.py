"""Sums of named numbers: every problem follows from its facts, nothing tells the answer, and nonsense is refused."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lab.data.facts import sums

repeatable = settings(derandomize=True, deadline=None, max_examples=25)
SMALL = dict(modulus=11, per_value=3, increments=(2, 5), num_problems=3, branching=3)


def make(seed=0, **changes):
    return sums.generate(**(SMALL | changes), generator=torch.Generator().manual_seed(seed))


@repeatable
@given(st.integers(5, 17), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**31))
def test_every_answer_follows_from_the_facts_and_no_fact_gives_it_away(modulus, per_value, branching, depth, seed):
    s = make(seed, modulus=modulus, per_value=per_value, branching=branching, depth=depth, increments=(1, 3))
    assert s.rounds.unique().tolist() == [depth + 2] and int(s.value[s.answers[:, 0]].min()) >= 0
    known = set(s.train[s.train[:, 1] == s.sign][:, 0].tolist())
    assert not known & set(s.answers[:, 0].tolist()) and not known & set(s.inner[:, 0].tolist())
    assert len(set(map(tuple, s.train.tolist()))) == len(s.train)


@repeatable
@given(st.integers(0, 2**31))
def test_all_sums_are_true(seed):
    s = make(seed)
    a, b, c = torch.cat([s.train, s.answers, s.inner]).T
    total = torch.where(b == s.sign, s.value[a], (s.value[a] + s.value[b]) % s.modulus)
    assert torch.equal(total, s.value[c])


def test_about_half_of_the_edges_of_a_problem_must_be_undone():
    s = make(branching=6, num_problems=20)
    new = s.modulus * 4 + 1  # ids of problem entities start above the values, the sign and 3 core entities each
    upper_first = sum((row[0] >= new or row[1] >= new) and row[2] < new for row in s.train.tolist())
    upper_last = sum(row[2] >= new and row[0] < new and row[1] < new for row in s.train.tolist())
    assert 0.4 < upper_first / (upper_first + upper_last) < 0.6


def test_dead_branches_lead_nowhere_by_themselves():
    plain, dead = (make(branching=5, num_problems=10, dead=share) for share in (0.0, 0.9))
    assert len(plain.inner) == len(dead.inner) == 10 * 30
    new = plain.modulus * 4 + 1
    # sums of a problem's entity with two core ones
    tied = [int(((s.train >= new).sum(1) == 1).sum()) for s in (plain, dead)]
    assert tied[1] < 0.7 * tied[0]


def test_forward_chaining_counts_its_rounds_and_finds_contradictions():
    values = torch.tensor([0, 1, 2, -1, 1, 2, 0])  # values 0..2, the sign, then entities of value 1, 2 and 0
    facts = torch.tensor([[4, 3, 1], [4, 4, 5], [6, 5, 5]])
    known, rounds = sums.solve(facts, values, torch.arange(7) <= 3)
    assert bool(known.all()) and rounds.tolist() == [0, 0, 0, 0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"fact \[5, 4, 5\] contradicts"):
        sums.solve(torch.tensor([[5, 4, 5]]), values, torch.arange(7) <= 3)


def test_names_of_two_tokens_share_them_and_values_keep_their_own():
    s = make(multiplicity=2)
    assert s.names.shape[1] == 2 and len(s.names.unique(dim=0)) == len(s.names)
    values, others = s.names[: s.modulus + 1], s.names[s.modulus + 1 :]
    assert bool((values[:, 0] == 0).all()) and int(others.min()) > int(values.max())
    assert int(s.names.max()) < s.vocabulary


@pytest.mark.parametrize(
    "changes, reason",
    [
        (dict(modulus=2), "modulus must be at least 3"),
        (dict(branching=0), "branching must be"),
        (dict(depth=0), "depth must be"),
        (dict(num_problems=0), "num_problems must"),
        (dict(increments=(3, 14)), "must differ"),
        (dict(increments=(0, 1)), "must differ"),
        (dict(multiplicity=50), "impossible"),
        (dict(dead=5.0), "dead and held_out are shares: got 5.0"),
        (dict(held_out=-3.0), "shares"),
        (dict(held_out=1.0), "shares"),
    ],
)
def test_problems_that_cannot_be_are_refused_with_the_reason(changes, reason):
    with pytest.raises(ValueError, match=reason):
        make(**changes)


def test_the_order_blind_reader_takes_what_most_readings_agree_on():
    # 0 to 2, the sign, entities of value 1, 2 and 1, the last of them unknown
    values = torch.tensor([0, 1, 2, -1, 1, 2, 1])
    facts = torch.tensor([[4, 3, 1], [5, 3, 2], [4, 6, 5]])
    once = replace(make(), names=values[:, None], modulus=3, value=values, train=facts)
    torch.testing.assert_close(sums.order_blind(once)[6], torch.full((3,), 1 / 3))  # 1 + 2, 2 - 1, 1 - 2: a vote each
    twice = replace(once, train=torch.cat([facts, torch.tensor([[5, 5, 6]])]))
    assert sums.order_blind(twice)[6].tolist() == [1, 0, 0]  # 2 - 2 outvotes 2 + 2: wrong, as the order was ignored


def test_many_sums_tell_an_order_blind_reader_more_than_few():
    few, many = (make(branching=b, num_problems=10, modulus=23, increments=(3, 7)) for b in (1, 6))
    right = [float(sums.order_blind(s)[s.answers[:, 0]].gather(1, s.answers[:, 2:]).mean()) for s in (few, many)]
    assert 1 / 23 < right[0] < right[1] <= 1
