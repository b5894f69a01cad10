"""The training engine: the objective, the step, the loop, schedules, checkpoints.

The algorithm is `train_step`, which reads `jepa_objective`, `update` and `ema_update` in the paper's order; `fit`
repeats it.
Shape suffixes: B batch, N tokens, P numbers per patch, M target blocks, K tokens per block, D width.
"""

from __future__ import annotations

import copy
import ctypes
import math
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from jepa_lab import checkpoints, diagnostics, distributed
from jepa_lab.checkpoints import Run
from jepa_lab.encoders import Encoder
from jepa_lab.losses import gather_blocks, normalise, smooth_l1
from jepa_lab.masks import Masks

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@dataclass(frozen=True)
class Config:
    """What every masked JEPA here needs for training; a paper's config adds its own fields."""

    num_steps: int = 1000
    batch_size: int = 128
    lr: float = 2e-3  # peak; cosine to a hundredth of it
    warmup: float = 0.1  # share of the steps with linearly rising rate
    weight_decay: tuple[float, float] = (0.04, 0.4)  # first and last, cosine between (I-JEPA's code)
    ema_decay: tuple[float, float] = (0.99, 1.0)  # first and last, linear between
    clip_norm: float = 1.0
    precision: str = "float32"  # or "bf16": autocast
    log_every: int = 50  # steps between two read-backs of loss and collapse panel
    max_bad_steps: int = 20  # non-finite batches that are skipped before the run stops

    # share of the steps after the warm-up at the peak rate; a field only in configs that change it, so that records
    # keep their hashes
    hold = 0.0

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"precision is 'float32' or 'bf16', got {self.precision!r}")
        for name in ("lr", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)}")
        for name, shares in (("warmup", (self.warmup,)), ("ema_decay", self.ema_decay)):
            if not all(0 <= share <= 1 for share in shares):
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if not min(self.weight_decay) >= 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")


class JEPA(nn.Module):
    """Encoder, its EMA copy (`target_encoder`, never given gradients) and predictor."""

    def __init__(self, encoder: Encoder, predictor: nn.Module):
        super().__init__()
        self.encoder, self.predictor = encoder, predictor
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)


Objective = Callable[[JEPA, Tensor, Masks], Tensor]
Sampler = Callable[[int, torch.Generator], Masks]


def jepa_objective(model: JEPA, patches_BNP: Float[Tensor, "B N P"], masks: Masks) -> Float[Tensor, ""]:
    """I-JEPA (Assran et al. 2023, section 3): predict the EMA encoder's latents of the hidden blocks.

    The target encoder sees the whole image and its *output* is masked.
    """
    with torch.no_grad():
        target_BMKD = gather_blocks(normalise(encode_all(model.target_encoder, patches_BNP)), masks.target_idx)
    context_BCD = model.encoder(patches_BNP, masks.context_idx)
    pred_BMKD = model.predictor(context_BCD, masks)
    return smooth_l1(pred_BMKD, target_BMKD)


