"""What the paper claims, measured: every experiment takes a config and a seed and returns `Measured`.

Shape letters: `L` depths, `S` seeds of one run, `D` features, `T` recorded times. Critical times are written t*.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import log
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from jepa_lab.experiment import Measured
from jepa_lab.papers.implicit_bias import linear, nets, theory
from jepa_lab.papers.implicit_bias.pairs import Views, gaussian_minibatches, views_of
from jepa_lab.papers.implicit_bias.paper import (
    EQUAL_LAM,
    INVERTED,
    OBJECTIVES,
    PAIR,
    STATIC,
    TEMPORAL,
    Config,
    features,
)
from jepa_lab.papers.implicit_bias.theory import Objective

STEP_MULTIPLES = (4, 2, 1)  # step sizes of `flow`, in units of cfg.step_fraction


def generator_of(seed: int, experiment: str, device: str = "cpu") -> Generator:
    """A generator that depends on the seed and the experiment's name, so that no experiment changes another."""
    # hashed, because the CPU's generator reads only 32 bits of a seed
    return torch.Generator(device).manual_seed(crc32(f"{seed} {experiment}".encode()))


def simulate(
    cfg: Config,
    objective: Objective,
    lam: Tensor,
    rho: Tensor,
    depths: Sequence[int],
    generator: Generator,
    **changes,
) -> nets.Simulation:
    """`nets.simulate` with the config's settings; `changes` replaces or adds keywords."""
    settings = dict(
        eps=cfg.eps,
        fraction=cfg.fraction,
        step_fraction=cfg.step_fraction,
        num_seeds=cfg.num_seeds,
        num_records=cfg.num_records,
    )
    return nets.simulate(objective, lam, rho, depths, generator, **(settings | changes))


def minibatches(cfg: Config, views: Views, generator: Generator) -> Callable:
    """Minibatch SGD on Gaussian views, in the form that `nets.simulate` takes as `batches`."""
    return partial(gaussian_minibatches, views, batch_size=cfg.batch_size, generator=generator)


def exact_times(
    objective: Objective, lam: Tensor, rho: Tensor, depths: Sequence[int], eps: float, fraction: float
) -> Float[Tensor, "L D"]:
    """t* by quadrature, in the paper's time tau, for several depths."""
    return torch.stack([theory.critical_time(objective, lam, rho, L, eps, fraction) for L in depths])


def noisy_over_clean(times: Float[Tensor, "*N D"]) -> Float[Tensor, "*N"]:
    """Mean t* of the last half of the features over that of the first half: above 1, clean features come first."""
    half = times.shape[-1] // 2
    return times[..., half:].mean(-1) / times[..., :half].mean(-1)


def kendall_tau(a: Float[Tensor, " D"], b: Float[Tensor, " D"]) -> float:
    """Kendall's rank correlation of two orders without ties: 1 where they are equal, -1 where they are opposite."""
    from scipy.stats import kendalltau  # takes a second to import

    # without ties all variants are equal, and Stuart's c needs no square root
    return float(kendalltau(a.cpu(), b.cpu(), variant="c").statistic)


def flow(cfg: Config, seed: int, device: str = "cpu") -> Measured:
    """Claim 1: matrices against the ODE at three step sizes. The start's orthogonal factors are random."""
    lam, rho = features(EQUAL_LAM, device)
    errors, curves = {}, {}
    for objective in OBJECTIVES:
        rows = []
        for multiple in STEP_MULTIPLES:
            generator = generator_of(seed, "flow", device)
            step_fraction = multiple * cfg.step_fraction
            sim = simulate(cfg, objective, lam, rho, cfg.depths, generator, step_fraction=step_fraction)
            ode = _ode(sim, objective, lam, rho, cfg.eps)
            rows.append((sim.progress - ode[:, :, None]).abs().amax((0, 2, 3)))
        errors[objective] = torch.stack(rows)  # [step size, L]
        curves[objective] = sim, ode  # of the smallest step
    both = torch.stack(list(errors.values()))  # [objective, step size, L]
    slopes = torch.log2(both[:, :-1] / both[:, 1:])
    return Measured(
        claims={
            "flow-error": (float(both[:, -1].max()), 0.03),
            "flow-order": (float((slopes - 1).abs().max()), 0.15),
        },
        data={"errors": errors, "curves": curves, "slopes": slopes},
    )


def _ode(sim: nets.Simulation, objective: Objective, lam: Tensor, rho: Tensor, eps: float) -> Float[Tensor, "T L D"]:
    """Progress by the scalar ODE at the times of a simulation."""
    exact = [theory.progress_at(sim.times[:, i] * L, objective, lam, rho, L, eps).T for i, L in enumerate(sim.depths)]
    return torch.stack(exact, 1)


