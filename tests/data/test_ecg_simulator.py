"""Simulated electrocardiograms hold against what is measured on them, by means the simulator doesn't use."""

import time
import warnings

import numpy as np
import pytest
import torch
from scipy.signal import butter, find_peaks, sosfiltfilt, welch

from jepa_lab.data.ecg.records import LEADS, lead_stats, normalise, patchify, split
from jepa_lab.data.ecg.simulator import DIAGNOSES, _atria, _f_waves, draw_labels, simulate, simulate_planted
from jepa_lab.data.sources.archives import DataError
from jepa_lab.papers.ecg_jepa.hand_features import spectrum

CHEST = slice(6, 12)
NORMAL = 0.0


def make(prevalence, n=40, seed=0, rate=500, seconds=10):
    data, planted = simulate_planted(n, seed, rate, seconds, prevalence)
    return data.signals.double().numpy(), planted, data


def only(name, **more):
    return make({name: 1.0}, **more)


def r_peaks(signal, rate):
    """R peaks in s of one record (12, T), after Pan & Tompkins: band-pass, slope, square, smooth, threshold."""
    band = sosfiltfilt(butter(2, (8, 20), "band", fs=rate, output="sos"), signal)
    energy = np.convolve((np.diff(band, axis=1) ** 2).sum(0), np.ones(round(0.1 * rate)), "same")
    peaks, _ = find_peaks(energy, distance=round(0.25 * rate), height=0.15 * np.quantile(energy, 0.98))
    return peaks / rate


def mean_beat(signal, times, rate, window=(-0.32, 0.62)):
    """The average beat (12, samples) around the given R times, its baseline at the QRS's foot taken off, and its clock
    in s.
    """
    clock = np.arange(round(window[0] * rate), round(window[1] * rate))
    starts = np.rint(times * rate).astype(int)
    starts = starts[(starts + clock[0] >= 0) & (starts + clock[-1] < signal.shape[1])]
    return signal[:, starts[:, None] + clock].mean(1), clock / rate


def beats_of(planted, i, ectopic=False):
    return planted.r_times[i][(planted.ectopic[i] == ectopic) & planted.r_times[i].isfinite()].numpy().astype(float)


def speed(beat, rate):
    """How fast the leads move together, mV/s."""
    smooth = sosfiltfilt(butter(2, 60, fs=rate, output="sos"), beat)
    return np.sqrt((np.gradient(smooth, axis=1) ** 2).sum(0)) * rate


def qrs_ms(beat, clock, rate):
    moving = np.flatnonzero(speed(beat, rate) * (np.abs(clock) < 0.16) > 0.12 * speed(beat, rate).max())
    return 1000 * (moving[-1] - moving[0]) / rate


def at(beat, clock, when):
    return beat[:, np.abs(clock - when).argmin()]


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
    waves = _f_waves(_atria(50, torch.Generator().manual_seed(0)), torch.arange(2000) / 100).double().numpy()
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


def test_same_seed_gives_the_same_bytes_and_another_one_others():
    first, again, other = simulate(300, 7), simulate(300, 7), simulate(300, 8)
    assert (
        torch.equal(first.signals, again.signals)
        and torch.equal(first.labels, again.labels)
        and first.sha256 == again.sha256
    )
    assert not torch.equal(first.signals, other.signals) and first.sha256 != other.sha256


