"""Littwin et al. 2024, "How JEPA Avoids Noisy Features" (arXiv 2407.03475): settings and feature families. Chapter 10.

`theory` holds the equations, `linear` and `nets` the networks, `pairs` the data, `experiments` what the paper claims,
`extensions` what we added. The paper's own figure grids could not be read: all families below are our proposals.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_lab import configs, runtime
from jepa_lab.papers.implicit_bias.claims import CHAPTER, CLAIMS
from jepa_lab.papers.implicit_bias.theory import Objective

__all__ = ["CHAPTER", "CLAIMS", "Config", "preset"]

OBJECTIVES: tuple[Objective, ...] = ("jepa", "mae")

# families of features by lam and rho, one entry per feature
EQUAL_LAM = ((1.0, 1.0, 1.0, 1.0), (0.5, 0.65, 0.8, 0.95))
INVERTED = (tuple(0.8 + 0.2 * i / 7 for i in range(8)), tuple(1.2 - 0.6 * i / 7 for i in range(8)))
PAIR = ((1.0, 0.6), (0.4, 0.9))  # a noisy feature of large lam, a clean one of smaller lam

# families by gamma, signal variance and noise variance; the first three are clean, the last three noisy and stronger
TEMPORAL = ((0.95, 0.9, 0.85, 0.9, 0.9, 0.9), (1.0, 1.0, 1.0, 1.2, 1.2, 1.2), (0.05, 0.05, 0.05, 2.0, 2.0, 2.0))
STATIC = ((1.0,) * 6, (0.95, 0.95, 0.95, 1.1, 1.1, 1.1), (0.1, 0.1, 0.1, 2.2, 2.2, 2.2))


@dataclass(frozen=True)
class Config:
    """All settings of a run. Times are literal gradient-flow time; step sizes and horizons follow from the theory."""

    eps: float = 1e-2  # end-to-end gain at the start, of every matrix simulation
    fraction: float = 0.5  # p: a feature counts as learned at this share of its fixed point
    depths: tuple[int, ...] = (1, 2, 3)  # of the matrix simulations
    step_fraction: float = 0.04  # step size * fastest contraction rate; 2 is the edge of stability
    num_seeds: int = 10  # within one run, in one tensor
    batch_size: int = 256  # of minibatch SGD
    num_records: int = 500  # recorded points of a trajectory
    sweep_depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6)  # theory only
    sweep_eps: float = 1e-3
    formula_depths: tuple[int, ...] = (1, 2, 3, 4, 5)
    formula_eps: float = 1e-4
    inversion_depth: int = 4
    small_eps: float = 1e-6
    shallow_depths: tuple[int, ...] = (1, 2)  # of random starts and extensions
    random_seeds: int = 32  # random starts scatter more
    horizon_factor: float = 4.0  # of random starts, in ideal critical times of the best feature
    angles: tuple[float, ...] = (0.0, 10.0, 20.0, 30.0, 45.0)  # degrees between the bases of Sxx and Syx
    ema_memories: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3)  # in critical times of the cleanest feature
    relu_hidden: int = 32
    relu_batch: int = 64
    relu_steps: int = 3600  # of JEPA; MAE needs a sixth of them
    num_patches: int = 4000  # per seed
    band_std: float = 1.0  # of a column's offset; a patch has standard deviation 1


def preset(name: str, **overrides) -> Config:
    """The config of a preset: smoke, laptop, gpu or paper. Unknown names and unknown overrides raise ValueError."""
    return configs.choose(
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


def features(family: tuple[tuple[float, ...], ...], device: str = "cpu") -> tuple[Tensor, ...]:
    """The rows of a family as float64 tensors, Float[D] each."""
    return tuple(torch.tensor(row, dtype=torch.float64, device=device) for row in family)


def choose_device(device: str = "auto") -> str:
    """As `runtime.choose_device`; but "auto" skips Apple's GPU, which has no float64, and "mps" raises ValueError."""
    if device == "mps":
        raise ValueError("this chapter computes in float64, which Apple's GPU (mps) does not have: choose cpu")
    chosen = runtime.choose_device(device)
    return "cpu" if device == "auto" and chosen == "mps" else chosen
