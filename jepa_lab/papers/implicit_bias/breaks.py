"""What breaks the deep linear story: five switches, each with one measured effect beside the healthy value."""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from jepa_lab.papers.implicit_bias import linear, theory
from jepa_lab.papers.implicit_bias.experiments import generator_of, minibatches, noisy_over_clean, simulate
from jepa_lab.papers.implicit_bias.pairs import Views, views_of
from jepa_lab.papers.implicit_bias.paper import EQUAL_LAM, PAIR, TEMPORAL, Config, features
from jepa_lab.papers.implicit_bias.plain import descend_by_autograd


@dataclass(frozen=True)
class Break:
    """One switch: what was changed, what is measured, and the measurement without and with the change."""

    switch: str
    measure: str
    healthy: float
    broken: float


def all_breaks(cfg: Config) -> list[Break]:
    """Every switch with its measured effect; these are no claims. The step is small enough for all of them."""
    equal, views = features(EQUAL_LAM), Views(*features(TEMPORAL))
    return [
        eps_too_large(*features(PAIR), 4, 1e-3),
        shallow(views, cfg.eps),
        predictor_scale(replace(cfg, step_fraction=0.05, num_seeds=1, num_records=200), *equal),
        no_stop_gradient(*equal, generator_of(0, "breaks")),
        small_batches(replace(cfg, step_fraction=0.08, num_seeds=8, num_records=100), views),
    ]


def eps_too_large(lam: Tensor, rho: Tensor, depth: int, eps: float) -> Break:
    """At 99 % of the largest eps that the theory accepts, the low-rho feature counts as learned almost at once."""
    limit = 0.5 * min(float(theory.fixed_point(o, rho, depth).min()) for o in ("jepa", "mae"))
    ratios = []
    for start in (eps, 0.99 * limit):
        times = theory.critical_time("jepa", lam, rho, depth, start)
        ratios.append(float(times[0] / times[1]))
    switch = "eps just below half of the smallest fixed point"
    return Break(switch, "t* of the first feature / t* of the second, JEPA", *ratios)


def shallow(views: Views, eps: float) -> Break:
    """At depth 1 instead of 2, JEPA takes the noisy features first, as MAE does."""
    ratios = [float(noisy_over_clean(theory.critical_time("jepa", views.lam, views.rho, L, eps))) for L in (2, 1)]
    return Break("one layer instead of two", "t* of noisy / t* of clean features, JEPA", *ratios)


def predictor_scale(cfg: Config, lam: Tensor, rho: Tensor, times_larger: float = 3.0) -> Break:
    """A predictor that starts larger than the layers keeps w^2 - v^2 nonzero, and the scalar equation is wrong."""

    def larger(*start) -> linear.Nets:
        balanced = linear.balanced_init(*start)
        return replace(balanced, predictor=times_larger * balanced.predictor)

    errors = []
    for init in (linear.balanced_init, larger):
        sim = simulate(cfg, "jepa", lam, rho, (2,), torch.Generator().manual_seed(0), init=init)
        ode = theory.progress_at(2 * sim.times[:, 0], "jepa", lam, rho, 2, cfg.eps).T
        errors.append(float((sim.progress[:, 0, 0] - ode).abs().max()))
    switch = f"predictor starts {times_larger:g} times as large as a layer"
    return Break(switch, "largest difference of simulation and ODE", *errors)


def no_stop_gradient(lam: Tensor, rho: Tensor, generator: Generator) -> Break:
    """With gradients through the target as well, the encoder shrinks to nothing."""
    (x,), (y,) = views_of(lam, rho).sample(1, 512, generator)
    one = torch.ones(1, dtype=torch.long)
    start = linear.balanced_init(one.bool(), 2 * one, 0 * one, len(lam), 0.1, generator)
    goal = theory.fixed_point("jepa", rho, 2)
    shares = []
    for stop in (True, False):
        first, second, _ = descend_by_autograd(start, 0, x, y, 0.2, 800, stop_gradient=stop)
        shares.append(float(((second @ first).diagonal() / goal).max()))
    return Break("no stop-gradient", "largest gain / fixed point after training", *shares)


def small_batches(cfg: Config, views: Views, batch_size: int = 16) -> Break:
    """SGD noise acts on the product of layers, so small batches end beside the fixed point."""
    distances = []
    for size in (256, batch_size):
        generator = torch.Generator().manual_seed(0)
        batches = minibatches(replace(cfg, batch_size=size), views, generator)
        sim = simulate(cfg, "jepa", views.lam, views.rho, (2,), generator, batches=batches)
        distances.append(float((sim.progress[-20:, 0].mean((0, 1)) - 1).abs().max()))
    switch = f"minibatches of {batch_size} instead of 256"
    return Break(switch, "worst distance of gain / fixed point from 1 at the end", *distances)