def depth_sweep(cfg: Config, seed: int, device: str = "cpu") -> Measured:
    """Claim 2: t* at equal lam, exact over depth (no randomness) and simulated under minibatch SGD."""
    lam, rho = features(EQUAL_LAM, device)
    exact, spread, sgd = {}, {}, {}
    for o in OBJECTIVES:
        exact[o] = exact_times(o, lam, rho, cfg.sweep_depths, cfg.sweep_eps, cfg.fraction)
        spread[o] = exact[o][:, 0] / exact[o][:, -1]  # [L]
        batches = minibatches(cfg, views_of(lam, rho), generator_of(seed, "sweep batches", device))
        generator = generator_of(seed, "sweep", device)
        sim = simulate(cfg, o, lam, rho, cfg.depths, generator, batches=batches)
        sgd[o] = sim.critical[..., 0] / sim.critical[..., -1]  # [L, S]
    deep = torch.tensor([L >= 2 for L in cfg.sweep_depths])
    deep_sgd = torch.tensor([L >= 2 for L in cfg.depths])
    lowest = {o: float(sgd[o].mean(1)[deep_sgd].min()) for o in OBJECTIVES}
    return Measured(
        claims={
            "rho-order": (float((exact["jepa"][:, :-1] / exact["jepa"][:, 1:])[deep].min()), 1.0),
            "rho-spread": (float(spread["jepa"].diff().min()), 0.0),
            "mae-flat": (float((spread["mae"][deep] - 1).abs().max()), 0.06),
            "rho-order-sgd": (lowest["jepa"], lowest["mae"]),
        },
        data={"exact": exact, "spread": spread, "sgd": sgd},
    )


def formula(cfg: Config, device: str = "cpu") -> Measured:
    """Claim 3: the paper's sum, its remainder and where rho enters. Quadrature only: no randomness."""
    (rho,) = features(((0.5, 0.95, 2.0),), device)
    low, high = rho[:1], rho[1:2]
    deep = [L for L in cfg.formula_depths if L >= 2]
    ratios = {
        L: (
            rho_effect(low, high, L, cfg.formula_eps, cfg.fraction),
            float(theory.rho_ratio(low, high, L, cfg.formula_eps)),
        )
        for L in deep
    }
    sum_errors = [_sum_error(rho, L, cfg.formula_eps, cfg.fraction) for L in cfg.formula_depths]
    slope_errors = [_remainder_error(rho[:2], L, cfg.fraction) for L in cfg.formula_depths if L <= 3]
    exponent_errors = [_exponent_error(low, high, L, cfg.fraction) for L in deep]
    ratio_errors = [abs(first_order / exact - 1) for exact, first_order in ratios.values()]
    return Measured(
        claims={
            "sum-formula": (max(sum_errors), 0.05),
            "log-remainder": (max(slope_errors), 0.05),
            "rho-exponent": (max(exponent_errors), 0.1),
            "ratio-formula": (max(ratio_errors), 0.05),
        },
        data={"ratios": ratios},
    )


def rho_effect(low: Float[Tensor, "1"], high: Float[Tensor, "1"], depth: int, eps: float, fraction: float) -> float:
    """JEPA's t*(low rho) / t*(high rho) at lam = 1."""
    one = torch.ones_like(low)
    slow = theory.critical_time("jepa", one, low, depth, eps, fraction)
    return float(slow / theory.critical_time("jepa", one, high, depth, eps, fraction))


def _sum_error(rho: Tensor, depth: int, eps: float, fraction: float) -> float:
    """Largest relative error of the paper's sum."""
    lam = torch.ones_like(rho)
    exact = theory.critical_time("jepa", lam, rho, depth, eps, fraction)
    return float(((theory.critical_time_sum("jepa", lam, rho, depth, eps) - exact) / exact).abs().max())


def _remainder_error(rho: Tensor, depth: int, fraction: float) -> float:
    """Largest relative error of the stated slope of the remainder over log(1/eps).

    Holds for rho < 1; for larger rho the remainder is lost in the rounding of t*.
    """
    lam, remainder = torch.ones_like(rho), {}
    for eps in (1e-7, 1e-6):
        exact = theory.critical_time("jepa", lam, rho, depth, eps, fraction)
        remainder[eps] = exact - theory.critical_time_sum("jepa", lam, rho, depth, eps)
    slope = (remainder[1e-7] - remainder[1e-6]) / log(10)
    return float((slope * rho ** (2 * depth - 1) - 1).abs().max())


def _exponent_error(low: Tensor, high: Tensor, depth: int, fraction: float) -> float:
    """|L * exponent - 1|, where the exponent is that of eps in the rho effect, measured over one decade."""
    excess = [rho_effect(low, high, depth, eps, fraction) - 1 for eps in (1e-9, 1e-8)]
    small, large = torch.tensor(excess, dtype=torch.float32).log10()  # float32, as in the stored results
    return abs(float(large - small) * depth - 1)


