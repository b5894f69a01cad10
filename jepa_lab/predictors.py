"""Context latents and positions in, predicted target latents out.

Shape suffixes: B batch, C context tokens, M target blocks, K tokens per block, D encoder width, P predictor width.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepa_lab.encoders import init_linear, position_code, transformer
from jepa_lab.masks import Masks


class Predictor(nn.Module):
    """Narrow transformer that predicts every target block from the same context (I-JEPA, section 3).

    Each block is predicted on its own, so one block's mask tokens never see another's; the blocks share one call by
    being folded into the batch. `out_dim` differs from `width_in` only when pixels are predicted.
    """

    def __init__(self, grid: tuple[int, ...], width_in: int, width: int, depth: int, heads: int, out_dim: int):
        super().__init__()
        self.embed = nn.Linear(width_in, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.register_buffer("position_NP", position_code(grid, width), persistent=False)
        self.blocks = transformer(width, depth, heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, out_dim)
        init_linear(self.embed), init_linear(self.out)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, context_BCD: Float[Tensor, "B C D"], masks: Masks) -> Float[Tensor, "B M K E"]:
        """Predictions for `masks.target_idx` from the latents at `masks.context_idx`."""
        num_blocks, num_context = masks.target_idx.shape[1], context_BCD.shape[1]
        context_BCP = self.embed(context_BCD) + self.position_NP[masks.context_idx]
        query_BMKP = self.mask_token + self.position_NP[masks.target_idx]
        tokens = torch.cat(
            [
                repeat(context_BCP, "b c p -> (b m) c p", m=num_blocks),
                rearrange(query_BMKP.to(context_BCP.dtype), "b m k p -> (b m) k p"),
            ],
            dim=1,
        )
        hidden = self.norm(self.blocks(tokens)[:, num_context:])
        return rearrange(self.out(hidden), "(b m) k e -> b m k e", m=num_blocks)
