"""The algorithm: one step (`train_step`), the update of weights and EMA (`update`), and the loop around them (`fit`).

Shape suffixes: B samples of the whole batch, b samples of this process's share, T steps since the last log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from jaxtyping import Bool, Int64
from torch import Generator, Tensor, nn

from jepa_lab import checkpoints, distributed, optimizers, runtime, schedules
from jepa_lab.checkpoints import TrainState
from jepa_lab.configs import added
from jepa_lab.objectives import jepa_objective
from jepa_lab.tasks import Objective, Task


@dataclass(frozen=True)
class Config:
    """The settings of any training here; a paper's config adds its own fields."""

    num_steps: int = 1000
    batch_size: int = 128
    lr: float = 2e-3  # peak
    warmup: float = 0.1  # share of the steps with linearly rising rate
    weight_decay: tuple[float, float] = (0.04, 0.4)  # first and last, cosine between (I-JEPA's code)
    ema_decay: tuple[float, float] = (0.99, 1.0)  # first and last, linear between (I-JEPA's code)
    clip_norm: float = 1.0
    precision: str = "float32"  # or "bf16": autocast
    log_every: int = 50  # steps between two logs of loss and measurements
    max_bad_steps: int = 20  # non-finite batches that are skipped before the run stops
    hold: float = added(0.0)  # share of the steps after the warm-up at the peak rate; a cosine follows
    first_lr: float | None = added(None)  # where the warm-up begins, share of the peak; None: at one step's share
    final_lr: float = added(0.01)  # where the cosine ends, share of the peak
    betas: tuple[float, float] = added((0.9, 0.999))  # AdamW's
    eps: float = added(1e-8)  # AdamW's
    optimizer: str = added("adamw")  # or "muon": on the matrices of transformer blocks
    ema_memory: float | None = added(None)  # share of the run that the EMA remembers, constant; None: ema_decay holds

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "log_every"):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip_norm", "eps"):
            _require(getattr(self, name) > 0, f"{name} must be a positive number, got {getattr(self, name)}")
        for name in ("warmup", "hold", "first_lr", "final_lr", "ema_memory"):
            share = getattr(self, name)
            _require(share is None or 0 <= share <= 1, f"{name} must lie between 0 and 1, got {share}")
        for name in ("ema_decay", "betas"):
            shares = getattr(self, name)
            _require(all(0 <= share <= 1 for share in shares), f"{name} must lie between 0 and 1, got {shares}")
        _require(min(self.weight_decay) >= 0, f"weight_decay must not be negative, got {self.weight_decay}")
        _require(self.precision in ("float32", "bf16"), f"precision is 'float32' or 'bf16', got {self.precision!r}")
        _require(self.optimizer in ("adamw", "muon"), f"optimizer is 'adamw' or 'muon', got {self.optimizer!r}")

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, hold, cosine."""
        shape = {"warmup": self.warmup, "hold": self.hold, "first": self.first_lr, "final": self.final_lr}
        return schedules.warmup_hold_cosine(step, self.num_steps, self.lr, **shape)

    def weight_decay_at(self, step: int) -> float:
        """Weight decay of a step, for the parameters that decay."""
        return schedules.cosine_schedule(step, self.num_steps, self.weight_decay)

    def ema_decay_at(self, step: int) -> float:
        """Weight on the old target weights in a step."""
        if self.ema_memory is not None:
            return schedules.decay_of_memory(self.ema_memory, self.num_steps)
        return schedules.linear(step, self.num_steps, self.ema_decay)


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise ValueError(reason)


def start(model: nn.Module, cfg: Config, seed: int, device: torch.device | str = "cpu", ema=None) -> TrainState:
    """A fresh run: optimisers of the config, a generator seeded with `seed`.

    ema: pairs (target, source) of modules of equal shape; by default those of `ema_pairs`.
    """
    runtime.keep_freed_memory()
    model = model.to(device)
    pairs = ema_pairs(model) if ema is None else list(ema)
    generator = Generator(device).manual_seed(seed)
    return TrainState(model, optimizers.make_optimizers(model, cfg), generator, seed, pairs)


def ema_pairs(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Every module named `target_X` with its sibling `X`: the first is the EMA copy of the second."""
    pairs = []
    for module in model.modules():
        children = dict(module.named_children())
        pairs += [
            (child, children[name.removeprefix("target_")])
            for name, child in children.items()
            if name.startswith("target_") and name.removeprefix("target_") in children
        ]
    return pairs


