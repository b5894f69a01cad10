"""Context latents and positions (or actions) in, predicted latents out.

Shape suffixes: B batch, C context tokens, M target blocks, K tokens per block, Q = M K queries, T steps, A numbers per
action, D encoder width, P predictor width, E predicted width.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_lab.encoders import init_linear, position_code, require_heads, transformer
from jepa_lab.masks import Masks


class Predictor(nn.Module):
    """Narrow transformer that predicts every target block from the same context (I-JEPA, section 3).

    Each block is predicted on its own, so one block's mask tokens never see another's; the blocks share one call by
    being folded into the batch. `out_dim` differs from `width_in` only when pixels are predicted.
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
        init_linear(self.embed), init_linear(self.out)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, context_BCD: Float[Tensor, "B C D"], masks: Masks) -> Float[Tensor, "B M K E"]:
        """Predictions for `masks.target_idx` from the latents at `masks.context_idx`.

        Raises ValueError when latents and masks do not belong together, or masks are of another grid.
        """
        _check_context(context_BCD, masks, self.grid, self.embed.in_features)
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
        *blocks, last = self.blocks
        for block in blocks:
            tokens = block(tokens)
        hidden = self.norm(read_out(last, tokens, num_context))
        return rearrange(self.out(hidden), "(b m) k e -> b m k e", m=num_blocks)


def read_out(block: nn.Module, x_BSP: Float[Tensor, "B S P"], first: int) -> Float[Tensor, "B Q P"]:
    """What a timm block returns at the tokens from `first` on; nobody reads the others, so only their keys and values
    are computed.
    """
    attn, seen_BSP = block.attn, block.norm1(x_BSP)
    widths = [attn.qkv.in_features, 2 * attn.qkv.in_features]
    (query_weight, key_value_weight), (query_bias, key_value_bias) = (
        attn.qkv.weight.split(widths),
        attn.qkv.bias.split(widths),
    )
    q = rearrange(F.linear(seen_BSP[:, first:], query_weight, query_bias), "b q (h p) -> b h q p", h=attn.num_heads)
    k, v = rearrange(
        F.linear(seen_BSP, key_value_weight, key_value_bias), "b s (two h p) -> two b h s p", two=2, h=attn.num_heads
    )
    x_BQP = x_BSP[:, first:] + attn.proj(rearrange(attend(q, k, v, attn.fused_attn), "b h q p -> b q (h p)"))
    return x_BQP + block.mlp(block.norm2(x_BQP))


def attend(
    q: Float[Tensor, "B H Q P"], k: Float[Tensor, "B H S P"], v: Float[Tensor, "B H S P"], fused: bool
) -> Float[Tensor, "B H Q P"]:
    """softmax(q k / sqrt(P)) v by the fused kernel or by plain products, see `train.choose_attention`."""
    if fused:
        return F.scaled_dot_product_attention(q, k, v)
    return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1) @ v


class CrossPredictor(nn.Module):
    """The queries of all targets read the context by cross-attention; for the rest as `Predictor`.

    The context is embedded and normalised once, for all blocks of targets and all layers, where `Predictor` repeats
    it per block and recomputes it per layer. A query sees the context and itself alone, neither another block nor its
    own: what the decoders of Perceiver IO (Jaegle et al. 2022, section 3.2) and CrossMAE (Fu et al. 2024) do.
    """

    def __init__(self, grid: tuple[int, ...], width_in: int, width: int, depth: int, heads: int, out_dim: int):
        super().__init__()
        self.grid = grid
        self.embed = nn.Linear(width_in, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.register_buffer("position_NP", position_code(grid, width), persistent=False)
        self.context_norm = nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList(CrossBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, out_dim)
        self.apply(init_linear)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, context_BCD: Float[Tensor, "B C D"], masks: Masks) -> Float[Tensor, "B M K E"]:
        """Predictions for `masks.target_idx` from the latents at `masks.context_idx`; errors as in `Predictor`."""
        _check_context(context_BCD, masks, self.grid, self.embed.in_features)
        context_BCP = self.context_norm(self.embed(context_BCD) + self.position_NP[masks.context_idx])
        query_BQP = self.mask_token + self.position_NP[rearrange(masks.target_idx, "b m k -> b (m k)")]
        for block in self.blocks:
            query_BQP = block(query_BQP, context_BCP)
        return rearrange(self.out(self.norm(query_BQP)), "b (m k) e -> b m k e", m=masks.target_idx.shape[1])


