"""Chapter 10's matrices: gradients by hand equal autograd, and batched networks follow the scalar theory."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from jepa_lab.papers.implicit_bias import experiments, linear, nets, pairs, paper, plain, theory
from jepa_lab.papers.implicit_bias.linear import Nets


def f64(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def mixed(dim: int = 5, seed: int = 0) -> tuple[Nets, pairs.Moments]:
    """Six random nets of depth 1, 2, 3 and both objectives with one full, lopsided pair of moments each."""
    generator = torch.Generator().manual_seed(seed)
    jepa, depth = torch.tensor([True, False] * 3), torch.tensor([1, 1, 2, 2, 3, 3])
    some = linear.random_init(jepa, depth, torch.arange(6), dim, 0.5, generator)
    x, y = torch.randn(2, 6, 40, dim, dtype=torch.float64, generator=generator)
    return some, (x.mT @ x / 40, (y + x).mT @ x / 40)


def balanced(depths=(1, 2, 3), seeds: int = 2, dim: int = 4, eps: float = 1e-2) -> Nets:
    depth = torch.tensor(depths).repeat_interleave(seeds)
    seed = torch.arange(seeds).repeat(len(depths))
    jepa = torch.ones_like(depth, dtype=torch.bool)
    return linear.balanced_init(jepa, depth, seed, dim, eps, torch.Generator().manual_seed(0))


def imbalance(some: Nets) -> torch.Tensor:
    """W^(a+1)^T W^(a+1) - W^a W^a^T of every neighbouring pair of layers; the predictor ends the chain."""
    differences = []
    for run, L in enumerate(some.depth.tolist()):
        chain = [w[run] for w in some.layers[:L]] + [some.predictor[run]]
        differences += [above.T @ above - below @ below.T for below, above in zip(chain, chain[1:])]
    return torch.stack(differences)


def autograd(some: Nets, moments: pairs.Moments, run: int, detach: bool = True) -> list[torch.Tensor]:
    """Gradients of one run's loss, written with moments."""
    params = [w[run].clone().requires_grad_() for w in (*some.layers[: int(some.depth[run])], some.predictor)]
    wbar = linear.products(params[:-1])[-1]
    target = wbar if some.jepa[run] else torch.eye(len(wbar), dtype=wbar.dtype)
    target = target.detach() if detach else target
    sxx, syx = moments[0][run], moments[1][run]
    pred = params[-1] @ wbar
    loss = 0.5 * torch.trace(pred @ sxx @ pred.T) - torch.trace(pred @ syx.T @ target.T)
    return list(torch.autograd.grad(loss, params))


@pytest.mark.parametrize("run", range(6))
def test_gradients_by_hand_equal_autograd_with_a_detached_target(run):
    some, moments = mixed()
    grads, grad_V = linear.gradients(some, moments)
    by_hand = [g[run] for g in grads[: int(some.depth[run])]] + [grad_V[run]]
    for hand, auto in zip(by_hand, autograd(some, moments, run), strict=True):
        assert torch.allclose(hand, auto, atol=1e-12)


def test_without_the_stop_gradient_the_gradient_is_another():
    some, moments = mixed()
    grads, _ = linear.gradients(some, moments)
    assert not torch.allclose(grads[0][0], autograd(some, moments, 0, detach=False)[0], atol=1e-3)


def test_a_balanced_start_is_diagonal_end_to_end_balanced_and_random_inside():
    some = balanced()
    wbar = linear.products(some.layers)[-1]
    assert torch.allclose(wbar, 1e-2 * torch.eye(4, dtype=torch.float64).expand(6, 4, 4), atol=1e-14)
    assert imbalance(some).abs().max() < 1e-12
    assert (some.layers[0][4] - some.layers[0][5]).abs().max() > 1e-3  # two seeds of depth 3


@pytest.mark.parametrize("jepa", [True, False])
def test_balanced_layers_stay_balanced(jepa):
    moments = pairs.views_of(f64(1, 1, 1, 1, 1), f64(0.5, 0.6, 0.7, 0.8, 0.95)).moments()
    start = replace(balanced(dim=5, eps=0.3), jepa=torch.full((6,), jepa))
    end = nets.descend(start, moments, f64(*[0.1] * 6), 100, 100).nets
    assert imbalance(end).abs().max() < 1e-12
    assert not torch.allclose(end.predictor, start.predictor, rtol=0.01)


@pytest.mark.parametrize("jepa", [True, False])
def test_any_imbalance_is_conserved_up_to_the_step(jepa):
    some, moments = mixed()
    some, drift = replace(some, jepa=torch.full((6,), jepa)), []
    for step in (0.02, 0.01):
        end = nets.descend(some, moments, f64(*[step] * 6), round(3 / step), 1000).nets
        drift.append(float((imbalance(end) - imbalance(some)).abs().max()))
    assert 0 < drift[0] < 0.05
    assert drift[0] / drift[1] == pytest.approx(2, rel=0.1)


def test_layers_above_a_nets_depth_stay_the_identity():
    some, moments = mixed()
    end = nets.descend(some, moments, f64(*[0.05] * 6), 20, 20).nets
    eye = torch.eye(5, dtype=torch.float64)
    assert torch.equal(end.layers[2][0], eye)
    assert torch.equal(end.layers[1][1], eye)
    assert not torch.equal(end.layers[1][2], some.layers[1][2])


def test_the_given_networks_stay_unchanged():
    some, moments = mixed()
    nets.descend(some, moments, f64(*[0.05] * 6), 5, 5)
    assert all(
        torch.equal(a, b) for a, b in zip((*some.layers, some.predictor), (*mixed()[0].layers, mixed()[0].predictor))
    )


