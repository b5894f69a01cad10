"""Recognises a recording that was met before: a copy in a backup, in another format, at another gain or sampling rate.

Shape letters: T samples, C coefficients of all leads, K numbers of a sketch, m recordings.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

HIGHEST_HZ = 20  # of what is compared: filters against aliasing and rounding leave it as it is
SKETCH = 128
# Distance between two recordings whose leads have unit length. Of 398 real ones at 500 Hz, brought to 100 Hz by four
# filters and rounded to microvolts, the copies lie 0.01 (median) to 0.06 (farthest) away, other recordings from 1.02.
CLOSE = 0.04


class Recordings:
    """Recordings of one length and sampling rate that were met so far, each as a sketch that keeps distances."""

    def __init__(self, samples: int, rate: int, most: int) -> None:
        self.band = slice(1, HIGHEST_HZ * samples // rate + 1)  # without the mean
        size = 12 * 2 * len(range(samples // 2 + 1)[self.band])
        generator = np.random.Generator(np.random.PCG64(0))
        self.place_C = generator.integers(SKETCH, size=size)
        self.sign_C = generator.choice((-1.0, 1.0), size=size)
        self.sketches_mK, self.squares_m = np.empty((most, SKETCH), np.float32), np.empty(most, np.float32)
        self.met = 0

    def is_new(self, signal: Float[np.ndarray, "12 T"]) -> bool:
        """Whether no recording met before is this one; from now on it is met."""
        sketch_K = self._sketch(signal)
        square = sketch_K @ sketch_K
        distance_m = self.squares_m[: self.met] + square - 2 * self.sketches_mK[: self.met] @ sketch_K  # squared
        if bool((distance_m < CLOSE**2 * square).any()):
            return False
        self.sketches_mK[self.met], self.squares_m[self.met] = sketch_K, square
        self.met += 1
        return True

    def _sketch(self, signal: np.ndarray) -> Float[np.ndarray, " K"]:
        """Random sums of the Fourier coefficients of all leads up to HIGHEST_HZ, each lead's brought to unit length."""
        spectrum = np.fft.rfft(signal.astype(np.float64))[:, self.band]
        leads = np.concatenate([spectrum.real, spectrum.imag], 1)
        leads /= np.linalg.norm(leads, axis=1, keepdims=True).clip(1e-300) * len(leads) ** 0.5
        return np.bincount(self.place_C, leads.ravel() * self.sign_C, SKETCH).astype(np.float32)