class CrossBlock(nn.Module):
    """Pre-norm cross-attention and MLP (ratio 4, exact GELU), each added to its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        require_heads(width, heads)
        self.heads = heads
        self.fused_attn = True  # switched as in timm's blocks, see train.choose_attention
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.query, self.key_value, self.proj = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, query_BQP: Float[Tensor, "B Q P"], context_BCP: Float[Tensor, "B C P"]) -> Float[Tensor, "B Q P"]:
        """Queries after reading a context that is already normalised."""
        q = rearrange(self.query(self.norm1(query_BQP)), "b q (h p) -> b h q p", h=self.heads)
        k, v = rearrange(self.key_value(context_BCP), "b c (two h p) -> two b h c p", two=2, h=self.heads)
        query_BQP = query_BQP + self.proj(rearrange(attend(q, k, v, self.fused_attn), "b h q p -> b q (h p)"))
        return query_BQP + self.mlp(self.norm2(query_BQP))


class ActionPredictor(nn.Module):
    """The next latent of every step from all latents and actions so far: a causal transformer over (action, latent)
    pairs.

    From the interleaved tokens a_1 z_1 a_2 z_2 ... the output at z_t predicts z_(t+1), as in V-JEPA 2-AC (Assran et
    al. 2025, section 3), with one latent per step instead of a grid of them and no state of the robot. With a
    single step it has the part of seq-JEPA's predictor (Ghaemi et al. 2025): an aggregate state and the next action
    give the next latent; seq-JEPA's own is an MLP with BatchNorm on the two side by side.

    `num_steps` is the longest sequence. Standardise actions per parameter: they are embedded as they come.
    """

    def __init__(
        self, num_steps: int, width_in: int, action_dim: int, width: int, depth: int, heads: int, out_dim: int
    ):
        super().__init__()
        self.embed, self.embed_action = nn.Linear(width_in, width), nn.Linear(action_dim, width)
        self.register_buffer("position_TP", position_code((num_steps,), width), persistent=False)
        self.blocks = transformer(width, depth, heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.out = nn.Linear(width, out_dim)
        init_linear(self.embed), init_linear(self.embed_action), init_linear(self.out)

    def forward(
        self, latents_BTD: Float[Tensor, "B T D"], actions_BTA: Float[Tensor, "B T A"]
    ) -> Float[Tensor, "B T E"]:
        """Row t predicts latent t + 1 from latents and actions 1 .. t, where action t leads from latent t to t + 1.

        Raises ValueError when latents and actions differ in batch or steps, or do not fit the predictor.
        """
        num_steps, widths = len(self.position_TP), (self.embed.in_features, self.embed_action.in_features)
        if latents_BTD.shape[:-1] != actions_BTA.shape[:-1] or (latents_BTD.shape[-1], actions_BTA.shape[-1]) != widths:
            raise ValueError(
                f"expected latents [batch, steps, {widths[0]}] and actions [batch, steps, {widths[1]}], one action per "
                f"latent, got {list(latents_BTD.shape)} and {list(actions_BTA.shape)}"
            )
        if not 1 <= latents_BTD.shape[1] <= num_steps:
            raise ValueError(
                f"got {latents_BTD.shape[1]} steps, this predictor was made for 1 to {num_steps}; raise num_steps"
            )
        pairs = torch.stack([self.embed_action(actions_BTA), self.embed(latents_BTD)], dim=2)
        pairs = pairs + self.position_TP[: latents_BTD.shape[1], None]
        hidden = rearrange(pairs, "b t pair p -> b (t pair) p")
        for block in self.blocks:
            hidden = block(hidden, is_causal=True)
        return self.out(self.norm(hidden[:, 1::2]))


def _check_context(context_BCD: Tensor, masks: Masks, grid: tuple[int, ...], width_in: int) -> None:
    """Raises ValueError where indexing would go astray or torch would broadcast."""
    if masks.grid != grid:
        raise ValueError(f"masks of grid {masks.grid} in a predictor of grid {grid}; build both for one grid")
    if context_BCD.shape != (*masks.context_idx.shape, width_in):
        raise ValueError(
            f"expected latents {[*masks.context_idx.shape, width_in]} at the tokens of masks.context_idx, got {list(context_BCD.shape)}"
        )
