"""Littwin et al. 2024, "How JEPA Avoids Noisy Features" (arXiv 2407.03475): the experiments of chapter 10.

The equations live in `linear_theory`, the networks in `linear_nets`, the data in `linear_data`; here they meet. Depth
L,
gain wbar, eps, lam, rho as there. The paper's own figure grids could not be read: all grids below are our proposals.
Shape letters: `L` depths, `S` seeds of one run, `D` features, `T` recorded times.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import NamedTuple
from zlib import crc32

import torch
from torch import Generator, Tensor

from jepa_lab import configs as presets
from jepa_lab.claims import Claim
from jepa_lab.papers.implicit_bias import breaks as linear_breaks
from jepa_lab.papers.implicit_bias import nets, theory
from jepa_lab.papers.implicit_bias.pairs import Views, banded_patches, gaussian_minibatches, rotate, views_of
from jepa_lab.papers.implicit_bias.relu import train_relu
from jepa_lab.papers.implicit_bias.theory import Objective
from jepa_lab.records import Run

CHAPTER, PAPER = "10_implicit_bias", "Littwin et al. 2024"
OBJECTIVES: tuple[Objective, ...] = ("jepa", "mae")
EQUAL_LAM = ((1.0, 1.0, 1.0, 1.0), (0.5, 0.65, 0.8, 0.95))  # lam, rho
INVERTED = (tuple(0.8 + 0.2 * i / 7 for i in range(8)), tuple(1.2 - 0.6 * i / 7 for i in range(8)))
PAIR = ((1.0, 0.6), (0.4, 0.9))  # a noisy feature of large lam against a clean one of smaller lam
# gamma, signal variance, noise variance; the first three directions are clean, the last three noisy and stronger
TEMPORAL = ((0.95, 0.9, 0.85, 0.9, 0.9, 0.9), (1.0, 1.0, 1.0, 1.2, 1.2, 1.2), (0.05, 0.05, 0.05, 2.0, 2.0, 2.0))
STATIC = ((1.0,) * 6, (0.95, 0.95, 0.95, 1.1, 1.1, 1.1), (0.1, 0.1, 0.1, 2.2, 2.2, 2.2))


def _claim(
    id: str,
    statement: str,
    metric: str,
    direction: str,
    margin: float,
    baseline: str,
    paper_value: str | None = None,
    paper_source: str | None = None,
) -> Claim:
    return Claim(id, CHAPTER, PAPER, statement, metric, direction, margin, paper_value, paper_source, baseline)


SECOND_HAND = "Theorem 4.5, second hand"
OURS = "ours, not the paper's"
CLAIMS = (
    _claim(
        "flow-error",
        "Matrix gradient descent from a balanced start follows the scalar ODEs.",
        "largest |simulation - ODE| in shares of the fixed point",
        "lower",
        0.0,
        "0.03",
        "eqs. (7) and (8)",
        "equation numbers second hand",
    ),
    _claim(
        "flow-order",
        "That error is the Euler step's own: it shrinks linearly with the step.",
        "largest |log2(error at 2h / error at h) - 1|",
        "lower",
        0.0,
        "0.15",
        None,
        OURS,
    ),
    _claim(
        "rho-order",
        "At equal lam, JEPA of depth >= 2 learns large rho first.",
        "smallest t*(rho) / t*(next larger rho), exact ODE",
        "higher",
        0.005,
        "1 (no order)",
        "JEPA is ordered by rho",
        "Figure 2 (b), second hand",
    ),
    _claim(
        "rho-spread",
        "At equal lam, the spread of JEPA's critical times grows with depth.",
        "smallest growth of t*(0.5) / t*(0.95) from one depth to the next, exact ODE",
        "higher",
        0.02,
        "0 (no growth)",
        "1 + Delta eps^(1/L)",
        SECOND_HAND,
    ),
    _claim(
        "mae-flat",
        "At equal lam, MAE's order does not depend on rho: its spread stays within 6 % at depth >= 2.",
        "largest |t*(0.5) / t*(0.95) - 1|, exact ODE",
        "lower",
        0.0,
        "0.06",
        "Theta(1) apart",
        SECOND_HAND,
    ),
    _claim(
        "rho-order-sgd",
        "Under minibatch SGD the spread at equal lam is larger for JEPA than for MAE at depth >= 2.",
        "smallest t*(0.5) / t*(0.95) over depths",
        "higher",
        0.1,
        "the same for MAE",
        "only JEPA is ordered by rho",
        "Figure 2 (b, e), second hand",
    ),
    _claim(
        "sum-formula",
        "JEPA's critical times match the paper's sum within 5 % at eps = 1e-4.",
        "largest relative error of the sum",
        "lower",
        0.0,
        "0.05",
        "the sum of Theorem 4.5",
        SECOND_HAND,
    ),
    _claim(
        "log-remainder",
        "What the sum leaves out grows like log(1/eps), with slope 1 / (lam rho^(2L-1)); depth 1 to 3.",
        "largest relative error of that slope",
        "lower",
        0.0,
        "0.05",
        "Theta(log eps)",
        SECOND_HAND,
    ),
    _claim(
        "rho-exponent",
        "rho first enters at n = 2L-2: the rho effect scales as eps^(1/L).",
        "largest |L * measured exponent - 1|, depth >= 2",
        "lower",
        0.0,
        "0.1",
        "n = 2L-1 holds no rho",
        SECOND_HAND,
    ),
    _claim(
        "ratio-formula",
        "To first order t*(0.5) / t*(0.95) is 1 + Delta eps^(1/L), within 5 % at eps = 1e-4, depth 2 to 5.",
        "largest relative error of that ratio",
        "lower",
        0.0,
        "0.05",
        None,
        OURS,
    ),
    _claim(
        "inversion",
        "A family of features where JEPA and MAE learn in opposite orders.",
        "Kendall's tau of simulated t*, JEPA against MAE",
        "lower",
        0.9,
        "0 (unrelated orders)",
        "orders are inverted",
        "Figure 2 (c, f), second hand",
    ),
    _claim(
        "no-inversion-shallow",
        "The same family at depth 1: the orders agree.",
        "Kendall's tau of exact t*, JEPA against MAE",
        "higher",
        0.9,
        "0 (unrelated orders)",
        None,
        OURS,
    ),
    _claim(
        "no-inversion-small-eps",
        "The same family and depth at eps = 1e-6: the orders agree.",
        "Kendall's tau of exact t*, JEPA against MAE",
        "higher",
        0.9,
        "0 (unrelated orders)",
        "leading order is by lam",
        SECOND_HAND,
    ),
    _claim(
        "temporal-mae",
        "Temporal model: MAE takes the noisy high-variance features first, at every depth.",
        "largest mean t* of noisy / clean features over depths",
        "lower",
        0.05,
        "1 (same time)",
        "MAE learns noisy features",
        "abstract",
    ),
    _claim(
        "temporal-jepa",
        "Temporal model: JEPA takes the slow clean features first, from depth 2.",
        "smallest mean t* of noisy / clean features over depths >= 2",
        "higher",
        0.02,
        "1 (same time)",
        "JEPA avoids noisy features",
        "abstract",
    ),
    _claim(
        "temporal-shallow",
        "Temporal model: at depth 1 JEPA, too, takes the noisy features first.",
        "mean t* of noisy / clean features at depth 1",
        "lower",
        0.05,
        "1 (same time)",
        None,
        OURS,
    ),
    _claim(
        "static-jepa",
        "Static model (two noisy views): JEPA takes the clean features first, from depth 2.",
        "smallest mean t* of noisy / clean features over depths >= 2",
        "higher",
        0.02,
        "1 (same time)",
        "JEPA avoids noisy features",
        "abstract; model named in the paper, second hand",
    ),
    _claim(
        "random-init",
        "Without the ideal start the preference for large rho survives.",
        "smallest gap of final gain / fixed point, rho 0.95 minus 0.5, over depths",
        "higher",
        0.25,
        "0 (no preference)",
        "other initialisations behave alike",
        "a review, second hand",
    ),
    _claim(
        "random-init-mae",
        "From the same random start JEPA's preference for large rho exceeds MAE's.",
        "gap of final gain / fixed point, rho 0.95 minus 0.5, at the depth where the two differ least",
        "higher",
        0.1,
        "the same for MAE",
        None,
        OURS,
    ),
    _claim(
        "ext-noncommuting",
        "Extension: with covariances turned 20 degrees apart, JEPA of depth 2 still takes the clean features first.",
        "mean t* of noisy / clean generalised features",
        "higher",
        0.05,
        "1 (same time)",
        None,
        OURS,
    ),
    _claim(
        "ext-ema-short",
        "Extension: an EMA target that remembers 1 % of a critical time leaves the clean features first at depth 2.",
        "mean t* of noisy / clean features",
        "higher",
        0.02,
        "1 (same time)",
        None,
        OURS,
    ),
    _claim(
        "ext-ema-long",
        "Extension: an EMA target that remembers 10 % of a critical time puts the noisy features first at depth 2.",
        "mean t* of noisy / clean features",
        "lower",
        0.02,
        "1 (same time)",
        None,
        OURS,
    ),
    _claim(
        "ext-relu",
        "Extension: a ReLU encoder lets noise in less under JEPA than under MAE.",
        "peak over training of mean noisy / mean clean gain",
        "lower",
        0.2,
        "the same for MAE",
        None,
        OURS,
    ),
    _claim(
        "ext-patches",
        "Extension: on Fashion-MNIST patches with column banding, JEPA of depth 2 learns the unbanded directions first.",
        "mean t* of banded / clean directions",
        "higher",
        0.05,
        "1 (same time)",
        None,
        OURS,
    ),
)


@dataclass(frozen=True)
class Config:
    """Everything a run depends on. Times are gradient-flow time; step sizes and horizons follow from the theory."""

    eps: float = 1e-2  # end-to-end gain at the start, of every matrix simulation
    fraction: float = 0.5  # p: a feature counts as learned at this share of its fixed point
    depths: tuple[int, ...] = (1, 2, 3)  # of the matrix simulations
    step_fraction: float = 0.04  # step size * fastest contraction rate; 2 is the edge of stability
    num_seeds: int = 10  # inside one run, in one tensor
    batch_size: int = 256  # of minibatch SGD
    num_records: int = 500  # points kept of a trajectory
    sweep_depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6)  # theory only
    sweep_eps: float = 1e-3
    formula_depths: tuple[int, ...] = (1, 2, 3, 4, 5)
    formula_eps: float = 1e-4
    inversion_depth: int = 4
    small_eps: float = 1e-6
    shallow_depths: tuple[int, ...] = (1, 2)  # of random starts and extensions
    random_seeds: int = 32  # random starts scatter more
    horizon_factor: float = 4.0  # random start: horizon in ideal critical times of the best feature
    angles: tuple[float, ...] = (0.0, 10.0, 20.0, 30.0, 45.0)  # degrees between the bases of Sxx and Syx
    ema_memories: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3)  # in critical times of the cleanest feature
    relu_hidden: int = 32
    relu_batch: int = 64
    relu_steps: int = 3600  # of JEPA; MAE is done after a sixth of them
    num_patches: int = 4000  # per seed
    band_std: float = 1.0  # of one column's offset, where a patch has standard deviation 1


def preset(name: str, **overrides) -> Config:
    """Config of a preset: smoke, laptop, gpu or paper. Unknown names and unknown overrides raise ValueError."""
    return presets.choose(
        {
            "smoke": Config(
                depths=(1, 2),
                eps=0.02,
                step_fraction=0.16,
                num_seeds=3,
                batch_size=64,
                num_records=200,
                inversion_depth=3,
                random_seeds=3,
                horizon_factor=2.0,
                angles=(0.0, 20.0),
                ema_memories=(0.01, 0.1),
                relu_hidden=8,
                relu_steps=300,
                num_patches=500,
            ),
            "laptop": Config(),
            "gpu": Config(
                depths=(1, 2, 3, 4),
                eps=3e-3,
                num_seeds=256,
                random_seeds=1024,
                batch_size=1024,
                relu_hidden=256,
                num_patches=20_000,
            ),
            "paper": Config(step_fraction=0.01, num_seeds=32, batch_size=1024),
        },
        name,
        overrides,
    )


class Outcome(NamedTuple):
    """What an experiment measured: named tensors and tables for the figures, (value, baseline) for its claims."""

    data: dict
    claims: dict[str, tuple[float, float]]

    def put(self, run: Run) -> None:
        """Write the claims into a run's record and print them."""
        for id, (value, baseline) in self.claims.items():
            run.claim(id, value=value, baseline=baseline)
            claim = run.claims[id]
            print(
                f"{id}: {value:.4g} against {baseline:.4g} ({claim.direction} is as claimed, margin {claim.margin:g})"
            )


