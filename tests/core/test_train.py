"""The engine keeps its promises: no leak into the target, exact resume, bad batches move nothing, one clear error."""

import copy
import math
import platform
import subprocess
import sys
from dataclasses import replace
from functools import partial

import jaxtyping
import pytest
import torch
from torch import nn

from jepa_lab import losses, masks, train
from jepa_lab.encoders import Encoder, encode_blocks, position_code
from jepa_lab.masks import Masks
from jepa_lab.papers.reversal_curse.arms import SteadyConfig
from jepa_lab.predictors import Predictor

GRID, PATCH_DIM, WIDTH = (4, 4), 9, 16
CFG = train.Config(num_steps=12, batch_size=8, log_every=5)
SAMPLER = partial(masks.multi_block, GRID, num_targets=2, target_shapes=[(1, 2), (2, 1)], num_context=6)


def tiny(seed=0, out_dim=WIDTH):
    """A small model whose target encoder is not the encoder, as after some training."""
    torch.manual_seed(seed)
    model = train.JEPA(Encoder(GRID, PATCH_DIM, WIDTH, 2, 2), Predictor(GRID, WIDTH, 8, 1, 2, out_dim))
    for p in model.target_encoder.parameters():
        p.add_(0.1 * torch.randn_like(p))
    return model