def inversion(cfg: Config, seed: int, device: str = "cpu") -> Measured:
    """Claim 4: one family, simulated where the orders are opposite, by quadrature where they are not."""
    lam, rho = features(INVERTED, device)
    depth, step_fraction = cfg.inversion_depth, 4 * cfg.step_fraction  # a coarse step, since only the order counts
    simulated, exact = {}, {}
    for o in OBJECTIVES:
        generator = generator_of(seed, "inversion", device)
        sim = simulate(cfg, o, lam, rho, (depth,), generator, step_fraction=step_fraction)
        simulated[o] = sim.critical[0] * depth  # [S, D], in tau
        exact[o] = exact_times(o, lam, rho, (1, 2, 3, depth), cfg.eps, cfg.fraction)
    taus = [kendall_tau(jepa, mae) for jepa, mae in zip(simulated["jepa"], simulated["mae"])]
    shallow = [exact[o][0] for o in OBJECTIVES]
    small_eps = [theory.critical_time(o, lam, rho, depth, cfg.small_eps, cfg.fraction) for o in OBJECTIVES]
    return Measured(
        claims={
            "inversion": (sum(taus) / len(taus), 0.0),
            "no-inversion-shallow": (kendall_tau(*shallow), 0.0),
            "no-inversion-small-eps": (kendall_tau(*small_eps), 0.0),
        },
        data={"tau": taus, "exact": exact, "simulated": simulated},
    )


def phase_diagram(
    depths: Sequence[int], log10_eps: Sequence[float], family=PAIR, fraction: float = 0.5
) -> dict[Objective, Float[Tensor, "L E"]]:
    """t* of the first feature / t* of the second over depth and eps; nan where the theory refuses eps."""
    lam, rho = features(family)
    ratio = {o: torch.full((len(depths), len(log10_eps)), torch.nan, dtype=torch.float64) for o in OBJECTIVES}
    for i, L in enumerate(depths):
        limit = fraction * min(float(theory.fixed_point(o, rho, L).min()) for o in OBJECTIVES)
        allowed = [j for j, power in enumerate(log10_eps) if 10.0**power < limit]
        for j in allowed:
            for o in OBJECTIVES:
                times = theory.critical_time(o, lam, rho, L, 10.0 ** log10_eps[j], fraction)
                ratio[o][i, j] = times[0] / times[1]
    return ratio


def noisy_features(cfg: Config, seed: int, device: str = "cpu") -> Measured:
    """Claim 5: temporal and static models under minibatch SGD; which group of features is learned first?"""
    ratio, simulations, predicted = {}, {}, {}
    for model, family in (("temporal", TEMPORAL), ("static", STATIC)):
        views = Views(*features(family, device))
        for o in OBJECTIVES:
            generator = generator_of(seed, model, device)
            batches = minibatches(cfg, views, generator)
            sim = simulate(cfg, o, views.lam, views.rho, cfg.depths, generator, batches=batches)
            simulations[model, o] = sim
            ratio[model, o] = noisy_over_clean(sim.critical)  # [L, S]
            exact = exact_times(o, views.lam, views.rho, cfg.depths, cfg.eps, cfg.fraction)
            predicted[model, o] = noisy_over_clean(exact)  # [L]
    mean = {key: value.mean(1) for key, value in ratio.items()}
    deep = torch.tensor([L >= 2 for L in cfg.depths])
    values = {
        f"{model} {o} depth {L}": float(means[i])
        for (model, o), means in mean.items()
        for i, L in enumerate(cfg.depths)
    }
    return Measured(
        values=values,
        claims={
            "temporal-mae": (float(mean["temporal", "mae"].max()), 1.0),
            "temporal-jepa": (float(mean["temporal", "jepa"][deep].min()), 1.0),
            "temporal-shallow": (float(mean["temporal", "jepa"][~deep].max()), 1.0),
            "static-jepa": (float(mean["static", "jepa"][deep].min()), 1.0),
        },
        data={"ratio": ratio, "predicted": predicted, "simulations": simulations},
    )


def random_start(cfg: Config, seed: int, device: str = "cpu") -> Measured:
    """Claim 6: small Gaussian weights; gain / fixed point at a fixed horizon, not t*, because features compete."""
    lam, rho = features(EQUAL_LAM, device)
    final = {}
    for o in OBJECTIVES:
        times = exact_times(o, lam, rho, cfg.shallow_depths, cfg.eps, cfg.fraction)
        horizon = [cfg.horizon_factor * float(times[i].min()) / L for i, L in enumerate(cfg.shallow_depths)]
        how = dict(init=linear.random_init, horizon=horizon, gain=linear.column_gain, num_seeds=cfg.random_seeds)
        generator = generator_of(seed, "random", device)
        final[o] = simulate(cfg, o, lam, rho, cfg.shallow_depths, generator, **how).progress[-1]  # [L, S, D]
    gap = {o: (f[..., -1] - f[..., 0]).mean(-1) for o, f in final.items()}  # [L]
    closest = int((gap["jepa"] - gap["mae"]).argmin())
    return Measured(
        claims={
            "random-init": (float(gap["jepa"].min()), 0.0),
            "random-init-mae": (float(gap["jepa"][closest]), float(gap["mae"][closest])),
        },
        data={"final": final, "gap": gap},
    )
