"""Chapter 10: theory, hand-written gradients and batched simulation agree to numbers, and nonsense is refused."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_lab.papers.implicit_bias import nets, paper, theory
from jepa_lab.papers.implicit_bias import pairs as data
from jepa_lab.papers.implicit_bias import relu as relu_nets


def f64(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


RHO = f64(0.5, 1.0, 2.0)
ONE = torch.ones_like(RHO)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny matrices gain nothing from threads, and waiting for one another they lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- the scalar theory -----------------------------------------------------------------------------

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
    eps = 0.2 * fraction * rho**depth if rho < 1 else 0.2 * fraction
    quad = theory.critical_time("jepa", f64(lam), f64(rho), depth, eps, fraction)
    goal = f64(fraction * rho**depth)
    closed = theory.implicit_time(goal, f64(lam), f64(rho), depth) - theory.implicit_time(
        f64(eps), f64(lam), f64(rho), depth
    )
    assert torch.allclose(quad, closed, rtol=1e-9)


@pytest.mark.parametrize("objective, depth", list(product(paper.OBJECTIVES, (1, 2, 4))))
def test_the_curve_solves_the_equation_and_ends_where_the_flow_stands_still(objective, depth):
    lam, rho = f64(0.7, 1.2), f64(0.6, 0.9)
    goal = theory.fixed_point(objective, rho, depth)
    assert theory.velocity(objective, goal, lam, rho, depth).abs().max() < 1e-14
    tau, share = theory.learning_curve(objective, lam, rho, depth, 1e-2, points=4001)
    wbar = share * goal[:, None]
    slope = (wbar[:, 2:] - wbar[:, :-2]) / (tau[:, 2:] - tau[:, :-2])
    expected = theory.velocity(objective, wbar[:, 1:-1], lam[:, None], rho[:, None], depth)
    assert ((slope - expected).abs() / expected.abs().amax(-1, keepdim=True)).max() < 1e-3
    assert (tau.diff() > 0).all() and torch.allclose(share[:, -1], f64(0.999, 0.999))


@pytest.mark.parametrize("objective", paper.OBJECTIVES)
def test_progress_at_a_critical_time_is_the_fraction(objective):
    lam, rho = f64(0.7, 1.2), f64(0.6, 0.9)
    for i, t in enumerate(theory.critical_time(objective, lam, rho, 3, 1e-2, 0.3)):
        assert theory.progress_at(t[None], objective, lam, rho, 3, 1e-2)[i, 0] == pytest.approx(0.3, abs=1e-5)


def test_the_papers_sum_matches_within_five_percent_and_its_remainder_is_a_logarithm():
    for depth in (1, 2, 3, 5):
        exact, told = (f("jepa", ONE, RHO, depth, 1e-4) for f in (theory.critical_time, theory.critical_time_sum))
        assert ((told - exact).abs() / exact).max() < 0.05
    rest = [
        (theory.critical_time("jepa", ONE, RHO, 2, e) - theory.critical_time_sum("jepa", ONE, RHO, 2, e))[:2]
        for e in (1e-6, 1e-7, 1e-8)
    ]
    steps = [b - a for a, b in zip(rest, rest[1:])]  # a logarithm grows by the same amount per decade
    assert torch.allclose(steps[0], steps[1], rtol=0.02)


def test_rho_enters_the_sum_at_its_second_term():
    lead = theory.critical_time_sum("jepa", ONE, RHO, 4, 1e-3, terms=1)
    assert torch.equal(lead, lead[:1].expand(3)) and float(lead[0]) == pytest.approx(4 / (7 * 1e-3 ** (7 / 4)))
    two = theory.critical_time_sum("jepa", ONE, RHO, 4, 1e-3, terms=2)
    assert two[0] > two[1] > two[2]
    full = theory.critical_time_sum("jepa", ONE, RHO, 4, 1e-3)
    assert torch.allclose(full, theory.critical_time_sum("jepa", ONE, RHO, 4, 1e-3, terms=7)) and (full > two).all()


def test_mae_sum_is_its_leading_term():
    assert theory.critical_time_sum("mae", 2 * ONE, RHO, 1, 1e-2)[0] == pytest.approx(4.60517 / 2)
    assert torch.allclose(
        theory.critical_time("mae", ONE, RHO, 4, 1e-8), theory.critical_time_sum("mae", ONE, RHO, 4, 1e-8), rtol=1e-5
    )


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_rho_ratio_is_right_to_first_order_in_eps_to_the_one_over_depth(depth):
    def gap(eps):
        t = theory.critical_time("jepa", f64(1, 1), f64(0.5, 0.95), depth, eps)
        return float(t[0] / t[1] - theory.rho_ratio(f64(0.5), f64(0.95), depth, eps))

    assert abs(gap(1e-6) / gap(1e-8)) == pytest.approx(10 ** (4 / depth), rel=0.35)  # second order: eps^(2/L)


def test_critical_times_are_inverse_in_lam():
    t = theory.critical_time("jepa", f64(1, 2), f64(0.7, 0.7), 3, 1e-3)
    assert float(t[0] / t[1]) == pytest.approx(2)


@pytest.mark.parametrize(
    "lam, rho, depth, eps, fraction, reason",
    [
        ((1.0,), (0.5,), 2, 0.2, 0.5, "learned at time 0"),
        ((0.0,), (0.5,), 2, 1e-3, 0.5, "lam must be positive"),
        ((-1.0,), (0.5,), 2, 1e-3, 0.5, "lam must be positive"),
        ((float("nan"),), (0.5,), 2, 1e-3, 0.5, "lam must be positive"),
        ((1.0,), (-0.5,), 2, 1e-3, 0.5, "rho must be positive"),
        ((1.0,), (0.5,), 0, 1e-3, 0.5, "depth must be"),
        ((1.0,), (0.5,), 2, 0.0, 0.5, "eps must be positive"),
        ((1.0,), (0.5,), 2, 1e-3, 1.0, "fraction must lie"),
    ],
)
def test_features_that_make_no_sense_are_refused_with_the_reason(lam, rho, depth, eps, fraction, reason):
    with pytest.raises(ValueError, match=reason):
        theory.critical_time("jepa", f64(*lam), f64(*rho), depth, eps, fraction) if fraction < 1 else theory.check(
            f64(*lam), f64(*rho), depth, eps, fraction
        )


def test_covariances_that_do_not_commute_are_refused_by_the_scalar_theory():
    sxx, syx = data.rotate((torch.diag(f64(1, 2)), torch.diag(f64(0.9, 0.5))), 20.0)
    with pytest.raises(ValueError, match="commute"):
        theory.diagonal_features(sxx, syx)
    with pytest.raises(ValueError, match="commute"):
        theory.diagonal_features(torch.diag(f64(1, 1)), torch.tensor([[1.0, 0.3], [0.0, 1.0]], dtype=torch.float64))


def test_features_are_found_in_any_common_basis():
    turn, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    lam, var = f64(1.0, 0.7, 0.7, 0.4), f64(2.0, 1.0, 1.5, 1.5)
    found_lam, found_rho, basis = theory.diagonal_features(
        turn @ torch.diag(var) @ turn.T, turn @ torch.diag(lam) @ turn.T
    )
    found, planted = (
        torch.stack(pair, 1)[(pair[0] + 0.01 * pair[1]).argsort()]
        for pair in ((found_lam, found_rho), (lam, lam / var))
    )
    assert torch.allclose(found, planted)
    assert torch.allclose(basis.T @ basis, torch.eye(4, dtype=torch.float64), atol=1e-12)


def test_generalised_features_are_dual_and_reduce_to_the_diagonal_ones():
    lam, rho, duals = theory.generalised_features(torch.diag(f64(2.0, 1.0)), torch.diag(f64(1.0, 0.9)))
    assert (
        torch.allclose(lam, f64(1.0, 0.9))
        and torch.allclose(rho, f64(0.5, 0.9))
        and torch.allclose(duals.abs(), torch.eye(2, dtype=torch.float64))
    )
    sxx, syx = data.rotate((torch.diag(f64(1, 2)), torch.diag(f64(0.9, 0.5))), 20.0)
    lam, rho, duals = theory.generalised_features(sxx, syx)
    u = torch.linalg.inv(duals).mT
    assert torch.allclose(syx @ u, sxx @ u * rho) and torch.allclose(u.norm(dim=0), f64(1, 1))


# ---- matrices ---------------------------------------------------------------------------------------


def mixed(dim: int = 5, seed: int = 0) -> tuple[nets.Nets, data.Moments]:
    """Six random nets of depth 1, 2, 3 and both objectives with one full, lopsided pair of moments each."""
    generator = torch.Generator().manual_seed(seed)
    jepa, depth = torch.tensor([True, False] * 3), torch.tensor([1, 1, 2, 2, 3, 3])
    some = nets.random_init(jepa, depth, torch.arange(6), dim, 0.5, generator)
    x, y = torch.randn(2, 6, 40, dim, dtype=torch.float64, generator=generator)
    return some, (x.mT @ x / 40, (y + x).mT @ x / 40)


def autograd(some: nets.Nets, moments: data.Moments, run: int, detach: bool = True) -> list[torch.Tensor]:
    params = [w[run].clone().requires_grad_() for w in (*some.layers[: int(some.depth[run])], some.predictor)]
    wbar = nets.products(params[:-1])[-1]
    target = wbar if some.jepa[run] else torch.eye(len(wbar), dtype=wbar.dtype)
    target = target.detach() if detach else target
    sxx, syx = moments[0][run], moments[1][run]
    guess = params[-1] @ wbar
    loss = 0.5 * torch.trace(guess @ sxx @ guess.T) - torch.trace(guess @ syx.T @ target.T)
    return list(torch.autograd.grad(loss, params))


@pytest.mark.parametrize("run", range(6))
def test_gradients_by_hand_equal_autograd_with_a_detached_target(run):
    some, moments = mixed()
    grads, grad_v = nets.gradients(some, moments)
    mine = [g[run] for g in grads[: int(some.depth[run])]] + [grad_v[run]]
    for hand, auto in zip(mine, autograd(some, moments, run), strict=True):
        assert torch.allclose(hand, auto, atol=1e-12)


def test_without_the_stop_gradient_the_gradient_is_another():
    some, moments = mixed()
    grads, _ = nets.gradients(some, moments)
    assert not torch.allclose(grads[0][0], autograd(some, moments, 0, detach=False)[0], atol=1e-3)


def balanced(depths=(1, 2, 3), seeds: int = 2, dim: int = 4, eps: float = 1e-2) -> nets.Nets:
    depth = torch.tensor(depths).repeat_interleave(seeds)
    seed = torch.arange(seeds).repeat(len(depths))
    return nets.balanced_init(
        torch.ones_like(depth, dtype=torch.bool), depth, seed, dim, eps, torch.Generator().manual_seed(0)
    )


def balances(some: nets.Nets) -> torch.Tensor:
    """W^(a+1)^T W^(a+1) - W^a W^a^T of every neighbouring pair of layers, V closing the chain."""
    out = []
    for run, L in enumerate(some.depth.tolist()):
        chain = [w[run] for w in some.layers[:L]] + [some.predictor[run]]
        out += [b.T @ b - a @ a.T for a, b in zip(chain, chain[1:])]
    return torch.stack(out)


def test_a_balanced_start_is_diagonal_end_to_end_balanced_and_random_inside():
    some = balanced()
    wbar = nets.products(some.layers)[-1]
    assert (
        torch.allclose(wbar, 1e-2 * torch.eye(4, dtype=torch.float64).expand(6, 4, 4), atol=1e-14)
        and balances(some).abs().max() < 1e-12
    )
    assert (some.layers[0][4] - some.layers[0][5]).abs().max() > 1e-3  # two seeds of depth 3


@pytest.mark.parametrize("jepa", [True, False])
def test_balanced_layers_stay_balanced_and_any_imbalance_is_conserved_up_to_the_step(jepa):
    moments = data.views_of(f64(1, 1, 1, 1, 1), f64(0.5, 0.6, 0.7, 0.8, 0.95)).moments()
    level = replace(balanced(dim=5, eps=0.3), jepa=torch.full((6,), jepa))
    assert (
        balances(nets.train(level, moments, torch.full((6,), 0.1, dtype=torch.float64), 100, 100).nets).abs().max()
        < 1e-12
    )
    some, drift = replace(mixed()[0], jepa=torch.full((6,), jepa)), []
    for step in (0.02, 0.01):
        end = nets.train(some, moments, torch.full((6,), step, dtype=torch.float64), round(3 / step), 1000).nets
        drift.append(float((balances(end) - balances(some)).abs().max()))
    assert 0 < drift[0] < 0.05 and drift[0] / drift[1] == pytest.approx(2, rel=0.1)


def test_layers_above_a_nets_depth_stay_the_identity():
    some, moments = mixed()
    end = nets.train(some, moments, torch.full((6,), 0.05, dtype=torch.float64), 20, 20).nets
    assert torch.equal(end.layers[2][0], torch.eye(5, dtype=torch.float64)) and torch.equal(
        end.layers[1][1], torch.eye(5, dtype=torch.float64)
    )


def test_a_batched_run_equals_the_plain_autograd_loop():
    some, _ = mixed()
    x, y = torch.randn(2, 40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    end = nets.train(some, (x.T @ x / 40, y.T @ x / 40), torch.full((6,), 0.05, dtype=torch.float64), 60, 60).nets
    for run in (4, 5):  # depth 3: every layer is there
        for batched, alone in zip(
            (*end.layers, end.predictor), nets.plain_train(some, run, x, y, 0.05, 60), strict=True
        ):
            assert torch.allclose(batched[run], alone, atol=1e-12)


def test_a_run_does_not_see_its_batch_mates():
    some, (sxx, syx) = mixed()
    steps = torch.linspace(0.02, 0.05, 6, dtype=torch.float64)
    together = nets.train(some, (sxx, syx), steps, 30, 10)
    for run in range(6):
        one = torch.tensor([run])
        alone = nets.train(some.select(one), (sxx[one], syx[one]), steps[one], 30, 10)
        assert torch.allclose(together.gain[:, run], alone.gain[:, 0], rtol=1e-12)


def test_the_arms_of_a_seed_share_their_random_start():
    some = nets.random_init(
        torch.tensor([True, False]),
        torch.tensor([2, 2]),
        torch.tensor([1, 1]),
        3,
        0.1,
        torch.Generator().manual_seed(0),
    )
    assert torch.equal(some.layers[0][0], some.layers[0][1]) and torch.equal(some.predictor[0], some.predictor[1])


CFG = paper.preset("laptop", num_seeds=2, num_records=200)


def test_matrices_follow_the_equations_and_the_error_halves_with_the_step():
    out = paper.flow(replace(CFG, num_seeds=1, depths=(1, 2)), seed=0)
    assert out.claims["flow-error"][0] < 0.03 and out.claims["flow-order"][0] < 0.1


def test_simulated_critical_times_equal_quadrature():
    lam, rho = f64(1, 1), f64(0.6, 0.9)
    sim = nets.simulate(
        "jepa",
        lam,
        rho,
        (1, 2),
        torch.Generator().manual_seed(0),
        eps=1e-2,
        fraction=0.5,
        step_fraction=0.04,
        num_seeds=1,
        num_records=400,
    )
    for i, L in enumerate((1, 2)):
        assert torch.allclose(L * sim.critical[i, 0], theory.critical_time("jepa", lam, rho, L, 1e-2), rtol=0.01)


@pytest.mark.parametrize("objective, depth", list(product(paper.OBJECTIVES, (1, 3))))
def test_the_largest_step_is_the_edge_of_stability(objective, depth):
    lam, rho = f64(0.8), f64(0.9)
    edge = float(theory.largest_step(objective, lam, rho, depth)[0])
    gap = []
    for share in (0.95, 1.05):
        start = nets.balanced_init(
            torch.tensor([objective == "jepa"]),
            torch.tensor([depth]),
            torch.tensor([0]),
            1,
            0.999 * float(theory.fixed_point(objective, rho, depth)),
            torch.Generator().manual_seed(0),
        )
        # start beside the fixed point: below the edge it is reached, above it steps move away
        end = nets.train(start, (torch.diag(lam / rho), torch.diag(lam)), f64(share * edge), 60, 60)
        gap.append(
            abs(
                float(
                    (
                        end.nets.predictor[0, 0, 0] * end.gain[-1, 0, 0]
                        if objective == "mae"
                        else end.nets.predictor[0, 0, 0]
                    )
                    - rho[0]
                )
            )
        )
    assert gap[0] < gap[1]


def test_an_unstable_step_is_refused_and_a_diverging_run_says_so():
    with pytest.raises(ValueError, match="unstable"):
        nets.simulate(
            "jepa",
            f64(1, 1),
            f64(0.6, 0.9),
            (2,),
            torch.Generator(),
            eps=1e-2,
            fraction=0.5,
            step_fraction=2.0,
            num_seeds=1,
            num_records=10,
        )
    with pytest.raises(ValueError, match="diverged"):
        nets.train(
            balanced(),
            data.views_of(f64(1, 1, 1, 1), f64(0.5, 0.65, 0.8, 0.95)).moments(),
            torch.full((6,), 50.0, dtype=torch.float64),
            2000,
            500,
        )


def test_crossings_are_interpolated_and_inf_when_never():
    times = f64(0, 1, 2)[:, None]
    trace = nets.Trace(times, torch.stack((f64(0, 1, 4), f64(0, 0, 0.5)), -1)[:, None], balanced())
    assert nets.crossing_time(trace, f64(2, 2)[None]).tolist() == [[pytest.approx(4 / 3), float("inf")]]


def test_an_ema_target_with_no_memory_is_the_same_weights():
    some, moments = mixed()
    steps = torch.full((6,), 0.05, dtype=torch.float64)
    plain = nets.train(some, moments, steps, 30, 30).gain[-1]
    zero = nets.train(some, moments, steps, 30, 30, ema_decay=torch.zeros(6, dtype=torch.float64)).gain[-1]
    slow = nets.train(some, moments, steps, 30, 30, ema_decay=torch.full((6,), 0.99, dtype=torch.float64)).gain[-1]
    assert torch.allclose(plain, zero) and not torch.allclose(plain[::2], slow[::2], rtol=1e-3)
    assert torch.allclose(plain[1::2], slow[1::2])  # MAE has no target encoder


def test_the_bench_compares_the_same_training():
    found = nets.bench_ensemble(num_seeds=32, num_steps=20)
    assert found["largest_difference"] < 1e-12 and found["ratio"] > 4  # the notebook shows the real size


# ---- data -------------------------------------------------------------------------------------------

VIEWS = data.Views(f64(0.9, 1.0), f64(1.2, 0.8), f64(2.0, 0.1))


def test_sampled_views_have_the_stated_moments():
    x, y = VIEWS.sample(1, 200_000, torch.Generator().manual_seed(0))
    sxx, syx = VIEWS.moments()
    assert torch.allclose(x[0].T @ x[0] / 200_000, sxx, atol=0.03) and torch.allclose(
        y[0].T @ x[0] / 200_000, syx, atol=0.03
    )
    assert torch.allclose(y[0].T @ y[0] / 200_000, sxx, atol=0.03)  # stationary


def test_minibatches_drawn_as_moments_have_the_law_of_minibatches_of_pairs():
    seed = torch.arange(2000)
    direct = data.minibatches(VIEWS.sample, seed, 16, torch.Generator().manual_seed(0))(0)
    drawn = data.gaussian_minibatches(VIEWS, seed, 16, torch.Generator().manual_seed(1))(0)
    for a, b in zip(direct, drawn):
        assert torch.allclose(a.mean(0), b.mean(0), atol=5 * float(a.std(0).max()) * 2**0.5 / 2000**0.5)
        assert torch.allclose(a.std(0), b.std(0), rtol=0.15)


def test_a_seed_gives_the_same_batches_and_another_seed_others():
    def draw(k):
        moments = data.gaussian_minibatches(VIEWS, torch.tensor([0, 1, 0]), 8, torch.Generator().manual_seed(k))
        return [moments(step)[0] for step in range(300)]  # beyond one chunk

    a, b, c = draw(0), draw(0), draw(1)
    assert all(map(torch.equal, a, b)) and not torch.equal(a[0], c[0]) and len({float(m[0, 0, 0]) for m in a}) == 300
    assert torch.equal(a[0][0], a[0][2]) and not torch.equal(a[0][0], a[0][1])


def test_views_with_rho_above_one_are_refused():
    with pytest.raises(ValueError, match="rho <= 1"):
        data.views_of(f64(1.0), f64(1.2))


def test_banding_lowers_rho_and_patches_come_from_the_images():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 28, 28), generator=generator).to(torch.uint8)
    quiet, loud = (
        theory.generalised_features(*data.banded_patches(images, 2, 400, generator, band_std=b))[1] for b in (0.01, 2.0)
    )
    assert quiet.shape == (2, 6) and quiet.min() > 0.9 and loud.min() < 0.5 < 0.9 < loud.max() + 0.2
    with pytest.raises(ValueError, match="blank"):
        data.banded_patches(torch.zeros(3, 28, 28, dtype=torch.uint8), 1, 10, generator)


# ---- the paper's experiments -------------------------------------------------------------------------


def test_the_order_inverts_where_the_book_says_and_not_elsewhere():
    lam, rho = paper.features(paper.INVERTED)
    for depth, eps, agreement in ((4, 1e-2, -1), (1, 1e-2, 1), (4, 1e-6, 1)):
        times = [theory.critical_time(o, lam, rho, depth, eps) for o in paper.OBJECTIVES]
        assert float(paper.kendall_tau(*times)) == agreement


def test_the_phase_diagram_flips_with_depth_and_is_blank_where_the_theory_refuses():
    grid = paper.phase_diagram((1, 4, 6, 8), (-6.0, -3.0, -1.0))
    assert grid["jepa"][0, 1] < 1 < grid["jepa"][2, 1] and (grid["mae"][~grid["mae"].isnan()] < 1).all()
    assert grid["jepa"][2, 0] < 1  # depth 6 does not flip it at eps = 1e-6
    assert grid["jepa"][1:, 2].isnan().all() and not grid["jepa"][0].isnan().any()


TINY = paper.preset(
    "smoke", step_fraction=0.3, num_seeds=2, random_seeds=2, num_records=60, relu_steps=30, num_patches=200
)


def test_every_claim_gets_a_value_and_a_baseline():
    images = torch.randint(0, 256, (30, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    outcomes = [
        paper.flow(TINY, 0),
        paper.depth_sweep(TINY, 0),
        paper.formula(TINY),
        paper.inversion(TINY, 0),
        paper.noisy_features(TINY, 0),
        paper.random_start(TINY, 0),
        paper.turned_covariances(TINY, 0),
        paper.ema_target(TINY, 0),
        paper.relu_encoder(TINY, 0),
        paper.patches(TINY, 0, images),
    ]
    found = {id for outcome in outcomes for id in outcome.claims}
    assert found == {claim.id for claim in paper.CLAIMS}
    assert (
        paper.relu_encoder(TINY, 0).claims == outcomes[8].claims != paper.relu_encoder(TINY, 1).claims
    )  # a seed decides


@pytest.mark.parametrize("name", ["smoke", "laptop", "gpu", "paper"])
def test_every_preset_is_accepted_by_the_theory(name):
    cfg = paper.preset(name)
    for family in (
        paper.EQUAL_LAM,
        *(
            (v.lam.tolist(), v.rho.tolist())
            for v in (data.Views(*paper.features(m)) for m in (paper.TEMPORAL, paper.STATIC))
        ),
    ):
        for depth in cfg.depths:
            theory.check(*paper.features(family), depth, cfg.eps, cfg.fraction)


def test_unknown_presets_and_options_are_refused_with_the_list():
    with pytest.raises(ValueError, match="laptop"):
        paper.preset("huge")
    with pytest.raises(ValueError, match="num_seeds"):
        paper.preset("smoke", seeds=3)


def test_the_relu_code_is_read_in_its_linear_part_and_a_wild_step_is_refused():
    eye = torch.eye(2, dtype=torch.float64)[None]
    x = VIEWS.sample(1, 20_000, torch.Generator().manual_seed(0))[0]
    assert torch.allclose(relu_nets.linear_gain([2 * eye], VIEWS, x), f64(2, 2)[None], atol=0.1)  # one layer: no ReLU
    assert torch.allclose(
        relu_nets.linear_gain([eye, eye], VIEWS, x), f64(0.5, 0.5)[None], atol=0.05
    )  # a ReLU halves it
    with pytest.raises(ValueError, match="unstable"):
        relu_nets.train_relu(
            "mae",
            VIEWS,
            depth=2,
            hidden=4,
            eps=0.1,
            num_seeds=1,
            batch_size=8,
            step_size=100.0,
            num_steps=60,
            num_records=10,
            generator=torch.Generator().manual_seed(0),
        )