def generator_of(seed: int, experiment: str, device: str = "cpu") -> Generator:
    """A generator of its own for every experiment, so that leaving one out changes no other."""
    # a hash, for the CPU's generator reads only 32 bits of a seed
    return torch.Generator(device).manual_seed(crc32(f"{seed} {experiment}".encode()))


def _simulate(
    cfg: Config, objective: Objective, lam: Tensor, rho: Tensor, depths, generator: Generator, **how
) -> nets.Simulation:
    numbers = dict(
        eps=cfg.eps,
        fraction=cfg.fraction,
        step_fraction=cfg.step_fraction,
        num_seeds=cfg.num_seeds,
        num_records=cfg.num_records,
    )
    return nets.simulate(objective, lam, rho, depths, generator, **(numbers | how))


def features(family, device: str = "cpu") -> tuple[Tensor, ...]:
    """A grid above as float64 tensors."""
    return tuple(torch.tensor(row, dtype=torch.float64, device=device) for row in family)


def noisy_over_clean(times: Tensor) -> Tensor:
    """Mean critical time of the last half of the features over that of the first half: above 1, clean comes first."""
    half = times.shape[-1] // 2
    return times[..., half:].mean(-1) / times[..., :half].mean(-1)


def kendall_tau(a: Tensor, b: Tensor) -> Tensor:
    """Rank agreement of two orders along the last axis: 1 the same, -1 opposite."""
    i, j = torch.triu_indices(a.shape[-1], a.shape[-1], 1)
    return ((a[..., i] - a[..., j]).sign() * (b[..., i] - b[..., j]).sign()).mean(-1)


