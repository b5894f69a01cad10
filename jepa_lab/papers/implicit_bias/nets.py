"""Train many deep linear networks at once, by gradient descent on one batched tensor, and read off critical times.

Shapes: `R` runs (depths x seeds), `L` depths, `S` seeds, `D` features, `T` recorded times. Time here is literal
gradient-flow time: step size * number of steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Generator, Tensor

from jepa_lab.papers.implicit_bias import theory
from jepa_lab.papers.implicit_bias.linear import Nets, aligned_gain, balanced_init, gradients, products
from jepa_lab.papers.implicit_bias.pairs import Moments
from jepa_lab.papers.implicit_bias.theory import Objective


@dataclass(frozen=True)
class Trace:
    """The literal `times` and the `gain` on every feature that a descent recorded, and the networks at its end."""

    times: Float[Tensor, "T R"]
    gain: Float[Tensor, "T R D"]
    nets: Nets


def descend(
    nets: Nets,
    moments: Moments | Callable[[int], Moments],
    step_size: Float[Tensor, " R"],
    num_steps: int,
    record_every: int,
    basis: Float[Tensor, "*#R D D"] | None = None,
    ema_decay: Float[Tensor, " R"] | None = None,
    gain: Callable = aligned_gain,
) -> Trace:
    """Gradient descent (Euler steps of gradient flow) on all runs at once; the given networks stay unchanged.

    `moments` is (Sxx, Syx) for population descent, or a function of the step for minibatch SGD. `basis` holds the
    feature directions in its columns (default: the axes), and `gain` reads the gain along them. With `ema_decay` the
    JEPA target is an exponential moving average of every layer; decay 0 gives the theory's target, the encoder itself.
    Raises ValueError when a run diverges.
    """
    nets = replace(nets, layers=tuple(w.clone() for w in nets.layers), predictor=nets.predictor.clone())
    slow_layers = None if ema_decay is None else [w.clone() for w in nets.layers]
    new_share = None if ema_decay is None else (1 - ema_decay)[:, None, None]
    if basis is None:
        basis = torch.eye(nets.predictor.shape[-1], dtype=step_size.dtype, device=step_size.device)
    step_sizes = [(step_size * (a < nets.depth))[:, None, None] for a in range(len(nets.layers))]
    step_sizes.append(step_size[:, None, None].contiguous())  # V's
    times, gains = [], []
    for step in range(num_steps + 1):
        if step % record_every == 0 or step == num_steps:
            times.append(step * step_size)
            gains.append(gain(products(nets.layers)[-1], basis))
            _check_finite(gains[-1], step)
        if step == num_steps:
            break
        now = moments(step) if callable(moments) else moments
        target = None if slow_layers is None else products(slow_layers)[-1]
        grads, grad_V = gradients(nets, now, target)
        for w, grad, size in zip((*nets.layers, nets.predictor), (*grads, grad_V), step_sizes):
            w.addcmul_(grad, size, value=-1)
        for slow, w in zip(slow_layers or (), nets.layers):
            slow.lerp_(w, new_share)
    return Trace(torch.stack(times), torch.stack(gains), nets)


def _check_finite(gain: Tensor, step: int) -> None:
    if not bool(torch.isfinite(gain).all()):  # the only host sync, once per record
        raise ValueError(f"a run diverged before step {step}: its step size is unstable; take a smaller one")


def crossing_time(trace: Trace, level: Float[Tensor, "#R D"]) -> Float[Tensor, "R D"]:
    """Literal time at which each gain first reaches `level`, linear between records; inf where it never does."""
    reached = trace.gain >= level
    first = reached.int().argmax(0)  # [R, D]
    before = (first - 1).clamp(min=0)
    times = trace.times[..., None].expand_as(trace.gain)
    g0, g1 = (trace.gain.gather(0, index[None])[0] for index in (before, first))
    t0, t1 = (times.gather(0, index[None])[0] for index in (before, first))
    crossed = torch.where(first > 0, t0 + (t1 - t0) * (level - g0) / (g1 - g0), t1)
    return torch.where(reached.any(0), crossed, torch.inf)


@dataclass(frozen=True)
class Simulation:
    """Depths x seeds that were trained together.

    `times` are literal, `progress` is gain / fixed point of the ideal start, `critical` holds the literal times at
    which progress first reaches the fraction that counts as learned.
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
    **reading,
) -> Simulation:
    """Train depths x seeds of one objective in one tensor, each depth for its `horizon` (default: 98 % learned).

    `batches(seed of each run)` gives moments or a function of the step; default: population descent on diagonal lam,
    rho. `step_fraction` is step size * fastest contraction rate. `ema_memory` (literal time, per depth) makes the JEPA
    target an EMA encoder. `reading` (basis, gain) goes to `descend`. Raises ValueError where the theory does.
    """
    for L in depths:
        theory.check(lam, rho, L, eps, fraction)
    horizon = horizon or horizons(objective, lam, rho, depths, eps, 0.98)
    num_steps = _steps_needed(objective, lam, rho, depths, horizon, step_fraction)
    depth = torch.tensor(depths, device=generator.device).repeat_interleave(num_seeds)
    seed = torch.arange(num_seeds, device=generator.device).repeat(len(depths))
    step_size = torch.tensor(horizon, dtype=torch.float64, device=depth.device).repeat_interleave(num_seeds) / num_steps
    jepa = torch.full_like(depth, objective == "jepa", dtype=torch.bool)
    start = init(jepa, depth, seed, len(lam), eps, generator)
    moments = (torch.diag(lam / rho), torch.diag(lam)) if batches is None else batches(seed)
    decay = None if ema_memory is None else _ema_decay(step_size, ema_memory, num_seeds)
    trace = descend(start, moments, step_size, num_steps, max(1, num_steps // num_records), ema_decay=decay, **reading)
    return _by_depth_and_seed(trace, objective, rho, depths, fraction, num_seeds)


def _steps_needed(
    objective: Objective,
    lam: Tensor,
    rho: Tensor,
    depths: Sequence[int],
    horizon: Sequence[float],
    step_fraction: float,
) -> int:
    """Number of steps of the depth that needs most, which all depths take."""
    if not 0 < step_fraction < 2:
        raise ValueError(
            f"step_fraction = {step_fraction:g} is unstable: steps around the fixed point overshoot it more and more; "
            "take a number between 0 and 2"
        )
    edges = [float(theory.largest_step(objective, lam, rho, L).min()) for L in depths]
    return max(math.ceil(2 * time / (step_fraction * edge)) for time, edge in zip(horizon, edges))


def _ema_decay(step_size: Float[Tensor, " R"], memory: Sequence[float], num_seeds: int) -> Float[Tensor, " R"]:
    """Decay per step of an EMA that remembers the literal time `memory`, which has one entry per depth."""
    memory = torch.tensor(memory, dtype=torch.float32, device=step_size.device)  # float32, as in the stored results
    return torch.exp(-step_size / memory.repeat_interleave(num_seeds))


def _by_depth_and_seed(
    trace: Trace, objective: Objective, rho: Tensor, depths: Sequence[int], fraction: float, num_seeds: int
) -> Simulation:
    """A Simulation from the trace of its runs, which lie seed after seed within each depth."""
    goal = torch.stack([theory.fixed_point(objective, rho, L) for L in depths]).repeat_interleave(num_seeds, 0)
    return Simulation(
        depths=tuple(depths),
        times=trace.times[:, ::num_seeds],
        progress=rearrange(trace.gain / goal, "t (l s) d -> t l s d", l=len(depths)),
        critical=rearrange(crossing_time(trace, fraction * goal), "(l s) d -> l s d", l=len(depths)),
        trace=trace,
    )
