"""Asking facts back: exact scores over all entities, the relation-blind ceiling, and what is logged along training.

A model that merely knows which entities belong together answers 1 / R of the reversed facts, far above chance. Every
score therefore stands beside that ceiling (`blind`).
Shape suffixes: B facts, E entities, R relation pairs, D width, T tokens of a name, U different beginnings of names,
V values of sums.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from jepa_lab import diagnostics
from jepa_lab.data.facts.generated import FactWorld
from jepa_lab.papers.reversal_curse.models import ConceptJEPA, TokenAR

Model = ConceptJEPA | TokenAR


class Recall(NamedTuple):
    """Scores on a set of facts. Ranks are among all entities of both groups; nan where they were not asked for."""

    accuracy: float  # the right entity comes first; for spelled names every token is right
    mrr: float  # mean of 1 / rank, rank = 1 + number of other entities that score as high or higher
    over_partner: float  # share of other partners of the subject that the right entity beats: 0.5 for a blind reader
    partner_on_top: float  # the answer is another partner of the subject
    closed: float  # the right entity outscores all others, also for a model that spells; else the accuracy


def blind(partners_ER: Int64[Tensor, "E R"], facts_B3: Int64[Tensor, "B 3"]) -> Recall:
    """The relation-blind ceiling: the most that knowing a subject's partners, but not the relation, can score.

    With R partners the accuracy is 1 / R, and the mean reciprocal rank H_R / R (H_R: harmonic number).
    """
    counts_B = (partners_ER[facts_B3[:, 0]] >= 0).sum(1)
    harmonic = torch.cumsum(1 / torch.arange(1.0, int(counts_B.max()) + 1), 0)
    first = float((1 / counts_B).mean())
    return Recall(first, float((harmonic[counts_B - 1] / counts_B).mean()), 0.5, 1 - first, first)


@torch.no_grad()
def recall(model: Model, facts_B3: Int64[Tensor, "B 3"], partners_ER: Int64[Tensor, "E R"], ranked: int = 0) -> Recall:
    """Scores of a model on these facts, in evaluation mode; the model is left in the mode in which it was.

    ranked: a spelling model also ranks all whole names for the first `ranked` questions, by their likelihood (slow).
    """
    training = model.training
    others_BR = partners_ER[facts_B3[:, 0]]
    rival_BR = (others_BR != facts_B3[:, 2:]) & (others_BR >= 0)
    others_BR = others_BR.clamp(min=0)
    model.eval()
    if spells(model):
        result = _recall_names(model, facts_B3, others_BR, rival_BR, ranked)
    else:
        result = _recall_entities(model, facts_B3, others_BR, rival_BR)
    model.train(training)
    return result


def spells(model: Model) -> bool:
    """Whether answers are names of several tokens, so that only whole names can be compared."""
    return isinstance(model, TokenAR) and model.spelling.shape[1] > 1


def rank(scores_BE: Float[Tensor, "B E"], right_B: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """The place of the right entity. Equal scores and NaN count against it, so a constant score is no answer."""
    return (~(scores_BE < scores_BE.gather(1, right_B[:, None]))).sum(1)


def _recall_entities(
    model: Model,
    facts_B3: Int64[Tensor, "B 3"],
    others_BR: Int64[Tensor, "B R"],
    rival_BR: Bool[Tensor, "B R"],
) -> Recall:
    scores_BE = entity_scores(model, facts_B3)
    rank_B = rank(scores_BE, facts_B3[:, 2])
    wins_BR = scores_BE.gather(1, facts_B3[:, 2:]) > scores_BE.gather(1, others_BR)
    on_top_B = ((scores_BE.argmax(1, keepdim=True) == others_BR) & rival_BR).any(1)
    first = _mean(rank_B == 1)
    return Recall(first, _mean(1 / rank_B), _share(wins_BR, rival_BR), _mean(on_top_B), first)


def _recall_names(
    model: TokenAR,
    facts_B3: Int64[Tensor, "B 3"],
    others_BR: Int64[Tensor, "B R"],
    rival_BR: Bool[Tensor, "B R"],
    ranked: int,
) -> Recall:
    likelihood_B, exact_B = model.log_likelihood(facts_B3)
    wins, spelled = [], []
    for others_B in others_BR.T:
        other_likelihood_B, other_exact_B = model.log_likelihood(torch.column_stack([facts_B3[:, :2], others_B]))
        wins.append(likelihood_B > other_likelihood_B)
        spelled.append(other_exact_B)
    over_partner = _share(torch.stack(wins, 1), rival_BR)
    on_top = _mean((torch.stack(spelled, 1) & rival_BR).any(1))
    if not ranked:
        return Recall(_mean(exact_B), float("nan"), over_partner, on_top, float("nan"))
    asked = facts_B3[:ranked]
    scores_BE = torch.stack([ask(model, subject, relation) for subject, relation, _ in asked.tolist()])
    rank_B = rank(scores_BE, asked[:, 2])
    return Recall(_mean(exact_B), _mean(1 / rank_B), over_partner, on_top, _mean(rank_B == 1))


def _mean(values: Tensor) -> float:
    return float(values.float().mean())


def _share(wins: Bool[Tensor, "B R"], counted: Bool[Tensor, "B R"]) -> float:
    return float((wins & counted).sum() / counted.sum()) if bool(counted.any()) else float("nan")


@torch.no_grad()
def entity_scores(model: Model, facts_B3: Int64[Tensor, "B 3"]) -> Float[Tensor, "B E"]:
    """Every entity's score as the answer to each question, for a model whose answers are vectors or single tokens."""
    if isinstance(model, TokenAR):
        return model.logits(facts_B3)[:, 0, model.names[:, -1]]
    targets_ED = all_concepts(model, target=True)
    subjects_BD = model.concepts(facts_B3[:, 0])
    return model.answer(subjects_BD, model.sign_concepts(), facts_B3[:, 1]) @ model.comparable(targets_ED).T


