"""Several yes-or-no labels at once: macro-AUC with its interval, and logistic regression on frozen features.

The area under the ROC curve of a label is the chance that a record with it scores higher than one without; ties count
half. The macro-AUC is its mean over labels. A label that no record has, or every record, has no such area: it is an
error, never left out of the mean.

Shapes: n records, L labels, D width, K principal axes, G groups of tied scores, R resamples.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from jepa_lab.probes.linear import L2_GRID, LinearFit, split
from jepa_lab.probes.scores import Score, bootstrap
from jepa_lab.probes.solver import minimise, principal_axes, statistics

FEWEST_RECORDS = 5  # to train on, of which a fifth chooses l2
Scores, Labels = Float[Tensor, "n L"], Bool[Tensor, "n L"]


def class_auc(scores: Scores, labels: Labels, names: Sequence[str] = ()) -> Float[Tensor, " L"]:
    """Area under the ROC curve of every label. Raises ValueError for a label without positives or without negatives."""
    _check(scores, labels, names)
    # On the CPU, since Apple's GPU has no float64.
    return _weighted_auc(scores.cpu(), labels.cpu(), torch.ones(1, len(labels), dtype=torch.float64))[0]


def macro_auc(scores: Scores, labels: Labels, names: Sequence[str] = ()) -> Float[Tensor, ""]:
    """Mean over the labels of `class_auc`; the same error. `names` are only for its message."""
    return class_auc(scores, labels, names).mean()


def auc_score(
    scores: Scores,
    labels: Labels,
    generator: Generator | None = None,
    patients: Int64[Tensor, " n"] | None = None,
    names: Sequence[str] = (),
    resamples: int = 200,
) -> Score:
    """Macro-AUC with its 95 % bootstrap interval over patients (records, where `patients` is not given).

    A resample that happens to lack a label's positives or negatives counts with the mean of the other labels. A
    warning says how many resamples that were and which labels: with rare ones the interval is too narrow, as the spread
    of their AUC is lost.
    """
    _check(scores, labels, names)
    group_n = torch.arange(len(labels)) if patients is None else patients.unique(return_inverse=True)[1].cpu()
    generator = generator if generator is not None else Generator().manual_seed(0)
    like = torch.zeros((), dtype=torch.float64)
    metric = partial(_resampled, scores=scores.cpu(), labels=labels.cpu(), group_n=group_n, names=names)
    return bootstrap(metric, int(group_n.max()) + 1, like, generator, resamples=resamples)


def _resampled(
    weight_RG: Tensor, scores: Tensor, labels: Tensor, group_n: Tensor, names: Sequence[str]
) -> Float[Tensor, " R"]:
    """Macro-AUC of every resample, in which each group of records counts as often as its weight says."""
    auc_RL = _weighted_auc(scores, labels, weight_RG[:, group_n])
    lacking_RL = auc_RL.isnan()
    if bool(lacking_RL.any()):
        warnings.warn(
            f"{int(lacking_RL.any(dim=1).sum())} of {len(auc_RL)} resamples lack positives or negatives of "
            f"{_names_of(lacking_RL.any(dim=0), names)}",
            stacklevel=4,
        )
    return auc_RL.nanmean(dim=1)


def _names_of(chosen_L: Bool[Tensor, " L"], names: Sequence[str]) -> str:
    """The names of the chosen labels, or their numbers where there are no names."""
    return ", ".join(names[i] if names else str(i) for i in chosen_L.nonzero().flatten().tolist())


def _check(scores: Tensor, labels: Tensor, names: Sequence[str]) -> None:
    if scores.shape != labels.shape or scores.ndim != 2 or 0 in scores.shape:
        shapes = f"{list(scores.shape)} and {list(labels.shape)}"
        raise ValueError(f"scores and labels must be one non-empty [records, labels], got {shapes}")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores hold NaN or Inf: the model diverged, or its input did")
    count_L = labels.sum(dim=0)
    for what, lacking_L in (("positives", count_L == 0), ("negatives", count_L == len(labels))):
        if bool(lacking_L.any()):
            raise ValueError(
                f"no {what} among {len(labels)} records for {_names_of(lacking_L, names)}: such a label has no AUC; "
                "take more records or fewer labels"
            )


def _weighted_auc(scores: Tensor, labels: Tensor, weight_Rn: Tensor) -> Tensor:
    """AUC [R, L] of records that count as often as their weight says; NaN where a label has no positives or no
    negatives.
    """
    found = []
    for score_n, label_n in zip(scores.mT, labels.mT):
        group_n = score_n.unique(return_inverse=True)[1]  # equal scores form one group, in rising order
        num_groups = int(group_n.max()) + 1
        with_Rn, without_Rn = weight_Rn * label_n, weight_Rn * ~label_n
        without_RG = weight_Rn.new_zeros(len(weight_Rn), num_groups).index_add_(1, group_n, without_Rn)
        below_RG = without_RG.cumsum(dim=1) - 0.5 * without_RG
        found.append((with_Rn * below_RG[:, group_n]).sum(1) / (with_Rn.sum(1) * without_Rn.sum(1)))
    return torch.stack(found, dim=1)


# Logistic regression, one label at a time


@torch.no_grad()
def fit_labels(train_x: Float[Tensor, "n D"], train_y: Labels, generator: Generator | None = None) -> LinearFit:
    """Logistic regression for every label on standardised features; the fit gives logits.

    One l2 for all labels, from probes.linear.L2_GRID, by log-loss on a held-out fifth of the training records, which is
    defined for a label without positives there, too. Then all records are fitted.
    Raises ValueError for features that are not finite, lengths that differ and a label without a training positive.
    """
    _check(train_x.new_zeros(train_y.shape), train_y, ())
    if len(train_x) != len(train_y) or len(train_x) < FEWEST_RECORDS or not bool(torch.isfinite(train_x).all()):
        shapes = f"{list(train_x.shape)} and {list(train_y.shape)}"
        raise ValueError(f"need finite features and labels of at least {FEWEST_RECORDS} records, got {shapes}")
    mean_D, std_D = statistics(train_x.float())
    z_nD = (train_x.float() - mean_D) / std_D
    variance_K, axes_DK = principal_axes(z_nD)
    z_nK = z_nD @ axes_DK
    l2 = _choose_l2(z_nK, train_y, variance_K, generator if generator is not None else Generator().manual_seed(0))
    weight_KL, bias_L = _solve(z_nK, train_y, variance_K, l2, _zeros(z_nK, train_y))
    return LinearFit(mean_D, std_D, axes_DK @ weight_KL, bias_L, l2)


def _choose_l2(z_nK: Tensor, y_nL: Tensor, variance_K: Tensor, generator: Generator) -> float:
    """The l2 of least log-loss on a held-out part; of equal ones the strongest."""
    fit_n, held_n = split(len(z_nK), generator, z_nK.device)
    solution, losses = _zeros(z_nK, y_nL), {}
    for l2 in L2_GRID:  # each starts from the one before
        weight_KL, bias_L = solution = _solve(z_nK[fit_n], y_nL[fit_n], variance_K, l2, solution)
        logits = z_nK[held_n] @ weight_KL + bias_L
        losses[l2] = float(F.binary_cross_entropy_with_logits(logits, y_nL[held_n].float()))
        if losses[l2] > 1.05 * min(losses.values()):
            break  # weaker ones would only fit more noise
    return min(losses, key=losses.get)


def _zeros(z_nK: Tensor, y_nL: Tensor) -> tuple[Tensor, Tensor]:
    return z_nK.new_zeros(z_nK.shape[1], y_nL.shape[1]), z_nK.new_zeros(y_nL.shape[1])


def _solve(
    z_nK: Tensor, y_nL: Tensor, variance_K: Tensor, l2: float, start: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Weights [K, L] and biases [L] that minimise each label's mean log-loss + l2 / 2 |weight|^2."""
    loss = partial(_log_loss, z_nK=z_nK, y_nL=y_nL.to(z_nK.dtype), l2=l2)
    scale = (variance_K / 4 + l2).rsqrt()[:, None], 1.0
    return minimise(loss, start, scale, tolerance=3e-5, max_iter=100)


