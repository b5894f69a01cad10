"""Facts with labels that a reader knows: countries, capitals and ISO codes; typed facts; names for generated persons.

The table of countries is a copy from the package countryinfo (`countries.json` names version and licence), with its
capitals, also where a capital has moved since. Countries that share a capital or a name with something else are left
out.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from jepa_lab.data.facts.generated import FIRST_RELATION, PAD, FactWorld, check, reverse

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
HEADS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kr", "st", "tr")
VOWELS = "aeiou"
TAILS = "nlrsm"


def countries(generator: Generator, tested: float = 0.375, table: Path = TABLE) -> FactWorld:
    """Country and capital, country and codes; of the share `tested` (group B) each fact is taught in one direction.

    Names of countries and capitals are spelled in words, codes in letters, so that letters are shared by many names.
    Raises ValueError for a broken table, repeated names and a share that leaves a group empty.
    """
    rows = _rows(table)
    num_rows, num_tested = len(rows), round(tested * len(rows))
    if not 0 < num_tested < num_rows:
        raise ValueError(f"tested = {tested} leaves one of the groups empty; choose a share between 0 and 1")
    group_b = torch.randperm(num_rows, generator=generator)[:num_tested]
    in_b = torch.isin(torch.arange(num_rows), group_b).repeat(3)
    country = torch.arange(num_rows)  # then come all capitals, then all codes of either kind
    forward = torch.cat([_facts_of_pair(country, pair) for pair in range(3)])
    flip = torch.rand(len(forward), generator=generator) < 0.5
    one_way = torch.where(flip[:, None], reverse(forward), forward)[in_b]
    labels = tuple(row[column] for column in range(4) for row in rows)
    spelled = [label.split() if i < 2 * num_rows else list(label) for i, label in enumerate(labels)]
    return _world(forward[~in_b], one_way, spelled, labels, RELATIONS, "countryinfo 1.0.1")


def _facts_of_pair(country: Tensor, pair: int) -> Tensor:
    """Each country's fact of a relation pair; its object has the same row in the table, `pair` + 1 columns further."""
    return torch.stack([country, torch.full_like(country, 2 * pair), country + (pair + 1) * len(country)], 1)


def _world(
    both: Tensor,
    one_way: Tensor,
    spelled: list[list[str]],
    labels: tuple[str, ...],
    relations: tuple[str, ...],
    source: str,
) -> FactWorld:
    """The checked world of facts taught in both directions and in one, whose names are spelled in parts."""
    names, vocabulary = _tokens(spelled, FIRST_RELATION + len(relations))
    return check(
        FactWorld(
            names=names,
            num_relations=len(relations),
            vocabulary=vocabulary,
            taught=torch.cat([both, reverse(both)]),
            atomic=one_way,
            reversed=reverse(one_way),
            labels=labels,
            relations=relations,
            source=source,
        )
    )


def _rows(table: Path) -> list[list[str]]:
    """The table's rows: country, capital, two-letter code, three-letter code."""
    content = json.loads(table.read_text(encoding="utf-8"))
    rows = content.get("rows") if isinstance(content, dict) else None
    if not _four_names_each(rows) or len({name for row in rows for name in row}) < 4 * len(rows):
        raise ValueError(f"{table} must hold rows of four different names, none of them twice")
    return rows


def _four_names_each(rows: object) -> bool:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and len(row) == 4 for row in rows):
        return False
    return all(isinstance(name, str) and name for row in rows for name in row)


def typed(text: str, relations: str) -> FactWorld:
    """Facts as a reader types them, one per line: `Ada Byron | teaches | Bob`.

    A line is taught in both directions; one that starts with `?` is taught as it stands and asked backwards. relations:
    one pair per line, `teaches | is taught by`. Names are spelled in their words.
    Raises ValueError naming the line that cannot be read or used: each name may have one partner per relation pair.
    """
    verbs: list[str] = []
    for i, line in enumerate(relations.strip().splitlines(), 1):
        verbs += _parts(line, 2, f"relation line {i}")
    if len(set(verbs)) < len(verbs) or not verbs:
        raise ValueError("give at least one pair of relations, all different")
    labels: dict[str, int] = {}
    line_of: dict[tuple[str, int], int] = {}
    both, one_way = [], []
    for i, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        subject, relation, object_ = _typed_fact(line, verbs, i, line_of)
        row = [labels.setdefault(subject, len(labels)), relation, labels.setdefault(object_, len(labels))]
        (one_way if line.strip().startswith("?") else both).append(row)
    if not both or not one_way:
        raise ValueError(
            "type at least one fact that is taught both ways and one that starts with ? and is asked backwards"
        )
    taught, asked = (torch.tensor(rows, dtype=torch.int64) for rows in (both, one_way))
    return _world(taught, asked, [label.split() for label in labels], tuple(labels), tuple(verbs), "typed")


def _typed_fact(line: str, verbs: list[str], i: int, line_of: dict[tuple[str, int], int]) -> tuple[str, int, str]:
    """Subject, number of the relation and object of line i.

    line_of: {(name, relation pair): its line}, so far. A second partner would repeat a fact or make a question with two
    answers.
    """
    subject, verb, object_ = _parts(line.strip().removeprefix("?"), 3, f"fact line {i}")
    if verb not in verbs:
        raise ValueError(f"fact line {i}: no relation {verb!r}; there are: {', '.join(verbs)}")
    if subject == object_:
        raise ValueError(f"fact line {i} relates {subject!r} to itself")
    relation = verbs.index(verb)
    for name in (subject, object_):
        first = line_of.setdefault((name, relation // 2), i)
        if first != i:
            reason = f"line {first} has already said who {name!r} belongs with by {verb!r} or its inverse"
            raise ValueError(f"fact line {i}: {reason}")
    return subject, relation, object_


def _parts(line: str, count: int, where: str) -> list[str]:
    """The parts of a line between its bars, without superfluous blanks."""
    parts = [" ".join(part.split()) for part in line.split("|")]
    if len(parts) != count or not all(parts):
        raise ValueError(f"{where}: {line.strip()!r} should be {count} parts with | between them")
    return parts


def _tokens(spelled: list[list[str]], lowest: int) -> tuple[Tensor, int]:
    """Names as token ids, padded on the left, and the size of the vocabulary."""
    parts = sorted({part for name in spelled for part in name})
    known = {part: lowest + i for i, part in enumerate(parts)}
    longest = max(map(len, spelled))
    rows = [[PAD] * (longest - len(name)) + [known[part] for part in name] for name in spelled]
    return torch.tensor(rows), lowest + len(known)


def persons(world: FactWorld) -> FactWorld:
    """A generated world with names that a reader can pronounce: every name token gets a made-up word.

    Raises ValueError for more relation pairs than there are words for (6).
    """
    if world.num_relations > 2 * len(PAIRS):
        raise ValueError(f"{world.num_relations // 2} relation pairs, but words for only {len(PAIRS)}")
    lowest = FIRST_RELATION + world.num_relations
    labels = tuple(" ".join(word(int(token) - lowest) for token in name) for name in world.names)
    relations = tuple(verb for pair in PAIRS for verb in pair)[: world.num_relations]
    return replace(world, labels=labels, relations=relations)


def word(number: int) -> str:
    """A pronounceable made-up word, a different one for every number from 0."""
    number, head = divmod(number, len(HEADS))
    number, vowel = divmod(number, len(VOWELS))
    number, tail = divmod(number, len(TAILS))
    more = word(number - 1).lower() if number else ""
    return (HEADS[head] + VOWELS[vowel] + TAILS[tail] + more).capitalize()
