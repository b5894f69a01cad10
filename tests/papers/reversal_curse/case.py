"""What the tests of every paper need of the reversal-curse chapter."""

from dataclasses import replace

import torch
from torch import nn

from jepa_lab.experiment import Arm
from jepa_lab.papers.reversal_curse import paper
from jepa_lab.papers.reversal_curse.arms import facts_of
from jepa_lab.papers.reversal_curse.config import Config

TOLERANCE = 1e-4  # relative, of golden numbers on other kinds of computers


def arms() -> tuple[Config, dict[str, Arm]]:
    """Every arm at preset smoke, logged at every step, on the facts of seed 0."""
    cfg = replace(paper.preset("smoke"), log_every=1)
    return cfg, paper.arms(cfg, facts_of(cfg, 0), num_questions=8)


def numbers() -> dict[str, list[float]]:
    """No further golden numbers."""
    return {}


def paper_size() -> dict[str, tuple[nn.Module, float]]:
    """16,014 names, width 768, one recognition and one semantic block of 12 width^2 + 13 width (appendix A)."""
    cfg = paper.preset("paper")
    arm = paper.arms(cfg, facts_of(cfg, 0))["JEPA"]
    with torch.device("meta"):
        model = arm.build(cfg).to("meta")
    return {"JEPA": (model, 16_014 * 768 + 2 * (12 * 768**2 + 13 * 768))}
