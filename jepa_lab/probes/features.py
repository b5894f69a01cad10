"""Frozen features of an encoder: what probes and the collapse panel read.

Shape suffixes: n samples, m samples of which views are drawn, q views of each, B batch, N tokens, P numbers per patch,
D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Generator, Tensor, nn

from jepa_lab.masks import Masks


@torch.no_grad()
def embed(
    encoder: nn.Module,
    patches: Shaped[Tensor, "n N P"],
    to_batch: Callable[[Tensor], Tensor],
    batch_size: int = 1000,
) -> Float[Tensor, "n D"]:
    """Frozen features: mean of the latents over the tokens."""
    parts = (to_batch(patches[i : i + batch_size]) for i in range(0, len(patches), batch_size))
    return torch.cat([encoder(part).mean(dim=1) for part in parts])


@torch.no_grad()
def visible_views(
    encoder: nn.Module,
    patches: Shaped[Tensor, "n N P"],
    to_batch: Callable[[Tensor], Tensor],
    sampler: Callable[[int, Generator], Masks],
    num_samples: int = 256,
    num_views: int = 4,
) -> Float[Tensor, "m q D"]:
    """Features of several partial views of each sample, for LiDAR: what masking leaves visible, drawn q times.

    Every call draws the same masks, from a generator of its own, so watching does not change the training.
    """
    batch_BNP = to_batch(patches[:num_samples]).repeat_interleave(num_views, dim=0)
    masks = sampler(len(batch_BNP), torch.Generator(patches.device).manual_seed(0))
    return rearrange(encoder(batch_BNP, masks.context_idx).mean(dim=1), "(n q) d -> n q d", q=num_views)
