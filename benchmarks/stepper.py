"""The training step of an arm as a function, made of what `train.fit` calls: benchmarks time this step."""

from __future__ import annotations

from collections.abc import Callable

from jepa_lab import experiment, runtime, train
from jepa_lab.checkpoints import TrainState
from jepa_lab.experiment import Arm


def stepper(
    cfg: train.Config, arm: Arm, seed: int = 0, *, micro_batches: int = 1, compile: bool = False
) -> tuple[TrainState, train.Config, Callable[[], None]]:
    """A fresh run of the arm, the config with the arm's changes, and a function that trains one step further."""
    state, cfg = experiment.start_arm(cfg, arm, seed)
    on_cpu = arm.task.device.type == "cpu"
    runtime.choose_attention(state.model, plain=on_cpu and cfg.precision == "bf16")
    step = runtime.wrap(state.model, arm.objective, compile, micro_batches)
    batches = train.batch_indices(len(arm.task), cfg.batch_size, seed)
    buffers = runtime.changing_buffers(state.model)

    def advance() -> None:
        train.train_step(state, cfg, arm.task, step, next(batches), micro_batches, buffers)
        state.step += 1

    return state, cfg, advance
