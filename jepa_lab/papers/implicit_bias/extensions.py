"""Our extensions of the paper: covariances that do not commute, an EMA target, a ReLU encoder, real patches.

Shape letters: `L` depths, `S` seeds of one run, `D` features, `T` recorded times. Critical times are written t*.
"""

import torch
from jaxtyping import UInt8
from torch import Tensor

from jepa_lab.experiment import Measured
from jepa_lab.papers.implicit_bias import linear, nets, theory
from jepa_lab.papers.implicit_bias.experiments import exact_times, generator_of, noisy_over_clean, simulate
from jepa_lab.papers.implicit_bias.pairs import Moments, Views, banded_patches, rotate
from jepa_lab.papers.implicit_bias.paper import OBJECTIVES, TEMPORAL, Config, features
from jepa_lab.papers.implicit_bias.relu import descend_relu


def turned_covariances(cfg: Config, seed: int, device: str = "cpu") -> Measured:
    """Syx turned against Sxx, all angles and depths in one tensor, population descent.

    Features are generalised eigenvectors, clean ones (large rho) first; t* refers to each feature's own last gain.
    """
    moments = Views(*features(TEMPORAL, device)).moments()
    cells = [(L, angle) for L in cfg.shallow_depths for angle in cfg.angles]
    depths = [L for L, _ in cells]
    sxx, syx = (torch.stack(both) for both in zip(*(rotate(moments, angle) for _, angle in cells)))
    lam, rho, duals = (x.flip(-1) for x in theory.generalised_features(sxx, syx))  # [cells, D], duals [cells, D, D]
    ratio = {}
    for o in OBJECTIVES:
        full = [nets.horizons(o, lam[i], rho[i], (L,), cfg.eps, 0.98)[0] for i, L in enumerate(depths)]
        sim = simulate(
            cfg,
            o,
            lam[0],
            rho[0],
            depths,
            generator_of(seed, "turned", device),
            horizon=[1.5 * time for time in full],
            num_seeds=1,
            step_fraction=2 * cfg.step_fraction,
            batches=lambda _: (sxx, syx),
            basis=duals,
            gain=linear.column_gain,
        )
        ratio[o] = noisy_over_clean(sim.own_critical(cfg.fraction)).reshape(len(cfg.shallow_depths), -1)  # [L, angle]
    measured = ratio["jepa"][cfg.shallow_depths.index(2), cfg.angles.index(20.0)]
    return Measured(claims={"ext-noncommuting": (float(measured), 1.0)}, data={"ratio": ratio})


def ema_target(cfg: Config, seed: int, device: str = "cpu") -> Measured:
    """The JEPA target is an EMA encoder; all memories and depths in one tensor, population descent."""
    views = Views(*features(TEMPORAL, device))
    times = exact_times("jepa", views.lam, views.rho, cfg.shallow_depths, cfg.eps, cfg.fraction)
    clean = {L: float(times[i, 0]) / L for i, L in enumerate(cfg.shallow_depths)}  # literal t* of the cleanest feature
    cells = [(L, memory) for L in cfg.shallow_depths for memory in cfg.ema_memories]
    depths = [L for L, _ in cells]
    sim = simulate(
        cfg,
        "jepa",
        views.lam,
        views.rho,
        depths,
        generator_of(seed, "ema", device),
        num_seeds=1,
        horizon=[3 * time for time in nets.horizons("jepa", views.lam, views.rho, depths, cfg.eps, 0.98)],
        step_fraction=2 * cfg.step_fraction,
        ema_memory=[memory * clean[L] for L, memory in cells],
    )
    ratio = noisy_over_clean(sim.critical).reshape(len(cfg.shallow_depths), -1)  # [L, memory]
    at_depth_2 = dict(zip(cfg.ema_memories, ratio[cfg.shallow_depths.index(2)].tolist()))
    claims = {"ext-ema-short": (at_depth_2[0.01], 1.0), "ext-ema-long": (at_depth_2[0.1], 1.0)}
    return Measured(claims=claims, data={"ratio": ratio})


def relu_encoder(cfg: Config, seed: int, device: str = "cpu") -> Measured:
    """A two-layer ReLU encoder on the temporal model, minibatch SGD, random start."""
    views = Views(*features(TEMPORAL, device))
    gain, times, share = {}, {}, {}
    for o, step_size, num_steps in (("jepa", 0.1, cfg.relu_steps), ("mae", 0.05, cfg.relu_steps // 6)):
        times[o], gain[o] = descend_relu(
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
        share[o] = gain[o][..., 3:].mean((1, 2)) / gain[o][..., :3].mean((1, 2))  # [T], over all seeds
    peaks = float(share["jepa"].max()), float(share["mae"].max())
    return Measured(claims={"ext-relu": peaks}, data={"times": times, "gain": gain, "share": share})


def patches(cfg: Config, seed: int, images: UInt8[Tensor, "n H W"]) -> Measured:
    """Real data: two views of image patches under column banding; another set of patches for every seed."""
    generator, depths = generator_of(seed, "patches", str(images.device)), cfg.shallow_depths
    moments = banded_patches(images, cfg.num_seeds, cfg.num_patches, generator, band_std=cfg.band_std)
    lam, rho, duals = (x.flip(-1) for x in theory.generalised_features(*moments))  # [S, D]: clean first
    mean_lam, mean_rho = lam.mean(0), rho.mean(0)
    critical, predicted, ratio = {}, {}, {}
    for o in OBJECTIVES:
        sim = simulate(
            cfg,
            o,
            mean_lam,
            mean_rho,
            depths,
            generator,
            horizon=[1.5 * time for time in nets.horizons(o, mean_lam, mean_rho, depths, cfg.eps, 0.98)],
            batches=lambda run_seed: (moments[0][run_seed], moments[1][run_seed]),
            basis=duals.repeat(len(depths), 1, 1),
            gain=linear.column_gain,
        )
        critical[o] = sim.own_critical(cfg.fraction)  # [L, S, D], literal time
        exact = exact_times(o, mean_lam, mean_rho, depths, cfg.eps, cfg.fraction)
        predicted[o] = exact / torch.tensor(depths, device=exact.device)[:, None]
        ratio[o] = noisy_over_clean(critical[o])  # [L, S]
    variance = (lam / rho).mean(0)
    data = {
        "lam": lam,
        "rho": rho,
        "critical": critical,
        "predicted": predicted,
        "ratio": ratio,
        "commutator": _commutator(moments),
        "variance_ratio": float(variance[3:].mean() / variance[:3].mean()),
    }
    return Measured(claims={"ext-patches": (float(ratio["jepa"][depths.index(2)].mean()), 1.0)}, data=data)


def _commutator(moments: Moments) -> Tensor:
    """Size of Sxx Syx - Syx Sxx relative to Sxx Syx, Float[S]."""
    sxx, syx = moments
    return (sxx @ syx - syx @ sxx).norm(dim=(1, 2)) / (sxx @ syx).norm(dim=(1, 2))
