"""A measured number with its 95 % interval.

Shapes: n test samples, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from jepa_lab.claims import mean_and_half_width

Z95 = 1.959964


@dataclass(frozen=True)
class Score:
    """``value`` with its 95 % interval ``low`` .. ``high`` over ``n_test`` samples; ``l2`` None where there is none."""

    value: float
    low: float
    high: float
    n_test: int
    l2: float | None = None


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share ``correct / n``: never empty, never outside [0, 1]."""
    p, z = correct / n, Z95 / math.sqrt(n)
    centre, half = p + z * z / 2, z * math.sqrt(p * (1 - p) + z * z / 4)
    return max(0.0, (centre - half) / (1 + z * z)), min(1.0, (centre + half) / (1 + z * z))


def accuracy(pred_n: Tensor, test_y: Tensor, l2: float | None = None) -> Score:
    """Share of right predictions with its Wilson interval."""
    correct, n = int((pred_n == test_y).sum()), len(test_y)
    return Score(correct / n, *wilson(correct, n), n, l2)


def bootstrap(
    metric: Callable[[Tensor], Tensor],
    n: int,
    like: Tensor,
    generator: Generator,
    l2: float | None = None,
    resamples: int = 500,
) -> Score:
    """Percentile interval over test samples; ``metric`` maps weights [R, n] (how often each one is drawn) to [R]."""
    draws_Rn = torch.randint(n, (resamples, n), generator=generator, device=generator.device).to(like.device)
    weights_Rn = like.new_zeros(resamples, n).scatter_add_(1, draws_Rn, like.new_ones(1, 1).expand_as(draws_Rn))
    low, high = torch.nanquantile(metric(weights_Rn), like.new_tensor([0.025, 0.975])).tolist()
    return Score(float(metric(like.new_ones(1, n))), low, high, n, l2)


def over_draws(values: list[float], n_test: int, l2: float | None = None) -> Score:
    """Mean of two or more repeated measurements with its Student-t interval, cut to [0, 1]."""
    mean, half = mean_and_half_width(values)
    return Score(mean, max(0.0, mean - half), min(1.0, mean + half), n_test, l2)
