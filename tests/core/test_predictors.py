"""The predictor equals a slow reference, keeps blocks apart, and refuses what does not belong together."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from jepa_lab import masks, predictors
from jepa_lab.masks import Masks
from jepa_lab.predictors import Predictor

GRID, WIDTH = (4, 4), 16
DRAWN = masks.multi_block(
    GRID, 3, torch.Generator().manual_seed(0), num_targets=2, target_shapes=[(1, 2), (2, 1)], num_context=6
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def context(num_samples=3, num_context=6, seed=1):
    return torch.randn(num_samples, num_context, WIDTH, generator=rng(seed))


def build(depth=2, out_dim=5):
    torch.manual_seed(0)
    return Predictor(GRID, WIDTH, 8, depth, 2, out_dim)


def with_plain_attention(predictor):
    for block in predictor.blocks:
        block.attn.fused_attn = False
    return predictor


def unchecked():
    """The module without the run-time shape checks of this suite, as users have it."""
    spec = importlib.util.spec_from_file_location("plain_predictors", predictors.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_last_block_that_computes_queries_alone_predicts_and_learns_as_the_whole_block(depth, plain):
    predictor, seen = build(depth), context()
    if plain:
        with_plain_attention(predictor)
    context_BCP = predictor.embed(seen) + predictor.position_NP[DRAWN.context_idx]
    query = predictor.mask_token + predictor.position_NP[DRAWN.target_idx]
    one_after_the_other = [torch.cat([context_BCP, query[:, m]], dim=1) for m in range(2)]
    tokens = predictor.blocks(torch.cat(one_after_the_other))
    wanted = torch.stack(predictor.out(predictor.norm(tokens[:, 6:])).chunk(2), dim=1)
    got = predictor(seen, DRAWN)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    weights = list(predictor.parameters())
    grads = [torch.autograd.grad(x.square().sum(), weights, retain_graph=True) for x in (got, wanted)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_plain_attention_equals_the_fused_kernel():
    torch.testing.assert_close(with_plain_attention(build())(context(), DRAWN), build()(context(), DRAWN))


def test_one_target_block_never_sees_another():
    predictor = build()
    pred = predictor(context(), DRAWN)
    for m in range(2):
        alone = predictor(context(), Masks(DRAWN.context_idx, DRAWN.target_idx[:, m : m + 1], GRID))
        torch.testing.assert_close(pred[:, m : m + 1], alone)


def test_every_context_token_and_every_position_matters():
    predictor = build()
    pred = predictor(context(), DRAWN)
    for token in range(6):
        changed = context()
        changed[:, token] += torch.randn(WIDTH, generator=rng(3))
        assert (predictor(changed, DRAWN) - pred).abs().amax(dim=-1).min() > 1e-5
    elsewhere = Masks(DRAWN.context_idx.flip(1), DRAWN.target_idx, GRID)
    assert not torch.allclose(predictor(context(), elsewhere), pred, atol=1e-4), "the same latents at other places"
    assert not torch.allclose(pred[:, :, 0], pred[:, :, 1], atol=1e-4), "another query, another prediction"


def test_the_order_in_which_the_context_is_listed_changes_nothing():
    predictor, order = build(), torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = Masks(DRAWN.context_idx[:, order], DRAWN.target_idx, GRID)
    torch.testing.assert_close(predictor(context()[:, order], shuffled), predictor(context(), DRAWN))


def test_every_weight_gets_a_gradient():
    predictor = build()
    predictor(context(), DRAWN).square().mean().backward()
    assert [n for n, p in predictor.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_at_paper_size_no_tensor_strays():
    """The predictor beside ViT-H/14 on the meta device, backward included: a tensor made elsewhere raises."""
    with torch.device("meta"):
        predictor = Predictor((16, 16), 1280, 384, 12, 12, 1280)
        drawn = Masks(torch.zeros(2, 64, dtype=torch.int64), torch.zeros(2, 4, 42, dtype=torch.int64), (16, 16))
        latents = torch.zeros(2, 64, 1280)
    pred = predictor(latents, drawn)
    assert pred.shape == (2, 4, 42, 1280)
    pred.mean().backward()
    assert {p.grad.device.type for p in predictor.parameters()} == {"meta"}


@pytest.mark.parametrize("plain", [False, True])
def test_bf16_autocast_stays_within_two_percent(plain):
    exact, predictor = build()(context(), DRAWN), build()
    if plain:
        with_plain_attention(predictor)
    with torch.autocast("cpu", torch.bfloat16):
        rough = predictor(context(), DRAWN)
    assert (rough.float() - exact).norm() < 0.02 * exact.norm()


def test_compiled_equals_eager_without_graph_breaks():
    """Predictor, an encoder with registers, and the losses of a batch, forward and backward.

    In a process of its own, since the run-time shape checks of this suite would break the graph.
    """
    program = """if True:
        import torch
        from jepa_lab import losses
        from jepa_lab.encoders import Encoder
        from jepa_lab.masks import Masks
        from jepa_lab.predictors import Predictor
        idx = torch.tensor([[0, 3, 4, 5], [1, 2, 3, 5]])
        masks = Masks(idx, idx[:, None, :2], (2, 3))
        encoder, predictor = Encoder((2, 3), 9, 16, 1, 2, num_registers=2), Predictor((2, 3), 16, 8, 2, 2, 16)

        def every(x, directions):
            registers, tokens = encoder.latents(x, idx)
            z = torch.cat([predictor(tokens, masks).flatten(0, 2), registers.flatten(0, 1)])
            return (losses.variance(z) + losses.covariance(z) + losses.sigreg(z, directions_DS=directions)
                    + losses.info_nce(z, z.flip(0)) + losses.cosine_distance(z, z.flip(0)))

        inputs, weights = (torch.randn(2, 6, 9), torch.randn(16, 8)), [*encoder.parameters(), *predictor.parameters()]
        graph = torch.compile(every, backend="aot_eager", fullgraph=True)
        losses_of = [f(*inputs) for f in (graph, every)]
        torch.testing.assert_close(*losses_of)
        for ours, theirs in zip(*(torch.autograd.grad(loss, weights) for loss in losses_of)):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        print("equal")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


REFUSED = {
    "masks of another grid": (
        (context(), Masks(DRAWN.context_idx, DRAWN.target_idx, (2, 8))),
        r"masks of grid \(2, 8\) in a predictor of grid \(4, 4\)",
    ),
    "another width": ((context()[..., :7], DRAWN), r"expected latents \[3, 6, 16\].*got \[3, 6, 7\]"),
    "one context token for all": ((context()[:, :1], DRAWN), r"expected latents \[3, 6, 16\].*got \[3, 1, 16\]"),
    "another batch": ((context()[:1], DRAWN), r"expected latents \[3, 6, 16\].*got \[1, 6, 16\]"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_clear_error(case):
    inputs, message = REFUSED[case]
    predictor = unchecked().Predictor(GRID, WIDTH, 8, 1, 2, 5)
    with pytest.raises(ValueError, match=message):
        predictor(*inputs)
