"""The records of the ECG chapter: training, validation and test records of different patients, cut into tokens.

As in the paper's experiment on PTB-XL alone, pre-training sees all training records without labels, and a known share
of the same records' labels trains the probes. Validation records choose, test records are scored once.
Shape letters: N tokens, P = 12 * patch numbers per token, n m records, T samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from jepa_lab.data.ecg import records as ecg
from jepa_lab.data.ecg import simulator
from jepa_lab.papers.ecg_jepa import multilabel
from jepa_lab.papers.ecg_jepa.config import Config


@dataclass(frozen=True)
class ECGData:
    """Records of different patients to train on, to choose with and to score on; lead statistics of the first."""

    train: ecg.ECGSet
    validation: ecg.ECGSet
    test: ecg.ECGSet
    stats: tuple[Tensor, Tensor]
    patch: int

    @property
    def grid(self) -> tuple[int]:
        return (self.train.signals.shape[-1] // self.patch,)

    @property
    def device(self) -> torch.device:
        return self.train.signals.device

    def to_batch(self, signals: Float[Tensor, "n 12 T"]) -> Float[Tensor, "n N P"]:
        """Millivolts to tokens: standardised per lead with the training records' constants, clipped at 5 deviations."""
        return ecg.patchify(ecg.normalise(signals, self.stats), self.patch)

    def described(self) -> str:
        """What the records are, where they come from, and what was left out."""
        refused = ", ".join(f"{count} ({reason})" for reason, count in self.train.refused.items())
        return (
            f"data: {base_name(self.train)} ({self.train.kind})\n"
            f"from: {self.train.source}\n"
            f"labels: {', '.join(self.train.label_names)}\n"
            f"records: {len(self.train)} to train on, {len(self.validation)} to choose with, "
            f"{len(self.test)} to score on\n"
            f"left out: {refused or 'none'}"
        )


def base_name(part: ecg.ECGSet) -> str:
    """The name of the set that a part was cut from."""
    return part.name.split(" [")[0]


def load(cfg: Config, device: torch.device | str = "cpu") -> ECGData:
    """The records that `cfg.data` names, as many as the config asks for; the same for all seeds.

    Of PTB-XL, folds 1-8, 9 and 10. Folders of WFDB records are cut 8 : 1 : 1; their labels are the codes of their
    headers. Labels that some part could not score are left out here, before anything trains.
    """
    sizes = (cfg.num_train, cfg.num_validation, cfg.num_test)
    if cfg.data == "simulated":
        records = simulator.simulate(sum(sizes), seed=0, rate=cfg.rate, seconds=cfg.seconds)
        return from_parts(ecg.split(records, sizes), cfg.patch, device)
    if cfg.data == "ptb-xl":
        records = ecg.ptb_xl(rate=cfg.rate, task=cfg.task)
        parts = [ecg.by_fold(records, folds) for folds in (range(1, 9), (9,), (10,))]
        parts = [ecg.split(part, (min(size, len(part)),))[0] for part, size in zip(parts, sizes)]
        return from_parts(ecg.scorable(parts, least=1), cfg.patch, device)
    parts = ecg.databases(cfg.data.split(","), cfg.rate, cfg.seconds, sizes)
    return from_parts(ecg.scorable(parts), cfg.patch, device)


def from_parts(parts: Sequence[ecg.ECGSet], patch: int, device: torch.device | str = "cpu") -> ECGData:
    """Three sets of records, to train on, to choose with and to score on, on one device."""
    stats = ecg.lead_stats(parts[0].signals)
    moved = [replace(part, signals=part.signals.to(device), labels=part.labels.to(device)) for part in parts]
    return ECGData(*moved, stats=tuple(stat.to(device) for stat in stats), patch=patch)


def labelled(cfg: Config, data: ECGData, seed: int) -> dict[float, Int64[Tensor, " m"]]:
    """Indices of the training records whose labels are known, by share; nested, two with every label, one without.

    A share that would be too few for that is raised to what is needed.
    """
    labels = data.train.labels.cpu()
    least = max(multilabel.FEWEST_RECORDS, 2 * labels.shape[1])
    shares = sorted(cfg.shares)
    sizes = [min(len(labels), max(least, round(share * len(labels)))) for share in shares]
    return dict(zip(shares, multilabel.few(labels, sizes, torch.Generator().manual_seed(seed))))
