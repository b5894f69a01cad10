"""Linear probe with a handful of labels per class.

Shapes: n training samples, t test samples, C classes, S draws, k labels per class, m = C k, K principal axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Generator, Tensor

from jepa_lab.probes.inputs import TestX, TestY, TrainX, TrainY, check, generator_or_default, require
from jepa_lab.probes.scores import Score, over_draws
from jepa_lab.probes.solver import principal_axes, solve_classes, statistics, zero_start

FEW_LABEL_L2 = 1e-1  # a handful of labels leaves none to choose it with; 1 to 1e-3 differ by under 2 points on pixels


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
    num_classes = check(train_x, train_y, test_x, test_y)
    require(draws >= 2, f"draws={draws}: an interval over draws needs at least 2")
    has_sizes = len(per_class) >= 1 and min(per_class) >= 1
    require(has_sizes, f"per_class must be counts of at least 1, got {tuple(per_class)}")
    idx_SCk = draw(train_y, num_classes, max(per_class), draws, generator_or_default(generator))
    mean_D, std_D = statistics(train_x.float())
    variance_K, axes_DK = principal_axes((train_x.float() - mean_D) / std_D)
    z_nK, test_tK = (((x.float() - mean_D) / std_D) @ axes_DK for x in (train_x, test_x))
    start, scores = zero_start(z_nK, draws, num_classes), {}
    for k in per_class:
        idx_Sm = rearrange(idx_SCk[:, :, :k], "S C k -> S (C k)")
        weight, bias = solve_classes(z_nK[idx_Sm], train_y[idx_Sm], variance_K, start, FEW_LABEL_L2, tolerance=1e-4)
        logits = rearrange(weight, "S C K -> (S C) K") @ test_tK.mT
        logits_SCt = rearrange(logits, "(S C) t -> S C t", S=draws) + bias
        correct_S = (logits_SCt.argmax(dim=1) == test_y).sum(dim=1)
        scores[k] = over_draws([correct / len(test_y) for correct in correct_S.tolist()], len(test_y), FEW_LABEL_L2)
    return scores


def draw(train_y: Tensor, num_classes: int, k: int, draws: int, generator: Generator) -> Tensor:
    """Indices [S, C, k]: for every draw k different samples of each class."""
    idx = []
    for c in range(num_classes):
        of_class = (train_y == c).nonzero().squeeze(1)
        require(len(of_class) >= k, f"class {c} has {len(of_class)} training samples, fewer than per_class={k}")
        keys = torch.rand(draws, len(of_class), generator=generator, device=generator.device)
        idx.append(of_class[keys.argsort(dim=1)[:, :k].to(train_y.device)])
    return torch.stack(idx, dim=1)
