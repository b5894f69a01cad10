"""Nearest-neighbour probe.

Shapes: n training samples, t test samples, D width, C classes, k neighbours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from jepa_lab.probes.inputs import TestX, TestY, TrainX, TrainY, check, require
from jepa_lab.probes.scores import Score, accuracy
from jepa_lab.probes.solver import statistics


@torch.no_grad()
def knn_probe(train_x: TrainX, train_y: TrainY, test_x: TestX, test_y: TestY, k: int = 20) -> Score:
    """Accuracy of the majority among the ``k`` nearest training samples by cosine, Wilson interval.

    Ties go to the class whose neighbours are closer in sum. Raises ValueError unless 1 <= k <= n.
    """
    num_classes = check(train_x, train_y, test_x, test_y)
    require(1 <= k <= len(train_x), f"k={k} neighbours of {len(train_x)} training samples: choose 1 .. {len(train_x)}")
    mean_D, std_D = statistics(train_x.float())
    train_nD = F.normalize((train_x.float() - mean_D) / std_D, dim=-1)
    pred = []
    for chunk_tD in test_x.float().split(1024):  # bounds memory at 1024 x n
        similarity_tn = F.normalize((chunk_tD - mean_D) / std_D, dim=-1) @ train_nD.mT
        near_tk = similarity_tn.topk(k, dim=-1, sorted=False)
        votes_tk = 1 + near_tk.values / (2 * k + 1)  # the closeness of k neighbours never outweighs one vote
        votes_tC = votes_tk.new_zeros(len(votes_tk), num_classes)
        votes_tC.scatter_add_(1, train_y.long()[near_tk.indices], votes_tk)
        pred.append(votes_tC.argmax(-1))
    return accuracy(torch.cat(pred), test_y)
