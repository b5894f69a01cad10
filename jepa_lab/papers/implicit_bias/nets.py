"""Deep linear JEPA and MAE as matrices, many networks in one batched tensor, with gradients written by hand.

Shapes: `R` runs (any mixture of objective, depth and seed), `S` seeds, `B` samples, `D` input width = feature count,
`T` recorded times. Depths share a tensor because a net of depth L < Lmax carries identity layers that never move.
Everything is float64 and lives on the device of its inputs. Time here is literal gradient-flow time: step size * steps.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from jepa_lab.papers.implicit_bias import theory
from jepa_lab.papers.implicit_bias.pairs import Moments, views_of
from jepa_lab.papers.implicit_bias.theory import Objective


@dataclass(frozen=True)
class Nets:
    """R pairs of encoder Wbar = W^L ... W^1 and linear predictor V (MAE: decoder V). Square layers, no bias."""

    layers: tuple[Float[Tensor, "R D D"], ...]
    predictor: Float[Tensor, "R D D"]
    depth: Int[Tensor, " R"]
    jepa: Bool[Tensor, " R"]  # False: MAE

    def select(self, keep: Tensor) -> "Nets":
        """The runs named by an index or mask."""
        return Nets(tuple(w[keep] for w in self.layers), self.predictor[keep], self.depth[keep], self.jepa[keep])


@dataclass(frozen=True)
class Trace:
    """What training left behind: `times` (literal) per run and the `gain` of every feature direction."""

    times: Float[Tensor, "T R"]
    gain: Float[Tensor, "T R D"]
    nets: Nets


def _nets(first: Tensor, depth: Tensor, jepa: Tensor, predictor: Tensor) -> Nets:
    """Put identity in the layers above each net's depth."""
    eye = torch.eye(first.shape[-1], dtype=first.dtype, device=first.device)
    layers = tuple(torch.where((a < depth)[:, None, None], first[:, a], eye) for a in range(first.shape[1]))
    return Nets(layers, predictor, depth, jepa)


def _per_seed(draw, seed: Tensor, num: int, dim: int, generator: Generator) -> Tensor:
    """One draw [S, num, D, D] for all seeds, then handed to the runs: the arms of a seed share their initialisation."""
    count = int(seed.max()) + 1
    return draw(count, num, dim, dim, generator=generator, dtype=torch.float64, device=generator.device)[seed]


def balanced_init(
    jepa: Bool[Tensor, " R"],
    depth: Int[Tensor, " R"],
    seed: Int[Tensor, " R"],
    dim: int,
    eps: float,
    generator: Generator,
) -> Nets:
    """Littwin et al. Assumption 4.1: W^a = eps^(1/L) U_(a+1) U_a^T, orthogonal, end to end eps * I; V = eps^(1/L) I."""
    deepest = int(depth.max())
    turns, _ = torch.linalg.qr(_per_seed(torch.randn, seed, deepest + 1, dim, generator))
    eye = torch.eye(dim, dtype=torch.float64, device=turns.device)
    layers = []
    for a in range(deepest):
        below = eye if a == 0 else turns[:, a].mT
        above = torch.where((a + 1 == depth)[:, None, None], eye, turns[:, a + 1])
        layers.append(above @ below)
    scale = (eps ** (1 / depth.double()))[:, None, None]
    return _nets(scale[:, None] * torch.stack(layers, 1), depth, jepa, scale * eye)


def random_init(
    jepa: Bool[Tensor, " R"],
    depth: Int[Tensor, " R"],
    seed: Int[Tensor, " R"],
    dim: int,
    eps: float,
    generator: Generator,
) -> Nets:
    """Gaussian weights of standard deviation eps^(1/L) / sqrt(D): neither balanced nor diagonal."""
    scale = (eps ** (1 / depth.double()))[:, None, None] / dim**0.5
    draws = _per_seed(torch.randn, seed, int(depth.max()) + 1, dim, generator)
    return _nets(scale[:, None] * draws[:, 1:], depth, jepa, scale * draws[:, 0])


