"""The collapse alarm: silent on healthy spectra, right about the kind of collapse, each threshold at its own value."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lab import diagnostics
from jepa_lab.diagnostics import collapsed, first_alarm, last_alarm, panel

seeds = st.integers(0, 2**31)


def rotation(width, generator):
    return torch.linalg.qr(torch.randn(width, width, generator=generator)).Q


@given(
    seed=seeds,
    n=st.integers(200, 1000),
    width=st.sampled_from([32, 64, 96, 192]),
    alpha=st.floats(0, 1.5),
    offset=st.floats(0, 4),
)
@settings(max_examples=30, deadline=None)
def test_the_alarm_is_silent_on_healthy_spectra(seed, n, width, alpha, offset):
    generator = torch.Generator().manual_seed(seed)
    x = (
        torch.randn(n, width, generator=generator)
        * torch.arange(1, width + 1) ** (-alpha / 2)
        @ rotation(width, generator)
    )
    common = torch.randn(width, generator=generator)
    assert collapsed(panel(x + offset * x.norm(dim=1).mean() * common / common.norm())) is None


@given(
    seed=seeds,
    n=st.integers(200, 1000),
    width=st.sampled_from([64, 96, 192]),
    rank=st.integers(1, 3),
    noise=st.floats(0, 1e-4),
)
@settings(max_examples=30, deadline=None)
def test_the_alarm_names_a_dimensional_collapse(seed, n, width, rank, noise):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, rank, generator=generator) @ torch.randn(rank, width, generator=generator)
    assert "dimensional collapse" in collapsed(panel(x + noise * torch.randn(n, width, generator=generator)))


@given(seed=seeds, width=st.sampled_from([64, 96, 192]), spread=st.floats(0, 0.04), scale=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_the_alarm_names_a_complete_collapse(seed, width, spread, scale):
    generator = torch.Generator().manual_seed(seed)
    x = scale * (torch.randn(width, generator=generator) + spread * torch.randn(500, width, generator=generator))
    assert "complete collapse" in collapsed(panel(x))


def test_the_alarm_names_features_that_shrink_to_zero_without_losing_directions():
    assert "feature_std" in collapsed(panel(1e-5 * torch.randn(300, 64, generator=torch.Generator().manual_seed(0))))


def test_each_threshold_decides_at_its_own_value():
    healthy = {"feature_std": 1.0, "cosine_to_mean": 0.1, "rankme": 30.0, "rank_share": 0.5}
    assert collapsed(healthy) is None
    for name, limit, bad_side in (
        ("feature_std", diagnostics.MIN_STD, 0.99),
        ("cosine_to_mean", diagnostics.MAX_COSINE, 1.00001),
    ):
        assert collapsed(healthy | {name: limit}) is None
        assert collapsed(healthy | {name: limit * bad_side}) is not None
        assert collapsed(healthy | {name: math.nan}) is not None
    assert collapsed(healthy | {"rankme": math.nan}) is not None


@pytest.mark.parametrize(("width", "limit"), [(4, 2.0), (32, 2.0), (64, 3.2), (96, 4.0), (1280, 4.0)])
def test_the_rank_limit_grows_with_the_width_between_two_and_four(width, limit):
    def alarm(rank):
        return collapsed({"feature_std": 1.0, "cosine_to_mean": 0.1, "rankme": rank, "rank_share": rank / width})

    assert alarm(limit * 1.01) is None and f"below {limit}" in alarm(limit * 0.99)


# The alarm over a run's history


PANELS = {
    "healthy": {"feature_std": 1.0, "cosine_to_mean": 0.1, "rankme": 30.0, "rank_share": 0.5},
    "few directions": {"feature_std": 1.0, "cosine_to_mean": 0.1, "rankme": 1.5, "rank_share": 0.025},
    "one point": {"feature_std": 0.0, "cosine_to_mean": 1.0, "rankme": 1.0, "rank_share": 0.017},
}


def history(*names):
    """A history with these panels, logged every 10 steps."""
    panels = [PANELS[name] for name in names]
    columns = {metric: [values[metric] for values in panels] for metric in PANELS["healthy"]}
    return {"step": [10 * i for i in range(1, len(names) + 1)], "loss": [0.5] * len(names), **columns}


def test_the_first_alarm_is_the_first_logged_step_that_collapses_with_its_reason():
    step, reason = first_alarm(history("healthy", "few directions", "healthy", "one point"))
    assert step == 20 and "dimensional collapse" in reason
    assert first_alarm(history("healthy", "healthy")) is None


def test_the_last_alarm_judges_the_last_step_alone():
    assert last_alarm(history("one point", "healthy")) is None
    assert "complete collapse" in last_alarm(history("healthy", "one point"))
