"""Small simulated records of the ECG chapter, 40 tokens each, and a model that has not been trained."""

import pytest

from jepa_lab import experiment
from jepa_lab.data.ecg import records as ecg
from jepa_lab.data.ecg import simulator
from jepa_lab.papers.ecg_jepa import paper, world

SIZES = (240, 120, 120)


@pytest.fixture(scope="session")
def cfg():
    return paper.preset(
        "smoke", data="simulated", num_train=240, patch=25, num_blocks=4, min_block=2, crop=10, stride=5
    )


@pytest.fixture(scope="session")
def data(cfg):
    parts = ecg.split(simulator.simulate(sum(SIZES), seed=5, prevalence=0.2), SIZES)
    return world.from_parts(parts, cfg.patch)


@pytest.fixture
def model(cfg, data):
    return experiment.fresh_model(cfg, paper.arms(cfg, data)[paper.REFERENCE], 0)
