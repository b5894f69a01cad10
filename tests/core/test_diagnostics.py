"""The collapse panel: each metric against a closed form, its invariances, edges and errors."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lab.diagnostics import (
    alpha_req,
    collapsed,
    cosine_to_mean,
    feature_std,
    lidar,
    panel,
    rankme,
    target_variance,
)

METRICS = (feature_std, target_variance, cosine_to_mean, rankme, alpha_req)
seeds = st.integers(0, 2**31)


def rotation(width, generator):
    return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q


def centred_with_spectrum(n, variances, seed=0):
    """[n, D] whose covariance has exactly these eigenvalues and whose mean is zero."""
    generator = torch.Generator().manual_seed(seed)
    variances = torch.as_tensor(variances, dtype=torch.float64)
    raw = torch.randn(n, len(variances), generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(raw - raw.mean(0)).Q
    return basis * (variances * (n - 1)).sqrt() @ rotation(len(variances), generator).T


def entropy_rank(weights):
    p = [w / sum(weights) for w in weights]
    return math.exp(-sum(q * math.log(q) for q in p if q > 0))


def production(function):
    """The function without the shape checks of the test suite: its own errors are what users see."""
    return inspect.unwrap(function)


# Closed forms


@given(sigma=st.lists(st.floats(0.01, 100), min_size=2, max_size=24))
@settings(max_examples=50, deadline=None)
def test_rankme_equals_eq_1_on_a_known_spectrum(sigma):
    x = centred_with_spectrum(60, [s * s for s in sigma])
    assert float(rankme(x)) == pytest.approx(entropy_rank(sigma), rel=1e-4)


@given(n=st.integers(2, 80), width=st.integers(1, 60), seed=seeds)
@settings(max_examples=40, deadline=None)
def test_rankme_from_the_gram_matrix_equals_the_svd_of_float32_features(n, width, seed):
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    assert float(rankme(x)) == pytest.approx(entropy_rank(torch.linalg.svdvals(x.double()).tolist()), rel=1e-3)


@pytest.mark.parametrize("rank", [1, 2, 7, 32])
def test_rankme_counts_equal_directions(rank):
    assert float(rankme(centred_with_spectrum(100, [1.0] * rank + [0.0] * (32 - rank)))) == pytest.approx(
        rank, rel=1e-3
    )


@given(alpha=st.floats(0.0, 3.0), width=st.integers(3, 96), scale=st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_alpha_req_recovers_an_exact_power_law(alpha, width, scale):
    x = centred_with_spectrum(200, [scale * i**-alpha for i in range(1, width + 1)])
    assert float(alpha_req(x)) == pytest.approx(alpha, abs=1e-5)


def test_feature_std_and_target_variance_of_known_columns():
    x = torch.tensor([[1.0, 10.0], [3.0, 10.0], [5.0, 16.0]])
    assert float(feature_std(x)) == pytest.approx((2 + math.sqrt(12)) / 2)
    assert float(target_variance(x)) == pytest.approx((4 + 12) / 2)


def test_cosine_to_mean_of_known_vectors():
    assert float(cosine_to_mean(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))) == pytest.approx(math.sqrt(0.5))
    assert float(cosine_to_mean(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))) == 0.0


def lidar_classes(between, within, shift=0.0):
    """[n, q, D] with between-class covariance diag(between) and within-class covariance diag(within), exactly."""
    width = len(between)
    signs = torch.cat([torch.eye(width), -torch.eye(width)]).double() * width**0.5  # covariance 1 over 2 D rows
    means = signs * torch.tensor(between, dtype=torch.float64).sqrt()
    return means[:, None] + (signs * torch.tensor(within, dtype=torch.float64).sqrt())[None] + shift


@given(data=st.data(), width=st.integers(2, 10))
@settings(max_examples=40, deadline=None)
def test_lidar_equals_its_definition_on_a_known_class_structure(data, width):
    between = data.draw(st.lists(st.floats(0.05, 20), min_size=width, max_size=width))
    within = data.draw(st.lists(st.floats(1e-5, 1e-2), min_size=width, max_size=width))  # around delta = 1e-4 and above
    expected = entropy_rank([b / (w + 1e-4) for b, w in zip(between, within)])
    assert float(lidar(lidar_classes(between, within))) == pytest.approx(expected, rel=1e-3)


def test_lidar_ignores_directions_in_which_views_of_one_sample_differ_as_much():
    clean = lidar_classes([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    noisy = lidar_classes([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1e4, 1e4])
    assert float(lidar(clean)) == pytest.approx(4, rel=1e-3) and float(lidar(noisy)) == pytest.approx(2, rel=0.01)


# Invariances


@given(seed=seeds, n=st.integers(5, 60), width=st.integers(3, 24))
@settings(max_examples=40, deadline=None)
def test_metrics_keep_the_invariances_their_table_states(seed, n, width):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, width, generator=generator, dtype=torch.float64) * torch.arange(1, width + 1) ** -0.5 + 0.3
    turned, moved, scaled = x @ rotation(width, generator), x + torch.randn(width, generator=generator), 7.3 * x
    for metric, same in (
        (feature_std, (moved,)),
        (target_variance, (moved, turned)),
        (cosine_to_mean, (scaled, turned)),
        (rankme, (scaled, turned)),
        (alpha_req, (moved, turned, scaled)),
    ):
        for other in same:
            assert float(metric(other)) == pytest.approx(float(metric(x)), rel=1e-6, abs=1e-9), metric.__name__
    views = torch.randn(n, 3, width, generator=generator, dtype=torch.float64)
    for other in (views @ rotation(width, generator), views + 5.0):
        assert float(lidar(other)) == pytest.approx(float(lidar(views)), rel=1e-6)


# Edges


@pytest.mark.parametrize("value", [0.0, 1.0, -0.3, 1e6, 1e-12])
@pytest.mark.parametrize("shape", [(2, 1), (3, 64), (500, 64)])
def test_constant_features_give_the_collapsed_end_of_every_scale(value, shape):
    x = torch.full(shape, value)
    p = panel(x, views=x[:, None].expand(-1, 3, -1))
    assert p["feature_std"] == 0 and p["target_variance"] == 0
    assert p["cosine_to_mean"] == pytest.approx(1) and p["rankme"] == pytest.approx(1, abs=1e-3)
    assert p["lidar"] == pytest.approx(1, abs=1e-3)
    assert p["alpha_req"] > 5 or shape[1] == 1 or shape[0] == 2
    assert "complete collapse" in collapsed(p)


def test_rounding_around_a_constant_counts_as_constant():
    x = torch.full((400, 32), 0.7) * (1 + 1e-7 * torch.randn(400, 32, generator=torch.Generator().manual_seed(0)))
    p = panel(x)
    assert p["feature_std"] == 0 and p["alpha_req"] > 5


def test_fewer_samples_than_width_is_judged_by_what_is_possible():
    p = panel(torch.randn(20, 200, generator=torch.Generator().manual_seed(0)))
    assert 17 < p["rankme"] < 20 and p["rank_share"] == pytest.approx(p["rankme"] / 20) and collapsed(p) is None


def test_panel_is_the_metrics_read_back_once():
    x = torch.randn(100, 12, generator=torch.Generator().manual_seed(0)) + 1
    views = x.unflatten(0, (20, 5))
    p = panel(x, views)
    assert {m.__name__: pytest.approx(float(m(x)), rel=1e-9) for m in METRICS} == {
        m.__name__: p[m.__name__] for m in METRICS
    }
    assert p["lidar"] == float(lidar(views)) and "lidar" not in panel(x)
    assert all(type(v) is float for v in p.values())


@pytest.mark.parametrize("metric", [*METRICS, lidar], ids=lambda m: m.__name__)
def test_metrics_never_wait_for_the_device(metric, monkeypatch):
    x = torch.randn((40, 4, 8) if metric is lidar else (40, 8))
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "nonzero", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"Tensor.{name} reads back"))
    metric(x)


@pytest.mark.parametrize("metric", [*METRICS, lidar], ids=lambda m: m.__name__)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_number_is_never_hidden(metric, bad):
    x = torch.randn(40, 3, 8, generator=torch.Generator().manual_seed(0))
    x[3, 1, 2] = bad
    assert math.isnan(float(metric(x if metric is lidar else x[:, 1])))


def test_metrics_accept_half_precision_and_graphs_and_return_plain_scalars():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    for metric in METRICS:
        out = metric(x.bfloat16().requires_grad_())
        assert out.shape == () and out.is_floating_point() and not out.requires_grad
        assert float(out) == pytest.approx(float(metric(x)), rel=0.02)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.randn(4, 5, 6), "pool or flatten"),
        (torch.randn(5), "pool or flatten"),
        (torch.randn(1, 6), "at least 2 samples"),
        (torch.randn(0, 6), "at least 2 samples"),
        (torch.randn(6, 0), "at least 2 samples"),
        (torch.ones(6, 6, dtype=torch.long), "floating point"),
    ],
)
def test_bad_features_are_refused_with_the_reason(features, message):
    for function in (*METRICS, panel):
        with pytest.raises(ValueError, match=message):
            production(function)(features)


def test_bad_values_and_views_are_refused_with_the_reason():
    x = torch.randn(6, 3)
    with pytest.raises(ValueError, match="NaN or Inf"):
        production(panel)(x.index_fill(0, torch.tensor([2]), math.nan))
    with pytest.raises(ValueError, match="at least 2 views"):
        production(lidar)(x[:, None])
    with pytest.raises(ValueError, match=r"\[n q D\]"):
        production(lidar)(x)
