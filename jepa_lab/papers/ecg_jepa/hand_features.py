"""Hand-made features of the raw signals: the baselines of chapter 07 that need no learning.

`SETS` holds them by name, from simple to strong. All take millivolts in the order of data.ecg.records.LEADS.
Shape letters: n records, 12 leads, T samples, Q frequencies, B bands.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

BANDS_HZ = (0.5, 2.0, 5.0, 8.0, 12.0, 20.0, 40.0)  # edges: wander, rhythm, T and f waves, QRS
REFRACTORY_S = 0.25  # no two R peaks are nearer
SHORTEST_RR_S, LONGEST_RR_S = 0.25, 3.0
BEAT_S = (0.30, 0.45)  # the average beat, before and after its R peak
BEAT_POINTS = 15  # of each lead


def statistics(signals: Float[Tensor, "n 12 T"], rate: int) -> Float[Tensor, "n F"]:
    """Standard deviation, mean, largest and smallest value of each lead: 48 numbers."""
    x = signals.float()
    return torch.cat([x.std(-1), x.mean(-1), x.amax(-1), x.amin(-1)], dim=1)


def spectrum(signals: Float[Tensor, "n 12 T"], rate: int) -> Float[Tensor, "n F"]:
    """Logarithm of each lead's power in the bands of BANDS_HZ: 72 numbers."""
    power_nLQ = torch.fft.rfft(signals.float() - signals.float().mean(-1, keepdim=True)).abs().square()
    hertz_Q = torch.fft.rfftfreq(signals.shape[-1], 1 / rate, device=signals.device)
    bands = [power_nLQ[..., (hertz_Q >= low) & (hertz_Q < high)].sum(-1) for low, high in zip(BANDS_HZ, BANDS_HZ[1:])]
    return rearrange(torch.stack(bands, -1).clamp_min(1e-12).log(), "n l b -> n (l b)")


def r_peaks(signals: Float[Tensor, "n 12 T"], rate: int) -> Bool[Tensor, "n T"]:
    """True where the QRS of a beat is steepest; at least two true samples in every record.

    These are maxima of the squared slope summed over leads and smoothed over 0.1 s. They exceed a third of the record's
    98th percentile, and no two lie within REFRACTORY_S.
    """
    slope_nT = F.pad(signals.float().diff(dim=-1).square().sum(1), (1, 0))
    width = 2 * round(0.05 * rate) + 1
    energy_nT = F.avg_pool1d(slope_nT[:, None], width, 1, width // 2)[:, 0]
    reach = 2 * round(REFRACTORY_S * rate / 2) + 1
    is_top_nT = energy_nT == F.max_pool1d(energy_nT[:, None], 2 * reach - 1, 1, reach - 1)[:, 0]
    is_peak_nT = is_top_nT & (energy_nT > energy_nT.quantile(0.98, dim=-1, keepdim=True) / 3)
    two_highest_n2 = energy_nT.masked_fill(~is_top_nT, -1.0).topk(2, dim=-1).indices
    return is_peak_nT.scatter(1, two_highest_n2, True)


def rhythm(signals: Float[Tensor, "n 12 T"], rate: int) -> Float[Tensor, "n F"]:
    """Eight numbers of each record: its number of beats, and statistics of the intervals between them."""
    rows = []
    for is_peak_T in r_peaks(signals, rate):  # the number of beats differs from record to record
        interval = is_peak_T.nonzero()[:, 0].diff().float() / rate
        rows.append(_interval_statistics(interval.clamp(SHORTEST_RR_S, LONGEST_RR_S)))
    return torch.stack(rows)


def _interval_statistics(interval: Float[Tensor, " m"]) -> Float[Tensor, " F"]:
    """Number of beats; mean, deviation, least, largest and median interval in seconds; root mean square of the
    differences between successive intervals; share of differences above 50 ms.
    """
    step = interval.diff() if len(interval) > 1 else interval.new_zeros(1)
    numbers = [
        interval.new_tensor(len(interval) + 1.0),
        interval.mean(),
        interval.std(correction=0),
        interval.min(),
        interval.max(),
        interval.median(),
        step.square().mean().sqrt(),
        (step.abs() > 0.05).float().mean(),
    ]
    return torch.stack(numbers)


def average_beat(signals: Float[Tensor, "n 12 T"], rate: int) -> Float[Tensor, "n F"]:
    """The mean of all beats around their R peaks, each lead less its median: 12 x BEAT_POINTS numbers."""
    before, after = (round(seconds * rate) for seconds in BEAT_S)
    is_peak_nT = r_peaks(signals, rate)
    beats_nLTW = F.pad(signals.float(), (before, after)).unfold(-1, before + after + 1, 1)
    sum_nLW = torch.stack([beats_LTW[:, is_peak].sum(1) for is_peak, beats_LTW in zip(is_peak_nT, beats_nLTW)])
    mean_nLW = sum_nLW / is_peak_nT.sum(1).clamp_min(1)[:, None, None]
    mean_nLW = mean_nLW - mean_nLW.median(-1, keepdim=True).values
    return rearrange(F.adaptive_avg_pool1d(mean_nLW, BEAT_POINTS), "n l w -> n (l w)")


SETS = {
    "lead statistics": (statistics,),
    "spectrum and rhythm": (statistics, spectrum, rhythm),
    "average beat and rhythm": (statistics, spectrum, rhythm, average_beat),
}


def hand_made(signals: Float[Tensor, "n 12 T"], rate: int, name: str) -> Float[Tensor, "n F"]:
    """The features of one of SETS, side by side, 500 records at a time. Raises ValueError for another name."""
    if name not in SETS:
        raise ValueError(f"no hand-made features {name!r}; there are: {', '.join(SETS)}")
    found = []
    for part in signals.split(500):
        found.append(torch.cat([features(part, rate) for features in SETS[name]], dim=1))
    return torch.cat(found)
