"""Is it collapsing? Cheap numbers that tell a latent space that spreads from one that shrinks.

Every metric takes features and returns a 0-d float64 tensor on their device, without gradient; on the CPU for features
on Apple's GPU, which has no float64. Otherwise no metric reads back to the host (only CUDA's eigenvalue solver
synchronises); `panel` reads all values back at once. Features with NaN or Inf
give NaN; `panel` refuses them. Eigenvalues come from D x D product matrices in float64, which is as exact as an SVD of
float32 features, and faster. Meant for widths up to about 1,000.

    metric           collapsed to a point    healthy                 unchanged by
    feature_std      0                       about 1 after a norm    shift
    target_variance  0                       up to 1 after a norm    shift, rotation
    cosine_to_mean   1                       well below 1            scale, rotation
    rankme           1                       a good share of D       scale, rotation
    lidar            1                       a good share of D       shift, rotation
    alpha_req        5 and more              about 1                 shift, rotation, scale

Shapes: n samples, q views of each, D width.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

ROUNDING = 1e-6  # a relative spread below this is float32 rounding (eps 1.2e-7, summed over a forward pass)

# The alarm. Measured on Fashion-MNIST (patches of 7, 4 and 2 pixels, widths 64 to 192, 200 to 600 steps): healthy
# encoders, untrained ones too, have cosine_to_mean up to 0.951, rankme from 6.6 and rank_share from 0.079. Without
# stop-gradient 50 steps lead to 0.9997, 2.1 and 0.03. The published initialisation (0.02) is on the wrong side from
# the start with patches of 4 (0.998, 1.7, 0.026) and soon with patches of 7: its targets are nearly pure position.
MIN_STD = 1e-4  # a smooth-L1 or L2 loss between such features is below 1e-8: nothing is left to learn from
MAX_COSINE = 0.999  # the part in which samples differ is under 4.5 % of a feature's length
MIN_RANK_SHARE = 0.05  # of min(n, D), but
MIN_RANK = (2.0, 4.0)  # not under 2, where one direction carries nearly everything, nor over 4, whatever the width


def _check(features: Tensor, axes: str) -> Tensor:
    """Float64 copy; raises ValueError for another rank, integers, one sample or an empty axis."""
    if features.ndim != len(axes.split()):
        raise ValueError(
            f"features must be [{axes}], got shape {tuple(features.shape)}: pool or flatten the tokens first"
        )
    if not features.is_floating_point():
        raise ValueError(f"features must be floating point, got {features.dtype}")
    if features.shape[0] < 2 or 0 in features.shape:
        raise ValueError(f"need at least 2 samples and a non-empty [{axes}], got {tuple(features.shape)}")
    has_float64 = features.device.type != "mps"
    return (features if has_float64 else features.cpu()).detach().double()


def _moments(x_nD: Tensor) -> tuple[Tensor, Tensor]:
    """X^T X and the covariance, both [D, D]; a spread that is only rounding (see ROUNDING) becomes exactly zero.

    Float64 leaves 1e-15 of the mean square after the subtraction, far below ROUNDING^2.
    """
    n, mean_D = len(x_nD), x_nD.mean(dim=0)
    gram_DD = x_nD.mT @ x_nD
    scatter_DD = gram_DD - n * torch.outer(mean_D, mean_D)
    is_spread = scatter_DD.trace() > ROUNDING**2 * gram_DD.trace()
    return gram_DD, scatter_DD * is_spread / (n - 1)


def _eigenvalues(symmetric_DD: Tensor, count: int) -> Tensor:
    """The ``count`` largest eigenvalues, in falling order, never negative; all NaN for a matrix with NaN or Inf."""
    zero_or_nan = symmetric_DD.sum() * 0  # the solver rejects NaN
    safe_DD = torch.nan_to_num(symmetric_DD, nan=0.0, posinf=0.0, neginf=0.0)
    return torch.linalg.eigvalsh(safe_DD).flip(0)[:count].clamp_min(0) + zero_or_nan


def _effective_rank(weights_K: Tensor, eps: float = 1e-7) -> Tensor:
    """exp of the entropy of normalised weights: k equal weights among zeros give k, and all zeros give 1."""
    p_K = weights_K / weights_K.sum().clamp_min(1e-300) + eps
    return torch.exp(-(p_K * p_K.log()).sum())


def feature_std(features: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """Mean over the D features of their standard deviation over samples (the quantity VICReg keeps above 1)."""
    return _feature_std(_moments(_check(features, "n D"))[1])


def _feature_std(cov_DD: Tensor) -> Tensor:
    return cov_DD.diagonal().clamp_min(0).sqrt().mean()


def target_variance(features: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """Mean over the D features of their variance over samples: trace of the covariance / D.

    For layer-normed targets it lies in [0, 1]: 1 when samples share nothing, 0 when they are all the same.
    """
    return _moments(_check(features, "n D"))[1].diagonal().mean()


def cosine_to_mean(features: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """Mean cosine between a sample and the mean of all samples: 1 is one single direction."""
    return _cosine_to_mean(_check(features, "n D"))


def _cosine_to_mean(x_nD: Tensor) -> Tensor:
    mean_D = x_nD.mean(dim=0)
    length_n, mean_length = x_nD.norm(dim=-1), mean_D.norm()
    both_n = length_n * mean_length
    # A zero vector has no direction: it agrees with a mean that is zero as well.
    return torch.where(both_n == 0, (length_n == mean_length).double(), x_nD @ mean_D / both_n).mean()


def rankme(features: Float[Tensor, "n D"], eps: float = 1e-7) -> Float[Tensor, ""]:
    """RankMe (Garrido et al. 2023) eq. 1: exp of the entropy of the singular values, between 1 and min(n, D).

    As published the features are not centred, so one large common direction counts as rank 1.
    """
    x_nD = _check(features, "n D")
    return _effective_rank(_eigenvalues(x_nD.mT @ x_nD, min(x_nD.shape)).sqrt(), eps)


def lidar(features: Float[Tensor, "n q D"], delta: float = 1e-4, eps: float = 1e-7) -> Float[Tensor, ""]:
    """LiDAR (Thilak et al. 2024): effective rank of the between-sample spread measured in within-sample units.

    The q views of each of n samples form a class. The eigenvalues of S_w^-1/2 S_b S_w^-1/2 enter RankMe's entropy;
    S_w is the within-class covariance plus ``delta`` on the diagonal. At most n - 1. Needs q >= 2.
    """
    x_nqD = _check(features, "n q D")
    n, q, width = x_nqD.shape
    if q < 2:
        raise ValueError(f"lidar needs at least 2 views of each sample, got {q}")
    mean_nD = reduce(x_nqD, "n q D -> n D", "mean")
    within_XD = rearrange(x_nqD - mean_nD[:, None], "n q D -> (n q) D")
    between_DD = _moments(mean_nD)[1]  # its scale cancels in the rank
    within_DD = within_XD.mT @ within_XD / (n * q) + delta * torch.eye(width, dtype=x_nqD.dtype, device=x_nqD.device)
    # With S_w = L L^T, the matrix L^-1 S_b L^-T has the eigenvalues of S_w^-1/2 S_b S_w^-1/2.
    chol_DD, _ = torch.linalg.cholesky_ex(within_DD)
    half_DD = torch.linalg.solve_triangular(chol_DD, between_DD, upper=False)
    ratio_DD = torch.linalg.solve_triangular(chol_DD, half_DD.mT, upper=False)
    return _effective_rank(_eigenvalues(ratio_DD, min(n - 1, width)), eps)


def alpha_req(features: Float[Tensor, "n D"]) -> Float[Tensor, ""]:
    """alpha-ReQ (Agrawal et al. 2022): the exponent of the power law lambda_i ~ i^-alpha of the covariance spectrum.

    Least squares of log lambda_i on log i over all min(n - 1, D) eigenvalues. As in the authors' code, i has the weight
    1 / i, so that every octave of the spectrum counts the same; their code also skips leading eigenvalues, which our
    widths (64 to 192) are too small for. Eigenvalues below ROUNDING^2 of the first are raised to that value, so rank-1
    or constant features give a large, finite alpha. A single eigenvalue has no law and gives 0.
    """
    x_nD = _check(features, "n D")
    return _power_law(_moments(x_nD)[1], min(len(x_nD) - 1, x_nD.shape[1]))


def _power_law(cov_DD: Tensor, count: int) -> Tensor:
    """The exponent alpha of the ``count`` largest eigenvalues."""
    lam_K = _eigenvalues(cov_DD, count)
    lam_K = (lam_K / lam_K[0].clamp_min(1e-300)).clamp_min(ROUNDING**2)
    i_K = torch.arange(1, len(lam_K) + 1, device=lam_K.device, dtype=lam_K.dtype)
    y_K = torch.where(i_K == 1, 0 * lam_K, lam_K.log())  # lambda_1 is 1 after division, also when all are zero
    x_K, weight_K = i_K.log(), 1 / i_K / (1 / i_K).sum()
    x_K = x_K - (weight_K * x_K).sum()
    y_K = y_K - (weight_K * y_K).sum()
    return -(weight_K * x_K * y_K).sum() / (weight_K * x_K.square()).sum().clamp_min(1e-300)


def panel(features: Float[Tensor, "n D"], views: Float[Tensor, "m q D"] | None = None) -> dict[str, float]:
    """All metrics of features as Python floats, with one read-back; ``views`` (m samples, q views each) add lidar.

    ``rank_share`` is rankme / min(n, D). Use a fixed set of about 1,000 held-out samples and pooled features.
    Raises ValueError on NaN or Inf.
    """
    x_nD = _check(features, "n D")
    n, width = x_nD.shape
    gram_DD, cov_DD = _moments(x_nD)  # once, for all
    metrics = {
        "feature_std": _feature_std(cov_DD),
        "target_variance": cov_DD.diagonal().mean(),
        "cosine_to_mean": _cosine_to_mean(x_nD),
    }
    metrics["rankme"] = _effective_rank(_eigenvalues(gram_DD, min(n, width)).sqrt())
    metrics["rank_share"] = metrics["rankme"] / min(n, width)
    metrics["alpha_req"] = _power_law(cov_DD, min(n - 1, width))
    if views is not None:
        metrics["lidar"] = lidar(views)
    values = torch.stack(list(metrics.values())).tolist()
    if not all(map(math.isfinite, values)):
        raise ValueError("features hold NaN or Inf: look at the loss and the gradients of the steps before")
    return dict(zip(metrics, values))


def rank_limit(possible: float) -> float:
    """The rankme below which the alarm fires, where ``possible`` = min(n, D) directions could carry something."""
    return min(max(MIN_RANK_SHARE * possible, MIN_RANK[0]), MIN_RANK[1])


def collapsed(panel: Mapping[str, float]) -> str | None:
    """The alarm: the reason why these features count as collapsed, or None while they are healthy.

    Three kinds: everything shrinks to zero, everything becomes one vector, everything falls into a few directions.
    alpha_req and lidar are shown but raise no alarm: their healthy range depends on data and width.
    """
    std, cosine, rank, share = (panel[k] for k in ("feature_std", "cosine_to_mean", "rankme", "rank_share"))
    if not std >= MIN_STD:
        return f"complete collapse: feature_std {std:.1e} is below {MIN_STD:g}, all samples have the same features"
    if not cosine <= MAX_COSINE:
        return f"complete collapse: cosine_to_mean {cosine:.5f} is above {MAX_COSINE:g}, all samples point the same way"
    possible = rank / share
    limit = rank_limit(possible)
    if not rank >= limit:
        return (
            f"dimensional collapse: rankme {rank:.2f} of {possible:.0f} possible is below {limit:.1f}, "
            "few directions carry everything"
        )
    return None


History = Mapping[str, Sequence[float]]  # a run's logged values: `step`, `loss` and the collapse panel, equally long


def last_alarm(history: History) -> str | None:
    """The alarm at the last logged step of a run, or None where that panel is healthy."""
    return collapsed({name: values[-1] for name, values in history.items()})


def first_alarm(history: History) -> tuple[int, str] | None:
    """The first logged step at which the alarm fires, with its reason, or None where it never fires."""
    for i, step in enumerate(history["step"]):
        reason = collapsed({name: values[i] for name, values in history.items()})
        if reason:
            return int(step), reason
    return None
