"""The models compute what they say: causal blocks, concepts, memory, spelled names."""

import pytest
import torch
from reversal_small import rng, small_ar, small_blocks, small_facts
from torch.nn import functional as F

from jepa_lab.data.facts.generated import PAD
from jepa_lab.papers.reversal_curse.blocks import Blend, Block, Dot
from jepa_lab.papers.reversal_curse.models import TokenAR
from jepa_lab.papers.reversal_curse.recognition import Memory, Recognition


def test_reading_only_the_last_positions_changes_no_number():
    block, x = small_blocks(1)[0], torch.randn(3, 5, 16)
    for read in (1, 2, 5):
        torch.testing.assert_close(block(x, read=read), block(x)[:, -read:])


def test_attention_and_its_gradients_are_those_of_plain_products():
    block = small_blocks(1)[0]
    parts = [torch.randn(3, n, 16, dtype=torch.float64, requires_grad=True) for n in (2, 5, 5)]
    q, k, v = (x.unflatten(2, (4, 4)).transpose(1, 2) for x in parts)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()[3:]
    plain = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)
    ours, weight = block.attend(*parts, None), torch.randn(3, 2, 16, dtype=torch.float64)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)  # the softmax is in float32
    ours_grad = torch.autograd.grad((ours * weight).sum(), parts)
    plain_grad = torch.autograd.grad((plain * weight).sum(), parts)
    for found, expected in zip(ours_grad, plain_grad):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_gradients_of_the_sums_are_right_in_double_precision():
    shapes = ((2, 3, 4, 2), (5, 3, 4, 2), (2, 5, 3, 2), (5, 3, 4, 2))
    q, k, w, v = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    assert torch.autograd.gradcheck(Dot.apply, (q, k))
    assert torch.autograd.gradcheck(Blend.apply, (w, v))


def test_attention_in_bf16_adds_up_in_float32():
    block = Block(256, 4, 32)
    parts = [torch.randn(3, 5, 256).bfloat16() for _ in range(3)]
    exact = block.attend(*(x.float() for x in parts), None)
    assert torch.equal(block.attend(*parts, None), exact.bfloat16()), "nothing but the result is rounded"


def test_a_block_is_causal():
    block, x = small_blocks(1)[0], torch.randn(3, 5, 16)
    y = x.clone()
    y[:, 3:] += 1
    assert torch.equal(block(x)[:, :3], block(y)[:, :3])
    assert not torch.equal(block(x)[:, 3:], block(y)[:, 3:])


def test_a_row_of_padding_alone_gives_finite_numbers():
    seen = torch.tensor([[False, False], [True, True]])
    assert bool(small_blocks(1)[0](torch.randn(2, 2, 16), seen).isfinite().all())


def test_padding_on_the_left_changes_no_concept():
    model = Recognition(30, 16, 4, 32, 2)
    names = torch.randint(5, 30, (6, 3), generator=rng())
    longer = F.pad(names, (2, 0), value=PAD)
    torch.testing.assert_close(model(names), model(longer, padded=True))


def test_two_recognition_layers_equal_plain_blocks_read_at_the_last_token():
    model = Recognition(30, 16, 4, 32, 2)
    names = torch.randint(5, 30, (6, 3), generator=rng())
    plain = model.blocks[1](model.blocks[0](model.tokens(names)))[:, -1]
    torch.testing.assert_close(model(names), plain)


def test_a_name_always_retrieves_its_own_memory_and_collisions_are_refused():
    facts = small_facts()
    assert Memory(facts.names, facts.vocabulary, 16)(torch.arange(4)).shape == (4, 16)
    with pytest.raises(ValueError, match="another name's row"):
        Memory(torch.tensor([[5, 6], [6, 5]]), 10, 16)


def test_names_of_several_tokens_need_a_recognition_layer():
    with pytest.raises(ValueError, match="at least one recognition layer"):
        Recognition(30, 16, 4, 32, 0)(torch.tensor([[5, 6]]))


def test_a_width_that_does_not_split_into_heads_is_refused():
    with pytest.raises(ValueError, match="16 does not split into 3 heads"):
        Block(16, 3, 32)


def test_likelihood_of_a_name_is_the_product_over_its_tokens_and_greedy_spelling_is_exact_match():
    facts = small_facts()
    model, rows = small_ar(facts), facts.train[:5]
    first, second = model.logits(rows).log_softmax(-1).unbind(1)
    likelihood, exact = model.log_likelihood(rows)
    picked = first.gather(1, facts.names[rows[:, 2], :1]) + second.gather(1, facts.names[rows[:, 2], 1:])
    torch.testing.assert_close(likelihood, picked[:, 0])
    greedy = torch.stack([first.argmax(-1), second.argmax(-1)], 1)
    assert torch.equal(exact, (greedy == facts.names[rows[:, 2]]).all(1))


def test_the_first_token_of_an_answer_is_predicted_without_seeing_it():
    facts = small_facts()
    model, rows = small_ar(facts), facts.train[:4]
    other = rows.clone()
    other[:, 2] = (other[:, 2] + 1) % facts.num_entities
    torch.testing.assert_close(model.logits(rows)[:, 0], model.logits(other)[:, 0])


def test_names_of_different_lengths_are_spelled_with_a_full_stop():
    names = torch.tensor([[0, 8], [9, 8], [0, 9]])
    model = TokenAR(names, 10, 16, 2, small_blocks(1))
    assert model.spelling.tolist() == [[8, 0, 0], [9, 8, 0], [9, 0, 0]]
    assert model.counted(model.spelling).tolist() == [[True, True, False], [True, True, True], [True, True, False]]