def test_a_batched_run_equals_the_plain_autograd_loop():
    some, _ = mixed()
    x, y = torch.randn(2, 40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    end = nets.descend(some, (x.T @ x / 40, y.T @ x / 40), f64(*[0.05] * 6), 60, 60).nets
    for run in (4, 5):  # depth 3: every layer is there
        alone = plain.descend_by_autograd(some, run, x, y, 0.05, 60)
        for batched, looped in zip((*end.layers, end.predictor), alone, strict=True):
            assert torch.allclose(batched[run], looped, atol=1e-12)


def test_the_comparison_of_speed_compares_the_same_training():
    found = plain.time_both(num_seeds=8, num_steps=20)
    assert found["largest_difference"] < 1e-12


def test_a_run_does_not_see_its_batch_mates():
    some, (sxx, syx) = mixed()
    steps = torch.linspace(0.02, 0.05, 6, dtype=torch.float64)
    together = nets.descend(some, (sxx, syx), steps, 30, 10)
    for run in range(6):
        keep = torch.tensor([run])
        layers = tuple(w[keep] for w in some.layers)
        one = Nets(layers, some.predictor[keep], some.depth[keep], some.jepa[keep])
        alone = nets.descend(one, (sxx[keep], syx[keep]), steps[keep], 30, 10)
        assert torch.allclose(together.gain[:, run], alone.gain[:, 0], rtol=1e-12)


def test_the_arms_of_a_seed_share_their_random_start():
    jepa, depth, seed = torch.tensor([True, False]), torch.tensor([2, 2]), torch.tensor([1, 1])
    some = linear.random_init(jepa, depth, seed, 3, 0.1, torch.Generator().manual_seed(0))
    assert torch.equal(some.layers[0][0], some.layers[0][1])
    assert torch.equal(some.predictor[0], some.predictor[1])


def test_matrices_follow_the_equations_and_the_error_halves_with_the_step():
    cfg = paper.preset("laptop", num_seeds=1, num_records=200, depths=(1, 2), eps=0.03)
    measured = experiments.flow(cfg, seed=0)
    assert measured.claims["flow-error"][0] < 0.03
    assert measured.claims["flow-order"][0] < 0.1


SETTINGS = dict(eps=0.04, fraction=0.5, step_fraction=0.04, num_seeds=1, num_records=400)


def test_simulated_critical_times_equal_quadrature():
    lam, rho = f64(1, 1), f64(0.6, 0.9)
    sim = nets.simulate("jepa", lam, rho, (1, 2), torch.Generator().manual_seed(0), **SETTINGS)
    for i, L in enumerate((1, 2)):
        exact = theory.critical_time("jepa", lam, rho, L, SETTINGS["eps"])
        assert torch.allclose(L * sim.critical[i, 0], exact, rtol=0.01)


@pytest.mark.parametrize("objective, depth", list(product(paper.OBJECTIVES, (1, 3))))
def test_the_largest_step_is_the_edge_of_stability(objective, depth):
    lam, rho = f64(0.8), f64(0.9)
    edge = float(theory.largest_step(objective, lam, rho, depth)[0])
    beside = 0.999 * float(theory.fixed_point(objective, rho, depth))
    jepa, L, seed = torch.tensor([objective == "jepa"]), torch.tensor([depth]), torch.tensor([0])
    distance = {}
    for share in (0.95, 1.05):
        start = linear.balanced_init(jepa, L, seed, 1, beside, torch.Generator().manual_seed(0))
        end = nets.descend(start, (torch.diag(lam / rho), torch.diag(lam)), f64(share * edge), 60, 60)
        gain = end.nets.predictor[0, 0, 0] * (end.gain[-1, 0, 0] if objective == "mae" else 1.0)
        distance[share] = abs(float(gain - rho[0]))
    assert distance[0.95] < distance[1.05]  # below the edge steps approach the fixed point, above it they leave it


def test_an_unstable_step_is_refused():
    unstable = SETTINGS | dict(step_fraction=2.0)
    with pytest.raises(ValueError, match="unstable"):
        nets.simulate("jepa", f64(1, 1), f64(0.6, 0.9), (2,), torch.Generator(), **unstable)


def test_a_diverging_run_says_so():
    moments = pairs.views_of(f64(1, 1, 1, 1), f64(0.5, 0.65, 0.8, 0.95)).moments()
    with pytest.raises(ValueError, match="diverged"):
        nets.descend(balanced(), moments, f64(*[50.0] * 6), 2000, 500)


def test_crossings_are_interpolated_and_inf_when_never():
    times, gain = f64(0, 1, 2)[:, None], torch.stack((f64(0, 1, 4), f64(0, 0, 0.5)), -1)[:, None]
    trace = nets.Trace(times, gain, balanced())
    assert nets.crossing_time(trace, f64(2, 2)[None]).tolist() == [[pytest.approx(4 / 3), float("inf")]]


def test_an_ema_target_with_no_memory_is_the_same_weights():
    some, moments = mixed()
    steps = f64(*[0.05] * 6)
    without = nets.descend(some, moments, steps, 30, 30).gain[-1]
    no_memory = nets.descend(some, moments, steps, 30, 30, ema_decay=f64(*[0.0] * 6)).gain[-1]
    slow = nets.descend(some, moments, steps, 30, 30, ema_decay=f64(*[0.99] * 6)).gain[-1]
    assert torch.allclose(without, no_memory)
    assert not torch.allclose(without[::2], slow[::2], rtol=1e-3)
    assert torch.allclose(without[1::2], slow[1::2])  # MAE has no target encoder
