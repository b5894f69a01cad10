"""Sums of named numbers whose answer follows only from a chain of facts: Wang & Sun 2025, parametric forward chaining.

A row (a, b, c) of entities says value(a) + value(b) = value(c) mod P. With b the sign "is", it says that c is the value
of a. Core entities are taught with their values. A problem's target and the tree of entities below it are known by sums
only; each edge is written up or down by chance, so half of the edges must be undone. Dead branches force a search.
Letters: P modulus, `E` entities, `F` facts, `X` problems.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from jepa_lab.data.facts.generated import FIRST_RELATION, PAD, surface_names


@dataclass(frozen=True)
class Sums:
    """All rows are entity ids: first the P values, then the sign "is", core entities, the problems' own entities."""

    names: Int64[Tensor, "E T"]
    vocabulary: int
    modulus: int
    value: Int64[Tensor, " E"]  # of every entity; -1 for the sign
    train: Int64[Tensor, "F 3"]
    answers: Int64[Tensor, "X 3"]  # (target, is, value): never taught
    inner: Int64[Tensor, "Y 3"]  # the same for the entities between
    rounds: Int64[Tensor, " X"]  # of forward chaining until each target is known

    @property
    def sign(self) -> int:
        return self.modulus


def generate(
    modulus: int,
    per_value: int,
    increments: tuple[int, int],
    num_problems: int,
    branching: int,
    generator: Generator,
    depth: int = 2,
    links: int = 6,
    dead: float = 0.6,
    held_out: float = 0.7,
    multiplicity: int | None = None,
) -> Sums:
    """The facts of the paper's section 5. There: P = 10,007, 10 entities per value, 20 problems, branching 10 to 40.

    increments: the two second summands. links: sums that tie a lowest node to core entities. dead: share of branches
    that lead nowhere, half of them cut from above, half from below; the first branch always leads to the answer.
    held_out: share of the sums of core entities that is not taught. multiplicity: None for one token per entity, else
    names of two tokens, each used by that many entities.
    Raises ValueError for impossible numbers, and for a problem that forward chaining cannot solve.
    """
    _check(modulus, increments, dead, held_out)
    _check_counts(per_value=per_value, num_problems=num_problems, branching=branching, depth=depth, links=links)
    tree = _Tree(modulus, per_value, increments, links, dead, generator)
    for _ in range(num_problems):
        tree.problem(branching, depth)
    core = torch.arange(modulus + 1, modulus + 1 + modulus * per_value)
    values = torch.tensor([*range(modulus), -1, *((core - modulus - 1) % modulus).tolist(), *tree.values])
    rules = _rules(modulus, per_value, increments, generator)
    rules = rules[torch.randperm(len(rules), generator=generator)]
    taught_rules = rules[: max(1, round((1 - held_out) * len(rules)))]
    train = torch.cat([_is(core, values, modulus), taught_rules, torch.tensor(tree.facts)]).unique(dim=0)
    known, rounds = solve(train, values, torch.arange(len(values)) <= modulus)
    if bool((~known).any()):
        raise ValueError("a problem cannot be solved by forward chaining: some value does not follow from the facts")
    targets, inner = torch.tensor(tree.targets), torch.tensor(tree.inner, dtype=torch.int64)
    names, vocabulary = _names(len(values), modulus, multiplicity, generator)
    answers, inner = _is(targets, values, modulus), _is(inner, values, modulus)
    return Sums(names, vocabulary, modulus, values, train, answers, inner, rounds[targets])


def _check(modulus: int, increments: tuple[int, int], dead: float, held_out: float) -> None:
    """Raise ValueError for numbers that make no problem."""
    if modulus < 3:
        raise ValueError(f"modulus must be at least 3, got {modulus}")
    if not 0 <= dead <= 1 or not 0 <= held_out < 1:
        reason = "held_out must leave some sums to teach"
        raise ValueError(f"dead and held_out are shares: got {dead} and {held_out}; {reason}")
    if len({step % modulus for step in increments} - {0}) < 2:
        raise ValueError(f"increments {increments} must differ from each other and from 0 modulo {modulus}")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


def _is(entities: Tensor, values: Tensor, sign: int) -> Tensor:
    """The facts that say the value of each entity."""
    return torch.stack([entities, torch.full_like(entities, sign), values[entities]], 1)


def _rules(modulus: int, per_value: int, increments: tuple[int, int], generator: Generator) -> Tensor:
    """For every value and increment all pairs of core entities, with a random entity of the increment between them."""
    i, v, a, c = torch.cartesian_prod(*(torch.arange(n) for n in (modulus, 2, per_value, per_value))).T
    step = torch.tensor(increments)[v]
    first = modulus + 1 + a * modulus + i
    last = modulus + 1 + c * modulus + (i + step) % modulus
    second = modulus + 1 + torch.randint(per_value, step.shape, generator=generator) * modulus + step % modulus
    flip = torch.rand(len(first), generator=generator) < 0.5
    return torch.stack([torch.where(flip, second, first), torch.where(flip, first, second), last], 1).unique(dim=0)


