"""Recognize inputs that were bytes, such as pixels, and give the range whose 256 steps hold each byte exactly."""

import math

import numpy as np

Range = tuple[float, float]
# Ranges of the bytes 0 to 255: as they are, divided by 255, and between -1 and 1. There no byte is 0, so that the grid,
# which must hold 0, is off by half a step.
_RAW, _UNIT, _SYMMETRIC = (0.0, 255.0), (0.0, 1.0), (-1.0, 1.0)
_TOLERANCE = 1e-3
"""Of the recognition, in steps; float32 has 24 bits."""
_NEARLY = 0.9
"""Share of its range that an image must fill whose values lie between the steps, such as a resized one."""
_IMAGE_AXES, _COLORS = 4, (1, 3, 4)


class ByteValues:
    """The values of an input, batch by batch."""

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf
        self._is_image = True
        self._on_steps = dict.fromkeys((_RAW, _UNIT, _SYMMETRIC), True)

    def see(self, values: np.ndarray) -> None:
        """Take a batch (samples, ...) into account."""
        if not values.size:
            return
        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))
        self._is_image = self._is_image and values.ndim == _IMAGE_AXES and values.shape[-1] in _COLORS
        for form, fits in self._on_steps.items():
            self._on_steps[form] = fits and _is_on_steps(values, form)

    @property
    def range(self) -> Range | None:
        """(low, high) of the bytes 0 and 255; None if the values are no bytes."""
        low, high = self._low, self._high
        form = _SYMMETRIC if low < 0 else _UNIT if high <= 1 else _RAW
        if not form[0] <= low <= high <= form[1] or (form == _SYMMETRIC and not self._is_image):
            return None
        fills = high >= _NEARLY * form[1] and (form != _SYMMETRIC or low <= -_NEARLY)
        return form if self._on_steps[form] or (self._is_image and fills) else None


def _is_on_steps(values: np.ndarray, form: Range) -> bool:
    steps = (values.astype(np.float64) - form[0]) * (255 / (form[1] - form[0]))
    return bool(np.all(np.abs(steps - np.rint(steps)) < _TOLERANCE))
