"""Normalization of features and of regression targets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

ROWS_AT_ONCE = 2**14
ROUNDING = 8
"""A deviation of at most this many roundings of the mean is that of one value, computed in several ways."""
SPACINGS = 4
"""Values of which no two differ by more than this many spacings of float32 at their size are all the same."""


def are_constant(values: np.ndarray) -> np.ndarray:
    """Return whether each column of `values` (n, ...) is constant to the precision of float32, bool (...).

    A fraction of the size would be a poor limit: targets of 1e6 that vary by 1 have 16 different float32 values.
    """
    low, high = (np.asarray(find(axis=0), np.float64) for find in (values.min, values.max))
    largest = np.maximum(np.abs(low), np.abs(high))
    return np.asarray(high - low <= SPACINGS * np.spacing(largest.astype(np.float32)).astype(np.float64))


def moments(values: np.ndarray, source: np.dtype[Any] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return `mean_and_deviation`, where the deviation is 1 for a column that is constant but for rounding.

    It is the limit of rounding instead where that is larger, so that normalized values stay small.

    Args:
        values: (n, width).
        source: the type in which they came, whose precision says what rounding can do; None for that of `values`. That
            of float16 is so coarse that it would hide variation: it counts as float32.
    """
    mean, deviation = mean_and_deviation(values)
    source = values.dtype if source is None else source
    precision = min(np.finfo(source).eps, np.finfo(np.float32).eps) if source.kind == "f" else np.finfo(np.float64).eps
    limit = ROUNDING * float(precision) * np.abs(mean)
    return mean, np.where(deviation > limit, deviation, np.maximum(1.0, limit))


def mean_and_deviation(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each column of `values` (n, width), float64."""

    def mean_of(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        starts = range(0, len(values), ROWS_AT_ONCE)
        parts = (np.asarray(values[start : start + ROWS_AT_ONCE], np.float64) for start in starts)
        total: np.ndarray = sum(function(part).sum(axis=0) for part in parts) / len(values)
        return total

    mean = mean_of(lambda part: part)
    return mean, np.sqrt(mean_of(lambda part: np.square(part - mean)))


@dataclass(frozen=True)
class TargetScale:
    """Mean and standard deviation of regression targets: networks learn values near 0 of size 1 much faster.

    Attributes:
        mean, deviation: of each value, float64 (values,); a constant value has deviation 1.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> "TargetScale":
        """Return the scale of `labels`, (n,) or (n, values); measure it on training samples only."""
        flat = labels.reshape(len(labels), -1)
        mean, deviation = mean_and_deviation(flat)
        return cls(mean, np.where(are_constant(flat) | (deviation == 0), 1.0, deviation))

    def normalized(self, labels: np.ndarray) -> np.ndarray:
        """Return (labels - mean) / deviation in the shape of `labels`, float32."""
        flat: np.ndarray = (labels.reshape(len(labels), -1).astype(np.float64) - self.mean) / self.deviation
        return flat.reshape(labels.shape).astype(np.float32)

    def restored(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a linear layer, kernel (..., values) and bias (values,), that outputs values, not normalized ones."""
        return kernel * self.deviation, bias * self.deviation + self.mean

    def applied(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the inverse of `restored`: a linear layer that outputs normalized values."""
        return kernel / self.deviation, (bias - self.mean) / self.deviation
