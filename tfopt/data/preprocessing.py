"""The mapping from file values to model inputs, as a value that is stored with every result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from typing_extensions import override

from tfopt.data.augmentation import Augmentation
from tfopt.data.front_end import FrontEnd, ReadFile, checked_keys
from tfopt.data.random_changes import RandomChanges
from tfopt.errors import DataError

Color = Literal["rgb", "grayscale"]
Order = Literal["rgb", "bgr"]
Factor = float | tuple[float, ...]

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in 0..1, red, green, blue
NAMED: dict[str, dict[str, Any]] = {
    "raw": {"scale": 1.0, "offset": 0.0},
    "unit": {"scale": 1 / 255, "offset": 0.0},
    "symmetric": {"scale": 1 / 127.5, "offset": -1.0},
    "caffe": {"scale": 1.0, "offset": (-103.939, -116.779, -123.68), "order": "bgr"},
    "torch": {
        "scale": tuple(1 / (255 * deviation) for deviation in _DEVIATION),
        "offset": tuple(-mean / deviation for mean, deviation in zip(_MEAN, _DEVIATION, strict=True)),
    },
}
"""The ways of feeding pixels that have a name. The last three are the modes "tf", "caffe" and "torch" of Keras."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing(FrontEnd):
    """Model inputs as `pixel * scale + offset` in float32, from images of `size`, `color` and channel `order`.

    Args:
        size: (height, width) that images are resized to, bilinear with antialiasing; None keeps their size.
        color: "rgb" or "grayscale" (ITU-R 601-2 luma); None keeps the channels.
        scale: factor on every value, or one for each channel in the order fed; finite and not 0.
        offset: added after the factor, likewise; finite.
        order: of the colors fed, "rgb" or "bgr"; images are read as RGB.

    Raises:
        DataError: a field is out of these ranges.

    Examples:
        >>> symmetric = tfopt.Preprocessing.named("symmetric")
        >>> symmetric.describe()
        'inputs, fed as float32 value/127.5 - 1'
        >>> small = tfopt.Preprocessing(size=(96, 96), color="rgb", scale=1 / 255)
    """

    size: tuple[int, int] | None = None
    color: Color | None = None
    scale: Factor = 1.0
    offset: Factor = 0.0
    order: Order = "rgb"

    kind: ClassVar[str] = "image"
    subject: ClassVar[str] = "images"
    augmentation: ClassVar[type[RandomChanges] | None] = Augmentation
    in_graph: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise `DataError` for a field that no image can satisfy."""
        if self.size is not None:
            object.__setattr__(self, "size", _checked_size(self.size))
        if self.color not in (None, "rgb", "grayscale"):
            raise DataError(f'Expected color "rgb", "grayscale" or None, got {self.color!r}.')
        if self.order not in ("rgb", "bgr"):
            raise DataError(f'Expected order "rgb" or "bgr", got {self.order!r}.')
        if not all(math.isfinite(value) for value in (*_each(self.scale), *_each(self.offset))) or 0 in _each(
            self.scale
        ):
            raise DataError(
                f"Expected a finite scale other than 0 and a finite offset, got {self.scale} and {self.offset}."
            )
        if len({len(values) for values in (self.scale, self.offset) if isinstance(values, tuple)}) > 1:
            raise DataError(f"Expected as many scales as offsets, got {self.scale} and {self.offset}.")

    @classmethod
    def named(cls, name: str) -> Preprocessing:
        """Return a preprocessing for pixels 0..255.

        Args:
            name: "raw" leaves them unchanged, "unit" is x/255, "symmetric" x/127.5 - 1; "caffe" has BGR order and
                subtracts the mean of ImageNet, "torch" is (x/255 - mean) / deviation of ImageNet.

        Raises:
            DataError: another name.
        """
        if name not in NAMED:
            raise DataError(f"Expected a preprocessing named {', '.join(NAMED)}, got {name!r}.")
        return cls(**NAMED[name])

    @classmethod
    def of(cls, given: str | FrontEnd | None) -> Preprocessing:
        """Return a preprocessing that is given, or the one of that name.

        Args:
            given: a preprocessing, or a name as for `named`; None stands for "raw".

        Raises:
            DataError: another name, or a front end of other samples than images.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, FrontEnd):
            raise DataError(
                f"Expected a Preprocessing for images and numbers, got a {type(given).__name__}, which is "
                f"for {given.subject}."
            )
        return cls.named(given or "raw")

    @property
    def per_channel(self) -> bool:
        """Whether it treats the channels of RGB images differently."""
        return self.order != "rgb" or isinstance(self.scale, tuple) or isinstance(self.offset, tuple)

    def rescaled(self, name: str) -> Preprocessing:
        """Return the preprocessing called `name`, with the size and color of this one."""
        return replace(self.named(name), size=self.size, color=self.color)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return `values * scale + offset` in float32 as a new array; reading has already applied size and color."""
        result = values.astype(np.float32)
        if self.per_channel:
            self._check_channels(result.shape)
        if self.order == "bgr":
            result = np.ascontiguousarray(result[..., ::-1])
        if self.scale != 1:
            result *= np.asarray(self.scale, np.float32)
        if self.offset != 0:
            result += np.asarray(self.offset, np.float32)
        return result

    @override
    def apply_in_graph(self, values: Any) -> Any:
        import tensorflow as tf

        result = tf.cast(values, tf.float32)
        if self.per_channel:
            self._check_channels(tuple(result.shape))
        if self.order == "bgr":
            result = tf.reverse(result, [-1])
        if self.scale != 1:
            result *= np.asarray(self.scale, np.float32)
        if self.offset != 0:
            result += np.asarray(self.offset, np.float32)
        return result

    def _check_channels(self, shape: tuple[int, ...]) -> None:
        wanted = max(len(_each(self.scale)), len(_each(self.offset)), 3 if self.order == "bgr" else 1)
        if len(shape) < 2 or shape[-1] != wanted:
            raise DataError(
                f"Expected inputs of {wanted} channels for a preprocessing of each channel, got shape {shape}; pass "
                'color="rgb", or another preprocessing.'
            )

    def describe(self) -> str:
        """Return a description such as "RGB images resized to 32x32, fed as float32 pixel/127.5 - 1"."""
        images = self.size is not None or self.color is not None
        color = {"rgb": "RGB ", "grayscale": "grayscale ", None: ""}[self.color]
        size = f" resized to {self.size[0]}x{self.size[1]}" if self.size else ""
        subject = f"{color}images{size}" if images else "inputs"
        return f"{subject}, fed as float32 {self._formula('pixel' if images else 'value')}"

    def _formula(self, unit: str) -> str:
        if self.per_channel:
            order = ", blue first" if self.order == "bgr" else ""
            scale, offset = (", ".join(f"{value:.6g}" for value in _each(part)) for part in (self.scale, self.offset))
            return f"{unit} * ({scale}) + ({offset}){order}"
        assert isinstance(self.scale, int | float) and isinstance(self.offset, int | float)
        factor = "" if self.scale == 1 else f" * {self.scale:g}"
        divisor = f"{1 / self.scale:.6g}"
        if factor and math.isclose(float(divisor), 1 / self.scale, rel_tol=1e-9):
            factor = f"/{divisor}"
        if not factor and not self.offset:
            return f"{unit}s as they are"
        sign = "-" if self.offset < 0 else "+"
        return f"{unit}{factor}" + (f" {sign} {abs(self.offset):g}" if self.offset else "")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `from_dict` reads them back."""
        return {**asdict(self), "size": list(self.size) if self.size else None}

    @override
    @classmethod
    def from_dict(cls, values: Mapping[str, Any], read: ReadFile | None = None) -> Self:
        """Return the preprocessing whose `values` `to_dict` wrote; raise `DataError` for unknown keys."""
        return cls(**checked_keys(cls, values))


def _each(factor: Factor) -> tuple[float, ...]:
    return factor if isinstance(factor, tuple) else (factor,)


def _checked_size(size: Any) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(sides) != 2 or not all(isinstance(side, (int, np.integer)) and side > 0 for side in sides):
        raise DataError(f"Expected size=(height, width) in whole pixels above 0, got {size!r}.")
    return int(sides[0]), int(sides[1])
