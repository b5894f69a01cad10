"""What tests/test_every_paper.py needs of chapter 02."""

from dataclasses import replace

from images_case import squares

from jepa_lab.experiment import Arm
from jepa_lab.papers.predictors import paper
from jepa_lab.papers.predictors.phase import phase


def arms() -> tuple[paper.Config, dict[str, Arm]]:
    cfg = replace(paper.preset("smoke"), log_every=1)
    return cfg, paper.arms(cfg, squares())


def numbers() -> dict[str, list[float]]:
    """The losses of every cell of the phase diagram."""
    cells = phase(paper.preset("smoke"), squares(), 0)
    return {f"phase {cell}": history["loss"] for cell, history in cells.items()}
