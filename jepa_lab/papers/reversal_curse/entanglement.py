"""Does learning a fact about one entity move another? The alpha . beta argument of Wang & Sun 2025, measured.

With c = W h(name) at the output of the recognition MLP, a gradient step on entity a moves entity b by alpha . beta
times the gradient that a feels; alpha and beta are their hidden activations. This file measures both sides: the
overlap, and how far b moves when *all* recognition weights take the step.
Shape suffixes: N entities, M other entities, H hidden units, D width, A entities that are taught something, E all
entities, T tokens of a name, S positions.
"""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_lab.data.facts.generated import PAD, FactWorld
from jepa_lab.papers.reversal_curse.blocks import Block
from jepa_lab.papers.reversal_curse.models import ConceptJEPA, TokenAR
from jepa_lab.papers.reversal_curse.recognition import Memory, Recognition

Model = ConceptJEPA | TokenAR


class Entanglement(NamedTuple):
    """Per taught entity a (row) and other entity b (column), in shares of a's own move; nan where b is a."""

    overlap: Float[Tensor, "A N"]  # alpha . beta / alpha . alpha: how far b moves by the argument
    contamination: Float[Tensor, "A N"]  # how far b moved along the direction in which a moved

    def correlation(self) -> float:
        """Pearson correlation of overlap and contamination over the entities b, mean over a; nan without overlap."""
        rows = []
        for overlap_N, contamination_N in zip(self.overlap, self.contamination):
            both = torch.stack([overlap_N[~overlap_N.isnan()], contamination_N[~contamination_N.isnan()]])
            rows.append(torch.corrcoef(both)[0, 1])
        return float(torch.stack(rows).mean())

    def mean(self) -> tuple[float, float]:
        """Mean size of the overlap and of the contamination over all pairs."""
        return float(self.overlap.abs().nanmean()), float(self.contamination.abs().nanmean())


# Hidden activations


