"""When the simulated heart beats: diagnoses, heart rate, times of the beats.

Shape letters: n records, B beats. Times in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from jepa_lab.data.ecg.draws import normal, uniform
from jepa_lab.data.sources.archives import DataError

DIAGNOSES = ("AF", "PVC", "LBBB", "RBBB", "STE anterior", "STE inferior", "T inversion", "bradycardia", "tachycardia")
AF, PVC, LBBB, RBBB, STE_ANTERIOR, STE_INFERIOR, T_INVERSION, BRADYCARDIA, TACHYCARDIA = range(len(DIAGNOSES))
SHORTEST_RR = 0.30  # s between two beats
LATEST_RR = 1.2  # s: an ectopic beat comes early by a share of the interval, counted as at most this


class Breath(NamedTuple):
    """How each patient breathes, which sways the rhythm, the voltage and the baseline."""

    rate: Tensor  # breaths per second, (n,)
    phase: Tensor  # rad, (n,)


def draw_labels(n: int, prevalence: float | Mapping[str, float], generator: np.random.Generator) -> Bool[Tensor, "n 9"]:
    """Labels with the prevalence asked for. Diagnoses are independent, except for pairs that exclude each other.

    Exclusive: brady- and tachycardia; left and right bundle-branch block; T inversion and LBBB, which turns T itself.
    Raises `DataError` for unknown names and for impossible prevalences.
    """
    share = _shares(prevalence)
    both = share[[BRADYCARDIA, LBBB]] + share[[TACHYCARDIA, RBBB]]
    if not bool(((share >= 0) & (share <= 1)).all()) or float(max(*both, share[LBBB] + share[T_INVERSION])) > 1:
        raise DataError(f"prevalences must lie in 0..1, and exclusive diagnoses must not sum above 1: {share.tolist()}")
    chance = uniform(generator, 0, 1, n, len(DIAGNOSES))
    labels = chance < share
    labels[:, TACHYCARDIA] = (chance[:, BRADYCARDIA] >= share[BRADYCARDIA]) & (chance[:, BRADYCARDIA] < both[0])
    labels[:, RBBB] = (chance[:, LBBB] >= share[LBBB]) & (chance[:, LBBB] < both[1])
    labels[:, T_INVERSION] = ~labels[:, LBBB] & (chance[:, T_INVERSION] * (1 - share[LBBB]) < share[T_INVERSION])
    return labels


def _shares(prevalence: float | Mapping[str, float]) -> Tensor:
    if not isinstance(prevalence, Mapping):
        return torch.full((len(DIAGNOSES),), float(prevalence), dtype=torch.double)
    if unknown := set(prevalence) - set(DIAGNOSES):
        raise DataError(f"no diagnosis is called {', '.join(sorted(unknown))}; known: {', '.join(DIAGNOSES)}")
    return torch.tensor([float(prevalence.get(name, 0)) for name in DIAGNOSES], dtype=torch.double)


def draw_heart_rate(labels: Tensor, generator: np.random.Generator) -> Tensor:
    """Beats per minute (n,): below 60 with bradycardia, above 100 with tachycardia, between them otherwise."""
    n = len(labels)
    usual = (76 + 10 * normal(generator, n)).clamp(62, 97)
    slow, fast = uniform(generator, 40, 57, n), uniform(generator, 104, 150, n)
    return torch.where(labels[:, BRADYCARDIA], slow, torch.where(labels[:, TACHYCARDIA], fast, usual))


def draw_breath(n: int, generator: np.random.Generator) -> Breath:
    """Between 9 and 24 breaths a minute, each record at a phase of its own."""
    return Breath(uniform(generator, 0.15, 0.40, n), uniform(generator, 0, 2 * math.pi, n))


def draw_beats(
    labels: Tensor, heart_rate: Tensor, breath: Breath, seconds: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Times of the R peaks (n, B), from before the record to after it, and which beats are ectopic (n, B).

    An ectopic beat comes early and the next beat keeps its time: a full compensatory pause.
    """
    mean = (60 / heart_rate)[:, None]
    rr = _intervals(labels, mean, breath, math.ceil(seconds / SHORTEST_RR) + 6, generator)
    start = -uniform(generator, 1, 2, len(labels), 1) * mean
    for _ in range(3):  # until the beats inside the record have the rate asked for, however irregular they are
        times = start + torch.nn.functional.pad(rr.cumsum(1)[:, :-1], (1, 0))
        inside = (times[:, 1:] < seconds) & (times[:, :-1] >= 0)
        found, wanted = (rr[:, :-1] * inside).sum(1, keepdim=True), mean * inside.sum(1, keepdim=True)
        rr = (rr * torch.where(wanted > 0, wanted / found, 1.0)).clamp(min=SHORTEST_RR)
    ectopic = _ectopic(times, labels[:, PVC], seconds, generator)
    early = uniform(generator, 0.25, 0.45, len(labels), 1) * (times - times.roll(1, 1)).clamp(max=LATEST_RR)
    return torch.where(ectopic, times - early, times), ectopic


def _intervals(labels: Tensor, mean: Tensor, breath: Breath, count: int, generator: np.random.Generator) -> Tensor:
    """Intervals between beats (n, B): in sinus rhythm they sway with the breath, in fibrillation they are irregular."""
    n = len(labels)
    when = torch.arange(count) * mean
    sway = torch.sin(2 * math.pi * breath.rate[:, None] * when + breath.phase[:, None])
    by_breath = uniform(generator, 0, 0.06, n, 1) * sway
    by_chance = uniform(generator, 0.005, 0.03, n, 1) * normal(generator, n, count)
    fibrillating = (uniform(generator, 0.16, 0.30, n, 1) * normal(generator, n, count)).exp()
    return mean * torch.where(labels[:, AF, None], fibrillating, 1 + by_breath + by_chance)


def _ectopic(times: Tensor, has_pvc: Tensor, seconds: float, generator: np.random.Generator) -> Tensor:
    """Ectopic beats: a single one, or every second to fifth beat. At least one lies well inside the record."""
    n, count = times.shape
    allowed = (times > 0.8) & (times < seconds - 0.4)
    score = uniform(generator, 0, 1, n, count).masked_fill(~allowed, -1)
    step = torch.from_numpy(generator.integers(2, 11, (n, 1)))
    step = torch.where(step > 5, count, step)
    turn = (torch.arange(count) - score.argmax(1, keepdim=True)) % step == 0
    return turn & allowed & has_pvc[:, None]