def flow(cfg: Config, seed: int, device: str = "cpu") -> Outcome:
    """Claim 1: matrices against the ODE at step sizes 4h, 2h and h. The start's orthogonal factors are random."""
    lam, rho = features(EQUAL_LAM, device)
    errors, curves = {}, {}
    for objective in OBJECTIVES:
        rows = []
        for multiple in (4, 2, 1):
            sim = _simulate(
                cfg,
                objective,
                lam,
                rho,
                cfg.depths,
                generator_of(seed, "flow", device),
                step_fraction=multiple * cfg.step_fraction,
            )
            ode = torch.stack(
                [
                    theory.progress_at(sim.times[:, l] * L, objective, lam, rho, L, cfg.eps).T
                    for l, L in enumerate(cfg.depths)
                ],
                1,
            )  # [T, L, D]
            rows.append((sim.progress - ode[:, :, None]).abs().amax((0, 2, 3)))
        errors[objective], curves[objective] = torch.stack(rows), (sim, ode)
    every = torch.stack(list(errors.values()))  # [objective, step, L]
    slopes = torch.log2(every[:, :-1] / every[:, 1:])
    return Outcome(
        {"errors": errors, "curves": curves, "slopes": slopes},
        {"flow-error": (float(every[:, -1].max()), 0.03), "flow-order": (float((slopes - 1).abs().max()), 0.15)},
    )


