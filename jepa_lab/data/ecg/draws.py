"""Random numbers for the simulator, float64, from NumPy's PCG64 (an integer generator, equal on every processor).

A later NumPy may draw other normal numbers from it; then the sha256 stored with the tests no longer holds.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def seeded(seed: int) -> np.random.Generator:
    """A new generator that starts from `seed`."""
    return np.random.Generator(np.random.PCG64(seed))


def normal(generator: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.from_numpy(generator.standard_normal(shape))


def uniform(generator: np.random.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Numbers between `low` and `high`."""
    return low + (high - low) * torch.from_numpy(generator.random(shape))


def spread(generator: np.random.Generator, median: float, sigma: float, *shape: int) -> Tensor:
    """Log-normal numbers: a `sigma` of 0.3 means about +-30 % around the median."""
    return median * (sigma * normal(generator, *shape)).exp()
