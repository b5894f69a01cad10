"""Switches that break the deep linear story of chapter 10, each with one measured effect beside the healthy value."""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from jepa_lab.papers.implicit_bias import nets, theory
from jepa_lab.papers.implicit_bias.pairs import Views, gaussian_minibatches, views_of


@dataclass(frozen=True)
class Break:
    """One switch: what was changed, what is measured, and the measurement without and with the change."""

    switch: str
    measure: str
    healthy: float
    broken: float


def eps_too_large(lam: Tensor, rho: Tensor, depth: int, eps: float) -> Break:
    """At 99 % of the largest eps that the theory accepts, the low-rho feature is 'learned' almost at once."""
    limit = 0.5 * min(float(theory.fixed_point(o, rho, depth).min()) for o in ("jepa", "mae"))
    ratio = [
        float(t[0] / t[1]) for t in (theory.critical_time("jepa", lam, rho, depth, e) for e in (eps, 0.99 * limit))
    ]
    return Break(
        "eps just below half of the smallest fixed point", "t* of the first feature / t* of the second, JEPA", *ratio
    )


def shallow(views: Views, eps: float) -> Break:
    """Depth 1 instead of 2: JEPA, too, takes the noisy features first."""
    half = len(views.gamma) // 2
    times = [theory.critical_time("jepa", views.lam, views.rho, L, eps) for L in (2, 1)]
    return Break(
        "one layer instead of two",
        "t* of noisy / t* of clean features, JEPA",
        *(float(t[half:].mean() / t[:half].mean()) for t in times),
    )


def predictor_scale(lam: Tensor, rho: Tensor, eps: float, step_fraction: float, times_larger: float = 3.0) -> Break:
    """A predictor that starts larger than the layers leaves w^2 - v^2 nonzero; the scalar equation is then another."""

    def larger(*start) -> nets.Nets:
        some = nets.balanced_init(*start)
        return replace(some, predictor=times_larger * some.predictor)

    errors = []
    for init in (nets.balanced_init, larger):
        sim = nets.simulate(
            "jepa",
            lam,
            rho,
            (2,),
            torch.Generator().manual_seed(0),
            eps=eps,
            fraction=0.5,
            step_fraction=step_fraction,
            num_seeds=1,
            num_records=200,
            init=init,
        )
        ode = theory.progress_at(2 * sim.times[:, 0], "jepa", lam, rho, 2, eps).T
        errors.append(float((sim.progress[:, 0, 0] - ode).abs().max()))
    return Break(
        f"predictor starts {times_larger:g} times as large as a layer",
        "largest difference of simulation and ODE",
        *errors,
    )


def no_stop_gradient(lam: Tensor, rho: Tensor, generator: Generator) -> Break:
    """Gradients through the target, too: the encoder shrinks to nothing."""
    (x,), (y,) = views_of(lam, rho).sample(1, 512, generator)
    one = torch.ones(1, dtype=torch.long)
    start = nets.balanced_init(one.bool(), 2 * one, 0 * one, len(lam), 0.1, generator)
    goal = theory.fixed_point("jepa", rho, 2)
    shares = []
    for stop in (True, False):
        first, second, _ = nets.plain_train(start, 0, x, y, 0.2, 800, stop_gradient=stop)
        shares.append(float(((second @ first).diagonal() / goal).max()))
    return Break("no stop-gradient", "largest gain / fixed point after training", *shares)


def small_batches(views: Views, eps: float, step_fraction: float, batch_size: int = 16) -> Break:
    """SGD noise acts on the product of layers: small batches end beside the fixed point."""
    worst = []
    for size in (256, batch_size):
        generator = torch.Generator().manual_seed(0)
        sim = nets.simulate(
            "jepa",
            views.lam,
            views.rho,
            (2,),
            generator,
            eps=eps,
            fraction=0.5,
            step_fraction=step_fraction,
            num_seeds=8,
            num_records=100,
            batches=lambda s: gaussian_minibatches(views, s, size, generator),
        )
        worst.append(float((sim.progress[-20:, 0].mean((0, 1)) - 1).abs().max()))
    return Break(
        f"minibatches of {batch_size} instead of 256", "worst distance of gain / fixed point from 1 at the end", *worst
    )
