"""A fast simulator of twelve-lead electrocardiograms whose diagnoses have a known cause. Its records are simulated, and
say so.

The heart is a current dipole that walks a loop in every beat: each wave (P, Q, R, S, T, ...) is a bell in time with a
direction in space, as in McSharry et al. 2003, "A dynamical model for generating synthetic electrocardiogram signals"
(there in one
dimension). A patient's body sees it through an 8 x 3 lead matrix (Dower 1980, jittered), turned by the position of the
heart. Noise enters at the nine electrodes, so the limb leads obey Einthoven's law to the rounding of float16.
Axes: x to the patient's left, y to the feet, z to the back. Times in seconds, from the R peak. Voltages in mV.
Shape letters: n records, W waves, B beats, T samples, E electrodes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32
from torch import Generator, Tensor

from jepa_lab.data.ecg.records import ECGSet
from jepa_lab.data.ecg.wfdb import limb_leads
from jepa_lab.data.sources.archives import DataError

DIAGNOSES = ("AF", "PVC", "LBBB", "RBBB", "STE anterior", "STE inferior", "T inversion", "bradycardia", "tachycardia")
AF, PVC, LBBB, RBBB, STE_ANTERIOR, STE_INFERIOR, T_INVERSION, BRADYCARDIA, TACHYCARDIA = range(len(DIAGNOSES))

# Dower 1980: what leads I, II, V1..V6 see of a dipole along x, y, z.
DOWER_83 = torch.tensor(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)
# The same leads as differences of the potentials at RA, LA, LL, V1..V6; chest leads against Wilson's mean of the limbs.
ELECTRODES_8E = torch.cat(
    [
        torch.tensor([[-1.0, 1, 0] + 6 * [0], [-1, 0, 1] + 6 * [0]]),
        torch.cat([torch.full((6, 3), -1 / 3), torch.eye(6)], 1),
    ]
)

WAVES = ("P", "Q", "R", "S", "late", "ST", "T", "PVC R", "PVC S", "PVC T")
P, Q, R, S, LATE, ST, T, PVC_R, PVC_S, PVC_T = range(len(WAVES))
GROUPS = ((P,), (Q, R, S, LATE, PVC_R, PVC_S), (ST, T, PVC_T))  # waves of one group belong to the same nearest beat
# The dipole of each wave at its peak, before it is brought to size: P, Q, R, S, (no late wave), (no ST shift), T.
NORMAL_W3 = torch.tensor(
    [
        [0.10, 0.11, -0.02],
        [-0.15, -0.05, -0.22],
        [1.0, 0.8, 0.15],
        [-0.15, -0.15, 0.55],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.30, 0.22, -0.13],
    ]
)
LBBB_QRS_43 = torch.tensor(
    [[0.15, 0.05, 0.15], [0.95, 0.40, 0.50], [0.10, 0.0, 0.25], [0.85, 0.20, 0.60]]
)  # no septal q: slow, left, back
RBBB_LATE_3 = torch.tensor([-0.55, 0.0, -0.60])  # the right ventricle comes last, to the right and front
INJURY_23 = torch.tensor(
    [[0.35, -0.25, -0.90], [-0.15, 0.95, 0.15]]
)  # injury currents point to the wall: anterior, inferior
REACH = 2.5  # a wave is said to begin and end this many standard deviations from its centre
SHORTEST_RR = 0.30  # s
CHUNK = 250  # records rendered at a time: sets the memory


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

    prevalence: of each diagnosis, or one per name (missing names: 0). A seed gives the same bytes again on the same
    kind of
    machine, and with other prevalences the same people under the same noise with other diagnoses. Raises `DataError`
    for numbers that make no record.
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
    _check(n, rate, seconds, records_per_patient)
    generator = torch.Generator().manual_seed(seed)
    labels = draw_labels(n, prevalence, generator)
    patients = torch.arange(n) // records_per_patient
    heart_rate = _heart_rate(labels, generator)
    breath = {"rate": _uniform(generator, 0.15, 0.40, n), "phase": _uniform(generator, 0, 2 * math.pi, n)}
    r_times, ectopic = _beats(labels, heart_rate, breath, seconds, generator)
    timing = _timing(labels, 60 / heart_rate, generator)
    seen_nW8 = _seen_by_leads(labels, timing, patients, generator)
    disturb, atria = _disturbances(n, generator), _atria(n, generator)
    signals = torch.empty(n, 12, round(rate * seconds), dtype=torch.float16)
    for first in range(0, n, CHUNK):
        part = slice(first, first + CHUNK)
        cut = [{key: value[part] for key, value in group.items()} for group in (timing, breath, disturb, atria)]
        signals[part] = _render(
            seen_nW8[part], r_times[part], ectopic[part], labels[part, AF], *cut, rate, generator, signals.shape[2]
        )
    digest = hashlib.sha256(signals.numpy().tobytes()).hexdigest()
    inside = (r_times >= 0) & (r_times < seconds)
    truth = Planted(
        torch.where(inside, r_times, math.nan),
        ectopic & inside,
        heart_rate,
        torch.where(labels[:, AF], math.nan, 1000 * timing["pr"]),
        1000 * timing["qrs"],
        1000 * timing["qt"],
        disturb["noise"],
        disturb["gain"],
    )
    record = ECGSet(
        signals,
        labels,
        DIAGNOSES,
        rate,
        patients,
        torch.zeros(n, dtype=torch.int64),
        f"simulated ECG, seed {seed}",
        f"jepa_lab.data.ecg.simulator, {n} records of {seconds:g} s at {rate} Hz",
        digest,
        "simulated",
    )
    return record, truth


def _check(n: int, rate: int, seconds: float, records_per_patient: int) -> None:
    if n < 1 or records_per_patient < 1:
        raise DataError(f"cannot simulate {n} records with {records_per_patient} per patient; both must be at least 1")
    if rate < 50 or not 2 <= seconds <= 3600:
        raise DataError(f"cannot simulate {seconds} s at {rate} Hz; choose 2 to 3600 s at 50 Hz or more")


def draw_labels(n: int, prevalence: float | Mapping[str, float], generator: Generator) -> Bool[Tensor, "n 9"]:
    """Labels with the prevalence asked for, independent of each other but where one rules the other out.

    Exclusive: brady- and tachycardia; left and right bundle-branch block; T inversion and LBBB, which turns T itself.
    """
    if isinstance(prevalence, Mapping):
        if unknown := set(prevalence) - set(DIAGNOSES):
            raise DataError(f"no diagnosis is called {', '.join(sorted(unknown))}; known: {', '.join(DIAGNOSES)}")
        share = torch.tensor([float(prevalence.get(name, 0)) for name in DIAGNOSES])
    else:
        share = torch.full((len(DIAGNOSES),), float(prevalence))
    sums = torch.stack(
        [share[BRADYCARDIA] + share[TACHYCARDIA], share[LBBB] + share[RBBB], share[LBBB] + share[T_INVERSION]]
    )
    if not bool(((share >= 0) & (share <= 1)).all()) or bool((sums > 1).any()):
        raise DataError(f"prevalences must lie in 0..1, and exclusive diagnoses must not sum above 1: {share.tolist()}")
    chance = torch.rand(n, len(DIAGNOSES), generator=generator)
    labels = chance < share
    labels[:, TACHYCARDIA] = (chance[:, BRADYCARDIA] >= share[BRADYCARDIA]) & (chance[:, BRADYCARDIA] < sums[0])
    labels[:, RBBB] = (chance[:, LBBB] >= share[LBBB]) & (chance[:, LBBB] < sums[1])
    labels[:, T_INVERSION] = ~labels[:, LBBB] & (chance[:, T_INVERSION] * (1 - share[LBBB]) < share[T_INVERSION])
    return labels


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def _uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _spread(generator: Generator, median: float, sigma: float, *shape: int) -> Tensor:
    """Log-normal: `sigma` 0.3 is about +-30 %."""
    return median * (sigma * _normal(generator, *shape)).exp()


def _heart_rate(labels: Tensor, generator: Generator) -> Tensor:
    """Below 60 per minute is bradycardia, above 100 tachycardia, by definition."""
    n = len(labels)
    usual = (76 + 10 * _normal(generator, n)).clamp(62, 97)
    slow, fast = _uniform(generator, 40, 57, n), _uniform(generator, 104, 150, n)
    return torch.where(labels[:, BRADYCARDIA], slow, torch.where(labels[:, TACHYCARDIA], fast, usual))


def _beats(
    labels: Tensor, heart_rate: Tensor, breath: dict[str, Tensor], seconds: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Times of the R peaks (n, B), from before the record to after it, and which beats are ectopic."""
    n, count = len(labels), math.ceil(seconds / SHORTEST_RR) + 6
    mean = (60 / heart_rate)[:, None]
    when = torch.arange(count) * mean
    sway = torch.sin(2 * math.pi * breath["rate"][:, None] * when + breath["phase"][:, None])
    sinus = (
        1
        + _uniform(generator, 0, 0.06, n, 1) * sway
        + _uniform(generator, 0.005, 0.03, n, 1) * _normal(generator, n, count)
    )
    fibrillating = (_uniform(generator, 0.16, 0.30, n, 1) * _normal(generator, n, count)).exp()
    rr = mean * torch.where(labels[:, AF, None], fibrillating, sinus)
    start = -(1 + torch.rand(n, 1, generator=generator)) * mean
    for _ in range(3):  # until the beats inside the record have the rate asked for, however irregular they are
        times = start + torch.cat([torch.zeros(n, 1), rr.cumsum(1)[:, :-1]], 1)
        inside = (times[:, 1:] < seconds) & (times[:, :-1] >= 0)
        found, sought = (rr[:, :-1] * inside).sum(1, keepdim=True), mean * inside.sum(1, keepdim=True)
        rr = (rr * torch.where(sought > 0, sought / found, 1.0)).clamp(min=SHORTEST_RR)
    ectopic = _ectopic(times, labels[:, PVC], seconds, generator)
    early = _uniform(generator, 0.25, 0.45, n, 1) * (times - times.roll(1, 1)).clamp(max=1.2)
    return torch.where(
        ectopic, times - early, times
    ), ectopic  # the next beat keeps its time: a full compensatory pause


