"""The optimisers: what decays, what Muon gets, and that a bad batch moves nothing under either."""

import math
from dataclasses import replace

import pytest
import tiny
import torch
from torch import nn

from jepa_lab import optimizers, train
from jepa_lab.encoders import Encoder
from jepa_lab.objectives import JEPA, jepa_objective
from jepa_lab.predictors import Predictor
from jepa_lab.tasks import TokenTask

OPTIMIZERS = ["adamw", "muon"]


class WithBatchNorm(nn.Module):
    """A JEPA with a BatchNorm before its encoder's patches."""

    def __init__(self):
        super().__init__()
        self.jepa, self.norm = tiny.moved_model(), nn.BatchNorm1d(16)


def normed_objective(model, patches_BNP, masks):
    return jepa_objective(model.jepa, model.norm(patches_BNP), masks)


def test_weight_decay_spares_vectors_and_learned_tokens():
    encoder = Encoder(tiny.GRID, tiny.PATCH_DIM, tiny.WIDTH, 1, 2, num_registers=2)
    model = JEPA(encoder, Predictor(tiny.GRID, tiny.WIDTH, 8, 1, 2, tiny.WIDTH))
    state = train.start(model, tiny.CFG, 0)
    groups = [group for optimizer in state.optimizers for group in optimizer.param_groups]
    decayed = {p for group in groups if group["decayed"] for p in group["params"]}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    spared = {name for name, p in trained.items() if p not in decayed}
    registers = {name for name in trained if name.endswith("registers_RD")}
    assert registers and registers | {"predictor.mask_token"} <= spared
    assert all(trained[name].ndim == 1 for name in spared - registers)
    assert "predictor.out.weight" in trained.keys() - spared


def test_muon_gets_the_matrices_of_blocks_and_adamw_everything_else_once():
    state = train.start(tiny.model(), replace(tiny.CFG, optimizer="muon"), 0)
    adamw, muon = ([p for group in o.param_groups for p in group["params"]] for o in state.optimizers)
    names = {p: name for name, p in state.model.named_parameters()}
    assert all(p.ndim == 2 and ".blocks." in names[p] for p in muon) and len(muon) == 4 * (2 + 1)
    trained = [p for p in state.model.parameters() if p.requires_grad]
    assert len(adamw) + len(muon) == len(trained) and set(adamw) | set(muon) == set(trained)


def test_a_muon_step_is_that_of_torch():
    """One block matrix by hand: torch's Muon at the config's rate, with the config's weight decay."""
    cfg = replace(tiny.CFG, optimizer="muon", lr=0.1, clip_norm=1e9, log_every=1)
    state = train.start(tiny.model(), cfg, 0)
    matrix = state.optimizers[1].param_groups[0]["params"][0]
    copy = nn.Parameter(matrix.detach().clone())
    reference = torch.optim.Muon(
        [copy], lr=cfg.lr_at(0), weight_decay=cfg.weight_decay_at(0), adjust_lr_fn="match_rms_adamw"
    )
    loss = jepa_objective(state.model, *tiny.batch(8))
    loss.backward()
    copy.grad = matrix.grad.clone()
    reference.step()
    train.update(state, cfg, loss.detach())
    assert torch.equal(matrix, copy)


def poisoned_at(bad_steps, poison=math.nan):
    """A task whose batches of these steps are poisoned."""
    step = {"now": -1}

    def to_batch(part):
        step["now"] += 1
        return tiny.to_batch(part) * (poison if step["now"] in bad_steps else 1.0)

    return TokenTask(tiny.patches(), to_batch, tiny.SAMPLER)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("bad_step", [0, 4])
def test_a_non_finite_batch_moves_nothing_and_is_counted(optimizer, poison, bad_step):
    """Weights, EMA, momenta and BatchNorm's running statistics, also in the very first step."""
    cfg = replace(tiny.CFG, num_steps=6, optimizer=optimizer, log_every=1, max_bad_steps=5)
    seen = {}

    def look(state):
        tensors = state.model.state_dict() | tiny.optimizer_tensors(state)
        seen[state.step] = {name: tensor.clone() for name, tensor in tensors.items()}

    state = train.start(WithBatchNorm(), cfg, 0)
    steps = {step: look for step in (bad_step, bad_step + 1)}
    tiny.fit(cfg, state, poisoned_at({bad_step}, poison), normed_objective, at=steps)
    before, after = (seen[step] for step in steps)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert not any(after[name].any() for name in after.keys() - before.keys())  # AdamW's first step makes its moments
    assert state.bad_steps == 1 and math.isnan(state.history["loss"][bad_step])
    assert state.history["bad_steps"] == [int(step >= bad_step) for step in range(6)]
    assert torch.isfinite(tiny.weights(state)).all() and torch.isfinite(state.model.norm.running_mean).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_finite_loss_with_an_infinite_gradient_moves_nothing(optimizer):
    def steep(model, patches_BNP, masks):
        bias = model.encoder.get_parameter("trunk.blocks.0.norm1.bias")
        flat = (bias - bias.detach()).sqrt().sum()  # 0, of infinite slope
        return jepa_objective(model, patches_BNP, masks) + flat

    cfg = replace(tiny.CFG, optimizer=optimizer)
    state = train.start(tiny.moved_model(), cfg, 0)
    before = tiny.weights(state).clone()
    tiny.fit(cfg, state, objective=steep)
    assert torch.equal(tiny.weights(state), before) and state.bad_steps == cfg.num_steps


def test_restoring_reads_no_flag_and_keeps_finite_steps():
    kept, moved = torch.zeros(3), torch.zeros(3)
    optimizers.keep_where(torch.tensor(False), [kept.fill_(torch.nan)], [torch.ones(3)])
    optimizers.keep_where(torch.tensor(True), [moved.fill_(2.0)], [torch.ones(3)])
    assert kept.tolist() == [1, 1, 1] and moved.tolist() == [2, 2, 2]


def test_too_many_non_finite_batches_stop_the_run_and_name_the_step():
    cfg = replace(tiny.CFG, max_bad_steps=3)
    with pytest.raises(RuntimeError, match="up to step 5, more than max_bad_steps=3"):
        tiny.fit(cfg, task=poisoned_at(set(range(20))))
