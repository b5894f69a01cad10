"""What features or logits are worth: macro-AUC on validation records, for choosing, and on test records.

Shape letters: L labels, n m records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from jepa_lab.encoders import Encoder
from jepa_lab.papers.ecg_jepa import features, multilabel
from jepa_lab.papers.ecg_jepa.world import ECGData
from jepa_lab.probes.scores import Score


@dataclass(frozen=True)
class Result:
    """Macro-AUC on the validation records and on the test records, the latter with its interval over patients."""

    validation: float
    test: Score

    @property
    def points(self) -> float:
        """The test macro-AUC times 100."""
        return 100 * self.test.value

    def __str__(self) -> str:
        """The test macro-AUC in points, with half the width of its 95 % interval."""
        return f"{self.points:.1f} ± {50 * (self.test.high - self.test.low):.1f}"


def judge(data: ECGData, validation: Float[Tensor, "m L"], test: Float[Tensor, "n L"], seed: int = 0) -> Result:
    """The scores of the logits of validation and test records."""
    names = data.test.label_names
    chosen_by = float(multilabel.macro_auc(validation, data.validation.labels, names))
    generator = torch.Generator().manual_seed(seed)
    score = multilabel.auc_score(test, data.test.labels, generator, data.test.patients.cpu(), names)
    return Result(chosen_by, score)


def probe(data: ECGData, found: dict[str, Tensor], idx: Int64[Tensor, " m"], seed: int = 0) -> Result:
    """The scores of logistic regression on frozen features, `found` by `features.of_parts`.

    idx: training records, those of `found` or the first of them. Raises ValueError where a label lacks positives.
    """
    labels = data.train.labels[idx.to(data.device)]
    generator = torch.Generator().manual_seed(seed)
    fit = multilabel.fit_labels(found["labelled"][: len(idx)], labels, generator)
    return judge(data, fit(found["validation"]), fit(found["test"]), seed)


def probe_shares(
    data: ECGData, found: dict[str, Tensor], known: Mapping[float, Int64[Tensor, " m"]], seed: int = 0
) -> dict[float, Result]:
    """The scores of `probe` for every share of the labels whose records are in `found`."""
    at_hand = {share: idx for share, idx in known.items() if len(idx) <= len(found["labelled"])}
    return {share: probe(data, found, idx, seed) for share, idx in at_hand.items()}


def best(results: Mapping[Any, Result]) -> Any:
    """The key of the result that is best on validation records."""
    return max(results, key=lambda name: results[name].validation)


def probe_encoder(data: ECGData, encoder: nn.Module, idx: Int64[Tensor, " m"], seed: int = 0) -> Result:
    """The scores of a logistic probe of an encoder's pooled tokens; idx: training records whose labels are known."""
    feature_fn = partial(features.pooled, encoder, data)
    return probe(data, features.of_parts(data, feature_fn, idx), idx, seed)


def pooling(data: ECGData, encoder: Encoder, idx: Int64[Tensor, " m"], seed: int = 0) -> dict[str, Result]:
    """The scores of logistic probes of the register, of the mean of the tokens, and of their mean and deviation."""
    signals = {
        "labelled": data.train.signals[idx.to(data.device)],
        "validation": data.validation.signals,
        "test": data.test.signals,
    }
    both = {part: features.latents(encoder, data, of_part) for part, of_part in signals.items()}
    pools = {
        "register": {part: registers[:, 0] for part, (registers, _) in both.items()},
        "mean": {part: tokens.mean(dim=1) for part, (_, tokens) in both.items()},
        "mean and deviation": {part: features.pool(tokens) for part, (_, tokens) in both.items()},
    }
    return {name: probe(data, found, idx, seed) for name, found in pools.items()}
