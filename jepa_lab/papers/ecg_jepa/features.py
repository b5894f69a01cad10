"""Frozen features of records: pooled latents of an encoder, and the controls that a trained encoder has to beat.

Shape letters: N tokens, C seen tokens, R registers, D width, n m records, T samples, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from jepa_lab.encoders import Encoder
from jepa_lab.papers.ecg_jepa import hand_features
from jepa_lab.papers.ecg_jepa.world import ECGData

FeatureFn = Callable[[Float[Tensor, "n 12 T"]], Float[Tensor, "n F"]]
RECORDS_AT_ONCE = 50  # what a core's caches hold


@torch.no_grad()
def latents(
    encoder: Encoder, data: ECGData, signals: Float[Tensor, "n 12 T"], idx_C: Int64[Tensor, " C"] | None = None
) -> tuple[Float[Tensor, "n R D"], Float[Tensor, "n C D"]]:
    """Latents of the register and of the tokens: of all tokens, or of `idx_C` with the others unseen."""
    registers, tokens = [], []
    for part in signals.split(RECORDS_AT_ONCE):
        seen = None if idx_C is None else idx_C.expand(len(part), -1)
        registers_part, tokens_part = encoder.latents(data.to_batch(part), seen)
        registers.append(registers_part)
        tokens.append(tokens_part)
    return torch.cat(registers), torch.cat(tokens)


def pool(tokens_nND: Float[Tensor, "n N D"]) -> Float[Tensor, "n F"]:
    """Mean and standard deviation over a record's tokens, side by side."""
    return torch.cat([tokens_nND.mean(dim=1), tokens_nND.std(dim=1, correction=0)], dim=1)


def pooled(encoder: Encoder, data: ECGData, signals: Float[Tensor, "n 12 T"]) -> Float[Tensor, "n F"]:
    """Features of records: `pool` of the encoder's tokens."""
    return pool(latents(encoder, data, signals)[1])


def of_parts(data: ECGData, feature_fn: FeatureFn, idx: Int64[Tensor, " m"]) -> dict[str, Float[Tensor, "n F"]]:
    """Features of the training records `idx`, whose labels are known, and of validation and test records."""
    return {
        "labelled": feature_fn(data.train.signals[idx.to(data.device)]),
        "validation": feature_fn(data.validation.signals),
        "test": feature_fn(data.test.signals),
    }


def controls(data: ECGData, untrained: Encoder) -> dict[str, FeatureFn]:
    """Features of an encoder with random weights, and hand-made features of the raw signals, by name."""
    rate = data.train.rate
    hand_made = {name: partial(hand_features.hand_made, rate=rate, name=name) for name in hand_features.SETS}
    return {"random initialisation": partial(pooled, untrained, data), **hand_made}
