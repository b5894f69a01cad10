"""The L-BFGS solver of all logistic regressions, and the scaling of features that makes it fast.

`papers.ecg_jepa.multilabel` fits yes-or-no labels with `minimise`, `linear` and `few_labels` fit classes.

Shapes: n samples, D width, C classes, S problems solved at once, m samples in each, K principal axes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Integer
from torch import Tensor

LossAndGradients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def statistics(x_nD: Float[Tensor, "n D"]) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """Mean and standard deviation of each feature; a constant feature gets 1, so that it becomes zero and not NaN."""
    std_D, mean_D = torch.std_mean(x_nD, dim=0, correction=0)
    return mean_D, torch.where(std_D > 1e-6 * mean_D.abs().clamp_min(1e-30), std_D, 1.0)


def principal_axes(z_nD: Float[Tensor, "n D"]) -> tuple[Float[Tensor, " K"], Float[Tensor, "D K"]]:
    """Variance along each principal axis of standardised features, and the axes themselves as columns.

    Solved on the CPU: the matrix is small, and Apple's GPU has no eigenvalue solver.
    """
    variance_K, axes_DK = torch.linalg.eigh((z_nD.mT @ z_nD / len(z_nD)).cpu())
    return variance_K.clamp_min(0).to(z_nD.device), axes_DK.to(z_nD.device)


@torch.no_grad()
def minimise(
    loss: LossAndGradients,
    start: tuple[Tensor, Tensor],
    scale: tuple[Tensor | float, Tensor | float],
    tolerance: float,
    max_iter: int = 150,
) -> tuple[Tensor, Tensor]:
    """Weight and bias that minimise `loss`, by full-batch L-BFGS from `start`.

    `loss(weight, bias)` returns its value and its gradients for weight and bias; they are given by hand, since callers
    turn autograd off. The solver works on weight / scale and bias / scale: with a scale of about curvature^-1/2 the
    problem is almost round. It stops when no gradient of the scaled numbers exceeds `tolerance`.
    """
    u, b = start[0] / scale[0], start[1] / scale[1]
    optimizer = torch.optim.LBFGS(
        [u, b],
        max_iter=max_iter,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def scaled_loss() -> Tensor:
        value, weight_grad, bias_grad = loss(u * scale[0], b * scale[1])
        u.grad, b.grad = weight_grad * scale[0], bias_grad * scale[1]
        return value

    optimizer.step(scaled_loss)
    return u * scale[0], b * scale[1]


def zero_start(
    z_nK: Float[Tensor, "n K"], problems: int, num_classes: int
) -> tuple[Float[Tensor, "S C K"], Float[Tensor, "S C 1"]]:
    """Weight and bias of `solve_classes` before the first step."""
    return z_nK.new_zeros(problems, num_classes, z_nK.shape[1]), z_nK.new_zeros(problems, num_classes, 1)


def solve_classes(
    z_SmK: Float[Tensor, "S m K"],
    y_Sm: Integer[Tensor, "S m"],
    variance_K: Float[Tensor, " K"],
    start: tuple[Float[Tensor, "S C K"], Float[Tensor, "S C 1"]],
    l2: float,
    tolerance: float,
) -> tuple[Float[Tensor, "S C K"], Float[Tensor, "S C 1"]]:
    """Multinomial logistic regression of S independent problems at once: minimises mean log-loss + l2 / 2 |weight|^2.

    The features lie along their principal axes, of variance `variance_K`. Classes come before samples: on one core
    softmax and products over [C, m] take 1/4 to 1/40 of the time of those over [m, C].
    """
    num_samples, num_classes = y_Sm.shape[1], start[0].shape[1]
    onehot_SCm = rearrange(F.one_hot(y_Sm.long(), num_classes).to(z_SmK.dtype), "S m C -> S C m").contiguous()

    def loss(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logp_SCm = torch.log_softmax(weight @ z_SmK.mT + bias, dim=1)
        residual_SCm = logp_SCm.exp().sub_(onehot_SCm).div_(num_samples)
        value = 0.5 * l2 * weight.square().sum() - (logp_SCm * onehot_SCm).sum() / num_samples
        return value, residual_SCm @ z_SmK + l2 * weight, residual_SCm.sum(dim=2, keepdim=True)

    scale = (variance_K / num_classes + l2).rsqrt(), num_classes**0.5
    return minimise(loss, start, scale, tolerance)
