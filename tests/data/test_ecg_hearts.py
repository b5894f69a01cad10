"""Simulated hearts hold against what is measured on them: leads, rhythm, intervals, diagnoses, spectrum."""

import numpy as np
import pytest
import torch
from measured_ecg import CHEST, NORMAL, at, beats_of, make, mean_beat, only, qrs_ms, r_peaks, speed
from scipy.signal import butter, sosfiltfilt, welch

from jepa_lab.data.ecg.draws import seeded
from jepa_lab.data.ecg.leads import LEADS
from jepa_lab.data.ecg.recording import draw_atria, f_waves
from jepa_lab.data.ecg.simulator import simulate

# leads


def test_einthoven_and_goldberger_hold_to_the_rounding_of_float16():
    x = simulate(200, 0).signals.double()
    i, ii, iii, avr, avl, avf = x[:, :6].unbind(1)
    for lead, formula, parts in (
        (iii, ii - i, (i, ii)),
        (avr, -(i + ii) / 2, (i, ii)),
        (avl, i - ii / 2, (i, ii)),
        (avf, ii - i / 2, (i, ii)),
    ):
        half_steps = 2**-11 * (lead.abs() + sum(part.abs() for part in parts)) + 3 * 2**-25
        assert bool(((lead - formula).abs() <= half_steps).all())


def test_twelve_leads_have_rank_eight():
    x = simulate(1, 0, seconds=20).signals[0].double()
    spread = torch.linalg.svdvals(x - x.mean(1, keepdim=True))
    assert float(spread[7]) > 20 * float(spread[8])


# rhythm


@pytest.mark.parametrize(
    ("prevalence", "low", "high"),
    [(NORMAL, 60, 100), ({"bradycardia": 1.0}, 38, 60), ({"tachycardia": 1.0}, 100, 155)],
    ids=["normal", "bradycardia", "tachycardia"],
)
def test_a_detector_of_others_finds_the_planted_beats_and_rate(prevalence, low, high):
    signals, planted, data = make(prevalence, rate=100)
    errors = []
    for i, signal in enumerate(signals):
        found, true = r_peaks(signal, 100), beats_of(planted, i)
        inner = true[(true > 0.2) & (true < 9.8)]
        assert np.abs(found[:, None] - inner).min(0).max() < 0.08  # every beat
        assert np.abs(found[(found > 0.25) & (found < 9.75), None] - true).min(1).max() < 0.08  # and nothing else
        errors.append(abs(60 / np.diff(found[found > 0.25]).mean() / float(planted.heart_rate[i]) - 1))
    assert max(errors) < 0.03 and low < float(planted.heart_rate.min()) and float(planted.heart_rate.max()) < high


def irregularity(signal):
    gaps = np.diff(r_peaks(signal, 100))
    return gaps.std() / gaps.mean()


def test_fibrillation_is_irregular_and_sinus_rhythm_is_not():
    sinus = [irregularity(signal) for signal in make(NORMAL, rate=100)[0]]
    fibrillating = [irregularity(signal) for signal in only("AF", rate=100)[0]]
    assert max(sinus) < 0.09 and np.median(fibrillating) > 0.15 and np.quantile(fibrillating, 0.1) > 0.09


def p_size(prevalence):
    """Movement where P should be, relative to that of T, of each record's mean beat."""
    signals, planted, _ = make(prevalence, 16, seconds=15)
    shares = []
    for i, signal in enumerate(signals):
        beat, clock = mean_beat(signal, beats_of(planted, i), 500)
        pace = speed(beat, 500)
        shares.append(pace[(clock > -0.24) & (clock < -0.1)].max() / pace[(clock > 0.15) & (clock < 0.5)].max())
    return np.median(shares)


def test_fibrillation_has_no_p():
    assert p_size({"AF": 1.0}) < 0.5 * p_size(NORMAL)


def test_fibrillating_atria_tremble_four_to_nine_times_a_second():
    waves = f_waves(draw_atria(50, seeded(0)), torch.arange(2000) / 100).numpy()
    pitch, power = welch(waves[:, 2], 100, nperseg=400)
    top = pitch[power.argmax(1)]
    assert np.quantile(top, 0.05) > 3 and np.quantile(top, 0.95) < 10 and 0.02 < np.median(waves[:, 2].std(1)) < 0.15


