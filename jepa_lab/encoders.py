"""Tokens in, latents out: position codes, patch embedding and a transformer on timm blocks.

Shape suffixes: B batch, N tokens of the full grid, C tokens that are encoded, P numbers per patch, D width.
"""

from __future__ import annotations

from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn


def sincos_1d(positions_N: Float[Tensor, "N"], width: int) -> Float[Tensor, "N D"]:
    """Fixed sine-cosine code of a coordinate (Vaswani et al. 2017, section 3.5; base 10000), sines first."""
    if width % 2:
        raise ValueError(f"a sine-cosine code needs an even width, got {width}")
    frequencies = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = positions_N.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def position_code(grid: tuple[int, ...], width: int) -> Float[Tensor, "N D"]:
    """Code of every cell of a 1-D or 2-D grid in raster order; in 2-D half the channels go to each axis."""
    if len(grid) == 1:
        return sincos_1d(torch.arange(float(grid[0])), width)
    if len(grid) != 2:
        raise ValueError(f"a grid has one or two axes, got {grid}")
    if width % 4:
        raise ValueError(f"a 2-D sine-cosine code needs a width divisible by 4, got {width}")
    rows, columns = torch.meshgrid(*(torch.arange(float(size)) for size in grid), indexing="ij")
    return torch.cat([sincos_1d(axis.flatten(), width // 2) for axis in (rows, columns)], dim=1)


def transformer(width: int, depth: int, heads: int) -> nn.Sequential:
    """Pre-norm blocks of timm (MLP ratio 4, exact GELU, qkv bias), linears initialised by fan-in.

    I-JEPA draws every linear with standard deviation 0.02, made for widths near 1,000. At the widths of this book
    that leaves each block close to the identity for thousands of steps, so the deviation here is 1 / sqrt(fan-in).
    """
    from timm.models.vision_transformer import Block  # seconds to import: only where a model is built

    if width % heads:
        raise ValueError(f"width {width} does not split into {heads} heads; choose a divisor of the width")
    norm = partial(nn.LayerNorm, eps=1e-6)
    blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
    blocks.apply(init_linear)
    return blocks


def init_linear(module: nn.Module) -> None:
    """Truncated normal with standard deviation 1 / sqrt(fan-in), zero bias; other modules keep their own start."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Encoder(nn.Module):
    """A vision transformer without [cls] token over patches of any kind (I-JEPA, section 3).

    The patch embedding is drawn by fan-in too. With the published 0.02 and small patches the embedded pixels are ten
    times fainter than the position code; every target is then nearly pure position and the loss collapses.
    """

    def __init__(self, grid: tuple[int, ...], patch_dim: int, width: int, depth: int, heads: int):
        super().__init__()
        self.grid, self.patch_dim, self.width = grid, patch_dim, width
        self.embed = nn.Linear(patch_dim, width)
        init_linear(self.embed)
        self.register_buffer("position_ND", position_code(grid, width), persistent=False)
        self.blocks = transformer(width, depth, heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(
        self, patches_BNP: Float[Tensor, "B N P"], idx_BC: Int[Tensor, "B C"] | None = None
    ) -> Float[Tensor, "B C D"]:
        """Latents of the whole grid, or of the tokens `idx_BC` alone, each with its true position.

        Tokens are gathered before the embedding, so hidden ones cost nothing.
        Raises ValueError when the patches do not fit the grid.
        """
        if patches_BNP.shape[1:] != (self.position_ND.shape[0], self.patch_dim):
            raise ValueError(
                f"expected patches [batch, {self.position_ND.shape[0]}, {self.patch_dim}] for grid {self.grid}, "
                f"got {list(patches_BNP.shape)}; cut images with data.images.patchify at the encoder's patch size"
            )
        position_D = self.position_ND
        if idx_BC is not None:
            patches_BNP = patches_BNP.take_along_dim(idx_BC[..., None], dim=1)
            position_D = self.position_ND[idx_BC]
        return self.norm(self.blocks(self.embed(patches_BNP) + position_D))


def encode_blocks(
    encoder: Encoder, patches_BNP: Float[Tensor, "B N P"], idx_BMK: Int[Tensor, "B M K"]
) -> Float[Tensor, "B M K D"]:
    """Encode each block of tokens by itself: what an encoder sees when the image is masked at its *input*."""
    num_blocks = idx_BMK.shape[1]
    latents = encoder(patches_BNP.repeat_interleave(num_blocks, dim=0), rearrange(idx_BMK, "b m k -> (b m) k"))
    return rearrange(latents, "(b m) k d -> b m k d", m=num_blocks)