def _ectopic(times: Tensor, has_pvc: Tensor, seconds: float, generator: Generator) -> Tensor:
    """One beat, or every second to fifth one: bigeminy to rare. Always at least one well inside the record."""
    n, count = times.shape
    allowed = (times > 0.8) & (times < seconds - 0.4)
    score = torch.rand(n, count, generator=generator).masked_fill(~allowed, -1)
    step = torch.randint(2, 11, (n, 1), generator=generator)
    step = torch.where(step > 5, count, step)
    turn = (torch.arange(count) - score.argmax(1, keepdim=True)) % step == 0
    return turn & allowed & has_pvc[:, None]


def _timing(labels: Tensor, rr: Tensor, generator: Generator) -> dict[str, Tensor]:
    """Where each wave of a record's beats lies (n, W) and how wide its two flanks are (n, W, 2), with the intervals, in
    s.
    """
    n = len(labels)
    left, right = labels[:, LBBB], labels[:, RBBB]
    qrs = (0.092 + 0.008 * _normal(generator, n)).clamp(0.076, 0.108)
    qrs = torch.where(
        left, _uniform(generator, 0.126, 0.168, n), torch.where(right, _uniform(generator, 0.122, 0.156, n), qrs)
    )
    qtc = (0.405 + 0.018 * _normal(generator, n)).clamp(0.360, 0.445)
    qt = qtc * rr ** (1 / 3) + 0.5 * (qrs - 0.108).clamp(
        min=0
    )  # Fridericia's correction; a late end of QRS ends T late
    pr = ((0.158 + 0.016 * _normal(generator, n)) * rr**0.1).clamp(0.120, 0.200)
    wide = _uniform(generator, 0.140, 0.180, n)
    # Places and widths in the QRS as shares of its duration: begin and end come out REACH widths from the outer waves.
    plan = torch.tensor(
        [
            [[-0.26, 0.09], [0.0, 0.11], [0.275, 0.096], [0.0, 0.10]],
            [[-0.29, 0.082], [-0.08, 0.12], [0.06, 0.10], [0.21, 0.12]],
            [[-0.35, 0.055], [-0.10, 0.075], [0.05, 0.07], [0.27, 0.095]],
        ]
    )[left.long() + 2 * right.long()]
    begin = qrs * (plan[:, 0, 0] - REACH * plan[:, 0, 1])
    j_point = begin + qrs
    p_wide, t_wide = _uniform(generator, 0.016, 0.024, n), 0.032 * qt / 0.4 * _spread(generator, 1, 0.1, n)
    centre, flank = torch.empty(n, len(WAVES)), torch.empty(n, len(WAVES), 2)
    centre[:, P], flank[:, P] = begin - pr + REACH * p_wide, p_wide[:, None]
    centre[:, Q:ST], flank[:, Q:ST] = qrs[:, None] * plan[..., 0], (qrs[:, None] * plan[..., 1])[..., None]
    centre[:, T], flank[:, T] = begin + qt - REACH * t_wide, torch.stack([1.55 * t_wide, t_wide], 1)
    to_peak = (centre[:, T] - j_point).clamp(min=0.03)
    centre[:, ST], flank[:, ST] = j_point + 0.35 * to_peak, to_peak[:, None] * torch.tensor([0.27, 0.40])
    for wave, place, width in ((PVC_R, -0.08, 0.14), (PVC_S, 0.20, 0.12)):
        centre[:, wave], flank[:, wave] = place * wide, (width * wide)[:, None]
    centre[:, PVC_T], flank[:, PVC_T] = centre[:, T] + 0.6 * (wide - qrs).clamp(min=0), 1.15 * flank[:, T]
    return {"centre": centre, "flank": flank, "pr": pr, "qrs": qrs, "qt": qt}


