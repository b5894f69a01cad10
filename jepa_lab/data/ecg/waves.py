"""The waves of one simulated beat: when each comes and how wide it is, as bells in time around the R peak.

Shape letters: n records, W waves. Times in seconds from the R peak.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jepa_lab.data.ecg.draws import normal, spread, uniform
from jepa_lab.data.ecg.rhythm import LBBB, RBBB

WAVES = ("P", "Q", "R", "S", "late", "ST", "T", "PVC R", "PVC S", "PVC T")
P, Q, R, S, LATE, ST, T, PVC_R, PVC_S, PVC_T = range(len(WAVES))
GROUPS = ((P,), (Q, R, S, LATE, PVC_R, PVC_S), (ST, T, PVC_T))  # waves of one group belong to the same nearest beat
REACH = 2.5  # a wave begins and ends this many standard deviations from its centre
# Centre and width of Q, R, S and the late wave as shares of the QRS's duration: without block, LBBB, RBBB.
# The QRS's begin and end come out REACH widths from the outer waves.
QRS_PLAN_342 = torch.tensor(
    [
        [[-0.26, 0.09], [0.0, 0.11], [0.275, 0.096], [0.0, 0.10]],
        [[-0.29, 0.082], [-0.08, 0.12], [0.06, 0.10], [0.21, 0.12]],
        [[-0.35, 0.055], [-0.10, 0.075], [0.05, 0.07], [0.27, 0.095]],
    ],
    dtype=torch.double,
)
ST_FLANKS_2 = torch.tensor([0.27, 0.40], dtype=torch.double)  # shares of the time from the J point to the peak of T


class Timing(NamedTuple):
    """Where the waves of each record's beats lie, and the intervals that follow from them."""

    centre: Tensor  # (n, W)
    flank: Tensor  # standard deviation before and after the centre, (n, W, 2)
    pr: Tensor  # onset of P to onset of QRS, (n,)
    qrs: Tensor  # duration, (n,)
    qt: Tensor  # onset of QRS to end of T, (n,)


def draw_timing(labels: Tensor, rr: Tensor, generator: np.random.Generator) -> Timing:
    """Places and widths of all waves; the intervals depend on the mean time `rr` between beats and on blocks."""
    n = len(labels)
    pr, qrs, qt = _draw_intervals(labels, rr, generator)
    pvc_qrs = uniform(generator, 0.140, 0.180, n)
    p_width = uniform(generator, 0.016, 0.024, n)
    t_width = 0.032 * qt / 0.4 * spread(generator, 1, 0.1, n)
    plan = QRS_PLAN_342[labels[:, LBBB].long() + 2 * labels[:, RBBB].long()]
    begin = qrs * (plan[:, 0, 0] - REACH * plan[:, 0, 1])
    centre = torch.empty(n, len(WAVES), dtype=torch.double)
    flank = torch.empty(n, len(WAVES), 2, dtype=torch.double)
    centre[:, P] = begin - pr + REACH * p_width
    flank[:, P] = p_width[:, None]
    centre[:, Q:ST] = qrs[:, None] * plan[..., 0]
    flank[:, Q:ST] = (qrs[:, None] * plan[..., 1])[..., None]
    centre[:, T] = begin + qt - REACH * t_width
    flank[:, T] = torch.stack([1.55 * t_width, t_width], 1)
    j_point = begin + qrs
    to_peak = (centre[:, T] - j_point).clamp(min=0.03)
    centre[:, ST] = j_point + 0.35 * to_peak
    flank[:, ST] = to_peak[:, None] * ST_FLANKS_2
    for wave, place, width in ((PVC_R, -0.08, 0.14), (PVC_S, 0.20, 0.12)):
        centre[:, wave] = place * pvc_qrs
        flank[:, wave] = (width * pvc_qrs)[:, None]
    centre[:, PVC_T] = centre[:, T] + 0.6 * (pvc_qrs - qrs).clamp(min=0)
    flank[:, PVC_T] = 1.15 * flank[:, T]
    return Timing(centre, flank, pr, qrs, qt)


def _draw_intervals(labels: Tensor, rr: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """PR, QRS and QT: a block widens the QRS, QT follows the rate by Fridericia's correction."""
    n = len(labels)
    narrow = (0.092 + 0.008 * normal(generator, n)).clamp(0.076, 0.108)
    left, right = uniform(generator, 0.126, 0.168, n), uniform(generator, 0.122, 0.156, n)
    qrs = torch.where(labels[:, LBBB], left, torch.where(labels[:, RBBB], right, narrow))
    corrected_qt = (0.405 + 0.018 * normal(generator, n)).clamp(0.360, 0.445)
    qt = corrected_qt * rr ** (1 / 3) + 0.5 * (qrs - 0.108).clamp(min=0)  # a late end of QRS ends T late
    pr = ((0.158 + 0.016 * normal(generator, n)) * rr**0.1).clamp(0.120, 0.200)
    return pr, qrs, qt
