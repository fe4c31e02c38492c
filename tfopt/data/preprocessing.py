"""The mapping from file values to model inputs, as a value that is stored with every result."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from tfopt.errors import DataError

Color = Literal["rgb", "grayscale"]
NAMED = {"raw": (1.0, 0.0), "unit": (1 / 255, 0.0), "symmetric": (1 / 127.5, -1.0)}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Model inputs as `pixel * scale + offset` in float32, from images of `size` and `color`.

    Args:
        size: (height, width) that images are resized to, bilinear with antialiasing; None keeps their size.
        color: "rgb" or "grayscale" (ITU-R 601-2 luma); None keeps the channels.
        scale: factor on every value; finite and not 0.
        offset: added after the factor; finite.

    Raises:
        DataError: a field is out of these ranges.
    """

    size: tuple[int, int] | None = None
    color: Color | None = None
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        """Raise `DataError` for a field that no image can satisfy."""
        if self.size is not None:
            object.__setattr__(self, "size", _checked_size(self.size))
        if self.color not in (None, "rgb", "grayscale"):
            raise DataError(f'Expected color "rgb", "grayscale" or None, got {self.color!r}.')
        if not (math.isfinite(self.scale) and math.isfinite(self.offset)) or self.scale == 0:
            raise DataError(
                f"Expected a finite scale other than 0 and a finite offset, got {self.scale} and {self.offset}."
            )

    @classmethod
    def named(cls, name: str) -> Preprocessing:
        """Return a preprocessing for pixels 0..255: "raw" (unchanged), "unit" (x/255) or "symmetric" (x/127.5 - 1)."""
        if name not in NAMED:
            raise DataError(f"Expected a preprocessing named {', '.join(NAMED)}, got {name!r}.")
        scale, offset = NAMED[name]
        return cls(scale=scale, offset=offset)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return `values * scale + offset` in float32 as a new array; reading has already applied size and color."""
        fed = values.astype(np.float32)
        if self.scale != 1:
            fed *= np.float32(self.scale)
        if self.offset != 0:
            fed += np.float32(self.offset)
        return fed

    def describe(self) -> str:
        """Return a description such as "RGB images resized to 32x32, fed as float32 pixel/127.5 - 1"."""
        images = self.size is not None or self.color is not None
        color = {"rgb": "RGB ", "grayscale": "grayscale ", None: ""}[self.color]
        size = f" resized to {self.size[0]}x{self.size[1]}" if self.size else ""
        subject = f"{color}images{size}" if images else "inputs"
        return f"{subject}, fed as float32 {self._formula('pixel' if images else 'value')}"

    def _formula(self, unit: str) -> str:
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

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Return the inverse of `to_dict`; raise `DataError` for unknown keys."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise DataError(f"Expected the preprocessing keys {sorted(known)}, also got {unknown}.")
        return cls(**values)


def _checked_size(size: Any) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(sides) != 2 or not all(isinstance(side, (int, np.integer)) and side > 0 for side in sides):
        raise DataError(f"Expected size=(height, width) in whole pixels above 0, got {size!r}.")
    return int(sides[0]), int(sides[1])
