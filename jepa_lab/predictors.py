"""Context latents and positions in, predicted latents out.

Shape suffixes: B batch, C context tokens, M target blocks, K tokens per block, S tokens read, Q tokens predicted,
H heads, D encoder width, P predictor width (inside `attend` the width of a head), E predicted width.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_lab.encoders import init_linear, position_code, transformer
from jepa_lab.masks import Masks


class Predictor(nn.Module):
    """Narrow transformer that predicts every target block from the same context (I-JEPA, section 3).

    Each block is predicted on its own: one block's mask tokens never see another's. All blocks share one call, because
    they are folded into the batch. `out_dim` differs from `width_in` only when pixels are predicted.
    """

    def __init__(self, grid: tuple[int, ...], width_in: int, width: int, depth: int, heads: int, out_dim: int):
        super().__init__()
        self.grid = grid
        self.embed = nn.Linear(width_in, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.register_buffer("position_NP", position_code(grid, width), persistent=False)
        self.blocks = transformer(width, depth, heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, out_dim)
        init_linear(self.embed)
        init_linear(self.out)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, context_BCD: Float[Tensor, "B C D"], masks: Masks) -> Float[Tensor, "B M K E"]:
        """Predictions for `masks.target_idx` from the latents at `masks.context_idx`.

        Raises ValueError when latents and masks do not belong together, or masks are of another grid.
        """
        _check_context(context_BCD, masks, self.grid, self.embed.in_features)
        num_blocks, num_context = masks.target_idx.shape[1], context_BCD.shape[1]
        context_BCP = self.embed(context_BCD) + self.position_NP[masks.context_idx]
        query_BMKP = (self.mask_token + self.position_NP[masks.target_idx]).to(context_BCP.dtype)
        tokens = torch.cat(
            [
                repeat(context_BCP, "b c p -> (b m) c p", m=num_blocks),
                rearrange(query_BMKP, "b m k p -> (b m) k p"),
            ],
            dim=1,
        )
        *blocks, last = self.blocks
        for block in blocks:
            tokens = block(tokens)
        hidden = self.norm(read_out(last, tokens, num_context))
        return rearrange(self.out(hidden), "(b m) k e -> b m k e", m=num_blocks)


def read_out(block: nn.Module, x_BSP: Float[Tensor, "B S P"], first: int) -> Float[Tensor, "B Q P"]:
    """Output of a timm block at tokens[first:] alone. The tokens before serve as keys and values and get no output."""
    attn, heads = block.attn, block.attn.num_heads
    seen_BSP = block.norm1(x_BSP)
    parts = [attn.qkv.in_features, 2 * attn.qkv.in_features]
    query_weight, key_value_weight = attn.qkv.weight.split(parts)
    query_bias, key_value_bias = attn.qkv.bias.split(parts)
    q = rearrange(F.linear(seen_BSP[:, first:], query_weight, query_bias), "b q (h p) -> b h q p", h=heads)
    key_value = F.linear(seen_BSP, key_value_weight, key_value_bias)
    k, v = rearrange(key_value, "b s (two h p) -> two b h s p", two=2, h=heads)
    mixed_BQP = rearrange(attend(q, k, v, attn.fused_attn), "b h q p -> b q (h p)")
    x_BQP = x_BSP[:, first:] + attn.proj(mixed_BQP)
    return x_BQP + block.mlp(block.norm2(x_BQP))


def attend(
    q: Float[Tensor, "B H Q P"], k: Float[Tensor, "B H S P"], v: Float[Tensor, "B H S P"], fused: bool
) -> Float[Tensor, "B H Q P"]:
    """softmax(q k / sqrt(P)) v, by the fused kernel or by plain products (see `runtime.choose_attention`)."""
    if fused:
        return F.scaled_dot_product_attention(q, k, v)
    return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1) @ v


def _check_context(context_BCD: Tensor, masks: Masks, grid: tuple[int, ...], width_in: int) -> None:
    """Raises ValueError where indexing would go astray or torch would broadcast."""
    if masks.grid != grid:
        raise ValueError(f"masks of grid {masks.grid} in a predictor of grid {grid}; build both for one grid")
    wanted = [*masks.context_idx.shape, width_in]
    if list(context_BCD.shape) != wanted:
        raise ValueError(f"expected latents {wanted} at the tokens of masks.context_idx, got {list(context_BCD.shape)}")
