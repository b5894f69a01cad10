"""The engine keeps its promises: EMA, schedules, batches, parts of a loss, randomness, one clear error."""

import math
import platform
from dataclasses import replace

import pytest
import tiny
import torch
from torch import nn

from jepa_lab import runtime, train
from jepa_lab.encoders import Encoder, position_code
from jepa_lab.experiment import collapse_panel
from jepa_lab.objectives import jepa_objective
from jepa_lab.schedules import cosine_schedule, linear
from jepa_lab.tasks import TokenTask

WATCH = collapse_panel(tiny.patches(30), tiny.to_batch, tiny.SAMPLER)


def test_ema_equals_its_closed_form():
    torch.manual_seed(0)
    target, source = nn.Linear(3, 2), nn.Linear(3, 2)
    start, decay, steps = target.weight.detach().clone(), 0.9, 7
    for _ in range(steps):
        train.ema_update(target, source, decay)
    wanted = decay**steps * start + (1 - decay**steps) * source.weight.detach()
    torch.testing.assert_close(target.weight.detach(), wanted)


def test_every_target_module_is_the_ema_of_its_sibling_wherever_it_lies():
    policy = nn.ModuleDict({"state": tiny.model(), "head": nn.Linear(2, 2)})
    pairs = train.ema_pairs(policy)
    assert pairs == [(policy["state"].target_encoder, policy["state"].encoder)]
    assert train.ema_pairs(nn.Linear(2, 2)) == []


def test_the_memory_of_the_ema_is_a_share_of_the_run():
    cfg = replace(tiny.CFG, num_steps=200, ema_memory=0.1)
    assert [cfg.ema_decay_at(step) for step in (0, 100, 199)] == [pytest.approx(1 - 1 / 20)] * 3
    assert replace(cfg, num_steps=400).ema_decay_at(0) == pytest.approx(1 - 1 / 40)
    assert replace(cfg, ema_memory=0.0).ema_decay_at(5) == 0.0
    assert replace(cfg, ema_memory=None).ema_decay_at(100) == pytest.approx(0.995)


def test_schedules_meet_their_ends():
    cfg = replace(tiny.CFG, num_steps=100, warmup=0.1, lr=1.0)
    rates = [cfg.lr_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates[100] == pytest.approx(0.01)
    assert rates.index(max(rates)) in (9, 10) and all(a >= b for a, b in zip(rates[10:], rates[11:]))
    held = [replace(cfg, hold=0.5).lr_at(step) for step in range(101)]
    assert held[:10] == rates[:10] and set(held[10:55]) == {1.0} and held[56] < 1.0 and held[100] == pytest.approx(0.01)
    ends = [replace(cfg, first_lr=0.2, final_lr=0.0).lr_at(step) for step in (0, 100)]
    assert ends == pytest.approx([0.2, 0.0])
    assert linear(50, 100, (0.9, 1.0)) == pytest.approx(0.95)
    assert [cosine_schedule(step, 100, (0.04, 0.4)) for step in (0, 100)] == pytest.approx([0.04, 0.4])


def test_batches_visit_every_image_once_per_epoch_and_follow_from_the_step():
    stream = train.batch_indices(40, 8, seed=3)
    first = [next(stream) for _ in range(10)]
    assert sorted(torch.cat(first[:5]).tolist()) == list(range(40))
    assert not torch.equal(torch.cat(first[:5]), torch.cat(first[5:]))
    later = train.batch_indices(40, 8, seed=3, start_step=7)
    assert all(torch.equal(next(later), b) for b in first[7:])


def two_losses(model, patches_BNP, masks):
    loss = jepa_objective(model, patches_BNP, masks)
    return 3 * loss, {"latents": loss, "twice": 2 * loss}


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_parts_of_a_loss_are_averaged_and_logged_beside_it(micro_batches):
    history = tiny.fit(objective=two_losses, micro_batches=micro_batches).history
    assert [len(history[name]) for name in ("step", "loss", "latents", "twice")] == [3] * 4
    assert history["loss"] == pytest.approx([3 * value for value in history["latents"]], rel=1e-5)
    assert history["twice"] == pytest.approx([2 * value for value in history["latents"]], rel=1e-5)


def test_measuring_changes_no_training_and_its_numbers_join_the_history():
    measured = tiny.fit(measure=WATCH)
    assert torch.equal(tiny.weights(tiny.fit()), tiny.weights(measured))
    assert len(measured.history["rankme"]) == len(measured.history["step"]) == 3


def test_dropout_follows_from_the_seed_and_leaves_the_global_generator_alone():
    def dropped(seed, noise):
        torch.manual_seed(noise)  # what happens to run before must not matter
        model = tiny.model()
        model.predictor.out = nn.Sequential(nn.Dropout(0.5), model.predictor.out)
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        state = tiny.fit(state=train.start(model, tiny.CFG, seed))
        assert torch.equal(torch.get_rng_state(), before)
        return tiny.weights(state)

    assert torch.equal(dropped(0, noise=1), dropped(0, noise=2))
    assert not torch.equal(dropped(0, noise=1), tiny.weights(tiny.fit(state=train.start(tiny.model(), tiny.CFG, 0))))


def test_hooks_see_the_state_before_their_step():
    seen = []
    tiny.fit(at={0: lambda state: seen.append(state.step), 5: lambda state: seen.append(state.step)})
    assert seen == [0, 5]


def test_the_progress_bar_says_loss_speed_skipped_batches_and_collapse():
    state = tiny.fit(measure=WATCH)
    assert runtime.status(state, tiny.CFG, 2.0) == f"loss {state.history['loss'][-1]:.4f}, 16 samples/s"
    state.history["feature_std"][-1], state.bad_steps = 0.0, 1
    said = runtime.status(state, tiny.CFG, None)
    assert ", 1 non-finite batches skipped, ALARM: complete collapse" in said


def test_auto_takes_an_nvidia_gpu_before_apples_and_apples_before_the_cpu(monkeypatch):
    for cuda, mps, chosen in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=cuda: answer)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda answer=mps: answer)
        assert runtime.choose_device() == chosen
    assert runtime.choose_device("cuda:1") == "cuda:1"


