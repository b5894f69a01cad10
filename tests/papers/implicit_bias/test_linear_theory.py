"""Chapter 10's scalar theory: quadrature, closed forms and the paper's sums agree, and nonsense is refused."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lab.papers.implicit_bias import pairs, theory
from jepa_lab.papers.implicit_bias.paper import OBJECTIVES


def f64(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


RHO = f64(0.5, 1.0, 2.0)
ONE = torch.ones_like(RHO)

# measured once by an independent numpy program: depth, eps, t* of JEPA at rho = .5, 1, 2, t* of MAE (lam = 1, p = 1/2)
TABLE = [
    (1, 1e-2, (103.8, 102.6, 101.7), (3.7, 4.1, 4.4)),
    (2, 1e-2, (929, 786, 722), (17.2, 17.8, 18.2)),
    (2, 1e-4, (687489, 676871, 671717), (197, 198, 198)),
    (3, 1e-2, (2644, 1783, 1497), (30.4, 31.0, 31.4)),
    (5, 1e-6, (4.09e10, 3.77e10, 3.63e10), (78870, 78870, 78870)),
]


@pytest.mark.parametrize("depth, eps, jepa, mae", TABLE)
def test_critical_times_equal_an_independent_program(depth, eps, jepa, mae):
    assert torch.allclose(theory.critical_time("jepa", ONE, RHO, depth, eps), f64(*jepa), rtol=2e-3)
    assert torch.allclose(theory.critical_time("mae", ONE, RHO, depth, eps), f64(*mae), rtol=2e-2)


@given(st.floats(0.3, 3), st.floats(0.4, 1.5), st.integers(1, 5), st.floats(0.1, 0.9))
@settings(max_examples=25, deadline=None)
def test_quadrature_equals_the_implicit_closed_form(lam, rho, depth, fraction):
    eps = 0.2 * fraction * min(1, rho**depth)
    quadrature = theory.critical_time("jepa", f64(lam), f64(rho), depth, eps, fraction)
    end = theory.implicit_time(f64(fraction * rho**depth), f64(lam), f64(rho), depth)
    start = theory.implicit_time(f64(eps), f64(lam), f64(rho), depth)
    assert torch.allclose(quadrature, end - start, rtol=1e-9)


@pytest.mark.parametrize("objective, depth", list(product(OBJECTIVES, (1, 2, 4))))
def test_the_curve_solves_the_equation_and_ends_where_the_flow_stands_still(objective, depth):
    lam, rho = f64(0.7, 1.2), f64(0.6, 0.9)
    goal = theory.fixed_point(objective, rho, depth)
    assert theory.velocity(objective, goal, lam, rho, depth).abs().max() < 1e-14
    tau, share = theory.learning_curve(objective, lam, rho, depth, 1e-2, points=4001)
    wbar = share * goal[:, None]
    slope = (wbar[:, 2:] - wbar[:, :-2]) / (tau[:, 2:] - tau[:, :-2])
    expected = theory.velocity(objective, wbar[:, 1:-1], lam[:, None], rho[:, None], depth)
    assert ((slope - expected).abs() / expected.abs().amax(-1, keepdim=True)).max() < 1e-3
    assert (tau.diff() > 0).all()
    assert torch.allclose(share[:, -1], f64(0.999, 0.999))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_progress_at_a_critical_time_is_the_fraction(objective):
    lam, rho = f64(0.7, 1.2), f64(0.6, 0.9)
    times = theory.critical_time(objective, lam, rho, 3, 1e-2, 0.3)
    progress = theory.progress_at(times, objective, lam, rho, 3, 1e-2)
    assert progress.diagonal().tolist() == pytest.approx([0.3, 0.3], abs=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_the_papers_sum_matches_within_five_percent(depth):
    exact = theory.critical_time("jepa", ONE, RHO, depth, 1e-4)
    assert torch.allclose(theory.critical_time_sum("jepa", ONE, RHO, depth, 1e-4), exact, rtol=0.05)


def test_the_remainder_of_the_papers_sum_is_a_logarithm():
    remainders = []
    for eps in (1e-6, 1e-7, 1e-8):
        exact = theory.critical_time("jepa", ONE, RHO, 2, eps)
        remainders.append((exact - theory.critical_time_sum("jepa", ONE, RHO, 2, eps))[:2])
    first, second = torch.stack(remainders).diff(dim=0)  # a logarithm grows by the same amount per decade
    assert first.abs().min() > 1
    assert torch.allclose(first, second, rtol=0.02)


def test_rho_enters_the_sum_at_its_second_term():
    lead = theory.critical_time_sum("jepa", ONE, RHO, 4, 1e-3, terms=1)
    assert torch.equal(lead, lead[:1].expand(3))
    assert float(lead[0]) == pytest.approx(4 / (7 * 1e-3 ** (7 / 4)))
    two = theory.critical_time_sum("jepa", ONE, RHO, 4, 1e-3, terms=2)
    assert two[0] > two[1] > two[2]
    full = theory.critical_time_sum("jepa", ONE, RHO, 4, 1e-3)
    assert torch.equal(full, theory.critical_time_sum("jepa", ONE, RHO, 4, 1e-3, terms=7))
    assert (full > two).all()


def test_mae_sum_is_its_leading_term():
    assert theory.critical_time_sum("mae", 2 * ONE, RHO, 1, 1e-2)[0] == pytest.approx(4.60517 / 2)
    exact = theory.critical_time("mae", ONE, RHO, 4, 1e-8)
    assert torch.allclose(exact, theory.critical_time_sum("mae", ONE, RHO, 4, 1e-8), rtol=1e-5)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_rho_ratio_is_right_to_first_order_in_eps_to_the_one_over_depth(depth):
    def gap(eps):
        t = theory.critical_time("jepa", f64(1, 1), f64(0.5, 0.95), depth, eps)
        return float(t[0] / t[1] - theory.rho_ratio(f64(0.5), f64(0.95), depth, eps))

    assert abs(gap(1e-6) / gap(1e-8)) == pytest.approx(10 ** (4 / depth), rel=0.35)  # second order: eps^(2/L)


def test_the_rho_ratio_is_refused_at_depth_1():
    with pytest.raises(ValueError, match="depth >= 2"):
        theory.rho_ratio(f64(0.5), f64(0.95), 1, 1e-3)


def test_critical_times_are_inverse_in_lam():
    t = theory.critical_time("jepa", f64(1, 2), f64(0.7, 0.7), 3, 1e-3)
    assert float(t[0] / t[1]) == pytest.approx(2)


@pytest.mark.parametrize(
    "lam, rho, depth, eps, fraction, reason",
    [
        (1.0, 0.5, 2, 0.2, 0.5, "learned at time 0"),
        (0.0, 0.5, 2, 1e-3, 0.5, "lam must be positive"),
        (-1.0, 0.5, 2, 1e-3, 0.5, "lam must be positive"),
        (float("nan"), 0.5, 2, 1e-3, 0.5, "lam must be positive"),
        (1.0, -0.5, 2, 1e-3, 0.5, "rho must be positive"),
        (1.0, 0.5, 0, 1e-3, 0.5, "depth must be"),
        (1.0, 0.5, 2, 0.0, 0.5, "eps must be positive"),
        (1.0, 0.5, 2, 1e-3, 1.0, "fraction must lie"),
    ],
)
def test_features_that_make_no_sense_are_refused_with_the_reason(lam, rho, depth, eps, fraction, reason):
    with pytest.raises(ValueError, match=reason):
        theory.critical_time("jepa", f64(lam), f64(rho), depth, eps, fraction)


TURNED = pairs.rotate((torch.diag(f64(1, 2)), torch.diag(f64(0.9, 0.5))), 20.0)
LOPSIDED = torch.diag(f64(1, 1)), torch.tensor([[1.0, 0.3], [0.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("moments", [TURNED, LOPSIDED], ids=["turned", "lopsided"])
def test_covariances_without_a_common_basis_are_refused_by_the_scalar_theory(moments):
    with pytest.raises(ValueError, match="commute"):
        theory.diagonal_features(*moments)


def test_features_are_found_in_any_common_basis():
    turn, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    lam, var = f64(1.0, 0.7, 0.7, 0.4), f64(2.0, 1.0, 1.5, 1.5)
    sxx, syx = turn @ torch.diag(var) @ turn.T, turn @ torch.diag(lam) @ turn.T
    found_lam, found_rho, basis = theory.diagonal_features(sxx, syx)
    found = sorted(zip(found_lam.tolist(), found_rho.tolist()), key=lambda pair: pair[0] + 0.01 * pair[1])
    planted = sorted(zip(lam.tolist(), (lam / var).tolist()), key=lambda pair: pair[0] + 0.01 * pair[1])
    assert torch.allclose(f64(*found), f64(*planted))
    assert torch.allclose(basis.T @ basis, torch.eye(4, dtype=torch.float64), atol=1e-12)


def test_generalised_features_of_diagonal_covariances_are_the_diagonal_ones():
    lam, rho, duals = theory.generalised_features(torch.diag(f64(2.0, 1.0)), torch.diag(f64(1.0, 0.9)))
    assert torch.allclose(lam, f64(1.0, 0.9))
    assert torch.allclose(rho, f64(0.5, 0.9))
    assert torch.allclose(duals.abs(), torch.eye(2, dtype=torch.float64))


def test_generalised_features_solve_the_eigenproblem():
    sxx, syx = TURNED
    _, rho, duals = theory.generalised_features(sxx, syx)
    u = torch.linalg.inv(duals).mT
    assert torch.allclose(syx @ u, sxx @ u * rho)
    assert torch.allclose(u.norm(dim=0), f64(1, 1))