def depth_sweep(cfg: Config, seed: int, device: str = "cpu") -> Outcome:
    """Claim 2: critical times at equal lam, exact over depth (no randomness) and simulated under minibatch SGD."""
    lam, rho = features(EQUAL_LAM, device)
    exact = {
        o: torch.stack([theory.critical_time(o, lam, rho, L, cfg.sweep_eps, cfg.fraction) for L in cfg.sweep_depths])
        for o in OBJECTIVES
    }  # [L, D]
    spread = {o: t[:, 0] / t[:, -1] for o, t in exact.items()}
    deep = torch.tensor([L >= 2 for L in cfg.sweep_depths])
    sims = {
        o: _simulate(
            cfg,
            o,
            lam,
            rho,
            cfg.depths,
            generator_of(seed, "sweep", device),
            batches=lambda s, g=generator_of(seed, "sweep batches", device): gaussian_minibatches(
                views_of(lam, rho), s, cfg.batch_size, g
            ),
        )
        for o in OBJECTIVES
    }
    sgd = {o: sim.critical[..., 0] / sim.critical[..., -1] for o, sim in sims.items()}  # [L, S]
    low = {o: float(min(sgd[o][l].mean() for l, L in enumerate(cfg.depths) if L >= 2)) for o in OBJECTIVES}
    return Outcome(
        {"exact": exact, "spread": spread, "sgd": sgd, "critical": {o: s.critical for o, s in sims.items()}},
        {
            "rho-order": (float((exact["jepa"][:, :-1] / exact["jepa"][:, 1:])[deep].min()), 1.0),
            "rho-spread": (float(spread["jepa"].diff().min()), 0.0),
            "mae-flat": (float((spread["mae"][deep] - 1).abs().max()), 0.06),
            "rho-order-sgd": (low["jepa"], low["mae"]),
        },
    )


