"""Sums that follow only from a chain of facts: how many values a model gives in one forward pass."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from jepa_lab import experiment
from jepa_lab.data.facts import sums as arithmetic
from jepa_lab.data.facts.sums import Sums
from jepa_lab.experiment import Arm
from jepa_lab.papers.reversal_curse.arms import FactTask, build
from jepa_lab.papers.reversal_curse.config import Config
from jepa_lab.papers.reversal_curse.scores import value_accuracy
from jepa_lab.papers.reversal_curse.variants import VARIANTS

ORDER_BLIND = "order-blind reader"

# Right answers of 20 problems by branching factor, from the authors' cached outputs (branching 40: second hand).
FRONTIER = {"o3-mini-high": {10: 17, 20: 4, 30: 0, 40: 0}, "Gemini 2.0 Flash Thinking": {10: 9, 20: 9, 30: 7, 40: 5}}


def sums_of(cfg: Config, branching: int, seed: int, device: str = "cpu") -> Sums:
    """The problems of a seed at one branching factor."""
    sums = arithmetic.generate(
        cfg.modulus,
        cfg.per_value,
        cfg.increments,
        cfg.num_problems,
        branching,
        torch.Generator().manual_seed(seed),
        cfg.chain_depth,
        multiplicity=cfg.multiplicity,
    )
    moved = {name: part.to(device) for name, part in vars(sums).items() if isinstance(part, Tensor)}
    return replace(sums, **moved)


def sum_arm(cfg: Config, name: str, sums: Sums) -> Arm:
    """One variant as an arm that is trained on sums for `cfg.chain_steps`."""
    variant = VARIANTS[name]
    model = partial(build, variant=variant, names=sums.names.cpu(), vocabulary=sums.vocabulary, num_relations=0)
    steps = {"num_steps": cfg.chain_steps, "log_every": min(cfg.log_every, cfg.chain_steps)}
    return Arm(name, FactTask(sums.train), variant.objective, model, {**variant.changes, **steps})


def chain(cfg: Config, name: str, sums: Sums, seed: int, progress: bool = False) -> dict[str, float]:
    """Train one variant on sums; its share of right values for targets, entities between, and taught entities."""
    model = experiment.train_arm(cfg, sum_arm(cfg, name, sums), seed, progress=progress).model
    asked = {"answers": sums.answers, "inner": sums.inner, "taught": sums.train[sums.train[:, 1] == sums.sign]}
    return {kind: value_accuracy(model, rows_B3, sums.modulus) for kind, rows_B3 in asked.items()}


def order_blind(sums: Sums) -> dict[str, float]:
    """Share of right values of a reader who knows which numbers make a sum, but not which of them is the total."""
    belief_EP = arithmetic.order_blind(sums)
    asked = {"answers": sums.answers, "inner": sums.inner}
    return {kind: float(belief_EP[rows[:, 0]].gather(1, rows[:, 2:]).mean()) for kind, rows in asked.items()}


def chained(
    cfg: Config, branchings: tuple[int, ...], seed: int, device: str, progress: bool, names: tuple[str, ...]
) -> dict[str, float]:
    """Shares of right values, as 'branching 4, JEPA + memory: answers', for the variants and the order-blind reader."""
    shares = {}
    for branching in branchings:
        sums = sums_of(cfg, branching, seed, device)
        by_name = {ORDER_BLIND: order_blind(sums)}
        by_name |= {name: chain(cfg, name, sums, seed, progress) for name in names}
        for name, kinds in by_name.items():
            shares |= {f"branching {branching}, {name}: {kind}": share for kind, share in kinds.items()}
    return shares
