"""Normalization of features and of regression targets."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ROWS_AT_ONCE = 2**14


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each column of `values` (n, width), float64; 1 for constant columns."""

    def mean_of(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        starts = range(0, len(values), ROWS_AT_ONCE)
        parts = (np.asarray(values[start : start + ROWS_AT_ONCE], np.float64) for start in starts)
        total: np.ndarray = sum(function(part).sum(axis=0) for part in parts) / len(values)
        return total

    mean = mean_of(lambda part: part)
    deviation = np.sqrt(mean_of(lambda part: np.square(part - mean)))
    return mean, np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)


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
        return cls(*moments(labels.reshape(len(labels), -1)))

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