def formula(cfg: Config, device: str = "cpu") -> Outcome:
    """Claim 3: the paper's sum, its remainder and where rho enters. Quadrature only: no randomness."""
    rho = torch.tensor([0.5, 0.95, 2.0], dtype=torch.float64, device=device)
    lam, a, b = torch.ones_like(rho), rho[:1], rho[1:2]
    off, slope_off, power_off, ratio_off, ratios = [], [], [], [], {}

    def measured_ratio(L: int, eps: float) -> float:
        return float(
            theory.critical_time("jepa", lam[:1], a, L, eps, cfg.fraction)
            / theory.critical_time("jepa", lam[:1], b, L, eps, cfg.fraction)
        )

    def remainder(L: int, eps: float) -> Tensor:  # of rho < 1: beyond, it drowns in the rounding of t*
        exact = theory.critical_time("jepa", lam, rho, L, eps, cfg.fraction)
        return (exact - theory.critical_time_sum("jepa", lam, rho, L, eps))[:2]

    for L in cfg.formula_depths:
        exact = theory.critical_time("jepa", lam, rho, L, cfg.formula_eps, cfg.fraction)
        off.append(((theory.critical_time_sum("jepa", lam, rho, L, cfg.formula_eps) - exact) / exact).abs().max())
        if L <= 3:
            slope = (remainder(L, 1e-7) - remainder(L, 1e-6)) / log(10)
            slope_off.append((slope * rho[:2] ** (2 * L - 1) - 1).abs().max())
        if L >= 2:
            ratios[L] = (measured_ratio(L, cfg.formula_eps), float(theory.rho_ratio(a, b, L, cfg.formula_eps)))
            ratio_off.append(abs(ratios[L][1] / ratios[L][0] - 1))
            small, large = (torch.tensor(measured_ratio(L, eps) - 1).log10() for eps in (1e-9, 1e-8))
            power_off.append(abs(float(large - small) * L - 1))
    return Outcome(
        {"ratios": ratios},
        {
            "sum-formula": (float(max(off)), 0.05),
            "log-remainder": (float(max(slope_off)), 0.05),
            "rho-exponent": (max(power_off), 0.1),
            "ratio-formula": (max(ratio_off), 0.05),
        },
    )