def test_ectopic_beats_are_early_wide_and_followed_by_a_full_pause():
    signals, planted, _ = only("PVC", seconds=20)
    assert bool(planted.ectopic.any(1).all())
    early, pause, width, usual = [], [], [], []
    for i, signal in enumerate(signals):
        times = planted.r_times[i]
        rr = float(60 / planted.heart_rate[i])
        for k in planted.ectopic[i].nonzero()[:, 0].tolist():
            if k and times[k - 1].isfinite() and k + 1 < len(times) and times[k + 1].isfinite():
                early.append(float(times[k] - times[k - 1]) / rr)
                pause.append(float(times[k + 1] - times[k - 1]) / (2 * rr))
        odd, clock = mean_beat(signal, beats_of(planted, i, ectopic=True), 500, (-0.25, 0.4))
        width.append(qrs_ms(odd, clock, 500))
        usual.append(qrs_ms(*mean_beat(signal, beats_of(planted, i), 500, (-0.25, 0.4)), 500))
    assert max(early) < 0.85 and np.median(early) < 0.75 and min(pause) > 0.9 and max(pause) < 1.1
    assert np.median(width) > np.median(usual) + 40


# intervals


def test_planted_intervals_lie_in_the_textbook_and_scale_with_the_rate():
    for prevalence in (NORMAL, {"bradycardia": 1.0}, {"tachycardia": 1.0}):
        planted = make(prevalence, 500, rate=100, seconds=2)[1]
        corrected = planted.qt_ms / (60 / planted.heart_rate) ** (1 / 3)
        for values, low, high in ((planted.pr_ms, 120, 200), (planted.qrs_ms, 70, 110), (corrected, 350, 450)):
            assert low <= float(values.min()) and float(values.max()) <= high + 0.01
    slow, fast = (make({name: 1.0}, 500, rate=100, seconds=2)[1].qt_ms for name in ("bradycardia", "tachycardia"))
    assert float(slow.min()) > float(fast.max())
    assert bool(only("AF", n=3, seconds=2)[1].pr_ms.isnan().all())
    for name in ("LBBB", "RBBB"):
        assert float(only(name, n=300, rate=100, seconds=2)[1].qrs_ms.min()) >= 120


def landmarks(prevalence):
    """Onset of P, begin and end of QRS and end of T of each record's mean beat, measured where the leads start and stop
    moving.
    """
    signals, planted, _ = make(prevalence, 30, seconds=20)
    rows = []
    for i, signal in enumerate(signals):
        beat, clock = mean_beat(signal, beats_of(planted, i), 500)
        foot = at(beat, clock, -0.07 if not planted.qrs_ms[i] > 120 else -0.1)
        size = sosfiltfilt(butter(2, 40, fs=500, output="sos"), np.sqrt(((beat - foot[:, None]) ** 2).sum(0)))
        pace = speed(beat, 500)
        moving = clock[(np.abs(clock) < 0.16) & (pace > 0.06 * pace.max())]
        p = clock < moving[0] - 0.03
        peak = clock[p][size[p].argmax()]
        onset = clock[p][(clock[p] <= peak) & (size[p] < 0.2 * size[p].max())].max(initial=clock[0])
        late = clock > moving[-1] + 0.06
        top = late & (clock < 0.45)
        t_peak = clock[top][size[top].argmax()]
        after = (clock > t_peak) & (clock < 0.6)
        slope = np.gradient(size[after])
        steep = slope.argmin()  # the tangent at the steepest point meets the baseline at the end of T
        end = clock[after][steep] + size[after][steep] / max(-slope[steep] * 500, 1e-6)
        rows.append(1000 * np.array([moving[0] - onset, moving[-1] - moving[0], end - moving[0]]))
    return np.array(rows), planted


def test_intervals_measured_on_the_leads_are_those_planted():
    rows, planted = landmarks(NORMAL)
    error = rows - torch.stack([planted.pr_ms, planted.qrs_ms, planted.qt_ms], 1).double().numpy()
    assert (np.abs(np.median(error, 0)) < (20, 15, 25)).all(), np.median(error, 0)


# diagnoses, each against the same patients without it (same seed)


@pytest.fixture(scope="module")
def healthy():
    return make(NORMAL, 60)


def pairs(name, healthy):
    """(mean beat with the diagnosis, without it, clock, record) for each patient."""
    signals, planted, _ = only(name, n=60)
    assert torch.equal(planted.noise_mv, healthy[1].noise_mv)
    for i, signal in enumerate(signals):
        ill, clock = mean_beat(signal, beats_of(planted, i), 500)
        well, _ = mean_beat(healthy[0][i], beats_of(healthy[1], i), 500)
        yield ill - at(ill, clock, -0.09)[:, None], well - at(well, clock, -0.09)[:, None], clock, i


