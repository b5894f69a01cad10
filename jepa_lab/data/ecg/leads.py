"""The twelve leads of an electrocardiogram: their names and order, and the laws that tie the limb leads together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
MAX_MV = 20.0  # no electrocardiogram reaches this voltage: larger values are artefacts or in another unit


def limb_leads(lead_I: Float[Tensor, "*n T"], lead_II: Float[Tensor, "*n T"]) -> Float[Tensor, "*n 6 T"]:
    """I, II, III, aVR, aVL, aVF from I and II: Einthoven's law III = II - I, and Goldberger's augmented leads."""
    return torch.stack(
        [lead_I, lead_II, lead_II - lead_I, -(lead_I + lead_II) / 2, lead_I - lead_II / 2, lead_II - lead_I / 2], -2
    )
