"""The predictors equal slow references, keep blocks and times apart, and refuse what does not belong together."""

import importlib.util
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from jepa_lab import masks, predictors, train
from jepa_lab.masks import Masks
from jepa_lab.predictors import ActionPredictor, CrossPredictor, Predictor

GRID, WIDTH = (4, 4), 16
DRAWN = masks.multi_block(
    GRID, 3, torch.Generator().manual_seed(0), num_targets=2, target_shapes=[(1, 2), (2, 1)], num_context=6
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def context(num_samples=3, num_context=6, seed=1):
    return torch.randn(num_samples, num_context, WIDTH, generator=rng(seed))


def cross(grid=GRID, depth=2, out_dim=5):
    torch.manual_seed(0)
    return CrossPredictor(grid, WIDTH, 8, depth, 2, out_dim)


def acting(num_steps=6, seed=0):
    torch.manual_seed(seed)
    return ActionPredictor(num_steps, WIDTH, 3, 8, 2, 2, 5)


def steps(num_steps=5, seed=1):
    return torch.randn(2, num_steps, WIDTH, generator=rng(seed)), torch.randn(2, num_steps, 3, generator=rng(seed + 1))


def unchecked():
    """The module without the run-time shape checks of this suite, as users have it."""
    spec = importlib.util.spec_from_file_location("plain_predictors", predictors.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- I-JEPA's ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_last_block_that_computes_queries_alone_predicts_and_learns_as_the_whole_block(depth, plain):
    torch.manual_seed(0)
    predictor, seen = Predictor(GRID, WIDTH, 8, depth, 2, 5), context()
    train.choose_attention(predictor, plain)
    whole = torch.cat([predictor.embed(seen) + predictor.position_NP[DRAWN.context_idx]] * 2)
    query = predictor.mask_token + predictor.position_NP[DRAWN.target_idx]
    tokens = predictor.blocks(
        torch.cat([whole, torch.cat([query[:, 0], query[:, 1]])], dim=1)
    )  # the two blocks one after the other
    wanted = torch.stack(predictor.out(predictor.norm(tokens[:, 6:])).chunk(2), dim=1)
    got = predictor(seen, DRAWN)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    grads = [
        torch.autograd.grad(x.square().sum(), list(predictor.parameters()), retain_graph=True) for x in (got, wanted)
    ]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


# ---- cross-attention -------------------------------------------------------------------------------


def slow_cross(predictor, context_CD, context_idx, target, heads=2):
    """One query of one block of one sample, one head at a time."""
    norm = partial(nn.functional.layer_norm, normalized_shape=(8,), eps=1e-6)
    memory = norm(
        torch.stack([predictor.embed(token) + predictor.position_NP[i] for token, i in zip(context_CD, context_idx)])
    )
    query = predictor.mask_token + predictor.position_NP[target]
    for block in predictor.blocks:
        q, k, v = (
            block.query(norm(query)),
            *(torch.stack(x) for x in zip(*(block.key_value(m).chunk(2) for m in memory))),
        )
        read = []
        for columns in torch.arange(8).chunk(heads):
            scores = torch.stack([q[columns] @ key[columns] / (8 / heads) ** 0.5 for key in k])
            weights = scores.exp() / scores.exp().sum()
            read.append(sum(weight * value[columns] for weight, value in zip(weights, v)))
        query = query + block.proj(torch.cat(read))
        query = query + block.mlp(norm(query))
    return predictor.out(norm(query))


@pytest.mark.parametrize("grid", [GRID, (16,)])
@torch.no_grad()
def test_cross_predictor_equals_a_slow_reference(grid):
    predictor, drawn = cross(grid), Masks(DRAWN.context_idx, DRAWN.target_idx, grid)
    got = predictor(context(), drawn)
    assert got.shape == (3, 2, 2, 5)
    for b in range(3):
        for m in range(2):
            for k in range(2):
                wanted = slow_cross(predictor, context()[b], drawn.context_idx[b], drawn.target_idx[b, m, k])
                torch.testing.assert_close(got[b, m, k], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Predictor, CrossPredictor])
def test_one_target_block_never_sees_another(kind):
    predictor = kind(GRID, WIDTH, 8, 2, 2, WIDTH)
    pred = predictor(context(), DRAWN)
    for m in range(2):
        alone = predictor(context(), Masks(DRAWN.context_idx, DRAWN.target_idx[:, m : m + 1], GRID))
        torch.testing.assert_close(pred[:, m : m + 1], alone)


@pytest.mark.parametrize("kind", [Predictor, CrossPredictor])
def test_every_context_token_and_every_position_matters(kind):
    predictor = kind(GRID, WIDTH, 8, 2, 2, WIDTH)
    pred = predictor(context(), DRAWN)
    for token in range(6):
        changed = context()
        changed[:, token] += torch.randn(WIDTH, generator=rng(3))
        assert (predictor(changed, DRAWN) - pred).abs().amax(dim=-1).min() > 1e-5
    elsewhere = Masks(DRAWN.context_idx.flip(1), DRAWN.target_idx, GRID)
    assert not torch.allclose(predictor(context(), elsewhere), pred, atol=1e-4), "the same latents at other places"
    assert not torch.allclose(pred[:, :, 0], pred[:, :, 1], atol=1e-4), "another query, another prediction"


def test_the_order_in_which_the_context_is_listed_changes_nothing():
    predictor, order = cross(), torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = Masks(DRAWN.context_idx[:, order], DRAWN.target_idx, GRID)
    torch.testing.assert_close(predictor(context()[:, order], shuffled), predictor(context(), DRAWN))


def test_plain_attention_equals_the_fused_kernel():
    from jepa_lab.train import choose_attention

    predictor = cross()
    fused = predictor(context(), DRAWN)
    choose_attention(predictor, plain=True)
    assert not any(block.fused_attn for block in predictor.blocks)
    torch.testing.assert_close(predictor(context(), DRAWN), fused)


def test_the_context_is_projected_once_however_many_blocks_there_are():
    predictor, rows = cross(), []
    for module in (predictor.embed, predictor.blocks[0].key_value):
        module.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[:-1]))
    many = Masks(DRAWN.context_idx, DRAWN.target_idx[:, :1].expand(-1, 9, -1), GRID)
    predictor(context(), many)
    assert rows == [(3, 6), (3, 6)]