@torch.no_grad()
def activations(model: Model, entities_N: Int64[Tensor, " N"]) -> dict[str, Float[Tensor, "N H"]]:
    """alpha by layer: MLP activations at a name's last token, in every block that the name passes by itself.

    A memory counts as one layer, whose activations say which row is read (one-hot).
    """
    kept: dict[str, Tensor] = {}
    reader = model.entities if isinstance(model, ConceptJEPA) else model.memory
    if isinstance(reader, Memory):
        kept["memory"] = F.one_hot(entities_N, len(model.names)).float()
    hooks = [block.down.register_forward_pre_hook(partial(_keep, kept, name)) for name, block in _blocks(model).items()]
    try:
        _pass_alone(model, entities_N)
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def _keep(kept: dict[str, Tensor], name: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
    kept[name] = inputs[0][:, -1].float()


def _blocks(model: Model) -> dict[str, Block]:
    if isinstance(model, TokenAR):
        return {f"layer {i}": block for i, block in enumerate(model.blocks, start=1)}
    layers = {}
    if isinstance(model.entities, Recognition):
        layers = {f"recognition {i}": block for i, block in enumerate(model.entities.blocks, start=1)}
    return layers | {f"semantic {i}": block for i, block in enumerate(model.semantic, start=1)}


def _pass_alone(model: Model, entities_N: Int64[Tensor, " N"]) -> None:
    """Send every name by itself through all blocks."""
    if isinstance(model, ConceptJEPA):
        x_NSD, seen_NS, blocks = model.concepts(entities_N)[:, None], None, model.semantic
    else:
        (x_NSD, seen_NS), blocks = model.entity(entities_N), model.blocks
    for block in blocks:
        x_NSD = block(x_NSD, seen_NS)


def hidden_activations(model: ConceptJEPA, entities_N: Int64[Tensor, " N"]) -> Float[Tensor, "N H"]:
    """alpha of the last recognition MLP, or of the memory: the layer whose output is the concept."""
    layers = activations(model, entities_N)
    last = [name for name in layers if name.startswith(("recognition", "memory"))][-1]
    return layers[last]


def by_layer(model: Model, most: int = 2000) -> dict[str, tuple[float, float]]:
    """Per layer the mean cosine of `activations` between entities that share a name token, and between the others.

    Binding shows as the first falling to the second: names that look alike have become different things. The first is
    nan where no names share a token. Only the first `most` entities are compared.
    """
    names_ET = model.names[:most]
    shared_EE = sharing(names_ET, names_ET)
    same_EE = torch.eye(len(names_ET), dtype=torch.bool, device=shared_EE.device)
    rows = {}
    for layer, alpha_EH in activations(model, torch.arange(len(names_ET), device=names_ET.device)).items():
        unit_EH = F.normalize(alpha_EH, dim=1)
        cosine_EE = unit_EH @ unit_EH.T
        rows[layer] = float(cosine_EE[shared_EE & ~same_EE].mean()), float(cosine_EE[~shared_EE].mean())
    return rows


def sharing(names_NT: Int64[Tensor, "N T"], others_MT: Int64[Tensor, "M T"]) -> Bool[Tensor, "N M"]:
    """Which names (rows) have a token in common with which other names (columns)."""
    equal_NMTT = names_NT[:, None, :, None] == others_MT[None, :, None, :]
    return (equal_NMTT & (names_NT != PAD)[:, None, :, None]).flatten(2).any(2)


# Overlap and contamination


def measure_some(model: ConceptJEPA, facts: FactWorld, num_taught: int = 16, num_others: int = 400) -> Entanglement:
    """`measure` between the subjects of some taught facts and many entities, drawn alike at every call."""
    generator = torch.Generator().manual_seed(0)
    taught = torch.randperm(len(facts.train), generator=generator)[:num_taught]
    others = torch.randperm(facts.num_entities, generator=generator)[:num_others]
    device = facts.names.device
    return measure(model, facts.train[taught.to(device)], others.to(device))


def measure(
    model: ConceptJEPA,
    facts_A3: Int64[Tensor, "A 3"],
    entities_N: Int64[Tensor, " N"],
    step: float = 1e-3,
    centred: bool = True,
) -> Entanglement:
    """Take one small gradient step on each fact, through its subject's name alone, and see which entities move.

    facts_A3: one fact per taught entity; its loss has all entities as candidates. The model is left unchanged.
    centred: the contamination is what b moves beyond the mean of all entities; a common drift changes no answer.
    The overlap is not centred: its denominator could vanish, and a correlation per entity a needs no centring.
    """
    alpha_AH, beta_NH = hidden_activations(model, facts_A3[:, 0]), hidden_activations(model, entities_N)
    overlap_AN = alpha_AH @ beta_NH.T / alpha_AH.square().sum(1, keepdim=True)
    moved_AN = torch.stack([_moves(model, fact_3, entities_N, step, centred) for fact_3 in facts_A3])
    self_AN = facts_A3[:, :1] == entities_N
    return Entanglement(overlap_AN.masked_fill(self_AN, torch.nan), moved_AN.masked_fill(self_AN, torch.nan))


def _moves(
    model: ConceptJEPA, fact_3: Int64[Tensor, " 3"], entities_N: Int64[Tensor, " N"], step: float, centred: bool
) -> Float[Tensor, " N"]:
    """How far each entity's concept moves along the move of the fact's subject, in shares of that move."""
    everyone_E = torch.arange(len(model.names), device=fact_3.device)
    with torch.no_grad():
        before_ED = model.concepts(everyone_E)
    steps = _small_step(model, fact_3, before_ED, step)
    with torch.no_grad():
        old = [weight.clone() for weight, _ in steps]
        for weight, change in steps:
            weight -= change
        moved_ED = model.concepts(everyone_E) - before_ED
        for (weight, _), value in zip(steps, old):
            weight.copy_(value)
    if centred:
        moved_ED = moved_ED - moved_ED.mean(0)
    subject_D = moved_ED[fact_3[0]]
    return moved_ED[entities_N] @ subject_D / subject_D.square().sum()


def _small_step(
    model: ConceptJEPA, fact_3: Int64[Tensor, " 3"], concepts_ED: Float[Tensor, "E D"], step: float
) -> list[tuple[Tensor, Tensor]]:
    """Recognition weights with their changes in a gradient step of length `step` on one fact, through its subject."""
    with torch.no_grad():
        candidates_ED, signs_KD = model.comparable(concepts_ED), model.sign_concepts()
    z_1D = model.answer(model.concepts(fact_3[:1]), signs_KD, fact_3[1:2])
    loss = F.cross_entropy(z_1D @ candidates_ED.T, fact_3[2:])
    weights = list(model.entities.parameters())
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    pairs = [(weight, gradient) for weight, gradient in zip(weights, gradients) if gradient is not None]
    norm = torch.stack([gradient.square().sum() for _, gradient in pairs]).sum().sqrt()
    return [(weight, gradient * (step / norm)) for weight, gradient in pairs]


# Inconsistency


@torch.no_grad()
def consistency(model: Model) -> float:
    """Mean cosine of an entity's vectors as subject and as answer: 1 for one vector, about 0 for unrelated ones.

    Raises ValueError for an autoregressive model of names of several tokens, which has no single vector per entity.
    """
    if isinstance(model, ConceptJEPA):
        everyone_E = torch.arange(len(model.names), device=model.names.device)
        return float(F.cosine_similarity(model.concepts(everyone_E), model.concepts(everyone_E, target=True)).mean())
    if model.names.shape[1] > 1:
        raise ValueError("an autoregressive model has one vector per entity only where every name is one token")
    tokens_E = model.names[:, -1]
    return float(F.cosine_similarity(model.tokens(tokens_E), model.head[tokens_E]).mean())
