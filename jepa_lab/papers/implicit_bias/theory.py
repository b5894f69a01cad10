"""Deep linear JEPA and MAE, feature by feature: the scalar theory of Littwin et al. 2024 (arXiv 2407.03475).

Where x and y are diagonal in one basis, feature i has two numbers, lam_i = cov(y_i, x_i) and
rho_i = lam_i / var(x_i), and is learned independently of all others. Letters: `depth` is L, the number of encoder
layers; `wbar` is the encoder's end-to-end gain on the feature; `eps` is that gain at the start; `fraction` is p, the
share of the fixed point at which a feature counts as learned.

Time is the paper's: tau = L * (literal gradient-flow time at unit learning rate). The full text of the paper was not
available: equation and theorem numbers are second hand. Every formula was derived again and is tested.
"""

from math import isfinite, log
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Objective = Literal["jepa", "mae"]

# nodes and weights of 3-point Gauss-Legendre on [0, 1], exact to degree 5; explorer.js uses the same
GAUSS = ((0.5 - 0.15**0.5, 5 / 18), (0.5, 8 / 18), (0.5 + 0.15**0.5, 5 / 18))


def check(lam: Tensor, rho: Tensor, depth: int, eps: float | None = None, fraction: float = 0.5) -> None:
    """Raise ValueError with the reason where the theory does not apply to these features."""
    if isinstance(depth, bool) or int(depth) != depth or depth < 1:
        raise ValueError(f"depth must be a whole number of layers, at least 1; got {depth}")
    for name, value, why in (
        ("lam", lam, "a feature whose x and y do not covary is never learned"),
        ("rho", rho, "rho has the sign of lam, and the fixed point rho**depth must exist"),
    ):
        if not bool(torch.isfinite(value).all() and (value > 0).all()):
            raise ValueError(f"{name} must be positive and finite: {why}; got {value.tolist()}")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie between 0 and 1 (the fixed point itself is never reached); got {fraction}")
    if eps is None:
        return
    if not (isfinite(eps) and eps > 0):
        raise ValueError(f"eps must be positive: a gain that starts at 0 stays 0; got {eps}")
    lowest = min(float(fixed_point(o, rho, depth).min()) for o in ("jepa", "mae"))
    if eps >= fraction * lowest:
        raise ValueError(
            f"eps = {eps:g} is not below fraction * fixed point = {fraction * lowest:.3g} at depth {depth}: "
            "the feature of smallest rho counts as learned at time 0, so the order has no meaning; "
            "take a smaller eps, fewer layers or a larger rho"
        )


def fixed_point(objective: Objective, rho: Float[Tensor, "..."], depth: int) -> Float[Tensor, "..."]:
    """Littwin et al. fixed points: wbar* = rho^L (JEPA), rho^(L/(L+1)) (MAE)."""
    return rho**depth if objective == "jepa" else rho ** (depth / (depth + 1))


def velocity(
    objective: Objective, wbar: Float[Tensor, "..."], lam: Float[Tensor, "..."], rho: Float[Tensor, "..."], depth: int
) -> Float[Tensor, "..."]:
    """Littwin et al. eq. (7) for JEPA, eq. (8) for MAE: d wbar / d tau."""
    power = 3 - 1 / depth if objective == "jepa" else 2 - 1 / depth
    return lam * wbar**power - (lam / rho) * wbar**3


def learning_curve(
    objective: Objective,
    lam: Float[Tensor, "*F"],
    rho: Float[Tensor, "*F"],
    depth: int,
    eps: float,
    last: float = 0.999,
    points: int = 401,
) -> tuple[Float[Tensor, "*F P"], Float[Tensor, "*F P"]]:
    """Littwin et al. eqs. (7) and (8), exact solution: (tau, wbar / wbar*) from eps up to the fraction `last`.

    The equation of one feature is separable, so tau is an integral and needs no time steps. With s = wbar / wbar* and
    u = logit(s), both equations read d tau / du = (1 - s) / (lam * wbar^a * (1 - s^k)), which is smooth at both ends.
    """
    check(lam, rho, depth, eps, last)
    lam, rho = torch.broadcast_tensors(lam.double(), rho.double())
    goal = fixed_point(objective, rho, depth)[..., None]
    a = 2 - 1 / depth if objective == "jepa" else 1 - 1 / depth
    k = 1 / depth if objective == "jepa" else 1 + 1 / depth
    u_first = torch.logit(eps / goal)
    width = (log(last / (1 - last)) - u_first) / (points - 1)
    u = u_first + width * torch.arange(points, device=rho.device, dtype=torch.float64)

    def pace(u: Tensor) -> Tensor:
        log_s = torch.nn.functional.logsigmoid(u)
        return torch.sigmoid(-u) / (lam[..., None] * (goal * log_s.exp()) ** a * -torch.expm1(k * log_s))

    pieces = sum(weight * pace(u[..., :-1] + node * width) for node, weight in GAUSS) * width
    tau = torch.nn.functional.pad(pieces.cumsum(-1), (1, 0))
    return tau, torch.sigmoid(u)


def critical_time(
    objective: Objective,
    lam: Float[Tensor, "*F"],
    rho: Float[Tensor, "*F"],
    depth: int,
    eps: float,
    fraction: float = 0.5,
) -> Float[Tensor, "*F"]:
    """Littwin et al. eqs. (7) and (8), by quadrature: first tau at which wbar reaches `fraction` of its fixed point."""
    return learning_curve(objective, lam, rho, depth, eps, last=fraction)[0][..., -1]


