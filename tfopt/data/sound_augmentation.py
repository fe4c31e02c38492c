"""Random changes of recordings: shift and noise of the samples, masks on the spectrogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from typing_extensions import override

from tfopt.data.random_changes import RandomChanges
from tfopt.errors import DataError

MASKS = 2
"""Masks of each kind, as in the policies "LD" and "SM" of SpecAugment."""
# At full strength.
FULL_STRENGTH = {"shift": 0.2, "noise": 0.2, "time_mask": 0.2, "frequency_mask": 0.3}
_SEEDS = 2**24  # float32 holds all integers up to it


def _mask_columns(axis: str) -> tuple[str, ...]:
    return tuple(f"{axis}_{end}{number}" for number in range(MASKS) for end in ("start", "width"))


@dataclass(frozen=True, kw_only=True)
class SoundAugmentation(RandomChanges):
    """Random changes, drawn for every recording in every epoch.

    Args:
        shift: the largest move in time as a fraction in [0, 1) of the length; silence fills the gap.
        noise: the largest amplitude of white noise as a fraction in [0, 1] of the recording's, both as root mean
            square.
        time_mask: the largest part of the frames that each of two masks covers, in [0, 1).
        frequency_mask: the same of the bands. Masked values become the mean of the spectrogram (SpecAugment,
            Park et al. 2019, arXiv:1904.08779, section 2).

    Raises:
        DataError: a setting is out of range.

    Examples:
        >>> tfopt.inputs.SoundAugmentation(shift=0.1, noise=0.2).transformations
        {'shift': 0.1, 'noise': 0.2}
    """

    shift: float = 0.0
    noise: float = 0.0
    time_mask: float = 0.0
    frequency_mask: float = 0.0

    columns: ClassVar[tuple[str, ...]] = (
        "moved", "level", "noise_seed", *_mask_columns("time"), *_mask_columns("frequency"),
    )  # fmt: skip
    names: ClassVar[tuple[str, ...]] = tuple(FULL_STRENGTH)

    def __post_init__(self) -> None:
        """Raise `DataError` for a setting out of range."""
        for name in ("shift", "time_mask", "frequency_mask"):
            if not 0 <= getattr(self, name) < 1:
                raise DataError(
                    f"Expected {name} as a fraction from 0 up to (not including) 1, got {getattr(self, name)}."
                )
        if not 0 <= self.noise <= 1:
            raise DataError(f"Expected noise from 0 to 1, got {self.noise}.")

    @override
    @classmethod
    def of_strength(cls, strength: float) -> Self:
        return cls(**{name: value * strength for name, value in FULL_STRENGTH.items()})

    @override
    def with_only(self, **transformations: Any) -> SoundAugmentation:
        return SoundAugmentation(**transformations)

    @override
    def draw(self, count: int, input_shape: tuple[int, ...], seed: int | list[int]) -> np.ndarray:
        if len(input_shape) != 3:
            raise DataError(f"Expected spectrograms (frames, bands, 1) to augment, got inputs of shape {input_shape}.")
        rng = np.random.default_rng(seed)
        drawn = [
            rng.uniform(-self.shift, self.shift, count),
            rng.uniform(0, self.noise, count),
            rng.integers(0, _SEEDS, count),
        ]
        for most, size in ((self.time_mask, input_shape[0]), (self.frequency_mask, input_shape[1])):
            for _ in range(MASKS):
                width = rng.integers(0, int(most * size) + 1, count)
                drawn += [np.floor(rng.random(count) * (size - width + 1)), width]
        return np.stack(drawn, axis=1).astype(np.float32)

    @override
    def change_stored(self, values: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Return recordings `values`, int16 (n, samples), moved and with noise as `drawn`."""
        moved, level, seeds = drawn[:, :3].T
        samples = values.shape[1]
        places = np.arange(samples) - np.round(moved * samples).astype(np.int64)[:, None]
        inside = (places >= 0) & (places < samples)
        waves = np.where(inside, np.take_along_axis(values, places.clip(0, samples - 1), axis=1), 0).astype(np.float32)
        loudness = level * np.sqrt(np.mean(np.square(waves), axis=1))
        for wave, seed, size in zip(waves, seeds, loudness, strict=True):
            if size:
                wave += size * np.random.default_rng(int(seed)).standard_normal(samples, np.float32)
        return np.clip(np.round(waves), -32768, 32767).astype(np.int16)

    @override
    def apply(self, inputs: Any, drawn: Any) -> Any:
        """Return spectrograms `inputs`, float32 (n, frames, bands, 1), with the masks `drawn`."""
        import tensorflow as tf

        mean = tf.reduce_mean(inputs, [1, 2], keepdims=True)
        for axis, first in ((1, 3), (2, 3 + 2 * MASKS)):
            places = tf.range(inputs.shape[axis], dtype=tf.float32)[None]
            for column in range(first, first + 2 * MASKS, 2):
                start, width = drawn[:, column, None], drawn[:, column + 1, None]
                masked = (places >= start) & (places < start + width)
                shape = (-1, inputs.shape[1], 1, 1) if axis == 1 else (-1, 1, inputs.shape[2], 1)
                inputs = tf.where(tf.reshape(masked, shape), mean, inputs)
        return inputs
