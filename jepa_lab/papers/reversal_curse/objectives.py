"""What the two models minimise: the contrast of concepts with its ablations, and the spelling of answers.

All objectives have the signature (model, facts, drawn); nothing is drawn for facts.
Shape suffixes: B facts, K candidates (objects and subjects of the batch), S signs (relations and the mask), T tokens of
a name, D width; b, k facts and candidates of one process.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from jepa_lab import distributed
from jepa_lab.data.facts.generated import PAD
from jepa_lab.papers.reversal_curse.models import ConceptJEPA, TokenAR, rms

Distance = Callable[[ConceptJEPA, Tensor, Tensor, Tensor, Tensor], Tensor]


def contrast(
    model: ConceptJEPA,
    z_BD: Float[Tensor, "B D"],
    facts_B3: Int64[Tensor, "B 3"],
    concepts_KD: Float[Tensor, "K D"],
    signs_SD: Float[Tensor, "S D"],
) -> Float[Tensor, ""]:
    """Section 3 of the paper: cross-entropy of z . c over all concepts in the batch, temperature 1.

    Candidates are the batch's objects and subjects, the relations and the mask. An entity that occurs several times
    counts once.
    """
    ids_K = torch.cat([facts_B3[:, 2], facts_B3[:, 0]])
    first_K = first_seen(ids_K, len(model.names))
    repeated_K = first_K != torch.arange(len(ids_K), device=ids_K.device)
    scores = z_BD @ model.comparable(torch.cat([concepts_KD, signs_SD])).T
    return F.cross_entropy(scores.masked_fill(F.pad(repeated_K, (0, len(signs_SD))), -1e9), first_K[: len(z_BD)])


def contrast_with_duplicates(
    model: ConceptJEPA,
    z_BD: Float[Tensor, "B D"],
    facts_B3: Int64[Tensor, "B 3"],
    concepts_KD: Float[Tensor, "K D"],
    signs_SD: Float[Tensor, "S D"],
) -> Float[Tensor, ""]:
    """The contrast as in the authors' code: four candidates per fact. An entity that occurs twice is its own rival."""
    size = len(facts_B3)
    every_sign = torch.cat([signs_SD[facts_B3[:, 1]], signs_SD[-1:].expand(size, -1)])
    scores = z_BD @ model.comparable(torch.cat([concepts_KD, every_sign])).T
    return F.cross_entropy(scores, torch.arange(size, device=z_BD.device))


def squared_distance(
    model: ConceptJEPA,
    z_BD: Float[Tensor, "B D"],
    facts_B3: Int64[Tensor, "B 3"],
    concepts_KD: Float[Tensor, "K D"],
    signs_SD: Float[Tensor, "S D"],
) -> Float[Tensor, ""]:
    """No contrast: mean squared distance of prediction and answer, both scaled to mean square 1."""
    return (rms(z_BD) - rms(concepts_KD[: len(z_BD)])).square().mean()


def concept_objective(
    model: ConceptJEPA,
    facts_B3: Int64[Tensor, "B 3"],
    drawn: None = None,
    *,
    distance: Distance = contrast,
    stop_gradient: bool = False,
) -> Float[Tensor, ""]:
    """JEPA on facts: predict the object's concept from subject and relation, and compare.

    Both sides get gradients, as in the paper; stop_gradient: the targets get none. Where several processes share a
    batch, the candidates are those of the whole batch.
    """
    ids_K = torch.cat([facts_B3[:, 2], facts_B3[:, 0]])
    concepts_KD, signs_SD = model.concepts(ids_K), model.sign_concepts()
    z_BD = model.answer(concepts_KD[len(facts_B3) :], signs_SD, facts_B3[:, 1])
    if model.target is not None:
        concepts_KD, signs_SD = model.concepts(ids_K, target=True), model.sign_concepts(target=True)
    if stop_gradient:
        concepts_KD, signs_SD = concepts_KD.detach(), signs_SD.detach()
    if distributed.world() > 1:
        z_BD, facts_B3, concepts_KD = of_all_processes(z_BD, facts_B3, concepts_KD)
    kind = "cpu" if z_BD.is_meta else z_BD.device.type
    with torch.autocast(kind, enabled=False):  # scores in bf16 would tie
        loss = distance(model, z_BD, facts_B3, concepts_KD, signs_SD)
        if model.spell is not None:
            loss = loss + model.language * language_loss(model, z_BD, facts_B3[:, 2])
        return loss


def of_all_processes(
    z_bD: Float[Tensor, "b D"], facts_b3: Int64[Tensor, "b 3"], concepts_kD: Float[Tensor, "k D"]
) -> tuple[Float[Tensor, "B D"], Int64[Tensor, "B 3"], Float[Tensor, "K D"]]:
    """Predictions, facts and concepts (objects, then subjects) of the whole batch, from each process's share."""
    objects_bD, subjects_bD = concepts_kD.chunk(2)
    concepts_KD = torch.cat([distributed.gather(objects_bD), distributed.gather(subjects_bD)])
    facts_B3 = distributed.gather(facts_b3.float()).long()  # numbers of entities are exact in float32
    return distributed.gather(z_bD), facts_B3, concepts_KD


def first_seen(ids_K: Int64[Tensor, " K"], count: int) -> Int64[Tensor, " K"]:
    """For every position the first position with the same id (ids below `count`): finds duplicates in a fixed shape."""
    positions_K = torch.arange(len(ids_K), device=ids_K.device)
    return positions_K.new_full((count,), len(ids_K)).scatter_reduce(0, ids_K, positions_K, "amin")[ids_K]


def language_loss(model: ConceptJEPA, z_BD: Float[Tensor, "B D"], object_B: Int64[Tensor, " B"]) -> Float[Tensor, ""]:
    """Cross-entropy of the answer's tokens, each read from the predicted concept (the paper's optional loss)."""
    goal_BT = model.names[object_B]
    logits = rearrange(model.spell(z_BD), "b (t v) -> (b t) v", t=goal_BT.shape[1])
    return F.cross_entropy(logits, torch.where(goal_BT == PAD, -100, goal_BT).flatten())


def spelling_objective(model: TokenAR, facts_B3: Int64[Tensor, "B 3"], drawn: None = None) -> Float[Tensor, ""]:
    """Next-token cross-entropy of the answer, mean over its tokens; the question is not predicted."""
    goal_BT = model.spelling[facts_B3[:, 2]]
    goal_BT = torch.where(model.counted(goal_BT), goal_BT, -100)
    return F.cross_entropy(rearrange(model.logits(facts_B3), "b t v -> (b t) v"), goal_BT.flatten())
