"""Tokens in, latents out: position codes, patch embedding and a transformer on timm blocks.

Shape suffixes: B batch, N tokens of the full grid, C tokens that are encoded, R registers, P numbers per patch, D
width.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn


def sincos_1d(positions_N: Float[Tensor, " N"], width: int) -> Float[Tensor, "N D"]:
    """Fixed sine-cosine code of a coordinate (Vaswani et al. 2017, section 3.5; base 10000), sines first."""
    if width % 2:
        raise ValueError(f"a sine-cosine code needs an even width, got {width}")
    frequencies = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = positions_N.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def position_code(grid: tuple[int, ...], width: int, unit_grid: tuple[int, ...] | None = None) -> Float[Tensor, "N D"]:
    """Code of every cell of a 1-D or 2-D grid in raster order; in 2-D half the channels go to each axis.

    Positions are counted in cells of `unit_grid` (the grid itself when not given), laid over the same image: a cell
    gets the code of its centre, between those of its neighbours there. Sines and cosines are evaluated at that
    centre, so nothing is blurred as when a table of codes is resampled.
    Raises ValueError for a grid without one or two axes, an empty one, or a width that does not split.
    """
    unit_grid = unit_grid or grid
    if len(grid) not in (1, 2) or min(grid) < 1:
        raise ValueError(f"a grid has one or two axes of at least one cell, got {grid}")
    if len(unit_grid) != len(grid):
        raise ValueError(f"grids {grid} and {unit_grid} differ in their number of axes")
    centres = [(torch.arange(float(size)) + 0.5) * unit / size - 0.5 for size, unit in zip(grid, unit_grid)]
    if len(grid) == 1:
        return sincos_1d(centres[0], width)
    if width % 4:
        raise ValueError(f"a 2-D sine-cosine code needs a width divisible by 4, got {width}")
    rows, columns = torch.meshgrid(*centres, indexing="ij")
    return torch.cat([sincos_1d(axis.flatten(), width // 2) for axis in (rows, columns)], dim=1)


def require_heads(width: int, heads: int) -> None:
    """Raises ValueError when attention heads cannot share the width equally."""
    if heads < 1 or width % heads:
        raise ValueError(f"width {width} does not split into {heads} heads; choose a divisor of the width")


def transformer(width: int, depth: int, heads: int) -> nn.Sequential:
    """Pre-norm blocks of timm (MLP ratio 4, exact GELU, qkv bias), linears initialised by fan-in.

    I-JEPA draws every linear with standard deviation 0.02, made for widths near 1,000. At the widths of this book
    that leaves each block close to the identity for thousands of steps, so the deviation here is 1 / sqrt(fan-in).
    """
    from timm.models.vision_transformer import Block  # seconds to import: only where a model is built

    require_heads(width, heads)
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

    `num_registers` learned tokens without a position attend with all others (Darcet et al. 2024; T-JEPA's [REG],
    ECG-JEPA's register). `forward` leaves them out, `latents` returns them.
    """

    def __init__(
        self, grid: tuple[int, ...], patch_dim: int, width: int, depth: int, heads: int, num_registers: int = 0
    ):
        super().__init__()
        if num_registers < 0:
            raise ValueError(f"num_registers must not be negative, got {num_registers}")
        self.grid, self.unit_grid, self.patch_dim, self.width, self.num_registers = (
            grid,
            grid,
            patch_dim,
            width,
            num_registers,
        )
        self.embed = nn.Linear(patch_dim, width)
        init_linear(self.embed)
        self.register_buffer("position_ND", position_code(grid, width), persistent=False)
        self.blocks = transformer(width, depth, heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        if num_registers:  # drawn last: without them the other weights are the same
            self.registers_RD = nn.Parameter(torch.empty(num_registers, width))
            nn.init.trunc_normal_(self.registers_RD, std=0.02)

    def forward(
        self, patches_BNP: Float[Tensor, "B N P"], idx_BC: Int[Tensor, "B C"] | None = None
    ) -> Float[Tensor, "B C D"]:
        """Latents of the whole grid, or of the tokens `idx_BC` alone, each with its true position; no registers.

        Tokens are gathered before the embedding, so hidden ones cost nothing.
        Raises ValueError when the patches do not fit the grid, RuntimeError for an index outside of it.
        """
        hidden = self._encode(patches_BNP, idx_BC)
        return hidden[:, self.num_registers :] if self.num_registers else hidden

    def latents(
        self, patches_BNP: Float[Tensor, "B N P"], idx_BC: Int[Tensor, "B C"] | None = None
    ) -> tuple[Float[Tensor, "B R D"], Float[Tensor, "B C D"]]:
        """Latents of the registers, and of the tokens as `forward` gives them."""
        hidden = self._encode(patches_BNP, idx_BC)
        return hidden[:, : self.num_registers], hidden[:, self.num_registers :]

    def at_grid(self, grid: tuple[int, ...]) -> Encoder:
        """This encoder on images cut into another grid of patches of the same size: every weight is shared, by
        reference.

        The positions of the new grid lie over the old one's (`position_code`), so both see the same image. Make the
        view on the device of use: what moves the weights later does not move its positions.
        The same grid gives the same numbers; a view of a view is a view of the first encoder.
        """
        view = copy.copy(self)  # shares the dictionaries of parameters and of modules
        view.grid, view._buffers = grid, dict(self._buffers)
        view.position_ND = position_code(grid, self.width, self.unit_grid).to(self.position_ND)
        return view

    def _encode(self, patches_BNP: Tensor, idx_BC: Tensor | None) -> Tensor:
        """Latents of the registers, if any, then of the tokens."""
        if patches_BNP.shape[1:] != (self.position_ND.shape[0], self.patch_dim):
            raise ValueError(
                f"expected patches [batch, {self.position_ND.shape[0]}, {self.patch_dim}] for grid {self.grid}, "
                f"got {list(patches_BNP.shape)}; cut images with data.images.patchify at the encoder's patch size"
            )
        position_D = self.position_ND
        if idx_BC is not None:
            patches_BNP = patches_BNP.gather(
                1, repeat(idx_BC, "b c -> b c p", p=self.patch_dim)
            )  # take_along_dim would count back from -1
            position_D = self.position_ND[idx_BC]
        tokens = self.embed(patches_BNP) + position_D
        if self.num_registers:
            tokens = torch.cat(
                [repeat(self.registers_RD, "r d -> b r d", b=len(tokens)).to(tokens.dtype), tokens], dim=1
            )
        return self.norm(self.blocks(tokens))


def encode_all(encoder: nn.Module, patches_BNP: Float[Tensor, "B N P"]) -> Float[Tensor, "B N D"]:
    """Latents of whole samples. On a CPU the batch is encoded in parts of 2,048 tokens.

    Such a part fits the CPU's caches, which makes bf16 steps 6 to 9 % faster. The result has the same bits as one pass
    where the parts are of one size; in bf16 a smaller last part may round differently.
    """
    if patches_BNP.device.type != "cpu":
        return encoder(patches_BNP)
    return torch.cat([encoder(part) for part in patches_BNP.split(max(1, 2048 // patches_BNP.shape[1]))])


def encode_blocks(
    encoder: Encoder, patches_BNP: Float[Tensor, "B N P"], idx_BMK: Int[Tensor, "B M K"]
) -> Float[Tensor, "B M K D"]:
    """Encode each block of tokens by itself: what an encoder sees when the image is masked at its *input*."""
    num_blocks = idx_BMK.shape[1]
    latents = encoder(patches_BNP.repeat_interleave(num_blocks, dim=0), rearrange(idx_BMK, "b m k -> (b m) k"))
    return rearrange(latents, "(b m) k d -> b m k d", m=num_blocks)
