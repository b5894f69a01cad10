"""Each loss equals its closed form or a slow reference, stays in float32 and finite at collapse, refuses bad input."""

import importlib.util
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jepa_lab import losses

PAIRED = [losses.smooth_l1, losses.l1, losses.l2, losses.cosine_distance, losses.info_nce]
BATCH = [losses.variance, losses.covariance]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def sigreg(z_nD):
    return losses.sigreg(z_nD, rng(), num_slices=64)


def unchecked():
    """The module without the run-time shape checks of this suite, as users have it."""
    spec = importlib.util.spec_from_file_location("plain_losses", losses.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_distances_have_their_closed_form():
    pred, target = torch.tensor([[0.0, 3.0], [1.0, 0.5]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert losses.l1(pred, target) == 3.5 / 4 and losses.l2(pred, target) == 9.25 / 4
    assert losses.smooth_l1(pred, target) == (2.5 + 0.125) / 4
    torch.testing.assert_close(losses.cosine_distance(pred, target), torch.tensor(1 - (0 + 2 / 5**0.5) / 2))


def test_cosine_ignores_length_and_reaches_both_ends():
    z = torch.randn(3, 4, 8, generator=rng())
    torch.testing.assert_close(losses.cosine_distance(z, 7 * z), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(losses.cosine_distance(z, -0.1 * z), torch.tensor(2.0))


def test_info_nce_of_orthogonal_pairs_has_its_closed_form():
    """The right target has similarity 1, n - 1 wrong ones 0."""
    pred, n, temperature = 3 * torch.eye(5), 5, 0.5
    wanted = math.log(1 + (n - 1) * math.exp(-1 / temperature))
    torch.testing.assert_close(losses.info_nce(pred, 0.2 * torch.eye(5), temperature), torch.tensor(wanted))
    wrong_by_one = math.log((n - 1) + math.exp(1 / temperature))
    torch.testing.assert_close(losses.info_nce(pred, torch.eye(5).roll(1, 0), temperature), torch.tensor(wrong_by_one))


def test_info_nce_at_collapse_is_pure_chance():
    torch.testing.assert_close(
        losses.info_nce(torch.ones(6, 3), torch.randn(1, 3).expand(6, 3)), torch.tensor(math.log(6))
    )


def test_variance_is_the_mean_over_dimensions_of_floor_minus_std_where_positive():
    z = torch.randn(100_000, 3, generator=rng()) * torch.tensor([0.5, 0.9, 4.0]) + 10
    torch.testing.assert_close(losses.variance(z), torch.tensor((0.5 + 0.1 + 0) / 3), atol=2e-3, rtol=0)
    torch.testing.assert_close(losses.variance(z, floor=5.0), torch.tensor((4.5 + 4.1 + 1) / 3), atol=2e-2, rtol=0)
    torch.testing.assert_close(losses.variance(torch.ones(4, 3)), torch.tensor(0.99))  # at collapse sqrt(eps) is left
    two = torch.tensor([[0.0], [1.0]])  # n - 1: variance 1/2, not 1/4
    torch.testing.assert_close(losses.variance(two), torch.tensor(1 - (0.5 + 1e-4) ** 0.5))


def test_covariance_of_a_rotated_diagonal_has_its_closed_form():
    """Variances 4 and 1 turned by an angle: off-diagonal (4 - 1) sin cos, once above and once below the diagonal."""
    angle, n = 0.3, 8
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(n // 4, 1)
    diagonal = signs * torch.tensor([2.0, 1.0]) * ((n - 1) / n) ** 0.5
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    torch.testing.assert_close(losses.covariance(diagonal + 5), torch.tensor(0.0), atol=1e-6, rtol=0)
    wanted = 2 * (3 * math.sin(angle) * math.cos(angle)) ** 2 / 2
    torch.testing.assert_close(losses.covariance(diagonal @ turn + 5), torch.tensor(wanted))


def slow_epps_pulley(x, limit):
    """The integral over -limit < t < limit on a fine grid, one node at a time, with complex numbers."""
    nodes = np.linspace(-limit, limit, 2001)
    values = []
    for t in nodes:
        empirical = np.mean(np.exp(1j * t * x))
        values.append(abs(empirical - np.exp(-t * t / 2)) ** 2 * np.exp(-t * t / 2))
    return len(x) * np.sum(values) * (nodes[1] - nodes[0])


SAMPLES = {
    "normal": torch.randn(200, 3, generator=rng(1)),
    "uniform": (torch.rand(200, 3, generator=rng(2)) - 0.5) * 4,
    "scaled": 2.5 * torch.randn(200, 3, generator=rng(3)),
    "shifted": torch.randn(200, 3, generator=rng(4)) + 1,
    "collapsed": torch.full((200, 3), 0.4),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_sigreg_equals_a_slow_epps_pulley_integral(name):
    """Half a percent for the 17 nodes, two for the cut at t = 3 (1.4 % of a collapsed sample's integral is beyond)."""
    z, directions = SAMPLES[name], torch.randn(3, 4, generator=rng(5))
    slices = (z.double() @ (directions / directions.norm(dim=0)).double()).numpy().T
    got = float(losses.sigreg(z, directions_DS=directions))
    assert got == pytest.approx(np.mean([slow_epps_pulley(x, 3) for x in slices]), rel=0.005)
    assert got == pytest.approx(np.mean([slow_epps_pulley(x, 8) for x in slices]), rel=0.02)


def test_sigreg_is_small_for_the_normal_alone():
    """Expectation under the normal: sqrt(2 pi) - sqrt(2 pi / 3) = 1.06, at any number of rows."""
    normal = torch.stack(
        [losses.sigreg(torch.randn(n, 16, generator=rng(n + k)), rng(k)) for n in (50, 400) for k in range(40)]
    )
    expected = (2 * math.pi) ** 0.5 * (1 - 3**-0.5)
    assert normal[:40].mean() == pytest.approx(expected, rel=0.15) and normal[40:].mean() == pytest.approx(
        expected, rel=0.15
    )
    z = torch.randn(400, 16, generator=rng(9))
    rank_one = z[:, :1].expand(-1, 16)
    for wrong in (0.3 * z, 3 * z, z + 1, torch.zeros_like(z), rank_one):
        assert losses.sigreg(wrong, rng()) > 10


def test_sigreg_sees_a_shape_that_variance_and_covariance_cannot():
    """Uniform along the axes, with mean 0, variance 1 and no covariance; the slices are the axes."""
    z = (torch.rand(4000, 4, generator=rng()) - 0.5) * 12**0.5
    assert losses.variance(z) < 0.01 and losses.covariance(z) < 0.01
    assert losses.sigreg(z, directions_DS=torch.eye(4)) > 5


def test_sigreg_draws_its_directions_from_the_generator_alone():
    z = torch.randn(20, 8, generator=rng())
    before = torch.random.get_rng_state()
    first, again, other = (losses.sigreg(2 * z, rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and first != other and torch.equal(torch.random.get_rng_state(), before)
    generator = rng()
    assert losses.sigreg(2 * z, generator) != losses.sigreg(2 * z, generator), "each step looks along new directions"


def test_identity_leaves_the_targets_alone_and_normalise_scales_each_latent():
    z = 3 * torch.randn(2, 5, 8, generator=rng()) + 1
    assert losses.identity(z) is z
    scaled = losses.normalise(z.bfloat16())
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.var(-1, correction=0), torch.ones(2, 5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("loss", [*PAIRED, *BATCH, sigreg], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradients_are_finite_at_collapse(loss, value):
    z = torch.full((6, 4), value, requires_grad=True)
    inputs = (z, torch.full((6, 4), value)) if loss in PAIRED else (z,)
    loss(*inputs).backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("loss", [losses.variance, sigreg], ids=lambda loss: loss.__name__)
def test_following_the_gradient_leads_out_of_near_collapse(loss):
    z = (1e-3 * torch.randn(64, 4, generator=rng())).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss(z).backward()
        optimizer.step()
    assert z.std(dim=0).min() > 0.8


@pytest.mark.parametrize("loss", [*PAIRED, *BATCH, sigreg], ids=lambda loss: loss.__name__)
def test_autocast_changes_no_bit(loss):
    """A product of matrices in bfloat16 would be off in the third digit."""
    inputs = [torch.randn(64, 32, generator=rng(seed)) for seed in range(2 if loss in PAIRED else 1)]
    exact = loss(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(*inputs)
        assert F.linear(inputs[0], inputs[0]).dtype == torch.bfloat16, "autocast was on"
    assert torch.equal(inside, exact) and inside.dtype == torch.float32 and inside.ndim == 0


@pytest.mark.parametrize("loss", [*PAIRED, *BATCH, sigreg], ids=lambda loss: loss.__name__)
def test_bf16_latents_are_averaged_in_float32(loss):
    inputs = [torch.randn(64, 32, generator=rng(seed)).bfloat16() for seed in range(2 if loss in PAIRED else 1)]
    assert torch.equal(loss(*inputs), loss(*(z.float() for z in inputs))) and loss(*inputs).dtype == torch.float32


@pytest.mark.parametrize("loss", [losses.info_nce, *BATCH, sigreg], ids=lambda loss: loss.__name__)
def test_batch_statistics_use_the_rows_of_all_processes(loss, monkeypatch):
    """One row here and seven elsewhere are a batch of eight."""
    inputs = [torch.randn(8, 4, generator=rng(seed)) for seed in range(2 if loss is losses.info_nce else 1)]
    whole, elsewhere = loss(*inputs), iter([z[1:] for z in inputs])
    monkeypatch.setattr(losses.distributed, "gather", lambda z: torch.cat([z, next(elsewhere)]))
    assert torch.equal(loss(*(z[:1] for z in inputs)), whole)


def test_losses_make_no_tensor_on_another_device():
    with torch.device("meta"):
        z, directions = torch.randn(8, 4), torch.randn(4, 16)
    every = [loss(z, z) for loss in PAIRED] + [loss(z) for loss in BATCH] + [losses.sigreg(z, directions_DS=directions)]
    assert all(value.device.type == "meta" and value.shape == () for value in every)


z34 = torch.zeros(3, 4)
REFUSED = {
    **{
        f"{name} of other shapes": (lambda m, name=name: getattr(m, name)(z34, z34[:1]), "differ in shape")
        for name in (f.__name__ for f in PAIRED)
    },
    "info_nce of one row": (lambda m: m.info_nce(z34[:1], z34[:1]), "at least 2 rows, got 1"),
    "variance of one row": (lambda m: m.variance(z34[:1]), "at least 2 rows, got 1"),
    "covariance of one row": (lambda m: m.covariance(z34[:1]), "at least 2 rows, got 1"),
    "sigreg of one row": (lambda m: m.sigreg(z34[:1], rng()), "at least 2 rows, got 1"),
    "variance of tokens": (lambda m: m.variance(torch.zeros(2, 3, 4)), "flatten or pool"),
    "covariance of one vector": (lambda m: m.covariance(torch.zeros(4)), "flatten or pool"),
    "info_nce of tokens": (lambda m: m.info_nce(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)), "flatten or pool"),
    "sigreg of tokens": (lambda m: m.sigreg(torch.zeros(2, 3, 4), rng()), "flatten or pool"),
    "sigreg without directions": (lambda m: m.sigreg(z34), "either a generator or"),
    "sigreg with both": (lambda m: m.sigreg(z34, rng(), torch.eye(4)), "either a generator or"),
    "directions of another width": (lambda m: m.sigreg(z34, directions_DS=torch.eye(3)), "directions of width 4"),
    "temperature zero": (lambda m: m.info_nce(z34, z34, temperature=0.0), "temperature must be positive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_clear_error(case):
    call, says = REFUSED[case]
    with pytest.raises(ValueError, match=says):
        call(unchecked())
