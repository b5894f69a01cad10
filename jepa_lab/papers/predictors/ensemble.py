"""Many small JEPAs of one shape trained at once, member by member the same as separate runs of `train.fit`.

    members = ensemble.train_members(ensemble.stack(models, seeds), cfgs, task).members
    members[s].model, members[s].history

All weights lie in one matrix, a row per member. The objective written for one model runs under `torch.func.vmap`, and
the models are views into that matrix. An ensemble pays where a step is small enough for its overhead to count. CPU time
of a loop of `train.fit` over that of an ensemble (one thread, 4 x 4 tokens of 49 pixels, float32, predictor of half the
width and one block, medians of 3 alternating rounds on a busy machine; members of equal seed draw batches and masks
once, others draw them one by one):

    model, batch                        S = 5, own and equal seeds    10            36
    MLP 49-64-16, 32                    1.7   1.9                     2.1   2.0     2.8   4.4
    MLP 49-64-16, 256                   0.8   1.6                     1.4   3.0     1.6   4.5
    ViT width 16, depth 1, 16           1.7   2.0                     2.0   2.4     2.5   3.7
    ViT width 16, depth 1, 32           1.4   1.6                     1.8   2.4     2.6   3.0
    ViT width 32, depth 2, 32           1.3   1.4                     1.5   1.7     1.7   2.0
    ViT width 64, depth 3, 32           1.1   1.2                     1.2   1.2     1.3   1.3
    the same in bf16                    1.5   1.6                     1.6   1.5     1.6   1.6

A single member is slower than `train.fit`: forward and backward of these ViTs took about twice as long. Shape suffixes:
S members, P trained numbers of a member, E those of its encoder, T steps since the last log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from jepa_lab import optimizers, runtime, train
from jepa_lab.masks import Masks
from jepa_lab.objectives import JEPA, jepa_objective
from jepa_lab.tasks import Objective, TokenTask
from jepa_lab.train import Config

SHARED = ("num_steps", "batch_size", "precision", "log_every")  # settings that all members must agree on
Measure = Callable[[nn.Module], dict[str, float]]


@dataclass
class Member:
    """One of the models, with what `TrainState` keeps of a separate run."""

    model: JEPA
    seed: int
    bad_steps: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Ensemble:
    """S members and the matrices that hold their numbers."""

    members: list[Member]
    parameters: dict[str, Tensor]  # every parameter's name: [S, ...], views into the next two
    weights_SP: Float[Tensor, "S P"]  # trained numbers, the encoder's first
    target_SE: Float[Tensor, "S E"]  # the target encoder's, in the same order
    grads_SP: Float[Tensor, "S P"]
    optimizers: list[torch.optim.AdamW]  # one per member, so that a bad batch and a rate concern one member alone
    generators: dict[int, torch.Generator]  # masks: one per seed
    step: int = 0


# Putting models together


def stack(models: Sequence[JEPA], seeds: Sequence[int], device: torch.device | str = "cpu") -> Ensemble:
    """One ensemble of the models, which stay usable. As `train.start` does for a single one.

    Members of equal seed see the same batches and masks, which are then drawn once.
    Raises ValueError when there is no model, when one comes twice, when shapes differ, and when seeds do not match the
    models.
    """
    models = [model.to(device) for model in models]
    _check_models(models, seeds)
    spared = optimizers.without_decay(models[0])
    trained = [name for name, p in models[0].named_parameters() if p.requires_grad]
    names = sorted(trained, key=lambda name: (_part(name), name in spared))  # stable: the encoder's order is kept
    weights_SP, parameters = _gather(models, names)
    target_SE, targets = _gather(models, [f"target_{name}" for name in names if name.startswith("encoder.")])
    grads_SP = torch.zeros_like(weights_SP)
    stretches = [
        (part, is_spared, sum(parameters[name][0].numel() for name in group))
        for (part, is_spared), group in groupby(names, lambda name: (_part(name), name in spared))
    ]
    return Ensemble(
        [Member(model, seed) for model, seed in zip(models, seeds)],
        {name: p.requires_grad_() for name, p in parameters.items()}
        | targets
        | _untrained(models, parameters.keys() | targets.keys()),
        weights_SP,
        target_SE,
        grads_SP,
        [_optimizer(weights_P, grads_P, stretches) for weights_P, grads_P in zip(weights_SP, grads_SP)],
        {seed: torch.Generator(device).manual_seed(seed) for seed in seeds},
    )


def _check_models(models: list[JEPA], seeds: Sequence[int]) -> None:
    if not models or len(seeds) != len(models):
        raise ValueError(
            f"need one seed per model and at least one model, got {len(models)} models and {len(seeds)} seeds"
        )
    if len(set(map(id, models))) < len(models):
        raise ValueError(
            "one model stands for several members, which would share their weights; give each its own copy"
        )
    shapes = [{name: tuple(p.shape) for name, p in model.named_parameters()} for model in models]
    odd = [s for s, shape in enumerate(shapes) if shape != shapes[0]]
    if odd:
        raise ValueError(
            f"the models of an ensemble have one shape, but those at {odd} differ from the first; train them apart"
        )


def _part(name: str) -> int:
    """Encoder first, predictor last: each is one stretch of a row."""
    return {"encoder": 0, "predictor": 2}.get(name.split(".")[0], 1)


def _gather(models: list[JEPA], names: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """A matrix with a row per model, and its columns by name in the parameters' shapes; models become views of it."""
    rows = [dict(model.named_parameters()) for model in models]
    matrix_SP = torch.stack([torch.cat([row[name].detach().flatten() for name in names]) for row in rows])
    columns = matrix_SP.split([rows[0][name].numel() for name in names], dim=1)
    views = {}
    for name, part in zip(names, columns):
        views[name] = part.view(len(models), *rows[0][name].shape)  # fails where it would copy
        for s, row in enumerate(rows):
            row[name].data = views[name][s]
    return matrix_SP, views


