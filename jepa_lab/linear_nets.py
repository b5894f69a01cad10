"""Deep linear JEPA and MAE as matrices, many networks in one batched tensor, with gradients written by hand.

Shapes: `R` runs (any mixture of objective, depth and seed), `S` seeds, `B` samples, `D` input width = feature count,
`T` recorded times. Depths share a tensor because a net of depth L < Lmax carries identity layers that never move.
Everything is float64 and lives on the device of its inputs. Time here is literal gradient-flow time: step size * steps.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

Moments = tuple[Float[Tensor, "*R D D"], Float[Tensor, "*R D D"]]  # Sxx = E[x x^T], Syx = E[y x^T]; of all runs or each


@dataclass(frozen=True)
class Nets:
    """R pairs of encoder Wbar = W^L ... W^1 and linear predictor V (MAE: decoder V). Square layers, no bias."""

    layers: tuple[Float[Tensor, "R D D"], ...]
    predictor: Float[Tensor, "R D D"]
    depth: Int[Tensor, "R"]
    jepa: Bool[Tensor, "R"]  # False: MAE

    def select(self, keep: Tensor) -> "Nets":
        """The runs named by an index or mask."""
        return Nets(tuple(w[keep] for w in self.layers), self.predictor[keep], self.depth[keep], self.jepa[keep])


@dataclass(frozen=True)
class Trace:
    """What training left behind: `times` (literal) per run and the `gain` of every feature direction."""

    times: Float[Tensor, "T R"]
    gain: Float[Tensor, "T R D"]
    nets: Nets


def _nets(first: Tensor, depth: Tensor, jepa: Tensor, predictor: Tensor) -> Nets:
    """Put identity in the layers above each net's depth."""
    eye = torch.eye(first.shape[-1], dtype=first.dtype, device=first.device)
    layers = tuple(torch.where((a < depth)[:, None, None], first[:, a], eye) for a in range(first.shape[1]))
    return Nets(layers, predictor, depth, jepa)


def _per_seed(draw, seed: Tensor, num: int, dim: int, generator: Generator) -> Tensor:
    """One draw [S, num, D, D] for all seeds, then handed to the runs: the arms of a seed share their initialisation."""
    count = int(seed.max()) + 1
    return draw(count, num, dim, dim, generator=generator, dtype=torch.float64, device=generator.device)[seed]


def balanced_init(
    jepa: Bool[Tensor, "R"], depth: Int[Tensor, "R"], seed: Int[Tensor, "R"], dim: int, eps: float, generator: Generator
) -> Nets:
    """Littwin et al. Assumption 4.1: W^a = eps^(1/L) U_(a+1) U_a^T, orthogonal, end to end eps * I; V = eps^(1/L) I."""
    deepest = int(depth.max())
    turns, _ = torch.linalg.qr(_per_seed(torch.randn, seed, deepest + 1, dim, generator))
    eye = torch.eye(dim, dtype=torch.float64, device=turns.device)
    layers = []
    for a in range(deepest):
        below = eye if a == 0 else turns[:, a].mT
        above = torch.where((a + 1 == depth)[:, None, None], eye, turns[:, a + 1])
        layers.append(above @ below)
    scale = (eps ** (1 / depth.double()))[:, None, None]
    return _nets(scale[:, None] * torch.stack(layers, 1), depth, jepa, scale * eye)


def random_init(
    jepa: Bool[Tensor, "R"], depth: Int[Tensor, "R"], seed: Int[Tensor, "R"], dim: int, eps: float, generator: Generator
) -> Nets:
    """Gaussian weights of standard deviation eps^(1/L) / sqrt(D): neither balanced nor diagonal."""
    scale = (eps ** (1 / depth.double()))[:, None, None] / dim**0.5
    draws = _per_seed(torch.randn, seed, int(depth.max()) + 1, dim, generator)
    return _nets(scale[:, None] * draws[:, 1:], depth, jepa, scale * draws[:, 0])


