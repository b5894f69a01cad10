"""Chapter 10's data: moments, minibatches drawn as moments, and real patches under banding."""

import pytest
import torch

from jepa_lab.papers.implicit_bias import pairs, theory


def f64(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


VIEWS = pairs.Views(f64(0.9, 1.0), f64(1.2, 0.8), f64(2.0, 0.1))


def test_sampled_views_have_the_stated_moments():
    x, y = VIEWS.sample(1, 200_000, torch.Generator().manual_seed(0))
    sxx, syx = VIEWS.moments()
    assert torch.allclose(x[0].T @ x[0] / 200_000, sxx, atol=0.03)
    assert torch.allclose(y[0].T @ x[0] / 200_000, syx, atol=0.03)
    assert torch.allclose(y[0].T @ y[0] / 200_000, sxx, atol=0.03)  # stationary


def test_minibatches_drawn_as_moments_have_the_law_of_minibatches_of_pairs():
    num_seeds, num_steps, batch_size = 20, 100, 6
    draw = pairs.gaussian_minibatches(VIEWS, torch.arange(num_seeds), batch_size, torch.Generator().manual_seed(1))
    drawn = [torch.cat(both) for both in zip(*(draw(step) for step in range(num_steps)))]
    x, y = VIEWS.sample(num_seeds * num_steps, batch_size, torch.Generator().manual_seed(0))
    direct = x.mT @ x / batch_size, y.mT @ x / batch_size
    for a, b in zip(direct, drawn, strict=True):
        assert a.shape == b.shape == (2000, 2, 2)
        assert ((a.mean(0) - b.mean(0)).abs() < 4 * a.std(0) * (2 / 2000) ** 0.5).all()
        assert torch.allclose(a.std(0), b.std(0), rtol=0.15)


def test_a_seed_gives_the_same_batches_and_another_seed_others():
    def draw(k):
        moments = pairs.gaussian_minibatches(VIEWS, torch.tensor([0, 1, 0]), 8, torch.Generator().manual_seed(k))
        return [moments(step)[0] for step in range(300)]  # beyond one chunk

    first, again, other = draw(0), draw(0), draw(1)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])
    assert len({float(m[0, 0, 0]) for m in first}) == 300
    assert torch.equal(first[0][0], first[0][2])  # two runs of one seed
    assert not torch.equal(first[0][0], first[0][1])


def test_views_with_rho_above_one_are_refused():
    with pytest.raises(ValueError, match="rho <= 1"):
        pairs.views_of(f64(1.0), f64(1.2))


def test_banding_lowers_rho_of_some_directions_only():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 28, 28), generator=generator).to(torch.uint8)
    rho = {}
    for band_std in (0.01, 2.0):
        moments = pairs.banded_patches(images, 2, 400, generator, band_std=band_std)
        rho[band_std] = theory.generalised_features(*moments)[1]
    assert rho[0.01].shape == (2, 6)
    assert rho[0.01].min() > 0.9
    assert rho[2.0].min() < 0.5
    assert rho[2.0].max() > 0.7


def test_blank_images_are_refused():
    with pytest.raises(ValueError, match="blank"):
        pairs.banded_patches(torch.zeros(3, 28, 28, dtype=torch.uint8), 1, 10, torch.Generator().manual_seed(0))


def test_patches_are_pieces_of_the_images():
    rows, columns = torch.arange(28)[:, None], torch.arange(28)
    image = (rows * 9 + columns).to(torch.uint8)[None]  # a slope: every piece differs from its neighbour by 9 and 1
    cut = pairs._cut_at_random(image.expand(3, 28, 28), 50, 6, torch.Generator().manual_seed(0)).int()
    assert cut.shape == (50, 6, 6)
    assert (cut.diff(dim=2) % 256 == 1).all()
    assert (cut.diff(dim=1) % 256 == 9).all()
    assert len(cut[:, 0, 0].unique()) > 20
