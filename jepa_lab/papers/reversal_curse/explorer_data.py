"""The data of the fact explorer: every model's answers to a few facts, forward and backward, as plain lists.

Shape suffixes: Q questions, E entities, H hidden activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from jepa_lab.data.facts import real
from jepa_lab.data.facts.generated import FactWorld
from jepa_lab.papers.reversal_curse import entanglement, scores
from jepa_lab.papers.reversal_curse.arms import Trained
from jepa_lab.papers.reversal_curse.models import ConceptJEPA
from jepa_lab.papers.reversal_curse.scores import Model

TOP = 5  # answers shown per question
MOST_NEAR = 4  # entities shown whose name shares a token


# ---- the questions ---------------------------------------------------------------------------------


def choose(facts: FactWorld, per_group: tuple[int, int]) -> list[int]:
    """A few entities of group A (taught both ways) and of group B (one way), evenly drawn over each group."""
    chosen = []
    for group, count in zip((facts.taught[:, 0].unique(), facts.reversed[:, 0].unique()), per_group):
        places = torch.linspace(0, len(group) - 1, min(count, len(group))).long()
        chosen += group[places].tolist()
    return chosen


def asked(facts: FactWorld, subjects: Sequence[int]) -> list[list[dict]]:
    """For every subject and its partners, the fact and the same fact backwards, each as {s, r, o, taught}."""
    taught = set(map(tuple, facts.train.tolist()))
    known = taught | set(map(tuple, facts.reversed.tolist()))
    partners, pairs = facts.partners().tolist(), []
    for s in subjects:
        for pair, o in enumerate(partners[s]):
            r = next((r for r in (2 * pair, 2 * pair + 1) if (s, r, o) in known), None)
            if r is not None:
                both = (s, r, o), (o, r ^ 1, s)
                pairs.append([dict(zip("sro", fact), taught=fact in taught) for fact in both])
    return pairs


# ---- the answers -----------------------------------------------------------------------------------


def scores_of(model: Model, facts_Q3: Int64[Tensor, "Q 3"]) -> Float[Tensor, "Q E"]:
    """Every entity's score as the answer to each fact's question; for spelled names the log-likelihood of the name."""
    training, facts_Q3 = model.training, facts_Q3.to(model.names.device)
    model.eval()
    if scores.spells(model):
        scores_QE = torch.stack([scores.ask(model, s, r) for s, r, _ in facts_Q3.tolist()])
    else:
        scores_QE = scores.entity_scores(model, facts_Q3)
    model.train(training)
    return scores_QE.cpu()


def _answers(model: Model, facts_Q3: Int64[Tensor, "Q 3"]) -> list[list]:
    """Per question the rank of the right entity, the first answers, and their shares among all entities."""
    scores_QE = scores_of(model, facts_Q3)
    ranks = scores.rank(scores_QE, facts_Q3[:, 2]).tolist()
    shares, top = scores_QE.softmax(1).topk(min(TOP, scores_QE.shape[1]))
    rounded = [[round(share, 3) for share in row] for row in shares.tolist()]
    return [list(row) for row in zip(ranks, top.tolist(), rounded)]


def _near(model: ConceptJEPA, subjects: Iterable[int]) -> dict[int, list]:
    """Per subject, at most 4 entities whose names share a token: [entity, cosine of last hidden activations]."""
    names_ET = model.names
    everyone_E = torch.arange(len(names_ET), device=names_ET.device)
    alpha_EH = torch.nn.functional.normalize(entanglement.hidden_activations(model, everyone_E), dim=1).cpu()
    rows = {}
    for s in sorted(subjects):
        sharing_E = entanglement.sharing(names_ET[s : s + 1], names_ET)[0].cpu()
        others = [e for e in sharing_E.nonzero()[:, 0].tolist() if e != s][:MOST_NEAR]
        rows[s] = [[e, _digits(float(alpha_EH[s] @ alpha_EH[e]))] for e in others]
    return rows


def _digits(value: float) -> float | None:
    return round(value, 3) if value == value else None


def _layers(model: Model) -> list[list]:
    """Rows of layer, mean cosine of names that share a token, mean cosine of the others."""
    return [[layer, *map(_digits, cosines)] for layer, cosines in entanglement.by_layer(model).items()]


def _consistencies(trained: Mapping[str, Trained]) -> dict[str, float]:
    """Cosine of an entity as subject and as answer, for the models that know entities as one vector."""
    models = {name: arm.model for name, arm in trained.items()}
    one_vector = {n: m for n, m in models.items() if isinstance(m, ConceptJEPA) or m.names.shape[1] == 1}
    return {name: round(entanglement.consistency(model), 3) for name, model in one_vector.items()}


def _shown(pairs: Sequence, near: Mapping[int, list], partners: Sequence[Sequence[int]]) -> set[int]:
    """Every entity that the page names: subjects, answers, their partners, and names that share a token."""
    shown = {entity for rows in near.values() for entity, _ in rows}
    for both in pairs:
        shown |= {partner for partner in partners[both[0]["s"]] if partner >= 0}
        for question in both:
            shown.add(question["s"])
            for _, top, _ in question["answers"].values():
                shown |= set(top)
    return shown


def explorer_data(trained: Mapping[str, Trained], per_group: tuple[int, int] = (8, 16), mapped: int = 640) -> dict:
    """The data of the page's explorer, with few digits; under 300 kB for six models and three relation pairs.

    trained: models by name on one seed's facts; where their names differ (concept level), those of the first model are
    read. mapped: entities that the map shows at least. Raises ValueError without models.
    """
    if not trained:
        raise ValueError("give the explorer at least one trained arm")
    facts = next(iter(trained.values())).facts.to("cpu")
    facts = facts if facts.labels else real.persons(facts)
    partners = facts.partners()
    pairs = asked(facts, choose(facts, per_group))
    questions = [question for both in pairs for question in both]
    facts_Q3 = torch.tensor([[q["s"], q["r"], q["o"]] for q in questions])
    for name, arm in trained.items():
        for question, answer in zip(questions, _answers(arm.model, facts_Q3)):
            question.setdefault("answers", {})[name] = answer
    jepas = {name: arm.model for name, arm in trained.items() if isinstance(arm.model, ConceptJEPA)}
    subjects = {both[0]["s"] for both in pairs}
    near = _near(next(iter(jepas.values())), subjects) if jepas else {}
    shown = _shown(pairs, near, partners.tolist())
    drawn = sorted(shown | set(range(min(mapped, facts.num_entities))))
    untaught_Q = torch.tensor([not question["taught"] for question in questions])
    return {
        "arms": list(trained),
        "source": facts.source,
        "relations": list(facts.relations),
        "count": facts.num_entities,
        "blind": round(scores.blind(partners, facts_Q3[untaught_Q]).accuracy, 3),
        "labels": {str(e): facts.labels[e] for e in sorted(shown)},
        "pairs": pairs,
        "partners": {str(s): partners[s].tolist() for s in sorted({q["s"] for q in questions})},
        "drawn": drawn,
        "maps": {name: _plane(model, drawn) for name, model in jepas.items()},
        "near": {str(s): row for s, row in near.items()},
        "layers": {name: _layers(arm.model) for name, arm in trained.items()},
        "consistency": _consistencies(trained),
    }


def _plane(model: ConceptJEPA, drawn: Sequence[int]) -> list[list[float]]:
    """Where the drawn entities lie on the map of the model's concepts."""
    return [[round(x, 2), round(y, 2)] for x, y in scores.embedding_map(model)[drawn].tolist()]
