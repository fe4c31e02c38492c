"""Adapt the student's inputs to the shape that its teacher expects."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfopt.errors import ModelError
from tfopt.teachers.sources import Shape

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2, as in Pillow and `tfopt.data`


@dataclass(frozen=True)
class Fit:
    """A conversion of inputs to the shape that a source expects."""

    size: tuple[int, int] | None = None
    shrinks: bool = False
    channels: int | None = None
    flat: int | None = None
    notes: tuple[str, ...] = ()

    def apply(self, x: Any) -> Any:
        """Return the images `x` in the colors, size and range that the teacher expects."""
        import tensorflow as tf

        if self.flat:
            return tf.reshape(x, (-1, self.flat))
        if self.channels == 1:
            x = tf.tensordot(x, tf.constant(_LUMA, x.dtype)[:, None], axes=1)
        if self.size:
            # Antialiasing has no effect when an image grows, and TensorFlow implements it only on the CPU.
            x = tf.image.resize(x, self.size, "bilinear", antialias=self.shrinks)
        return tf.repeat(x, 3, axis=-1) if self.channels == 3 else x


def way_between(given: Sequence[int | None], wanted: Shape | None, name: str) -> Fit:
    """Return the conversion from `given` to `wanted`, both without the batch axis. Raise ModelError if none exists."""
    if wanted is None or _agree(given, wanted):
        return Fit()
    if len(wanted) == 1 < len(given):
        return _flat(given, wanted[0], name)
    images = len(given) == len(wanted) == 3
    if not images or (given[2] != wanted[2] and (given[2], wanted[2]) not in ((1, 3), (3, 1), (given[2], None))):
        raise ModelError(
            f"The teacher '{name}' takes inputs of shape {tuple(wanted)}, the student is fed {tuple(given)}; images "
            "can be resized and converted between gray and RGB, but nothing else. Use a teacher for such inputs."
        )
    notes = []
    channels = wanted[2] if wanted[2] not in (None, given[2]) else None
    if channels:
        how = "repeats the one channel as RGB" if channels == 3 else "is fed the luma of RGB (ITU-R 601-2)"
        notes.append(f"teacher '{name}' {how}")
    height, width = (w or g for g, w in zip(given[:2], wanted[:2], strict=True))
    if _agree(given[:2], wanted[:2]):
        return Fit(channels=channels, notes=tuple(notes))
    if height is None or width is None:
        raise ModelError(f"The teacher '{name}' takes images of {wanted[:2]}, the student's are of unknown size.")
    shrinks = any(g is None or g > w for g, w in zip(given[:2], (height, width), strict=True))
    notes.append(f"teacher '{name}' sees {given[0]}x{given[1]} images resized to {height}x{width}, bilinear")
    return Fit((height, width), shrinks, channels, notes=tuple(notes))


def _flat(given: Sequence[int | None], wanted: int | None, name: str) -> Fit:
    """Return the conversion to rows of `wanted` numbers; raise ModelError if the inputs have others."""
    size = None if None in given else math.prod(each or 0 for each in given)
    if size != wanted:
        count = "an unknown number" if size is None else f"{size:,} numbers"
        raise ModelError(
            f"The teacher '{name}' takes inputs of shape {(wanted,)}, the student is fed {tuple(given)}, which is "
            f"{count}. Fit it on data.train.x().reshape(len(data.train), -1), or use a teacher for such inputs."
        )
    said = f"teacher '{name}' is fed inputs of shape {tuple(given)} as rows of {wanted} numbers, in their order"
    return Fit(flat=wanted, notes=(said,))


def _agree(given: Sequence[int | None], wanted: Sequence[int | None]) -> bool:
    return len(given) == len(wanted) and all(w in (None, g) for g, w in zip(given, wanted, strict=True))
