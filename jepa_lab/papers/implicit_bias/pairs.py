"""Pairs (x, y) of related views: static and temporal models, their minibatches, real patches under column banding.

Both linear losses see data only through Sxx = E[x x^T] and Syx = E[y x^T]. Shapes: `R` runs, `S` seeds, `B` samples of
a batch, `N` samples of a set, `D` features. Everything is float64; random numbers come from the given generator.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor

Moments = tuple[Float[Tensor, "*R D D"], Float[Tensor, "*R D D"]]  # Sxx, Syx: one pair for all runs, or one per run


@dataclass(frozen=True)
class Views:
    """Littwin et al.'s static and temporal models: two related Gaussian views x and y, diagonal.

    x = s + n and y = s' + n' with s' = gamma s + sqrt(1 - gamma^2) q xi. With gamma = 1 x and y are two noisy views of
    one s (static); with gamma < 1 they are two successive frames (temporal). Every field has one entry per direction.
    """

    gamma: Float[Tensor, " D"]
    signal_var: Float[Tensor, " D"]  # q^2
    noise_var: Float[Tensor, " D"]

    @property
    def lam(self) -> Float[Tensor, " D"]:
        return self.gamma * self.signal_var

    @property
    def rho(self) -> Float[Tensor, " D"]:
        return self.lam / (self.signal_var + self.noise_var)

    def moments(self) -> Moments:
        return torch.diag(self.lam / self.rho), torch.diag(self.lam)

    def sample(self, num_seeds: int, batch_size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Fresh pairs x, y, each Float[S, B, D]."""
        shape = (4, num_seeds, batch_size, len(self.gamma))
        s, xi, n, n2 = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
        q, noise = self.signal_var.sqrt(), self.noise_var.sqrt()
        return q * s + noise * n, q * (self.gamma * s + (1 - self.gamma**2).sqrt() * xi) + noise * n2


def views_of(lam: Float[Tensor, " D"], rho: Float[Tensor, " D"]) -> Views:
    """The static model with given lam and rho <= 1: signal variance lam, noise variance lam / rho - lam."""
    if bool((rho > 1).any()):
        raise ValueError(f"two noisy views of one signal have rho <= 1; got {rho.tolist()}")
    return Views(torch.ones_like(lam), lam, lam / rho - lam)


def gaussian_minibatches(
    views: Views, seed: Int[Tensor, " R"], batch_size: int, generator: Generator
) -> Callable[[int], Moments]:
    """A function of the step: the second moments of a fresh batch of pairs, equal in all runs of one seed.

    The linear losses see a batch only through these moments, so the pairs are never drawn. The moments are Wishart
    distributed. Bartlett's decomposition: B * S = C A A^T C^T, where C is the Cholesky factor of the covariance of
    (x, y) and A is lower triangular, with normal numbers below a diagonal of chi's. A batch of any size costs as much
    as one sample.
    """
    sxx, syx = views.moments()
    dim, num_seeds, chunk = len(views.gamma), int(seed.max()) + 1, 256
    shape = (chunk, num_seeds, 2 * dim, 2 * dim)
    chol = torch.linalg.cholesky(torch.cat((torch.cat((sxx, syx.mT), 1), torch.cat((syx, sxx), 1)), 0))
    freedom = (batch_size - torch.arange(2 * dim, device=seed.device, dtype=torch.float64)).expand(chunk, num_seeds, -1)
    drawn: list[Tensor] = []

    def moments(step):
        if not drawn:
            normals = torch.randn(shape, dtype=torch.float64, device=seed.device, generator=generator)
            # the only gamma sampler of torch that takes a generator
            chi = (2 * torch._standard_gamma(freedom / 2, generator=generator)).sqrt()
            root = chol @ (normals.tril(-1) + torch.diag_embed(chi))
            drawn.extend((root @ root.mT / batch_size).unbind())
        both = drawn.pop()
        return both[:, :dim, :dim][seed], both[:, dim:, :dim][seed]

    return moments


def rotate(moments: Moments, degrees: float) -> Moments:
    """Moments with Syx turned against Sxx by an angle in the planes (i, i + D/2), so that the two do not commute."""
    sxx, syx = moments
    half = len(sxx) // 2
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    eye = torch.eye(half, dtype=sxx.dtype, device=sxx.device)
    cos, sin = angle.cos() * eye, angle.sin() * eye
    turn = torch.cat((torch.cat((cos, -sin), 1), torch.cat((sin, cos), 1)), 0)
    return sxx, turn @ syx @ turn.mT


def banded_patches(
    images: UInt8[Tensor, "n H W"],
    num_seeds: int,
    num_patches: int,
    generator: Generator,
    *,
    size: int = 6,
    num_features: int = 6,
    whitening: float = 0.9,
    band_std: float = 1.0,
    white_std: float = 0.1,
) -> Moments:
    """Second moments [S, D, D] of two noisy views of real patches, another set of patches for every seed.

    Patches (size x size, mean 0, contrast 1) get column banding, the noise of a line sensor: one offset of `band_std`
    per column and view, and a little white noise. Features are the first principal components of the clean patches;
    their variances are raised to the power 1 - whitening and scaled to at most 1. Raises ValueError for blank images.
    """
    clean = _patches(images, num_seeds * num_patches, size, generator)
    values, vectors = torch.linalg.eigh(clean.mT @ clean / len(clean))
    values, vectors = values.flip(0)[:num_features], vectors.flip(1)[:, :num_features]
    project = vectors * values ** (-whitening / 2) / values[0] ** ((1 - whitening) / 2)

    clean = clean.reshape(num_seeds, num_patches, -1)
    x_SND = _with_banding(clean, size, band_std, white_std, generator) @ project
    y_SND = _with_banding(clean, size, band_std, white_std, generator) @ project
    cross = y_SND.mT @ x_SND / num_patches
    return x_SND.mT @ x_SND / num_patches, (cross + cross.mT) / 2  # the two views are exchangeable


def _with_banding(
    clean: Float[Tensor, "S N P"], size: int, band_std: float, white_std: float, generator: Generator
) -> Float[Tensor, "S N P"]:
    """One noisy view of every patch: the same random offset down each column, and white noise."""
    kw = dict(generator=generator, dtype=torch.float64, device=generator.device)
    band = torch.randn(*clean.shape[:2], size, **kw).repeat(1, 1, size)
    noise = band_std * band + white_std * torch.randn(clean.shape, **kw)
    return clean + noise


def _patches(images: Tensor, count: int, size: int, generator: Generator) -> Float[Tensor, "N P"]:
    """Random patches that show something, each with mean 0 and standard deviation 1."""
    kept, missing = [], count
    while missing > 0:
        flat = _cut_at_random(images, 2 * missing, size, generator).double().flatten(1) / 255
        flat = flat - flat.mean(1, keepdim=True)
        spread = flat.std(1, keepdim=True)
        kept.append((flat / spread)[spread[:, 0] > 0.1])  # the others show empty background
        missing -= len(kept[-1])
        if len(kept) > 20:
            raise ValueError(
                f"almost no patch of {size} x {size} pixels has any contrast; check that images are not blank"
            )
    return torch.cat(kept)[:count]


def _cut_at_random(images: Tensor, count: int, size: int, generator: Generator) -> UInt8[Tensor, "N size size"]:
    """Square patches from random places of random images."""
    highest = (len(images), images.shape[1] - size + 1, images.shape[2] - size + 1)
    places = [torch.randint(high, (count,), generator=generator, device=generator.device) for high in highest]
    image, row, column = (place[:, None, None] for place in places)
    span = torch.arange(size, device=generator.device)
    return images[image, row + span[:, None], column + span]