def products(layers: Sequence[Tensor]) -> list[Tensor]:
    """[W^1, W^2 W^1, ..., Wbar]."""
    below = [layers[0]]
    for w in layers[1:]:
        below.append(w @ below[-1])
    return below


def gradients(nets: Nets, moments: Moments, target: Float[Tensor, "R D D"] | None = None) -> tuple[list[Tensor], Tensor]:
    """Hand-written gradients (dL/dW^1 .. dL/dW^L, dL/dV) of Littwin et al.'s two losses.

    L_JEPA = 1/2 E||V Wbar x - SG(Wbar y)||^2 and L_MAE = 1/2 E||V Wbar x - y||^2 differ in one place: the map applied
    to y. The stop-gradient is nothing but leaving that map out of the differentiation. `target` replaces Wbar there
    (an EMA encoder).
    """
    sxx, syx = moments
    below = products(nets.layers)
    wbar = below[-1]
    eye = torch.eye(wbar.shape[-1], dtype=wbar.dtype, device=wbar.device)
    applied_to_y = torch.where(nets.jepa[:, None, None], wbar if target is None else target, eye)
    error = nets.predictor @ (wbar @ sxx) - applied_to_y @ syx
    back = nets.predictor.mT @ error  # dL/dWbar, then carried down layer by layer
    grads: list[Tensor] = []
    for a in range(len(nets.layers) - 1, 0, -1):
        grads.append(back @ below[a - 1].mT)
        back = nets.layers[a].mT @ back
    grads.append(back)
    return grads[::-1], error @ wbar.mT


def aligned_gain(wbar: Float[Tensor, "R D D"], basis: Float[Tensor, "D D"]) -> Float[Tensor, "R D"]:
    """b_i^T Wbar b_i: the theory's wbar_i, for a start whose end-to-end map is diagonal."""
    return (basis * (wbar @ basis)).sum(-2)


def column_gain(wbar: Float[Tensor, "R D D"], basis: Float[Tensor, "D D"]) -> Float[Tensor, "R D"]:
    """||Wbar b_i||: how strongly a feature enters the code, wherever in it; for random starts."""
    return (wbar @ basis).norm(dim=-2)


def train(
    nets: Nets,
    moments: Moments | Callable[[int], Moments],
    step_size: Float[Tensor, "R"],
    num_steps: int,
    record_every: int,
    basis: Float[Tensor, "D D"] | None = None,
    ema_decay: Float[Tensor, "R"] | None = None,
    gain: Callable = aligned_gain,
) -> Trace:
    """Gradient descent (Euler steps of gradient flow) on all runs at once.

    `moments` is (Sxx, Syx) for population descent, or a function of the step for minibatch SGD. `basis` holds the
    feature directions in its columns (default: the axes), `gain` how their gain is read. With `ema_decay` the JEPA target is an exponential moving
    average of every layer; decay 0 is the same-weights target of the theory.
    Raises ValueError when a run diverges.
    """
    nets = replace(nets, layers=tuple(w.clone() for w in nets.layers), predictor=nets.predictor.clone())
    moves = [(step_size * (a < nets.depth))[:, None, None] for a in range(len(nets.layers))]
    step_V = step_size[:, None, None].contiguous()
    ema = None if ema_decay is None else [w.clone() for w in nets.layers]
    weight = None if ema_decay is None else (1 - ema_decay)[:, None, None]
    basis = torch.eye(nets.predictor.shape[-1], dtype=step_size.dtype, device=step_size.device) if basis is None else basis
    times, gains = [], []
    for step in range(num_steps + 1):
        if step % record_every == 0 or step == num_steps:
            times.append(step * step_size)
            gains.append(gain(products(nets.layers)[-1], basis))
            if not bool(torch.isfinite(gains[-1]).all()):  # the only host sync, once per record
                raise ValueError(f"a run diverged before step {step}: its step size is unstable; take a smaller one")
        if step == num_steps:
            break
        target = None if ema is None else products(ema)[-1]
        grads, grad_V = gradients(nets, moments(step) if callable(moments) else moments, target)
        for w, grad, move in zip(nets.layers, grads, moves):
            w.addcmul_(grad, move, value=-1)
        nets.predictor.addcmul_(grad_V, step_V, value=-1)
        for slow, w in zip(ema or (), nets.layers):
            slow.lerp_(w, weight)
    return Trace(torch.stack(times), torch.stack(gains), nets)


