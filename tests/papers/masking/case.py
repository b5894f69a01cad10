"""What tests/test_every_paper.py needs of chapter 01."""

from dataclasses import replace

from images_case import squares

from jepa_lab.experiment import Arm
from jepa_lab.papers.masking import paper


def arms() -> tuple[paper.Config, dict[str, Arm]]:
    cfg = paper.preset("smoke")
    cfg = replace(cfg, log_every=1, collapse_steps=cfg.num_steps)
    return cfg, paper.arms(cfg, squares())


def numbers() -> dict[str, list[float]]:
    return {}
