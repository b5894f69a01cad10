"""Wang & Sun 2025, "Is the Reversal Curse a Binding Problem?" (arXiv 2504.01928): the experiments of chapter 11.

The facts live in `data.facts`, sums in `data.arithmetic`, the models in `binding`, scores and the loop in `recall`, the
alpha . beta diagnostic in `entanglement`, the arms and what differs from the paper in `fact_arms`, the claims in
`fact_claims`; here they meet.

A chapter's five minutes hold `EXPERIMENTS`. What needs longer is in `LONG`: `long_study(name, seed)` stores a record of
the preset "long", which the page judges with `claims.table(LONG_CLAIMS[name], ...)` by the same rule.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from jepa_lab import configs as presets
from jepa_lab.data.facts import sums as arithmetic
from jepa_lab.papers.reversal_curse import entanglement
from jepa_lab.papers.reversal_curse import scores as recall
from jepa_lab.papers.reversal_curse.arms import (
    ARMS,
    Arm,
    Config,
    SteadyConfig,
    Trained,
    ceiling,
    loss_of,
    start,
    train_arm,
)
from jepa_lab.papers.reversal_curse.claims import CHAPTER, LONG_CLAIMS
from jepa_lab.probes.scores import Score, wilson
from jepa_lab.records import Run
from jepa_lab.records import start as start_record

# accuracy out of 20 problems by branching factor, read in the authors' cached outputs (40: 5 of 20 for Gemini, 0 for
# o3)
FRONTIER = {"o3-mini-high": {10: 17, 20: 4, 30: 0, 40: 0}, "Gemini 2.0 Flash Thinking": {10: 9, 20: 9, 30: 7, 40: 5}}


def preset(name: str, **overrides) -> Config:
    """Config of a preset: smoke, laptop, long, large, gpu or paper. Unknown names and unknown overrides raise
    ValueError.
    """
    named = {
        "smoke": Config(
            num_steps=8,
            batch_size=32,
            log_every=4,
            num_taught=40,
            num_tested=24,
            width=16,
            heads=4,
            patient_steps=8,
            concept_steps=8,
            chain_steps=4,
            modulus=7,
            per_value=2,
            increments=(1, 3),
            num_problems=2,
            branching=2,
            branchings=(1, 2),
            ranked=4,
        ),
        "laptop": Config(),
        "long": Config(chain_steps=1000),  # the experiments of LONG at the same size
        # the paper's smallest world, R = 6; width, heads, rate and schedule chosen on pilot seed 100
        "large": SteadyConfig(
            batch_size=1024,
            warmup=0.04,
            log_every=250,
            num_taught=2500,
            num_tested=1500,
            num_pairs=6,
            width=128,
            heads=64,
            semantic_hidden=1,
            concept_steps=2500,
        ),
        "gpu": Config(
            num_steps=60_000,
            batch_size=1024,
            lr=1e-3,
            weight_decay=(1.0, 1.0),
            log_every=2000,
            num_taught=10_000,
            num_tested=6000,
            num_pairs=6,
            multiplicity=10,
            width=256,
            heads=32,
            concept_steps=60_000,
            concept_lr=2e-3,
            concept_weight_decay=1.0,
            precision="bf16",
        ),
        "paper": SteadyConfig(
            hold=1.0,
            num_steps=3_000_000,
            batch_size=1024,
            lr=1e-4,
            warmup=2000 / 3_000_000,
            weight_decay=(0.1, 0.1),
            betas=(0.9, 0.999),
            log_every=5000,
            num_taught=50_000,
            num_tested=30_000,
            num_pairs=6,
            multiplicity=10,
            width=768,
            heads=12,
            concept_steps=3_000_000,
            concept_lr=1e-4,
            concept_weight_decay=0.1,
            semantic_hidden=4,
            dropout=0.1,
            layer_norm=False,
            precision="bf16",
        ),
    }
    return presets.choose(named, name, overrides)


# Experiments: each trains some arms on one seed's world and returns what the figures and claims need


class Outcome(NamedTuple):
    """What an experiment measured: trained arms by name, tables for figures, (value, baseline) for its claims."""

    trained: dict[str, Trained]
    data: dict
    claims: dict[str, tuple[float, float]]

    def put(self, record: Run) -> None:
        """Write claims, final scores and learning curves into a run's record, and print the claims."""
        for id, (value, baseline) in self.claims.items():
            record.claim(id, value=value, baseline=baseline)
            claim = record.claims[id]
            print(
                f"{id}: {value:.4g} against {baseline:.4g} ({claim.direction} is as claimed, margin {claim.margin:g})"
            )
        for name, one in self.trained.items():
            for split, scores in (("test", one.reversed), ("trained", one.atomic), ("group A", one.taught)):
                for field, value in scores._asdict().items():
                    if value == value:
                        record.value(f"{name}: {split} {field}", value)
            record.value(f"{name}: weights", sum(p.numel() for p in one.run.model.parameters()))
            for layer, cosines in entanglement.by_layer(one.run.model).items():
                for said, value in zip(("sharing", "other"), cosines):
                    if value == value:
                        record.value(f"{name}: cosine of {said} names, {layer}", value)
            for field in ("test accuracy", "test over_partner", "trained accuracy"):
                if one.history:  # the random start has none
                    record.series(f"{name}: {field}", one.history["step"], one.history[field])
            for field in ("feature_std", "rankme", "cosine_to_mean"):
                if field in one.history:
                    record.value(f"{name}: {field}", one.history[field][-1])
        for name, value in self.data.items():
            if isinstance(value, float) and value == value:
                record.value(name, value)


