"""The scores that the image chapters report."""

from __future__ import annotations

from torch import Generator

from jepa_lab.probes.few_labels import few_label
from jepa_lab.probes.inputs import TestX, TestY, TrainX, TrainY
from jepa_lab.probes.knn import knn_probe
from jepa_lab.probes.linear import linear_probe
from jepa_lab.probes.scores import Score


def score_features(train_x: TrainX, train_y: TrainY, test_x: TestX, test_y: TestY, seed: int = 0) -> dict[str, Score]:
    """Three scores of frozen features: ``linear``, ``knn`` (k = 20) and ``few_label`` (10 per class).

    Each draws from the seed alone, so that a score is the same with or without the others.
    """
    data = train_x, train_y, test_x, test_y
    split, draws = (Generator(train_x.device).manual_seed(seed) for _ in range(2))
    return {
        "linear": linear_probe(*data, split),
        "knn": knn_probe(*data),
        "few_label": few_label(*data, (10,), generator=draws)[10],
    }
