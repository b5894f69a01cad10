"""A fast simulator of twelve-lead electrocardiograms whose diagnoses have a known cause. Its records are simulated, and
say so.

The heart is a current dipole that walks a loop in every beat: each wave (P, Q, R, S, T, ...) is a bell in time with a
direction in space, as in McSharry et al. 2003, "A dynamical model for generating synthetic electrocardiogram signals"
(there in one dimension). `rhythm` says when the heart beats, `waves` when each wave comes, `dipoles` where it points
to, `recording` what the leads record. Times in seconds, voltages in mV. Shape letters: n records, B beats.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from jepa_lab.data.ecg.dipoles import draw_seen
from jepa_lab.data.ecg.draws import seeded
from jepa_lab.data.ecg.recording import Heart, draw_atria, draw_disturbance, render
from jepa_lab.data.ecg.rhythm import AF, DIAGNOSES, draw_beats, draw_breath, draw_heart_rate, draw_labels
from jepa_lab.data.ecg.sets import ECGSet
from jepa_lab.data.ecg.waves import draw_timing
from jepa_lab.data.sources.archives import DataError

__all__ = ["DIAGNOSES", "Planted", "simulate", "simulate_planted"]

CHUNK = 50  # records rendered at a time: a chunk's bells (4 MB) stay in a processor's cache


@dataclass(frozen=True)
class Planted:
    """What was put into simulated records: the truth to hold a measurement against."""

    r_times: Float32[Tensor, "n B"]  # s from the start of the record; NaN where a record has fewer beats
    ectopic: Bool[Tensor, "n B"]  # the beat is a PVC
    heart_rate: Float32[Tensor, " n"]  # beats per minute, asked for (ectopic beats count)
    pr_ms: Float32[Tensor, " n"]  # onset of P to onset of QRS; NaN in AF
    qrs_ms: Float32[Tensor, " n"]  # of the beats that aren't ectopic
    qt_ms: Float32[Tensor, " n"]  # onset of QRS to end of T
    noise_mv: Float32[Tensor, " n"]
    gain: Float32[Tensor, " n"]


def simulate(
    n: int,
    seed: int,
    rate: int = 100,
    seconds: float = 10,
    prevalence: float | Mapping[str, float] = 0.1,
    records_per_patient: int = 1,
) -> ECGSet:
    """n simulated records of `seconds` at `rate` Hz, labelled with DIAGNOSES; no label means normal sinus rhythm.

    prevalence: of each diagnosis, or one per name (missing names: 0). A seed gives the same bytes on every processor
    and with any number of threads (see `recording.render`). With other prevalences it gives the same people under the
    same noise with other diagnoses. Raises `DataError` for numbers that make no record.
    """
    return simulate_planted(n, seed, rate, seconds, prevalence, records_per_patient)[0]


def simulate_planted(
    n: int,
    seed: int,
    rate: int = 100,
    seconds: float = 10,
    prevalence: float | Mapping[str, float] = 0.1,
    records_per_patient: int = 1,
) -> tuple[ECGSet, Planted]:
    """As `simulate`, with the truth that was planted: beats, intervals, noise."""
    if n < 1 or records_per_patient < 1:
        raise DataError(f"cannot simulate {n} records with {records_per_patient} per patient; both must be at least 1")
    if rate < 50 or not 2 <= seconds <= 3600:
        raise DataError(f"cannot simulate {seconds} s at {rate} Hz; choose 2 to 3600 s at 50 Hz or more")
    generator = seeded(seed)
    labels = draw_labels(n, prevalence, generator)
    patients = torch.arange(n) // records_per_patient
    heart_rate = draw_heart_rate(labels, generator)
    breath = draw_breath(n, generator)
    r_times, ectopic = draw_beats(labels, heart_rate, breath, seconds, generator)
    timing = draw_timing(labels, 60 / heart_rate, generator)
    seen = draw_seen(labels, timing, patients, generator)
    disturbance, atria = draw_disturbance(n, generator), draw_atria(n, generator)
    heart = Heart(seen, r_times, ectopic, labels[:, AF], timing, breath, disturbance, atria)
    signals = torch.empty(n, 12, round(rate * seconds), dtype=torch.float16)
    for first in range(0, n, CHUNK):
        rows = slice(first, first + CHUNK)
        signals[rows] = render(heart.part(rows), rate, signals.shape[2], generator)
    data = ECGSet(
        signals=signals,
        labels=labels,
        label_names=DIAGNOSES,
        rate=rate,
        patients=patients,
        folds=torch.zeros(n, dtype=torch.int64),
        name=f"simulated ECG, seed {seed}",
        source=f"jepa_lab.data.ecg.simulator, {n} records of {seconds:g} s at {rate} Hz",
        sha256=hashlib.sha256(signals.numpy().tobytes()).hexdigest(),
        kind="simulated",
    )
    return data, _truth(heart, heart_rate, seconds)


def _truth(heart: Heart, heart_rate: Tensor, seconds: float) -> Planted:
    inside = (heart.r_times >= 0) & (heart.r_times < seconds)
    timing, disturbance = heart.timing, heart.disturbance
    return Planted(
        r_times=torch.where(inside, heart.r_times, math.nan).float(),
        ectopic=heart.ectopic & inside,
        heart_rate=heart_rate.float(),
        pr_ms=torch.where(heart.fibrillates, math.nan, 1000 * timing.pr).float(),
        qrs_ms=(1000 * timing.qrs).float(),
        qt_ms=(1000 * timing.qt).float(),
        noise_mv=disturbance.noise.float(),
        gain=disturbance.gain.float(),
    )