def _turn(vectors: Tensor, degrees: float, generator: Generator) -> Tensor:
    """Each 3-vector turned about a random axis by an angle of spread `degrees` (Rodrigues' formula)."""
    axis = torch.nn.functional.normalize(_normal(generator, *vectors.shape), dim=-1)
    angle = math.radians(degrees) * _normal(generator, *vectors.shape[:-1], 1)
    along = (axis * vectors).sum(-1, keepdim=True) * axis
    return along + (vectors - along) * angle.cos() + torch.linalg.cross(axis, vectors) * angle.sin()


def _seen_by_leads(labels: Tensor, timing: dict[str, Tensor], patients: Tensor, generator: Generator) -> Tensor:
    """What leads I, II, V1..V6 see of each wave at its peak (n, W, 8), in mV: dipoles through each patient's lead
    matrix.
    """
    people = int(patients[-1]) + 1
    lead_p83 = DOWER_83 * (1 + 0.15 * _normal(generator, people, 8, 3)) + 0.06 * _normal(generator, people, 8, 3)
    frame_p33 = _positions(people, 24, generator)
    local_p = 0.10 * _normal(generator, people, len(WAVES), 8)  # what no single dipole explains, in the chest leads
    local_p[..., :2] = 0
    dipole_nW3 = _dipoles(labels, timing, people, patients, generator)
    seen = torch.einsum("nwi,nji,nlj->nwl", dipole_nW3, frame_p33[patients], lead_p83[patients])
    return seen + local_p[patients] * dipole_nW3.norm(dim=-1, keepdim=True)


