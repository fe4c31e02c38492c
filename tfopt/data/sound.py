"""Recordings as spectrograms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from typing_extensions import override

from tfopt.base.words import counted
from tfopt.data.check import check_bytes
from tfopt.data.front_end import FrontEnd
from tfopt.data.random_changes import RandomChanges
from tfopt.data.recordings import Header, clipped_note, headers, middle, notes_on, read_recordings, to_int16
from tfopt.data.sound_augmentation import SoundAugmentation
from tfopt.data.spectrogram import fft_size, log_mel, mel_weights, mfcc
from tfopt.errors import DataError

_HELD_WHOLE, _LONGEST = 0.99, 10.0  # share of the training recordings, and seconds, for the length that is chosen


@dataclass(frozen=True, kw_only=True)
class Sound(FrontEnd):
    """Recordings as log-mel spectrograms or MFCCs, float32 (n, frames, bands, 1).

    Raw recordings are paths of files (n,), or samples in -1..1 at `rate`, float (n, samples).

    Args:
        rate: samples per second; None takes the most frequent rate of the training recordings. Others are resampled.
        seconds: length of one input; None takes the shortest, up to 10 s, that holds 99 % of the training recordings.
            Of longer recordings the middle is taken, shorter ones get silence on both sides.
        features: "log-mel", the logarithm of the energy in each band, or "mfcc", its cepstral coefficients; see
            `tfopt.data.spectrogram`.
        frame: seconds in a frame.
        hop: seconds between frames.
        mels: the number of bands.
        lowest: the lower end of the first band in Hz.
        highest: the upper end of the last band in Hz; None: half of the rate.
        coefficients: of MFCCs.

    Raises:
        DataError: a field is out of range.

    Examples:
        >>> sound = tfopt.inputs.Sound(rate=8000, seconds=0.5, mels=24)
        >>> sound.describe()
        'recordings of 0.5 s at 8,000 Hz as float32 24 log-mel bands of frames of 32 ms every 16 ms'
        >>> sound.apply(np.zeros((2, 4000), np.int16)).shape
        (2, 30, 24, 1)
    """

    rate: int | None = None
    seconds: float | None = None
    features: Literal["log-mel", "mfcc"] = "log-mel"
    frame: float = 0.032
    hop: float = 0.016
    mels: int = 32
    lowest: float = 60.0
    highest: float | None = None
    coefficients: int = 13

    kind: ClassVar[str] = "sound"
    subject: ClassVar[str] = "recordings"
    augmentation: ClassVar[type[RandomChanges] | None] = SoundAugmentation

    def __post_init__(self) -> None:
        """Raise `DataError` for a field out of range."""
        for name in ("rate", "seconds", "frame", "hop", "mels", "coefficients"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 < value < np.inf):
                raise DataError(f"Expected {name} above 0, got {value!r}.")
        for name in ("mels", "coefficients"):
            if not float(getattr(self, name)).is_integer():
                raise DataError(f"Expected {name} as a whole number, got {getattr(self, name)!r}.")
        for name, least in (("frame", 2), ("hop", 1)):
            if self.rate and round(getattr(self, name) * self.rate) < least:
                raise DataError(
                    f"Expected a {name} of {counted(least, 'sample')} or more, at {self.rate:,} Hz at least "
                    f"{least / self.rate:.3g} s, got {getattr(self, name):g} s."
                )
        if self.features not in ("log-mel", "mfcc"):
            raise DataError(f'Expected features "log-mel" or "mfcc", got {self.features!r}.')
        if self.coefficients > self.mels:
            raise DataError(f"Expected at most {self.mels} coefficients of {self.mels} bands, got {self.coefficients}.")
        half = self.rate / 2 if self.rate else np.inf
        if not 0 <= self.lowest < (self.highest or half) <= half:
            raise DataError(
                f"Expected bands within 0 and {half:g} Hz, half of the rate, got {self.lowest:g} to "
                f"{self.highest or half:g} Hz."
            )
        if self.seconds and self.seconds < self.frame:
            raise DataError(f"Expected at least one frame of {self.frame} s, got recordings of {self.seconds} s.")

    @override
    def fitted(self, raw: np.ndarray) -> tuple[Sound, tuple[str, ...]]:
        """Return the front end with rate and length from training recordings `raw`, and a note."""
        if self.rate and self.seconds:
            return self, ()
        found = self._headers(raw)
        rate = self.rate or Counter(each.rate for each in found).most_common(1)[0][0]
        seconds = np.array([each.samples / each.rate for each in found])
        length = float(np.clip(np.quantile(seconds, _HELD_WHOLE, method="inverted_cdf"), self.frame, _LONGEST))
        length = self.seconds or np.ceil(length / self.hop) * self.hop
        note = (
            f"recordings of {length:.3g} s at {rate:,} Hz: {100 * np.mean(seconds <= length):.3g} % of the training "
            "recordings are not longer; shorter ones get silence on both sides"
        )
        return replace(self, rate=rate, seconds=round(float(length), 6)), (note,)

    @override
    def stored(self, raw: np.ndarray) -> np.ndarray:
        """Return recordings `raw` as int16 (n, samples)."""
        check_bytes(2 * len(raw) * self._samples, "the recordings")
        if _are_samples(raw):
            return to_int16(np.stack([middle(wave, self._samples) for wave in raw]))
        return read_recordings(raw, self._rate, self._samples)

    @override
    def notes(self, parts: Sequence[np.ndarray]) -> tuple[str, ...]:
        found = [self._headers(raw) for raw in parts]
        paths = [path for raw in parts for path in raw]
        joined = [header for of_part in found for header in of_part]
        return (*self._note_on_bands(), *notes_on(joined, self._rate, self._samples), *clipped_note(paths, joined))

    def _note_on_bands(self) -> tuple[str, ...]:
        """Return a note on bands that lie between two frequencies of the FFT, so that their energy is always 0."""
        frame = round(self.frame * self._rate)
        bins = fft_size(frame) // 2 + 1
        weights = mel_weights(bins, self._rate, self.mels, self.lowest, self.highest or self._rate / 2)
        if not (empty := int((~weights.any(axis=0)).sum())):
            return ()
        return (
            f"{empty:,} of {self.mels:,} bands are narrower than the {self._rate / 2 / (bins - 1):.3g} Hz between two "
            "frequencies of a frame and always empty: take fewer mels, or a longer frame",
        )

    @override
    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return features, float32 (n, frames, bands, 1), of recordings int16 (n, samples)."""
        rate = self._rate
        log_mels = log_mel(
            values.astype(np.float32) / 32768,
            rate=rate,
            frame=round(self.frame * rate),
            hop=round(self.hop * rate),
            mels=self.mels,
            lowest=self.lowest,
            highest=self.highest or rate / 2,
        )
        return (mfcc(log_mels, self.coefficients) if self.features == "mfcc" else log_mels)[..., None]

    @override
    def describe(self) -> str:
        bands = f"{self.coefficients} MFCCs" if self.features == "mfcc" else f"{self.mels} log-mel bands"
        return (
            f"recordings of {self.seconds:g} s at {self.rate:,} Hz as float32 {bands} of frames of "
            f"{1000 * self.frame:g} ms every {1000 * self.hop:g} ms"
        )

    def _headers(self, raw: np.ndarray) -> list[Header]:
        return [Header(self._rate, 1, raw.shape[1])] * len(raw) if _are_samples(raw) else headers(raw)

    @property
    def _rate(self) -> int:
        if not self.rate:
            raise DataError("Expected a Sound with a rate and seconds; `fitted` takes them from training recordings.")
        return self.rate

    @property
    def _samples(self) -> int:
        return round((self.seconds or 0) * self._rate)


def _are_samples(raw: np.ndarray) -> bool:
    """Return whether raw recordings are samples rather than paths."""
    if raw.ndim == 2 and raw.dtype.kind == "f":
        if np.isfinite(raw).all() and np.abs(raw).max(initial=0) <= 1:
            return True
        raise DataError("Expected samples of recordings as floats in -1..1, got larger ones or NaN; scale them.")
    if not all(isinstance(path, str | Path) for path in raw):
        raise DataError(f"Expected recordings as paths (n,) or floats (n, samples), got {raw.dtype} {raw.shape}.")
    return False
