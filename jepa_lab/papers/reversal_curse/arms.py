"""The arms of the reversal-curse chapter: facts as a task, a model for every variant, and what trained models score.

Shape suffixes: F facts, b facts of this process's share, B facts of a batch, E entities, T tokens of a name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Generator, Tensor, nn

from jepa_lab import experiment
from jepa_lab.data.facts import generated
from jepa_lab.data.facts.generated import FIRST_RELATION, FactWorld
from jepa_lab.experiment import Arm
from jepa_lab.papers.reversal_curse import scores
from jepa_lab.papers.reversal_curse.blocks import Block
from jepa_lab.papers.reversal_curse.config import Config
from jepa_lab.papers.reversal_curse.models import ConceptJEPA, TokenAR
from jepa_lab.papers.reversal_curse.recognition import Memory, Recognition
from jepa_lab.papers.reversal_curse.scores import Recall
from jepa_lab.papers.reversal_curse.variants import VARIANTS, Variant


@dataclass(frozen=True)
class FactTask:
    """Facts on the training device, one row each. Nothing is drawn for them."""

    facts_F3: Int64[Tensor, "F 3"]

    @property
    def device(self) -> torch.device:
        return self.facts_F3.device

    def __len__(self) -> int:
        return len(self.facts_F3)

    def draw(self, idx_B: Int64[Tensor, " B"], generator: Generator) -> None:
        return None

    def load(self, idx_b: Int64[Tensor, " b"], drawn: None) -> Int64[Tensor, "b 3"]:
        return self.facts_F3[idx_b.to(self.device, non_blocking=True)]


def facts_of(cfg: Config, seed: int, device: str = "cpu") -> FactWorld:
    """The generated facts of a seed, with surface names."""
    generator = torch.Generator().manual_seed(seed)
    return generated.generate(cfg.num_taught, cfg.num_tested, cfg.num_pairs, cfg.multiplicity, generator).to(device)


def one_token_each(facts: FactWorld) -> FactWorld:
    """The same entities and facts at the concept level: every entity is one token of its own."""
    lowest = FIRST_RELATION + facts.num_relations
    names = torch.arange(facts.num_entities, device=facts.names.device)[:, None] + lowest
    return replace(facts, names=names, vocabulary=lowest + facts.num_entities)


# Models


def build(
    cfg: Config, variant: Variant, names: Int64[Tensor, "E T"], vocabulary: int, num_relations: int
) -> ConceptJEPA | TokenAR:
    """A fresh model of the variant, drawn from torch's global generator. num_relations 0: sums, not facts."""
    memory = Memory(names, vocabulary, cfg.width) if variant.memory else None
    upper = _blocks(cfg, cfg.semantic_layers, cfg.semantic_hidden)
    depth = 0 if variant.concept_level else cfg.recognition_layers
    if variant.kind == "ar":
        lower = [] if variant.memory else _blocks(cfg, depth, cfg.recognition_hidden)
        blocks = nn.ModuleList(lower + upper)
        return TokenAR(names, vocabulary, cfg.width, num_relations, blocks, variant.tied, memory)
    entities = memory or _recognition(cfg, vocabulary, depth)
    signs = _recognition(cfg, FIRST_RELATION + num_relations, 0) if memory else entities
    target = None if variant.tied else _recognition(cfg, vocabulary, cfg.recognition_layers)
    semantic = nn.ModuleList(upper)
    return ConceptJEPA(names, entities, signs, num_relations, semantic, target, cfg.layer_norm, cfg.language_weight)


def _blocks(cfg: Config, count: int, hidden: int) -> list[Block]:
    depth = cfg.recognition_layers + cfg.semantic_layers
    return [Block(cfg.width, cfg.heads, hidden * cfg.width, cfg.dropout, depth) for _ in range(count)]


def _recognition(cfg: Config, vocabulary: int, depth: int) -> Recognition:
    hidden = cfg.recognition_hidden * cfg.width
    return Recognition(vocabulary, cfg.width, cfg.heads, hidden, depth, cfg.dropout)


