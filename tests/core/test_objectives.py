"""The objectives: no gradient into the target branch, the paper's arithmetic, one place for each variant."""

import jaxtyping
import pytest
import tiny
import torch

from jepa_lab import losses, objectives, runtime
from jepa_lab.encoders import encode_all, encode_blocks
from jepa_lab.masks import Masks
from jepa_lab.objectives import jepa_objective


def test_target_branch_gets_no_gradient_and_everything_else_does():
    model, (patches, drawn) = tiny.moved_model(), tiny.batch()
    jepa_objective(model, patches, drawn).backward()
    assert all(p.grad is None for p in model.target_encoder.parameters())
    trained = [*model.encoder.named_parameters(), *model.predictor.named_parameters()]
    assert [name for name, p in trained if p.grad is None or not p.grad.any()] == []


def test_without_stop_gradient_both_branches_pull_on_the_encoder():
    model, (patches, drawn) = tiny.moved_model(), tiny.batch()
    model.predictor.requires_grad_(False)
    objectives.self_target_objective(model, patches, drawn).backward()
    both = model.encoder.trunk.norm.weight.grad.clone()
    model.encoder.zero_grad()
    target = losses.gather_blocks(model.encoder(patches), drawn.target_idx).detach()
    losses.smooth_l1(objectives.predict(model, patches, drawn), target).backward()
    assert not torch.allclose(both, model.encoder.trunk.norm.weight.grad, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("samples", [1, 128, 256, 300])
def test_targets_of_a_part_at_a_time_are_those_of_the_whole_batch(samples, bf16):
    """To the last bit where the parts of 128 are full."""
    model, (patches, _) = tiny.moved_model(), tiny.batch(40)
    runtime.choose_attention(model, plain=bf16)
    patches, encoder = patches.repeat(8, 1, 1)[:samples], model.target_encoder
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        parts, whole = encode_all(encoder, patches), encoder(patches)
    torch.testing.assert_close(parts, whole)
    assert samples == 300 or torch.equal(parts, whole)


def test_objective_equals_a_slow_reference():
    """One image, one block, one token at a time, straight from the paper's text."""
    model, (patches, drawn) = tiny.moved_model(), tiny.batch()
    wanted = []
    with torch.no_grad():
        for b in range(len(patches)):
            latents = model.target_encoder(patches[b : b + 1])[0]
            context = model.encoder(patches[b : b + 1], drawn.context_idx[b : b + 1])
            for block in drawn.target_idx[b]:
                alone = Masks(drawn.context_idx[b : b + 1], block[None, None], tiny.GRID)
                pred = model.predictor(context, alone)[0, 0]
                for k, position in enumerate(block):
                    h = latents[position]
                    h = (h - h.mean()) / (h.var(unbiased=False) + 1e-6).sqrt()
                    gap = (pred[k] - h).abs()
                    wanted.append(torch.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean())
    got = jepa_objective(model, patches, drawn)
    torch.testing.assert_close(got, torch.stack(wanted).mean(), rtol=1e-5, atol=1e-6)


def test_standardised_targets_have_no_mean_at_a_position_and_unit_scale():
    model, (patches, drawn) = tiny.moved_model(), tiny.batch(32)
    target_BND = objectives.standardise(losses.normalise(encode_all(model.target_encoder, patches)))
    torch.testing.assert_close(target_BND.mean(0), torch.zeros_like(target_BND[0]), atol=1e-5, rtol=0)
    assert float(target_BND.square().mean()) == pytest.approx(1, rel=1e-4)
    hidden_BMKD = objectives.targets(model, patches, drawn, standardised=True)
    torch.testing.assert_close(hidden_BMKD, losses.gather_blocks(target_BND, drawn.target_idx))


def test_blocks_encoded_alone_keep_their_order():
    encoder, (patches, drawn) = tiny.model().encoder, tiny.batch()
    got = encode_blocks(encoder, patches, drawn.target_idx)
    for m in range(2):
        torch.testing.assert_close(got[:, m], encoder(patches, drawn.target_idx[:, m]))


def test_gather_blocks_returns_the_tokens_that_carry_their_own_index():
    tokens = torch.arange(2 * 16.0).reshape(2, 16, 1)
    idx = torch.tensor([[[3, 4], [7, 8]], [[0, 15], [2, 1]]])
    got = losses.gather_blocks(tokens, idx)[..., 0]
    torch.testing.assert_close(got, torch.stack([idx[0], idx[1] + 16]).float())
    with pytest.raises(RuntimeError, match="out of bounds"):
        losses.gather_blocks(tokens, idx - 100)


@pytest.mark.parametrize("plain", [False, True])  # `fit` takes plain attention on a CPU
def test_bf16_autocast_stays_near_float32(plain):
    model, (patches, drawn) = tiny.moved_model(), tiny.batch(16)
    exact = jepa_objective(model, patches, drawn)
    runtime.choose_attention(model, plain)
    with torch.autocast("cpu", torch.bfloat16):
        rough = jepa_objective(model, patches, drawn)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.005)


def test_plain_attention_equals_the_fused_kernel():
    model, (patches, drawn) = tiny.moved_model(), tiny.batch()
    fused = jepa_objective(model, patches, drawn)
    runtime.choose_attention(model, plain=True)
    switched = [module for module in model.modules() if hasattr(module, "fused_attn")]
    assert switched and not any(module.fused_attn for module in switched)
    torch.testing.assert_close(jepa_objective(model, patches, drawn), fused)


def test_shapes_are_checked_in_this_suite():
    with pytest.raises(jaxtyping.TypeCheckError):
        jepa_objective(tiny.model(), torch.zeros(2, 16), tiny.batch()[1])
