"""Facts: what the generated world promises, and what every world is refused for."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lab.data.facts import generated

repeatable = settings(derandomize=True, deadline=None, max_examples=30)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(table: torch.Tensor) -> set:
    return set(map(tuple, table.tolist()))


@repeatable
@given(st.integers(1, 6), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**31))
def test_group_a_is_taught_both_ways_and_group_b_one_way_with_the_other_as_the_test(pairs, half_a, half_b, seed):
    world = generated.generate(2 * half_a, 2 * half_b, pairs, None, rng(seed))
    assert rows(world.taught) == rows(generated.reverse(world.taught)) and len(world.taught) == 2 * half_a * pairs
    assert torch.equal(world.reversed, generated.reverse(world.atomic)) and len(world.atomic) == half_b * pairs
    assert not rows(world.train) & rows(world.reversed)
    assert int(world.taught[:, [0, 2]].max()) < 2 * half_a <= int(world.atomic[:, [0, 2]].min())


@repeatable
@given(st.integers(1, 4), st.integers(1, 15), st.integers(0, 2**31))
def test_every_relation_pairs_its_group_perfectly(pairs, half, seed):
    world = generated.generate(2 * half, 2 * half, pairs, None, rng(seed))
    partners = world.partners()
    assert bool((partners >= 0).all())
    everyone = torch.arange(4 * half)
    for column in partners.T:
        assert torch.equal(column[column], everyone) and bool((column != everyone).all())


def test_both_directions_of_group_b_are_taught_about_equally_often():
    world = generated.generate(2, 4000, 1, None, rng())
    assert 0.45 < float((world.atomic[:, 1] == 0).float().mean()) < 0.55


@repeatable
@given(st.integers(1, 8), st.integers(8, 20), st.integers(0, 2**31))
def test_a_multiplicity_of_m_means_that_every_name_token_serves_exactly_m_entities(m, pool, seed):
    names = generated.surface_names(m * pool, m, rng(seed))
    assert names.shape == (m * pool, 2) and len(names.unique(dim=0)) == m * pool
    assert bool((names[:, 0].bincount() == m).all()) and bool((names[:, 1].bincount()[pool:] == m).all())
    assert not rows(names[:, :1]) & rows(names[:, 1:])


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    one, same, other = (generated.generate(20, 12, 2, 2, rng(s)) for s in (0, 0, 1))
    assert torch.equal(one.train, same.train) and torch.equal(one.names, same.names)
    assert not torch.equal(one.train, other.train)


def test_a_concept_level_world_has_the_vocabulary_of_the_paper():
    world = generated.generate(50, 30, 6, None, rng())
    assert world.vocabulary == 80 + 12 + 2 and int(world.names.min()) == generated.FIRST_RELATION + 12


@pytest.mark.parametrize(
    "change, reason",
    [
        (dict(num_taught=3), "num_taught = 3.*even"),
        (dict(num_tested=0), "num_tested = 0.*at least 2"),
        (dict(num_pairs=0), "at least one pair"),
        (dict(multiplicity=3), "multiplicity 3 is impossible with 32.*possible: 1, 2, 4"),
        (dict(multiplicity=8), "impossible"),
        (dict(multiplicity=0), "impossible"),
    ],
)
def test_worlds_that_cannot_be_are_refused_with_the_reason(change, reason):
    with pytest.raises(ValueError, match=reason):
        generated.generate(
            **(dict(num_taught=20, num_tested=12, num_pairs=2, multiplicity=2, generator=rng()) | change)
        )


def both_ways(world, row):
    """Group A with one more fact, in place of what it would contradict."""
    kept = world.taught[(world.taught[:, 1] > 1) | ((world.taught[:, [0, 2]] != row[0]).all(1))]
    return torch.cat([kept, torch.tensor([row])])


def one_way(world):
    """Dan teaches Eve, Eve teaches Fay: who is taught by Eve has one answer, but Eve belongs with two in one pair."""
    return torch.tensor([[0, 0, 1], [1, 0, 2]])


def broken(**changes):
    world = generated.generate(20, 12, 2, 2, rng())
    return generated.check(replace(world, **{name: change(world) for name, change in changes.items()}))


@pytest.mark.parametrize(
    "changes, reason",
    [
        (dict(atomic=lambda w: w.atomic[:0], reversed=lambda w: w.reversed[:0]), "split 'atomic' is empty"),
        (dict(taught=lambda w: w.taught[:0]), "split 'taught' is empty"),
        (dict(taught=lambda w: torch.cat([w.taught, w.taught[:1]])), "in training twice"),
        (dict(taught=lambda w: torch.cat([w.taught, w.taught[:1] + torch.tensor([0, 0, 1])])), "two answers"),
        (dict(taught=lambda w: torch.cat([w.taught, w.reversed[:1]])), "answer to test question .* is in training"),
        (dict(reversed=lambda w: w.reversed.flip(0)), "reverse of each atomic fact"),
        (dict(names=lambda w: w.names[torch.tensor([0, 0, *range(2, 32)])]), "the same name"),
        (dict(names=lambda w: w.names - 10), "collision"),
        (dict(vocabulary=lambda w: w.vocabulary - 1), "collision"),
        (dict(taught=lambda w: w.taught + torch.tensor([0, 9, 0])), "does not exist"),
        (dict(taught=lambda w: both_ways(w, [3, 0, 3])), "to itself"),
        (
            dict(
                taught=lambda w: w.taught[w.taught[:, 1] > 1],
                atomic=one_way,
                reversed=lambda w: generated.reverse(one_way(w)),
            ),
            "entity 1 has two partners in relation pair 0",
        ),
    ],
)
def test_worlds_that_leak_or_collide_are_refused_with_the_reason(changes, reason):
    with pytest.raises(ValueError, match=reason):
        broken(**changes)
