"""What is in the latents? Frozen features in, one score with its interval out.

Every probe takes (train_x, train_y, test_x, test_y). Two rules hold throughout: features are standardised with
the statistics of the training features, and settings are chosen on a part of the training set. Fitting functions
(`fit_linear`, `fit_ridge`, `fit_attentive`) have no argument through which test data could enter.
Randomness comes from the generator that is passed (default: seed 0), so equal input gives equal scores.

Bad input is one ValueError: lengths or widths that differ, NaN or Inf, labels outside the classes of the training
set, a single class, too few samples.

Shapes: n samples, N tokens of each, D width, C classes, T targets, S problems solved at once, m samples in each,
R resamples, H attention heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

L2_GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # strong to weak, on mean log-loss and standardised features
RIDGE_GRID = tuple(10.0**k for k in range(2, -7, -1))
FEW_LABEL_L2 = 1e-1  # a handful of labels leaves none to choose it with
HELD_OUT = 0.2  # share of the training set that chooses l2
Z95 = 1.959964


@dataclass(frozen=True)
class Score:
    """``value`` with its 95 % interval ``low`` .. ``high`` over ``n_test`` samples; ``l2`` None where there is none."""

    value: float
    low: float
    high: float
    n_test: int
    l2: float | None = None


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear map: ``(x - mean) / std @ weight + bias``, with the l2 chosen for it."""

    mean: Float[Tensor, "D"]
    std: Float[Tensor, "D"]
    weight: Float[Tensor, "D C"]
    bias: Float[Tensor, "C"]
    l2: float

    def __call__(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n C"]:
        return (x.float() - self.mean) / self.std @ self.weight + self.bias


def _require(ok: bool, reason: str) -> None:
    if not ok:
        raise ValueError(reason)


def _check(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, ndim: int = 2) -> None:
    """What every probe asks of its input; labels are checked by `_check_labels`."""
    for name, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        axes = "[n, D]" if ndim == 2 else "[n, N, D]"
        _require(x.ndim == ndim and 0 not in x.shape, f"{name}_x must be a non-empty {axes}, got shape {tuple(x.shape)}")
        _require(x.is_floating_point(), f"{name}_x must be floating point, got {x.dtype}")
        _require(len(x) == len(y), f"{len(x)} rows of {name}_x but {len(y)} of {name}_y")
        _require(bool(torch.isfinite(x).all()), f"{name}_x holds NaN or Inf: the encoder diverged, or its input did")
    _require(train_x.shape[1:] == test_x.shape[1:], f"train_x and test_x differ: {tuple(train_x.shape[1:])} and {tuple(test_x.shape[1:])}")
    devices = {str(t.device) for t in (train_x, train_y, test_x, test_y)}
    _require(len(devices) == 1, f"features and labels must be on one device, got {sorted(devices)}")


def _check_labels(train_y: Tensor, test_y: Tensor) -> int:
    """The number of classes, largest training label + 1."""
    for name, y in (("train", train_y), ("test", test_y)):
        _require(not y.is_floating_point() and y.dtype != torch.bool, f"{name}_y must be integer labels, got {y.dtype}")
    low, high = (int(v) for v in train_y.aminmax())
    _require(low >= 0, f"train_y holds the label {low}: labels count from 0")
    _require(low < high, f"train_y holds one class only ({low}): nothing to tell apart")
    test_low, test_high = (int(v) for v in test_y.aminmax())
    _require(0 <= test_low and test_high <= high, f"test_y holds labels {test_low} .. {test_high}, training has 0 .. {high}")
    return high + 1


def _generator(generator: Generator | None) -> Generator:
    return generator if generator is not None else Generator().manual_seed(0)


def _split(n: int, generator: Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random indices of the fitting and the choosing part."""
    _require(n >= 5, f"{n} training samples are too few to hold some out: give at least 5")
    order = torch.randperm(n, generator=generator, device=generator.device).to(device)
    held = max(1, round(HELD_OUT * n))
    return order[held:], order[:held]


def _statistics(x_nD: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation; a constant feature gets std 1, so it becomes zero instead of NaN."""
    std_D, mean_D = torch.std_mean(x_nD, dim=0, correction=0)
    return mean_D, torch.where(std_D > 1e-6 * mean_D.abs().clamp_min(1e-30), std_D, 1.0)


# Intervals


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share ``correct / n``: never empty, never outside [0, 1]."""
    p, z = correct / n, Z95 / math.sqrt(n)
    centre, half = p + z * z / 2, z * math.sqrt(p * (1 - p) + z * z / 4)
    return max(0.0, (centre - half) / (1 + z * z)), min(1.0, (centre + half) / (1 + z * z))


def _accuracy(pred_n: Tensor, test_y: Tensor, l2: float | None = None) -> Score:
    correct, n = int((pred_n == test_y).sum()), len(test_y)
    return Score(correct / n, *wilson(correct, n), n, l2)


def _bootstrap(metric: Callable[[Tensor], Tensor], n: int, like: Tensor, generator: Generator, l2: float, resamples: int = 500) -> Score:
    """Percentile interval over test samples; ``metric`` maps weights [R, n] (how often each one is drawn) to [R]."""
    draws_Rn = torch.randint(n, (resamples, n), generator=generator, device=generator.device).to(like.device)
    weights_Rn = torch.zeros(resamples, n, device=like.device).scatter_add_(1, draws_Rn, torch.ones(1, 1, device=like.device).expand_as(draws_Rn))
    value = metric(torch.ones(1, n, device=like.device))
    low, high = torch.nanquantile(metric(weights_Rn), torch.tensor([0.025, 0.975], device=like.device)).tolist()
    return Score(float(value), low, high, n, l2)


# Linear


def _solve(z_SmK: Tensor, y_Sm: Tensor, scale_K: Tensor, start: tuple[Tensor, Tensor], l2: float, steps: int) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression, S independent problems at once: weight [S, K, C] and bias [S, 1, C].

    Minimises mean log-loss + l2 / 2 |weight|^2 by full-batch L-BFGS on weight / scale. With features turned to
    their principal axes and ``scale`` near curvature^-1/2 the problem is almost round: tens of steps, not hundreds.
    """
    weight, bias = (t.clone() for t in start)
    u, b = (weight / scale_K[:, None]).requires_grad_(), bias.requires_grad_()
    onehot_SmC = F.one_hot(y_Sm, bias.shape[-1]).to(z_SmK.dtype)
    m = y_Sm.shape[1]
    solver = torch.optim.LBFGS([u, b], max_iter=steps, history_size=20, tolerance_grad=1e-5, tolerance_change=1e-7, line_search_fn="strong_wolfe")

    @torch.no_grad()
    def loss():  # gradient by hand: half the time of autograd at this size
        w = u * scale_K[:, None]
        logp_SmC = torch.log_softmax(z_SmK @ w + b, dim=-1)
        residual_SmC = (logp_SmC.exp() - onehot_SmC) / m
        u.grad = (z_SmK.mT @ residual_SmC + l2 * w) * scale_K[:, None]
        b.grad = residual_SmC.sum(dim=-2, keepdim=True)
        return -(logp_SmC * onehot_SmC).sum() / m + 0.5 * l2 * w.square().sum()

    solver.step(loss)
    return u.detach() * scale_K[:, None], b.detach()


def _principal_axes(z_nD: Tensor) -> tuple[Tensor, Tensor]:
    """Variance along, and directions of, the principal axes of standardised features."""
    variance_K, axes_DK = torch.linalg.eigh(z_nD.mT @ z_nD / len(z_nD))
    return variance_K.clamp_min(0), axes_DK


def _scale(variance_K: Tensor, l2: float, num_classes: int) -> Tensor:
    return (variance_K / (2 * num_classes) + l2).rsqrt()


def fit_linear(train_x: Float[Tensor, "n D"], train_y: Int[Tensor, "n"], generator: Generator | None = None) -> LinearFit:
    """Multinomial logistic regression; l2 from L2_GRID by accuracy on a held-out fifth, ties to the stronger."""
    mean_D, std_D = _statistics(train_x.float())
    z_nD = (train_x.float() - mean_D) / std_D
    variance_K, axes_DK = _principal_axes(z_nD)
    z_nK, num_classes = z_nD @ axes_DK, int(train_y.max()) + 1
    fit_n, held_n = _split(len(z_nK), _generator(generator), z_nK.device)
    zero = (z_nK.new_zeros(1, z_nK.shape[1], num_classes), z_nK.new_zeros(1, 1, num_classes))
    solution, found = zero, []
    for l2 in L2_GRID:  # each starts from the one before
        scale_K = _scale(variance_K, l2, num_classes)
        solution = _solve(z_nK[fit_n][None], train_y[fit_n][None], scale_K, solution, l2, steps=50)
        accuracy = ((z_nK[held_n] @ solution[0][0] + solution[1][0]).argmax(-1) == train_y[held_n]).float().mean()
        found.append((float(accuracy), l2, solution))
    _, l2, solution = max(found, key=lambda f: f[:2])
    weight, bias = _solve(z_nK[None], train_y[None], _scale(variance_K, l2, num_classes), solution, l2, steps=100)
    return LinearFit(mean_D, std_D, axes_DK @ weight[0], bias[0, 0], l2)


def linear_probe(train_x: Float[Tensor, "n D"], train_y: Int[Tensor, "n"], test_x: Float[Tensor, "t D"], test_y: Int[Tensor, "t"], generator: Generator | None = None) -> Score:
    """Accuracy of multinomial logistic regression on standardised features, Wilson interval."""
    _check(train_x, train_y, test_x, test_y)
    _check_labels(train_y, test_y)
    fit = fit_linear(train_x, train_y, generator)
    return _accuracy(fit(test_x).argmax(-1), test_y, fit.l2)


def knn_probe(train_x: Float[Tensor, "n D"], train_y: Int[Tensor, "n"], test_x: Float[Tensor, "t D"], test_y: Int[Tensor, "t"], k: int = 20) -> Score:
    """Accuracy of the majority among the ``k`` nearest training samples by cosine, Wilson interval.

    Ties go to the class whose neighbours are closer in sum. Raises ValueError unless 1 <= k <= n.
    """
    _check(train_x, train_y, test_x, test_y)
    num_classes = _check_labels(train_y, test_y)
    _require(1 <= k <= len(train_x), f"k={k} neighbours of {len(train_x)} training samples: choose 1 .. {len(train_x)}")
    mean_D, std_D = _statistics(train_x.float())
    train_nD = F.normalize((train_x.float() - mean_D) / std_D, dim=-1)
    pred = []
    for chunk_tD in test_x.float().split(1024):  # bounds memory at 1024 x n
        similarity_tn = F.normalize((chunk_tD - mean_D) / std_D, dim=-1) @ train_nD.mT
        near_tk = similarity_tn.topk(k, dim=-1, sorted=False)
        votes_tk = 1 + near_tk.values / (2 * k + 1)  # the closeness of k neighbours never outweighs one vote
        votes_tC = votes_tk.new_zeros(len(votes_tk), num_classes).scatter_add_(1, train_y.long()[near_tk.indices], votes_tk)
        pred.append(votes_tC.argmax(-1))
    return _accuracy(torch.cat(pred), test_y)


def few_label(
    train_x: Float[Tensor, "n D"], train_y: Int[Tensor, "n"], test_x: Float[Tensor, "t D"], test_y: Int[Tensor, "t"],
    per_class: Sequence[int] = (1, 5, 10), draws: int = 10, generator: Generator | None = None,
) -> dict[int, Score]:  # fmt: skip
    """Accuracy with ``per_class`` labels of each class: mean over ``draws``, Student-t interval over the draws.

    Standardised with all training features, which need no labels; the draws of a smaller size are part of those
    of a larger one. All draws of a size are solved as one batch. l2 is fixed at FEW_LABEL_L2.
    """
    _check(train_x, train_y, test_x, test_y)
    num_classes = _check_labels(train_y, test_y)
    _require(draws >= 2, f"draws={draws}: an interval over draws needs at least 2")
    _require(len(per_class) >= 1 and min(per_class) >= 1, f"per_class must be counts of at least 1, got {tuple(per_class)}")
    idx_SCk = _draw(train_y, num_classes, max(per_class), draws, _generator(generator))
    mean_D, std_D = _statistics(train_x.float())
    variance_K, axes_DK = _principal_axes((train_x.float() - mean_D) / std_D)
    z_nK, test_tK = (((x.float() - mean_D) / std_D) @ axes_DK for x in (train_x, test_x))
    scale_K = _scale(variance_K, FEW_LABEL_L2, num_classes)
    zero = (z_nK.new_zeros(draws, z_nK.shape[1], num_classes), z_nK.new_zeros(draws, 1, num_classes))
    scores = {}
    for k in per_class:
        idx_Sm = rearrange(idx_SCk[:, :, :k], "S C k -> S (C k)")
        weight, bias = _solve(z_nK[idx_Sm], train_y[idx_Sm], scale_K, zero, FEW_LABEL_L2, steps=100)
        accuracy_S = ((test_tK @ weight + bias).argmax(-1) == test_y).double().mean(dim=-1)
        scores[k] = _over_draws(accuracy_S.tolist(), len(test_y))
    return scores


def _draw(train_y: Tensor, num_classes: int, k: int, draws: int, generator: Generator) -> Tensor:
    """Indices [S, C, k]: for every draw k different samples of each class."""
    idx = []
    for c in range(num_classes):
        of_class = (train_y == c).nonzero().squeeze(1)
        _require(len(of_class) >= k, f"class {c} has {len(of_class)} training samples, fewer than per_class={k}")
        keys = torch.rand(draws, len(of_class), generator=generator, device=generator.device)
        idx.append(of_class[keys.argsort(dim=1)[:, :k].to(train_y.device)])
    return torch.stack(idx, dim=1)


def _over_draws(values: list[float], n_test: int) -> Score:
    from scipy.special import stdtrit  # the quantile alone: scipy.stats takes a second to import

    n, mean = len(values), math.fsum(values) / len(values)
    half = float(stdtrit(n - 1, 0.975)) * math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return Score(mean, max(0.0, mean - half), min(1.0, mean + half), n_test, FEW_LABEL_L2)


def score_features(train_x: Float[Tensor, "n D"], train_y: Int[Tensor, "n"], test_x: Float[Tensor, "t D"], test_y: Int[Tensor, "t"], generator: Generator | None = None) -> dict[str, Score]:
    """The three scores every chapter reports: ``linear``, ``knn`` (k = 20) and ``few_label`` (10 per class)."""
    data = (train_x, train_y, test_x, test_y)
    generator = _generator(generator)
    return {"linear": linear_probe(*data, generator), "knn": knn_probe(*data), "few_label": few_label(*data, (10,), 10, generator)[10]}