def batch_indices(num_samples: int, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Int64[Tensor, " B"]]:
    """Endless shuffled batches; the order is a function of (seed, step), so a resumed run finds its place.

    Raises ValueError when the data set is empty or smaller than one batch.
    """
    if num_samples == 0:
        raise ValueError("the data set is empty")
    per_epoch = num_samples // batch_size
    if per_epoch == 0:
        raise ValueError(f"{num_samples} samples cannot fill one batch of {batch_size}; lower batch_size")
    step = start_step
    while True:
        epoch, position = divmod(step, per_epoch)
        if position == 0 or step == start_step:
            order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        yield order[position * batch_size : (position + 1) * batch_size]
        step += 1


def train_step(
    state: TrainState,
    cfg: Config,
    task: Task,
    step: nn.Module,
    idx_B: Int64[Tensor, " B"],
    micro_batches: int = 1,
    buffers: list[Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """One step on the samples `idx_B`: draw, load, loss, gradients, `update`.

    step: model and objective, from `runtime.wrap`. Each process takes its share of the batch in `micro_batches` parts.
    Returns the loss, its named parts and whether loss and gradients were finite; nothing is read back.
    """
    runtime.seed_dropout(state.seed, state.step, task.device)
    before = [buffer.clone() for buffer in buffers or ()]
    drawn = task.draw(idx_B, state.generator)
    loss, parts = torch.zeros((), device=task.device), {}
    for i, (idx_b, drawn_b) in enumerate(distributed.share(idx_B, drawn, micro_batches), start=1):
        batch = task.load(idx_b, drawn_b)
        with runtime.without_exchange(step, more_to_come=i < micro_batches):
            with torch.autocast(task.device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
                loss_b, parts_b = step(batch, drawn_b)
                loss_b = loss_b / micro_batches
            loss_b.backward()
        loss += loss_b.detach()
        for name, part in parts_b.items():
            parts[name] = parts.get(name, 0) + part.detach() / micro_batches
    ok = update(state, cfg, loss)
    optimizers.keep_where(ok, buffers or [], before)
    return loss, parts, ok


@torch.no_grad()
def update(state: TrainState, cfg: Config, loss: Tensor) -> Bool[Tensor, ""]:
    """One step of optimisers and EMA on the gradients of `loss`; returns whether loss and gradients were finite.

    A non-finite loss or gradient moves nothing, neither weights nor EMA nor optimiser state, and nothing waits for the
    flag.
    """
    groups = [group for optimizer in state.optimizers for group in optimizer.param_groups]
    norm = nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], cfg.clip_norm)
    ok = distributed.agree(torch.isfinite(loss) & torch.isfinite(norm))
    for group in groups:
        group["lr"] = cfg.lr_at(state.step)
        if group["decayed"]:
            group["weight_decay"] = cfg.weight_decay_at(state.step)
    optimizers.step_where(ok, state.optimizers)
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
    move = ok * (1 - cfg.ema_decay_at(state.step))
    for target, source in state.ema:
        ema_update(target, source, 1 - move)
    return ok


@torch.no_grad()
def ema_update(target: nn.Module, source: nn.Module, ema_decay: Tensor | float) -> None:
    """target <- decay * target + (1 - decay) * source, parameters only (I-JEPA, section 3)."""
    targets, sources = list(target.parameters()), list(source.parameters())
    torch._foreach_mul_(targets, ema_decay)
    torch._foreach_add_(targets, torch._foreach_mul(sources, 1 - ema_decay))


def fit(
    state: TrainState,
    cfg: Config,
    task: Task,
    objective: Objective = jepa_objective,
    *,
    name: str = "",
    measure: Callable[[nn.Module], dict[str, float]] | None = None,
    checkpoint: Path | None = None,
    save_every: int = 0,
    progress: bool = True,
    micro_batches: int = 1,
    compile: bool | None = None,
    at: Mapping[int, Callable[[TrainState], None]] = MappingProxyType({}),
) -> TrainState:
    """Train from `state.step` to `cfg.num_steps`, on as many processes as `distributed.join` joined.

    name: of the arm, part of the checkpoint's fingerprint. measure: called at every log; its numbers join
    `state.history`, beside the loss and its parts. checkpoint: written every `save_every` steps and at the end; where
    it exists, training goes on from it. micro_batches: parts into which each process cuts its share of a batch, to save
    memory; the step is the same unless the objective needs statistics of the whole batch. compile: by default on a GPU
    only. at: functions of the state, called before the step of that number.
    Raises ValueError for data that do not suit the run and for a checkpoint of another one, OSError when it cannot be
    written, and RuntimeError after more than `cfg.max_bad_steps` non-finite batches.
    """
    check(state, task)
    given = {"arm": name, "task": task, "objective": objective, "micro_batches": micro_batches}
    fingerprint = checkpoints.fingerprint(state, cfg, **given) if checkpoint else {}
    checkpoints.resume(checkpoint, state, fingerprint)
    runtime.choose_attention(state.model, plain=task.device.type == "cpu" and cfg.precision == "bf16")
    compile = task.device.type == "cuda" if compile is None else compile
    step = runtime.wrap(state.model, objective, compile, micro_batches)
    batches = batch_indices(len(task), cfg.batch_size, state.seed, state.step)
    buffers = runtime.changing_buffers(state.model)
    is_first = distributed.rank() == 0
    bar, recent = runtime.progress_bar(state, cfg, progress and is_first), []
    with runtime.own_randomness(task.device):
        for _ in bar:
            if state.step in at:
                at[state.step](state)
            recent.append(train_step(state, cfg, task, step, next(batches), micro_batches, buffers))
            state.step += 1
            is_last = state.step == cfg.num_steps
            saves = checkpoint is not None and save_every > 0 and (state.step % save_every == 0 or is_last)
            if state.step % cfg.log_every == 0 or is_last or saves:  # the only place that waits for the device
                log(state, cfg, recent, measure)
                recent.clear()
                bar.set_postfix_str(runtime.status(state, cfg, bar.format_dict["rate"]), refresh=False)
            if saves and is_first:
                checkpoints.save(checkpoint, state, fingerprint)
    return state


def check(state: TrainState, task: Task) -> None:
    """Raises ValueError when model, generator and data are on different devices or the run is not at a step."""
    model = next(state.model.parameters()).device
    devices = {"the model": model, "the generator": state.generator.device, "the data": task.device}
    runtime.require_one_device(devices)
    if state.step < 0:
        raise ValueError(f"a run cannot be at step {state.step}; start a fresh one with train.start")


def log(state: TrainState, cfg: Config, recent: list, measure: Callable[[nn.Module], dict[str, float]] | None) -> None:
    """Read back losses and parts since the last call, count bad steps, measure the model.

    Means are over the finite steps; without one the loss is NaN. Raises RuntimeError after too many bad steps.
    """
    losses, parts, flags = zip(*recent)
    ok_T = torch.stack(flags)
    state.bad_steps += int((~ok_T).sum())
    if state.bad_steps > cfg.max_bad_steps:
        raise RuntimeError(
            f"{state.bad_steps} non-finite batches up to step {state.step}, more than max_bad_steps="
            f"{cfg.max_bad_steps}; weights are those of the last finite step. Lower lr, or look for NaN in the data."
        )
    columns = {"loss": losses} | {name: [row[name] for row in parts] for name in parts[0]}
    row = {"step": state.step, "bad_steps": state.bad_steps}
    for name, values in columns.items():
        row[name] = float(distributed.mean(torch.stack(list(values)))[ok_T].mean())
    if measure:
        row |= measure(state.model)
    for name, value in row.items():
        state.history.setdefault(name, []).append(value)
