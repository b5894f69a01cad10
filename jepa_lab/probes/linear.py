"""Linear probe: multinomial logistic regression on standardised features.

Shapes: n training samples, t test samples, D width, C classes, K principal axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from jepa_lab.probes.inputs import TestX, TestY, TrainX, TrainY, check, generator_or_default, require
from jepa_lab.probes.scores import Score, accuracy
from jepa_lab.probes.solver import principal_axes, solve_classes, statistics, zero_start

L2_GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # strong to weak, on mean log-loss and standardised features
HELD_OUT = 0.2  # share of the training set that chooses l2


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear map: ``(x - mean) / std @ weight + bias``, with the l2 chosen for it."""

    mean: Float[Tensor, " D"]
    std: Float[Tensor, " D"]
    weight: Float[Tensor, "D C"]
    bias: Float[Tensor, " C"]
    l2: float

    def __call__(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n C"]:
        return (x.float() - self.mean) / self.std @ self.weight + self.bias


def split(n: int, generator: Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random indices of the fitting and of the choosing part. Raises ValueError for fewer than 5 samples."""
    require(n >= 5, f"{n} training samples are too few to hold some out: give at least 5")
    order_n = torch.randperm(n, generator=generator, device=generator.device).to(device)
    held = round(HELD_OUT * n)
    return order_n[held:], order_n[:held]


@torch.no_grad()
def fit_linear(train_x: TrainX, train_y: TrainY, generator: Generator | None = None) -> LinearFit:
    """Multinomial logistic regression; l2 from L2_GRID by accuracy on a held-out fifth, ties to the stronger."""
    mean_D, std_D = statistics(train_x.float())
    z_nD = (train_x.float() - mean_D) / std_D
    variance_K, axes_DK = principal_axes(z_nD)
    z_nK, num_classes = z_nD @ axes_DK, int(train_y.max()) + 1
    fit_n, held_n = split(len(z_nK), generator_or_default(generator), z_nK.device)
    found, solution = [], zero_start(z_nK, 1, num_classes)
    for l2 in L2_GRID:  # each starts from the one before
        solution = solve_classes(z_nK[fit_n][None], train_y[fit_n][None], variance_K, solution, l2, tolerance=1e-3)
        weight, bias = solution
        is_right = (weight[0] @ z_nK[held_n].mT + bias[0]).argmax(dim=0) == train_y[held_n]
        found.append((int(is_right.sum()), l2, solution))
    _, l2, solution = max(found, key=lambda f: f[0])  # the first, strongest one of equals
    weight, bias = solve_classes(z_nK[None], train_y[None], variance_K, solution, l2, tolerance=1e-4)
    return LinearFit(mean_D, std_D, axes_DK @ weight[0].mT, bias[0, :, 0], l2)


@torch.no_grad()
def linear_probe(
    train_x: TrainX, train_y: TrainY, test_x: TestX, test_y: TestY, generator: Generator | None = None
) -> Score:
    """Accuracy of multinomial logistic regression on standardised features, Wilson interval."""
    check(train_x, train_y, test_x, test_y)
    fit = fit_linear(train_x, train_y, generator)
    return accuracy(fit(test_x).argmax(-1), test_y, fit.l2)
