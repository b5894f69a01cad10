"""One electrocardiogram at a time: the twelve leads, and what makes a stranger's record fit them.

Shape letters: T samples.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, stack

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def limb_leads(lead_I: Float[Tensor, "*n T"], lead_II: Float[Tensor, "*n T"]) -> Float[Tensor, "*n 6 T"]:
    """I, II, III, aVR, aVL, aVF from I and II: Einthoven's law III = II - I, and Goldberger's augmented leads."""
    return stack([lead_I, lead_II, lead_II - lead_I, -(lead_I + lead_II) / 2, lead_I - lead_II / 2, lead_II - lead_I / 2], -2)