def products(layers: Sequence[Tensor]) -> list[Tensor]:
    """[W^1, W^2 W^1, ..., Wbar]."""
    below = [layers[0]]
    for w in layers[1:]:
        below.append(w @ below[-1])
    return below


def gradients(
    nets: Nets, moments: Moments, target: Float[Tensor, "R D D"] | None = None
) -> tuple[list[Tensor], Tensor]:
    """Hand-written gradients (dL/dW^1 .. dL/dW^L, dL/dV) of Littwin et al.'s two losses.

    L_JEPA = 1/2 E||V Wbar x - SG(Wbar y)||^2 and L_MAE = 1/2 E||V Wbar x - y||^2 differ in one place: the map applied
    to y. The stop-gradient is nothing but leaving that map out of the differentiation. `target` replaces Wbar there
    (an EMA encoder).
    """
    return _gradients(nets, moments, target)


def _gradients(
    nets, moments, target
):  # the hot path; without annotations, so that the test suite checks shapes once, not per step
    sxx, syx = moments
    below = products(nets.layers)
    wbar = below[-1]
    eye = torch.eye(wbar.shape[-1], dtype=wbar.dtype, device=wbar.device)
    applied_to_y = torch.where(nets.jepa[:, None, None], wbar if target is None else target, eye)
    error = nets.predictor @ (wbar @ sxx) - applied_to_y @ syx
    back = nets.predictor.mT @ error  # dL/dWbar, then carried down layer by layer
    grads = []
    for a in range(len(nets.layers) - 1, 0, -1):
        grads.append(back @ below[a - 1].mT)
        back = nets.layers[a].mT @ back
    grads.append(back)
    return grads[::-1], error @ wbar.mT


def aligned_gain(wbar: Float[Tensor, "R D D"], basis: Float[Tensor, "*#R D D"]) -> Float[Tensor, "R D"]:
    """b_i^T Wbar b_i: the theory's wbar_i, for a start whose end-to-end map is diagonal."""
    return (basis * (wbar @ basis)).sum(-2)


def column_gain(wbar: Float[Tensor, "R D D"], basis: Float[Tensor, "*#R D D"]) -> Float[Tensor, "R D"]:
    """||Wbar b_i||: how strongly a feature enters the code, wherever in it; for random starts."""
    return (wbar @ basis).norm(dim=-2)


def train(
    nets: Nets,
    moments: Moments | Callable[[int], Moments],
    step_size: Float[Tensor, " R"],
    num_steps: int,
    record_every: int,
    basis: Float[Tensor, "*#R D D"] | None = None,
    ema_decay: Float[Tensor, " R"] | None = None,
    gain: Callable = aligned_gain,
) -> Trace:
    """Gradient descent (Euler steps of gradient flow) on all runs at once.

    `moments` is (Sxx, Syx) for population descent, or a function of the step for minibatch SGD. `basis` holds the
    feature directions in its columns (default: the axes), `gain` how their gain is read. With `ema_decay` the JEPA
    target is an exponential moving
    average of every layer; decay 0 is the same-weights target of the theory.
    Raises ValueError when a run diverges.
    """
    nets = replace(nets, layers=tuple(w.clone() for w in nets.layers), predictor=nets.predictor.clone())
    moves = [(step_size * (a < nets.depth))[:, None, None] for a in range(len(nets.layers))]
    step_V = step_size[:, None, None].contiguous()
    ema = None if ema_decay is None else [w.clone() for w in nets.layers]
    weight = None if ema_decay is None else (1 - ema_decay)[:, None, None]
    basis = (
        torch.eye(nets.predictor.shape[-1], dtype=step_size.dtype, device=step_size.device) if basis is None else basis
    )
    times, gains = [], []
    for step in range(num_steps + 1):
        if step % record_every == 0 or step == num_steps:
            times.append(step * step_size)
            gains.append(gain(products(nets.layers)[-1], basis))
            if not bool(torch.isfinite(gains[-1]).all()):  # the only host sync, once per record
                raise ValueError(f"a run diverged before step {step}: its step size is unstable; take a smaller one")
        if step == num_steps:
            break
        target = None if ema is None else products(ema)[-1]
        grads, grad_V = _gradients(nets, moments(step) if callable(moments) else moments, target)
        for w, grad, move in zip(nets.layers, grads, moves):
            w.addcmul_(grad, move, value=-1)
        nets.predictor.addcmul_(grad_V, step_V, value=-1)
        for slow, w in zip(ema or (), nets.layers):
            slow.lerp_(w, weight)
    return Trace(torch.stack(times), torch.stack(gains), nets)


