"""The experiments of the chapter's five minutes: each trains some variants on one seed and measures claims."""

from collections.abc import Mapping

from jepa_lab.experiment import Measured
from jepa_lab.papers.reversal_curse import entanglement
from jepa_lab.papers.reversal_curse.arms import Trained, ceiling, facts_of, train_variant, untrained
from jepa_lab.papers.reversal_curse.chains import ORDER_BLIND, chained
from jepa_lab.papers.reversal_curse.config import Config

NAMES = ("AR", "JEPA", "AR + memory", "JEPA + memory")
CONCEPTS = ("AR, concepts", "AR, concepts, untied")
CHAINED = ("JEPA + memory", "AR", "AR + memory")


def names_duel(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Measured:
    """Claims 1, 2, 4 and 5: names of two tokens, equal facts, widths and steps, with and without a memory.

    Random starts are the control. The alpha . beta overlap is measured on the JEPA without a memory.
    """
    facts = facts_of(cfg, seed, device)
    trained = {name: train_variant(cfg, name, facts, seed, ranked=cfg.ranked, progress=progress) for name in NAMES}
    entangled = entanglement.measure_some(trained["JEPA"].model, facts)
    blind, (overlap, contamination) = ceiling(facts), entangled.mean()
    values = {
        "blind accuracy": blind.accuracy,
        "blind mrr": blind.mrr,
        "overlap": overlap,
        "contamination": contamination,
    }
    claims = _duel_claims(trained) | {"overlap-predicts": (entangled.correlation(), 0.0)}
    for name in ("AR", "JEPA"):
        trained[f"{name}, untrained"] = untrained(cfg, name, facts, seed, ranked=cfg.ranked)
    return measured(trained, values, claims, entanglement=entangled)


def _duel_claims(trained: Mapping[str, Trained]) -> dict[str, tuple[float, float]]:
    ar, jepa, ar_memory, memory = (trained[name].reversed for name in NAMES)
    blind = ceiling(trained["JEPA"].facts)
    return {
        "ar-memorises": (trained["AR"].atomic.accuracy, 0.9),
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
    }


def concept_duel(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Measured:
    """Claim 3: every entity is one token; the input embedding is also the output head, or it is not."""
    facts = facts_of(cfg, seed, device)
    trained = {name: train_variant(cfg, name, facts, seed, progress=progress) for name in CONCEPTS}
    tied, untied = (trained[name].reversed for name in CONCEPTS)
    blind = ceiling(facts)
    values = {f"{name}: consistency": entanglement.consistency(trained[name].model) for name in CONCEPTS}
    values |= {"blind accuracy": blind.accuracy, "blind mrr": blind.mrr}
    claims = {
        "concept-relation": (tied.over_partner, 0.5),
        "concept-over-blind": (tied.accuracy, blind.accuracy),
        "concept-mrr-over-blind": (tied.mrr, blind.mrr),
        "concept-untied": (untied.accuracy, 0.05),
        "concept-tying": (tied.accuracy, untied.accuracy),
    }
    return measured(trained, values, claims)


def chaining(cfg: Config, seed: int, device: str = "cpu", progress: bool = False) -> Measured:
    """Claim 7: values of named numbers that only a chain of sums gives: JEPA with a memory against AR."""
    values = chained(cfg, (cfg.branching,), seed, device, progress, CHAINED)
    chance = 1 / cfg.modulus
    at = f"branching {cfg.branching}, "
    answers = values[f"{at}JEPA + memory: answers"]
    claims = {
        "chaining-answers": (answers, values[f"{at}AR: answers"]),
        "chaining-over-chance": (answers, chance),
        "chaining-over-order": (answers, values[f"{at}{ORDER_BLIND}: answers"]),
        "chaining-inner": (values[f"{at}JEPA + memory: inner"], values[f"{at}AR: inner"]),
    }
    return Measured(values=values | {"chance": chance}, claims=claims)


EXPERIMENTS = (names_duel, concept_duel, chaining)


# What is stored of trained models


def measured(
    trained: Mapping[str, Trained], values: Mapping[str, float], claims: dict[str, tuple[float, float]], **data
) -> Measured:
    """Scores, sizes, cosines by layer and learning curves of trained models, beside an experiment's own values.

    The models travel in `data["trained"]`.
    """
    result = Measured(claims=claims, data={"trained": dict(trained), **data})
    for name, model in trained.items():
        result.values |= {f"{name}: {field}": value for field, value in model_values(model).items()}
        for field in ("test accuracy", "test over_partner", "trained accuracy"):
            if model.history:
                result.series[f"{name}: {field}"] = model.history["step"], model.history[field]
    result.values |= values
    return result


def model_values(trained: Trained) -> dict[str, float]:
    """The numbers that are stored of one trained model."""
    values = {}
    for split, recall in (("test", trained.reversed), ("trained", trained.atomic), ("group A", trained.taught)):
        values |= {f"{split} {field}": value for field, value in recall._asdict().items()}
    values["weights"] = sum(p.numel() for p in trained.model.parameters())
    for layer, (sharing, others) in entanglement.by_layer(trained.model).items():
        values[f"cosine of sharing names, {layer}"] = sharing
        values[f"cosine of other names, {layer}"] = others
    for field in ("feature_std", "rankme", "cosine_to_mean"):  # of a JEPA's concepts
        if field in trained.history:
            values[field] = trained.history[field][-1]
    return values
