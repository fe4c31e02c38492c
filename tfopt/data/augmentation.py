"""Random changes of training images, seeded so that a run can be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tfopt.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Changes drawn anew for every image and every epoch.

    Args:
        horizontal_flip: mirror each image left to right with probability 1/2.
        shift: largest shift as a fraction (0 up to, not including, 1) of height and of width; each image
            moves by whole pixels drawn evenly from -largest..largest on both axes, and the border repeats the
            edge pixels, so that no value appears that the image did not have.

    Raises:
        DataError: `shift` out of range.
    """

    horizontal_flip: bool = False
    shift: float = 0.0

    def __post_init__(self) -> None:
        """Raise `DataError` for a shift that would leave nothing of the image."""
        if not 0 <= self.shift < 1:
            raise DataError(f"Expected shift as a fraction from 0 up to (not including) 1, got {self.shift}.")

    def apply(self, images: Any, seed: Any) -> Any:
        """Augment a batch: float32 (n, height, width, channels) in, the same out.

        `seed` is an integer tensor or array (2,); the same seed makes the same choices. Raises `DataError`
        for inputs that are not rank 4.
        """
        if images.shape.rank != 4:
            raise DataError(
                f"Augmentation expects images (n, height, width, channels), got inputs of shape "
                f"{images.shape}; leave augment out for this data."
            )
        if self.horizontal_flip:
            images = _flip(images, seed)
        return _shift(images, self.shift, seed) if self.shift else images


def _flip(images: Any, seed: Any) -> Any:
    import tensorflow as tf

    coin = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], tf.random.fold_in(seed, 0))
    return tf.where(coin < 0.5, tf.reverse(images, axis=[2]), images)


def _shift(images: Any, fraction: float, seed: Any) -> Any:
    import tensorflow as tf

    count = tf.shape(images)[0]
    for axis in (1, 2):
        side = images.shape[axis]
        largest = int(fraction * side)
        moved = tf.random.stateless_uniform(
            [count, 1], tf.random.fold_in(seed, axis), minval=-largest, maxval=largest + 1, dtype=tf.int32
        )
        # Where each output row (or column) comes from; beyond the border that is the edge itself.
        origin = tf.clip_by_value(tf.range(side)[None] - moved, 0, side - 1)
        images = tf.gather(images, origin, axis=axis, batch_dims=1)
    return images
