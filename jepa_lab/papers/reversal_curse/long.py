"""The experiments that need more than a chapter's five minutes; their records are stored under the preset "long".

The page draws the stored records and judges them with `claims.table(LONG_CLAIMS[name], ...)`; nothing is trained there.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from jepa_lab import records
from jepa_lab.experiment import Measured
from jepa_lab.papers.reversal_curse import entanglement
from jepa_lab.papers.reversal_curse.arms import ceiling, facts_of, train_variant, untrained
from jepa_lab.papers.reversal_curse.chains import ORDER_BLIND, chained
from jepa_lab.papers.reversal_curse.claims import CHAPTER, LONG_CLAIMS
from jepa_lab.papers.reversal_curse.config import Config, long_config, long_preset, preset
from jepa_lab.papers.reversal_curse.experiments import measured
from jepa_lab.papers.reversal_curse.variants import VARIANTS

# Variants of the ablations: JEPA with one thing changed, and the memory in a model of equal size
ABLATED = ("JEPA", "JEPA + memory, equal weights", *(name for name in VARIANTS if name.startswith("JEPA,")))


def patience(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Measured:
    """Claims 1 and 2: twice the steps for the autoregressive model, with and without a memory, and for JEPA."""
    facts = facts_of(cfg, seed, device)
    longer = replace(cfg, num_steps=cfg.patient_steps)
    names = ("AR", "AR + memory", "JEPA")
    trained = {name: train_variant(longer, name, facts, seed, progress=progress) for name in names}
    best_ar = max(trained[name].reversed.accuracy for name in ("AR", "AR + memory"))
    blind = ceiling(facts).accuracy
    claims = {"ar-curse-long": (best_ar, 0.05), "jepa-over-blind-long": (trained["JEPA"].reversed.accuracy, blind)}
    return measured(trained, {"blind accuracy": blind}, claims)


def entangled(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Measured:
    """Claim 4: more entities share a name token, or recognition is deeper; each with its alpha . beta diagnostics."""
    cells = [(multiplicity, 1) for multiplicity in cfg.multiplicities]
    cells += [(cfg.multiplicity, depth) for depth in cfg.recognition_depths if depth != 1]
    trained, values, accuracy = {}, {}, {}
    for multiplicity, depth in cells:
        cell = replace(cfg, multiplicity=multiplicity, recognition_layers=depth)
        facts = facts_of(cell, seed, device)
        label = f"multiplicity {multiplicity}, recognition {depth}"
        jepa = trained[f"JEPA, {label}"] = train_variant(cell, "JEPA", facts, seed, progress=progress)
        found = entanglement.measure_some(jepa.model, facts)
        overlap, contamination = found.mean()
        values |= {"blind accuracy": ceiling(facts).accuracy, f"{label}: correlation": found.correlation()}
        values |= {f"{label}: overlap": overlap, f"{label}: contamination": contamination}
        accuracy[multiplicity, depth] = jepa.reversed.accuracy
    shallow, deep = (cfg.multiplicity, 1), (cfg.multiplicity, max(cfg.recognition_depths))
    claims = {
        "multiplicity-hurts": (accuracy[max(cfg.multiplicities), 1], accuracy[min(cfg.multiplicities), 1]),
        "depth-hurts": (accuracy[deep], accuracy[shallow]),
    }
    return measured(trained, values, claims)


def ablations(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Measured:
    """Claims 5 and 6: one thing changed at a time, a memory in a model of equal size among them."""
    facts = facts_of(cfg, seed, device)
    trained = {name: train_variant(cfg, name, facts, seed, progress=progress) for name in ABLATED}
    accuracy = {name: model.reversed.accuracy for name, model in trained.items()}
    blind = ceiling(facts).accuracy
    collapsed = trained["JEPA, squared distance"].history["rankme"][-1]
    claims = {
        "memory-restores-equal": (accuracy["JEPA + memory, equal weights"], accuracy["JEPA"]),
        "untied-fails": (accuracy["JEPA, untied"], accuracy["JEPA"]),
        "stop-gradient-hurts": (accuracy["JEPA, stop-gradient"], accuracy["JEPA"]),
        "duplicates-hurt": (accuracy["JEPA, duplicates compete"], accuracy["JEPA"]),
        "distance-fails": (trained["JEPA, distance and stop-gradient"].atomic.accuracy, 0.5),
        "distance-collapses": (collapsed, 2.0),
        "plain-fails": (accuracy["JEPA, no LayerNorm"], blind),
    }
    return measured(trained, {"blind accuracy": blind}, claims)


def large_concepts(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Measured:
    """Claim 3: one token per entity at the size of the paper's Table 1, 2.5 thousand entities and R = 6.

    The random start is the control.
    """
    facts, name = facts_of(cfg, seed, device), "AR, concepts"
    concepts = train_variant(cfg, name, facts, seed, num_questions=3000, progress=progress)
    trained = {name: concepts, f"{name}, untrained": untrained(cfg, name, facts, seed, num_questions=3000)}
    blind = ceiling(facts)
    claims = {
        "concept-mrr-large": (concepts.reversed.mrr, 0.8),
        "concept-mrr-over-blind-large": (concepts.reversed.mrr, blind.mrr),
        "concept-relation-large": (concepts.reversed.over_partner, 0.5),
    }
    return measured(trained, {"blind accuracy": blind.accuracy, "blind mrr": blind.mrr}, claims)


def wider(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Measured:
    """Claim 7: accuracy on chained sums with a growing number of branches."""
    values = chained(cfg, cfg.branchings, seed, device, progress, ("JEPA + memory", "AR + memory"))
    most, fewest = max(cfg.branchings), min(cfg.branchings)
    answers = values[f"branching {most}, JEPA + memory: answers"]
    claims = {
        "chaining-branching": (answers, values[f"branching {fewest}, JEPA + memory: answers"]),
        "chaining-branching-order": (answers, values[f"branching {most}, {ORDER_BLIND}: answers"]),
        "chaining-branching-memory": (answers, values[f"branching {most}, AR + memory: answers"]),
    }
    return Measured(values=values | {"chance": 1 / cfg.modulus}, claims=claims)


LONG: dict[str, Callable[..., Measured]] = {
    "patience": patience,
    "entanglement": entangled,
    "ablations": ablations,
    "branching": wider,
    "large concepts": large_concepts,
}


def long_study(name: str, seed: int, out: Path | None = None) -> Path:
    """Run one experiment of `LONG` (minutes) and store its record under the preset "long"; returns the record's path.

    Raises ValueError for an unknown experiment.
    """
    if name not in LONG:
        raise ValueError(f"no long experiment {name!r}; there are: {', '.join(LONG)}")
    record = records.start(
        CHAPTER, preset="long", seed=seed, config=long_config(name), claims=LONG_CLAIMS[name], out=out
    )
    record.data("generated facts", "data/facts", kind="generated")
    LONG[name](preset(long_preset(name)), seed, progress=True).put(record)
    return record.save()