def crossing_time(trace: Trace, level: Float[Tensor, "#R D"]) -> Float[Tensor, "R D"]:
    """Literal time at which each gain first reaches `level`, linear between records; inf where it never does."""
    reached = trace.gain >= level
    first = reached.int().argmax(0)  # [R, D]
    before = (first - 1).clamp(min=0)
    times = trace.times[..., None].expand_as(trace.gain)
    (g0, g1), (t0, t1) = ([series.gather(0, at[None])[0] for at in (before, first)] for series in (trace.gain, times))
    crossed = torch.where(first > 0, t0 + (t1 - t0) * (level - g0) / (g1 - g0), t1)
    return torch.where(reached.any(0), crossed, torch.inf)


@dataclass(frozen=True)
class Views:
    """Linear data models of two related views, diagonal, Gaussian (Littwin et al.'s static and temporal models).

    x = s + n and y = s' + n' with s' = gamma s + sqrt(1 - gamma^2) q xi. gamma = 1: two noisy views of one s (static);
    gamma < 1: two successive frames (temporal). All fields are per direction: Float[D].
    """

    gamma: Float[Tensor, "D"]
    signal_var: Float[Tensor, "D"]  # q^2
    noise_var: Float[Tensor, "D"]

    @property
    def lam(self) -> Float[Tensor, "D"]:
        return self.gamma * self.signal_var

    @property
    def rho(self) -> Float[Tensor, "D"]:
        return self.lam / (self.signal_var + self.noise_var)

    def moments(self) -> Moments:
        return torch.diag(self.lam / self.rho), torch.diag(self.lam)

    def sample(self, num_seeds: int, batch_size: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Fresh pairs x, y, each Float[S, B, D]."""
        shape = (4, num_seeds, batch_size, len(self.gamma))
        s, xi, n, n2 = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
        q, noise = self.signal_var.sqrt(), self.noise_var.sqrt()
        return q * s + noise * n, q * (self.gamma * s + (1 - self.gamma**2).sqrt() * xi) + noise * n2


def views_of(lam: Float[Tensor, "D"], rho: Float[Tensor, "D"]) -> Views:
    """The static model with given lam and rho <= 1: signal variance lam, noise variance lam / rho - lam."""
    if bool((rho > 1).any()):
        raise ValueError(f"two noisy views of one signal have rho <= 1; got {rho.tolist()}")
    return Views(torch.ones_like(lam), lam, lam / rho - lam)


def minibatches(sample, seed: Int[Tensor, "R"], batch_size: int, generator: Generator) -> Callable[[int], Moments]:
    """Second moments of fresh batches: all that SGD on these losses sees. The arms of a seed share their batches."""
    num_seeds = int(seed.max()) + 1

    def moments(step: int) -> Moments:
        x_SBD, y_SBD = sample(num_seeds, batch_size, generator)
        return (x_SBD.mT @ x_SBD / batch_size)[seed], (y_SBD.mT @ x_SBD / batch_size)[seed]

    return moments


def gaussian_minibatches(views: Views, seed: Int[Tensor, "R"], batch_size: int, generator: Generator) -> Callable[[int], Moments]:
    """`minibatches` of Gaussian pairs without drawing the pairs: their second moments are Wishart distributed.

    Bartlett's decomposition: B * S = C A A^T C^T with C the Cholesky factor of the covariance of (x, y), A lower
    triangular, normals below a diagonal of chi's. Same distribution for any batch size, at the price of one sample.
    """
    (sxx, syx), dim, num_seeds, chunk = views.moments(), len(views.gamma), int(seed.max()) + 1, 256
    chol = torch.linalg.cholesky(torch.cat((torch.cat((sxx, syx.mT), 1), torch.cat((syx, sxx), 1)), 0))
    freedom = (batch_size - torch.arange(2 * dim, device=seed.device, dtype=torch.float64)).expand(chunk, num_seeds, -1)
    held: list[Tensor] = []

    def moments(step: int) -> Moments:
        if not held:
            normals = torch.randn(chunk, num_seeds, 2 * dim, 2 * dim, dtype=torch.float64, device=seed.device, generator=generator)
            # the only gamma sampler of torch that takes a generator
            chi = (2 * torch._standard_gamma(freedom / 2, generator=generator)).sqrt()
            root = chol @ (normals.tril(-1) + torch.diag_embed(chi))
            held.extend((root @ root.mT / batch_size).unbind())
        both = held.pop()
        return both[:, :dim, :dim][seed], both[:, dim:, :dim][seed]

    return moments


def plain_train(nets: Nets, run: int, x_BD: Tensor, y_BD: Tensor, step_size: float, num_steps: int) -> list[Tensor]:
    """One run the way one would first write it: modules, autograd, a detached target, an optimiser, a Python loop."""
    layers = [torch.nn.Linear(*w.shape[1:], bias=False, dtype=w.dtype, device=w.device) for w in (*nets.layers, nets.predictor)]
    for layer, w in zip(layers, (*nets.layers, nets.predictor)):
        layer.weight.data.copy_(w[run])
    encoder, predictor = torch.nn.Sequential(*layers[:-1]), layers[-1]
    optimizer = torch.optim.SGD([layer.weight for layer in layers], lr=step_size)
    for _ in range(num_steps):
        target = encoder(y_BD).detach() if nets.jepa[run] else y_BD
        loss = 0.5 * (predictor(encoder(x_BD)) - target).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [layer.weight.detach() for layer in layers]


def bench_ensemble(num_seeds: int = 256, dim: int = 8, depth: int = 3, num_steps: int = 200) -> dict[str, float]:
    """CPU seconds per seed: one batched run against the plain autograd loop on the same 256 pairs, in one process.

    The batched run needs the data only as second moments and has its gradients written by hand; that, and not the
    batching alone, is the gain. Returns seconds per seed of both, the ratio, and the largest difference of the weights.
    """
    generator = torch.Generator().manual_seed(0)
    seed, alone, step = torch.arange(num_seeds), range(4), 0.05
    rho = torch.linspace(0.5, 0.95, dim, dtype=torch.float64)
    (x_BD,), (y_BD,) = views_of(torch.ones_like(rho), rho).sample(1, 256, generator)
    depths = torch.full((num_seeds,), depth)
    nets = balanced_init(torch.ones(num_seeds, dtype=torch.bool), depths, seed, dim, 0.3, generator)
    for _ in range(2):  # the first round warms both up
        start = time.process_time()
        moments = x_BD.mT @ x_BD / len(x_BD), y_BD.mT @ x_BD / len(x_BD)
        batched = train(nets, moments, torch.full((num_seeds,), step, dtype=torch.float64), num_steps, num_steps)
        middle = time.process_time()
        looped = [plain_train(nets, run, x_BD, y_BD, step, num_steps) for run in alone]
        loop_s, batched_s = (time.process_time() - middle) / len(alone), (middle - start) / num_seeds
    weights = (*batched.nets.layers, batched.nets.predictor)
    gap = max(float((w[run] - v).abs().max()) for run in alone for w, v in zip(weights, looped[run]))
    return {"loop_s_per_seed": loop_s, "batched_s_per_seed": batched_s, "ratio": loop_s / batched_s, "largest_difference": gap}