@pytest.mark.parametrize(("rate", "seconds"), [(100, 10), (250, 4), (500, 2.5), (100, 30)])
def test_every_record_is_finite_has_its_size_and_a_plausible_voltage(rate, seconds):
    data = simulate(260, 3, rate, seconds, 0.2)
    assert data.signals.shape == (260, 12, round(rate * seconds)) and data.rate == rate and data.kind == "simulated"
    peak = data.signals.float().abs().amax((1, 2))
    assert (
        bool(data.signals.isfinite().all())
        and float(peak.median()) < 4
        and float(peak.max()) < 20
        and float(peak.min()) > 0.2
    )
    tokens = patchify(normalise(data.signals, lead_stats(data.signals)), 25)
    assert tokens.shape == (260, round(rate * seconds) // 25, 300) and 0.5 < float(tokens.std()) < 1.2


# labels


def test_prevalences_are_those_asked_for_and_exclusive_diagnoses_never_meet():
    labels = draw_labels(40_000, 0.2, torch.Generator().manual_seed(0)).double()
    assert float((labels.mean(0) - 0.2).abs().max()) < 0.01
    together = (labels.T @ labels / len(labels)).numpy()
    apart = {("bradycardia", "tachycardia"), ("LBBB", "RBBB"), ("LBBB", "T inversion")}
    for i, one in enumerate(DIAGNOSES):
        for j, two in enumerate(DIAGNOSES[:i]):
            met = together[i, j]
            assert met == 0 if {(one, two), (two, one)} & apart else 0.03 < met < 0.06, (one, two)


def test_prevalence_can_be_given_by_name_and_nonsense_is_refused():
    labels = simulate(2000, 0, seconds=2, prevalence={"AF": 0.3}).labels
    assert abs(float(labels[:, 0].double().mean()) - 0.3) < 0.05 and not bool(labels[:, 1:].any())
    for prevalence, says in (
        ({"flu": 0.1}, "no diagnosis is called flu; known: AF"),
        (1.5, "must lie in 0..1"),
        (-0.1, "must lie in"),
        (0.6, "must not sum above 1"),
    ):
        with pytest.raises(DataError, match=says):
            simulate(2, 0, prevalence=prevalence)
    for arguments in ({"n": 0}, {"n": 2, "rate": 20}, {"n": 2, "seconds": 1}, {"n": 2, "records_per_patient": 0}):
        with pytest.raises(DataError, match="cannot simulate"):
            simulate(seed=0, **arguments)


def auc(scores, labels):
    order = np.argsort(np.argsort(scores)) + 1
    positive = labels.sum()
    return (order[labels].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive))


def test_noise_gain_and_voltage_do_not_tell_the_diagnosis():
    data, planted = simulate_planted(2000, 11)
    x, labels = data.signals.float(), data.labels.numpy()
    size = {"noise": planted.noise_mv, "gain": planted.gain, "wander": x.mean((1, 2)).abs()}
    for name, values in size.items():
        worst = max(abs(auc(values.numpy(), column) - 0.5) for column in labels.T)
        assert worst < 4 * 0.29 / np.sqrt(labels.sum(0).min()), name
    reach = x.amax((1, 2)) - x.amin((1, 2))
    scores = {name: abs(auc(reach.numpy(), column) - 0.5) for name, column in zip(DIAGNOSES, labels.T)}
    assert max(score for name, score in scores.items() if name != "PVC") < 0.06 and scores["PVC"] < 0.3


def test_hand_made_statistics_leave_room_above_them():
    from sklearn.linear_model import LogisticRegression

    data = simulate(1200, 12, prevalence=0.15)
    x, labels = data.signals.float(), data.labels.numpy()
    features = torch.cat([x.std(-1), x.mean(-1), x.amax(-1), x.amin(-1)], 1)
    features = ((features - features.mean(0)) / features.std(0)).numpy()
    scores = [
        auc(
            LogisticRegression(C=0.1, max_iter=60).fit(features[:600], column[:600]).decision_function(features[600:]),
            column[600:],
        )
        for column in labels.T
    ]
    assert 0.6 < np.mean(scores) < 0.82


# patients


