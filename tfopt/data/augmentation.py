"""Random augmentation of training images, seeded for repeatable runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from tfopt.data.random_changes import RandomChanges
from tfopt.errors import DataError

# What is drawn for an image: its row in the array of `Augmentation.draw`.
COLUMNS = (
    "mirrored", "down", "right", "angle", "size", "brightness", "contrast", "cut", "cut_down", "cut_right",
    "upside_down",
)  # fmt: skip

# The transformations, the columns that they read, and the values of these that change nothing.
TRANSFORMATIONS = {
    "horizontal_flip": {"mirrored": 0},
    "vertical_flip": {"upside_down": 0},
    "shift": {"down": 0, "right": 0},
    "rotation": {"angle": 0},
    "zoom": {"size": 1},
    "brightness": {"brightness": 0},
    "contrast": {"contrast": 1},
    "cutout": {"cut": 0},
}

# At full strength. At half of it they are what trainings of small image classifiers usually use.
FULL_STRENGTH: dict[str, Any] = {
    "shift": 0.2,
    "rotation": 30.0,
    "zoom": 0.3,
    "brightness": 0.4,
    "contrast": 0.6,
    "cutout": 0.5,
}


@dataclass(frozen=True, kw_only=True)
class Augmentation(RandomChanges):
    """Random changes, drawn for every image in every epoch. Values stay within the range of the image.

    Args:
        horizontal_flip: mirror each image left to right with probability 1/2.
        vertical_flip: mirror each image top to bottom with probability 1/2, for images without an up and down.
        shift: the largest shift as a fraction in [0, 1) of height and width. Each image moves on both axes by whole
            pixels, drawn uniformly from -largest..largest; the border repeats the edge pixels.
        rotation: the largest angle in degrees, 0 to 180, in either direction; the border repeats the edge pixels.
        zoom: the largest change of size as a fraction in [0, 1), larger or smaller.
        brightness: the largest change as a fraction in [0, 1] of the image's range of values.
        contrast: the largest change as a fraction in [0, 1] of the distance of each value from the image's mean.
        cutout: the side of a square at a random place that becomes the image's mean, as a fraction in [0, 1) of the
            shorter side (DeVries and Taylor 2017, arXiv:1708.04552).
        at_once: apply this many of the transformations to each image, drawn at random (RandAugment, Cubuk et al. 2019,
            arXiv:1909.13719); None applies all.

    Raises:
        DataError: a setting is out of range.

    Examples:
        >>> augmentation = tfopt.Augmentation(shift=0.1, rotation=15, cutout=0.25)
        >>> batches = data.batches("train", 32, shuffle=True, augment=augmentation)
    """

    horizontal_flip: bool = False
    vertical_flip: bool = False
    shift: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    cutout: float = 0.0
    at_once: int | None = None

    columns: ClassVar[tuple[str, ...]] = COLUMNS
    names: ClassVar[tuple[str, ...]] = tuple(TRANSFORMATIONS)

    def __post_init__(self) -> None:
        """Raise `DataError` for a setting that would leave nothing of the image."""
        for name in ("shift", "zoom", "cutout"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise DataError(f"Expected {name} as a fraction from 0 up to (not including) 1, got {value}.")
        for name, most in (("rotation", 180), ("brightness", 1), ("contrast", 1)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise DataError(f"Expected {name} from 0 to {most}, got {value}.")
        if self.at_once is not None and self.at_once < 1:
            raise DataError(f"Expected at_once as 1 or more transformations, got {self.at_once}.")

    @override
    @classmethod
    def of_strength(cls, strength: float) -> Augmentation:
        wanted = {name: value * strength for name, value in FULL_STRENGTH.items()}
        return cls(**{**wanted, "horizontal_flip": strength > 0})

    @override
    def with_only(self, **transformations: Any) -> Augmentation:
        return Augmentation(**transformations, at_once=self.at_once)

    @override
    def draw(self, count: int, input_shape: tuple[int, ...], seed: int | list[int]) -> np.ndarray:
        """Return the changes for `count` images, float32 (count, columns); see `COLUMNS`.

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
        height, width = input_shape[:2]
        drawn: dict[str, np.ndarray] = {"mirrored": rng.integers(0, 2, count) * self.horizontal_flip}
        for name, side in (("down", height), ("right", width)):
            most = round(self.shift * side)
            drawn[name] = rng.integers(-most, most + 1, count)
        drawn["angle"] = rng.uniform(-self.rotation, self.rotation, count)
        drawn["size"] = 1 + rng.uniform(-self.zoom, self.zoom, count)
        drawn["brightness"] = rng.uniform(-self.brightness, self.brightness, count)
        drawn["contrast"] = 1 + rng.uniform(-self.contrast, self.contrast, count)
        drawn["cut"] = np.full(count, round(self.cutout * min(height, width)))
        drawn["cut_down"], drawn["cut_right"] = rng.integers(0, height, count), rng.integers(0, width, count)
        drawn["upside_down"] = rng.integers(0, 2, count) * self.vertical_flip
        self._choose(drawn, rng)
        return np.stack([drawn[name] for name in COLUMNS], axis=1).astype(np.float32)

    def _choose(self, drawn: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        """Undo all but `at_once` of the transformations of each image."""
        used = list(self.transformations)
        if self.at_once is None or self.at_once >= len(used):
            return
        rank = rng.random((len(drawn["angle"]), len(used))).argsort(axis=1).argsort(axis=1)
        for position, name in enumerate(used):
            left_out = rank[:, position] >= self.at_once
            for column, same in TRANSFORMATIONS[name].items():
                drawn[column] = np.where(left_out, same, drawn[column])

    @override
    def apply(self, inputs: Any, drawn: Any) -> Any:
        """Return images `inputs`, float32 (n, height, width, channels), after the changes `drawn` by `draw`."""
        change = _by_name(drawn)
        images = self._moved(inputs, change, "bilinear")
        if self.brightness or self.contrast:
            images = _light(images, change["brightness"], change["contrast"])
        return _cut(images, change["cut"], change["cut_down"], change["cut_right"]) if self.cutout else images

    @override
    def apply_to_masks(self, masks: Any, drawn: Any) -> Any:
        """Return masks after the changes `drawn` by `draw`, moved as `apply` moves their images.

        Each pixel of the result is the nearest one of the mask, so that no class appears that was not there.
        Brightness, contrast and cutout leave masks as they are.

        Args:
            masks: class numbers (n, height, width), or one-hot (n, height, width, classes).
            drawn: float32 (n, columns).
        """
        import tensorflow as tf

        planes = masks if len(masks.shape) == 4 else masks[..., None]
        moved = self._moved(tf.cast(planes, tf.float32), _by_name(drawn), "nearest")
        return tf.cast(tf.reshape(moved, tf.shape(masks)), masks.dtype)

    def _moved(self, images: Any, change: dict[str, Any], interpolation: str) -> Any:
        if self.horizontal_flip:
            images = _flip(images, 2, change["mirrored"])
        if self.vertical_flip:
            images = _flip(images, 1, change["upside_down"])
        if self.rotation or self.zoom:
            images = _turn(images, change["angle"], change["size"], interpolation)
        return _shift(images, change["down"], change["right"]) if self.shift else images


def _by_name(drawn: Any) -> dict[str, Any]:
    return {name: drawn[:, position] for position, name in enumerate(COLUMNS)}


def _flip(images: Any, axis: int, mirrored: Any) -> Any:
    import tensorflow as tf

    return tf.where(mirrored[:, None, None, None] == 1, tf.reverse(images, axis=[axis]), images)


def _shift(images: Any, down: Any, right: Any) -> Any:
    import tensorflow as tf

    for axis, moved in ((1, down), (2, right)):
        side = images.shape[axis]
        # The source of each output row (or column), clipped to the edge.
        origin = tf.clip_by_value(tf.range(side)[None] - tf.cast(moved, tf.int32)[:, None], 0, side - 1)
        images = tf.gather(images, origin, axis=axis, batch_dims=1)
    return images


def _turn(images: Any, angle: Any, size: Any, interpolation: str) -> Any:
    """Rotate each image by `angle` degrees and scale it by `size`, around its center."""
    import keras
    import tensorflow as tf

    radians = angle * (np.pi / 180)
    across, along = tf.cos(radians) / size, tf.sin(radians) / size
    y, x = ((side - 1) / 2 for side in images.shape[1:3])
    zero = tf.zeros_like(size)
    # From an output pixel (x, y) to the place in the input: a0 x + a1 y + a2, a3 x + a4 y + a5.
    rows = [across, -along, x - across * x + along * y, along, across, y - along * x - across * y, zero, zero]
    return keras.ops.image.affine_transform(images, tf.stack(rows, axis=1), interpolation, "nearest")


def _light(images: Any, brightness: Any, contrast: Any) -> Any:
    import tensorflow as tf

    axes = [1, 2, 3]
    lowest, highest = (find(images, axes, keepdims=True) for find in (tf.reduce_min, tf.reduce_max))
    mean = tf.reduce_mean(images, axes, keepdims=True)
    brightness, contrast = brightness[:, None, None, None], contrast[:, None, None, None]
    changed = (images - mean) * contrast + mean + brightness * (highest - lowest)
    return tf.clip_by_value(changed, lowest, highest)


def _cut(images: Any, side: Any, down: Any, right: Any) -> Any:
    """Fill a square of `side` pixels around (down, right) with the mean of each channel of the image."""
    import tensorflow as tf

    def within(axis: int, center: Any) -> Any:
        start = (center - tf.floor(side / 2))[:, None]
        places = tf.range(images.shape[axis], dtype=tf.float32)[None]
        return (places >= start) & (places < start + side[:, None])

    inside = within(1, down)[:, :, None, None] & within(2, right)[:, None, :, None]
    return tf.where(inside, tf.reduce_mean(images, [1, 2], keepdims=True), images)