def progress_at(
    times: Float[Tensor, " T"],
    objective: Objective,
    lam: Float[Tensor, " F"],
    rho: Float[Tensor, " F"],
    depth: int,
    eps: float,
) -> Float[Tensor, "F T"]:
    """wbar / wbar* of the scalar theory at given times tau, interpolated in logit between 4,001 exact points."""
    tau, s = learning_curve(objective, lam, rho, depth, eps, last=1 - 1e-9, points=4001)
    times = times.to(tau).expand(tau.shape[0], -1).contiguous()
    right = torch.searchsorted(tau, times).clamp(1, tau.shape[-1] - 1)
    t0, t1 = tau.gather(-1, right - 1), tau.gather(-1, right)
    u = torch.logit(s)
    u0, u1 = u.gather(-1, right - 1), u.gather(-1, right)
    return torch.sigmoid(u0 + (u1 - u0) * ((times - t0) / (t1 - t0)).clamp(0, 1))


def implicit_time(
    wbar: Float[Tensor, "..."], lam: Float[Tensor, "..."], rho: Float[Tensor, "..."], depth: int
) -> Float[Tensor, "..."]:
    """Littwin et al. Theorem 4.4: tau of JEPA in closed form, up to a constant; psi = wbar^(1/L) / rho < 1."""
    psi = wbar ** (1 / depth) / rho
    total = torch.log(psi) - torch.log1p(-psi)
    for n in range(1, 2 * depth):
        total = total - 1 / (n * psi**n)
    return depth * total / (lam * rho ** (2 * depth - 1))


def critical_time_sum(
    objective: Objective,
    lam: Float[Tensor, "..."],
    rho: Float[Tensor, "..."],
    depth: int,
    eps: float,
    terms: int | None = None,
) -> Float[Tensor, "..."]:
    """Littwin et al. Theorem 4.5: the critical time without its remainder, Theta(log eps) for JEPA, Theta(1) for MAE.

    `terms` keeps that many leading terms of the JEPA sum: first n = 2L-1, which does not contain rho, then n = 2L-2,
    and so on.
    """
    check(lam, rho, depth, eps)
    if objective == "mae":
        lead = log(1 / eps) if depth == 1 else depth / ((depth - 1) * eps ** ((depth - 1) / depth))
        return lead / lam * torch.ones_like(rho)
    lowest = 1 if terms is None else max(1, 2 * depth - terms)
    total = sum(depth / (n * rho ** (2 * depth - n - 1) * eps ** (n / depth)) for n in range(lowest, 2 * depth))
    return total / lam


def rho_ratio(rho_a: Float[Tensor, "..."], rho_b: Float[Tensor, "..."], depth: int, eps: float) -> Float[Tensor, "..."]:
    """Littwin et al. Theorem 4.5, first order: t*(rho_a) / t*(rho_b) of JEPA at equal lam is 1 + Delta eps^(1/L).

    Raises ValueError below depth 2.
    """
    if depth < 2:
        raise ValueError("the eps^(1/L) ratio needs depth >= 2; at depth 1 the effect is of order eps * log(1/eps)")
    return 1 + (2 * depth - 1) / (2 * depth - 2) * (1 / rho_a - 1 / rho_b) * eps ** (1 / depth)


def largest_step(
    objective: Objective, lam: Float[Tensor, "..."], rho: Float[Tensor, "..."], depth: int
) -> Float[Tensor, "..."]:
    """Step size (literal time) above which gradient descent is unstable at the fixed point: 2 / contraction rate.

    The rates follow from linearising dv/dt and dw/dt: lam * rho^(2L-1) for JEPA, (L+1) * lam * rho^((L-1)/(L+1)) for
    MAE.
    """
    if objective == "jepa":
        return 2 / (lam * rho ** (2 * depth - 1))
    return 2 / ((depth + 1) * lam * rho ** ((depth - 1) / (depth + 1)))


def diagonal_features(
    sxx: Float[Tensor, "D D"], syx: Float[Tensor, "D D"], tolerance: float = 1e-8
) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"], Float[Tensor, "D D"]]:
    """(lam, rho, basis with features in columns) of covariances that share a basis.

    Raises ValueError where they do not.
    """
    clash = (sxx @ syx - syx @ sxx).norm() / (sxx @ syx).norm()
    lopsided = (syx - syx.T).norm() / syx.norm()
    if not bool(clash <= tolerance) or not bool(lopsided <= tolerance):
        raise ValueError(
            "the scalar theory needs Sxx and Syx to be symmetric and to commute "
            f"(relative commutator {float(clash):.2g}, asymmetry {float(lopsided):.2g}): "
            "otherwise features mix and none has a rho of its own; simulate the matrices instead"
        )
    # an irrational mixture separates eigenspaces in which one of the two matrices is degenerate
    _, basis = torch.linalg.eigh(sxx / sxx.norm() + 0.6180339887 * syx / syx.norm())
    lam = (basis * (syx @ basis)).sum(0)
    return lam, lam / (basis * (sxx @ basis)).sum(0), basis


def generalised_features(
    sxx: Float[Tensor, "*R D D"], syx: Float[Tensor, "*R D D"]
) -> tuple[Float[Tensor, "*R D"], Float[Tensor, "*R D"], Float[Tensor, "*R D D"]]:
    """(lam, rho, duals) of covariances that need not commute, rho ascending; our extension, not the paper's.

    At a JEPA fixed point the rows of Wbar span solutions u of Syx u = rho Sxx u, with |u| = 1 and lam = u^T Syx u.
    Column i of `duals` reads the coefficient of u_i: Wbar = sum_i c_i u_i^T has Wbar @ duals[:, i] = c_i.
    """
    whiten = torch.linalg.inv(torch.linalg.cholesky(sxx))
    rho, turned = torch.linalg.eigh(whiten @ syx @ whiten.mT)
    u = whiten.mT @ turned
    u = u / u.norm(dim=-2, keepdim=True)
    return (u * (syx @ u)).sum(-2), rho, torch.linalg.inv(u).mT