# ---- actions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["latents", "actions"])
def test_no_prediction_depends_on_a_later_latent_or_action(kind):
    """Row t predicts step t + 1 from steps 1 to t: it changes with every one of them, with none after."""
    predictor, (latents, actions) = acting(), steps()
    pred = predictor(latents, actions)
    for changed in range(5):
        inputs = {"latents": latents.clone(), "actions": actions.clone()}
        inputs[kind][:, changed] += torch.randn(inputs[kind].shape[-1], generator=rng(4))
        moved = (predictor(inputs["latents"], inputs["actions"]) - pred).abs().amax(dim=(0, 2))
        assert (moved[:changed] < 1e-6).all() and (moved[changed:] > 1e-5).all()


def test_a_shorter_sequence_gives_the_same_first_predictions():
    predictor, (latents, actions) = acting(), steps()
    torch.testing.assert_close(predictor(latents[:, :2], actions[:, :2]), predictor(latents, actions)[:, :2])


def test_the_order_of_steps_matters():
    predictor, (latents, actions) = acting(), steps()
    order = torch.tensor([1, 0, 2, 3, 4])
    assert (predictor(latents[:, order], actions[:, order]) - predictor(latents, actions))[:, -1].abs().max() > 1e-4


def test_the_next_latent_cannot_be_learned_without_the_action():
    """A world where the latent turns by what the action says: a few steps of training halve the error only with it."""

    def error(sees_action):
        predictor, generator = acting(), rng(2)
        optimizer = torch.optim.Adam(predictor.parameters(), lr=1e-2)
        for _ in range(60):
            latents, actions = (
                torch.randn(64, 3, WIDTH, generator=generator),
                torch.randn(64, 3, 3, generator=generator),
            )
            target = latents[..., :5] + actions @ torch.eye(3, 5)
            loss = (predictor(latents, actions * sees_action) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    assert error(sees_action=1.0) < 0.7 * error(sees_action=0.0)


# ---- all of them -----------------------------------------------------------------------------------


def test_at_paper_size_no_tensor_strays():
    """Both predictors beside ViT-H/14 on the meta device, backward included: a tensor made elsewhere raises."""
    with torch.device("meta"):
        crossing = CrossPredictor((16, 16), 1280, 384, 12, 12, 1280)
        moving = ActionPredictor(16, 1280, 7, 1024, 24, 16, 1280)
        drawn = Masks(torch.zeros(2, 64, dtype=torch.int64), torch.zeros(2, 4, 42, dtype=torch.int64), (16, 16))
        latents, sequence, actions = torch.zeros(2, 64, 1280), torch.zeros(2, 15, 1280), torch.zeros(2, 15, 7)
    pred, following = crossing(latents, drawn), moving(sequence, actions)
    assert pred.shape == (2, 4, 42, 1280) and following.shape == (2, 15, 1280)
    (pred.mean() + following.mean()).backward()
    silent = [
        n
        for n, p in (*crossing.named_parameters(), *moving.named_parameters())
        if p.grad is None or p.grad.device.type != "meta"
    ]
    assert silent == []
    assert sum(p.numel() for p in moving.parameters()) == pytest.approx(305e6, rel=0.01)  # V-JEPA 2-AC: about 300 M


@pytest.mark.parametrize("kind", ["cross", "action"])
def test_every_weight_gets_a_gradient(kind):
    predictor = cross() if kind == "cross" else acting()
    pred = predictor(context(), DRAWN) if kind == "cross" else predictor(*steps())
    pred.square().mean().backward()
    assert [n for n, p in predictor.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("kind", ["cross", "action"])
def test_bf16_autocast_stays_within_two_percent(kind, plain):
    from jepa_lab.train import choose_attention

    predictor = cross() if kind == "cross" else acting()
    inputs = (context(), DRAWN) if kind == "cross" else steps()
    exact = predictor(*inputs)
    choose_attention(predictor, plain)
    with torch.autocast("cpu", torch.bfloat16):
        rough = predictor(*inputs)
    assert (rough.float() - exact).norm() < 0.02 * exact.norm()


def test_compiled_equals_eager_without_graph_breaks():
    """Predictors, an encoder with registers, its views, and the losses of a batch, forward and backward.

    In a process of its own, since the run-time shape checks of this suite would break the graph.
    """
    program = """if True:
        import torch
        from jepa_lab import losses
        from jepa_lab.encoders import Encoder
        from jepa_lab.masks import Masks
        from jepa_lab.predictors import ActionPredictor, CrossPredictor
        idx = torch.tensor([[0, 3, 4, 5], [1, 2, 3, 5]])
        encoder = Encoder((4, 4), 9, 16, 1, 2, num_registers=2)
        view, cross, acting = encoder.at_grid((2, 3)), CrossPredictor((2, 3), 16, 8, 1, 2, 16), ActionPredictor(4, 16, 3, 8, 1, 2, 16)

        def every(x, small, actions, directions):
            registers, tokens = encoder.latents(x)
            pred = cross(view(small, idx), Masks(idx, idx[:, None, :2], (2, 3))).flatten(0, 2)
            following = acting(tokens[:, :4], actions).flatten(0, 1)
            z = torch.cat([pred, following, registers.flatten(0, 1)])
            return (losses.variance(z) + losses.covariance(z) + losses.sigreg(z, directions_DS=directions)
                    + losses.info_nce(z, z.flip(0)) + losses.cosine_distance(z, z.flip(0)))

        inputs = torch.randn(2, 16, 9), torch.randn(2, 6, 9), torch.randn(2, 4, 3), torch.randn(16, 8)
        graph, weights = torch.compile(every, backend="aot_eager", fullgraph=True), list(encoder.parameters())
        losses_of = [f(*inputs) for f in (graph, every)]
        torch.testing.assert_close(*losses_of)
        for ours, theirs in zip(*(torch.autograd.grad(loss, weights) for loss in losses_of)):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        print("equal")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


OTHER_GRID = Masks(DRAWN.context_idx, DRAWN.target_idx, (2, 8))
LATENTS, ACTIONS = steps()
REFUSED = {
    "heads that do not divide": (lambda m: m.CrossPredictor(GRID, WIDTH, 8, 1, 3, 5), "does not split into 3 heads"),
    "action heads that do not divide": (
        lambda m: m.ActionPredictor(4, WIDTH, 3, 8, 1, 3, 5),
        "does not split into 3 heads",
    ),
    **{
        f"{name}: {what}": (
            lambda m, name=name, inputs=inputs: getattr(m, name)(GRID, WIDTH, 8, 1, 2, 5)(*inputs),
            says,
        )
        for name in ("Predictor", "CrossPredictor")
        for what, inputs, says in [
            (
                "masks of another grid",
                (context(), OTHER_GRID),
                r"masks of grid \(2, 8\) in a predictor of grid \(4, 4\)",
            ),
            ("another width", (context()[..., :7], DRAWN), r"expected latents \[3, 6, 16\].*got \[3, 6, 7\]"),
            (
                "one context token for all",
                (context()[:, :1], DRAWN),
                r"expected latents \[3, 6, 16\].*got \[3, 1, 16\]",
            ),
            ("another batch", (context()[:1], DRAWN), r"expected latents \[3, 6, 16\].*got \[1, 6, 16\]"),
        ]
    },
    "fewer actions than latents": (
        lambda m: m.ActionPredictor(6, WIDTH, 3, 8, 1, 2, 5)(LATENTS, ACTIONS[:, 1:]),
        "one action per latent",
    ),
    "actions of another width": (
        lambda m: m.ActionPredictor(6, WIDTH, 3, 8, 1, 2, 5)(LATENTS, ACTIONS[..., :2]),
        r"actions \[batch, steps, 3\]",
    ),
    "actions of another batch": (
        lambda m: m.ActionPredictor(6, WIDTH, 3, 8, 1, 2, 5)(LATENTS, ACTIONS[:1]),
        "one action per latent",
    ),
    "more steps than made for": (
        lambda m: m.ActionPredictor(4, WIDTH, 3, 8, 1, 2, 5)(LATENTS, ACTIONS),
        "5 steps, .* 1 to 4",
    ),
    "no step": (lambda m: m.ActionPredictor(4, WIDTH, 3, 8, 1, 2, 5)(LATENTS[:, :0], ACTIONS[:, :0]), "0 steps"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_clear_error(case):
    call, says = REFUSED[case]
    with pytest.raises(ValueError, match=says):
        call(unchecked())
