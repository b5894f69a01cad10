"""Each switch that should collapse the features does so within seconds, for every seed, and the alarm says so.

Measured on scikit-learn's digits with the smoke-size model of chapter 01, mostly 3 seeds and 100 steps, and not
asserted:

- the stop-gradient kept but no EMA: the alarm fired for 1 seed of 3 (RankMe 1.9, 2.2, 2.7 of 32);
- a linear predictor on the mean context: for 2 seeds of 3, at a constant EMA decay of 0.9 and of 0;
- no predictor under an EMA from 0.99 to 1: not in 400 steps of one seed, as the target hardly moves;
- identity masks, whether the context is the whole image or the targets lie in it: not in 400 steps of one seed. The
  task becomes easier, but nothing asks for a constant: RankMe ended at 4.7 and 3.4, against 2.7 with hidden targets.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from images_case import digits

from jepa_lab import diagnostics, experiment, image_world
from jepa_lab.losses import normalise
from jepa_lab.objectives import jepa_objective, self_target_objective
from jepa_lab.papers.masking import paper
from jepa_lab.papers.predictors import ensemble, models

CFG = replace(
    paper.preset("smoke"), precision="float32", num_steps=50, log_every=10, ema_memory=None, ema_decay=(0.99, 1.0)
)
SEEDS = (0, 1, 2)
SWITCHES = {
    "no EMA and no stop-gradient": {"objective": self_target_objective, "decay": 0.0},
    "no EMA and no stop-gradient, normalised targets": {
        "objective": partial(self_target_objective, norm=normalise),
        "decay": 0.0,
    },
    "no predictor and no EMA": {"predictor": models.no_predictor, "decay": 0.0},
    "no predictor under an EMA of two steps": {"predictor": models.no_predictor, "decay": 0.5},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained():
    """Histories of three seeds under each switch, and of I-JEPA under "none"."""
    data = digits()
    return {name: histories(data, **switch) for name, switch in ({"none": {}} | SWITCHES).items()}


def histories(data, objective=jepa_objective, predictor=image_world.predictor, decay=None):
    sampler = image_world.multi_block(CFG, data.grid, CFG.num_targets)
    arm = image_world.arm("any", data, sampler, objective, predictor)
    cfg = CFG if decay is None else replace(CFG, ema_decay=(decay, decay))
    stacked = ensemble.stack([experiment.fresh_model(cfg, arm, seed) for seed in SEEDS], SEEDS)
    panel = experiment.collapse_panel(data.probe[:200], data.to_batch, sampler)
    members = ensemble.train_members(stacked, cfg, arm.task, objective, measure=panel, progress=False).members
    return [member.history for member in members]


def alarms(history):
    """The alarm's reason at each log step, or None."""
    rows = [dict(zip(history, values)) for values in zip(*history.values())]
    return [diagnostics.collapsed(row) for row in rows]


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_switch_collapses_every_seed_and_the_alarm_stays_on(trained, switch):
    for history in trained[switch]:
        reasons = alarms(history)
        assert reasons[-1] is not None and "collapse" in reasons[-1]
        first = next(i for i, reason in enumerate(reasons) if reason)
        assert None not in reasons[first:]


def test_a_healthy_run_never_trips_the_alarm(trained):
    for history in trained["none"]:
        assert alarms(history) == [None] * 5


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_loss_alone_would_call_the_collapse_a_success(trained, switch):
    collapsed = max(history["loss"][-1] for history in trained[switch])
    assert collapsed < 0.5 * min(history["loss"][-1] for history in trained["none"])