def _log_loss(
    weight_KL: Tensor, bias_L: Tensor, z_nK: Tensor, y_nL: Tensor, l2: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-loss summed over labels, with the l2 term, and its gradients for weight and bias."""
    logit_nL = z_nK @ weight_KL + bias_L
    residual_nL = (logit_nL.sigmoid() - y_nL) / len(z_nK)
    value = F.binary_cross_entropy_with_logits(logit_nL, y_nL) * y_nL.shape[1] + 0.5 * l2 * weight_KL.square().sum()
    return value, z_nK.mT @ residual_nL + l2 * weight_KL, residual_nL.sum(dim=0)


# Few labels


def few(labels: Labels, sizes: Sequence[int], generator: Generator, positives: int = 2) -> list[Int64[Tensor, " m"]]:
    """Indices of nested random subsets, smallest first; even the smallest has `positives` records with every label.

    Those come first in the order, the rarest label's before others'; with fewer than `positives` in all, a label gives
    what it has. Then comes one record without each label that all of these have. All else is random.
    Raises ValueError when a size exceeds the records or cannot hold them.
    """
    order, count_L = torch.randperm(len(labels), generator=generator).tolist(), labels.sum(dim=0)
    first: list[int] = []
    for label in count_L.argsort().tolist():
        missing = min(positives, int(count_L[label])) - sum(bool(labels[i, label]) for i in first)
        if missing > 0:
            first += [i for i in order if labels[i, label] and i not in first][:missing]
    for label in range(labels.shape[1]):
        if all(labels[i, label] for i in first):
            first += [i for i in order if not labels[i, label]][:1]
    if min(sizes) < len(first) or max(sizes) > len(labels):
        raise ValueError(
            f"cannot take subsets of {tuple(sizes)} of {len(labels)} records: {len(first)} are needed for {positives} "
            "positives and a negative of every label"
        )
    chosen = torch.tensor(first + [i for i in order if i not in set(first)])
    return [chosen[:size] for size in sorted(sizes)]