@pytest.mark.parametrize("name", ["LBBB", "RBBB"])
def test_blocks_make_the_qrs_wide(name, healthy):
    widths = np.array(
        [(qrs_ms(ill, clock, 500), qrs_ms(well, clock, 500)) for ill, well, clock, _ in pairs(name, healthy)]
    )
    assert np.median(widths[:, 0] - widths[:, 1]) > 30 and (widths[:, 0] > widths[:, 1]).mean() > 0.95


def test_left_block_is_negative_in_v1_and_a_broad_r_in_v6_with_t_against_it(healthy):
    v1, v6, t6 = LEADS.index("V1"), LEADS.index("V6"), []
    area = []
    for ill, _, clock, _ in pairs("LBBB", healthy):
        during = np.abs(clock) < 0.07
        area.append((ill[v1, during].mean(), ill[v6, during].mean()))
        t6.append(ill[v6, (clock > 0.2) & (clock < 0.36)].mean())
    area = np.array(area)
    assert (area[:, 0] < 0).mean() > 0.85 and (area[:, 1] > 0).mean() > 0.85 and (np.array(t6) < 0).mean() > 0.7


def test_right_block_ends_in_an_r_in_v1_and_an_s_in_v6(healthy):
    last = np.array(
        [(ill - well)[:, (clock > 0.02) & (clock < 0.06)].mean(1) for ill, well, clock, _ in pairs("RBBB", healthy)]
    )
    assert (
        (last[:, LEADS.index("V1")] > 0).mean() > 0.9
        and (last[:, LEADS.index("V6")] < 0).mean() > 0.8
        and (last[:, 0] < 0).mean() > 0.7
    )


@pytest.mark.parametrize(
    ("name", "up", "down"), [("STE anterior", ("V2", "V3", "V4"), "III"), ("STE inferior", ("II", "III", "aVF"), "aVL")]
)
def test_st_rises_over_its_wall_and_falls_opposite(name, up, down, healthy):
    shift = np.array([(at(ill, clock, 0.12) - at(well, clock, 0.12)) for ill, well, clock, _ in pairs(name, healthy)])
    for lead in up:
        assert np.median(shift[:, LEADS.index(lead)]) > 0.06 and (shift[:, LEADS.index(lead)] > 0).mean() > 0.8
    assert np.median(shift[:, LEADS.index(down)]) < 0
    other = "V3" if name == "STE inferior" else "aVF"
    assert np.median(shift[:, LEADS.index(other)]) < 0.5 * np.median(shift[:, LEADS.index(up[1])])


def test_inverted_t_points_the_other_way(healthy):
    agree = []
    for ill, well, clock, i in pairs("T inversion", healthy):
        peak = (float(healthy[1].qt_ms[i]) - 80 - 45) / 1000
        agree.append(np.corrcoef(at(ill, clock, peak)[CHEST], at(well, clock, peak)[CHEST])[0, 1])
    assert np.median(agree) < -0.5 and (np.array(agree) < 0).mean() > 0.85


# the whole record


def test_spectrum_is_that_of_a_heart():
    signals = make(0.1, 60)[0][:, 1]
    pitch, power = welch(signals, 500, nperseg=2000)
    power = power / power[:, (pitch >= 0.5) & (pitch < 150)].sum(1, keepdims=True)
    share = np.median(
        [
            [
                p[(pitch >= a) & (pitch < b)].sum()
                for a, b in ((0.5, 40), (0.5, 5), (5, 15), (15, 25), (25, 40), (40, 150))
            ]
            for p in power
        ],
        0,
    )
    assert share[0] > 0.9 and share[2] > share[3] > share[4] > share[5]


def test_mains_hum_shows_only_where_the_sampling_can_show_it():
    signals = make(NORMAL, 40)[0][:, CHEST]
    pitch, power = welch(signals, 500, nperseg=1000)
    hum, floor = power[..., [100, 120]].max(-1), np.median(power[..., 140:200], -1)
    assert np.median(hum / floor) > 3
    slow = make(NORMAL, 40, rate=100)[0][:, CHEST]
    pitch, power = welch(slow, 100, nperseg=200)
    assert np.median(power[..., 80] / np.median(power[..., 84:98], -1)) < 3  # 60 Hz would fold to 40 Hz
