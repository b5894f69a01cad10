"""Pairs (x, y) for the deep linear chapter: static and temporal models, their minibatches, real patches under banding.

Both linear losses see data only through Sxx = E[x x^T] and Syx = E[y x^T]. Shapes: `R` runs, `S` seeds, `B` samples of
a
batch, `N` samples of a set, `D` features. Everything is float64, random numbers come from the generator handed in.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor

Moments = tuple[Float[Tensor, "*R D D"], Float[Tensor, "*R D D"]]  # Sxx, Syx: one pair for all runs, or one per run


@dataclass(frozen=True)
class Views:
    """Linear data models of two related views, diagonal, Gaussian (Littwin et al.'s static and temporal models).

    x = s + n and y = s' + n' with s' = gamma s + sqrt(1 - gamma^2) q xi. gamma = 1: two noisy views of one s (static);
    gamma < 1: two successive frames (temporal). All fields are per direction: Float[D].
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


def minibatches(sample, seed: Int[Tensor, " R"], batch_size: int, generator: Generator) -> Callable[[int], Moments]:
    """Second moments of fresh batches: all that SGD on these losses sees. The arms of a seed share their batches."""
    num_seeds = int(seed.max()) + 1

    def moments(step):
        x_SBD, y_SBD = sample(num_seeds, batch_size, generator)
        return (x_SBD.mT @ x_SBD / batch_size)[seed], (y_SBD.mT @ x_SBD / batch_size)[seed]

    return moments


def gaussian_minibatches(
    views: Views, seed: Int[Tensor, " R"], batch_size: int, generator: Generator
) -> Callable[[int], Moments]:
    """`minibatches` of Gaussian pairs without drawing the pairs: their second moments are Wishart distributed.

    Bartlett's decomposition: B * S = C A A^T C^T with C the Cholesky factor of the covariance of (x, y), A lower
    triangular, normals below a diagonal of chi's. Same distribution for any batch size, at the price of one sample.
    """
    (sxx, syx), dim, num_seeds, chunk = views.moments(), len(views.gamma), int(seed.max()) + 1, 256
    chol = torch.linalg.cholesky(torch.cat((torch.cat((sxx, syx.mT), 1), torch.cat((syx, sxx), 1)), 0))
    freedom = (batch_size - torch.arange(2 * dim, device=seed.device, dtype=torch.float64)).expand(chunk, num_seeds, -1)
    held: list[Tensor] = []

    def moments(step):
        if not held:
            normals = torch.randn(
                chunk, num_seeds, 2 * dim, 2 * dim, dtype=torch.float64, device=seed.device, generator=generator
            )
            # the only gamma sampler of torch that takes a generator
            chi = (2 * torch._standard_gamma(freedom / 2, generator=generator)).sqrt()
            root = chol @ (normals.tril(-1) + torch.diag_embed(chi))
            held.extend((root @ root.mT / batch_size).unbind())
        both = held.pop()
        return both[:, :dim, :dim][seed], both[:, dim:, :dim][seed]

    return moments


def rotate(moments: Moments, degrees: float) -> Moments:
    """Turn Syx against Sxx by an angle in the planes (i, i + D/2), so that the two no longer commute."""
    sxx, syx = moments
    half = len(sxx) // 2
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    eye = torch.eye(half, dtype=sxx.dtype, device=sxx.device)
    turn = torch.cat(
        (torch.cat((angle.cos() * eye, -angle.sin() * eye), 1), torch.cat((angle.sin() * eye, angle.cos() * eye), 1)), 0
    )
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
    per
    column and view, and a little white noise. They are read along the first principal components of the clean patches,
    whose variances are flattened to the power 1 - whitening and scaled to at most 1.
    """
    clean = _patches(images, num_seeds * num_patches, size, generator)
    values, vectors = torch.linalg.eigh(clean.mT @ clean / len(clean))
    values, vectors = values.flip(0)[:num_features], vectors.flip(1)[:, :num_features]
    project = vectors * values ** (-whitening / 2) / values[0] ** ((1 - whitening) / 2)

    def view() -> Tensor:
        shape = (num_seeds, num_patches, size)
        kw = dict(generator=generator, dtype=torch.float64, device=generator.device)
        band = torch.randn(*shape, **kw).repeat(1, 1, size)  # the same offset down every column
        noise = band_std * band + white_std * torch.randn(*shape[:2], size * size, **kw)
        return (clean.reshape(num_seeds, num_patches, -1) + noise) @ project

    x_SND, y_SND = view(), view()
    cross = y_SND.mT @ x_SND / num_patches
    return x_SND.mT @ x_SND / num_patches, (cross + cross.mT) / 2  # the two views are exchangeable


def _patches(images: Tensor, count: int, size: int, generator: Generator) -> Float[Tensor, "N P"]:
    """Random patches with something on them, each with mean 0 and standard deviation 1."""
    kept, missing = [], count
    while missing > 0:

        def draw(high: int) -> Tensor:
            return torch.randint(high, (2 * missing,), generator=generator, device=generator.device)

        image, row, column = draw(len(images)), draw(images.shape[1] - size + 1), draw(images.shape[2] - size + 1)
        span = torch.arange(size, device=generator.device)
        cut = images[image[:, None, None], (row[:, None] + span)[:, :, None], (column[:, None] + span)[:, None, :]]
        flat = cut.double().flatten(1) / 255
        flat = flat - flat.mean(1, keepdim=True)
        spread = flat.std(1, keepdim=True)
        kept.append((flat / spread)[spread[:, 0] > 0.1])  # below lies the empty background
        missing -= len(kept[-1])
        if len(kept) > 20:
            raise ValueError(f"hardly a patch of {size} x {size} pixels has any contrast; are these images blank?")
    return torch.cat(kept)[:count]
