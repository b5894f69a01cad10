"""Chapter 11: the models compute what they say, duplicates never compete with themselves, and the curse can be told from its cure."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jepa_lab import binding
from jepa_lab.data import facts


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def world(multiplicity=2, pairs=2):
    return facts.generate(20, 12, pairs, multiplicity, rng())


def blocks(depth, width=16):
    return nn.ModuleList(binding.Block(width, 4, 32) for _ in range(depth))


def jepa(world, rec=1, sem=1, target=False, memory=False):
    torch.manual_seed(0)
    make = lambda: binding.Recognition(world.vocabulary, 16, 4, 32, rec)
    entities = binding.Memory(world.names, world.vocabulary, 16) if memory else make()
    signs = binding.Recognition(world.vocabulary, 16, 4, 32, 0) if memory else entities
    model = binding.ConceptJEPA(world.names, entities, signs, world.num_relations, blocks(sem), make() if target else None)
    with torch.no_grad():  # a start of 0.02 leaves all answers nearly equal
        for p in model.parameters():
            p.mul_(10) if p.ndim > 1 else None
    return model


def test_reading_only_the_last_positions_changes_no_number():
    block, x = blocks(1)[0], torch.randn(3, 5, 16)
    for read in (1, 2, 5):
        torch.testing.assert_close(block(x, read=read), block(x)[:, -read:])


def test_a_block_is_causal():
    block, x = blocks(1)[0], torch.randn(3, 5, 16)
    y = x.clone()
    y[:, 3:] += 1
    assert torch.equal(block(x)[:, :3], block(y)[:, :3]) and not torch.equal(block(x)[:, 3:], block(y)[:, 3:])


def test_padding_on_the_left_changes_no_concept_and_no_answer():
    model = binding.Recognition(30, 16, 4, 32, 2)
    names = torch.randint(5, 30, (6, 3), generator=rng())
    longer = F.pad(names, (2, 0), value=facts.PAD)
    torch.testing.assert_close(model(names), model(longer, padded=True))


def test_two_recognition_layers_equal_plain_blocks_read_at_the_last_token():
    model = binding.Recognition(30, 16, 4, 32, 2)
    names = torch.randint(5, 30, (6, 3), generator=rng())
    plain = model.blocks[1](model.blocks[0](model.tokens(names)))[:, -1]
    torch.testing.assert_close(model(names), plain)


def test_masking_repeated_candidates_equals_listing_each_entity_once():
    w = world()
    model = jepa(w)
    batch = w.train[torch.randint(len(w.train), (24,), generator=rng())]
    entities = batch[:, [0, 2]].unique()
    concepts, signs = model.concepts(torch.arange(w.num_entities)), model.sign_concepts()
    logits = model.answer(concepts[batch[:, 0]], signs, batch[:, 1]) @ torch.cat([concepts[entities], signs]).T
    expected = F.cross_entropy(logits, torch.searchsorted(entities, batch[:, 2].contiguous()))
    torch.testing.assert_close(binding.jepa_loss(model, batch), expected)
    assert float(binding.jepa_loss(model, batch, mask_duplicates=False)) > float(expected)


def test_stop_gradient_keeps_gradients_out_of_the_target_side_only():
    w = world()
    model = jepa(w, target=True)
    binding.jepa_loss(model, w.train[:16], stop_gradient=True).backward()
    assert all(p.grad is None for p in model.target.parameters())
    assert any(float(p.grad.abs().sum()) > 0 for p in model.entities.parameters())
    binding.jepa_loss(model, w.train[:16]).backward()
    assert any(p.grad is not None for p in model.target.parameters())


def test_a_name_always_retrieves_its_own_memory_and_collisions_are_refused():
    w = world()
    assert binding.Memory(w.names, w.vocabulary, 16)(torch.arange(4)).shape == (4, 16)
    with pytest.raises(ValueError, match="another name's row"):
        binding.Memory(torch.tensor([[5, 6], [6, 5]]), 10, 16)


def test_names_of_several_tokens_need_a_recognition_layer():
    with pytest.raises(ValueError, match="at least one recognition layer"):
        binding.Recognition(30, 16, 4, 32, 0)(torch.tensor([[5, 6]]))


def test_likelihood_of_a_name_is_the_product_over_its_tokens_and_greedy_spelling_is_exact_match():
    w = world()
    torch.manual_seed(0)
    model = binding.TokenAR(w.names, w.vocabulary, 16, blocks(2))
    fact = w.train[:5]
    first = model.logits(fact)[:, 0].log_softmax(-1)
    second = model.logits(fact)[:, 1].log_softmax(-1)
    likelihood, exact = model.log_likelihood(fact)
    picked = first.gather(1, w.names[fact[:, 2], :1]) + second.gather(1, w.names[fact[:, 2], 1:])
    torch.testing.assert_close(likelihood, picked[:, 0])
    greedy = torch.stack([first.argmax(-1), second.argmax(-1)], 1)
    assert torch.equal(exact, (greedy == w.names[fact[:, 2]]).all(1))


def test_the_first_token_of_an_answer_is_predicted_without_seeing_it():
    w = world()
    model = binding.TokenAR(w.names, w.vocabulary, 16, blocks(2))
    fact = w.train[:4]
    other = fact.clone()
    other[:, 2] = (other[:, 2] + 1) % w.num_entities
    torch.testing.assert_close(model.logits(fact)[:, 0], model.logits(other)[:, 0])


def test_names_of_different_lengths_are_spelled_with_a_full_stop():
    names = torch.tensor([[0, 8], [9, 8], [0, 9]])
    model = binding.TokenAR(names, 10, 16, blocks(1))
    assert model.spelling.tolist() == [[8, 0, 0], [9, 8, 0], [9, 0, 0]]
    assert model.counted(model.spelling).tolist() == [[True, True, False], [True, True, True], [True, True, False]]
