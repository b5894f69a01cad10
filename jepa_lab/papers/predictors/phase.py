"""Many small JEPAs of one shape trained at once, member by member the same as separate runs of `train.fit`.

    ensemble = ensembles.fit(ensembles.stack(models, seeds), cfgs, patches, to_batch, sampler)
    ensemble.runs[s].model, ensemble.runs[s].history

All weights lie in one matrix, a row per member; the objective written for one model runs under `torch.func.vmap`, and
the models are views into that matrix. It pays where a step is small enough for its overhead to count. CPU time of a
loop
of `train.fit` over that of an ensemble (one thread, 4 x 4 tokens of 49 pixels, float32, predictor of half the width and
one block, medians of 3 alternating rounds on a busy machine; equal seeds draw batches and masks once, own seeds draw
them per member):

    model, batch                        S = 5, own and equal seeds    10            36
    MLP 49-64-16, 32                    1.7   1.9                     2.1   2.0     2.8   4.4
    MLP 49-64-16, 256                   0.8   1.6                     1.4   3.0     1.6   4.5
    ViT width 16, depth 1, 16           1.7   2.0                     2.0   2.4     2.5   3.7
    ViT width 16, depth 1, 32           1.4   1.6                     1.8   2.4     2.6   3.0
    ViT width 32, depth 2, 32           1.3   1.4                     1.5   1.7     1.7   2.0
    ViT width 64, depth 3, 32           1.1   1.2                     1.2   1.2     1.3   1.3
    the same in bf16                    1.5   1.6                     1.6   1.5     1.6   1.6

A single member is slower than `train.fit`: forward and backward of these ViTs took about twice as long. Shape suffixes:
S members, P trained numbers of a member, E those of its encoder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from jepa_lab import train
from jepa_lab.masks import Masks
from jepa_lab.train import JEPA, Config, Objective, Sampler

SHARED = ("num_steps", "batch_size", "precision", "log_every")  # settings that all members must agree on


@dataclass
class Member:
    """One of the models, with what `train.Run` keeps of a separate run."""

    model: JEPA
    seed: int
    bad_steps: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Ensemble:
    """S members and the matrices that hold their numbers."""

    runs: list[Member]
    parameters: dict[str, Tensor]  # every parameter's name: [S, ...], views into the next two
    weights_SP: Float[Tensor, "S P"]  # trained numbers, the encoder's first
    target_SE: Float[Tensor, "S E"]  # the target encoder's, in the same order
    grads_SP: Float[Tensor, "S P"]
    optimizers: list[torch.optim.AdamW]  # one per member, so that a bad batch and a rate concern one member alone
    generators: dict[int, torch.Generator]  # masks: one per seed
    step: int = 0


def stack(models: Sequence[JEPA], seeds: Sequence[int], device: torch.device | str = "cpu") -> Ensemble:
    """Put the weights of the models, which stay usable, into one ensemble. As `train.start` does for a single one.

    Members of equal seed see the same batches and masks, which are then drawn once.
    Raises ValueError when there is no model, when one comes twice, when shapes differ, and when seeds do not match the
    models.
    """
    models = [model.to(device) for model in models]
    shapes = [{name: tuple(p.shape) for name, p in model.named_parameters()} for model in models]
    odd = [s for s, shape in enumerate(shapes) if shape != shapes[0]]
    if not models or len(seeds) != len(models):
        raise ValueError(
            f"need one seed per model and at least one model, got {len(models)} models and {len(seeds)} seeds"
        )
    if len(set(map(id, models))) < len(models):
        raise ValueError(
            "one model stands for several members, which would share their weights; give each its own copy"
        )
    if odd:
        raise ValueError(
            f"the models of an ensemble have one shape, but those at {odd} differ from the first; train them apart"
        )
    trained = {name: train.decays(name, p) for name, p in models[0].named_parameters() if p.requires_grad}
    names = sorted(trained, key=lambda name: (_part(name), not trained[name]))  # stable: the encoder's order is kept
    encoder = [name for name in names if name.startswith("encoder.")]
    weights_SP, parameters = _gather(models, names)
    target_SE, targets = _gather(models, [f"target_{name}" for name in encoder])
    others = [name for name in shapes[0] if name not in parameters and name not in targets]  # frozen
    fixed = {name: torch.stack([model.get_parameter(name).detach() for model in models]) for name in others}
    for name, buffer in models[0].named_buffers():
        if not all(torch.equal(buffer, model.get_buffer(name)) for model in models):  # tables of positions are shared
            fixed[name] = torch.stack([model.get_buffer(name) for model in models])
    grads_SP = torch.zeros_like(weights_SP)
    segments = [
        (key, sum(parameters[name][0].numel() for name in group))
        for key, group in groupby(names, lambda n: (_part(n), trained[n]))
    ]
    return Ensemble(
        [Member(model, seed) for model, seed in zip(models, seeds)],
        {name: p.requires_grad_() for name, p in parameters.items()} | targets | fixed,
        weights_SP,
        target_SE,
        grads_SP,
        [_optimizer(weights_P, grads_P, segments) for weights_P, grads_P in zip(weights_SP, grads_SP)],
        {seed: torch.Generator(device).manual_seed(seed) for seed in seeds},
    )


def _part(name: str) -> int:
    """Encoder first, predictor last: each is one stretch of a row."""
    return {"encoder": 0, "predictor": 2}.get(name.split(".")[0], 1)


def _gather(models: list[JEPA], names: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """A matrix with a row per model, and its columns by name in the parameters' shapes; the models become views of it."""
    rows = [dict(model.named_parameters()) for model in models]
    matrix_SP = torch.stack([torch.cat([row[name].detach().flatten() for name in names]) for row in rows])
    columns = matrix_SP.split([rows[0][name].numel() for name in names], dim=1)
    found = {
        name: part.view(len(models), *rows[0][name].shape) for name, part in zip(names, columns)
    }  # fails where it would copy
    for s, row in enumerate(rows):
        for name in names:
            row[name].data = found[name][s]
    return matrix_SP, found