def _positions(people: int, degrees: float, generator: Generator) -> Tensor:
    """How each heart lies in its chest: rotations (p, 3, 3) of spread `degrees` about each axis."""
    x, y, z = (math.radians(degrees) * _normal(generator, people, 3)).unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    return torch.linalg.matrix_exp(skew)


def _dipoles(labels: Tensor, timing: dict[str, Tensor], people: int, patients: Tensor, generator: Generator) -> Tensor:
    """The dipole of every wave (n, W, 3). Its size is drawn alike for all diagnoses: voltage alone tells nothing."""
    base_pW3 = torch.zeros(people, len(WAVES), 3)
    base_pW3[:, : T + 1] = _turn(NORMAL_W3.expand(people, -1, -1), 16, generator) * _spread(
        generator, 1, 0.25, people, T + 1, 1
    )
    left_p43 = _turn(LBBB_QRS_43.expand(people, -1, -1), 12, generator)
    late_p3 = _turn(RBBB_LATE_3.expand(people, -1), 15, generator) * _spread(generator, 1, 0.25, people, 1)
    focus_p3 = torch.nn.functional.normalize(_normal(generator, people, 3), dim=-1)
    size_p = {
        name: _spread(generator, median, 0.4, people, 1) for name, median in (("qrs", 1.3), ("t", 0.36), ("pvc", 1.5))
    }
    d = base_pW3[patients].clone()
    left, right, inverted = (labels[:, k, None] for k in (LBBB, RBBB, T_INVERSION))
    d[:, Q:ST] = torch.where(left[..., None], left_p43[patients], d[:, Q:ST])
    d[:, S] *= torch.where(right, 0.5, 1.0)
    d[:, LATE] = torch.where(right, late_p3[patients], d[:, LATE])
    d[:, Q:ST] *= (size_p["qrs"][patients] / _loop_size(d[:, Q:ST], timing))[..., None]
    t = torch.where(left, torch.tensor([-0.7, -0.25, -0.55]) + 0.3 * d[:, T], d[:, T])
    t = torch.nn.functional.normalize(t + torch.where(right, torch.tensor([0.03, 0.0, 0.22]), torch.zeros(3)), dim=-1)
    d[:, T] = torch.where(inverted, -_turn(t, 20, generator), t) * size_p["t"][patients]
    d[:, ST] = _uniform(generator, -0.03, 0.15, len(d), 1) * d[:, T] + 0.02 * _normal(generator, len(d), 3)
    for k, injury in enumerate(INJURY_23):
        amount = _spread(generator, 0.20, 0.35, len(d), 1).clamp(0.10, 0.45)
        d[:, ST] += labels[:, STE_ANTERIOR + k, None] * amount * _turn(injury.expand(len(d), 3), 12, generator)
    size = size_p["pvc"][patients]
    d[:, PVC_R], d[:, PVC_S] = size * focus_p3[patients], 0.6 * size * _turn(focus_p3, 40, generator)[patients]
    d[:, PVC_T] = -0.35 * size * _turn(focus_p3, 20, generator)[patients]
    return d


