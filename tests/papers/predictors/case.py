"""What tests/test_every_paper.py needs of chapter 02."""

from dataclasses import replace

from images_case import on_meta, squares
from torch import nn

from jepa_lab.experiment import Arm
from jepa_lab.papers.predictors import paper
from jepa_lab.papers.predictors.phase import phase

TOLERANCE = 5e-3  # relative, of golden numbers on other kinds of computers


def arms() -> tuple[paper.Config, dict[str, Arm]]:
    cfg = replace(paper.preset("smoke"), log_every=1)
    return cfg, paper.arms(cfg, squares())


def numbers() -> dict[str, list[float]]:
    """The losses of every cell of the phase diagram."""
    cells = phase(paper.preset("smoke"), squares(), 0, progress=False)
    return {f"phase {cell}": history["loss"] for cell, history in cells.items()}


def paper_size() -> dict[str, tuple[nn.Module, float]]:
    """ViT-L/16: 307 million weights with its [cls] token (Dosovitskiy et al. 2021, table 1)."""
    return {"encoder": (on_meta(paper).encoder, 307e6)}
