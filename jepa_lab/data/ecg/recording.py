"""From beats and dipoles to the recorded signal: bells in time, fibrillating atria, noise, wander, hum, gain.

Noise enters at the nine electrodes, so the limb leads obey Einthoven's law to the rounding of float16.
Shape letters: n records, W waves, B beats, T samples, E electrodes. Times in seconds, voltages in mV.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jepa_lab.data.ecg.dipoles import DOWER_83, turn
from jepa_lab.data.ecg.draws import normal, spread, uniform
from jepa_lab.data.ecg.leads import limb_leads
from jepa_lab.data.ecg.rhythm import Breath
from jepa_lab.data.ecg.waves import GROUPS, PVC_R, WAVES, P, Timing

# Leads I, II, V1..V6 as differences of the potentials at RA, LA, LL, V1..V6; chest leads against Wilson's mean of the
# limbs.
ELECTRODES_8E = torch.zeros(8, 9, dtype=torch.double)
ELECTRODES_8E[0, :3] = torch.tensor([-1, 1, 0])
ELECTRODES_8E[1, :3] = torch.tensor([-1, 0, 1])
ELECTRODES_8E[2:, :3] = -1 / 3
ELECTRODES_8E[2:, 3:] = torch.eye(6)

STEP_MV = 1e-3  # signals are rounded to whole microvolts


class Disturbance(NamedTuple):
    """What a record suffers, whatever its labels; all of shape (n,)."""

    noise: Tensor  # mV
    wander: Tensor  # mV
    hum: Tensor  # mV
    mains: Tensor  # Hz
    gain: Tensor
    depth: Tensor  # how much the breath changes the voltage


class Atria(NamedTuple):
    """How each record's atria would fibrillate."""

    drift: Tensor  # Hz, (n, 3): of pitch, size and shape
    phase: Tensor  # rad, (n, 5)
    pitch: Tensor  # Hz, (n,)
    seen: Tensor  # in the leads I, II, V1..V6, (n, 8)


class Heart(NamedTuple):
    """All that one chunk of records is rendered from."""

    seen: Tensor  # (n, W, 8)
    r_times: Tensor  # (n, B)
    ectopic: Tensor  # (n, B)
    fibrillates: Tensor  # (n,)
    timing: Timing
    breath: Breath
    disturbance: Disturbance
    atria: Atria

    def part(self, rows: slice) -> Heart:
        """The records at `rows`."""
        cut = [value[rows] if isinstance(value, Tensor) else type(value)(*(v[rows] for v in value)) for value in self]
        return Heart(*cut)


def draw_disturbance(n: int, generator: np.random.Generator) -> Disturbance:
    """Noise, wander, hum and gain, drawn independently of the labels."""
    return Disturbance(
        noise=spread(generator, 0.012, 0.6, n).clamp(max=0.06),
        wander=spread(generator, 0.04, 0.7, n).clamp(max=0.4),
        hum=spread(generator, 0.004, 0.8, n),
        mains=torch.where(uniform(generator, 0, 1, n) < 0.5, 50.0, 60.0).double(),
        gain=spread(generator, 1, 0.1, n),
        depth=uniform(generator, 0, 0.12, n),
    )


def draw_atria(n: int, generator: np.random.Generator) -> Atria:
    """The atria of every record, fibrillating or not, so that a seed means the same patients at any prevalence."""
    towards = torch.tensor([-0.35, 0.5, -0.7], dtype=torch.double)  # strongest in V1 and II
    direction_n8 = turn(towards.expand(n, 3), 25, generator) @ DOWER_83.T
    return Atria(
        drift=uniform(generator, 0.1, 0.9, n, 3),
        phase=uniform(generator, 0, 2 * math.pi, n, 5),
        pitch=uniform(generator, 4, 9, n),
        seen=spread(generator, 0.05, 0.4, n, 1) * direction_n8,
    )


