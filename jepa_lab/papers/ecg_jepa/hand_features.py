"""What an ECG shows without learning: hand-made features of the raw signals, the baselines of chapter 07.

`SETS` holds them by name, from simple to strong. All take millivolts in the order of data.ecg.LEADS.
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
    """Where a beat's QRS is steepest: maxima of the squared slope over all leads, smoothed over 0.1 s, above a third of
    the record's second-largest kind (its 98th percentile), no two within REFRACTORY_S. At least two in every record."""
    slope_nT = F.pad(signals.float().diff(dim=-1).square().sum(1), (1, 0))
    width = 2 * round(0.05 * rate) + 1
    energy_nT = F.avg_pool1d(slope_nT[:, None], width, 1, width // 2)[:, 0]
    reach = 2 * round(REFRACTORY_S * rate / 2) + 1
    is_top_nT = energy_nT == F.max_pool1d(energy_nT[:, None], 2 * reach - 1, 1, reach - 1)[:, 0]
    is_peak_nT = is_top_nT & (energy_nT > energy_nT.quantile(0.98, dim=-1, keepdim=True) / 3)
    two = energy_nT.masked_fill(~is_top_nT, -1.0).topk(2, dim=-1).indices
    return is_peak_nT.scatter(1, two, True)


def rhythm(signals: Float[Tensor, "n 12 T"], rate: int) -> Float[Tensor, "n F"]:
    """Eight numbers of the R-R intervals in seconds: beats, mean, deviation, least, largest, median, root mean square
    of
    successive differences, share of successive differences above 50 ms."""
    rows = []
    for is_peak_T in r_peaks(signals, rate):  # each record has another number of beats
        rr = is_peak_T.nonzero()[:, 0].diff().float() / rate
        rr = rr.clamp(SHORTEST_RR_S, LONGEST_RR_S)
        step = rr.diff() if len(rr) > 1 else rr.new_zeros(1)
        rows.append(
            torch.stack(
                [
                    rr.new_tensor(len(rr) + 1.0),
                    rr.mean(),
                    rr.std(correction=0),
                    rr.min(),
                    rr.max(),
                    rr.median(),
                    step.square().mean().sqrt(),
                    (step.abs() > 0.05).float().mean(),
                ]
            )
        )
    return torch.stack(rows)


def average_beat(signals: Float[Tensor, "n 12 T"], rate: int) -> Float[Tensor, "n F"]:
    """The mean of all beats around their R peaks, BEAT_S long, each lead from its own level: 12 x BEAT_POINTS numbers."""
    before, after = (round(s * rate) for s in BEAT_S)
    is_peak_nT = r_peaks(signals, rate)
    beats_nLTW = F.pad(signals.float(), (before, after)).unfold(-1, before + after + 1, 1)
    count_n = is_peak_nT.sum(1).clamp_min(1)
    mean_nLW = (
        torch.stack([beats_LTW[:, is_peak].sum(1) for is_peak, beats_LTW in zip(is_peak_nT, beats_nLTW)])
        / count_n[:, None, None]
    )
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
    return torch.cat([torch.cat([make(part, rate) for make in SETS[name]], dim=1) for part in signals.split(500)])
