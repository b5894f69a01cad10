"""The arms of the reversal-curse chapter: every model with its training, on the world of a seed.

One config for all of them, one table of arms (`ARMS`), one function that trains an arm and asks it everything. At the
width of a laptop some things had to differ from the paper. For every model: more heads and a narrower semantic MLP (the
relation must gate the subject rather than be memorised with it), and much faster forgetting: weight decay 4 at rate
0.008
for all arms on names, 2 at 0.01 for those on concepts, which also train for fewer steps (the paper's 0.1 at 0.0001
forgets
as slowly as 3 million steps allow). For JEPA: a LayerNorm before the scalar product also without a memory (the paper:
only
with one). The rate falls by a cosine except where a `SteadyConfig` holds it, as the preset `paper` does throughout.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from jepa_lab import diagnostics, train
from jepa_lab.data.facts import generated as facts
from jepa_lab.data.facts import real as real_facts
from jepa_lab.papers.reversal_curse import models as binding
from jepa_lab.papers.reversal_curse import scores as recall
from jepa_lab.papers.reversal_curse.models import ConceptJEPA, TokenAR


@dataclass(frozen=True)
class Config(train.Config):
    """The world, the models and how long each experiment trains."""

    num_steps: int = 3500  # of every arm on names
    batch_size: int = 256
    lr: float = 8e-3
    warmup: float = 0.02
    weight_decay: tuple[float, float] = (4.0, 4.0)
    betas: tuple[float, float] = (0.9, 0.99)  # paper: 0.9, 0.999
    log_every: int = 500
    num_taught: int = 400  # |E_A|; paper: 2.5, 50 and 100 thousand
    num_tested: int = 240  # |E_B| = 0.6 |E_A|
    num_pairs: int = 3  # R; paper: 6
    multiplicity: int = 2  # entities per name token; paper: 10 and 20
    width: int = 48
    heads: int = 12
    recognition_layers: int = 1
    semantic_layers: int = 1
    recognition_hidden: int = 4  # MLP width in widths, as in the paper
    semantic_hidden: int = 2  # paper: 4
    dropout: float = 0.0  # paper: 0.1
    patient_steps: int = 7000  # of the arms in the long experiment on patience
    concept_steps: int = 3000  # of the autoregressive arms on concepts
    concept_lr: float = 1e-2
    concept_weight_decay: float = 2.0
    multiplicities: tuple[int, ...] = (1, 2, 4)
    recognition_depths: tuple[int, ...] = (1, 2)
    modulus: int = 23  # of the sums; paper: 10,007
    per_value: int = 10  # core entities per value, as in the paper
    increments: tuple[int, int] = (3, 7)  # paper: drawn from 10 to 49
    num_problems: int = 60  # paper: 20
    branching: int = 4  # paper: 10, 20, 30, 40
    branchings: tuple[int, ...] = (2, 4, 8)  # of the long experiment
    chain_depth: int = 2  # levels below the target
    chain_steps: int = 800
    ranked: int = 100  # reversed questions for which a spelling model ranks all whole names
    arm: str = "JEPA"  # what headless training trains, a name in ARMS
    language_weight: float = 0.0  # of the paper's optional loss on the spelled answer; 0 as in its scripts
    layer_norm: bool = (
        True  # on prediction and candidates; False: z / RMS(z) against raw candidates (the paper's plain JEPA)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.arm not in ARMS:
            raise ValueError(f"no arm {self.arm!r}; there are: {'; '.join(ARMS)}")
        if not 2 <= self.num_pairs <= len(real_facts.PAIRS):
            raise ValueError(
                f"num_pairs = {self.num_pairs}: with fewer than 2 there is no other partner to beat, and words are there for {len(real_facts.PAIRS)}"
            )


@dataclass(frozen=True)
class SteadyConfig(Config):
    """The rate stays at its peak for `hold` of the steps after the warm-up (1: to the end, as in the paper), then
    falls.
    """

    hold: float = 0.7


# Arms: one model each, with what differs from the config


@dataclass(frozen=True)
class Arm:
    """A model and how it is trained. kind: 'jepa' or 'ar'; memory stands in for the recognition layers."""

    kind: str
    memory: bool = False
    tied: bool = True  # AR: one embedding for input and output; JEPA: one recognition module for input and target
    loss: Callable | None = None  # None: the kind's own
    concept_level: bool = False  # every entity is one token of its own
    changes: dict | None = None


ARMS = {
    "AR": Arm("ar"),
    "JEPA": Arm("jepa"),
    "JEPA + memory": Arm("jepa", memory=True, changes={"layer_norm": True}),
    "AR + memory": Arm("ar", memory=True),
    "AR, concepts": Arm("ar", concept_level=True),
    "AR, concepts, untied": Arm("ar", concept_level=True, tied=False),
    "JEPA, stop-gradient": Arm("jepa", loss=partial(binding.jepa_loss, stop_gradient=True)),
    "JEPA, squared distance": Arm("jepa", loss=partial(binding.jepa_loss, contrast=False)),
    "JEPA, distance and stop-gradient": Arm(
        "jepa", loss=partial(binding.jepa_loss, contrast=False, stop_gradient=True)
    ),
    "JEPA, untied": Arm("jepa", tied=False),
    "JEPA, duplicates compete": Arm("jepa", loss=partial(binding.jepa_loss, mask_duplicates=False)),
    "JEPA, no LayerNorm": Arm("jepa", changes={"layer_norm": False}),
    "JEPA + memory, equal weights": Arm(
        "jepa", memory=True, changes={"layer_norm": True, "semantic_hidden": 8}
    ),  # as many as JEPA at laptop
}


def world_of(cfg: Config, seed: int, concept_level: bool = False) -> facts.World:
    """The generated world of a seed; surface names and concept level share entities and facts."""
    generator = torch.Generator().manual_seed(seed)
    return facts.generate(
        cfg.num_taught, cfg.num_tested, cfg.num_pairs, None if concept_level else cfg.multiplicity, generator
    )


def build(cfg: Config, arm: Arm, names: Tensor, vocabulary: int, num_relations: int) -> ConceptJEPA | TokenAR:
    """A fresh model on the current default device and random state."""
    rec, sem, width = cfg.recognition_layers, cfg.semantic_layers, cfg.width
    depth = rec + sem

    def blocks(count: int, ratio: int) -> list[binding.Block]:
        return [binding.Block(width, cfg.heads, ratio * width, cfg.dropout, depth) for _ in range(count)]

    def recognition(tokens: int, layers: int) -> binding.Recognition:
        return binding.Recognition(tokens, width, cfg.heads, cfg.recognition_hidden * width, layers, cfg.dropout)

    memory = binding.Memory(names, vocabulary, width) if arm.memory else None
    semantic = blocks(sem, cfg.semantic_hidden)
    if arm.kind == "ar":
        lower = [] if arm.memory or arm.concept_level else blocks(rec, cfg.recognition_hidden)
        return TokenAR(names, vocabulary, width, num_relations, nn.ModuleList(lower + semantic), arm.tied, memory)
    entities = memory or recognition(vocabulary, 0 if arm.concept_level else rec)
    signs = recognition(facts.FIRST_RELATION + num_relations, 0) if memory else entities
    target = None if arm.tied else recognition(vocabulary, rec)
    return ConceptJEPA(
        names, entities, signs, num_relations, nn.ModuleList(semantic), target, cfg.layer_norm, cfg.language_weight
    )


def footprint(cfg: Config, name: str) -> dict[str, float]:
    """An arm at full size without computing anything: parameters, GB of weights, gradients and Adam state, TFLOP per
    step.
    """
    from torch.utils.flop_counter import FlopCounterMode

    arm = ARMS[name]
    cfg = settings(cfg, arm)
    world = world_of(cfg, 0, arm.concept_level)
    with torch.device("meta"):
        model = build(cfg, arm, world.names, world.vocabulary, world.num_relations).to("meta")
        batch = torch.zeros(cfg.batch_size, 3, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            loss_of(arm)(model, batch).backward()
    numbers = sum(p.numel() for p in model.parameters())
    return {
        "parameters": numbers,
        "training_gb": 16 * numbers / 1e9,
        "tflop_per_step": counter.get_total_flops() / 1e12,
    }


def loss_of(arm: Arm) -> Callable:
    """What an arm minimises: (model, facts) -> loss."""
    return arm.loss or (binding.jepa_loss if arm.kind == "jepa" else binding.ar_loss)


class Trained(NamedTuple):
    """A trained arm with its curves and its final scores."""

    run: train.Run
    world: facts.World
    reversed: recall.Recall  # the test
    atomic: recall.Recall  # the same facts as they were taught
    taught: recall.Recall  # group A

    @property
    def history(self) -> dict[str, list[float]]:
        return self.run.history


def settings(cfg: Config, arm: Arm) -> Config:
    """The config with an arm's own rate and changes."""
    own = {}
    if arm.concept_level:
        own = dict(num_steps=cfg.concept_steps, lr=cfg.concept_lr, weight_decay=(cfg.concept_weight_decay,) * 2)
    return replace(cfg, **own, **(arm.changes or {}))


