"""Training on facts and asking them back: the loop, exact scores over all entities, the relation-blind controls.

A model that merely knows who belongs with whom answers 1 / R of the reversed facts rightly, far above chance, so every
score stands beside that ceiling (`blind`). Shape suffixes: B facts, E entities, R relation pairs, D width.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from jepa_lab import checkpoints, train
from jepa_lab.papers.reversal_curse.models import ConceptJEPA, TokenAR

Model = ConceptJEPA | TokenAR


class Recall(NamedTuple):
    """Scores on a set of facts. Ranks are among all entities of both groups; nan where they were not asked for."""

    accuracy: float  # the right entity comes first; for spelled names every token is right
    mrr: float  # mean of 1 / rank, rank = 1 + number of other entities that score as high or higher
    over_partner: (
        float  # how often the right entity beats another partner of the subject: 0.5 if the relation is ignored
    )
    partner_on_top: float  # the answer is another partner of the subject
    # the right entity outscores all others: a spelling model with the list of names in hand; else the accuracy
    closed: float


def blind(partners_ER: Int64[Tensor, "E R"], facts_B3: Int64[Tensor, "B 3"]) -> Recall:
    """The most that knowing a subject's partners, but not which relation is asked, can score: with R partners 1 / R,
    H_R / R.
    """
    counts_B = (partners_ER[facts_B3[:, 0]] >= 0).sum(1)
    harmonic = torch.cumsum(1 / torch.arange(1.0, int(counts_B.max()) + 1), 0)
    first = float((1 / counts_B).mean())
    return Recall(first, float((harmonic[counts_B - 1] / counts_B).mean()), 0.5, 1 - first, first)


@torch.no_grad()
def recall(model: Model, facts_B3: Int64[Tensor, "B 3"], partners_ER: Int64[Tensor, "E R"], ranked: int = 0) -> Recall:
    """Scores of a model in evaluation mode, which is left as it was.

    ranked: where names are spelled, so many questions, the first, are ranked by the likelihood of every whole name
    (slow).
    """
    training, others_BR = model.training, partners_ER[facts_B3[:, 0]]
    rival_BR = (others_BR != facts_B3[:, 2:]) & (others_BR >= 0)
    model.eval()
    asked = facts_B3, others_BR.clamp(min=0), rival_BR
    result = _recall_names(model, *asked, ranked) if spells(model) else _recall_entities(model, *asked)
    model.train(training)
    return result


def spells(model: Model) -> bool:
    """Whether answers are names of several tokens, so that only whole names can be compared."""
    return isinstance(model, TokenAR) and model.spelling.shape[1] > 1


def rank(scores_BE: Float[Tensor, "B E"], right_B: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """The place of the right entity; equal scores and NaN count against it, so that a constant is no answer."""
    return (~(scores_BE < scores_BE.gather(1, right_B[:, None]))).sum(1)


def _recall_entities(model: Model, facts_B3: Tensor, others_BR: Tensor, rival_BR: Tensor) -> Recall:
    scores_BE = entity_scores(model, facts_B3)
    rank_B = rank(scores_BE, facts_B3[:, 2])
    wins_BR = scores_BE.gather(1, facts_B3[:, 2:]) > scores_BE.gather(1, others_BR)
    on_top_B = ((scores_BE.argmax(1, keepdim=True) == others_BR) & rival_BR).any(1)
    first = _mean(rank_B == 1)
    return Recall(first, _mean(1 / rank_B), _share(wins_BR, rival_BR), _mean(on_top_B), first)


def _recall_names(model: TokenAR, facts_B3: Tensor, others_BR: Tensor, rival_BR: Tensor, ranked: int) -> Recall:
    likelihood_B, exact_B = model.log_likelihood(facts_B3)
    wins, spelled = [], []
    for others_B in others_BR.T:
        log_p, said = model.log_likelihood(torch.stack([facts_B3[:, 0], facts_B3[:, 1], others_B], 1))
        wins.append(likelihood_B > log_p)
        spelled.append(said)
    ranks = [
        rank(ask(model, s, r)[None], facts_B3[i : i + 1, 2]) for i, (s, r, _) in enumerate(facts_B3[:ranked].tolist())
    ]
    rank_B = torch.cat(ranks) if ranks else torch.full((1,), torch.nan)
    on_top = _mean((torch.stack(spelled, 1) & rival_BR).any(1))
    closed = _mean(rank_B == 1) if ranks else float("nan")
    return Recall(_mean(exact_B), _mean(1 / rank_B), _share(torch.stack(wins, 1), rival_BR), on_top, closed)


def _mean(values: Tensor) -> float:
    return float(values.float().mean())


def _share(wins: Bool[Tensor, "B R"], counted: Bool[Tensor, "B R"]) -> float:
    return float((wins & counted).sum() / counted.sum()) if bool(counted.any()) else float("nan")


@torch.no_grad()
def entity_scores(model: Model, facts_B3: Int64[Tensor, "B 3"]) -> Float[Tensor, "B E"]:
    """Every entity's score as the answer to each question; needs a model whose answers are single vectors or tokens."""
    if isinstance(model, TokenAR):
        return model.logits(facts_B3)[:, 0, model.names[:, -1]]
    targets_ED = all_concepts(model, target=True)
    subjects_BD = model.concepts(facts_B3[:, 0])
    return model.answer(subjects_BD, model.sign_concepts(), facts_B3[:, 1]) @ model.comparable(targets_ED).T


