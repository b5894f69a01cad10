"""The simulator against neurokit2 0.3.0: by numbers that it gave once, and live where it is installed."""

import warnings

import numpy as np
import pytest
import torch
from measured_ecg import NORMAL, beats_of, make

from jepa_lab.data.ecg.leads import LEADS

# Its delineation (dwt) of PR, QRS, QT in ms of the twelve records make(NORMAL, 12), in the lead with the most upright
# R.
NEUROKIT_ON_OURS = [
    (140, 138, 380),
    (136, 114, 362),
    (163, 108, 418),
    (118, 130, 376),
    (144, 104, 389),
    (153, 120, 399),
    (142, 118, 392),
    (115, 106, 332),
    (141, 102, 358),
    (140, 113, 371),
    (133, 126, 346),
    (139, 110, 382),
]
# The same of its own ecg_simulate(method="ecgsyn", heart_rate=76, noise=0.01), medians of four records of 10 s at 500
# Hz;
# and the shares of that simulator's power in BANDS_HZ, means of 20 records at 100 Hz.
NEUROKIT_ON_ITS_OWN = (163.5, 148.0, 426.0)
BANDS_HZ = (0.5, 2.0, 5.0, 8.0, 12.0, 20.0, 40.0)
NEUROKIT_SPECTRUM = (0.090, 0.228, 0.288, 0.205, 0.176, 0.013)


def test_neurokit_measured_the_intervals_that_were_planted():
    _, planted, _ = make(NORMAL, 12)
    ours = torch.stack([planted.pr_ms, planted.qrs_ms, planted.qt_ms], 1).numpy()
    gap = np.abs(np.array(NEUROKIT_ON_OURS) - ours)
    assert (np.median(gap, 0) < (20, 25, 5)).all(), gap  # ms; it calls P shorter and QRS wider by about that
    assert (np.abs(np.median(NEUROKIT_ON_OURS, 0) - NEUROKIT_ON_ITS_OWN) < (60, 45, 60)).all()


def test_the_spectrum_is_like_that_of_neurokits_simulator():
    lead = make(NORMAL, 200, rate=100)[0][:, LEADS.index("II")]
    power = np.abs(np.fft.rfft(lead - lead.mean(1, keepdims=True))) ** 2
    band = np.digitize(np.fft.rfftfreq(lead.shape[1], 0.01), BANDS_HZ)
    shares = np.stack([power[:, band == k].sum(1) for k in range(1, len(BANDS_HZ))], 1)
    gap = np.abs((shares / shares.sum(1, keepdims=True)).mean(0) - NEUROKIT_SPECTRUM)
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