def train_arm(
    cfg: Config,
    name: str,
    seed: int,
    device: str = "cpu",
    progress: bool = False,
    checkpoint: Path | None = None,
    probe: int = 1000,
    world: facts.World | None = None,
    ranked: int = 0,
    fit: bool = True,
) -> Trained:
    """Train one arm of `ARMS` on the world of this seed, or on the one given, and ask it everything; `probe` questions
    per score.

    `checkpoint` resumes an earlier run of the same settings. ranked: so many reversed questions are ranked among all
    names
    also where names are spelled. fit=False: the random start, a control.
    The history holds the scores on reversed ("test") and atomic ("trained") facts and, for a JEPA, the collapse panel
    of its concepts.
    """
    arm = ARMS[name]
    cfg = settings(cfg, arm)
    world = (world or world_of(cfg, seed, arm.concept_level)).to(device)
    partners = world.partners().to(device)

    def score(questions: Tensor, ranked: int = 0) -> recall.Recall:
        order = torch.randperm(
            len(questions), generator=torch.Generator().manual_seed(0)
        )  # the first are all of one relation
        return recall.recall(run.model, questions[order[:probe].to(device)], partners, ranked)

    def watch(model: nn.Module) -> dict[str, float]:
        at = {"test": score(world.reversed), "trained": score(world.atomic)}
        health = (
            diagnostics.panel(model.concepts(torch.arange(min(probe, world.num_entities), device=device)))
            if isinstance(model, ConceptJEPA)
            else {}
        )
        return health | {
            f"{split} {field}": value for split, scores in at.items() for field, value in scores._asdict().items()
        }

    run = start(cfg, arm, world.names, world.vocabulary, world.num_relations, seed, device)
    if fit:
        recall.fit(run, cfg, world.train, loss_of(arm), watch, checkpoint, max(1, cfg.num_steps // 20), progress)
    return Trained(run, world, score(world.reversed, ranked), score(world.atomic), score(world.taught))


def start(
    cfg: Config, arm: Arm, names: Tensor, vocabulary: int, num_relations: int, seed: int, device: str = "cpu"
) -> train.Run:
    """A fresh run whose weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        run = train.start(build(cfg, arm, names.cpu(), vocabulary, num_relations), seed, device)
    for group in run.optimizer.param_groups:
        group["betas"] = cfg.betas
    return run


def ceiling(one: Trained) -> recall.Recall:
    """The relation-blind ceiling on an arm's test questions."""
    return recall.blind(one.world.partners(), one.world.reversed)
