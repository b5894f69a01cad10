"""What tests/test_every_paper.py needs of chapter 07."""

from dataclasses import replace

import torch
from torch import nn

from jepa_lab.data.ecg import records as ecg
from jepa_lab.data.ecg import simulator
from jepa_lab.experiment import Arm
from jepa_lab.papers.ecg_jepa import models, paper, world

TOLERANCE = 1e-4  # relative, of golden numbers on other kinds of computers


def arms() -> tuple[paper.Config, dict[str, Arm]]:
    """The pre-training methods on 48 simulated records; every step is logged."""
    cfg = replace(paper.preset("smoke", data="simulated"), log_every=1)
    records = simulator.simulate(80, seed=0, rate=cfg.rate, seconds=cfg.seconds)
    data = world.from_parts(ecg.split(records, (48, 16, 16)), cfg.patch)
    found = paper.arms(cfg, data)
    return cfg, {name: replace(arm, changes={**arm.changes, "log_every": 1}) for name, arm in found.items()}


def numbers() -> dict[str, list[float]]:
    return {}


def paper_size() -> dict[str, tuple[nn.Module, float]]:
    """ViT-S: 14.28 million weights (authors' repository)."""
    cfg = paper.preset("paper", data="simulated")
    with torch.device("meta"):
        model = models.masked_jepa(cfg, grid=(cfg.num_tokens,)).to("meta")
    return {"encoder": (model.encoder, 14.28e6)}
