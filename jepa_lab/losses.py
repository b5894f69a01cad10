"""How far is a prediction from its target, and what is the target?

Shape suffixes: B batch, N tokens, M target blocks, K tokens per block, D width.
"""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def smooth_l1(pred: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Smooth L1 with beta 1, mean over every element, in float32: I-JEPA's code (its paper writes a squared L2)."""
    return F.smooth_l1_loss(pred.float(), target.float())


def normalise(latents: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
    """LayerNorm over the width without learned scale, in float32; without it the scale of the targets drifts."""
    return F.layer_norm(latents.float(), latents.shape[-1:], eps=1e-6)


def gather_blocks(tokens_BND: Float[Tensor, "B N D"], idx_BMK: Int[Tensor, "B M K"]) -> Float[Tensor, "B M K D"]:
    """The tokens of every target block."""
    flat_BTD = tokens_BND.take_along_dim(rearrange(idx_BMK, "b m k -> b (m k) 1"), dim=1)
    return rearrange(flat_BTD, "b (m k) d -> b m k d", m=idx_BMK.shape[1])
