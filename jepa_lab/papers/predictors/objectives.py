"""The objectives that chapter 02 alone uses: a contrast between images, and a regulariser instead of EMA and
stop-gradient. Shape letters: B batch, N tokens, P pixels per patch, M target blocks, K tokens per block, D width, n
rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from jepa_lab import losses
from jepa_lab.losses import gather_blocks, smooth_l1
from jepa_lab.masks import Masks
from jepa_lab.objectives import predict


def contrast(pred_BMKD: Float[Tensor, "B M K D"], target_BMKD: Float[Tensor, "B M K D"]) -> Float[Tensor, ""]:
    """InfoNCE between images: one row per image, the mean over its hidden tokens.

    With one row per token, other tokens of the same image would count as negatives.
    """
    pred_BD = reduce(pred_BMKD.float(), "b m k d -> b d", "mean")
    target_BD = reduce(target_BMKD.float(), "b m k d -> b d", "mean")
    return losses.info_nce(pred_BD, target_BD)


def regularised_objective(
    model: nn.Module,
    patches_BNP: Float[Tensor, "B N P"],
    masks: Masks,
    *,
    regulariser: Callable[[Tensor], Tensor],
) -> Float[Tensor, ""]:
    """Prediction error plus a term on the latents of all tokens, one row each, that makes a constant expensive.

    One encoder, gradients everywhere, no normalisation of the targets.
    """
    tokens_BND = model.encoder(patches_BNP)
    spread = regulariser(rearrange(tokens_BND, "b n d -> (b n) d"))
    return smooth_l1(predict(model, patches_BNP, masks), gather_blocks(tokens_BND, masks.target_idx)) + spread


def sigreg_term(z_nD: Float[Tensor, "n D"], *, weight: float, directions_DS: Float[Tensor, "D S"]) -> Float[Tensor, ""]:
    """Weighted SIGReg along given directions, the same at every step (LeJEPA draws new ones each step)."""
    return weight * losses.sigreg(z_nD, directions_DS=directions_DS.to(z_nD.device))


def random_directions(width: int, device: torch.device | str = "cpu") -> Float[Tensor, "D S"]:
    """Twice as many directions as there are dimensions, drawn from seed 0."""
    return torch.randn(width, 2 * width, generator=torch.Generator().manual_seed(0)).to(device)


def vicreg_term(z_nD: Float[Tensor, "n D"], *, weights: tuple[float, float]) -> Float[Tensor, ""]:
    """VICReg's variance and covariance terms, weighted (Bardes et al. 2022, eq. 6)."""
    variance_weight, covariance_weight = weights
    return variance_weight * losses.variance(z_nD) + covariance_weight * losses.covariance(z_nD)
