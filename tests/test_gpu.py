"""What only a GPU can show: the same numbers as on a CPU, no wait inside the loop, compiled as uncompiled, exact
resume.

Skipped where there is none. Run it alone: pytest tests/test_gpu.py
"""

import copy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from test_golden import EXPERIMENTS, squares
from test_reversal_curse import CFG as FACTS

from jepa_lab import image_world as worlds
from jepa_lab import train
from jepa_lab.data.ecg import records as ecg
from jepa_lab.data.ecg import simulator as ecg_simulator
from jepa_lab.masks import Masks
from jepa_lab.papers.ecg_jepa import paper as ecg_jepa
from jepa_lab.papers.ecg_jepa import world as ecg_world
from jepa_lab.papers.implicit_bias import paper as implicit_bias
from jepa_lab.papers.masking import paper as masking
from jepa_lab.papers.predictors import paper as predictors
from jepa_lab.papers.predictors import phase as ensembles
from jepa_lab.papers.reversal_curse import arms as fact_arms
from jepa_lab.papers.reversal_curse import scores as recall

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
IMAGES = replace(masking.preset("smoke"), precision="float32")
ECG = ecg_jepa.preset("smoke")


def records(device="cpu"):
    return ecg_world.cut(
        ecg.split(ecg_simulator.simulate(80, seed=0, rate=ECG.rate, seconds=ECG.seconds), (48, 16, 16)), ECG, device
    )


def on_gpu(scene):
    return replace(scene, patches=scene.patches.cuda(), probe=scene.probe.cuda())


def image_model(cfg, scene, arm, seed=0):
    return worlds.model(replace(cfg, **(arm.changes or {})), scene.grid, scene.patches.shape[-1], seed, arm.predictor)


def gradients(model):
    return torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])


def both(model, objective, patches, drawn):
    """Loss and gradients of one objective on the CPU and on the GPU."""
    for device in ("cpu", "cuda"):
        here = copy.deepcopy(model).to(device)
        loss = objective(
            here, patches.to(device), Masks(drawn.context_idx.to(device), drawn.target_idx.to(device), drawn.grid)
        )
        loss.backward()
        yield loss.detach().cpu(), gradients(here)


def same(pair):
    (loss, grad), (loss_gpu, grad_gpu) = pair
    torch.testing.assert_close(loss_gpu, loss, rtol=1e-4, atol=1e-5)
    assert (grad_gpu - grad).norm() <= 2e-3 * grad.norm() + 1e-7


@pytest.mark.parametrize("paper", [masking, predictors], ids=["01", "02"])
def test_loss_and_gradients_of_every_image_arm_are_those_of_the_cpu(paper):
    scene, cfg = squares(), replace(paper.preset("smoke"), precision="float32")
    for name, arm in paper.arms(cfg, scene).items():
        same(
            both(
                image_model(cfg, scene, arm),
                arm.objective,
                scene.to_batch(scene.patches[:32]),
                arm.sampler(32, torch.Generator().manual_seed(0)),
            )
        )


def test_loss_and_gradients_of_the_ecg_models_are_those_of_the_cpu():
    scene = records()
    for name in ("ECG-JEPA", "masked auto-encoder"):
        arm = ecg_jepa.arms(ECG, scene)[name]
        model = ecg_world.model(ECG, scene.grid, 0, arm.predictor)
        same(
            both(
                model,
                arm.objective,
                scene.to_batch(scene.train.signals[:16]),
                arm.sampler(16, torch.Generator().manual_seed(0)),
            )
        )


@pytest.mark.parametrize("name", fact_arms.ARMS)
def test_loss_and_gradients_of_every_fact_arm_are_those_of_the_cpu(name):
    arm = fact_arms.ARMS[name]
    world = fact_arms.world_of(FACTS, 0, arm.concept_level)
    model = fact_arms.start(FACTS, arm, world.names, world.vocabulary, world.num_relations, 0).model
    for p in model.parameters():
        p.data.mul_(5) if p.ndim > 1 else None  # scores that differ
    found = []
    for device in ("cpu", "cuda"):
        here = copy.deepcopy(model).to(device)
        loss = fact_arms.loss_of(arm)(here, world.train[:64].to(device))
        loss.backward()
        found.append((loss.detach().cpu(), gradients(here)))
    same(found)


def test_every_sampler_draws_the_same_kind_of_masks_on_the_gpu():
    scene = squares()
    for name, arm in masking.arms(IMAGES, scene).items():
        drawn = arm.sampler(64, torch.Generator("cuda").manual_seed(0))
        assert drawn.context_idx.is_cuda and drawn.target_idx.is_cuda
        like, tokens = arm.sampler(64, torch.Generator().manual_seed(0)), scene.grid[0] * scene.grid[1]
        assert drawn.context_idx.shape == like.context_idx.shape and drawn.target_idx.shape == like.target_idx.shape
        for seen, hidden in zip(drawn.context_idx.cpu(), drawn.target_idx.cpu()):
            assert len(seen.unique()) == len(seen) and 0 <= int(seen.min()) <= int(seen.max()) < tokens
            assert not set(seen.tolist()) & set(hidden.flatten().tolist())


