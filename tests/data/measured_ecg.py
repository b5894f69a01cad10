"""Measurements on simulated electrocardiograms, by means the simulator doesn't use."""

import numpy as np
from scipy.signal import butter, find_peaks, sosfiltfilt

from jepa_lab.data.ecg.simulator import simulate_planted

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