def _untrained(models: list[JEPA], known: set[str]) -> dict[str, Tensor]:
    """Frozen parameters of all members, and those buffers in which members differ (tables of positions are shared)."""
    others = [name for name, _ in models[0].named_parameters() if name not in known]
    fixed = {name: torch.stack([model.get_parameter(name).detach() for model in models]) for name in others}
    for name, buffer in models[0].named_buffers():
        if not all(torch.equal(buffer, model.get_buffer(name)) for model in models):
            fixed[name] = torch.stack([model.get_buffer(name) for model in models])
    return fixed


def _optimizer(weights_P: Tensor, grads_P: Tensor, stretches: list[tuple[int, bool, int]]) -> torch.optim.AdamW:
    """AdamW over one row, cut where the rules change: encoder or predictor, decayed or not."""
    sizes = [size for _, _, size in stretches]
    groups = []
    for (part, is_spared, _), weights, grads in zip(stretches, weights_P.split(sizes), grads_P.split(sizes)):
        weights = nn.Parameter(weights)
        weights.grad = grads
        groups.append({"params": [weights], "is_predictor": part == 2, "decayed": not is_spared, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


# Training


def train_members(
    ensemble: Ensemble,
    cfgs: Config | Sequence[Config],
    task: TokenTask,
    objective: Objective = jepa_objective,
    measure: Measure | None = None,
    predictor_lr: Sequence[float] | None = None,
    progress: bool = True,
) -> Ensemble:
    """Train all members from `ensemble.step` to the last step; task, objective and measure as in `train.fit`.

    cfgs: one for all or one per member; they may differ in rates, decays and clipping, not in steps, batch or
    precision. predictor_lr: [S] factors on the predictor's learning rate. objective: one that vmap can run and that
    draws no random numbers. A member whose loss or gradient is not finite moves nothing that step; the others go on.
    Raises ValueError for settings and data that do not fit, RuntimeError when every member has more than its
    `max_bad_steps`.
    """
    cfgs, factors = _settings(ensemble, cfgs, predictor_lr)
    cfg = cfgs[0]
    runtime.require_one_device({"the members": ensemble.weights_SP.device, "the data": task.device})
    # The fused kernel has no rule for vmap and would run S times.
    runtime.choose_attention(ensemble.members[0].model, plain=True)
    losses_of = _under_vmap(ensemble, objective)
    leaves = [p for p in ensemble.parameters.values() if p.requires_grad]
    columns = ensemble.grads_SP.split([p[0].numel() for p in leaves], dim=1)
    slots = [grad.view(p.shape) for grad, p in zip(columns, leaves)]
    draws, recent = _draws(ensemble, cfg, task), []
    for _ in runtime.progress_bar(ensemble, cfg, progress):
        with torch.autocast(task.device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
            losses_S = losses_of(*next(draws))
        grads = torch.autograd.grad(losses_S.sum(), leaves, materialize_grads=True)  # a mean would divide them by S
        torch._foreach_copy_(slots, grads)
        recent.append((losses_S.detach(), update(ensemble, losses_S.detach(), cfgs, factors)))
        ensemble.step += 1
        if ensemble.step % cfg.log_every == 0 or ensemble.step == cfg.num_steps:
            _log(ensemble, recent, cfgs, measure)
            recent.clear()
    return ensemble


@torch.no_grad()
def update(
    ensemble: Ensemble, losses_S: Float[Tensor, " S"], cfgs: Sequence[Config], factors: Sequence[float]
) -> Bool[Tensor, " S"]:
    """`train.update` for all members, each with its own settings; returns which steps were finite."""
    step, norm_S = ensemble.step, torch.linalg.vector_norm(ensemble.grads_SP, dim=1)
    ok_S = torch.isfinite(losses_S) & torch.isfinite(norm_S)
    clip_S = torch.tensor([cfg.clip_norm for cfg in cfgs], device=norm_S.device)
    ensemble.grads_SP *= (clip_S / (norm_S + 1e-6)).clamp(max=1.0)[:, None]
    for optimizer, is_bad, cfg, factor in zip(ensemble.optimizers, (~ok_S).float(), cfgs, factors):
        for group in optimizer.param_groups:
            group["lr"] = cfg.lr_at(step) * (factor if group["is_predictor"] else 1.0)
            if group["decayed"]:
                group["weight_decay"] = cfg.weight_decay_at(step)
        optimizer.found_inf = is_bad
        optimizer.step()
    moves = torch.tensor([1 - cfg.ema_decay_at(step) for cfg in cfgs], device=norm_S.device)
    ensemble.target_SE.lerp_(ensemble.weights_SP[:, : ensemble.target_SE.shape[1]], (ok_S * moves)[:, None])
    return ok_S


def _settings(
    ensemble: Ensemble, cfgs: Config | Sequence[Config], predictor_lr: Sequence[float] | None
) -> tuple[list[Config], list[float]]:
    """One config and one factor per member."""
    size = len(ensemble.members)
    cfgs = [cfgs] * size if isinstance(cfgs, Config) else list(cfgs)
    factors = [1.0] * size if predictor_lr is None else [float(factor) for factor in predictor_lr]
    for name, values in (("cfgs", cfgs), ("predictor_lr", factors)):
        if len(values) != size:
            raise ValueError(f"{name} has {len(values)} entries for {size} members; give one for each")
    differ = [name for name in SHARED if len({getattr(cfg, name) for cfg in cfgs}) > 1]
    if differ:
        raise ValueError(f"the members of an ensemble share {', '.join(differ)}; train other values apart")
    for name, needed in (("optimizer", "adamw"), ("betas", (0.9, 0.999)), ("eps", 1e-8)):
        if any(getattr(cfg, name) != needed for cfg in cfgs):
            raise ValueError(f"an ensemble trains with {name} {needed} only; train other values apart")
    return cfgs, factors


def _under_vmap(ensemble: Ensemble, objective: Objective) -> Callable[..., Float[Tensor, " S"]]:
    """The objective of every member: its own weights, and its own rows of the batch where rows are not shared."""
    step = runtime.Step(ensemble.members[0].model, objective)
    parameters = {f"model.{name}": p for name, p in ensemble.parameters.items()}

    def losses_of(batch: tuple[Tensor, Tensor, Tensor], like: Masks, shared: bool) -> Tensor:
        def loss_of(weights: dict[str, Tensor], patches_BNP: Tensor, context_idx: Tensor, target_idx: Tensor) -> Tensor:
            masks = replace(like, context_idx=context_idx, target_idx=target_idx)
            return torch.func.functional_call(step, weights, (patches_BNP, masks))[0]

        axis = None if shared else 0
        return torch.func.vmap(loss_of, in_dims=(0, axis, axis, axis))(parameters, *batch)

    return losses_of


def _draws(
    ensemble: Ensemble, cfg: Config, task: TokenTask
) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], Masks, bool]]:
    """Patches, context and target indices, drawn once per seed exactly as a separate run draws them.

    With one seed they have no member axis and are shared; otherwise every tensor is [S, ...].
    """
    seeds = list(ensemble.generators)
    streams = [train.batch_indices(len(task), cfg.batch_size, seed, ensemble.step) for seed in seeds]
    row_S = torch.tensor([seeds.index(member.seed) for member in ensemble.members], device=task.device)
    while True:
        rows = [next(stream) for stream in streams]
        drawn = [task.draw(idx_B, generator) for idx_B, generator in zip(rows, ensemble.generators.values())]
        patches = task.load(torch.cat(rows), drawn[0]).split(cfg.batch_size)
        batch = patches, [masks.context_idx for masks in drawn], [masks.target_idx for masks in drawn]
        if len(seeds) == 1:
            yield tuple(part[0] for part in batch), drawn[0], True
            continue
        if len({(masks.context_idx.shape, masks.target_idx.shape) for masks in drawn}) > 1:
            raise ValueError(
                "the sampler draws masks of another size for every seed; choose one of fixed size, or equal seeds"
            )
        yield tuple(torch.stack(list(part))[row_S] for part in batch), drawn[0], False


def _log(ensemble: Ensemble, recent: list, cfgs: list[Config], measure: Measure | None) -> None:
    """`train.log` for all members; a member without a finite step since the last call has loss NaN."""
    losses_ST, oks_ST = (torch.stack(column, dim=1) for column in zip(*recent))
    for member, losses_T, ok_T in zip(ensemble.members, losses_ST, oks_ST):
        member.bad_steps += int((~ok_T).sum())
        row = {"step": ensemble.step, "loss": float(losses_T[ok_T].mean()), "bad_steps": member.bad_steps}
        if measure:
            row |= measure(member.model)
        for name, value in row.items():
            member.history.setdefault(name, []).append(value)
    if all(member.bad_steps > cfg.max_bad_steps for member, cfg in zip(ensemble.members, cfgs)):
        raise RuntimeError(
            f"every member has more than max_bad_steps non-finite batches up to step {ensemble.step}; lower lr"
        )