def phase_diagram(depths, log10_eps, family=PAIR, fraction: float = 0.5) -> dict[Objective, Tensor]:
    """t*_a / t*_b of a pair of features over depth and eps, Float[L, E]; nan where eps >= fraction * fixed point."""
    lam, rho = features(family)
    out = {o: torch.full((len(depths), len(log10_eps)), torch.nan, dtype=torch.float64) for o in OBJECTIVES}
    for i, L in enumerate(depths):
        limit = fraction * min(float(theory.fixed_point(o, rho, L).min()) for o in OBJECTIVES)
        for j, power in enumerate(log10_eps):
            if 10.0**power < limit:
                for o in OBJECTIVES:
                    t = theory.critical_time(o, lam, rho, L, 10.0**power, fraction)
                    out[o][i, j] = t[0] / t[1]
    return out


def inversion(cfg: Config, seed: int, device: str = "cpu") -> Outcome:
    """Claim 4: one family, simulated where the orders are opposite, by quadrature where they are not."""
    lam, rho = features(INVERTED, device)

    def exact(objective: Objective, depth: int, eps: float) -> Tensor:
        return theory.critical_time(objective, lam, rho, depth, eps, cfg.fraction)

    def agreement(depth: int, eps: float) -> float:
        return float(kendall_tau(exact("jepa", depth, eps), exact("mae", depth, eps)))

    sims = {
        o: _simulate(
            cfg,
            o,
            lam,
            rho,
            (cfg.inversion_depth,),
            generator_of(seed, "inversion", device),
            step_fraction=4 * cfg.step_fraction,
        )
        for o in OBJECTIVES
    }  # only the order counts
    tau = kendall_tau(sims["jepa"].critical[0], sims["mae"].critical[0])  # [S]
    times = {o: torch.stack([exact(o, L, cfg.eps) for L in (1, 2, 3, cfg.inversion_depth)]) for o in OBJECTIVES}
    return Outcome(
        {"tau": tau, "exact": times, "simulated": {o: s.critical[0] * cfg.inversion_depth for o, s in sims.items()}},
        {
            "inversion": (float(tau.mean()), 0.0),
            "no-inversion-shallow": (agreement(1, cfg.eps), 0.0),
            "no-inversion-small-eps": (agreement(cfg.inversion_depth, cfg.small_eps), 0.0),
        },
    )


def noisy_features(cfg: Config, seed: int, device: str = "cpu") -> Outcome:
    """Claim 5: temporal and static models under minibatch SGD; which group of features is learned first?"""
    ratio, sims, predicted = {}, {}, {}
    for name, model in (("temporal", TEMPORAL), ("static", STATIC)):
        views = Views(*features(model, device))
        for o in OBJECTIVES:
            generator = generator_of(seed, name, device)
            sims[name, o] = _simulate(
                cfg,
                o,
                views.lam,
                views.rho,
                cfg.depths,
                generator,
                batches=lambda s: gaussian_minibatches(views, s, cfg.batch_size, generator),
            )
            ratio[name, o] = noisy_over_clean(sims[name, o].critical)  # [L, S]
            predicted[name, o] = torch.stack(
                [
                    noisy_over_clean(theory.critical_time(o, views.lam, views.rho, L, cfg.eps, cfg.fraction))
                    for L in cfg.depths
                ]
            )
    mean = {key: value.mean(1) for key, value in ratio.items()}
    deep = torch.tensor([L >= 2 for L in cfg.depths])
    return Outcome(
        {"ratio": ratio, "predicted": predicted, "simulations": sims},
        {
            "temporal-mae": (float(mean["temporal", "mae"].max()), 1.0),
            "temporal-jepa": (float(mean["temporal", "jepa"][deep].min()), 1.0),
            "temporal-shallow": (float(mean["temporal", "jepa"][~deep].max()), 1.0),
            "static-jepa": (float(mean["static", "jepa"][deep].min()), 1.0),
        },
    )