def crossing_time(trace: Trace, level: Float[Tensor, "#R D"]) -> Float[Tensor, "R D"]:
    """Literal time at which each gain first reaches `level`, linear between records; inf where it never does."""
    reached = trace.gain >= level
    first = reached.int().argmax(0)  # [R, D]
    before = (first - 1).clamp(min=0)
    times = trace.times[..., None].expand_as(trace.gain)
    (g0, g1), (t0, t1) = ([series.gather(0, at[None])[0] for at in (before, first)] for series in (trace.gain, times))
    crossed = torch.where(first > 0, t0 + (t1 - t0) * (level - g0) / (g1 - g0), t1)
    return torch.where(reached.any(0), crossed, torch.inf)


@dataclass(frozen=True)
class Simulation:
    """Depths x seeds trained together: literal times, progress = gain / ideal fixed point, first crossings of
    `fraction`.
    """

    depths: tuple[int, ...]
    times: Float[Tensor, "T L"]
    progress: Float[Tensor, "T L S D"]
    critical: Float[Tensor, "L S D"]
    trace: Trace

    def own_critical(self, fraction: float) -> Float[Tensor, "L S D"]:
        """First crossings of `fraction` of each run's own last gain, for runs whose fixed point no theory gives."""
        crossed = crossing_time(self.trace, fraction * self.trace.gain[-1])
        return rearrange(crossed, "(l s) d -> l s d", l=len(self.depths))


def horizons(
    objective: Objective, lam: Tensor, rho: Tensor, depths: Sequence[int], eps: float, last: float
) -> list[float]:
    """Literal time by which the theory has every feature at `last` of its fixed point, per depth."""
    return [float(theory.critical_time(objective, lam, rho, L, eps, last).max()) / L for L in depths]