@torch.no_grad()
def ask(model: Model, subject: int, relation: int) -> Float[Tensor, " E"]:
    """Every entity's score as the answer to one question; for a spelling model the log-likelihood of its whole name."""
    everyone_E = torch.arange(len(model.names), device=model.names.device)
    rows_E3 = torch.stack([torch.full_like(everyone_E, subject), torch.full_like(everyone_E, relation), everyone_E], 1)
    if spells(model):
        return name_likelihoods(model, rows_E3)
    return entity_scores(model, rows_E3[:1])[0]


def name_likelihoods(model: TokenAR, rows_E3: Int64[Tensor, "E 3"]) -> Float[Tensor, " E"]:
    """`model.log_likelihood` of every name as the answer to one question; names that begin alike are computed once."""
    spelled_ET = model.spelling[rows_E3[:, 2]]
    begun_UT, which_E = spelled_ET[:, :-1].unique(dim=0, return_inverse=True)
    everyone_E = torch.arange(len(rows_E3), device=rows_E3.device)
    example_U = everyone_E.new_empty(len(begun_UT)).scatter_(0, which_E, everyone_E)
    log_p_UTV = torch.cat([model.logits(part) for part in rows_E3[example_U].split(1024)]).log_softmax(-1)
    places_T = torch.arange(spelled_ET.shape[1], device=rows_E3.device)
    each_ET = log_p_UTV[which_E[:, None], places_T, spelled_ET]
    return (each_ET * model.counted(spelled_ET)).sum(1)


@torch.no_grad()
def all_concepts(model: ConceptJEPA, target: bool = False) -> Float[Tensor, "E D"]:
    """Concepts of all entities, computed in parts that fit in a cache."""
    everyone_E = torch.arange(len(model.names), device=model.names.device)
    return torch.cat([model.concepts(part, target).float() for part in everyone_E.split(1024)])


@torch.no_grad()
def embedding_map(model: ConceptJEPA) -> Float[Tensor, "E 2"]:
    """Concepts in the plane of their two largest principal components, scaled to unit deviation."""
    concepts_ED = all_concepts(model)
    left, size, _ = torch.linalg.svd(concepts_ED - concepts_ED.mean(0), full_matrices=False)
    plane_E2 = left[:, :2] * size[:2]
    return plane_E2 / plane_E2.std(0)


@torch.no_grad()
def value_accuracy(model: Model, rows_B3: Int64[Tensor, "B 3"], num_values: int) -> float:
    """Share of rows whose third entity scores highest among the first `num_values` entities, in one forward pass."""
    training = model.training
    model.eval()
    if isinstance(model, TokenAR):  # a value is one token, so the first place of the answer decides
        scores_BV = model.logits(rows_B3)[:, 0, model.names[:num_values, -1]]
    else:
        values_VD = model.comparable(model.concepts(torch.arange(num_values, device=rows_B3.device), target=True))
        scores_BV = model.answer(model.concepts(rows_B3[:, 0]), model.sign_concepts(), rows_B3[:, 1]) @ values_VD.T
    model.train(training)
    return _mean(scores_BV.argmax(1) == rows_B3[:, 2])


# Scores of a model on generated or real facts


def score(model: Model, facts: FactWorld, split: str, num_questions: int = 1000, ranked: int = 0) -> Recall:
    """Scores on a random sample of one split: "reversed" (the test), "atomic" (the same facts as taught) or "taught".

    The sample is the same at every call. ranked: see `recall`.
    """
    questions_B3 = getattr(facts, split)
    order = torch.randperm(len(questions_B3), generator=torch.Generator().manual_seed(0))
    sample_B3 = questions_B3[order[:num_questions].to(questions_B3.device)]
    return recall(model, sample_B3, facts.partners(), ranked)


def measure(model: Model, facts: FactWorld, num_questions: int = 1000) -> dict[str, float]:
    """The row of a training history: scores on reversed ("test") and atomic ("trained") facts.

    For a JEPA the collapse panel of its concepts stands before them.
    """
    row = {}
    if isinstance(model, ConceptJEPA):
        some = torch.arange(min(num_questions, facts.num_entities), device=facts.names.device)
        row = diagnostics.panel(model.concepts(some))
    for name, split in (("test", "reversed"), ("trained", "atomic")):
        scores = score(model, facts, split, num_questions)
        row |= {f"{name} {field}": value for field, value in scores._asdict().items()}
    return row
