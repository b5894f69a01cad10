"""Deep linear JEPA and MAE as matrices, many networks in one batched tensor, with gradients written by hand.

Shapes: `R` runs (any mixture of objective, depth and seed), `D` input width, which is the number of features. Networks
of different depth share a tensor: above its own depth a network has identity layers that never change. Everything is
float64 and lives on the device of its inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from jepa_lab.papers.implicit_bias.pairs import Moments


@dataclass(frozen=True)
class Nets:
    """R pairs of encoder Wbar = W^L ... W^1 and linear predictor V (MAE: decoder V). Square layers, no bias."""

    layers: tuple[Float[Tensor, "R D D"], ...]
    predictor: Float[Tensor, "R D D"]
    depth: Int[Tensor, " R"]
    jepa: Bool[Tensor, " R"]  # False: MAE


def balanced_init(
    jepa: Bool[Tensor, " R"],
    depth: Int[Tensor, " R"],
    seed: Int[Tensor, " R"],
    dim: int,
    eps: float,
    generator: Generator,
) -> Nets:
    """Littwin et al. Assumption 4.1: W^a = eps^(1/L) U_(a+1) U_a^T, orthogonal, end to end eps * I; V = eps^(1/L) I."""
    deepest = int(depth.max())
    turns, _ = torch.linalg.qr(_normals_per_seed(seed, deepest + 1, dim, generator))
    eye = torch.eye(dim, dtype=torch.float64, device=turns.device)
    layers = []
    for a in range(deepest):
        below = eye if a == 0 else turns[:, a].mT
        above = torch.where((a + 1 == depth)[:, None, None], eye, turns[:, a + 1])
        layers.append(above @ below)
    scale = (eps ** (1 / depth.double()))[:, None, None]
    return _with_identity_above(scale[:, None] * torch.stack(layers, 1), depth, jepa, scale * eye)


def random_init(
    jepa: Bool[Tensor, " R"],
    depth: Int[Tensor, " R"],
    seed: Int[Tensor, " R"],
    dim: int,
    eps: float,
    generator: Generator,
) -> Nets:
    """Gaussian weights of standard deviation eps^(1/L) / sqrt(D): neither balanced nor diagonal."""
    scale = (eps ** (1 / depth.double()))[:, None, None] / dim**0.5
    normals = _normals_per_seed(seed, int(depth.max()) + 1, dim, generator)
    return _with_identity_above(scale[:, None] * normals[:, 1:], depth, jepa, scale * normals[:, 0])


def _normals_per_seed(seed: Tensor, num: int, dim: int, generator: Generator) -> Float[Tensor, "R num D D"]:
    """Normal numbers, equal in all runs of one seed, so that the objectives and depths of a seed start alike."""
    shape = (int(seed.max()) + 1, num, dim, dim)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)[seed]


def _with_identity_above(layers: Float[Tensor, "R L D D"], depth: Tensor, jepa: Tensor, predictor: Tensor) -> Nets:
    """Nets with these layers, and the identity instead of every layer above a network's own depth."""
    eye = torch.eye(layers.shape[-1], dtype=layers.dtype, device=layers.device)
    kept = [torch.where((a < depth)[:, None, None], layers[:, a], eye) for a in range(layers.shape[1])]
    return Nets(tuple(kept), predictor, depth, jepa)


def products(layers: Sequence[Tensor]) -> list[Tensor]:
    """[W^1, W^2 W^1, ..., Wbar]."""
    below = [layers[0]]
    for w in layers[1:]:
        below.append(w @ below[-1])
    return below


def gradients(
    nets: Nets, moments: Moments, target: Float[Tensor, "R D D"] | None = None
) -> tuple[list[Tensor], Tensor]:
    """Littwin et al.'s two losses, gradients by hand: ([dL/dW^1 .. dL/dW^L], dL/dV).

    L_JEPA = 1/2 E||V Wbar x - SG(Wbar y)||^2 and L_MAE = 1/2 E||V Wbar x - y||^2 differ only in the map applied to y.
    Stop-gradient means that this map is not differentiated. `target` replaces Wbar in it (an EMA encoder).
    """
    sxx, syx = moments
    below = products(nets.layers)
    wbar = below[-1]
    eye = torch.eye(wbar.shape[-1], dtype=wbar.dtype, device=wbar.device)
    applied_to_y = torch.where(nets.jepa[:, None, None], wbar if target is None else target, eye)
    error = nets.predictor @ (wbar @ sxx) - applied_to_y @ syx
    back = nets.predictor.mT @ error  # dL/dWbar, then carried down layer by layer
    grads = []
    for a in range(len(nets.layers) - 1, 0, -1):
        grads.append(back @ below[a - 1].mT)
        back = nets.layers[a].mT @ back
    grads.append(back)
    return grads[::-1], error @ wbar.mT


def aligned_gain(wbar: Float[Tensor, "R D D"], basis: Float[Tensor, "*#R D D"]) -> Float[Tensor, "R D"]:
    """b_i^T Wbar b_i, the theory's wbar_i, for a start whose end-to-end map is diagonal in the basis."""
    return (basis * (wbar @ basis)).sum(-2)


def column_gain(wbar: Float[Tensor, "R D D"], basis: Float[Tensor, "*#R D D"]) -> Float[Tensor, "R D"]:
    """||Wbar b_i||: how strongly a feature enters the code, in whatever direction; for random starts."""
    return (wbar @ basis).norm(dim=-2)