def test_records_of_one_patient_look_alike_and_stay_together():
    data, planted = simulate_planted(60, 5, 500, prevalence=0.0, records_per_patient=2)
    assert data.patients.tolist() == [k // 2 for k in range(60)]
    beats = [
        mean_beat(signal, beats_of(planted, i), 500, (-0.08, 0.08))[0].ravel()
        for i, signal in enumerate(data.signals.double().numpy())
    ]
    alike = np.corrcoef(np.stack(beats))
    same = alike[np.arange(0, 60, 2), np.arange(1, 60, 2)]
    assert np.median(same) > 0.95 and np.median(same) > np.quantile(alike[0, 2:], 0.9)
    one, two = split(data, (30, 30), 0)
    assert not set(one.patients.tolist()) & set(two.patients.tolist())


# speed


def test_a_core_simulates_a_thousand_records_a_second():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        simulate(250, 0)
        best = 0.0
        for seed in range(3):
            start = time.process_time()
            simulate(500, seed)
            best = max(best, 500 / (time.process_time() - start))
    finally:
        torch.set_num_threads(threads)
    assert best > 1000  # measured: 2,800 per second of one core's time when it is not shared


# against neurokit2 0.3.0: always by numbers that it gave once, and live where it is installed (it isn't among the
# requirements)

# Its delineation (dwt) of PR, QRS, QT in ms of the twelve records make(NORMAL, 12), in the lead with the most upright
# R.
NEUROKIT_ON_OURS = [
    (157, 138, 410),
    (168, 100, 404),
    (132, 110, 408),
    (158, 116, 376),
    (138, 114, 352),
    (134, 96, 387),
    (148, 100, 406),
    (126, 104, 363),
    (142, 108, 362),
    (120, 108, 326),
    (73, 175, 478),
    (134, 146, 428),
]
# The same of its own ecg_simulate(method="ecgsyn", heart_rate=76, noise=0.01), medians of four records of 10 s at 500
# Hz;
# and the shares of that simulator's power in BANDS_HZ, means of 20 records at 100 Hz.
NEUROKIT_ON_ITS_OWN = (163.5, 148.0, 426.0)
NEUROKIT_SPECTRUM = (0.090, 0.228, 0.288, 0.205, 0.176, 0.013)


def test_neurokit_measured_the_intervals_that_were_planted():
    _, planted, _ = make(NORMAL, 12)
    ours = torch.stack([planted.pr_ms, planted.qrs_ms, planted.qt_ms], 1).numpy()
    gap = np.abs(np.array(NEUROKIT_ON_OURS) - ours)
    assert (np.median(gap, 0) < (20, 25, 5)).all(), np.median(
        gap, 0
    )  # ms; it calls P shorter and QRS wider by about that
    assert (np.abs(np.median(NEUROKIT_ON_OURS, 0) - NEUROKIT_ON_ITS_OWN) < (60, 45, 60)).all()


def test_the_spectrum_is_like_that_of_neurokits_simulator():
    signals = torch.from_numpy(make(NORMAL, 200, rate=100)[0])
    power = spectrum(signals, 100).reshape(200, 12, -1)[:, LEADS.index("II")].softmax(-1).mean(0)
    gap = np.abs(power.numpy() - NEUROKIT_SPECTRUM)
    assert gap.max() < 0.15 and gap.sum() / 2 < 0.25, gap  # its QRS is wider: less above 20 Hz, more below 8


def test_neurokit_finds_the_same_heart_as_in_its_own_simulator():
    nk = pytest.importorskip("neurokit2")

    def measure(lead):
        lead = nk.ecg_clean(lead, sampling_rate=500)
        peaks = nk.ecg_peaks(lead, sampling_rate=500)[1]["ECG_R_Peaks"]
        waves = nk.ecg_delineate(lead, peaks, sampling_rate=500, method="dwt")[1]
        onset, start, stop, end = (
            np.array(waves[f"ECG_{key}"], float) for key in ("P_Onsets", "R_Onsets", "R_Offsets", "T_Offsets")
        )
        return peaks / 500, [2 * np.nanmedian(gap) for gap in (start - onset, stop - start, end - start)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signals, planted, _ = make(NORMAL, 12)
        rows = []
        for i, signal in enumerate(signals):
            found, row = measure(signal[(signal.max(1) + signal.min(1)).argmax()])  # the lead with the most upright R
            rows.append(row)
            true = beats_of(planted, i)
            true = true[(true > 0.3) & (true < 9.7)]
            assert np.abs(found[:, None] - true).min(0).max() < 0.06
        theirs = [
            measure(
                nk.ecg_simulate(
                    duration=10, sampling_rate=500, heart_rate=76, method="ecgsyn", random_state=k, noise=0.01
                )
            )[1]
            for k in range(4)
        ]
    gap = np.abs(np.nanmedian(rows, 0) - np.median(theirs, 0))
    assert (gap < (60, 45, 60)).all(), gap  # ms; its delineator differs by about that between leads
