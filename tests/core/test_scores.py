"""Scores: their intervals equal those of scipy, of the normal and of Student's t."""

import math

import pytest
import torch

from jepa_lab.probes import scores


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(5, 10, 0.236593, 0.763407), (0, 10, 0.0, 0.277533), (10, 10, 0.722467, 1.0), (820, 1000, 0.794978, 0.842573)],
)
def test_wilson_intervals_equal_those_of_scipy(correct, n, low, high):
    assert scores.wilson(correct, n) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


def test_the_bootstrap_of_a_mean_equals_its_normal_interval():
    values = torch.randn(500, generator=seeded(), dtype=torch.float64)
    score = scores.bootstrap(lambda w: w @ values / w.sum(1), 500, values, seeded(1), l2=0.1, resamples=4000)
    half = 1.96 * float(values.std()) / math.sqrt(500)
    assert score.value == pytest.approx(float(values.mean()))
    assert (score.high - score.low) / 2 == pytest.approx(half, rel=0.06)


def test_the_interval_over_draws_is_students_and_stays_within_shares():
    score = scores.over_draws([0.5, 0.6, 0.7], 10)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (score.value, score.high - score.value) == (pytest.approx(0.6), pytest.approx(half))
    wide = scores.over_draws([0.0, 1.0], 10)
    assert (wide.low, wide.value, wide.high) == (0.0, 0.5, 1.0)
