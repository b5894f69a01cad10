"""How far is a prediction from its target, what is the target, and what keeps latents from collapsing?

Every loss is a 0-d float32 tensor and is computed in float32, also under autocast.
Shape suffixes: B batch, N tokens, M target blocks, K tokens per block, n rows (samples or tokens), D width, S slices,
T quadrature nodes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from jepa_lab import distributed

# Distance of a prediction from its target


def smooth_l1(pred: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Smooth L1 with beta 1, mean over every element: I-JEPA's code (its paper writes a squared L2)."""
    return F.smooth_l1_loss(*_pair(pred, target))


def l1(pred: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean absolute difference over every element (V-JEPA, ACT-JEPA)."""
    return F.l1_loss(*_pair(pred, target))


def l2(pred: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean squared difference over every element (I-JEPA section 3 "Loss", which sums over the width)."""
    return F.mse_loss(*_pair(pred, target))


def cosine_distance(pred: Float[Tensor, "*shape D"], target: Float[Tensor, "*shape D"]) -> Float[Tensor, ""]:
    """1 - mean cosine similarity along the last axis: 0 when every pair points one way, 2 when opposite (seq-JEPA)."""
    return 1 - F.cosine_similarity(*_pair(pred, target), dim=-1).mean()


def info_nce(
    pred_nD: Float[Tensor, "n D"], target_nD: Float[Tensor, "n D"], temperature: float = 0.1
) -> Float[Tensor, ""]:
    """InfoNCE (van den Oord et al. 2018, eq. 4) on cosine similarities: which of the n targets belongs to a prediction?

    Row i of `pred_nD` and row i of `target_nD` are a pair; the other targets of the batch are negatives. The loss lies
    between ln(n) (pure chance) and 0. Tokens of overlapping blocks would be their own negatives: pool them, or pass one
    row per sample.
    Raises ValueError for fewer than two rows, other shapes or a temperature that is not positive.
    """
    _pair(pred_nD, target_nD)
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    pred_nD, target_nD = F.normalize(_rows(pred_nD), dim=1), F.normalize(_rows(target_nD), dim=1)
    with _no_autocast(pred_nD):
        similarity_nn = pred_nD @ target_nD.mT
    return F.cross_entropy(similarity_nn / temperature, torch.arange(len(pred_nD), device=pred_nD.device))


# What keeps latents from collapsing, on the rows of all processes together


def variance(z_nD: Float[Tensor, "n D"], floor: float = 1.0, eps: float = 1e-4) -> Float[Tensor, ""]:
    """VICReg eq. 1-2 (Bardes et al. 2022): mean over dimensions of max(0, floor - std).

    The variance divides by n - 1 as the covariance does. Raises ValueError for fewer than two rows.
    """
    std_D = (_rows(z_nD).var(dim=0) + eps).sqrt()
    return F.relu(floor - std_D).mean()


def covariance(z_nD: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """VICReg eq. 3-4 (Bardes et al. 2022): squared off-diagonal covariances, summed and divided by the width.

    Raises ValueError for fewer than two rows.
    """
    z_nD = _rows(z_nD)
    z_nD = z_nD - z_nD.mean(dim=0)
    with _no_autocast(z_nD):
        cov_DD = z_nD.mT @ z_nD / (len(z_nD) - 1)
    is_diagonal_DD = torch.eye(z_nD.shape[1], dtype=torch.bool, device=z_nD.device)
    return cov_DD.masked_fill(is_diagonal_DD, 0).square().sum() / z_nD.shape[1]


SIGREG_T_MAX, SIGREG_NODES = 3.0, 17  # quadrature of LeJEPA's code; the window leaves 0.3 % of its weight beyond 3


def sigreg(
    z_nD: Float[Tensor, "n D"],
    generator: Generator | None = None,
    directions_DS: Float[Tensor, "D S"] | None = None,
    num_slices: int = 256,
) -> Float[Tensor, ""]:
    """SIGReg of LeJEPA (Balestriero & LeCun 2025, arXiv 2511.08544): are the rows draws of a standard normal N(0, I)?

    Along each direction a of length one it takes the Epps-Pulley statistic of x = z a, and averages over directions:

        T(x) = n  integral of |phi_n(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt,    phi_n(t) = mean_i exp(i t x_i)

    over -3 < t < 3 by the trapezoidal rule. The integrand is even, so 17 nodes on [0, 3] count twice. For normal rows
    the expectation is 1.06 at any n, because the factor n cancels the sampling error; for other rows it grows with n.

    Give either `generator`, on the rows' device, for `num_slices` fresh directions (LeJEPA draws new ones every
    step), or `directions_DS` of any lengths. Processes must draw the same ones: seed their generators equally.
    Raises ValueError for fewer than two rows and for both or neither of the two.
    """
    z_nD = _rows(z_nD)
    if (generator is None) == (directions_DS is None):
        raise ValueError("sigreg needs either a generator or directions_DS, and not both")
    if directions_DS is None:
        directions_DS = torch.randn(z_nD.shape[1], num_slices, generator=generator, device=z_nD.device)
    width = z_nD.shape[1]
    if len(directions_DS) != width:
        raise ValueError(f"latents of width {width} need directions of width {width}, got {list(directions_DS.shape)}")
    with _no_autocast(z_nD):
        x_nS = z_nD @ F.normalize(directions_DS.float(), dim=0)
    t_T = torch.linspace(0, SIGREG_T_MAX, SIGREG_NODES, device=z_nD.device)
    normal_T = torch.exp(-t_T.square() / 2)
    angle_nST = x_nS[..., None] * t_T
    gap_ST = (angle_nST.cos().mean(dim=0) - normal_T).square() + angle_nST.sin().mean(dim=0).square()
    return len(z_nD) * 2 * torch.trapezoid(gap_ST * normal_T, t_T).mean()


# Targets


def normalise(latents: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
    """LayerNorm over the width without learned scale, in float32. Unnormalised targets drift in scale."""
    return F.layer_norm(latents.float(), latents.shape[-1:], eps=1e-6)


def identity(latents: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The latents as they are: the norm of objectives whose targets are not normalised."""
    return latents


def gather_blocks(tokens_BND: Float[Tensor, "B N D"], idx_BMK: Int[Tensor, "B M K"]) -> Float[Tensor, "B M K D"]:
    """The tokens of every target block. Raises RuntimeError for an index out of range."""
    idx_BTD = repeat(idx_BMK, "b m k -> b (m k) d", d=tokens_BND.shape[-1])
    flat_BTD = tokens_BND.gather(1, idx_BTD)  # take_along_dim would read index -1 as the last token
    return rearrange(flat_BTD, "b (m k) d -> b m k d", m=idx_BMK.shape[1])


def _pair(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32; raises ValueError where torch would broadcast."""
    if pred.shape != target.shape:
        raise ValueError(
            f"prediction {list(pred.shape)} and target {list(target.shape)} differ in shape; gather the same tokens"
        )
    return pred.float(), target.float()


def _rows(z_nD: Tensor) -> Tensor:
    """The rows of all processes in float32; raises ValueError when they are too few for statistics of a batch."""
    if z_nD.ndim != 2:
        raise ValueError(f"expected [rows, width], got {list(z_nD.shape)}; flatten or pool the tokens first")
    z_nD = distributed.gather(z_nD.float())
    if len(z_nD) < 2:
        raise ValueError(f"statistics over a batch need at least 2 rows, got {len(z_nD)}; use a larger batch")
    return z_nD


def _no_autocast(z: Tensor) -> AbstractContextManager:
    """A context without autocast, which would multiply float32 matrices in bfloat16; the meta device has none."""
    return nullcontext() if z.is_meta else torch.autocast(z.device.type, enabled=False)
