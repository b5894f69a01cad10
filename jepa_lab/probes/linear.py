"""What is in the latents? Frozen features in, one score with its interval out.

Every probe takes (train_x, train_y, test_x, test_y). Two rules hold throughout: features are standardised with
the statistics of the training features, and settings are chosen on a part of the training set. Fitting functions
(`fit_linear`, `fit_ridge`, `fit_attentive`) have no argument through which test data could enter.
Randomness comes from the generator that is passed (default: seed 0), so equal input gives equal scores.

Bad input is one ValueError: lengths or widths that differ, NaN or Inf, labels outside the classes of the training
set, a single class, too few samples.

Shapes: n samples, N tokens of each, D width, C classes, T targets, S problems solved at once, m samples in each,
R resamples, L values of l2, H attention heads, K principal axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float, Integer
from torch import Generator, Tensor

from jepa_lab.probes.scores import Score, accuracy, bootstrap, over_draws

TrainX, TrainY = Float[Tensor, "n D"], Integer[Tensor, "n"]
TestX, TestY = Float[Tensor, "t D"], Integer[Tensor, "t"]
TrainTokens, TestTokens = Float[Tensor, "n N D"], Float[Tensor, "t N D"]

L2_GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # strong to weak, on mean log-loss and standardised features
RIDGE_GRID = tuple(10.0**k for k in range(2, -7, -1))
FEW_LABEL_L2 = 1e-1  # a handful of labels leaves none to choose it with; 1 to 1e-3 differ by under 2 points on pixels
HELD_OUT = 0.2  # share of the training set that chooses l2


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear map: ``(x - mean) / std @ weight + bias``, with the l2 chosen for it."""

    mean: Float[Tensor, " D"]
    std: Float[Tensor, " D"]
    weight: Float[Tensor, "D C"]
    bias: Float[Tensor, " C"]
    l2: float

    def __call__(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n C"]:
        return (x.float() - self.mean) / self.std @ self.weight + self.bias


def _require(ok: bool, reason: str) -> None:
    if not ok:
        raise ValueError(reason)


def _check(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, x_axes: str = "n D", y_axes: str = "n"
) -> None:
    """What every probe asks of its input; labels are checked by `_check_labels`."""
    devices = {str(t.device) for t in (train_x, train_y, test_x, test_y)}
    _require(len(devices) == 1, f"features and labels must be on one device, got {sorted(devices)}")
    for name, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        for part, value, axes in (("x", x, x_axes), ("y", y, y_axes)):
            is_right = value.ndim == len(axes.split()) and 0 not in value.shape
            _require(is_right, f"{name}_{part} must be a non-empty [{axes}], got shape {tuple(value.shape)}")
        shared = sum(a == b for a, b in zip(x_axes.split(), y_axes.split()))
        _require(
            x.shape[:shared] == y.shape[:shared],
            f"{name}_x {tuple(x.shape)} and {name}_y {tuple(y.shape)} differ in [{y_axes}]",
        )
        _require(x.is_floating_point(), f"{name}_x must be floating point, got {x.dtype}")
        _require(bool(torch.isfinite(x).all()), f"{name}_x holds NaN or Inf: the encoder diverged, or its input did")
    _require(
        train_x.shape[1:] == test_x.shape[1:],
        f"train_x and test_x differ: {tuple(train_x.shape[1:])} and {tuple(test_x.shape[1:])}",
    )


def _check_labels(train_y: Tensor, test_y: Tensor) -> int:
    """The number of classes, largest training label + 1."""
    for name, y in (("train", train_y), ("test", test_y)):
        _require(not y.is_floating_point() and y.dtype != torch.bool, f"{name}_y must be integer labels, got {y.dtype}")
    low, high = (int(v) for v in train_y.aminmax())
    _require(low >= 0, f"train_y holds the label {low}: labels count from 0")
    _require(low < high, f"train_y holds one class only ({low}): nothing to tell apart")
    test_low, test_high = (int(v) for v in test_y.aminmax())
    _require(
        test_low >= 0 and test_high <= high, f"test_y holds labels {test_low} .. {test_high}, training has 0 .. {high}"
    )
    return high + 1


def _generator(generator: Generator | None) -> Generator:
    return generator if generator is not None else Generator().manual_seed(0)


def _split(n: int, generator: Generator, device: torch.device, group: int = 1) -> tuple[Tensor, Tensor]:
    """Random indices of the fitting and the choosing part; runs of ``group`` rows stay together."""
    groups = n // group
    _require(groups >= 5, f"{groups} training samples are too few to hold some out: give at least 5")
    order = torch.randperm(groups, generator=generator, device=generator.device).to(device)
    order_n = (order[:, None] * group + torch.arange(group, device=device)).flatten()
    held = round(HELD_OUT * groups) * group
    return order_n[held:], order_n[:held]


def _statistics(x_nD: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation; a constant feature gets std 1, so it becomes zero instead of NaN."""
    std_D, mean_D = torch.std_mean(x_nD, dim=0, correction=0)
    return mean_D, torch.where(std_D > 1e-6 * mean_D.abs().clamp_min(1e-30), std_D, 1.0)


# Linear


def _solve(
    z_SmK: Tensor, y_Sm: Tensor, variance_K: Tensor, start: tuple[Tensor, Tensor], l2: float, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression, S independent problems at once: weight [S, C, K] and bias [S, C, 1].

    Minimises mean log-loss + l2 / 2 |weight|^2 by full-batch L-BFGS until no gradient exceeds ``tolerance``.
    Features lie along their principal axes, so dividing each weight by about its curvature^-1/2 makes the problem
    almost round. Classes come first: on one core softmax and products over [C, m] take 1/4 to 1/40 of those over [m,
    C].
    """
    (weight, bias), (m, num_classes) = start, (y_Sm.shape[1], start[0].shape[1])
    scale_K, scale_b = (variance_K / num_classes + l2).rsqrt(), num_classes**0.5
    u, b = weight / scale_K, bias / scale_b
    onehot_SCm = rearrange(F.one_hot(y_Sm.long(), num_classes).to(z_SmK.dtype), "S m C -> S C m").contiguous()
    solver = torch.optim.LBFGS(
        [u, b],
        max_iter=150,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def loss():  # with the gradient by hand, since no_grad callers are welcome
        w = u * scale_K
        logp_SCm = torch.log_softmax(w @ z_SmK.mT + b * scale_b, dim=1)
        residual_SCm = logp_SCm.exp().sub_(onehot_SCm).div_(m)
        u.grad = (residual_SCm @ z_SmK + l2 * w) * scale_K
        b.grad = residual_SCm.sum(dim=2, keepdim=True) * scale_b
        return 0.5 * l2 * w.square().sum() - (logp_SCm * onehot_SCm).sum() / m

    solver.step(loss)
    return u * scale_K, b * scale_b


def _zero(z_nK: Tensor, problems: int, num_classes: int) -> tuple[Tensor, Tensor]:
    return z_nK.new_zeros(problems, num_classes, z_nK.shape[1]), z_nK.new_zeros(problems, num_classes, 1)


def _principal_axes(z_nD: Tensor) -> tuple[Tensor, Tensor]:
    """Variance along, and directions [D, K] of, the principal axes of standardised features."""
    variance_K, axes_DK = torch.linalg.eigh(z_nD.mT @ z_nD / len(z_nD))
    return variance_K.clamp_min(0), axes_DK


@torch.no_grad()
def fit_linear(train_x: TrainX, train_y: TrainY, generator: Generator | None = None, group: int = 1) -> LinearFit:
    """Multinomial logistic regression; l2 from L2_GRID by accuracy on a held-out fifth, ties to the stronger.

    Runs of ``group`` rows (the tokens of one image) are held out together.
    """
    mean_D, std_D = _statistics(train_x.float())
    z_nD = (train_x.float() - mean_D) / std_D
    variance_K, axes_DK = _principal_axes(z_nD)
    z_nK, num_classes = z_nD @ axes_DK, int(train_y.max()) + 1
    fit_n, held_n = _split(len(z_nK), _generator(generator), z_nK.device, group)
    fit_1mK, fit_y, held_nK, held_y = z_nK[fit_n][None], train_y[fit_n][None], z_nK[held_n], train_y[held_n]
    found, solution = [], _zero(z_nK, 1, num_classes)
    for l2 in L2_GRID:  # each starts from the one before
        weight, bias = solution = _solve(fit_1mK, fit_y, variance_K, solution, l2, tolerance=1e-3)
        right = (weight[0] @ held_nK.mT + bias[0]).argmax(dim=0) == held_y
        found.append((int(right.sum()), l2, solution))
    _, l2, solution = max(found, key=lambda f: f[0])  # the first, strongest one of equals
    weight, bias = _solve(z_nK[None], train_y[None], variance_K, solution, l2, tolerance=1e-4)
    return LinearFit(mean_D, std_D, axes_DK @ weight[0].mT, bias[0, :, 0], l2)


@torch.no_grad()
def linear_probe(
    train_x: TrainX, train_y: TrainY, test_x: TestX, test_y: TestY, generator: Generator | None = None
) -> Score:
    """Accuracy of multinomial logistic regression on standardised features, Wilson interval."""
    _check(train_x, train_y, test_x, test_y)
    _check_labels(train_y, test_y)
    fit = fit_linear(train_x, train_y, generator)
    return accuracy(fit(test_x).argmax(-1), test_y, fit.l2)


@torch.no_grad()
def patch_probe(
    train_x: TrainTokens,
    train_y: Integer[Tensor, "n N"],
    test_x: TestTokens,
    test_y: Integer[Tensor, "t N"],
    generator: Generator | None = None,
    max_tokens: int = 20_000,
) -> dict[str, Score]:
    """One linear probe for the label of every token: ``miou`` (mean intersection over union) and ``accuracy``.

    Fitted on the tokens of randomly chosen images, ``max_tokens`` at most (5 images at least), which are held out
    image by image. IoU counts over the test set, its mean over classes that occur in labels or predictions;
    intervals are bootstrapped over images, since the tokens of one image are not independent.
    """
    _check(train_x, train_y, test_x, test_y, "n N D", "n N")
    num_classes, generator = _check_labels(train_y, test_y), _generator(generator)
    num_tokens = train_x.shape[1]
    order = torch.randperm(len(train_x), generator=generator, device=generator.device).to(train_x.device)
    chosen = order[: max(5, max_tokens // num_tokens)]
    fit = fit_linear(train_x[chosen].flatten(0, 1), train_y[chosen].flatten(), generator, group=num_tokens)
    pred_nN, label_nN = fit(test_x).argmax(-1), test_y.long()

    def count(label: Tensor, weight: Tensor) -> Tensor:
        return fit.weight.new_zeros(len(label), num_classes).scatter_add_(1, label, weight.to(fit.weight.dtype))

    right_nN = pred_nN == label_nN
    hit_nC = count(label_nN, right_nN)
    union_nC = count(label_nN, torch.ones_like(right_nN)) + count(pred_nN, torch.ones_like(right_nN)) - hit_nC
    miou = lambda w_Rn: ((w_Rn @ hit_nC) / (w_Rn @ union_nC)).nanmean(dim=1)  # noqa: E731
    share = lambda w_Rn: w_Rn @ hit_nC.sum(1) / num_tokens / w_Rn.sum(1)  # noqa: E731
    return {
        name: bootstrap(f, len(test_x), hit_nC, generator, fit.l2) for name, f in (("miou", miou), ("accuracy", share))
    }


# Nearest neighbours


@torch.no_grad()
def knn_probe(train_x: TrainX, train_y: TrainY, test_x: TestX, test_y: TestY, k: int = 20) -> Score:
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
        votes_tC = votes_tk.new_zeros(len(votes_tk), num_classes).scatter_add_(
            1, train_y.long()[near_tk.indices], votes_tk
        )
        pred.append(votes_tC.argmax(-1))
    return accuracy(torch.cat(pred), test_y)


# Few labels


@torch.no_grad()
def few_label(
    train_x: TrainX,
    train_y: TrainY,
    test_x: TestX,
    test_y: TestY,
    per_class: Sequence[int] = (1, 5, 10),
    draws: int = 10,
    generator: Generator | None = None,
) -> dict[int, Score]:
    """Accuracy with ``per_class`` labels of each class: mean over ``draws``, Student-t interval over the draws.

    Standardised with all training features, which need no labels; the draws of a smaller size are part of those
    of a larger one. All draws of a size are solved as one batch. l2 is fixed at FEW_LABEL_L2.
    """
    _check(train_x, train_y, test_x, test_y)
    num_classes = _check_labels(train_y, test_y)
    _require(draws >= 2, f"draws={draws}: an interval over draws needs at least 2")
    _require(
        len(per_class) >= 1 and min(per_class) >= 1, f"per_class must be counts of at least 1, got {tuple(per_class)}"
    )
    idx_SCk = _draw(train_y, num_classes, max(per_class), draws, _generator(generator))
    mean_D, std_D = _statistics(train_x.float())
    variance_K, axes_DK = _principal_axes((train_x.float() - mean_D) / std_D)
    z_nK, test_tK = (((x.float() - mean_D) / std_D) @ axes_DK for x in (train_x, test_x))
    scores = {}
    for k in per_class:
        idx_Sm = rearrange(idx_SCk[:, :, :k], "S C k -> S (C k)")
        weight, bias = _solve(
            z_nK[idx_Sm], train_y[idx_Sm], variance_K, _zero(z_nK, draws, num_classes), FEW_LABEL_L2, tolerance=1e-4
        )
        logits_SCt = (rearrange(weight, "S C K -> (S C) K") @ test_tK.mT).unflatten(0, (draws, num_classes)) + bias
        scores[k] = over_draws(
            (logits_SCt.argmax(dim=1) == test_y).double().mean(dim=1).tolist(), len(test_y), FEW_LABEL_L2
        )
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


# Regression


@torch.no_grad()
def fit_ridge(train_x: TrainX, train_y: Float[Tensor, "n T"], generator: Generator | None = None) -> LinearFit:
    """Ridge regression in closed form, in float64; one l2 from RIDGE_GRID by mean R² on a held-out fifth."""
    mean_D, std_D = _statistics(train_x.double())
    y_mean_T, y_std_T = _statistics(train_y.double())
    z_nD, y_nT = (train_x.double() - mean_D) / std_D, (train_y.double() - y_mean_T) / y_std_T
    fit_n, held_n = _split(len(z_nD), _generator(generator), z_nD.device)
    grid_L = z_nD.new_tensor(RIDGE_GRID)
    error_L = (z_nD[held_n] @ _ridge(z_nD[fit_n], y_nT[fit_n], grid_L) - y_nT[held_n]).square().mean(dim=(1, 2))
    l2 = RIDGE_GRID[int(error_L.argmin())]  # targets have variance 1 each, so least error is most mean R²
    weight_DT = _ridge(z_nD, y_nT, grid_L.new_tensor([l2]))[0] * y_std_T
    return LinearFit(mean_D.float(), std_D.float(), weight_DT.float(), y_mean_T.float(), l2)


def _ridge(z_nD: Tensor, y_nT: Tensor, l2_L: Tensor) -> Tensor:
    """Weights [L, D, T] that minimise mean squared error + l2 |weight|^2, for all l2 from one factorisation."""
    variance_K, axes_DK = _principal_axes(z_nD)
    response_KT = axes_DK.mT @ (z_nD.mT @ y_nT) / len(z_nD)
    return axes_DK @ (response_KT / (variance_K + l2_L[:, None])[..., None])


@torch.no_grad()
def ridge_r2(
    train_x: TrainX,
    train_y: Float[Tensor, "n T"],
    test_x: TestX,
    test_y: Float[Tensor, "t T"],
    generator: Generator | None = None,
) -> Score:
    """R² of ridge regression, averaged over the T targets; interval bootstrapped over test samples.

    Raises ValueError when a target is constant, in training or test: it has no variance to explain.
    """
    _check(train_x, train_y, test_x, test_y, "n D", "n T")
    _require(train_y.shape[1] == test_y.shape[1], f"train_y has {train_y.shape[1]} targets, test_y {test_y.shape[1]}")
    for name, y in (("train", train_y), ("test", test_y)):
        _require(
            y.is_floating_point() and bool(torch.isfinite(y).all()), f"{name}_y must be finite floating point targets"
        )
        flat = (y == y[:1]).all(dim=0).nonzero().flatten().tolist()
        _require(not flat, f"{name}_y is constant in target {flat[:5]}: R² is undefined there")
    generator = _generator(generator)
    fit = fit_ridge(train_x, train_y, generator)
    error_nT = (fit(test_x) - test_y).double().square()
    y_nT = test_y.double() - test_y.double().mean(dim=0)

    def r2(w_Rn: Tensor) -> Tensor:
        total_RT = w_Rn @ y_nT.square() - (w_Rn @ y_nT).square() / w_Rn.sum(1, keepdim=True)
        return (1 - w_Rn @ error_nT / total_RT).mean(dim=1)

    return bootstrap(r2, len(test_y), error_nT, generator, fit.l2)


# Attention over tokens


@dataclass(frozen=True)
class AttentiveFit:
    """H learned queries pool the tokens, one linear map reads the H pooled vectors.

    This is cross-attention with a learned query: q . (W_k x) = (W_k^T q) . x, and the value map and the classifier
    are one linear map, so keys and values are never formed for the tokens.
    """

    mean: Float[Tensor, " D"]
    std: Float[Tensor, " D"]
    query: Float[Tensor, "H D"]
    weight: Float[Tensor, "H D C"]
    bias: Float[Tensor, " C"]

    def __call__(self, x: Float[Tensor, "n N D"]) -> Float[Tensor, "n C"]:
        z_nND = (x.float() - self.mean) / self.std
        attention_nHN = einsum(self.query, z_nND, "H D, n N D -> n H N").softmax(dim=-1)
        return einsum(attention_nHN @ z_nND, self.weight, "n H D, H D C -> n C") + self.bias


@torch.enable_grad()
def fit_attentive(
    train_x: TrainTokens,
    train_y: TrainY,
    generator: Generator | None = None,
    heads: int = 4,
    epochs: int = 20,
    batch_size: int = 128,
    lr: float = 5e-3,
    weight_decay: float = 0.1,
) -> AttentiveFit:
    """AdamW with a cosine schedule; queries start random, so that heads differ, and the linear map at zero."""
    _require(
        min(heads, epochs, batch_size) >= 1,
        f"heads={heads}, epochs={epochs} and batch_size={batch_size} must be at least 1",
    )
    generator, device, train_x = _generator(generator), train_x.device, train_x.detach()
    mean_D, std_D = _statistics(train_x.float().flatten(0, 1))
    width, num_classes = len(mean_D), int(train_y.max()) + 1
    query_HD = torch.randn(heads, width, generator=generator, device=generator.device).to(device) / width**0.5
    fit = AttentiveFit(
        mean_D, std_D, query_HD, mean_D.new_zeros(heads, width, num_classes), mean_D.new_zeros(num_classes)
    )
    trained = [t.requires_grad_() for t in (fit.query, fit.weight, fit.bias)]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
    batches = [
        batch
        for _ in range(epochs)
        for batch in torch.randperm(len(train_x), generator=generator, device=generator.device)
        .to(device)
        .split(batch_size)
    ]
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / len(batches)))
        loss = F.cross_entropy(fit(train_x[batch]), train_y[batch].long())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for tensor in trained:
        tensor.requires_grad_(False)
    return fit


@torch.no_grad()
def attentive_probe(
    train_x: TrainTokens,
    train_y: TrainY,
    test_x: TestTokens,
    test_y: TestY,
    generator: Generator | None = None,
    **settings,
) -> Score:
    """Accuracy of attention pooling and a linear map on frozen tokens, Wilson interval; settings of `fit_attentive`."""
    _check(train_x, train_y, test_x, test_y, "n N D")
    _check_labels(train_y, test_y)
    fit = fit_attentive(train_x, train_y, generator, **settings)
    return accuracy(torch.cat([fit(x).argmax(-1) for x in test_x.split(1024)]), test_y)


# For the chapters


def score_features(
    train_x: TrainX, train_y: TrainY, test_x: TestX, test_y: TestY, generator: Generator | None = None
) -> dict[str, Score]:
    """The three scores every chapter reports: ``linear``, ``knn`` (k = 20) and ``few_label`` (10 per class)."""
    data, generator = (train_x, train_y, test_x, test_y), _generator(generator)
    return {
        "linear": linear_probe(*data, generator),
        "knn": knn_probe(*data),
        "few_label": few_label(*data, (10,), 10, generator)[10],
    }
