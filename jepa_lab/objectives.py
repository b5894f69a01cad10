"""What a JEPA minimises: predict the target encoder's latents of hidden tokens, and the variants that two papers use.

Shape suffixes: B batch, N tokens, P numbers per patch, C context tokens, M target blocks, K tokens per block, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_lab.encoders import encode_all
from jepa_lab.losses import gather_blocks, identity, normalise, smooth_l1
from jepa_lab.masks import Masks

Distance = Callable[[Tensor, Tensor], Tensor]
Norm = Callable[[Tensor], Tensor]
Samples = Float[Tensor, "B N P"] | tuple[Tensor, ...]  # patches, or what another token module takes


class JEPA(nn.Module):
    """Encoder, its EMA copy (`target_encoder`, never given gradients) and predictor."""

    def __init__(self, encoder: nn.Module, predictor: nn.Module):
        super().__init__()
        self.encoder, self.predictor = encoder, predictor
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)


def predict(model: nn.Module, samples: Samples, masks: Masks) -> Float[Tensor, "B M K D"]:
    """The predictor's latents of the target blocks, from the encoder's latents of the context."""
    return model.predictor(model.encoder(samples, masks.context_idx), masks)


@torch.no_grad()
def targets(
    model: nn.Module,
    samples: Samples,
    masks: Masks,
    norm: Norm = normalise,
    standardised: bool = False,
) -> Float[Tensor, "B M K D"]:
    """The target encoder's latents of the target blocks, without gradient (I-JEPA, section 3).

    The target encoder sees the whole sample; its *output* is masked. standardised: see `standardise`.
    """
    target_BND = norm(encode_all(model.target_encoder, samples))
    if standardised:
        target_BND = standardise(target_BND)
    return gather_blocks(target_BND, masks.target_idx)


def standardise(target_BND: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
    """Targets without the batch's mean at each position, scaled to a mean square of 1.

    The mean latent of a position says nothing about the sample; without it, all of the loss is about content.
    """
    centred_BND = target_BND - target_BND.mean(dim=0)
    return centred_BND / centred_BND.square().mean().sqrt().clamp_min(1e-3)


def jepa_objective(
    model: nn.Module,
    samples: Samples,
    masks: Masks,
    *,
    distance: Distance = smooth_l1,
    norm: Norm = normalise,
    standardised: bool = False,
) -> Float[Tensor, ""]:
    """I-JEPA (Assran et al. 2023, section 3): distance of the prediction from the EMA encoder's latents."""
    target_BMKD = targets(model, samples, masks, norm, standardised)
    return distance(predict(model, samples, masks), target_BMKD)


def reconstruction_objective(
    model: nn.Module, patches_BNP: Float[Tensor, "B N P"], masks: Masks, *, distance: Distance = smooth_l1
) -> Float[Tensor, ""]:
    """Masked auto-encoder (He et al. 2022): distance of the prediction from the hidden patches themselves."""
    return distance(predict(model, patches_BNP, masks), gather_blocks(patches_BNP, masks.target_idx))


def self_target_objective(
    model: nn.Module,
    samples: Samples,
    masks: Masks,
    *,
    distance: Distance = smooth_l1,
    norm: Norm = identity,
) -> Float[Tensor, ""]:
    """No EMA and no stop-gradient: the encoder provides its own targets and is trained through them."""
    target_BMKD = gather_blocks(norm(model.encoder(samples)), masks.target_idx)
    return distance(predict(model, samples, masks), target_BMKD)
