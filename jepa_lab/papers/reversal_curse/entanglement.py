"""Does learning a fact about one entity move another? The alpha . beta diagnostic of Wang & Sun 2025, measured.

With c = W h(name) at the output of the recognition MLP, a gradient step on entity a moves entity b by (alpha . beta)
times
what a itself feels, alpha and beta being their hidden activations. Here both sides are measured: the overlap, and how
far
b really moves when *all* recognition weights take the step.
Shape suffixes: N entities, H hidden units, D width, A entities that are taught something.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from jepa_lab.data.facts.generated import PAD
from jepa_lab.papers.reversal_curse.models import ConceptJEPA, Memory, Recognition, TokenAR


class Entanglement(NamedTuple):
    """Per taught entity a (rows) and other entity b (columns); the columns of a itself are nan."""

    overlap: Float[
        Tensor, "A N"
    ]  # alpha . beta / alpha . alpha: what the theory says b moves, in shares of a's own move
    contamination: Float[Tensor, "A N"]  # what b really moved along a's direction, in shares of a's own move

    def correlation(self) -> float:
        """Pearson correlation of overlap and contamination over the entities b, mean over a; nan where nothing
        overlaps.
        """
        rows = [
            torch.corrcoef(torch.stack([o[~o.isnan()], c[~o.isnan()]]))[0, 1]
            for o, c in zip(self.overlap, self.contamination)
        ]
        return float(torch.stack(rows).mean())

    def mean(self) -> tuple[float, float]:
        """Mean size of overlap and of contamination over all pairs."""
        return float(self.overlap.abs().nanmean()), float(self.contamination.abs().nanmean())


@torch.no_grad()
def activations(model: ConceptJEPA | TokenAR, entities_N: Int64[Tensor, " N"]) -> dict[str, Float[Tensor, "N H"]]:
    """alpha by layer: MLP activations at a name's last token, in every block that the name passes by itself.

    A memory counts as one layer: which row is read (one-hot).
    """
    kept: dict[str, Tensor] = {}
    jepa = isinstance(model, ConceptJEPA)
    reader, rest = (model.entities, model.semantic) if jepa else (model.memory, model.blocks)
    if isinstance(reader, Memory):
        kept["memory"] = F.one_hot(entities_N, len(model.names)).float()
    layers = (
        {f"recognition {i}": block for i, block in enumerate(reader.blocks, 1)}
        if isinstance(reader, Recognition)
        else {}
    )
    layers |= {f"{'semantic' if jepa else 'layer'} {i}": block for i, block in enumerate(rest, 1)}
    hooks = [
        block.down.register_forward_pre_hook(
            lambda _, inputs, name=name: kept.__setitem__(name, inputs[0][:, -1].float())
        )
        for name, block in layers.items()
    ]
    try:
        names_NT, seen_NS = model.names[entities_N], None
        if jepa:
            x_NSD = model.concepts(entities_N)[:, None]
        elif reader is not None:
            x_NSD = reader(entities_N)[:, None]
        else:
            x_NSD, seen_NS = model.tokens(names_NT), names_NT != PAD if model.padded else None
        for block in rest:
            x_NSD = block(x_NSD, seen_NS)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def hidden_activations(model: ConceptJEPA, entities_N: Int64[Tensor, " N"]) -> Float[Tensor, "N H"]:
    """alpha of the last recognition MLP, or of the memory: what makes the concept."""
    return [
        alpha for name, alpha in activations(model, entities_N).items() if name.startswith(("recognition", "memory"))
    ][-1]


def measure(
    model: ConceptJEPA,
    facts_A3: Int64[Tensor, "A 3"],
    entities_N: Int64[Tensor, " N"],
    step: float = 1e-3,
    centred: bool = True,
) -> Entanglement:
    """Take one small gradient step on each fact, through its subject's name alone, and see who else moves.

    centred: contamination is what b moves beyond the mean of all entities, for a drift that all share changes no
    answer.
    The overlap isn't centred: less the mean its denominator can vanish, and a correlation per entity a needs no
    centring.

    facts_A3: one fact per taught entity, with the gradient of its loss over all entities. The model is left unchanged.
    """
    alpha_AH, beta_NH = hidden_activations(model, facts_A3[:, 0]), hidden_activations(model, entities_N)
    overlap_AN = alpha_AH @ beta_NH.T / alpha_AH.square().sum(1, keepdim=True)
    moved = torch.stack([_moves(model, fact, entities_N, step, centred) for fact in facts_A3])
    own_AN = facts_A3[:, :1] == entities_N
    return Entanglement(overlap_AN.masked_fill(own_AN, torch.nan), moved.masked_fill(own_AN, torch.nan))


def _moves(
    model: ConceptJEPA, fact_3: Int64[Tensor, " 3"], entities_N: Int64[Tensor, " N"], step: float, centred: bool
) -> Float[Tensor, " N"]:
    """How far each entity's concept moves along the move of the fact's subject, in shares of that move."""
    weights = list(model.entities.parameters())
    subject = fact_3[:1]
    with torch.no_grad():
        everyone_E = torch.arange(len(model.names), device=fact_3.device)
        before_ED = model.concepts(everyone_E)
        candidates_ED = model.comparable(before_ED)
        signs_KD = model.sign_concepts()
    concept_1D = model.concepts(subject)
    loss = F.cross_entropy(model.answer(concept_1D, signs_KD, fact_3[1:2]) @ candidates_ED.T, fact_3[2:])
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    norm = torch.stack([g.square().sum() for g in gradients if g is not None]).sum().sqrt()
    moved = [(w, g * (step / norm)) for w, g in zip(weights, gradients) if g is not None]
    with torch.no_grad():
        old = [w.clone() for w, _ in moved]
        for weight, change in moved:
            weight -= change
        change_ED = model.concepts(everyone_E) - before_ED
        for (weight, _), value in zip(moved, old):
            weight.copy_(value)
    change_ED = change_ED - change_ED.mean(0) if centred else change_ED
    return change_ED[entities_N] @ change_ED[subject[0]] / change_ED[subject[0]].square().sum()


def by_layer(model: ConceptJEPA | TokenAR, most: int = 2000) -> dict[str, tuple[float, float]]:
    """Per layer the mean cosine of `activations` between entities that share a name token, and that don't (nan: none
    do).

    Binding shows as the first falling to the second: names that look alike have become different things.
    Of more than `most` entities, only the first are compared.
    """
    names_ET = model.names[:most]
    everyone_E = torch.arange(len(names_ET), device=names_ET.device)
    shared_EE = sharing(names_ET, names_ET)
    same_EE = torch.eye(len(everyone_E), dtype=torch.bool, device=shared_EE.device)
    rows = {}
    for layer, alpha_EH in activations(model, everyone_E).items():
        cosine_EE = F.normalize(alpha_EH, dim=1) @ F.normalize(alpha_EH, dim=1).T
        rows[layer] = float(cosine_EE[shared_EE & ~same_EE].mean()), float(cosine_EE[~shared_EE].mean())
    return rows


def sharing(names_NT: Int64[Tensor, "N T"], others_MT: Int64[Tensor, "M T"]) -> Bool[Tensor, "N M"]:
    """Which names have a token in common."""
    equal_NMTT = names_NT[:, None, :, None] == others_MT[None, :, None, :]
    return (equal_NMTT & (names_NT != PAD)[:, None, :, None]).flatten(2).any(2)


@torch.no_grad()
def consistency(model: ConceptJEPA | TokenAR) -> float:
    """Mean cosine of what an entity is as a subject and as an answer: 1 where both are one vector, about 0 where they
    are not.

    The autoregressive model has one vector per entity at concept level only; ValueError elsewhere.
    """
    if isinstance(model, TokenAR):
        if model.names.shape[1] > 1:
            raise ValueError(
                "names of several tokens have no single vector in an autoregressive model; ask at concept level"
            )
        tokens_E = model.names[:, -1]
        return float(F.cosine_similarity(model.tokens(tokens_E), model.head[tokens_E]).mean())
    everyone_E = torch.arange(len(model.names), device=model.names.device)
    return float(F.cosine_similarity(model.concepts(everyone_E), model.concepts(everyone_E, target=True)).mean())