def _optimizer(weights_P: Tensor, grads_P: Tensor, segments: list[tuple[tuple[int, bool], int]]) -> torch.optim.AdamW:
    """AdamW over one row, cut where the rules change: encoder or predictor, decayed or not."""
    groups, sizes = [], [size for _, size in segments]
    for ((part, decayed), _), weights, grads in zip(segments, weights_P.split(sizes), grads_P.split(sizes)):
        weights = nn.Parameter(weights)
        weights.grad = grads
        groups.append({"params": [weights], "is_predictor": part == 2, "decayed": decayed, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def fit(
    ensemble: Ensemble,
    cfgs: Config | Sequence[Config],
    patches: Shaped[Tensor, "n N P"],
    to_batch: Callable[[Tensor], Tensor],
    sampler: Sampler,
    objective: Objective = train.jepa_objective,
    watch: Tensor | None = None,
    predictor_lr: Sequence[float] | None = None,
    progress: bool = True,
) -> Ensemble:
    """Train all members from `ensemble.step` to the last step; arguments as in `train.fit`.

    cfgs: one for all or one per member; they may differ in rates, decays and clipping, not in steps, batch or
    precision.
    predictor_lr: [S] factors on the predictor's learning rate. objective: any that vmap can run, so none that draws
    random numbers. A member whose loss or gradient is not finite moves nothing that step; the others go on.
    Raises ValueError for settings and data that do not fit, RuntimeError when every member has more than its
    `max_bad_steps`.
    """
    from tqdm import tqdm

    cfgs, factors = _settings(ensemble, cfgs, predictor_lr)
    data = {"the data": patches} | ({} if watch is None else {"the watched data": watch})
    train.require_one_device(
        {"the members": ensemble.weights_SP.device} | {name: part.device for name, part in data.items()}
    )
    device, cfg = patches.device, cfgs[0]
    train.choose_attention(
        ensemble.runs[0].model, plain=True
    )  # the fused kernel has no rule for vmap and would run S times
    losses_of = _under_vmap(ensemble, objective)
    leaves = {name: p for name, p in ensemble.parameters.items() if p.requires_grad}
    slots = [
        g.view(p.shape)
        for g, p in zip(ensemble.grads_SP.split([p[0].numel() for p in leaves.values()], dim=1), leaves.values())
    ]
    draws, recent = _draws(ensemble, cfg, patches, to_batch, sampler), []
    for _ in tqdm(
        range(ensemble.step, cfg.num_steps), disable=not progress, file=sys.stderr, mininterval=1.0, unit="step"
    ):
        with torch.autocast(device.type, torch.bfloat16, enabled=cfg.precision == "bf16"):
            losses_S = losses_of(*next(draws))
        grads = torch.autograd.grad(
            losses_S.sum(), list(leaves.values()), materialize_grads=True
        )  # a mean would divide them by S
        torch._foreach_copy_(slots, grads)
        recent.append((losses_S.detach(), update(ensemble, losses_S.detach(), cfgs, factors)))
        ensemble.step += 1
        if ensemble.step % cfg.log_every == 0 or ensemble.step == cfg.num_steps:
            _log(ensemble, recent, cfgs, watch, to_batch, sampler)
            recent.clear()
    return ensemble


@torch.no_grad()
def update(
    ensemble: Ensemble, losses_S: Float[Tensor, " S"], cfgs: Sequence[Config], factors: Sequence[float]
) -> Bool[Tensor, " S"]:
    """`train.update` for all members: clip, AdamW and EMA, each with its own settings; returns the flags of finite
    steps.
    """
    step, norm_S = ensemble.step, torch.linalg.vector_norm(ensemble.grads_SP, dim=1)
    ok_S = torch.isfinite(losses_S) & torch.isfinite(norm_S)
    clip_S = torch.tensor([cfg.clip_norm for cfg in cfgs], device=norm_S.device)
    ensemble.grads_SP *= (clip_S / (norm_S + 1e-6)).clamp(max=1.0)[:, None]
    for optimizer, is_bad, cfg, factor in zip(ensemble.optimizers, (~ok_S).float(), cfgs, factors):
        for group in optimizer.param_groups:
            group["lr"] = train.learning_rate(step, cfg) * (factor if group["is_predictor"] else 1.0)
            if group["decayed"]:
                group["weight_decay"] = train.cosine(step, cfg.num_steps, cfg.weight_decay)
        optimizer.found_inf = is_bad
        optimizer.step()
    moves = torch.tensor([1 - train.linear(step, cfg.num_steps, cfg.ema_decay) for cfg in cfgs], device=norm_S.device)
    ensemble.target_SE.lerp_(ensemble.weights_SP[:, : ensemble.target_SE.shape[1]], (ok_S * moves)[:, None])
    return ok_S


def _settings(
    ensemble: Ensemble, cfgs: Config | Sequence[Config], predictor_lr: Sequence[float] | None
) -> tuple[list, list]:
    """One config and one factor per member."""
    size = len(ensemble.runs)
    cfgs = [cfgs] * size if isinstance(cfgs, Config) else list(cfgs)
    factors = [1.0] * size if predictor_lr is None else [float(f) for f in predictor_lr]
    for name, values in (("cfgs", cfgs), ("predictor_lr", factors)):
        if len(values) != size:
            raise ValueError(f"{name} has {len(values)} entries for {size} members; give one for each")
    differ = [name for name in SHARED if len({getattr(cfg, name) for cfg in cfgs}) > 1]
    if differ:
        raise ValueError(f"the members of an ensemble share {', '.join(differ)}; train other values apart")
    return cfgs, factors


def _under_vmap(ensemble: Ensemble, objective: Objective) -> Callable[..., Float[Tensor, " S"]]:
    """The objective of every member: its own weights, and its own rows of the batch where they are not shared."""
    step = train.Step(ensemble.runs[0].model, objective)
    parameters = {f"model.{name}": p for name, p in ensemble.parameters.items()}

    def losses_of(batch: tuple[Tensor, Tensor, Tensor], like: Masks, shared: bool) -> Tensor:
        def one(own: dict[str, Tensor], patches_BNP: Tensor, context_idx: Tensor, target_idx: Tensor) -> Tensor:
            masks = replace(like, context_idx=context_idx, target_idx=target_idx)
            return torch.func.functional_call(step, own, (patches_BNP, masks))

        axis = None if shared else 0
        return torch.func.vmap(one, in_dims=(0, axis, axis, axis))(parameters, *batch)

    return losses_of


def _draws(
    ensemble: Ensemble, cfg: Config, patches: Tensor, to_batch: Callable[[Tensor], Tensor], sampler: Sampler
) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], Masks, bool]]:
    """Patches, context and target indices, drawn once per seed exactly as a separate run draws them.

    With one seed they have no member axis and are shared; otherwise every tensor is [S, ...].
    """
    seeds = list(ensemble.generators)
    streams = [train.batch_indices(len(patches), cfg.batch_size, seed, ensemble.step) for seed in seeds]
    row_S = torch.tensor([seeds.index(run.seed) for run in ensemble.runs], device=patches.device)
    while True:
        idx = torch.cat([next(stream) for stream in streams]).to(patches.device, non_blocking=True)
        drawn = [sampler(cfg.batch_size, generator) for generator in ensemble.generators.values()]
        batch = [to_batch(patches[idx])], [masks.context_idx for masks in drawn], [masks.target_idx for masks in drawn]
        if len(seeds) == 1:
            yield tuple(part[0] for part in batch), drawn[0], True
            continue
        if len({(masks.context_idx.shape, masks.target_idx.shape) for masks in drawn}) > 1:
            raise ValueError(
                "the sampler draws masks of another size for every seed; choose one of fixed size, or equal seeds"
            )
        batch[0][:] = batch[0][0].split(cfg.batch_size)
        yield tuple(torch.stack(part)[row_S] for part in batch), drawn[0], False


def _log(
    ensemble: Ensemble, recent: list, cfgs: list[Config], watch: Tensor | None, to_batch: Callable, sampler: Sampler
) -> None:
    """`train.log` for all members; one that had no finite step since the last call has loss NaN."""
    losses_ST, oks_ST = (torch.stack(column, dim=1) for column in zip(*recent))
    for run, losses_T, ok_T in zip(ensemble.runs, losses_ST, oks_ST):
        run.bad_steps += int((~ok_T).sum())
        row = {"step": ensemble.step, "loss": float(losses_T[ok_T].mean()), "bad_steps": run.bad_steps}
        if watch is not None:
            row |= train.panel(run.model, watch, to_batch, sampler)
        for name, value in row.items():
            run.history.setdefault(name, []).append(value)
    if all(run.bad_steps > cfg.max_bad_steps for run, cfg in zip(ensemble.runs, cfgs)):
        raise RuntimeError(
            f"every member has more than max_bad_steps non-finite batches up to step {ensemble.step}; lower lr"
        )