def on(device, num_samples=40):
    return TokenTask(tiny.patches(num_samples).to(device), tiny.to_batch, tiny.SAMPLER)


def other_tokens():
    return TokenTask(tiny.patches()[:, :9], tiny.to_batch, tiny.SAMPLER)


TWO_GPUS = {"the model": torch.device("cuda:0"), "the data": torch.device("cuda:1")}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: position_code((4, 4), 10), "divisible by 4"),
        (lambda: position_code((2, 2, 2), 12), "one or two axes"),
        (lambda: Encoder(tiny.GRID, tiny.PATCH_DIM, 16, 1, 3), "does not split into 3 heads"),
        (lambda: Encoder(tiny.GRID, tiny.PATCH_DIM, 16, 1, 2)(torch.zeros(2, 9, tiny.PATCH_DIM)), "expected patches"),
        (lambda: next(train.batch_indices(3, 8, 0)), "cannot fill one batch"),
        (lambda: tiny.fit(task=on("meta")), "everything must be on one device, but the model on cpu"),
        (lambda: runtime.require_one_device(TWO_GPUS), "the data on cuda:1"),
        (lambda: tiny.fit(state=replace(train.start(tiny.model(), tiny.CFG, 0), step=-1)), "cannot be at step -1"),
        (lambda: tiny.fit(task=on("cpu", 0)), "the data set is empty"),
        (lambda: tiny.fit(task=other_tokens()), "expected patches"),
        (lambda: tiny.fit(micro_batches=3), "does not divide"),
        (lambda: train.Config(num_steps=-1), "num_steps must be at least 1"),
        (lambda: train.Config(precision="fp8"), "precision is"),
        (lambda: train.Config(optimizer="sgd"), "optimizer is 'adamw' or 'muon', got 'sgd'"),
        (lambda: train.Config(lr=0.0), "lr must be a positive number, got 0.0"),
        (lambda: train.Config(clip_norm=-1.0), "clip_norm must be a positive number"),
        (lambda: train.Config(warmup=1.1), "warmup must lie between 0 and 1, got 1.1"),
        (lambda: train.Config(ema_memory=2.0), "ema_memory must lie between 0 and 1, got 2.0"),
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
def test_a_step_finds_the_memory_of_the_one_before(run_program):
    """Page faults of the quietest step, some 10,000 without the setting; in a process of its own, since the setting is
    one for the whole process.
    """
    program = """if True:
        import resource
        import torch
        from functools import partial
        from jepa_lab import masks, train
        from jepa_lab.encoders import Encoder
        from jepa_lab.objectives import JEPA
        from jepa_lab.predictors import Predictor
        from jepa_lab.tasks import TokenTask
        sampler = partial(masks.multi_block, (8, 8), num_targets=4, target_shapes=[(3, 4)], num_context=24)
        data, faults = torch.randn(256, 64, 16), []
        def to_batch(patches):
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
            return patches
        model = JEPA(Encoder((8, 8), 16, 96, 2, 3), Predictor((8, 8), 96, 48, 2, 3, 96))
        cfg = train.Config(num_steps=10, batch_size=128)
        train.fit(train.start(model, cfg, 0), cfg, TokenTask(data, to_batch, sampler), progress=False)
        # the heap may still grow now and then
        print(min(after - before for before, after in zip(faults[4:], faults[5:])))
    """
    assert int(run_program(program)) < 1000, "page faults a step"


def test_run_time_checks_of_this_suite_cost_nothing_in_production(run_program):
    program = """if True:
        import inspect, sys
        from jepa_lab import objectives, train
        assert inspect.unwrap(objectives.jepa_objective) is objectives.jepa_objective
        assert inspect.unwrap(train.fit) is train.fit
        assert "beartype" not in sys.modules and "typeguard" not in sys.modules
        print("free")
    """
    assert run_program(program).strip() == "free"
