"""What only a GPU can show, for every paper's arms: the numbers of a CPU, no wait in a step, compiled as uncompiled.

Skipped where there is none. Run it alone: pytest tests/test_gpu.py
"""

import copy
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from functools import partial
from types import MethodType

import pytest
import torch
from every_paper import CALM, TESTS, TRAINED, Poisoned, arms, case, different, tensors, with_changes

from jepa_lab import runtime, train
from jepa_lab.experiment import fresh_model, start_arm, train_arm

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
every_trained_paper = pytest.mark.parametrize("slug", TRAINED)


def moved(part, device):
    """A task, an objective or an arm with all its tensors on the device."""
    if isinstance(part, torch.Tensor):
        return part.to(device)
    if isinstance(part, partial):
        return partial(moved(part.func, device), *moved(part.args, device), **moved(part.keywords, device))
    if isinstance(part, MethodType):
        return MethodType(part.__func__, moved(part.__self__, device))
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{f.name: moved(getattr(part, f.name), device) for f in fields(part) if f.init})
    if isinstance(part, dict):
        return {name: moved(value, device) for name, value in part.items()}
    if type(part) is tuple:
        return tuple(moved(value, device) for value in part)
    return part


def on(device, slug, name, **changes):
    """The arm's data on the device; its model is still built from data on the CPU."""
    arm = arms(slug)[1][name]
    there = replace(arm, task=moved(arm.task, device), objective=moved(arm.objective, device), measure=None)
    return with_changes(there, log_every=1, **changes)


@every_trained_paper
def test_a_moved_arm_trains_as_the_arm_itself(slug):
    """The check of this file's own helper, on any machine."""
    cfg, found = arms(slug)
    for name, arm in found.items():
        pair = (with_changes(arm, num_steps=2), on("cpu", slug, name, num_steps=2))
        states = [train_arm(cfg, one_arm, 0, progress=False, measure=None) for one_arm in pair]
        assert different(*map(tensors, states)) == [], name


def first_loss(slug, name, device):
    """Loss and gradients of the first batch, which is drawn on the CPU."""
    cfg, arm = arms(slug)[0], on(device, slug, name, **CALM)
    task, cfg = arms(slug)[1][name].task, replace(cfg, **arm.changes)
    model = fresh_model(cfg, arm, 0).to(device)
    idx_B = torch.arange(cfg.batch_size)
    drawn = task.draw(idx_B, torch.Generator().manual_seed(0))
    loss, _ = runtime.Step(model, arm.objective)(moved(task.load(idx_B, drawn), device), moved(drawn, device))
    loss.backward()
    gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
    return loss.detach().cpu(), gradient


@needs_gpu
@every_trained_paper
def test_loss_and_gradients_are_those_of_the_cpu(slug):
    for name in arms(slug)[1]:
        (loss, gradient), (loss_gpu, gradient_gpu) = (first_loss(slug, name, device) for device in ("cpu", "cuda"))
        torch.testing.assert_close(loss_gpu, loss, rtol=1e-4, atol=1e-5, msg=name)
        assert (gradient_gpu - gradient).norm() <= 2e-3 * gradient.norm() + 1e-7, name


@needs_gpu
@every_trained_paper
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_no_step_waits_for_the_device(slug, precision, optimizer):
    for name in arms(slug)[1]:
        arm = on("cuda", slug, name, precision=precision, optimizer=optimizer)
        state, cfg = start_arm(arms(slug)[0], arm, 0)
        step = runtime.wrap(state.model, arm.objective, compile=False)
        batches = train.batch_indices(len(arm.task), cfg.batch_size, 0)
        for turn in range(3):  # the first step allocates
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error" if turn else "default")
            try:
                _, _, ok = train.train_step(state, cfg, arm.task, step, next(batches))
            finally:
                torch.cuda.set_sync_debug_mode("default")
            state.step += 1
            assert bool(ok), name


@needs_gpu
@every_trained_paper
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_bad_batch_moves_nothing_on_the_gpu(slug, optimizer):
    name, seen = next(iter(arms(slug)[1])), {}

    def keep(state):
        seen[state.step] = copy.deepcopy(tensors(state))

    arm = on("cuda", slug, name, num_steps=4, optimizer=optimizer)
    arm = replace(arm, objective=Poisoned(arm.objective, 2))
    train_arm(arms(slug)[0], arm, 0, progress=False, compile=False, at={2: keep, 3: keep})
    assert different(seen[2], seen[3]) == []


def cut(state):
    raise KeyboardInterrupt


@needs_gpu
@every_trained_paper
def test_a_resumed_run_on_the_gpu_is_the_uninterrupted_one(slug, tmp_path):
    name, how = next(iter(arms(slug)[1])), {"progress": False, "compile": False}
    arm = on("cuda", slug, name, num_steps=8)
    whole = train_arm(arms(slug)[0], arm, 0, **how)
    with pytest.raises(KeyboardInterrupt):
        train_arm(arms(slug)[0], arm, 0, checkpoint=tmp_path / "a.pt", save_every=4, at={5: cut}, **how)
    resumed = train_arm(arms(slug)[0], arm, 0, checkpoint=tmp_path / "a.pt", **how)
    torch.testing.assert_close(tensors(resumed), tensors(whole), rtol=1e-4, atol=1e-5)


COMPILED = """if True:
    import sys
    sys.path.insert(0, {tests!r})
    import torch
    from every_paper import arms, by_code
    from jepa_lab.experiment import train_arm
    from test_gpu import on
    slug = sys.argv[1]
    for precision, tolerance in (("float32", 1e-3), ("bf16", 2e-2)):
        for name in by_code(slug):
            arm = on("cuda", slug, name, precision=precision, num_steps=4)
            losses = [
                train_arm(arms(slug)[0], arm, 0, progress=False, compile=compile).history["loss"]
                for compile in (False, True)
            ]
            torch.testing.assert_close(*map(torch.tensor, losses), rtol=tolerance, atol=tolerance, msg=name)
    print("equal")
"""


@needs_gpu
@every_trained_paper
def test_compiled_equals_uncompiled_on_the_gpu(slug):
    """In a process of its own, since the run-time shape checks of this suite would break the graph."""
    command = [sys.executable, "-c", COMPILED.format(tests=str(TESTS)), slug]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.stdout.strip().endswith("equal"), done.stderr[-3000:]


@needs_gpu
def test_the_simulations_of_chapter_10_run_on_the_gpu():
    numbers = case("implicit_bias").numbers("cuda")
    assert numbers and all(torch.isfinite(torch.tensor(values)).all() for values in numbers.values())