def quiet_steps(run, take_step, count=3):
    """Steps of which all but the first, which allocates, raise where they wait for the device."""
    for turn in range(count):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if turn else "default")
        try:
            _, ok = take_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        run.step += 1
        assert bool(ok)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_no_step_waits_for_the_device(precision):
    scene, beats = on_gpu(squares()), records("cuda")
    cases = [
        (
            replace(IMAGES, precision=precision),
            arm,
            scene.to_batch,
            scene.patches,
            lambda cfg, arm: image_model(cfg, scene, arm),
        )
        for arm in masking.arms(IMAGES, scene).values()
    ]
    cases += [
        (
            replace(ECG, precision=precision),
            arm,
            beats.to_batch,
            beats.train.signals,
            lambda cfg, arm: ecg_world.model(cfg, beats.grid, 0, arm.predictor),
        )
        for arm in ecg_jepa.arms(ECG, beats).values()
    ]
    for cfg, arm, to_batch, data, build in cases:
        run, batches = train.start(build(cfg, arm), 0, "cuda"), train.batch_indices(len(data), cfg.batch_size, 0)
        step = train.wrap(run.model, arm.objective, compile=False)
        quiet_steps(
            run,
            lambda: train.train_step(
                run, cfg, step, to_batch, data, next(batches), arm.sampler(cfg.batch_size, run.generator)
            ),
        )


@pytest.mark.parametrize("name", fact_arms.ARMS)
def test_no_step_on_facts_waits_for_the_device(name):
    arm = fact_arms.ARMS[name]
    world = fact_arms.world_of(FACTS, 0, arm.concept_level).to("cuda")
    run = fact_arms.start(FACTS, arm, world.names, world.vocabulary, world.num_relations, 0, "cuda")
    batches, loss = train.batch_indices(len(world.train), FACTS.batch_size, 0), fact_arms.loss_of(arm)
    quiet_steps(run, lambda: recall.step(run, FACTS, loss, world.train, next(batches)))


def test_a_bad_batch_moves_nothing_on_the_gpu():
    scene = on_gpu(squares())
    cfg, arm = replace(IMAGES, num_steps=6, log_every=1), masking.arms(IMAGES, scene)["I-JEPA"]
    broken = scene.patches.float()
    broken[:] = torch.nan
    run = worlds.train_arm(cfg, scene, arm, 0, progress=False, compile=False)
    before = copy.deepcopy(
        [*run.model.parameters(), *(part for state in run.optimizer.state.values() for part in state.values())]
    )
    step = train.wrap(run.model, arm.objective, compile=False)
    _, ok = train.train_step(run, cfg, step, lambda x: x, broken, torch.arange(32), arm.sampler(32, run.generator))
    after = [*run.model.parameters(), *(part for state in run.optimizer.state.values() for part in state.values())]
    assert not bool(ok) and all(torch.equal(one, other) for one, other in zip(before, after))


def test_a_resumed_run_on_the_gpu_is_the_uninterrupted_one(tmp_path):
    scene, path = on_gpu(squares()), tmp_path / "checkpoint.pt"
    cfg, arm = replace(IMAGES, num_steps=8), masking.arms(IMAGES, scene)["I-JEPA"]
    whole = worlds.train_arm(cfg, scene, arm, 0, progress=False, compile=False)

    class Cut(Exception):
        pass

    def until(step):
        def sampler(batch_size, generator):
            if not left.pop():
                raise Cut
            return arm.sampler(batch_size, generator)

        left = [False] + [True] * step
        return replace(arm, sampler=sampler)

    with pytest.raises(Cut):
        worlds.train_arm(cfg, scene, until(5), 0, progress=False, compile=False, checkpoint=path, save_every=4)
    resumed = worlds.train_arm(cfg, scene, until(20), 0, progress=False, compile=False, checkpoint=path, save_every=4)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_an_ensemble_on_the_gpu_trains_as_separate_runs_do():
    scene = on_gpu(squares())
    cfg, arm = replace(IMAGES, num_steps=4), masking.arms(IMAGES, scene)["I-JEPA"]
    alone = [worlds.train_arm(cfg, scene, arm, seed, progress=False, compile=False).model for seed in range(2)]
    models = [image_model(cfg, scene, arm, seed) for seed in range(2)]
    ensembles.fit(
        ensembles.stack(models, [0, 1], "cuda"), cfg, scene.patches, scene.to_batch, arm.sampler, progress=False
    )
    for one, other in zip(alone, models):
        for p, q in zip(one.parameters(), other.parameters()):
            torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_simulations_of_chapter_10_run_on_the_gpu(experiment):
    outcome = experiment(implicit_bias.preset("smoke"), 0, "cuda")
    assert all(torch.isfinite(torch.tensor(pair)).all() for pair in outcome.claims.values())


def test_compiled_equals_uncompiled_on_the_gpu():
    """In a process of its own, since the run-time shape checks of this suite would break the graph."""
    program = """if True:
        from dataclasses import replace
        import sys, torch
        sys.path.insert(0, "tests")
        from jepa_lab import worlds
        from jepa_lab.papers import masking
        import test_golden
        torch._dynamo.config.error_on_recompile = True
        scene = test_golden.squares()
        scene = replace(scene, patches=scene.patches.cuda(), probe=scene.probe.cuda())
        for precision, tolerance in (("float32", 1e-3), ("bf16", 2e-2)):
            cfg = replace(masking.preset("smoke"), log_every=1, precision=precision)
            for name in ("I-JEPA", "pixel targets"):
                losses = [worlds.train_arm(cfg, scene, masking.arms(cfg, scene)[name], 0, progress=False, compile=compile).history["loss"] for compile in (False, True)]
                torch.testing.assert_close(*map(torch.tensor, losses), rtol=tolerance, atol=tolerance)
        print("equal")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip().endswith("equal"), done.stderr[-3000:]
