"""Chapter 10's experiments: every claim is measured, orders invert where the chapter says, figures are drawn."""

import pytest
import torch

from jepa_lab.papers.implicit_bias import breaks, experiments, extensions, pages, paper, relu, theory
from jepa_lab.papers.implicit_bias.pairs import Views

TINY = paper.preset(
    "smoke", step_fraction=0.2, num_seeds=2, random_seeds=2, num_records=60, relu_steps=30, num_patches=200
)


def f64(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(scope="module")
def measured():
    """Every experiment at the smallest size."""
    images = torch.randint(0, 256, (30, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return {
        "flow": experiments.flow(TINY, 0),
        "sweep": experiments.depth_sweep(TINY, 0),
        "formula": experiments.formula(TINY),
        "inversion": experiments.inversion(TINY, 0),
        "noisy": experiments.noisy_features(TINY, 0),
        "start": experiments.random_start(TINY, 0),
        "turned": extensions.turned_covariances(TINY, 0),
        "ema": extensions.ema_target(TINY, 0),
        "relu": extensions.relu_encoder(TINY, 0),
        "patches": extensions.patches(TINY, 0, images),
    }


def test_every_claim_is_measured_once(measured):
    found = [claim_id for m in measured.values() for claim_id in m.claims]
    assert sorted(found) == sorted(claim.id for claim in paper.CLAIMS)
    numbers = f64(*(pair for m in measured.values() for pair in m.claims.values()))
    assert numbers.isfinite().all()


def test_a_seed_decides_the_result(measured):
    assert extensions.relu_encoder(TINY, 0).claims == measured["relu"].claims
    assert extensions.relu_encoder(TINY, 1).claims != measured["relu"].claims


def test_the_values_are_the_means_that_the_claims_compare(measured):
    values, claims = measured["noisy"].values, measured["noisy"].claims
    assert set(values) == {
        f"{m} {o} depth {L}" for m in ("temporal", "static") for o in paper.OBJECTIVES for L in (1, 2)
    }
    assert claims["temporal-mae"][0] == max(values["temporal mae depth 1"], values["temporal mae depth 2"])
    assert claims["temporal-jepa"][0] == values["temporal jepa depth 2"]
    assert claims["temporal-shallow"][0] == values["temporal jepa depth 1"]


def test_the_order_inverts_where_the_chapter_says_and_not_elsewhere():
    lam, rho = paper.features(paper.INVERTED)
    for depth, eps, agreement in ((4, 1e-2, -1), (1, 1e-2, 1), (4, 1e-6, 1)):
        times = [theory.critical_time(o, lam, rho, depth, eps) for o in paper.OBJECTIVES]
        assert experiments.kendall_tau(*times) == agreement


def test_kendalls_tau_counts_pairs():
    assert experiments.kendall_tau(f64(1, 2, 3, 4), f64(1, 2, 4, 3)) == pytest.approx((5 - 1) / 6)


def test_the_phase_diagram_flips_with_depth_and_is_blank_where_the_theory_refuses():
    grid = experiments.phase_diagram((1, 4, 6, 8), (-6.0, -3.0, -1.0))
    assert grid["jepa"][0, 1] < 1 < grid["jepa"][2, 1]
    assert (grid["mae"][~grid["mae"].isnan()] < 1).all()
    assert grid["jepa"][2, 0] < 1  # depth 6 does not flip it at eps = 1e-6
    assert grid["jepa"][1:, 2].isnan().all()
    assert not grid["jepa"][0].isnan().any()


@pytest.mark.parametrize("name", ["smoke", "laptop", "gpu", "paper"])
def test_every_preset_is_accepted_by_the_theory(name):
    cfg = paper.preset(name)
    noisy = [Views(*paper.features(family)) for family in (paper.TEMPORAL, paper.STATIC)]
    for lam, rho in (paper.features(paper.EQUAL_LAM), *((views.lam, views.rho) for views in noisy)):
        for depth in cfg.depths:
            theory.check(lam, rho, depth, cfg.eps, cfg.fraction)


def test_unknown_presets_and_options_are_refused_with_the_list():
    with pytest.raises(ValueError, match="laptop"):
        paper.preset("huge")
    with pytest.raises(ValueError, match="num_seeds"):
        paper.preset("smoke", seeds=3)


def test_auto_skips_a_gpu_without_float64(monkeypatch):
    monkeypatch.setattr(paper.runtime, "choose_device", lambda device: "mps" if device == "auto" else device)
    assert paper.choose_device("auto") == "cpu"
    assert paper.choose_device("cuda") == "cuda"


def test_cheap_breaks_do_break():
    assert breaks.eps_too_large(*paper.features(paper.PAIR), 4, 1e-3).broken < 0.1
    shallow = breaks.shallow(Views(*paper.features(paper.TEMPORAL)), 1e-2)
    assert shallow.broken < 1 < shallow.healthy


def test_figures_say_in_words_what_they_show(measured):
    _, rho = paper.features(paper.EQUAL_LAM)
    views = Views(*paper.features(paper.TEMPORAL))
    x, _ = views.sample(1, 50, torch.Generator().manual_seed(0))
    figures = [
        pages.flow_errors(measured["flow"], TINY),
        pages.flow_curves(measured["flow"], TINY, rho),
        pages.spread_over_depth(measured["sweep"], TINY),
        pages.rho_effect_over_eps((2,)),
        pages.collapse_along_training(measured["noisy"], views.rho, x[0], TINY),
        pages.temporal_ratios([], measured["noisy"].values, TINY),
        pages.learned_in_time(measured["start"], rho, TINY),
        pages.order_over_angle(measured["turned"], TINY),
        pages.order_over_memory(measured["ema"], TINY),
        pages.noise_in_relu_code(measured["relu"]),
        pages.patch_times(measured["patches"], TINY),
    ]
    for figure in figures:
        assert len(figure.data) > 0
        assert len(figure.layout.meta["description"]) > 20


VIEWS = Views(f64(0.9, 1.0), f64(1.2, 0.8), f64(2.0, 0.1))


def test_the_relu_code_is_read_in_its_linear_part():
    eye = torch.eye(2, dtype=torch.float64)[None]
    x, _ = VIEWS.sample(1, 20_000, torch.Generator().manual_seed(0))
    assert torch.allclose(relu.linear_gain([2 * eye], VIEWS, x), f64(2, 2)[None], atol=0.1)  # one layer: no ReLU
    assert torch.allclose(relu.linear_gain([eye, eye], VIEWS, x), f64(0.5, 0.5)[None], atol=0.05)  # a ReLU halves it


def test_a_wild_step_of_the_relu_encoder_is_refused():
    wild = dict(depth=2, hidden=4, eps=0.1, num_seeds=1, batch_size=8, step_size=100.0, num_steps=60, num_records=10)
    with pytest.raises(ValueError, match="unstable"):
        relu.descend_relu("mae", VIEWS, **wild, generator=torch.Generator().manual_seed(0))
