"""The models of the ECG chapter: ECG-JEPA, and SimCLR on the same encoder with its views and its loss.

Shape letters: B batch, N tokens, P = 12 * patch numbers per token, C tokens of a view, V = 2 views, L = 12 leads,
D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from jepa_lab import losses
from jepa_lab.data.ecg.records import LEADS
from jepa_lab.encoders import Encoder, init_linear
from jepa_lab.masks import Masks
from jepa_lab.objectives import JEPA
from jepa_lab.papers.ecg_jepa.config import Config
from jepa_lab.predictors import Predictor

NUM_LEADS = len(LEADS)


def new_encoder(cfg: Config, grid: tuple[int]) -> Encoder:
    """The config's transformer with one register."""
    return Encoder(grid, NUM_LEADS * cfg.patch, cfg.width, cfg.depth, cfg.heads, num_registers=1)


def masked_jepa(cfg: Config, grid: tuple[int], out_dim: int | None = None) -> JEPA:
    """Encoder, its EMA copy and a narrow predictor; out_dim differs from the width where no latents are predicted."""
    encoder = new_encoder(cfg, grid)
    width_out = cfg.width if out_dim is None else out_dim
    predictor = Predictor(grid, cfg.width, cfg.predictor_width, cfg.predictor_depth, cfg.heads, width_out)
    return JEPA(encoder, predictor)


# SimCLR


class Projector(nn.Module):
    """SimCLR's two-layer head; it is thrown away after training."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.apply(init_linear)

    def forward(self, pooled_BD: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return self.layers(pooled_BD)


def simclr(cfg: Config, grid: tuple[int]) -> JEPA:
    """Encoder, its EMA copy and SimCLR's projector in the predictor's place."""
    encoder = new_encoder(cfg, grid)
    return JEPA(encoder, Projector(cfg.width))


@dataclass(frozen=True)
class Views(Masks):
    """Two augmented views of every record: context_idx and target_idx are their tokens, the latter as one block.

    Every lead of a view has a gain of its own, and every number its noise.
    """

    gain_BVL: Float[Tensor, "B V L"]
    noise_BVNP: Float[Tensor, "B V N P"]


def two_views(
    grid: tuple[int],
    batch_size: int,
    generator: torch.Generator,
    *,
    patch: int,
    share: float,
    spread: tuple[float, float],
) -> Views:
    """Two stretches of `share` of the record, drawn independently, so that they may overlap.

    spread: standard deviations of the logarithm of the leads' gains, and of the white noise.
    """
    device, length = generator.device, grid[0]
    size = max(1, round(share * length))
    start_BV = torch.randint(length - size + 1, (batch_size, 2), generator=generator, device=device)
    idx_BVC = start_BV[..., None] + torch.arange(size, device=device)
    log_gain_BVL = torch.randn(batch_size, 2, NUM_LEADS, generator=generator, device=device)
    noise_BVNP = torch.randn(batch_size, 2, length, NUM_LEADS * patch, generator=generator, device=device)
    return Views(idx_BVC[:, 0], idx_BVC[:, 1:], grid, torch.exp(spread[0] * log_gain_BVL), spread[1] * noise_BVNP)


def augmented(
    patches_BNP: Float[Tensor, "B N P"], gain_BL: Float[Tensor, "B L"], noise_BNP: Float[Tensor, "B N P"]
) -> Float[Tensor, "B N P"]:
    """Every lead of every record times its gain, plus the noise."""
    leads_BNLS = rearrange(patches_BNP, "b n (l s) -> b n l s", l=NUM_LEADS)
    scaled_BNLS = leads_BNLS * gain_BL[:, None, :, None]
    return rearrange(scaled_BNLS, "b n l s -> b n (l s)") + noise_BNP


def simclr_objective(
    model: JEPA, patches_BNP: Float[Tensor, "B N P"], views: Views, temperature: float
) -> Float[Tensor, ""]:
    """SimCLR (Chen et al. 2020, eq. 1): the two views of a record should be nearest among those of the batch."""
    projected = []
    for view, idx_BC in enumerate((views.context_idx, views.target_idx[:, 0])):
        seen_BNP = augmented(patches_BNP, views.gain_BVL[:, view], views.noise_BVNP[:, view])
        projected.append(model.predictor(model.encoder(seen_BNP, idx_BC).mean(dim=1)))
    first_BD, second_BD = projected
    forth = losses.info_nce(first_BD, second_BD, temperature)
    back = losses.info_nce(second_BD, first_BD, temperature)
    return 0.5 * (forth + back)