@torch.no_grad()
def ask(model: Model, subject: int, relation: int) -> Float[Tensor, " E"]:
    """Every entity's score as the answer to one question, for any model: log-likelihoods of whole names where names are
    spelled.
    """
    everyone_E = torch.arange(len(model.names), device=model.names.device)
    rows_E3 = torch.stack([torch.full_like(everyone_E, subject), torch.full_like(everyone_E, relation), everyone_E], 1)
    if spells(model):
        return name_likelihoods(model, rows_E3)
    return entity_scores(model, rows_E3[:1])[0]


def name_likelihoods(model: TokenAR, rows_E3: Int64[Tensor, "E 3"]) -> Float[Tensor, " E"]:
    """`model.log_likelihood` of every name as the answer to one question; names that begin alike are read once."""
    spelled_ET = model.spelling[rows_E3[:, 2]]
    begun_UT, which_E = spelled_ET[:, :-1].unique(dim=0, return_inverse=True)
    one_U = torch.empty(len(begun_UT), dtype=torch.int64, device=rows_E3.device).scatter_(
        0, which_E, torch.arange(len(rows_E3), device=rows_E3.device)
    )
    log_p_UTV = torch.cat([model.logits(part) for part in rows_E3[one_U].split(1024)]).log_softmax(-1)
    each_ET = log_p_UTV[which_E[:, None], torch.arange(spelled_ET.shape[1], device=rows_E3.device), spelled_ET]
    return (each_ET * model.counted(spelled_ET)).sum(1)


@torch.no_grad()
def embedding_map(model: ConceptJEPA) -> Float[Tensor, "E 2"]:
    """Where the concepts lie in the plane of their two largest principal components, scaled to unit deviation."""
    concepts_ED = all_concepts(model)
    left, size, _ = torch.linalg.svd(concepts_ED - concepts_ED.mean(0), full_matrices=False)
    plane = left[:, :2] * size[:2]
    return plane / plane.std(0)


@torch.no_grad()
def all_concepts(model: ConceptJEPA, target: bool = False) -> Float[Tensor, "E D"]:
    """Concept embeddings of all entities, in parts that fit in a cache."""
    everyone = torch.arange(len(model.names), device=model.names.device)
    return torch.cat([model.concepts(part, target).float() for part in everyone.split(1024)])


@torch.no_grad()
def value_accuracy(model: Model, rows_B3: Int64[Tensor, "B 3"], num_values: int) -> float:
    """Share of rows whose third entity, one of the first `num_values`, scores highest among those: a forward pass each."""
    training = model.training
    model.eval()
    if isinstance(model, TokenAR):  # a value is one token, so the first place of the answer decides
        scores_BV = model.logits(rows_B3)[:, 0, model.names[:num_values, -1]]
    else:
        values_VD = model.comparable(model.concepts(torch.arange(num_values, device=rows_B3.device), target=True))
        scores_BV = model.answer(model.concepts(rows_B3[:, 0]), model.sign_concepts(), rows_B3[:, 1]) @ values_VD.T
    model.train(training)
    return _mean(scores_BV.argmax(1) == rows_B3[:, 2])


# Training


def fit(
    run: train.Run,
    cfg: train.Config,
    facts: Int64[Tensor, "F 3"],
    loss: Callable[[Model, Tensor], Tensor],
    watch: Callable[[Model], dict[str, float]] | None = None,
    checkpoint: Path | None = None,
    save_every: int = 0,
    progress: bool = True,
) -> train.Run:
    """Train from `run.step` to `cfg.num_steps`; `watch` measures the model every `cfg.log_every` steps into
    `run.history`.

    `train.fit` without masks and EMA: its `update`, its `loop`, its checkpoints and its errors.
    """
    train.check_run(run, {"the facts": facts})
    work = checkpoints.resume(checkpoint, run, cfg, loss=loss, facts=facts)
    loss = train.compiled(loss) if facts.is_cuda else loss
    batches = train.batch_indices(len(facts), cfg.batch_size, run.seed, run.step)
    for recent in train.loop(run, cfg, watch, progress, checkpoint, save_every, work):
        recent.append(step(run, cfg, loss, facts, next(batches)))
    return run


def step(
    run: train.Run,
    cfg: train.Config,
    loss: Callable[[Model, Tensor], Tensor],
    facts: Int64[Tensor, "F 3"],
    idx_B: Int64[Tensor, " B"],
) -> tuple[Tensor, Tensor]:
    """One step on the facts `idx_B`: the loss, and whether it and its gradients were finite; neither is read back."""
    with torch.autocast(facts.device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
        value = loss(run.model, facts[idx_B.to(facts.device, non_blocking=True)])
    value.backward()
    return value.detach().clone(), train.update(run, value, cfg)
