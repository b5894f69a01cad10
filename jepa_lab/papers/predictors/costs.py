"""What an arm costs: core-seconds measured, floating-point operations counted."""

from __future__ import annotations

from dataclasses import replace
from time import process_time

import torch

from jepa_lab import experiment, runtime
from jepa_lab.checkpoints import TrainState
from jepa_lab.experiment import Arm
from jepa_lab.papers.predictors.paper import Config


def train_timed(cfg: Config, arm: Arm, seed: int, **how) -> tuple[TrainState, float]:
    """Train one arm; also the core-seconds that 100 of its steps took, the collapse panel included."""
    began = process_time()
    state = experiment.train_arm(cfg, arm, seed, **how)
    return state, 100 * (process_time() - began) / state.step


def step_mflop(cfg: Config, arm: Arm) -> float:
    """Millions of floating-point operations of the matrix products in one step, forward and backward, per image."""
    from torch.utils.flop_counter import FlopCounterMode

    cfg = replace(cfg, **arm.changes)
    model = experiment.fresh_model(cfg, arm, seed=0).to(arm.task.device)
    runtime.choose_attention(model, plain=True)  # products that the counter knows
    idx_B = torch.arange(cfg.batch_size)
    masks = arm.task.draw(idx_B, torch.Generator(arm.task.device).manual_seed(0))
    batch_BNP = arm.task.load(idx_B, masks)
    with FlopCounterMode(display=False) as counter:
        arm.objective(model, batch_BNP, masks).backward()
    return counter.get_total_flops() / cfg.batch_size / 1e6
