"""Small facts and models that several test files of chapter 11 use."""

import torch
from torch import nn

from jepa_lab.data.facts import generated
from jepa_lab.papers.reversal_curse.blocks import Block
from jepa_lab.papers.reversal_curse.models import ConceptJEPA, TokenAR
from jepa_lab.papers.reversal_curse.recognition import Memory, Recognition


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def small_facts(multiplicity=2, pairs=2):
    """32 entities: 20 taught both ways, 12 one way."""
    return generated.generate(20, 12, pairs, multiplicity, rng())


def small_blocks(depth, width=16):
    return nn.ModuleList(Block(width, 4, 32) for _ in range(depth))


def small_jepa(facts, recognition=1, semantic=1, target=False, memory=False):
    """A ConceptJEPA of width 16 with large weights: a start of 0.02 leaves all answers nearly equal."""
    torch.manual_seed(0)
    if memory:
        entities = Memory(facts.names, facts.vocabulary, 16)
        signs = Recognition(facts.vocabulary, 16, 4, 32, 0)
    else:
        entities = signs = Recognition(facts.vocabulary, 16, 4, 32, recognition)
    blocks = small_blocks(semantic)
    untied = Recognition(facts.vocabulary, 16, 4, 32, recognition) if target else None
    model = ConceptJEPA(facts.names, entities, signs, facts.num_relations, blocks, untied)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)
    return model


def small_ar(facts, depth=2):
    torch.manual_seed(0)
    return TokenAR(facts.names, facts.vocabulary, 16, facts.num_relations, small_blocks(depth))
