"""Littwin et al. 2024, "How JEPA Avoids Noisy Features" (arXiv 2407.03475): the experiments of chapter 10.

Equations and critical times live in `linear_theory`, batched networks in `linear_nets`; here they meet. Depth L,
gain wbar, eps, lam, rho as there. Our grids: the paper's own figure grids could not be read, so these are proposals.
Shape letters: `L` depths, `S` seeds of one run, `D` features, `T` recorded times.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor

from jepa_lab import linear_nets as nets
from jepa_lab import linear_theory as theory
from jepa_lab.linear_nets import Views
from jepa_lab.linear_theory import Objective

OBJECTIVES: tuple[Objective, ...] = ("jepa", "mae")
EQUAL_LAM = ((1.0, 1.0, 1.0, 1.0), (0.5, 0.65, 0.8, 0.95))  # lam, rho
INVERTED = (tuple(0.8 + 0.2 * i / 7 for i in range(8)), tuple(1.2 - 0.6 * i / 7 for i in range(8)))
PAIR = ((1.0, 0.6), (0.4, 0.9))  # a noisy feature of large lam against a clean one of smaller lam


@dataclass(frozen=True)
class Config:
    """Everything a run depends on. Times in units of gradient-flow time, steps derived from them."""

    eps: float = 1e-2  # end-to-end gain at the start, of every matrix simulation
    fraction: float = 0.5  # p: a feature counts as learned at this share of its fixed point
    depths: tuple[int, ...] = (1, 2, 3)  # of the matrix simulations
    step_fraction: float = 0.04  # step size * fastest contraction rate; 2 is the edge of stability
    num_seeds: int = 10  # inside one run, in one tensor
    batch_size: int = 256  # of minibatch SGD
    num_records: int = 500  # points kept of a trajectory
    inversion_depth: int = 4
    sweep_depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6)  # theory only
    sweep_eps: float = 1e-3
    formula_depths: tuple[int, ...] = (1, 2, 3, 4, 5)
    formula_eps: float = 1e-4
    horizon_factor: float = 4.0  # random init: horizon in ideal critical times of the best feature


def preset(name: str, **overrides) -> Config:
    """Config of a preset: smoke, laptop, gpu or paper. Unknown names and unknown overrides raise ValueError."""
    presets = {
        "smoke": Config(depths=(1, 2), eps=0.02, step_fraction=0.16, num_seeds=3, batch_size=64, num_records=200,
                        inversion_depth=3, horizon_factor=2.0),
        "laptop": Config(),
        "gpu": Config(depths=(1, 2, 3, 4), num_seeds=256, batch_size=1024, step_fraction=0.02),
        "paper": Config(step_fraction=0.01, num_seeds=32, batch_size=1024),
    }
    if name not in presets:
        raise ValueError(f"unknown preset {name!r}; there are: {', '.join(presets)}")
    known = [f.name for f in fields(Config)]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; the fields are: {', '.join(known)}")
    return replace(presets[name], **overrides)


def generator_of(seed: int, experiment: str, device: str = "cpu") -> Generator:
    """A generator of its own for every experiment, so that leaving one out changes no other."""
    return torch.Generator(device).manual_seed(seed * 1_000_003 + sum(ord(c) << i for i, c in enumerate(experiment)))


class Simulation(NamedTuple):
    """Many matrices trained: literal times per depth, progress = gain / ideal fixed point, first crossings of it."""

    times: Float[Tensor, "T L"]
    progress: Float[Tensor, "T L S D"]
    critical: Float[Tensor, "L S D"]


def horizons(objective: Objective, lam: Tensor, rho: Tensor, depths: Sequence[int], eps: float, last: float) -> list[float]:
    """Literal time by which the theory has every feature at `last` of its fixed point, per depth."""
    return [float(theory.critical_time(objective, lam, rho, L, eps, last).max()) / L for L in depths]


def simulate(
    cfg: Config, objective: Objective, lam: Float[Tensor, "D"], rho: Float[Tensor, "D"], depths: Sequence[int],
    generator: Generator, *, init: Callable = nets.balanced_init, horizon: Sequence[float] | None = None,
    moments: nets.Moments | None = None, views: Views | None = None, sample: Callable | None = None,
    ema_decay: float | None = None, basis: Tensor | None = None, gain: Callable = nets.aligned_gain,
) -> Simulation:
    """Train depths x seeds in one tensor, each depth for its `horizon` (default: 98 % of the slowest fixed point).

    Population descent on `moments` (default: diagonal lam and rho), or SGD on minibatches of `views` or from `sample`. All depths take
    the same number of steps; the step size follows. Raises ValueError for features or steps the theory refuses.
    """
    for L in depths:
        theory.check(lam, rho, L, cfg.eps, cfg.fraction)
    horizon = horizon or horizons(objective, lam, rho, depths, cfg.eps, 0.98)
    edge = [float(theory.largest_step(objective, lam, rho, L).min()) for L in depths]
    if cfg.step_fraction >= 2:
        raise ValueError(f"step_fraction = {cfg.step_fraction:g} is unstable: at 2 and above, steps overshoot the fixed point")
    num_steps = max(math.ceil(2 * h / (cfg.step_fraction * e)) for h, e in zip(horizon, edge))
    device = generator.device
    depth = torch.tensor(depths, device=device).repeat_interleave(cfg.num_seeds)
    seed = torch.arange(cfg.num_seeds, device=device).repeat(len(depths))
    step = torch.tensor(horizon, dtype=torch.float64, device=device).repeat_interleave(cfg.num_seeds) / num_steps
    start = init(torch.full_like(depth, objective == "jepa", dtype=torch.bool), depth, seed, len(lam), cfg.eps, generator)
    if views is not None:
        moments = nets.gaussian_minibatches(views, seed, cfg.batch_size, generator)
    elif sample is not None:
        moments = nets.minibatches(sample, seed, cfg.batch_size, generator)
    elif moments is None:
        moments = torch.diag(lam / rho), torch.diag(lam)
    ema = None if ema_decay is None else torch.full_like(step, ema_decay)
    trace = nets.train(start, moments, step, num_steps, max(1, num_steps // cfg.num_records), basis, ema, gain)
    goal = torch.stack([theory.fixed_point(objective, rho, L) for L in depths]).repeat_interleave(cfg.num_seeds, 0)
    trace = replace(trace, gain=trace.gain / goal)
    critical = nets.crossing_time(trace, torch.full_like(goal, cfg.fraction))
    return Simulation(trace.times[:, :: cfg.num_seeds], rearrange(trace.gain, "t (l s) d -> t l s d", l=len(depths)),
                      rearrange(critical, "(l s) d -> l s d", l=len(depths)))
