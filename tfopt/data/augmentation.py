"""Random augmentation of training images, seeded for repeatable runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes, drawn for every image in every epoch.

    Args:
        horizontal_flip: mirror each image left to right with probability 1/2.
        shift: the largest shift as a fraction in [0, 1) of height and width. Each image moves on both axes by whole
            pixels, drawn uniformly from -largest..largest; the border repeats the edge pixels, so no new values appear.

    Raises:
        DataError: `shift` is out of range.
    """

    horizontal_flip: bool = False
    shift: float = 0.0

    def __post_init__(self) -> None:
        """Raise `DataError` for a shift that would leave nothing of the image."""
        if not 0 <= self.shift < 1:
            raise DataError(f"Expected shift as a fraction from 0 up to (not including) 1, got {self.shift}.")

    def draw(self, count: int, input_shape: tuple[int, ...], seed: int | list[int]) -> np.ndarray:
        """Return the changes for `count` images: int32 (count, 3): mirrored (0 or 1), pixels down, pixels right.

        `input_shape` is (height, width, channels); the same `seed` gives the same draws.

        Raises:
            DataError: the inputs are not images.
        """
        if len(input_shape) != 3:
            raise DataError(
                f"Augmentation expects images (height, width, channels), got inputs of shape {input_shape}; "
                "leave augment out for this data."
            )
        rng = np.random.default_rng(seed)
        mirrored = rng.integers(0, 2, count) * self.horizontal_flip
        largest = [int(self.shift * side) for side in input_shape[:2]]
        moved = [rng.integers(-most, most + 1, count) for most in largest]
        return np.stack([mirrored, *moved], axis=1).astype(np.int32)

    def apply(self, images: Any, drawn: Any) -> Any:
        """Apply `drawn`, int32 (n, 3) from `draw`, to images float32 (n, height, width, channels) and return them."""
        if self.horizontal_flip:
            images = _flip(images, drawn[:, 0])
        return _shift(images, drawn[:, 1:]) if self.shift else images


def _flip(images: Any, mirrored: Any) -> Any:
    import tensorflow as tf

    return tf.where(mirrored[:, None, None, None] == 1, tf.reverse(images, axis=[2]), images)


def _shift(images: Any, moved: Any) -> Any:
    import tensorflow as tf

    for axis in (1, 2):
        side = images.shape[axis]
        # The source of each output row (or column), clipped to the edge.
        origin = tf.clip_by_value(tf.range(side)[None] - moved[:, axis - 1, None], 0, side - 1)
        images = tf.gather(images, origin, axis=axis, batch_dims=1)
    return images