def encode_all(encoder: nn.Module, patches_BNP: Float[Tensor, "B N P"]) -> Float[Tensor, "B N D"]:
    """Latents of whole samples. A CPU does 2,048 tokens at a time, which its caches hold: bf16 steps are 6 to 9 %
    faster.

    Equal to the last bit to one pass over all where the parts are of one size; in bf16 a smaller last part may round
    otherwise.
    """
    if patches_BNP.device.type != "cpu":
        return encoder(patches_BNP)
    return torch.cat([encoder(part) for part in patches_BNP.split(max(1, 2048 // patches_BNP.shape[1]))])


# Schedules are functions of the step, so resuming replays nothing.


def linear(step: int, num_steps: int, ends: tuple[float, float]) -> float:
    return ends[0] + (ends[1] - ends[0]) * step / num_steps


def cosine(step: int, num_steps: int, ends: tuple[float, float]) -> float:
    return ends[1] + (ends[0] - ends[1]) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def learning_rate(step: int, cfg: Config) -> float:
    """Linear warm-up to the peak, which is held for a share of what remains (0 by default), then cosine to a hundredth
    of it.
    """
    warmup_steps = max(1, round(cfg.warmup * cfg.num_steps))
    falls_at = warmup_steps + round(cfg.hold * (cfg.num_steps - warmup_steps))
    if step < warmup_steps:
        return cfg.lr * (step + 1) / warmup_steps
    if step < falls_at:
        return cfg.lr
    return cosine(step - falls_at, max(1, cfg.num_steps - falls_at), (cfg.lr, cfg.lr / 100))


def start(model: nn.Module, seed: int, device: torch.device | str) -> Run:
    """A fresh run: AdamW, generators seeded."""
    keep_freed_memory()
    model = model.to(device)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for name, p in trained.items() if decays(name, p)], "decayed": True},
        {"params": [p for name, p in trained.items() if not decays(name, p)], "decayed": False, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)  # only the fused one reads the flag of a bad batch
    return Run(model, optimizer, torch.Generator(device).manual_seed(seed), seed)


def keep_freed_memory() -> None:
    """Tells glibc to keep what is freed for the next allocation; elsewhere it does nothing. Holds for the whole
    process.

    By default large tensors are mapped anew and given back, so every step faults its activations in again, page by
    page:
    5 to 12 % of a CPU step. Results are the same to the last bit.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def decays(name: str, parameter: Tensor) -> bool:
    """Weight decay is for matrices: neither for vectors nor for registers, which are tokens that happen to be several."""
    return parameter.ndim > 1 and not name.endswith("registers_RD")


def batch_indices(num_samples: int, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Tensor]:
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
    run: Run,
    cfg: Config,
    objective: nn.Module,
    to_batch: Callable[[Tensor], Tensor],
    patches: Tensor,
    idx_B: Tensor,
    masks: Masks,
    micro_batches: int = 1,
) -> tuple[Float[Tensor, ""], Bool[Tensor, ""]]:
    """One step of I-JEPA: targets, prediction and loss (`jepa_objective`), gradients, optimiser and EMA (`update`).

    objective: from `wrap`. idx_B, masks: the whole batch, of which this process takes its share in `micro_batches`
    parts.
    Returns the loss, and whether it and its gradients were finite; neither is read back.
    """
    loss = torch.zeros((), device=patches.device)
    for part, (rows_b, seen) in enumerate(distributed.share(idx_B, masks, micro_batches), start=1):
        batch_bNP = to_batch(patches[rows_b.to(patches.device, non_blocking=True)])
        with silent(objective, part < micro_batches):
            with torch.autocast(patches.device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
                part_loss = objective(batch_bNP, seen) / micro_batches
            part_loss.backward()
        loss += part_loss.detach()
    return loss, update(run, loss, cfg)


@torch.no_grad()
def update(run: Run, loss: Tensor, cfg: Config) -> Bool[Tensor, ""]:
    """One optimiser step on the gradients of `loss`, and one of the EMA where the model has one; the flag of a finite
    step.

    A non-finite loss or gradient moves nothing, neither weights nor EMA nor optimiser state, and costs no
    synchronisation: the fused optimiser reads the flag on the device.
    """
    model, optimizer = run.model, run.optimizer
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(trained, cfg.clip_norm)
    ok = distributed.agree(torch.isfinite(loss) & torch.isfinite(norm))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(run.step, cfg)
        if group["decayed"]:
            group["weight_decay"] = cosine(run.step, cfg.num_steps, cfg.weight_decay)
    optimizer.found_inf = (~ok).float()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if isinstance(model, JEPA):
        move = ok * (1 - linear(run.step, cfg.num_steps, cfg.ema_decay))
        ema_update(model.target_encoder, model.encoder, 1 - move)
    return ok


@torch.no_grad()
def ema_update(target_encoder: nn.Module, encoder: nn.Module, ema_decay: Tensor | float) -> None:
    """target <- decay * target + (1 - decay) * encoder, parameters only (I-JEPA, section 3)."""
    targets, sources = list(target_encoder.parameters()), list(encoder.parameters())
    torch._foreach_mul_(targets, ema_decay)
    torch._foreach_add_(targets, torch._foreach_mul(sources, 1 - ema_decay))


def fit(
    run: Run,
    cfg: Config,
    patches: Shaped[Tensor, "n N P"],
    to_batch: Callable[[Tensor], Tensor],
    sampler: Sampler,
    objective: Objective = jepa_objective,
    watch: Tensor | None = None,
    checkpoint: Path | None = None,
    save_every: int = 0,
    progress: bool = True,
    micro_batches: int = 1,
    compile: bool | None = None,
) -> Run:
    """Train from `run.step` to `cfg.num_steps`, on as many processes as `distributed.start` joined.

    patches: the whole data set on the training device, usually uint8. to_batch: casts and scales some of it to floats.
    sampler: draws masks for a batch. watch: held-out patches whose latents feed the collapse panel in `run.history`.
    checkpoint: written every `save_every` steps and at the end; where it exists, training goes on from it.
    micro_batches: parts into which each process cuts its share of a batch, to save memory; gradients add up, so the
    step
    is the same unless the objective needs statistics of the whole batch. compile: by default on a GPU only.
    Raises ValueError for data that do not suit the run and for a checkpoint of another one, OSError when it cannot be
    written, and RuntimeError after more than `cfg.max_bad_steps` non-finite batches.
    """
    check_run(run, {"the data": patches, "the watched data": watch})
    work = checkpoints.resume(
        checkpoint, run, cfg, objective=objective, sampler=sampler, micro_batches=micro_batches, samples=patches
    )
    choose_attention(run.model, plain=patches.device.type == "cpu" and cfg.precision == "bf16")
    step = wrap(run.model, objective, patches.device.type == "cuda" if compile is None else compile, micro_batches)
    batches = batch_indices(len(patches), cfg.batch_size, run.seed, run.step)
    measure = None if watch is None else partial(panel, watch=watch, to_batch=to_batch, sampler=sampler)
    for recent in loop(run, cfg, measure, progress, checkpoint, save_every, work):
        masks = sampler(cfg.batch_size, run.generator)
        recent.append(train_step(run, cfg, step, to_batch, patches, next(batches), masks, micro_batches))
    return run


def loop(
    run: Run,
    cfg: Config,
    measure: Callable[[nn.Module], dict[str, float]] | None,
    progress: bool,
    checkpoint: Path | None,
    save_every: int,
    work: dict[str, str],
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What surrounds the steps of any training here: counts them, logs every `cfg.log_every`, saves, draws the progress
    bar.

    The caller takes a step at each turn, and appends its loss and the flag of `update` to the list that it gets.
    """
    is_first = distributed.rank() == 0
    bar = progress_bar(run, cfg, progress and is_first)
    recent: list[tuple[Tensor, Tensor]] = []
    for _ in bar:
        yield recent
        run.step += 1
        is_last = run.step == cfg.num_steps
        saves = bool(checkpoint and save_every) and (run.step % save_every == 0 or is_last)
        if run.step % cfg.log_every == 0 or is_last or saves:  # the only place that waits for the device
            log(run, recent, cfg, measure)
            recent.clear()
            bar.set_postfix_str(status(run, cfg, bar.format_dict["rate"]), refresh=False)
        if saves and is_first:
            checkpoints.save(checkpoint, run, work)


class Step(nn.Module):
    """Model and objective as one module, which `torch.compile` and DDP can wrap."""

    def __init__(self, model: JEPA, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, patches_BNP: Tensor, masks: Masks) -> Tensor:
        return self.objective(self.model, patches_BNP, masks)


def wrap(model: JEPA, objective: Objective, compile: bool, micro_batches: int = 1) -> nn.Module:
    """The step that `fit` calls: averaged over processes where there are several, compiled where asked."""
    step: nn.Module = Step(model, objective)
    if distributed.world() > 1:  # buffers are tables of positions, the same everywhere; no_sync forbids a static graph
        step = nn.parallel.DistributedDataParallel(
            step, gradient_as_bucket_view=True, broadcast_buffers=False, static_graph=micro_batches == 1
        )
    return compiled(step, graphs=distributed.world() * micro_batches == 1) if compile else step


def compiled(step: Callable, graphs: bool = True) -> Callable:
    """`step` compiled for fixed shapes, and what was compiled before forgotten.

    To torch all arms are one piece of code, of which it keeps 8 versions and then runs others uncompiled. graphs: a GPU
    replays the step as one CUDA graph, since small models wait for their launches. Its loss and gradients are then
    overwritten by the next call, so gradients cannot add up over several.
    """
    torch.compiler.reset()
    return torch.compile(step, dynamic=False, mode="reduce-overhead" if graphs else "default")


def silent(step: nn.Module, more_to_come: bool):
    """Processes exchange gradients once a step: after the last micro-batch."""
    return step.no_sync() if more_to_come and hasattr(step, "no_sync") else nullcontext()


def check_run(run: Run, data: dict[str, Tensor | None]) -> None:
    """Raises ValueError when model, generator and data are on different devices or the run is not at a step."""
    devices = {"the model": next(run.model.parameters()).device, "the generator": run.generator.device}
    require_one_device(devices | {name: part.device for name, part in data.items() if part is not None})
    if run.step < 0:
        raise ValueError(f"a run cannot be at step {run.step}; start a fresh one with train.start")


def require_one_device(devices: dict[str, torch.device]) -> None:
    """Raises ValueError when they differ; a GPU without a number is any."""
    if (
        len({device.type for device in devices.values()}) > 1
        or len({device.index for device in devices.values()} - {None}) > 1
    ):
        where = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"everything must be on one device, but {where}; give train.start the device of the data")


def progress_bar(run: Run, cfg: Config, shown: bool):
    """Steps with time left, on stderr."""
    from tqdm import tqdm

    steps = range(run.step, cfg.num_steps)
    return tqdm(
        steps, initial=run.step, total=cfg.num_steps, disable=not shown, file=sys.stderr, mininterval=1.0, unit="step"
    )


def status(run: Run, cfg: Config, steps_per_s: float | None) -> str:
    """Loss, samples per second, skipped batches if any, and the collapse alarm, as of the last log."""
    last = {name: values[-1] for name, values in run.history.items()}
    alarm = diagnostics.collapsed(last) if "rankme" in last else None
    speed = f", {steps_per_s * cfg.batch_size:.0f} samples/s" if steps_per_s else ""
    skipped = f", {run.bad_steps} non-finite batches skipped" if run.bad_steps else ""
    return f"loss {last['loss']:.4f}{speed}{skipped}{f', ALARM: {alarm}' if alarm else ''}"


def choose_attention(model: nn.Module, plain: bool) -> None:
    """Plain products instead of the fused kernel, whose bf16 backward is slow on CPUs: 24 against 27 ms a small step."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = not plain


def log(run: Run, recent: list, cfg: Config, measure: Callable[[nn.Module], dict[str, float]] | None) -> None:
    """Read back the losses since the last call, count bad steps, measure the model. Without a finite step the loss is
    NaN.
    """
    losses, oks = (torch.stack(column) for column in zip(*recent))
    losses = distributed.mean(losses)
    run.bad_steps += int((~oks).sum())
    if run.bad_steps > cfg.max_bad_steps:
        raise RuntimeError(
            f"{run.bad_steps} non-finite batches up to step {run.step}, more than max_bad_steps={cfg.max_bad_steps}; "
            "weights are those of the last finite step. Lower lr, or look for NaN in the data."
        )
    row = {"step": run.step, "loss": float(losses[oks].mean()), "bad_steps": run.bad_steps}
    for name, value in (row | (measure(run.model) if measure else {})).items():
        run.history.setdefault(name, []).append(value)


def panel(model: JEPA, watch: Tensor, to_batch: Callable[[Tensor], Tensor], sampler: Sampler) -> dict[str, float]:
    """The collapse panel of the target encoder on held-out patches."""
    encoder = model.target_encoder
    return diagnostics.panel(embed(encoder, watch, to_batch), visible_views(encoder, watch, to_batch, sampler))


@torch.no_grad()
def visible_views(
    encoder: Encoder,
    patches: Shaped[Tensor, "n N P"],
    to_batch: Callable[[Tensor], Tensor],
    sampler: Sampler,
    num_samples: int = 256,
    num_views: int = 4,
) -> Float[Tensor, "m q D"]:
    """Features of several partial views of each sample, for LiDAR: what masking leaves visible, drawn q times.

    The draws are the same at every call and come from a generator of their own, so watching changes no training.
    """
    batch_BNP = to_batch(patches[:num_samples]).repeat_interleave(num_views, dim=0)
    masks = sampler(len(batch_BNP), torch.Generator(patches.device).manual_seed(0))
    return rearrange(encoder(batch_BNP, masks.context_idx).mean(dim=1), "(n q) d -> n q d", q=num_views)


@torch.no_grad()
def embed(
    encoder: Encoder, patches: Shaped[Tensor, "n N P"], to_batch: Callable[[Tensor], Tensor], batch_size: int = 1000
) -> Float[Tensor, "n D"]:
    """Frozen features: mean of the latents over the tokens."""
    parts = (to_batch(patches[i : i + batch_size]) for i in range(0, len(patches), batch_size))
    return torch.cat([encoder(part).mean(dim=1) for part in parts])
