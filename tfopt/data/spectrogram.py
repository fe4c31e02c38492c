"""Log-mel spectrograms and MFCCs in NumPy, as `tf.signal` computes them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

FLOOR = 1e-6
"""Added to the energy of each band before the logarithm."""


def log_mel(
    waves: np.ndarray, *, rate: int, frame: int, hop: int, mels: int, lowest: float, highest: float
) -> np.ndarray:
    """Return ln(E + `FLOOR`) with the energy E of each band and frame, float32 (n, frames, mels).

    A frame begins every `hop` samples, while it fits; it is multiplied by a periodic Hann window and padded to a power
    of two. E is the sum of |FFT|^2, weighted by `mel_weights`.

    Args:
        waves: float (n, samples), samples in -1..1.
        rate: samples per second.
        frame: samples in a frame.
        hop: samples between frames.
        mels: the number of bands.
        lowest: the lower end of the first band in Hz.
        highest: the upper end of the last band in Hz.
    """
    frames = np.lib.stride_tricks.sliding_window_view(waves, frame, axis=-1)[:, ::hop]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)).astype(np.float32)
    size = fft_size(frame)
    weights = mel_weights(size // 2 + 1, rate, mels, lowest, highest)
    bands = [np.square(np.abs(np.fft.rfft(each * window, size))).astype(np.float32) @ weights for each in frames]
    energies = np.stack(bands) if bands else np.zeros((0, frames.shape[1], mels), np.float32)
    return np.asarray(np.log(energies + np.float32(FLOOR)))


def mfcc(log_mels: np.ndarray, coefficients: int) -> np.ndarray:
    """Return the first cepstral coefficients of log-mel spectrograms (n, frames, mels), float32 (n, frames, ...).

    c_k = sqrt(2 / M) sum_m x_m cos(pi k (m + 1/2) / M) for M bands (The HTK Book 3.4, equation 5.14, with k from 0).
    """
    mels = log_mels.shape[-1]
    angles = np.pi / mels * np.outer(np.arange(mels) + 0.5, np.arange(coefficients))
    return np.asarray(log_mels @ (np.sqrt(2 / mels) * np.cos(angles)).astype(np.float32))


@lru_cache(maxsize=8)
def mel_weights(bins: int, rate: int, mels: int, lowest: float, highest: float) -> np.ndarray:
    """Return the weight of each FFT bin in each band, float32 (bins, mels): triangles of height 1.

    Their corners are equally spaced in mel(f) = 1127 ln(1 + f / 700) (The HTK Book 3.4, equation 5.13), in which their
    sides are straight. The bin of 0 Hz has no weight.
    """
    corners = np.linspace(_mel(lowest), _mel(highest), mels + 2)
    places = _mel(np.linspace(0, rate / 2, bins))[:, None]
    rising = (places - corners[:-2]) / np.diff(corners)[:-1]
    falling = (corners[2:] - places) / np.diff(corners)[1:]
    weights = np.clip(np.minimum(rising, falling), 0, None)
    weights[0] = 0
    return np.asarray(weights, np.float32)


def fft_size(frame: int) -> int:
    """Return the smallest power of two that holds a frame."""
    return 1 << (frame - 1).bit_length()


def _mel(frequency: float | np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(frequency) / 700.0)