def _loop_size(dipole_n43: Tensor, timing: dict[str, Tensor]) -> Tensor:
    """The largest length (n, 1) that the sum of Q, R, S and the late wave reaches."""
    grid = torch.linspace(-0.6, 0.6, 41) * timing["qrs"][:, None, None]
    bell = torch.exp(-0.5 * ((grid - timing["centre"][:, Q:ST, None]) / timing["flank"][:, Q:ST, :1]) ** 2)
    return torch.einsum("nwt,nwi->nti", bell, dipole_n43).norm(dim=-1).amax(1, keepdim=True)


def _disturbances(n: int, generator: Generator) -> dict[str, Tensor]:
    """Noise, wander, hum and gain: drawn without a look at the labels."""
    return {
        "noise": _spread(generator, 0.012, 0.6, n).clamp(max=0.06),
        "wander": _spread(generator, 0.04, 0.7, n).clamp(max=0.4),
        "hum": _spread(generator, 0.004, 0.8, n),
        "mains": torch.where(torch.rand(n, generator=generator) < 0.5, 50.0, 60.0),
        "gain": _spread(generator, 1, 0.1, n),
        "depth": _uniform(generator, 0, 0.12, n),
    }


def _render(
    seen: Tensor,
    r_times: Tensor,
    ectopic: Tensor,
    fibrillates: Tensor,
    timing: dict[str, Tensor],
    breath: dict[str, Tensor],
    disturb: dict[str, Tensor],
    atria: dict[str, Tensor],
    rate: int,
    generator: Generator,
    samples: int,
) -> Tensor:
    """One chunk of records as float16 (n, 12, T)."""
    n = len(seen)
    clock = torch.arange(samples) / rate
    swell = 1 + 0.04 * _normal(generator, *r_times.shape)  # from beat to beat
    bells = torch.empty(n, len(WAVES), samples)
    for group in GROUPS:
        waves = list(group)
        since, beat = _nearest(r_times, timing["centre"][:, waves].mean(1), clock, rate)
        normal = torch.where(ectopic, 0.0, swell)
        if group == (P,):
            normal = normal.masked_fill(fibrillates[:, None], 0.0)
        size = {False: normal.gather(1, beat), True: torch.where(ectopic, swell, 0.0).gather(1, beat)}
        for wave in waves:
            gap = since - timing["centre"][:, wave, None]
            width = torch.where(gap < 0, timing["flank"][:, wave, :1], timing["flank"][:, wave, 1:])
            bells[:, wave] = torch.exp(-0.5 * (gap / width) ** 2) * size[wave >= PVC_R]
    leads = torch.einsum("nwl,nwt->nlt", seen, bells)
    breathing = torch.sin(2 * math.pi * breath["rate"][:, None] * clock + breath["phase"][:, None])
    leads *= (1 + disturb["depth"][:, None] * breathing)[:, None]
    if bool(fibrillates.any()):
        leads[fibrillates] += _f_waves({key: value[fibrillates] for key, value in atria.items()}, clock)
    leads -= leads.mean(-1, keepdim=True)  # recorders are AC-coupled: no lead keeps the mean of its waves
    leads += ELECTRODES_8E @ _at_electrodes(disturb, breath, clock, rate, generator)
    leads *= disturb["gain"][:, None, None]
    return torch.cat([limb_leads(leads[:, 0], leads[:, 1]), leads[:, 2:]], 1).half()