def data(n=40):
    return torch.randint(0, 256, (n, 16, PATCH_DIM), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def to_batch(patches):
    return (patches.float() - 128) / 64


def fit(cfg=CFG, run=None, patches=None, cast=to_batch, **how):
    run = run or train.start(tiny(), 0, "cpu")
    return train.fit(run, cfg, data() if patches is None else patches, cast, SAMPLER, progress=False, **how)


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def batch(n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return to_batch(data(n)), SAMPLER(n, generator)


def test_target_branch_gets_no_gradient_and_everything_else_does():
    model, (patches, drawn) = tiny(), batch()
    train.jepa_objective(model, patches, drawn).backward()
    assert all(p.grad is None for p in model.target_encoder.parameters())
    silent = [
        n
        for n, p in (*model.encoder.named_parameters(), *model.predictor.named_parameters())
        if p.grad is None or not p.grad.any()
    ]
    assert silent == []


def test_weight_decay_spares_vectors_and_learned_tokens():
    model = train.JEPA(Encoder(GRID, PATCH_DIM, WIDTH, 1, 2, num_registers=2), Predictor(GRID, WIDTH, 8, 1, 2, WIDTH))
    decayed = {
        p for group in train.start(model, 0, "cpu").optimizer.param_groups if group["decayed"] for p in group["params"]
    }
    named = dict(model.named_parameters())
    spared = {name for name, p in named.items() if p.requires_grad and p not in decayed}
    assert {"encoder.registers_RD", "predictor.mask_token"} <= spared
    assert all(named[name].ndim == 1 or name == "encoder.registers_RD" for name in spared)
    assert {"encoder.embed.weight", "predictor.out.weight"} <= named.keys() - spared


@torch.no_grad()
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("samples", [1, 128, 256, 300])
def test_targets_of_a_part_at_a_time_are_those_of_the_whole_batch(samples, bf16):
    """To the last bit where the parts of 128 are full."""
    model, (patches, _) = tiny(), batch(40)
    train.choose_attention(model, plain=bf16)
    patches, encoder = patches.repeat(8, 1, 1)[:samples], model.target_encoder
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        parts, whole = train.encode_all(encoder, patches), encoder(patches)
    torch.testing.assert_close(parts, whole)
    assert samples == 300 or torch.equal(parts, whole)


def test_objective_equals_a_slow_reference():
    """One image, one block, one token at a time, straight from the paper's text."""
    model, (patches, drawn) = tiny(), batch()
    wanted = []
    with torch.no_grad():
        for b in range(len(patches)):
            latents = model.target_encoder(patches[b : b + 1])[0]
            context = model.encoder(patches[b : b + 1], drawn.context_idx[b : b + 1])
            for block in drawn.target_idx[b]:
                alone = Masks(drawn.context_idx[b : b + 1], block[None, None], GRID)
                pred = model.predictor(context, alone)[0, 0]
                for k, position in enumerate(block):
                    h = latents[position]
                    h = (h - h.mean()) / (h.var(unbiased=False) + 1e-6).sqrt()
                    gap = (pred[k] - h).abs()
                    wanted.append(torch.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean())
    got = train.jepa_objective(model, patches, drawn)
    torch.testing.assert_close(got, torch.stack(wanted).mean(), rtol=1e-5, atol=1e-6)


def test_encoder_equals_timms_vision_transformer_with_copied_weights():
    from timm.models.vision_transformer import VisionTransformer

    ours = Encoder(GRID, PATCH_DIM, WIDTH, 2, 2)
    theirs = VisionTransformer(
        img_size=12,
        patch_size=3,
        in_chans=1,
        num_classes=0,
        global_pool="",
        embed_dim=WIDTH,
        depth=2,
        num_heads=2,
        class_token=False,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    theirs.blocks.load_state_dict(ours.blocks.state_dict())
    theirs.norm.load_state_dict(ours.norm.state_dict())
    theirs.pos_embed.data = ours.position_ND[None].clone()
    theirs.patch_embed.proj.weight.data = ours.embed.weight.reshape(WIDTH, 1, 3, 3).clone()
    theirs.patch_embed.proj.bias.data = ours.embed.bias.clone()
    image = torch.randn(3, 1, 12, 12)
    patches = image.reshape(3, 4, 3, 4, 3).permute(0, 1, 3, 2, 4).reshape(3, 16, 9)
    torch.testing.assert_close(ours(patches), theirs.eval()(image), rtol=1e-4, atol=1e-5)


def test_hidden_tokens_cannot_reach_the_context():
    encoder, (patches, drawn) = Encoder(GRID, PATCH_DIM, WIDTH, 2, 2), batch()
    hidden = torch.ones(4, 16, dtype=torch.bool).scatter(1, drawn.context_idx, False)
    changed = torch.where(hidden[..., None], patches + 100, patches)
    torch.testing.assert_close(encoder(patches, drawn.context_idx), encoder(changed, drawn.context_idx))


def test_one_target_block_never_sees_another():
    predictor, context = Predictor(GRID, WIDTH, 8, 2, 2, WIDTH), torch.randn(2, 6, WIDTH)
    idx = torch.arange(6).expand(2, 6)
    both = torch.tensor([[[10, 11], [14, 15]], [[8, 9], [12, 13]]])
    pred = predictor(context, Masks(idx, both, GRID))
    for m in range(2):
        alone = predictor(context, Masks(idx, both[:, m : m + 1], GRID))
        torch.testing.assert_close(pred[:, m : m + 1], alone)


def test_blocks_encoded_alone_keep_their_order():
    encoder, (patches, drawn) = Encoder(GRID, PATCH_DIM, WIDTH, 1, 2), batch()
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


def test_ema_equals_its_closed_form():
    torch.manual_seed(0)
    target, source = nn.Linear(3, 2), nn.Linear(3, 2)
    start, decay, steps = target.weight.detach().clone(), 0.9, 7
    for _ in range(steps):
        train.ema_update(target, source, decay)
    wanted = decay**steps * start + (1 - decay**steps) * source.weight.detach()
    torch.testing.assert_close(target.weight.detach(), wanted)


def test_schedules_meet_their_ends():
    cfg = replace(CFG, num_steps=100, warmup=0.1, lr=1.0)
    rates = [train.learning_rate(step, cfg) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates[100] == pytest.approx(0.01)
    assert rates.index(max(rates)) in (9, 10) and all(a >= b for a, b in zip(rates[10:], rates[11:]))
    held = [train.learning_rate(step, SteadyConfig(num_steps=100, warmup=0.1, lr=1.0, hold=0.5)) for step in range(101)]
    assert held[:10] == rates[:10] and set(held[10:55]) == {1.0} and held[56] < 1.0 and held[100] == pytest.approx(0.01)
    assert train.linear(50, 100, (0.9, 1.0)) == pytest.approx(0.95)
    assert train.cosine(0, 100, (0.04, 0.4)) == pytest.approx(0.04) and train.cosine(
        100, 100, (0.04, 0.4)
    ) == pytest.approx(0.4)


def test_batches_visit_every_image_once_per_epoch_and_follow_from_the_step():
    stream = train.batch_indices(40, 8, seed=3)
    first = [next(stream) for _ in range(10)]
    assert sorted(torch.cat(first[:5]).tolist()) == list(range(40))
    assert not torch.equal(torch.cat(first[:5]), torch.cat(first[5:]))
    later = train.batch_indices(40, 8, seed=3, start_step=7)
    assert all(torch.equal(next(later), b) for b in first[7:])


def test_resume_mid_epoch_equals_uninterrupted(tmp_path):
    whole = fit(watch=data(30))
    path = tmp_path / "checkpoint.pt"
    stopped = train.start(tiny(), 0, "cpu")
    calls = {"left": 8}

    def cast(patches):  # the ninth batch kills the run, in the second epoch, past the checkpoint of step 7
        if len(patches) == CFG.batch_size:
            calls["left"] -= 1
        if calls["left"] < 0:
            raise KeyboardInterrupt
        return to_batch(patches)

    with pytest.raises(KeyboardInterrupt):
        fit(run=stopped, cast=cast, checkpoint=path, save_every=7, watch=data(30))
    calls["left"] = 5  # of the 12 steps 7 are saved
    resumed = fit(run=train.start(tiny(seed=1), 0, "cpu"), cast=cast, checkpoint=path, watch=data(30))
    assert torch.equal(weights(whole), weights(resumed))
    ours, theirs = whole.optimizer.state_dict()["state"], resumed.optimizer.state_dict()["state"]
    assert all(torch.equal(ours[k][name], theirs[k][name]) for k in ours for name in ours[k])
    assert torch.equal(whole.generator.get_state(), resumed.generator.get_state())
    assert whole.history["step"][-1] == resumed.history["step"][-1] == 12


def test_resume_without_the_optimizer_state_would_differ(tmp_path):
    """The control of the test above: exactness is not an accident of a run that forgets."""
    path = tmp_path / "checkpoint.pt"
    fit(cfg=CFG, checkpoint=path, save_every=7)
    half = fit(run=None, cfg=CFG)
    run = train.start(tiny(), 0, "cpu")
    run.model.load_state_dict(half.model.state_dict())
    run.step = 7
    assert not torch.equal(weights(fit(run=run)), weights(half))


def poisoned(bad_calls, poison=math.nan):
    calls = {"n": 0}

    def cast(patches):
        calls["n"] += 1
        batch_BNP = to_batch(patches)
        return batch_BNP * (poison if calls["n"] in bad_calls else 1.0)

    return cast


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_non_finite_batch_moves_nothing_and_is_counted(poison):
    cfg = replace(CFG, num_steps=4)
    run = fit(cfg)
    before, moments = weights(run).clone(), copy.deepcopy(run.optimizer.state_dict()["state"])
    fit(replace(cfg, num_steps=6, log_every=1, max_bad_steps=5), run=run, cast=poisoned({1}, poison), patches=data())
    # step 5 was bad: after it, the state must be that of step 4; so replay only the bad step
    again = fit(cfg)
    fit(replace(cfg, num_steps=5, log_every=5), run=again, cast=poisoned({1}, poison))
    assert torch.equal(weights(again), before) and again.bad_steps == 1 and run.bad_steps == 1
    assert run.history["bad_steps"] == [0, 1, 1] and math.isnan(run.history["loss"][1])
    assert train.status(run, cfg, None).endswith(", 1 non-finite batches skipped")
    after = again.optimizer.state_dict()["state"]
    assert all(torch.equal(after[k][name], moments[k][name]) for k in moments for name in moments[k])
    assert torch.isfinite(weights(run)).all() and not torch.equal(weights(run), before)


def test_a_finite_loss_with_an_infinite_gradient_moves_nothing():
    def steep(model, patches_BNP, masks):
        bias = model.encoder.norm.bias
        return (
            train.jepa_objective(model, patches_BNP, masks) + (bias - bias.detach()).sqrt().sum()
        )  # 0, of infinite slope

    run = train.start(tiny(), 0, "cpu")
    before = weights(run).clone()
    fit(run=run, objective=steep)
    assert torch.equal(weights(run), before) and run.bad_steps == CFG.num_steps


def test_too_many_non_finite_batches_stop_the_run_and_name_the_step():
    with pytest.raises(RuntimeError, match="up to step 5, more than max_bad_steps=3"):
        fit(replace(CFG, max_bad_steps=3), cast=poisoned(set(range(1, 20))))


def test_watching_changes_no_training():
    assert torch.equal(weights(fit()), weights(fit(watch=data(30))))


def test_the_progress_bar_says_loss_speed_and_collapse():
    run = fit(watch=data(30))
    assert train.status(run, CFG, 2.0) == f"loss {run.history['loss'][-1]:.4f}, 16 samples/s"
    run.history["feature_std"][-1] = 0.0
    assert "ALARM: complete collapse" in train.status(run, CFG, None)


@pytest.mark.parametrize("plain", [False, True])  # `fit` takes plain attention on a CPU
def test_bf16_autocast_stays_near_float32(plain):
    model, (patches, drawn) = tiny(), batch(16)
    exact = train.jepa_objective(model, patches, drawn)
    train.choose_attention(model, plain)
    with torch.autocast("cpu", torch.bfloat16):
        rough = train.jepa_objective(model, patches, drawn)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.005)


def test_plain_attention_equals_the_fused_kernel():
    model, (patches, drawn) = tiny(), batch()
    fused = train.jepa_objective(model, patches, drawn)
    train.choose_attention(model, plain=True)
    assert not any(block.attn.fused_attn for block in model.encoder.blocks)
    torch.testing.assert_close(train.jepa_objective(model, patches, drawn), fused)


def test_compiled_equals_eager_without_graph_breaks():
    """In a process of its own, since the run-time shape checks of this suite would break the graph."""
    program = """if True:
        import torch
        from functools import partial
        from jepa_lab import masks, train
        from jepa_lab.encoders import Encoder
        from jepa_lab.predictors import Predictor
        torch._dynamo.config.error_on_recompile = True
        model = train.JEPA(Encoder((4, 4), 9, 16, 1, 2), Predictor((4, 4), 16, 8, 1, 2, 16))
        graph = torch.compile(train.jepa_objective, backend="aot_eager", fullgraph=True)
        for seed in range(3):
            drawn = masks.multi_block((4, 4), 4, torch.Generator().manual_seed(seed), num_targets=2, target_shapes=[(1, 2)], num_context=6)
            patches = torch.randn(4, 16, 9)
            torch.testing.assert_close(graph(model, patches, drawn), train.jepa_objective(model, patches, drawn))

        def trained(compile, micro_batches=1):
            torch.manual_seed(0)
            model = train.JEPA(Encoder((4, 4), 9, 16, 1, 2), Predictor((4, 4), 16, 8, 1, 2, 16))
            sampler = partial(masks.multi_block, (4, 4), num_targets=2, target_shapes=[(1, 2)], num_context=6)
            data = torch.randn(16, 16, 9, generator=torch.Generator().manual_seed(0))
            run = train.start(model, 0, "cpu")
            train.fit(run, train.Config(num_steps=3, batch_size=8), data, torch.nn.Identity(), sampler, progress=False, compile=compile, micro_batches=micro_batches)
            return torch.cat([p.detach().flatten() for p in run.model.parameters()])

        plain, compiler, calls = trained(False), torch.compile, []
        torch.compile = lambda step, **how: calls.append(how) or compiler(step, backend="aot_eager", fullgraph=True, **how)
        torch.testing.assert_close(trained(True), plain)
        torch.testing.assert_close(trained(True, 2), trained(False, 2))
        assert [how["mode"] for how in calls] == ["reduce-overhead", "default"], "a CUDA graph overwrites gradients that are to add up"
        print("equal")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "equal", done.stderr[-2000:]


class Unfused(torch.optim.AdamW):
    """The meta device has no fused optimiser, and no other one takes the flag of a bad batch."""

    def step(self):
        del self.found_inf
        super().step()


def stepped(model, patches, drawn):
    """Shapes of all that a step makes: loss, flag, gradients, the optimiser's moments; the EMA is updated on the way."""
    trained = [p for p in model.parameters() if p.requires_grad]
    run = train.Run(model, Unfused([{"params": trained, "decayed": True}]), torch.Generator(), 0)
    loss = train.jepa_objective(model, patches, drawn)
    loss.backward()
    grads = [p.grad.shape for p in trained]
    ok = train.update(run, loss.detach(), CFG)
    assert ok.device == loss.device
    return (
        loss.shape,
        ok.shape,
        grads,
        [{name: part.shape for name, part in run.optimizer.state[p].items()} for p in trained],
    )


def test_a_step_on_the_meta_device_has_the_shapes_of_one_on_the_cpu():
    patches, drawn = batch()
    there = Masks(drawn.context_idx.to("meta"), drawn.target_idx.to("meta"), GRID)
    assert stepped(tiny().to("meta"), patches.to("meta"), there) == stepped(tiny(), patches, drawn)


def test_a_step_at_paper_size_has_the_right_shapes_and_no_stray_tensor():
    """ViT-H/14 with its predictor on the meta device: any tensor made on another device, or any read-back, raises."""
    with torch.device("meta"):
        model = train.JEPA(Encoder((16, 16), 588, 1280, 32, 16), Predictor((16, 16), 1280, 384, 12, 12, 1280))
        drawn = Masks(torch.zeros(2, 64, dtype=torch.int64), torch.zeros(2, 4, 42, dtype=torch.int64), (16, 16))
        patches = torch.zeros(2, 256, 588)
    pred = model.predictor(model.encoder(patches, drawn.context_idx), drawn)
    assert pred.shape == (2, 4, 42, 1280)
    loss, ok, grads, moments = stepped(model, patches, drawn)
    trained = [p.shape for p in model.parameters() if p.requires_grad]
    assert loss == ok == () and grads == trained == [part["exp_avg"] for part in moments]
    assert sum(p.numel() for p in model.encoder.parameters()) == pytest.approx(
        630e6, rel=0.01
    )  # ViT-H: 632 M with its [cls] parts


def test_position_codes_tell_every_cell_apart():
    code = position_code((6, 5), 32)
    assert torch.pdist(code).min() > 0.1
    assert torch.equal(position_code((30,), 32)[0, :16], torch.zeros(16))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: position_code((4, 4), 10), "divisible by 4"),
        (lambda: position_code((2, 2, 2), 12), "one or two axes"),
        (lambda: Encoder(GRID, PATCH_DIM, WIDTH, 1, 3), "does not split into 3 heads"),
        (lambda: Encoder(GRID, PATCH_DIM, WIDTH, 1, 2)(torch.zeros(2, 9, PATCH_DIM)), "expected patches"),
        (lambda: next(train.batch_indices(3, 8, 0)), "cannot fill one batch"),
        (lambda: fit(patches=data().to("meta")), "everything must be on one device, but the model on cpu"),
        (lambda: fit(watch=data(30).to("meta")), "one device, but .* the watched data on meta"),
        (
            lambda: train.require_one_device({"the model": torch.device("cuda:0"), "the data": torch.device("cuda:1")}),
            "the data on cuda:1",
        ),
        (lambda: fit(run=replace(train.start(tiny(), 0, "cpu"), step=-1)), "cannot be at step -1"),
        (lambda: fit(patches=data()[:0]), "the data set is empty"),
        (lambda: fit(patches=data()[:, :9]), "expected patches"),
        (lambda: fit(micro_batches=3), "does not divide"),
        (lambda: train.Config(num_steps=-1), "num_steps must be at least 1"),
        (lambda: train.Config(precision="fp8"), "precision is"),
        (lambda: train.Config(lr=0.0), "lr must be a positive number, got 0.0"),
        (lambda: train.Config(clip_norm=-1.0), "clip_norm must be a positive number"),
        (lambda: train.Config(warmup=1.1), "warmup must lie between 0 and 1, got 1.1"),
        (lambda: train.Config(ema_decay=(0.99, 1.01)), r"ema_decay must lie between 0 and 1, got \(0.99, 1.01\)"),
        (lambda: train.Config(ema_decay=(-0.1, 1.0)), "ema_decay must lie between"),
        (lambda: train.Config(weight_decay=(0.04, -0.4)), "weight_decay must not be negative"),
        (lambda: train.Config(lr=math.nan), "lr must be a positive number"),
    ],
)
def test_bad_input_gets_one_clear_error(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep its memory")
def test_a_step_finds_the_memory_of_the_one_before():
    """Page faults of the quietest step, some 10,000 without the setting; in a process of its own, since the setting is
    one for the whole process.
    """
    program = """if True:
        import resource
        import torch
        from functools import partial
        from jepa_lab import masks, train
        from jepa_lab.encoders import Encoder
        from jepa_lab.predictors import Predictor
        sampler = partial(masks.multi_block, (8, 8), num_targets=4, target_shapes=[(3, 4)], num_context=24)
        data, faults = torch.randn(256, 64, 16), []
        def to_batch(patches):
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
            return patches
        run = train.start(train.JEPA(Encoder((8, 8), 16, 96, 2, 3), Predictor((8, 8), 96, 48, 2, 3, 96)), 0, "cpu")
        train.fit(run, train.Config(num_steps=10, batch_size=128), data, to_batch, sampler, progress=False)
        print(min(after - before for before, after in zip(faults[4:], faults[5:])))  # the heap may still grow now and then
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert int(done.stdout) < 1000, f"{done.stdout} page faults a step {done.stderr[-2000:]}"


def test_shapes_are_checked_in_this_suite_and_cost_nothing_in_production():
    with pytest.raises(jaxtyping.TypeCheckError):
        train.jepa_objective(tiny(), torch.zeros(2, 16), batch()[1])
    program = """if True:
        import inspect, sys
        from jepa_lab import ensembles, recall, train
        assert inspect.unwrap(train.jepa_objective) is train.jepa_objective and inspect.unwrap(train.Encoder.forward) is train.Encoder.forward
        assert "beartype" not in sys.modules and "typeguard" not in sys.modules
        print("free")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "free", done.stderr[-2000:]
