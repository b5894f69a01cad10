"""Each switch that should collapse the features does so within seconds, for every seed, and the alarm says so.

Measured on scikit-learn's digits with the smoke-size model of chapter 01, mostly 3 seeds and 100 steps, and so not
asserted:

- the stop-gradient kept but no EMA: the alarm fired for 1 seed of 3 (RankMe 1.9, 2.2, 2.7 of 32);
- a linear predictor on the mean context: for 2 seeds of 3, at a constant EMA decay of 0.9 and of 0;
- no predictor under the usual EMA, from 0.99 to 1: not in 400 steps of one seed, as the target hardly moves;
- identity masks, whether the context is the whole image or the targets lie in it: not in 400 steps of one seed. The
task becomes easier,
  but nothing asks for a constant: RankMe ended at 4.7 and 3.4, against 2.7 with hidden targets.
"""

from dataclasses import replace

import pytest
import torch
from einops import reduce, repeat
from torch import nn

from jepa_lab import diagnostics, train
from jepa_lab import image_world as worlds
from jepa_lab.data import images
from jepa_lab.losses import gather_blocks, normalise, smooth_l1
from jepa_lab.papers.masking import paper as masking
from jepa_lab.papers.predictors import phase as ensembles

CFG = replace(masking.preset("smoke"), precision="float32", num_steps=50, log_every=10)
SEEDS = (0, 1, 2)


class NoPredictor(nn.Module):
    """The mean of the context stands for every hidden token."""

    def forward(self, context_BCD, masks):
        num_blocks, num_tokens = masks.target_idx.shape[1:]
        return repeat(reduce(context_BCD, "b c d -> b d", "mean"), "b d -> b m k d", m=num_blocks, k=num_tokens)


def chasing_itself(model, patches_BNP, masks):
    """No EMA and no stop-gradient, but targets normalised as ever."""
    target_BMKD = gather_blocks(normalise(model.encoder(patches_BNP)), masks.target_idx)
    return smooth_l1(model.predictor(model.encoder(patches_BNP, masks.context_idx), masks), target_BMKD)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained():
    """Histories of three seeds under one switch; each switch is trained once."""
    everything, test = images.digits("train"), images.digits("test")
    world, done = worlds.cut("centred", (*images.split(everything, (1200, 300), seed=0), test), CFG.patch, "cpu"), {}

    def histories(objective=train.jepa_objective, predictor=worlds.predictor, ema_decay=CFG.ema_decay):
        key = objective, predictor, ema_decay
        if key not in done:
            models = [worlds.model(CFG, world.grid, world.patches.shape[-1], seed, predictor) for seed in SEEDS]
            ensemble = ensembles.fit(
                ensembles.stack(models, SEEDS),
                replace(CFG, ema_decay=ema_decay),
                world.patches,
                world.to_batch,
                worlds.multi_block(CFG, world.grid, CFG.num_targets),
                objective,
                watch=world.probe[:200],
                progress=False,
            )
            done[key] = [run.history for run in ensemble.runs]
        return done[key]

    return histories


def alarms(history):
    """What the alarm says at each log step."""
    rows = [dict(zip(history, values)) for values in zip(*history.values())]
    return [diagnostics.collapsed(row) for row in rows]


SWITCHES = {
    "no EMA and no stop-gradient": {"objective": masking.collapsing_objective, "ema_decay": (0.0, 0.0)},
    "no EMA and no stop-gradient, normalised targets": {"objective": chasing_itself, "ema_decay": (0.0, 0.0)},
    "no predictor and no EMA": {"predictor": lambda cfg, grid: NoPredictor(), "ema_decay": (0.0, 0.0)},
    "no predictor under an EMA of two steps": {"predictor": lambda cfg, grid: NoPredictor(), "ema_decay": (0.5, 0.5)},
}


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_switch_collapses_every_seed_and_the_alarm_stays_on(trained, switch):
    for history in trained(**SWITCHES[switch]):
        said = alarms(history)
        assert said[-1] is not None and "collapse" in said[-1]
        first = next(i for i, words in enumerate(said) if words)
        assert None not in said[first:]


def test_a_healthy_run_never_trips_the_alarm(trained):
    for history in trained():
        assert alarms(history) == [None] * 5


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_loss_alone_would_call_the_collapse_a_success(trained, switch):
    healthy, collapsed = trained(), trained(**SWITCHES[switch])
    assert max(history["loss"][-1] for history in collapsed) < 0.5 * min(history["loss"][-1] for history in healthy)