def footprint(cfg: Config, arm: Arm) -> dict[str, float]:
    """Size of an arm, without computing anything: parameters, GB for weights, gradients and Adam, TFLOP per step."""
    from torch.utils.flop_counter import FlopCounterMode

    cfg = replace(cfg, **arm.changes)
    with torch.device("meta"):
        model = arm.build(cfg).to("meta")
        batch_B3 = torch.zeros(cfg.batch_size, 3, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            arm.objective(model, batch_B3, None).backward()
    numbers = sum(p.numel() for p in model.parameters())
    tflop = counter.get_total_flops() / 1e12
    return {"parameters": numbers, "training_gb": 16 * numbers / 1e9, "tflop_per_step": tflop}


# Arms


def arms(cfg: Config, data: FactWorld, num_questions: int = 1000) -> dict[str, Arm]:
    """Every variant as an arm on the same facts. num_questions: asked per score at every log."""
    return {name: fact_arm(cfg, name, data, num_questions) for name in VARIANTS}


def fact_arm(cfg: Config, name: str, facts: FactWorld, num_questions: int = 1000) -> Arm:
    """One variant as an arm; variants on the concept level read the same facts with one token for every entity."""
    variant = VARIANTS[name]
    facts = one_token_each(facts) if variant.concept_level else facts
    model = partial(
        build,
        variant=variant,
        names=facts.names.cpu(),
        vocabulary=facts.vocabulary,
        num_relations=facts.num_relations,
    )
    measure = partial(scores.measure, facts=facts, num_questions=num_questions)
    return Arm(name, FactTask(facts.train), variant.objective, model, changes_of(cfg, variant), measure)


def changes_of(cfg: Config, variant: Variant) -> Mapping[str, Any]:
    """What a variant changes in the config; those on the concept level have steps and rates of their own."""
    if not variant.concept_level:
        return variant.changes
    decay = (cfg.concept_weight_decay, cfg.concept_weight_decay)
    return {"num_steps": cfg.concept_steps, "lr": cfg.concept_lr, "weight_decay": decay, **variant.changes}


class Trained(NamedTuple):
    """A trained model with its curves, its facts and its final scores."""

    model: ConceptJEPA | TokenAR
    history: dict[str, list[float]]  # empty for a random start
    facts: FactWorld
    reversed: Recall  # the test
    atomic: Recall  # the same facts as they were taught
    taught: Recall  # group A


def train_variant(
    cfg: Config, name: str, facts: FactWorld, seed: int, num_questions: int = 1000, ranked: int = 0, **how: Any
) -> Trained:
    """Train one variant on the facts, then ask it everything. ranked: see `scores.recall`. how: see `train.fit`."""
    arm = fact_arm(cfg, name, facts, num_questions)
    state = experiment.train_arm(cfg, arm, seed, **how)
    return examine(state.model, name, facts, state.history, num_questions, ranked)


def untrained(
    cfg: Config, name: str, facts: FactWorld, seed: int, num_questions: int = 1000, ranked: int = 0
) -> Trained:
    """The random start of a variant, a control, asked as in `train_variant`."""
    state, _ = experiment.start_arm(cfg, fact_arm(cfg, name, facts), seed)
    return examine(state.model, name, facts, {}, num_questions, ranked)


def examine(
    model: ConceptJEPA | TokenAR,
    name: str,
    facts: FactWorld,
    history: dict[str, list[float]],
    num_questions: int = 1000,
    ranked: int = 0,
) -> Trained:
    """The model of a variant with its scores; only reversed facts are ranked among spelled names."""
    facts = one_token_each(facts) if VARIANTS[name].concept_level else facts
    return Trained(
        model,
        history,
        facts,
        reversed=scores.score(model, facts, "reversed", num_questions, ranked),
        atomic=scores.score(model, facts, "atomic", num_questions),
        taught=scores.score(model, facts, "taught", num_questions),
    )


def ceiling(facts: FactWorld) -> Recall:
    """The relation-blind ceiling on the reversed facts."""
    return scores.blind(facts.partners(), facts.reversed)