def _names(count: int, modulus: int, multiplicity: int | None, generator: Generator) -> tuple[Tensor, int]:
    """Names of all entities and the size of the vocabulary.

    Values and the sign have one token each; the other names are drawn like those of the facts. Their number is rounded
    up to a multiple of `multiplicity`, so some tokens name fewer entities.
    """
    value_names, lowest = torch.arange(modulus + 1)[:, None] + FIRST_RELATION, FIRST_RELATION + modulus + 1
    rest = count - modulus - 1
    extra = 0 if multiplicity is None else -rest % multiplicity
    drawn = surface_names(rest + extra, multiplicity, generator) + lowest
    if drawn.shape[1] == 2:
        value_names = torch.cat([torch.full_like(value_names, PAD), value_names], 1)
    return torch.cat([value_names, drawn[:rest]]), int(drawn.max()) + 1


class _Tree:
    """Grows the problems: entities with values, and the sums that tie them together."""

    def __init__(
        self, modulus: int, per_value: int, increments: tuple[int, int], links: int, dead: float, generator: Generator
    ):
        self.modulus, self.per_value, self.increments = modulus, per_value, increments
        self.links, self.dead, self.generator = links, dead, generator
        self.values, self.facts, self.targets, self.inner = [], [], [], []

    def draw(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator))

    def core(self, value: int) -> int:
        """A random core entity of this value."""
        return self.modulus + 1 + self.draw(self.per_value) * self.modulus + value % self.modulus

    def entity(self, value: int) -> int:
        """A new entity of this value."""
        self.values.append(value % self.modulus)
        return self.modulus * (1 + self.per_value) + len(self.values)

    def problem(self, branching: int, depth: int) -> None:
        value = self.draw(self.modulus)
        self.targets.append(self.entity(value))
        self.grow(self.targets[-1], value, branching, depth, live=True)

    def tie(self, upper: int, value: int, lower: int | None = None, tied: bool = True) -> int:
        """Write one sum between `upper` and an entity below it, up or down by chance; returns the lower one's value.

        lower: None for a core entity of that value. tied: whether the sum is written at all.
        """
        step, upward = self.increments[self.draw(2)], self.draw(2) == 1
        below = (value - step if upward else value + step) % self.modulus
        lower = self.core(below) if lower is None else lower
        if tied:
            first, last = (lower, upper) if upward else (upper, lower)
            pair = [first, self.core(step)]
            self.facts.append([*(pair[::-1] if self.draw(2) else pair), last])
        return below

    def grow(self, node: int, value: int, branching: int, depth: int, live: bool) -> None:
        """Branches of a node. In a live one the first leads to core entities, a share `dead` of the others is cut."""
        for k in range(branching if depth else 0):
            grows = live and (k == 0 or not float(torch.rand((), generator=self.generator)) < self.dead)
            cut_above = not grows and depth == 1 and self.draw(2) == 1
            child = self.entity(0)  # its value follows from the edge
            below = self.tie(node, value, child, tied=not cut_above)
            self.values[-1] = below
            self.inner.append(child)
            if depth == 1:
                for _ in range(self.links if grows or cut_above else 0):
                    self.tie(child, below)
            else:
                self.grow(child, below, branching, depth - 1, live=grows)


def solve(facts: Int64[Tensor, "F 3"], values: Int64[Tensor, " E"], given: Tensor) -> tuple[Tensor, Tensor]:
    """Forward chaining: which entities' values follow from the facts, and after how many rounds (-1: never).

    The sign "is" copies a value. Raises ValueError where a fact contradicts `values`.
    """
    sign = int((values == -1).nonzero()[0])
    known, rounds = given.clone(), torch.where(given, 0, -1)
    a, b, c = facts.T
    total = torch.where(b == sign, values[a], values[a] + values[b]) % sign
    wrong = total != values[c]
    if bool(wrong.any()):
        raise ValueError(f"the fact {facts[wrong][0].tolist()} contradicts the values of its entities")
    for turn in range(1, len(values)):
        found = [part[known[x] & known[y] & ~known[part]] for part, x, y in ((a, b, c), (b, a, c), (c, a, b))]
        new = torch.cat(found).unique()
        if len(new) == 0:
            break
        known[new], rounds[new] = True, turn
    return known, rounds


def order_blind(sums: Sums) -> Float[Tensor, "E P"]:
    """A belief over every entity's value that ignores the order in a sum: which of the three numbers is the total.

    Every sum whose other two numbers are settled votes for the three ways to read it. An entity takes the value with
    the most votes, in equal shares where votes are equal. This is the control for chaining: a model that scores below
    it need not have used any order.
    """
    is_value = sums.train[:, 1] == sums.sign
    rows = sums.train[~is_value]
    settled = torch.arange(len(sums.value), device=rows.device) < sums.modulus
    settled[sums.train[is_value, 0]] = True
    belief_EP = torch.nn.functional.one_hot(sums.value.clamp(min=0), sums.modulus).float() * settled[:, None]
    for _ in sums.value:
        votes_EP = torch.zeros_like(belief_EP)
        for x, y, z in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
            ready = (settled[rows[:, y]] & settled[rows[:, z]]).float()[:, None]
            left, right = (torch.fft.rfft(belief_EP[rows[:, k]]) for k in (y, z))
            readings = left * right + left * right.conj() + left.conj() * right  # y + z, y - z, z - y
            votes_EP.index_add_(0, rows[:, x], torch.fft.irfft(readings, n=sums.modulus) * ready)
        new = ~settled & (votes_EP.sum(1) > 0.5)
        if not bool(new.any()):
            break
        most = votes_EP > votes_EP.amax(1, keepdim=True) - 1e-3
        belief_EP[new], settled = (most / most.sum(1, keepdim=True))[new], settled | new
    return belief_EP
