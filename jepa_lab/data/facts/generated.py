"""Facts that can be asked both ways: the generated world of the reversal curse, and real one-to-one facts.

A fact is a row (subject, relation, object). Relations come in pairs, 2p forward and 2p + 1 backward; `r ^ 1` is the
inverse of r. Group A is taught in both directions, which shows what "backward" means. Group B is taught in one
direction, and its other direction is the test. Token ids: 0 pads, 1 is the mask, then the relations, then the names.
Shape letters: `E` entities, `R` relation pairs, `T` tokens of a name, `F` facts.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

PAD, MASK, FIRST_RELATION = 0, 1, 2
MIXING_ROUNDS = 20  # of swaps between random pairs of names, until first and last tokens are matched at random


@dataclass(frozen=True)
class FactWorld:
    """Entities with names, and who is related to whom. `check` has been run on every world that this file makes."""

    names: Int64[Tensor, "E T"]  # token ids, padded on the left: the last token is always in the last column
    num_relations: int  # 2R
    vocabulary: int  # tokens in all
    taught: Int64[Tensor, "F 3"]  # group A, both directions
    atomic: Int64[Tensor, "G 3"]  # group B, the direction that is taught
    reversed: Int64[Tensor, "G 3"]  # group B, the other direction of the same rows: never taught
    labels: tuple[str, ...] = ()  # of the entities, where they mean something to a reader
    relations: tuple[str, ...] = ()  # labels of the relations
    source: str = "generated"

    @property
    def train(self) -> Int64[Tensor, "H 3"]:
        return torch.cat([self.taught, self.atomic])

    @property
    def num_entities(self) -> int:
        return len(self.names)

    def partners(self) -> Int64[Tensor, "E R"]:
        """Every entity's partner in each relation pair, in whichever direction; -1 where it has none."""
        table = torch.full((self.num_entities, self.num_relations // 2), -1, device=self.names.device)
        for facts in (self.taught, self.atomic, self.reversed):
            table[facts[:, 0], facts[:, 1] // 2] = facts[:, 2]
        return table

    def to(self, device: torch.device | str) -> "FactWorld":
        """The same world on another device."""
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return FactWorld(**moved)


def generate(
    num_taught: int, num_tested: int, num_pairs: int, multiplicity: int | None, generator: Generator
) -> FactWorld:
    """The world of the paper's section 2: for each relation pair and group, a random pairing of the group's entities.

    num_taught, num_tested: entities of groups A and B. num_pairs: R. multiplicity: None gives every entity one token of
    its own (concept level); m gives names of two tokens, first and last, each shared by exactly m entities.
    Raises ValueError for odd or empty groups and for an impossible multiplicity.
    """
    for name, count in (("num_taught", num_taught), ("num_tested", num_tested)):
        if count < 2 or count % 2:
            raise ValueError(f"{name} = {count}: pairings need an even number of at least 2 entities")
    if num_pairs < 1:
        raise ValueError(f"num_pairs = {num_pairs}: at least one pair of relations is needed")
    taught, atomic = [], []
    for pair in range(num_pairs):
        first, second = _pairing(num_taught, generator)
        taught.append(torch.cat([_facts(first, 2 * pair, second), _facts(second, 2 * pair + 1, first)]))
        first, second = (x + num_taught for x in _pairing(num_tested, generator))
        flip = torch.rand(num_tested // 2, generator=generator) < 0.5
        subject, object_ = torch.where(flip, second, first), torch.where(flip, first, second)
        atomic.append(_facts(subject, 2 * pair + flip.long(), object_))
    names = surface_names(num_taught + num_tested, multiplicity, generator) + FIRST_RELATION + 2 * num_pairs
    one_way = torch.cat(atomic)
    return check(FactWorld(names, 2 * num_pairs, int(names.max()) + 1, torch.cat(taught), one_way, reverse(one_way)))


def _pairing(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    order = torch.randperm(count, generator=generator)
    return order[: count // 2], order[count // 2 :]


def _facts(subject: Tensor, relation: Tensor | int, object_: Tensor) -> Tensor:
    return torch.stack([subject, torch.as_tensor(relation).expand_as(subject), object_], dim=1)


def reverse(facts: Int64[Tensor, "F 3"]) -> Int64[Tensor, "F 3"]:
    """The same facts in the other direction."""
    return torch.stack([facts[:, 2], facts[:, 1] ^ 1, facts[:, 0]], dim=1)


def surface_names(count: int, multiplicity: int | None, generator: Generator) -> Int64[Tensor, "E T"]:
    """Names as token ids from 0: one token each (None), or a first and a last one, each used by exactly m entities.

    The matching of first to last tokens is random; no two names are equal. Raises ValueError where no such names exist.
    """
    if multiplicity is None:
        return torch.arange(count)[:, None]
    m, pool = multiplicity, count // max(1, multiplicity)
    if m < 1 or count % m or pool < m:
        fits = [k for k in range(1, count + 1) if count % k == 0 and k * k <= count]
        raise ValueError(
            f"multiplicity {m} is impossible with {count} entities: it must divide them, and {m} names per first "
            f"token need {m} different last ones; possible: {', '.join(map(str, fits))}"
        )
    first, step = torch.arange(count) // m, torch.arange(count) % m
    last = (first + torch.randperm(pool, generator=generator)[step]) % pool  # no name twice, but not yet random
    for _ in range(MIXING_ROUNDS):
        left, right = _pairing(count - count % 2, generator)
        swapped = torch.cat([first[left] * pool + last[right], first[right] * pool + last[left]])
        clash = torch.isin(swapped, first * pool + last) | torch.isin(swapped, swapped[_repeats(swapped)])
        fine = ~(clash[: len(left)] | clash[len(left) :])
        last[left[fine]], last[right[fine]] = last[right[fine]], last[left[fine]]
    first_token = torch.randperm(pool, generator=generator)[first]
    last_token = pool + torch.randperm(pool, generator=generator)[last]
    return torch.stack([first_token, last_token], 1)[torch.randperm(count, generator=generator)]


def _repeats(codes: Tensor) -> Tensor:
    """Rows whose code has occurred in an earlier row."""
    order = codes.argsort(stable=True)
    same = codes[order][1:] == codes[order][:-1]
    return order[1:][same]


def check(world: FactWorld) -> FactWorld:
    """The world itself. Raises ValueError where a fact is broken, ambiguous or leaks an answer into training."""
    lowest = FIRST_RELATION + world.num_relations
    for split in ("taught", "atomic", "reversed"):
        facts = getattr(world, split)
        if len(facts) == 0:
            raise ValueError(f"the split {split!r} is empty: give every group some facts")
        limits = torch.tensor([world.num_entities, world.num_relations, world.num_entities])
        if bool(((facts < 0) | (facts >= limits)).any()):
            raise ValueError(f"a fact of {split!r} names an entity or relation that does not exist")
    name_tokens = world.names[world.names != PAD]
    if len(name_tokens) and (int(name_tokens.min()) < lowest or int(name_tokens.max()) >= world.vocabulary):
        reason = "lower ones are pad, mask and relations (a collision)"
        raise ValueError(f"names must use tokens {lowest} to {world.vocabulary - 1}: {reason}")
    if bool((world.names[:, -1] == PAD).any()) or len(world.names.unique(dim=0)) < world.num_entities:
        raise ValueError("two entities have the same name, or one has none: no model could tell them apart")
    _check_facts(world)
    return world


def _check_facts(world: FactWorld) -> None:
    """Raise ValueError where facts repeat, contradict each other or leak."""
    train, base = world.train, (world.num_entities, world.num_relations, world.num_entities)
    code, question = _code(train, base), _code(train[:, :2], base)
    if len(_repeats(code)):
        raise ValueError(f"fact {train[_repeats(code)[0]].tolist()} is in training twice")
    if len(_repeats(question)):
        raise ValueError(f"question {train[_repeats(question)[0], :2].tolist()} has two answers in training")
    leaked = torch.isin(_code(world.reversed[:, :2], base), question)
    if bool(leaked.any()):
        raise ValueError(f"the answer to test question {world.reversed[leaked][0, :2].tolist()} is in training")
    if not torch.equal(world.reversed, reverse(world.atomic)):
        raise ValueError("the test must hold the reverse of each atomic fact, in the same order")
    known = torch.cat([train, reverse(train), world.reversed])
    to_itself = known[:, 0] == known[:, 2]
    if bool(to_itself.any()):
        raise ValueError(f"fact {known[to_itself][0].tolist()} relates an entity to itself")
    partner = _code(torch.stack([known[:, 0], known[:, 1] // 2, known[:, 2]], 1), base).unique() // world.num_entities
    twice = partner[1:][partner[1:] == partner[:-1]]
    if len(twice):
        entity, pair = divmod(int(twice[0]), world.num_relations)
        reason = "asked backwards there is no single right answer"
        raise ValueError(f"entity {entity} has two partners in relation pair {pair}: {reason}")


def _code(rows: Tensor, base: tuple[int, ...]) -> Tensor:
    """Each row as one number."""
    total = torch.zeros(len(rows), dtype=torch.int64)
    for column, size in zip(rows.T, base):
        total = total * size + column
    return total