def random_start(cfg: Config, seed: int, device: str = "cpu") -> Outcome:
    """Claim 6: small Gaussian weights; gain / fixed point at a fixed horizon, not critical times (features compete)."""
    lam, rho = features(EQUAL_LAM, device)
    final = {}
    for o in OBJECTIVES:
        horizon = [
            cfg.horizon_factor * float(theory.critical_time(o, lam, rho, L, cfg.eps, cfg.fraction).min()) / L
            for L in cfg.shallow_depths
        ]
        sim = _simulate(
            cfg,
            o,
            lam,
            rho,
            cfg.shallow_depths,
            generator_of(seed, "random", device),
            init=nets.random_init,
            horizon=horizon,
            gain=nets.column_gain,
            num_seeds=cfg.random_seeds,
        )
        final[o] = sim.progress[-1]  # [L, S, D]
    gap = {o: (f[..., -1] - f[..., 0]).mean(-1) for o, f in final.items()}  # [L]
    near = int((gap["jepa"] - gap["mae"]).argmin())
    return Outcome(
        {"final": final, "gap": gap},
        {
            "random-init": (float(gap["jepa"].min()), 0.0),
            "random-init-mae": (float(gap["jepa"][near]), float(gap["mae"][near])),
        },
    )


def turned_covariances(cfg: Config, seed: int, device: str = "cpu") -> Outcome:
    """Extension: Syx turned against Sxx, all angles and depths in one tensor, population descent.

    Features are generalised eigenvectors, clean (large rho) first; times refer to each one's own last gain.
    """
    views = Views(*features(TEMPORAL, device))
    cells = [(L, angle) for L in cfg.shallow_depths for angle in cfg.angles]
    sxx, syx = (torch.stack(m) for m in zip(*(rotate(views.moments(), angle) for _, angle in cells)))
    lam, rho, duals = (x.flip(-1) for x in theory.generalised_features(sxx, syx))  # [cells, D], duals [cells, D, D]
    ratio = {}
    for o in OBJECTIVES:
        horizon = [1.5 * nets.horizons(o, lam[i], rho[i], (L,), cfg.eps, 0.98)[0] for i, (L, _) in enumerate(cells)]
        sim = _simulate(
            cfg,
            o,
            lam[0],
            rho[0],
            [L for L, _ in cells],
            generator_of(seed, "turned", device),
            horizon=horizon,
            num_seeds=1,
            step_fraction=2 * cfg.step_fraction,
            batches=lambda _: (sxx, syx),
            basis=duals,
            gain=nets.column_gain,
        )
        ratio[o] = noisy_over_clean(sim.own_critical(cfg.fraction)).reshape(len(cfg.shallow_depths), -1)  # [L, angle]
    at = cfg.shallow_depths.index(2), cfg.angles.index(20.0)
    return Outcome({"ratio": ratio}, {"ext-noncommuting": (float(ratio["jepa"][at]), 1.0)})


def ema_target(cfg: Config, seed: int, device: str = "cpu") -> Outcome:
    """Extension: the JEPA target is an EMA encoder; all memories and depths in one tensor, population descent."""
    views = Views(*features(TEMPORAL, device))
    cells = [(L, memory) for L in cfg.shallow_depths for memory in cfg.ema_memories]
    clean = {
        L: float(theory.critical_time("jepa", views.lam, views.rho, L, cfg.eps, cfg.fraction)[0]) / L
        for L in cfg.shallow_depths
    }
    depths = [L for L, _ in cells]
    horizon = [3 * h for h in nets.horizons("jepa", views.lam, views.rho, depths, cfg.eps, 0.98)]
    sim = _simulate(
        cfg,
        "jepa",
        views.lam,
        views.rho,
        depths,
        generator_of(seed, "ema", device),
        num_seeds=1,
        horizon=horizon,
        step_fraction=2 * cfg.step_fraction,
        ema_memory=[memory * clean[L] for L, memory in cells],
    )
    ratio = noisy_over_clean(sim.critical).reshape(len(cfg.shallow_depths), -1)  # [L, memory]
    short, long = (float(ratio[cfg.shallow_depths.index(2), cfg.ema_memories.index(m)]) for m in (0.01, 0.1))
    return Outcome({"ratio": ratio}, {"ext-ema-short": (short, 1.0), "ext-ema-long": (long, 1.0)})


