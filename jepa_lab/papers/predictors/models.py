"""Predictors without a transformer. Shape letters: B batch, N tokens, C context tokens, M target blocks, K tokens per
block, D width.
"""

from __future__ import annotations

from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn

from jepa_lab.encoders import init_linear, position_code
from jepa_lab.image_world import Config
from jepa_lab.masks import Masks


class LinearPredictor(nn.Module):
    """Depth 0: a linear map of the mean context latent plus a linear map of the target's position.

    No attention, no nonlinearity.
    """

    def __init__(self, grid: tuple[int, ...], width: int):
        super().__init__()
        self.context = nn.Linear(width, width)
        self.position = nn.Linear(width, width, bias=False)
        self.register_buffer("position_ND", position_code(grid, width), persistent=False)
        self.apply(init_linear)

    def forward(self, context_BCD: Float[Tensor, "B C D"], masks: Masks) -> Float[Tensor, "B M K D"]:
        mean_BD = reduce(context_BCD, "b c d -> b d", "mean")
        return rearrange(self.context(mean_BD), "b d -> b 1 1 d") + self.position(self.position_ND[masks.target_idx])


class NoPredictor(nn.Module):
    """The mean context latent for every hidden token: no weights, no position."""

    def forward(self, context_BCD: Float[Tensor, "B C D"], masks: Masks) -> Float[Tensor, "B M K D"]:
        num_blocks, num_tokens = masks.target_idx.shape[1:]
        return repeat(reduce(context_BCD, "b c d -> b d", "mean"), "b d -> b m k d", m=num_blocks, k=num_tokens)


def linear_predictor(cfg: Config, grid: tuple[int, int]) -> LinearPredictor:
    return LinearPredictor(grid, cfg.width)


def no_predictor(cfg: Config, grid: tuple[int, int]) -> NoPredictor:
    return NoPredictor()
