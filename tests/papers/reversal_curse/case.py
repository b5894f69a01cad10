"""What the tests of every paper need of the reversal-curse chapter."""

from dataclasses import replace

from jepa_lab.experiment import Arm
from jepa_lab.papers.reversal_curse import paper
from jepa_lab.papers.reversal_curse.arms import facts_of
from jepa_lab.papers.reversal_curse.config import Config


def arms() -> tuple[Config, dict[str, Arm]]:
    """Every arm at preset smoke, logged at every step, on the facts of seed 0."""
    cfg = replace(paper.preset("smoke"), log_every=1)
    return cfg, paper.arms(cfg, facts_of(cfg, 0), num_questions=8)


def numbers() -> dict[str, list[float]]:
    """No further golden numbers."""
    return {}