def relu_encoder(cfg: Config, seed: int, device: str = "cpu") -> Outcome:
    """Extension: a two-layer ReLU encoder on the temporal model, minibatch SGD, random start."""
    views, gain, times = Views(*features(TEMPORAL, device)), {}, {}
    for o, step_size, num_steps in (("jepa", 0.1, cfg.relu_steps), ("mae", 0.05, cfg.relu_steps // 6)):
        times[o], gain[o] = train_relu(
            o,
            views,
            depth=2,
            hidden=cfg.relu_hidden,
            eps=cfg.eps,
            num_seeds=cfg.num_seeds,
            batch_size=cfg.relu_batch,
            step_size=step_size,
            num_steps=num_steps,
            num_records=100,
            generator=generator_of(seed, "relu", device),
        )
    share = {o: (g[..., 3:].mean((1, 2)) / g[..., :3].mean((1, 2))) for o, g in gain.items()}  # [T], over all seeds
    return Outcome(
        {"times": times, "gain": gain, "share": share}, {"ext-relu": tuple(float(share[o].max()) for o in OBJECTIVES)}
    )


def patches(cfg: Config, seed: int, images: Tensor) -> Outcome:
    """Extension, real data: two views of image patches under column banding; another set of patches for every seed."""
    generator, depths = generator_of(seed, "patches", str(images.device)), cfg.shallow_depths
    moments = banded_patches(images, cfg.num_seeds, cfg.num_patches, generator, band_std=cfg.band_std)
    lam, rho, duals = (x.flip(-1) for x in theory.generalised_features(*moments))  # [S, D]: clean first
    batches: Callable = lambda s: (moments[0][s], moments[1][s])
    critical, predicted = {}, {}
    for o in OBJECTIVES:
        horizon = [1.5 * h for h in nets.horizons(o, lam.mean(0), rho.mean(0), depths, cfg.eps, 0.98)]
        sim = _simulate(
            cfg,
            o,
            lam.mean(0),
            rho.mean(0),
            depths,
            generator,
            horizon=horizon,
            batches=batches,
            basis=duals.repeat(len(depths), 1, 1),
            gain=nets.column_gain,
        )
        critical[o] = sim.own_critical(cfg.fraction)  # [L, S, D]
        predicted[o] = torch.stack(
            [theory.critical_time(o, lam.mean(0), rho.mean(0), L, cfg.eps, cfg.fraction) / L for L in depths]
        )
    clash = (moments[0] @ moments[1] - moments[1] @ moments[0]).norm(dim=(1, 2)) / (moments[0] @ moments[1]).norm(
        dim=(1, 2)
    )
    ratio = {o: noisy_over_clean(t) for o, t in critical.items()}  # [L, S]
    return Outcome(
        {"lam": lam, "rho": rho, "critical": critical, "predicted": predicted, "ratio": ratio, "commutator": clash},
        {"ext-patches": (float(ratio["jepa"][depths.index(2)].mean()), 1.0)},
    )


def breaks(cfg: Config) -> list[linear_breaks.Break]:
    """What breaks the story: five switches with their measured effects (no claims), at a step small enough for all."""
    pair, equal, views = features(PAIR), features(EQUAL_LAM), Views(*features(TEMPORAL))
    return [
        linear_breaks.eps_too_large(*pair, 4, 1e-3),
        linear_breaks.shallow(views, cfg.eps),
        linear_breaks.predictor_scale(*equal, cfg.eps, 0.05),
        linear_breaks.no_stop_gradient(*equal, generator_of(0, "breaks")),
        linear_breaks.small_batches(views, cfg.eps, 0.08),
    ]
