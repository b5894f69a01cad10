"""Countries, typed facts and made-up persons: one partner each, nothing leaked, and what cannot be used is named."""

import pytest
import torch

from jepa_lab.data.facts import generated, real


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(table: torch.Tensor) -> set:
    return set(map(tuple, table.tolist()))


def test_countries_are_real_one_to_one_facts_and_leak_nothing():
    world = real.countries(rng())
    labels, taught = world.labels, rows(world.train)
    at = {label: i for i, label in enumerate(labels)}
    france = [at[x] for x in ("France", "Paris", "FR", "FRA")]
    known = rows(torch.cat([world.train, world.reversed]))
    for pair, partner in enumerate(france[1:]):
        assert {(france[0], 2 * pair, partner), (partner, 2 * pair + 1, france[0])} <= known
    assert len(set(labels)) == len(labels) and not taught & rows(world.reversed)
    assert abs(len(world.atomic) / (len(world.atomic) + len(world.taught) / 2) - 0.375) < 0.01
    assert int((world.names[at["FR"]] > 0).sum()) == 2 and int((world.names[at["France"]] > 0).sum()) == 1


def test_codes_share_their_letters_and_words_stay_apart():
    world = real.countries(rng())
    at = {label: i for i, label in enumerate(world.labels)}
    assert world.names[at["FR"], -1] == world.names[at["FRA"], -2]
    assert not set(world.names[at["FR"], -2:].tolist()) & set(world.names[at["Paris"]].tolist())


@pytest.mark.parametrize("tested", [0.0, 1.0])
def test_a_share_that_leaves_a_group_empty_is_refused(tested):
    with pytest.raises(ValueError, match="one of the groups empty"):
        real.countries(rng(), tested=tested)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        '{"rows": [1, 2]}',
        '{"rows": [["a", "b", "c", 4]]}',
        '{"rows": []}',
        '{"rows": [["a", "b", "c"]]}',
        '{"rows": [["a", "b", "c", "d"], ["e", "b", "f", "g"]]}',
    ],
)
def test_a_broken_table_is_refused(tmp_path, text):
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(ValueError, match="four different names"):
        real.countries(rng(), table=tmp_path / "table.json")


def test_made_up_persons_have_different_names_that_share_words():
    world = real.persons(generated.generate(20, 12, 2, 2, rng()))
    assert len(set(world.labels)) == 32 and len({name.split()[0] for name in world.labels}) == 16
    assert world.relations == ("teaches", "is taught by", "employs", "works for")
    assert len({real.word(i) for i in range(3000)}) == 3000
    with pytest.raises(ValueError, match="7 relation pairs"):
        real.persons(generated.generate(20, 12, 7, 2, rng()))


ONE_PAIR = "teaches | is taught by"
TWO_PAIRS = "teaches | is taught by\nemploys | works for"
TYPED = """Ada Byron | teaches | Bob Stone
? Eve Stone | teaches | Dan
Bob Stone | employs | Eve Stone"""


def test_typed_facts_become_a_world():
    world = real.typed(TYPED, TWO_PAIRS)
    assert world.labels == ("Ada Byron", "Bob Stone", "Eve Stone", "Dan")
    assert rows(world.taught) == {(0, 0, 1), (1, 1, 0), (1, 2, 2), (2, 3, 1)}
    assert rows(world.atomic) == {(2, 0, 3)} and rows(world.reversed) == {(3, 1, 2)}
    assert world.names[1, -1] == world.names[2, -1]


@pytest.mark.parametrize(
    "text, relations, reason",
    [
        (
            TYPED + "\nAda | teaches",
            TWO_PAIRS,
            "fact line 4: 'Ada | teaches' should be 3 parts",
        ),
        (TYPED, ONE_PAIR, "no relation 'employs'; there are: teaches, is taught by"),
        (TYPED, "teaches | is taught by\nemploys | teaches", "all different"),
        (TYPED, "teaches", "relation line 1"),
        ("Ada | teaches | Bob", ONE_PAIR, "at least one fact"),
        ("", ONE_PAIR, "at least one fact"),
        (
            TYPED + "\nAda Byron | teaches | Bob Stone",
            TWO_PAIRS,
            "fact line 4: line 1 has already said who 'Ada Byron' belongs with",
        ),
        (
            TYPED + "\n\nDan | is taught by | Eve Stone",
            TWO_PAIRS,
            "fact line 5: line 2 has already said who 'Dan' belongs with",
        ),
        (
            "Ada | teaches | Bob\n? Dan | teaches | Eve\n? Eve | teaches | Fay",
            ONE_PAIR,
            "fact line 3: line 2 has already said who 'Eve'",
        ),
        (
            "Ada | teaches | Bob\n? Dan | teaches | Eve\n? Fay | teaches | Eve",
            ONE_PAIR,
            "fact line 3: line 2 has already said who 'Eve'",
        ),
        ("Ada | teaches | Ada\n? Dan | teaches | Eve", ONE_PAIR, "fact line 1 relates 'Ada' to itself"),
    ],
)
def test_typed_facts_that_cannot_be_used_are_refused_with_the_line(text, relations, reason):
    with pytest.raises(ValueError, match=reason.replace("|", r"\|")):
        real.typed(text, relations)
