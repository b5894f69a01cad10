"""The verdict follows from the numbers by one rule."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jepa_lab.claims import Claim, judge, table

CLAIM = Claim("probe", "01_tiny", "A paper", "features beat pixels", "accuracy", "higher", 0.01, baseline="raw pixels")
numbers = st.floats(-100, 100).map(lambda x: round(x, 3))
pairs = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8)


@given(pairs)
def test_interval_is_the_student_t_interval_of_the_paired_difference(pairs):
    values, baselines = zip(*pairs)
    found = judge(values, baselines, "higher", 0.0)
    gains = np.subtract(values, baselines)
    half = stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains)
    assert found.mean == pytest.approx(gains.mean(), abs=1e-9)
    assert (found.ci_low, found.ci_high) == pytest.approx((gains.mean() - half, gains.mean() + half), abs=1e-6)


@given(pairs, numbers)
def test_verdict_says_on_which_side_of_the_margin_the_interval_lies(pairs, margin):
    values, baselines = zip(*pairs)
    found = judge(values, baselines, "higher", margin)
    if len(pairs) < 3 or found.ci_low <= margin <= found.ci_high:
        assert found.verdict == "inconclusive"
    else:
        assert found.verdict == ("supported" if found.ci_low > margin else "not supported")


@given(pairs, numbers)
def test_lower_is_better_mirrors_higher_is_better(pairs, margin):
    values, baselines = zip(*pairs)
    assert judge(values, baselines, "lower", margin) == judge(baselines, values, "higher", margin)


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_fewer_than_three_seeds_prove_nothing(seeds):
    assert judge([1.0] * seeds, [0.0] * seeds, "higher", 0.1).verdict == "inconclusive"


def test_unpaired_or_non_finite_numbers_are_refused():
    with pytest.raises(ValueError, match="paired"):
        judge([1.0, 2.0, 3.0], [1.0], "higher", 0.0)
    with pytest.raises(ValueError, match="finite"):
        judge([1.0, math.nan, 3.0], [0.0, 0.0, 0.0], "higher", 0.0)


def test_a_claim_with_a_meaningless_direction_or_margin_is_refused():
    with pytest.raises(ValueError, match="direction"):
        Claim("a", "01_tiny", "p", "s", "m", "up", 0.0)
    with pytest.raises(ValueError, match="margin"):
        Claim("a", "01_tiny", "p", "s", "m", "higher", math.inf)


def record(seed, value, baseline, config_hash="a", started="2026-01-01", claim="probe"):
    return {
        "chapter": "01_tiny",
        "preset": "laptop",
        "seed": seed,
        "config_hash": config_hash,
        "device": "cpu",
        "started": started,
        "claims": {claim: {"value": value, "baseline": baseline}},
    }


def test_table_has_the_documented_keys_and_pairs_by_seed():
    (row,) = table([CLAIM], [record(2, 0.9, 0.5), record(0, 0.8, 0.6), record(1, 0.7, 0.4)])
    keys = "chapter claim_id paper statement paper_value paper_source metric values baseline_values mean ci_low ci_high"
    assert list(row) == [*keys.split(), "direction", "margin", "verdict", "preset", "device", "n_seeds"]
    assert row["values"] == [0.8, 0.7, 0.9] and row["baseline_values"] == [0.6, 0.4, 0.5] and row["n_seeds"] == 3
    assert row["mean"] == pytest.approx(0.3) and row["verdict"] == "supported"


def test_table_never_mixes_configurations():
    mixed = [record(s, 0.9, 0.5, "a") for s in range(4)] + [record(s, 0.1, 0.5, "b") for s in range(3)]
    assert table([CLAIM], mixed)[0]["values"] == [0.9] * 4
    assert table([CLAIM], mixed, {"01_tiny": "b"})[0]["values"] == [0.1] * 3


def test_a_claim_nobody_measured_is_listed_as_such():
    (row,) = table([CLAIM], [record(0, 0.9, 0.5, claim="another")])
    assert row["values"] == [] and row["mean"] is None and row["verdict"] == "inconclusive" and row["n_seeds"] == 0


def test_a_seed_never_counts_twice():
    twice = [record(0, 0.9, 0.5), record(1, 0.8, 0.5), record(1, 0.8, 0.5)]
    with pytest.raises(ValueError, match="two records of seed 1 are one seed"):
        table([CLAIM], twice)