def render(heart: Heart, rate: int, samples: int, generator: np.random.Generator) -> Tensor:
    """The records as float16 (n, 12, T), in mV.

    The signal is computed in float64 and rounded to whole microvolts. Processors differ in the last bits of exp, sin
    and sums (about 1e-15 mV), and the rounding removes that, but for a value that lies on a tie to within 1e-15 mV.
    """
    clock = torch.arange(samples, dtype=torch.double) / rate
    swell = 1 + 0.04 * normal(generator, *heart.r_times.shape)  # from beat to beat
    leads = torch.einsum("nwl,nwt->nlt", heart.seen, _bells(heart, swell, clock, rate))
    breathing = torch.sin(2 * math.pi * heart.breath.rate[:, None] * clock + heart.breath.phase[:, None])
    leads *= (1 + heart.disturbance.depth[:, None] * breathing)[:, None]
    shaken = heart.fibrillates
    if bool(shaken.any()):
        leads[shaken] += f_waves(Atria(*(value[shaken] for value in heart.atria)), clock)
    leads -= leads.mean(-1, keepdim=True)  # recorders are AC-coupled: no lead keeps the mean of its waves
    leads += ELECTRODES_8E @ _at_electrodes(heart.disturbance, heart.breath, clock, rate, generator)
    steps = (leads * (heart.disturbance.gain / STEP_MV)[:, None, None]).round_().float()
    return torch.cat([limb_leads(steps[:, 0], steps[:, 1]), steps[:, 2:]], 1).mul_(STEP_MV).half()


def _bells(heart: Heart, swell: Tensor, clock: Tensor, rate: int) -> Tensor:
    """Every wave over time (n, W, T), with the size that it has in each beat; ectopic beats have waves of their own."""
    timing = heart.timing
    bells = torch.empty(len(swell), len(WAVES), len(clock), dtype=torch.double)
    for group in GROUPS:
        waves = list(group)
        since, beat = _nearest(heart.r_times, timing.centre[:, waves].mean(1), clock, rate)
        usual = swell.masked_fill(heart.ectopic, 0.0)
        if group == (P,):
            usual = usual.masked_fill(heart.fibrillates[:, None], 0.0)
        usual_nT = usual.gather(1, beat)
        ectopic_nT = swell.masked_fill(~heart.ectopic, 0.0).gather(1, beat)
        for wave in waves:
            gap = since - timing.centre[:, wave, None]
            width = torch.where(gap < 0, timing.flank[:, wave, :1], timing.flank[:, wave, 1:])
            bell = gap.div_(width).square_().mul_(-0.5).exp_()
            bells[:, wave] = bell.mul_(ectopic_nT if wave >= PVC_R else usual_nT)
    return bells


def _nearest(r_times: Tensor, offset: Tensor, clock: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """For each sample, the time since the R peak of the beat whose wave (`offset` after R) is nearest, and that beat.

    Both (n, T).
    """
    between = (r_times[:, 1:] + r_times[:, :-1]) / 2 + offset[:, None]
    place = (between * rate).ceil().clamp(0, len(clock)).long()
    steps = torch.zeros(len(r_times), len(clock) + 1, dtype=torch.int64).scatter_add_(1, place, torch.ones_like(place))
    beat = steps[:, :-1].cumsum(1)
    return clock - r_times.gather(1, beat), beat


def f_waves(atria: Atria, clock: Tensor) -> Tensor:
    """Fibrillating atria in the leads (n, 8, T): a trembling of 4 to 9 per second whose pitch and size wander."""
    phase = atria.phase[..., None]
    pitch, size, shape = torch.sin(2 * math.pi * atria.drift[..., None] * clock + phase[:, :3]).unbind(1)
    angle = 2 * math.pi * atria.pitch[:, None] * clock + 2.5 * pitch + phase[:, 3]
    tremble = (angle.sin() + 0.3 * torch.sin(2 * angle + 2 * shape)) * (1 + 0.4 * size)
    return atria.seen[..., None] * tremble[:, None]


def _at_electrodes(
    disturbance: Disturbance, breath: Breath, clock: Tensor, rate: int, generator: np.random.Generator
) -> Tensor:
    """Noise, wander and, where the sampling can show it, mains hum at the nine electrodes (n, E, T)."""
    n = len(breath.rate)
    noise = normal(generator, n, 9, len(clock))
    noise *= (disturbance.noise[:, None] * spread(generator, 1, 0.3, n, 9))[..., None]
    pitch = torch.cat([breath.rate[:, None], uniform(generator, 0.03, 0.5, n, 3), disturbance.mains[:, None]], 1)
    size = torch.cat([disturbance.wander[:, None].expand(n, 4) / 2, disturbance.hum[:, None]], 1)
    if rate <= 125:  # a recorder's filter has taken out what 100 Hz cannot show
        pitch, size = pitch[:, :4], size[:, :4]
    angle = 2 * math.pi * pitch[..., None] * clock
    waves = torch.cat([angle.sin(), angle.cos()], 1)
    return noise.baddbmm_(normal(generator, n, 9, waves.shape[1]) * torch.cat([size, size], 1)[:, None], waves)