def names_duel(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Outcome:
    """Claims 1, 2, 4 and 5: names of two tokens, equal worlds, widths and steps; with and without a memory; random
    starts as control.

    The alpha . beta overlap is measured on the JEPA without a memory.
    """
    done = {
        name: train_arm(cfg, name, seed, device, progress, ranked=cfg.ranked)
        for name in ("AR", "JEPA", "AR + memory", "JEPA + memory")
    }
    blind, measured = ceiling(done["JEPA"]), diagnose(done["JEPA"])
    ar, jepa, ar_memory, memory = (one.reversed for one in done.values())
    overlap, contamination = measured.mean()
    data = {
        "blind accuracy": blind.accuracy,
        "blind mrr": blind.mrr,
        "overlap": overlap,
        "contamination": contamination,
        "pairs": measured,
    }
    done |= {
        f"{name}, untrained": train_arm(cfg, name, seed, device, ranked=cfg.ranked, fit=False)
        for name in ("AR", "JEPA")
    }
    return Outcome(
        done,
        data,
        {
            "ar-memorises": (done["AR"].atomic.accuracy, 0.9),
            "ar-curse": (ar.accuracy, 0.05),
            "ar-curse-closed": (ar.closed, 0.05),
            "jepa-over-ar": (jepa.accuracy, ar.accuracy),
            "jepa-over-blind": (jepa.accuracy, blind.accuracy),
            "jepa-mrr-over-blind": (jepa.mrr, blind.mrr),
            "jepa-relation": (jepa.over_partner, 0.5),
            "memory-restores": (memory.accuracy, jepa.accuracy),
            "memory-over-blind": (memory.accuracy, blind.accuracy),
            "memory-mrr-over-blind": (memory.mrr, blind.mrr),
            "memory-relation": (memory.over_partner, 0.5),
            "ar-memory-curse": (ar_memory.accuracy, 0.05),
            "overlap-predicts": (measured.correlation(), 0.0),
        },
    )


def concept_duel(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Outcome:
    """Claim 3: every entity one token; is the input embedding also the output head?"""
    done = {name: train_arm(cfg, name, seed, device, progress) for name in ("AR, concepts", "AR, concepts, untied")}
    tied, untied = (one.reversed for one in done.values())
    blind = ceiling(done["AR, concepts"])
    alike = {f"{name}: consistency": entanglement.consistency(one.run.model) for name, one in done.items()}
    return Outcome(
        done,
        alike | {"blind accuracy": blind.accuracy, "blind mrr": blind.mrr},
        {
            "concept-relation": (tied.over_partner, 0.5),
            "concept-over-blind": (tied.accuracy, blind.accuracy),
            "concept-mrr-over-blind": (tied.mrr, blind.mrr),
            "concept-untied": (untied.accuracy, 0.05),
            "concept-tying": (tied.accuracy, untied.accuracy),
        },
    )


def entangled(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Outcome:
    """Claim 4, long: name tokens shared by more entities, and deeper recognition, with their alpha . beta diagnostics."""
    cells = [(m, 1) for m in cfg.multiplicities] + [(cfg.multiplicity, d) for d in cfg.recognition_depths if d != 1]
    done = {
        cell: train_arm(replace(cfg, multiplicity=cell[0], recognition_layers=cell[1]), "JEPA", seed, device, progress)
        for cell in cells
    }
    data = {"blind accuracy": ceiling(done[cells[0]]).accuracy}
    for (m, depth), one in done.items():
        measured = diagnose(one)
        sizes = ("correlation", measured.correlation()), *zip(("overlap", "contamination"), measured.mean())
        data |= {f"multiplicity {m}, recognition {depth}: {name}": value for name, value in sizes}
    score = {cell: one.reversed.accuracy for cell, one in done.items()}
    deepest = cfg.multiplicity, max(cfg.recognition_depths)
    return Outcome(
        {f"JEPA, multiplicity {m}, recognition {d}": one for (m, d), one in done.items()},
        data,
        {
            "multiplicity-hurts": (score[max(cfg.multiplicities), 1], score[min(cfg.multiplicities), 1]),
            "depth-hurts": (score[deepest], score[cfg.multiplicity, 1]),
        },
    )


def diagnose(one: Trained, num_taught: int = 16, num_others: int = 400) -> entanglement.Entanglement:
    """alpha . beta and contamination between some taught facts' subjects and many entities; the draw is always the
    same.
    """
    generator = torch.Generator().manual_seed(0)
    pick = torch.randperm(len(one.world.train), generator=generator)[:num_taught]
    others = torch.randperm(one.world.num_entities, generator=generator)[:num_others].to(one.world.names.device)
    return entanglement.measure(one.run.model, one.world.train[pick.to(others.device)], others)


def ablations(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Outcome:
    """Claims 5 and 6, long: one thing changed at a time, a memory in a model of equal size among them."""
    arms = ["JEPA", "JEPA + memory, equal weights"] + [name for name in ARMS if name.startswith("JEPA,")]
    done = {name: train_arm(cfg, name, seed, device, progress) for name in arms}
    blind, score = ceiling(done["JEPA"]).accuracy, {name: one.reversed.accuracy for name, one in done.items()}
    against = {
        "memory-restores-equal": "JEPA + memory, equal weights",
        "untied-fails": "JEPA, untied",
        "stop-gradient-hurts": "JEPA, stop-gradient",
        "duplicates-hurt": "JEPA, duplicates compete",
    }
    return Outcome(
        done,
        {"blind accuracy": blind},
        {id: (score[name], score["JEPA"]) for id, name in against.items()}
        | {
            "distance-fails": (done["JEPA, distance and stop-gradient"].atomic.accuracy, 0.5),
            "distance-collapses": (done["JEPA, squared distance"].history["rankme"][-1], 2.0),
            "plain-fails": (score["JEPA, no LayerNorm"], blind),
        },
    )


def patience(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Outcome:
    """Claims 1 and 2, long: do the autoregressive model, with or without a memory, and JEPA only need more patience?"""
    done = {
        name: train_arm(replace(cfg, num_steps=cfg.patient_steps), name, seed, device, progress)
        for name in ("AR", "AR + memory", "JEPA")
    }
    worst = max(done[name].reversed.accuracy for name in ("AR", "AR + memory"))
    blind = ceiling(done["AR"]).accuracy
    return Outcome(
        done,
        {"blind accuracy": blind},
        {"ar-curse-long": (worst, 0.05), "jepa-over-blind-long": (done["JEPA"].reversed.accuracy, blind)},
    )


def large_concepts(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Outcome:
    """Claim 3, long: one token per entity at the size of the paper's Table 1, 2.5 thousand entities and R = 6; the
    random start as control.
    """
    one = train_arm(cfg, "AR, concepts", seed, device, progress, probe=3000)
    start, blind = train_arm(cfg, "AR, concepts", seed, device, probe=3000, fit=False), ceiling(one)
    return Outcome(
        {"AR, concepts": one, "AR, concepts, untrained": start},
        {"blind accuracy": blind.accuracy, "blind mrr": blind.mrr},
        {
            "concept-mrr-large": (one.reversed.mrr, 0.8),
            "concept-mrr-over-blind-large": (one.reversed.mrr, blind.mrr),
            "concept-relation-large": (one.reversed.over_partner, 0.5),
        },
    )


CHAINED = ("JEPA + memory", "AR", "AR + memory")
ORDER_BLIND = "order-blind reader"


def chaining(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Outcome:
    """Claim 7: values of named numbers that only a chain of sums gives; JEPA with memory against AR, without and with
    one.
    """
    data = chained(cfg, (cfg.branching,), seed, device, progress, CHAINED)
    right = {
        name: {kind: data[f"branching {cfg.branching}, {name}: {kind}"] for kind in ("answers", "inner")}
        for name in CHAINED
    }
    ours, theirs = right["JEPA + memory"], right["AR"]
    return Outcome(
        {},
        data | {"chance": 1 / cfg.modulus},
        {
            "chaining-answers": (ours["answers"], theirs["answers"]),
            "chaining-over-chance": (ours["answers"], 1 / cfg.modulus),
            "chaining-over-order": (ours["answers"], data[f"branching {cfg.branching}, {ORDER_BLIND}: answers"]),
            "chaining-inner": (ours["inner"], theirs["inner"]),
        },
    )


def wider(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Outcome:
    """Claim 7, long: does accuracy survive a growing number of branches?"""
    data = chained(cfg, cfg.branchings, seed, device, progress, ("JEPA + memory", "AR + memory"))
    most, few, order, theirs = (
        data[f"branching {b}, {name}: answers"]
        for b, name in (
            (max(cfg.branchings), "JEPA + memory"),
            (min(cfg.branchings), "JEPA + memory"),
            (max(cfg.branchings), ORDER_BLIND),
            (max(cfg.branchings), "AR + memory"),
        )
    )
    return Outcome(
        {},
        data | {"chance": 1 / cfg.modulus},
        {
            "chaining-branching": (most, few),
            "chaining-branching-order": (most, order),
            "chaining-branching-memory": (most, theirs),
        },
    )


def chained(
    cfg: Config, branchings: tuple[int, ...], seed: int, device: str, progress: bool, arms: tuple[str, ...]
) -> dict[str, float]:
    """Shares of right values by branching, arm or control, and kind of question."""
    data = {}
    for branching in branchings:
        sums = sums_of(cfg, branching, seed, device)
        belief_EP = arithmetic.order_blind(sums)
        for kind, asked in (("answers", sums.answers), ("inner", sums.inner)):
            data[f"branching {branching}, {ORDER_BLIND}: {kind}"] = float(
                belief_EP[asked[:, 0]].gather(1, asked[:, 2:]).mean()
            )
        for name in arms:
            scores = chain(cfg, ARMS[name], sums, seed, device, progress)
            data |= {f"branching {branching}, {name}: {kind}": value for kind, value in scores.items()}
    return data


def sums_of(cfg: Config, branching: int, seed: int, device: str = "cpu") -> arithmetic.Sums:
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
    return replace(sums, **{k: v.to(device) for k, v in vars(sums).items() if isinstance(v, Tensor)})


def chain(
    cfg: Config, arm: Arm, sums: arithmetic.Sums, seed: int, device: str = "cpu", progress: bool = False
) -> dict[str, float]:
    """Train one arm on sums; share of right values for targets, inner entities and taught ones, in one forward pass."""
    cfg = replace(cfg, num_steps=cfg.chain_steps, log_every=min(cfg.log_every, cfg.chain_steps))
    run = start(cfg, arm, sums.names, sums.vocabulary, 0, seed, device)
    recall.fit(run, cfg, sums.train, loss_of(arm), progress=progress)
    return {
        "answers": recall.value_accuracy(run.model, sums.answers, sums.modulus),
        "inner": recall.value_accuracy(run.model, sums.inner, sums.modulus),
        "taught": recall.value_accuracy(run.model, sums.train[sums.train[:, 1] == sums.sign], sums.modulus),
    }


EXPERIMENTS = (names_duel, concept_duel, chaining)
LONG: dict[str, Callable] = {
    "patience": patience,
    "entanglement": entangled,
    "ablations": ablations,
    "branching": wider,
    "large concepts": large_concepts,
}


def long_config(name: str) -> dict:
    """What the record of a long experiment holds as its config: its preset and the experiment's name."""
    return {"experiment": name} | asdict(preset(long_preset(name)))


def long_preset(name: str) -> str:
    """Which sizes a long experiment has."""
    return "large" if name == "large concepts" else "long"


def long_study(name: str, seed: int, out: Path | None = None) -> Path:
    """Run one experiment of `LONG` (minutes) and store its record under the preset "long"; returns the record's path."""
    if name not in LONG:
        raise ValueError(f"no long experiment {name!r}; there are: {', '.join(LONG)}")
    record = start_record(
        CHAPTER, preset="long", seed=seed, config=long_config(name), claims=LONG_CLAIMS[name], out=out
    )
    record.data("generated facts", "data/facts.py", kind="generated")
    LONG[name](preset(long_preset(name)), seed, progress=True).put(record)
    return record.save()


def headless(cfg: Config, out: Path, seed: int = 0, resume: bool = False, micro_batches: int = 1) -> dict[str, Score]:
    """Train the arm `cfg.arm` with checkpoints in `out`, on a GPU where there is one; its accuracy by kind of question.

    Raises ValueError for micro-batches: the candidates of the contrast are the batch, which therefore cannot be cut.
    """
    checkpoint = out / f"{cfg.arm.replace(' ', '-').replace(',', '')}.pt"
    if micro_batches != 1:
        raise ValueError(
            "the batch is the set of candidates, so it cannot be cut into micro-batches; lower batch_size instead"
        )
    if checkpoint.exists() and not resume:
        raise ValueError(f"{checkpoint} exists: go on with --resume, or choose another --out")
    one = train_arm(cfg, cfg.arm, seed, "cuda" if torch.cuda.is_available() else "cpu", True, checkpoint, probe=3000)
    shares = {
        "reversed": (one.reversed, one.world.reversed),
        "trained": (one.atomic, one.world.atomic),
        "group A": (one.taught, one.world.taught),
    }
    counts = {name: (scores.accuracy, min(3000, len(asked))) for name, (scores, asked) in shares.items()}
    blind = ceiling(one).accuracy
    found = {name: Score(share, *wilson(round(share * n), n), n) for name, (share, n) in counts.items()}
    return found | {"relation-blind ceiling": Score(blind, blind, blind, counts["reversed"][1])}
