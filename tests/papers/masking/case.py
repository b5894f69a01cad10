"""What tests/test_every_paper.py needs of chapter 01."""

from dataclasses import replace

from images_case import on_meta, squares
from torch import nn

from jepa_lab.experiment import Arm
from jepa_lab.papers.masking import paper

TOLERANCE = 1e-4  # relative, of golden numbers on other kinds of computers


def arms() -> tuple[paper.Config, dict[str, Arm]]:
    cfg = paper.preset("smoke")
    cfg = replace(cfg, log_every=1, collapse_steps=cfg.num_steps)
    return cfg, paper.arms(cfg, squares())


def numbers() -> dict[str, list[float]]:
    return {}


def paper_size() -> dict[str, tuple[nn.Module, float]]:
    """ViT-H/14: 632 million weights with its [cls] token (Dosovitskiy et al. 2021, table 1)."""
    return {"encoder": (on_meta(paper).encoder, 632e6)}
