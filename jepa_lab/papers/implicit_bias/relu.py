"""A ReLU encoder instead of the linear one: does the order of learning survive? Our extension, not the paper's.

Shapes: `S` seeds, `B` samples, `D` input width, `H` hidden width, `T` recorded times. Float64, all seeds in one batch.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from jepa_lab.papers.implicit_bias.pairs import Views
from jepa_lab.papers.implicit_bias.theory import Objective


def encode(layers: list[Tensor], x: Tensor) -> Tensor:
    """W^L relu(... relu(W^1 x)) for x Float[S, B, D] or [1, B, D]."""
    for w in layers[:-1]:
        x = torch.relu(x @ w.mT)
    return x @ layers[-1].mT


def linear_gain(layers: list[Tensor], views: Views, x: Float[Tensor, "#S B D"]) -> Float[Tensor, "S D"]:
    """||E[f(x) x_i]|| / var(x_i): how strongly direction i enters the linear part of the code."""
    code = encode(layers, x)
    return (code.mT @ x / x.shape[-2] / (views.lam / views.rho)).norm(dim=-2)


def random_weights(depth: int, dim: int, hidden: int, eps: float, num_seeds: int, generator: Generator) -> list[Tensor]:
    """Small Gaussian weights [W^1 .. W^L, V], each with a leading axis of seeds, scaled as in the linear networks."""
    widths = [dim, *[hidden] * (depth - 1), dim, dim]
    weights = []
    for a in range(depth + 1):
        relu_below = 0 < a < depth  # a ReLU halves the variance, hence the 2
        gain = eps ** (1 / depth) * (2.0 if relu_below else 1.0) ** 0.5
        shape = (num_seeds, widths[a + 1], widths[a])
        normals = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
        weights.append((gain * normals / widths[a] ** 0.5).requires_grad_())
    return weights


def descend_relu(
    objective: Objective,
    views: Views,
    *,
    depth: int,
    hidden: int,
    eps: float,
    num_seeds: int,
    batch_size: int,
    step_size: float,
    num_steps: int,
    num_records: int,
    generator: Generator,
) -> tuple[Float[Tensor, " T"], Float[Tensor, "T S D"]]:
    """Literal times and `linear_gain` of every seed under SGD on fresh batches, by autograd.

    Raises ValueError when training diverges.
    """
    weights = random_weights(depth, len(views.gamma), hidden, eps, num_seeds, generator)
    layers, predictor = weights[:-1], weights[-1]
    x_eval, _ = views.sample(1, 2048, generator)
    gains, every = [], max(1, num_steps // num_records)
    for step in range(num_steps + 1):
        if step % every == 0:
            with torch.no_grad():
                gains.append(linear_gain(layers, views, x_eval))
        x_SBD, y_SBD = views.sample(num_seeds, batch_size, generator)
        with torch.no_grad():
            target = encode(layers, y_SBD) if objective == "jepa" else y_SBD
        error = encode(layers, x_SBD) @ predictor.mT - target
        loss = 0.5 * error.square().sum(-1).mean(-1).sum()  # summed over seeds: each seed has its own gradient
        grads = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            torch._foreach_add_(weights, grads, alpha=-step_size)
    gain = torch.stack(gains)
    if not bool(torch.isfinite(gain).all()):
        raise ValueError(f"training diverged: step size {step_size:g} is unstable; take a smaller one")
    return torch.arange(len(gains), device=gain.device) * every * step_size, gain
