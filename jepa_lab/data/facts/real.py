"""Real facts, one to one: countries with their capital and ISO codes; facts a reader types; labels for generated
persons.

The table is a copy of what the package countryinfo says (`countries.json` names version and licence): capitals as it
has
them, also where they have moved since. Countries that share a capital or a name with something else are left out.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from jepa_lab.data.facts.generated import FIRST_RELATION, PAD, World, check, reverse

TABLE = Path(__file__).with_name("countries.json")
RELATIONS = (
    "has the capital",
    "is the capital of",
    "has the two-letter code",
    "is the two-letter code of",
    "has the three-letter code",
    "is the three-letter code of",
)
PAIRS = (
    ("teaches", "is taught by"),
    ("employs", "works for"),
    ("raised", "was raised by"),
    ("follows", "leads"),
    ("admires", "is admired by"),
    ("outranks", "is outranked by"),
)


def countries(generator: Generator, tested: float = 0.375, table: Path = TABLE) -> World:
    """Country and capital, country and code: `tested` of the countries (group B) have each fact taught one way only.

    Names of countries and capitals are spelled in words, codes in letters, so that letters are shared by many names.
    Raises ValueError for a broken table, repeated names and a share that leaves a group empty.
    """
    rows = _rows(table)
    num_rows, num_tested = len(rows), round(tested * len(rows))
    if not 0 < num_tested < num_rows:
        raise ValueError(f"tested = {tested} leaves one of the groups empty; choose a share between 0 and 1")
    group_b = torch.randperm(num_rows, generator=generator)[:num_tested]
    in_b = torch.isin(torch.arange(num_rows), group_b)
    labels = tuple(row[c] for c in range(4) for row in rows)  # all countries, all capitals, all codes
    said = torch.cat(
        [
            torch.stack(
                [torch.arange(num_rows), torch.full((num_rows,), 2 * p), torch.arange(num_rows) + (p + 1) * num_rows], 1
            )
            for p in range(3)
        ]
    )
    flip = torch.rand(len(said), generator=generator) < 0.5
    one_way = torch.where(flip[:, None], reverse(said), said)[in_b.repeat(3)]
    both = said[~in_b.repeat(3)]
    spelled = [label.split() if i < 2 * num_rows else list(label) for i, label in enumerate(labels)]
    names, vocabulary = _tokens(spelled, FIRST_RELATION + 6)
    return check(
        World(
            names,
            6,
            vocabulary,
            torch.cat([both, reverse(both)]),
            one_way,
            reverse(one_way),
            labels,
            RELATIONS,
            "countryinfo 1.0.1",
        )
    )


def _rows(table: Path) -> list[list[str]]:
    held = json.loads(table.read_text(encoding="utf-8"))
    rows = held.get("rows") if isinstance(held, dict) else None
    flat = (
        [name for row in rows for name in row]
        if isinstance(rows, list) and all(isinstance(row, list) for row in rows)
        else []
    )
    if (
        not flat
        or any(len(row) != 4 for row in rows)
        or not all(isinstance(name, str) and name for name in flat)
        or len(set(flat)) < len(flat)
    ):
        raise ValueError(f"{table} must hold rows of four different names, none of them twice")
    return rows


def typed(text: str, relations: str) -> World:
    """Facts as a reader types them, one a line: `Ada Byron | teaches | Bob`.

    A line is taught in both directions; one that starts with `?` is taught as it stands and asked backwards. relations:
    one pair a line, `teaches | is taught by`. Names are spelled in their words.
    Raises ValueError naming the line that cannot be read or used: each name may have one partner per relation pair.
    """
    said = [
        part
        for i, line in enumerate(relations.strip().splitlines(), 1)
        for part in _parts(line, 2, f"relation line {i}")
    ]
    if len(set(said)) < len(said) or not said:
        raise ValueError("give at least one pair of relations, all different")
    labels: dict[str, int] = {}
    both, one_way, line_of = [], [], {}
    for i, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        subject, relation, object_ = _parts(line.strip().removeprefix("?"), 3, f"fact line {i}")
        if relation not in said:
            raise ValueError(f"fact line {i}: no relation {relation!r}; there are: {', '.join(said)}")
        if subject == object_:
            raise ValueError(f"fact line {i} relates {subject!r} to itself")
        for name in (
            subject,
            object_,
        ):  # one partner per relation pair, else a fact is repeated or a question has two answers
            first = line_of.setdefault((name, said.index(relation) // 2), i)
            if first != i:
                raise ValueError(
                    f"fact line {i}: line {first} has already said who {name!r} belongs with by {relation!r} or its inverse"
                )
        row = [labels.setdefault(subject, len(labels)), said.index(relation), labels.setdefault(object_, len(labels))]
        (one_way if line.strip().startswith("?") else both).append(row)
    if not both or not one_way:
        raise ValueError(
            "type at least one fact that is taught both ways and one that starts with ? and is asked backwards"
        )
    taught, asked = (torch.tensor(rows, dtype=torch.int64) for rows in (both, one_way))
    names, vocabulary = _tokens([label.split() for label in labels], FIRST_RELATION + len(said))
    return check(
        World(
            names,
            len(said),
            vocabulary,
            torch.cat([taught, reverse(taught)]),
            asked,
            reverse(asked),
            tuple(labels),
            tuple(said),
            "typed",
        )
    )


def _parts(line: str, count: int, where: str) -> list[str]:
    parts = [" ".join(part.split()) for part in line.split("|")]
    if len(parts) != count or not all(parts):
        raise ValueError(f"{where}: {line.strip()!r} should be {count} parts with | between them")
    return parts


def _tokens(spelled: list[list[str]], lowest: int) -> tuple[Tensor, int]:
    """Names as token ids, padded on the left, and the size of the vocabulary."""
    known = {word: lowest + i for i, word in enumerate(sorted({word for name in spelled for word in name}))}
    longest = max(map(len, spelled))
    rows = [[PAD] * (longest - len(name)) + [known[word] for word in name] for name in spelled]
    return torch.tensor(rows), lowest + len(known)


def persons(world: World) -> World:
    """A generated world with names that a reader can say: every name token gets a made-up word; at most 6 relation
    pairs.

    Raises ValueError for more relation pairs than there are words for.
    """
    if world.num_relations > 2 * len(PAIRS):
        raise ValueError(f"{world.num_relations // 2} relation pairs, but words for only {len(PAIRS)}")
    lowest = FIRST_RELATION + world.num_relations
    labels = tuple(" ".join(word(int(token) - lowest) for token in name) for name in world.names)
    return replace(
        world, labels=labels, relations=tuple(word for pair in PAIRS for word in pair)[: world.num_relations]
    )


def word(number: int) -> str:
    """A pronounceable made-up word, a different one for every number from 0."""
    heads, vowels, tails = (
        ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kr", "st", "tr"],
        ["a", "e", "i", "o", "u"],
        ["n", "l", "r", "s", "m"],
    )
    number, head = divmod(number, len(heads))
    number, vowel = divmod(number, len(vowels))
    number, tail = divmod(number, len(tails))
    more = word(number - 1).lower() if number else ""
    return (heads[head] + vowels[vowel] + tails[tail] + more).capitalize()