def simulate(
    objective: Objective,
    lam: Float[Tensor, " D"],
    rho: Float[Tensor, " D"],
    depths: Sequence[int],
    generator: Generator,
    *,
    eps: float,
    fraction: float,
    step_fraction: float,
    num_seeds: int,
    num_records: int,
    init: Callable = balanced_init,
    horizon: Sequence[float] | None = None,
    batches: Callable[[Int[Tensor, " R"]], Moments | Callable] | None = None,
    ema_memory: Sequence[float] | None = None,
    basis: Tensor | None = None,
    gain: Callable = aligned_gain,
) -> Simulation:
    """Train depths x seeds of one objective in one tensor, each depth for its `horizon` (default: all but 2 % learned).

    `batches(seed of each run)` gives moments or a function of the step; default: population descent on diagonal lam,
    rho.
    `step_fraction` is step size * fastest contraction rate; all depths take as many steps as the neediest. `ema_memory`
    (literal time, per depth) replaces the JEPA target by an EMA encoder. ValueError for what the theory refuses.
    """
    for L in depths:
        theory.check(lam, rho, L, eps, fraction)
    if not 0 < step_fraction < 2:
        raise ValueError(
            f"step_fraction = {step_fraction:g} is unstable: it must lie between 0 and 2, where steps around the "
            "fixed point overshoot it for good"
        )
    horizon = horizon or horizons(objective, lam, rho, depths, eps, 0.98)
    edges = [float(theory.largest_step(objective, lam, rho, L).min()) for L in depths]
    num_steps = max(math.ceil(2 * h / (step_fraction * edge)) for h, edge in zip(horizon, edges))
    depth = torch.tensor(depths, device=generator.device).repeat_interleave(num_seeds)
    seed = torch.arange(num_seeds, device=generator.device).repeat(len(depths))
    step = torch.tensor(horizon, dtype=torch.float64, device=generator.device).repeat_interleave(num_seeds) / num_steps
    start = init(torch.full_like(depth, objective == "jepa", dtype=torch.bool), depth, seed, len(lam), eps, generator)
    moments = (torch.diag(lam / rho), torch.diag(lam)) if batches is None else batches(seed)
    decay = (
        None
        if ema_memory is None
        else torch.exp(-step / torch.tensor(ema_memory, device=step.device).repeat_interleave(num_seeds))
    )
    trace = train(start, moments, step, num_steps, max(1, num_steps // num_records), basis, decay, gain)
    goal = torch.stack([theory.fixed_point(objective, rho, L) for L in depths]).repeat_interleave(num_seeds, 0)
    split = {"l": len(depths)}
    return Simulation(
        tuple(depths),
        trace.times[:, ::num_seeds],
        rearrange(trace.gain / goal, "t (l s) d -> t l s d", **split),
        rearrange(crossing_time(trace, fraction * goal), "(l s) d -> l s d", **split),
        trace,
    )


def plain_train(
    nets: Nets, run: int, x_BD: Tensor, y_BD: Tensor, step_size: float, num_steps: int, stop_gradient: bool = True
) -> list[Tensor]:
    """One run the way one would first write it: modules, autograd, a detached target (or not), a Python loop."""
    layers = [
        torch.nn.Linear(*w.shape[1:], bias=False, dtype=w.dtype, device=w.device)
        for w in (*nets.layers, nets.predictor)
    ]
    for layer, w in zip(layers, (*nets.layers, nets.predictor)):
        layer.weight.data.copy_(w[run])
    encoder, predictor = torch.nn.Sequential(*layers[:-1]), layers[-1]
    for _ in range(num_steps):
        target = encoder(y_BD) if nets.jepa[run] else y_BD
        target = target.detach() if stop_gradient else target
        loss = 0.5 * (predictor(encoder(x_BD)) - target).square().sum(-1).mean()
        loss.backward()
        with torch.no_grad():  # as torch.optim.SGD does, whose first use would load the compiler
            for layer in layers:
                layer.weight -= step_size * layer.weight.grad
                layer.weight.grad = None
    return [layer.weight.detach() for layer in layers]


def bench_ensemble(num_seeds: int = 256, dim: int = 8, depth: int = 3, num_steps: int = 200) -> dict[str, float]:
    """CPU seconds per seed: one batched run against the plain autograd loop on the same 256 pairs, in one process.

    The batched run needs the data only as second moments and has its gradients written by hand; that, and not the
    batching alone, is the gain. Returns seconds per seed of both, the ratio, and the largest difference of the weights.
    """
    generator = torch.Generator().manual_seed(0)
    seed, alone, step = torch.arange(num_seeds), range(4), 0.05
    rho = torch.linspace(0.5, 0.95, dim, dtype=torch.float64)
    (x_BD,), (y_BD,) = views_of(torch.ones_like(rho), rho).sample(1, 256, generator)
    depths = torch.full((num_seeds,), depth)
    nets = balanced_init(torch.ones(num_seeds, dtype=torch.bool), depths, seed, dim, 0.3, generator)
    for _ in range(2):  # the first round warms both up
        start = time.process_time()
        moments = x_BD.mT @ x_BD / len(x_BD), y_BD.mT @ x_BD / len(x_BD)
        batched = train(nets, moments, torch.full((num_seeds,), step, dtype=torch.float64), num_steps, num_steps)
        middle = time.process_time()
        looped = [plain_train(nets, run, x_BD, y_BD, step, num_steps) for run in alone]
        loop_s, batched_s = (time.process_time() - middle) / len(alone), (middle - start) / num_seeds
    weights = (*batched.nets.layers, batched.nets.predictor)
    gap = max(float((w[run] - v).abs().max()) for run in alone for w, v in zip(weights, looped[run]))
    return {
        "loop_s_per_seed": loop_s,
        "batched_s_per_seed": batched_s,
        "ratio": loop_s / batched_s,
        "largest_difference": gap,
    }