def _nearest(r_times: Tensor, offset: Tensor, clock: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """For each sample the beat whose wave, `offset` after its R peak, is nearest, and the time since that R peak: (n,
    T) twice.
    """
    between = (r_times[:, 1:] + r_times[:, :-1]) / 2 + offset[:, None]
    place = (between * rate).ceil().clamp(0, len(clock)).long()
    steps = torch.zeros(len(r_times), len(clock) + 1, dtype=torch.int64).scatter_add_(1, place, torch.ones_like(place))
    beat = steps[:, :-1].cumsum(1)
    return clock - r_times.gather(1, beat), beat


def _atria(n: int, generator: Generator) -> dict[str, Tensor]:
    """How each record's atria would fibrillate, whether or not they do: so one seed means the same patients at any
    prevalence.
    """
    direction = (
        _turn(torch.tensor([-0.35, 0.5, -0.7]).expand(n, 3), 25, generator) @ DOWER_83.T
    )  # strongest in V1 and II
    return {
        "drift": _uniform(generator, 0.1, 0.9, n, 3),
        "phase": _uniform(generator, 0, 2 * math.pi, n, 5),
        "pitch": _uniform(generator, 4, 9, n),
        "seen": _spread(generator, 0.05, 0.4, n, 1) * direction,
    }


def _f_waves(atria: dict[str, Tensor], clock: Tensor) -> Tensor:
    """Fibrillating atria in the leads (n, 8, T): a trembling of 4 to 9 per second whose pitch and size wander."""
    phase = atria["phase"][..., None]
    pitch_drift, size_drift, shape_drift = torch.sin(
        2 * math.pi * atria["drift"][..., None] * clock + phase[:, :3]
    ).unbind(1)
    angle = 2 * math.pi * atria["pitch"][:, None] * clock + 2.5 * pitch_drift + phase[:, 3]
    tremble = (angle.sin() + 0.3 * torch.sin(2 * angle + 2 * shape_drift)) * (1 + 0.4 * size_drift)
    return atria["seen"][..., None] * tremble[:, None]


def _at_electrodes(
    disturb: dict[str, Tensor], breath: dict[str, Tensor], clock: Tensor, rate: int, generator: Generator
) -> Tensor:
    """Noise, wander and, where the sampling can show it, mains hum at the nine electrodes: (n, 9, T)."""
    n = len(breath["rate"])
    noise = (
        _normal(generator, n, 9, len(clock)) * (disturb["noise"][:, None] * _spread(generator, 1, 0.3, n, 9))[..., None]
    )
    pitch = torch.cat([breath["rate"][:, None], _uniform(generator, 0.03, 0.5, n, 3), disturb["mains"][:, None]], 1)
    size = torch.cat([disturb["wander"][:, None].expand(n, 4) / 2, disturb["hum"][:, None]], 1)
    if rate <= 125:  # a recorder's filter has taken out what 100 Hz cannot show
        pitch, size = pitch[:, :4], size[:, :4]
    angle = 2 * math.pi * pitch[..., None] * clock
    waves = torch.cat([angle.sin(), angle.cos()], 1)
    return noise.baddbmm_(_normal(generator, n, 9, waves.shape[1]) * torch.cat([size, size], 1)[:, None], waves)
