"""The EMA copy that chapters 01 and 02 score is fresh: computed from the schedules alone, nothing is trained."""

from dataclasses import replace

import pytest
import torch
from images_case import blank

from jepa_lab.papers.masking import paper as masking
from jepa_lab.papers.predictors import paper as predictors

CASES = [(paper, name) for paper in (masking, predictors) for name in ("smoke", "laptop", "gpu", "paper")]
ABOUT_THE_EMA = {"EMA 0.9", "EMA 0.999"}


def ema_weights(cfg) -> torch.Tensor:
    """Weights in the EMA copy at the end: of the random start, then of the encoder after each step."""
    num_steps = cfg.num_steps
    ends = cfg.ema_decay_at(0), cfg.ema_decay_at(num_steps)
    decays = torch.linspace(*ends, num_steps + 1, dtype=torch.float64)[:-1]  # the schedule is linear
    for step in (1, num_steps // 2, num_steps - 1):
        assert float(decays[step]) == pytest.approx(cfg.ema_decay_at(step), abs=1e-12)
    kept = decays.flip(0).cumprod(0).flip(0)  # what the steps from k on leave of the copy before step k
    after = torch.cat([kept[1:], torch.ones(1, dtype=torch.float64)])
    return torch.cat([kept[:1], (1 - decays) * after])


def configs(paper, name):
    """The config of every arm at a preset, with the arm's changes, by a readable name."""
    cfg = paper.preset(name)
    found = {arm: replace(cfg, **entry.changes) for arm, entry in paper.arms(cfg, blank(cfg)).items()}
    if paper is masking and cfg.folder is None:
        found["canvases"] = replace(cfg, num_steps=cfg.canvas_steps)
    return found


def test_the_weights_of_a_constant_decay_are_a_geometric_series():
    cfg = replace(masking.preset("smoke"), num_steps=3, ema_memory=None, ema_decay=(0.5, 0.5))
    assert ema_weights(cfg).tolist() == [0.125, 0.125, 0.25, 0.5]


def age(weights: torch.Tensor) -> float:
    """Mean age of the weights in the copy, as a share of the run."""
    num_steps = len(weights) - 1
    return float((weights * torch.arange(num_steps, -1, -1)).sum() / num_steps)


@pytest.mark.parametrize(("paper", "name"), [*CASES, (predictors, "race")])
def test_every_scored_copy_has_forgotten_its_start_and_is_young(paper, name):
    for arm, cfg in configs(paper, name).items():
        weights = ema_weights(cfg)
        assert weights.sum() == pytest.approx(1.0), arm
        if arm not in ABOUT_THE_EMA:
            assert weights[0] < 0.02 and age(weights) < 0.15, arm


def test_of_the_arms_about_the_ema_the_fast_one_is_fresh_and_the_slow_one_is_stale():
    fast, slow = (ema_weights(configs(predictors, "laptop")[arm]) for arm in ("EMA 0.9", "EMA 0.999"))
    assert fast[0] < 0.02 and age(fast) < 0.15
    assert slow[0] > 0.5 and age(slow) > 0.5
