"""The grid of one kernel: its bits and its steps. NumPy only: the stages build on it."""

from dataclasses import dataclass

import numpy as np

from tfopt.stages.quantize import weight_ranges


@dataclass(frozen=True)
class Grid:
    """The numbers step * k, k an integer with |k| <= 2^(bits - 1) - 1.

    Attributes:
        bits: 2 to 8.
        steps: float32, positive, of the kernel's rank, broadcastable to its shape.
    """

    bits: int
    steps: np.ndarray

    def integers(self, kernel: np.ndarray) -> np.ndarray:
        """int8 of the shape of `kernel`: the k of the nearest numbers, halves to the even one, clipped."""
        return weight_ranges.on_grid(kernel, self.steps, self.bits)

    def values(self, kernel: np.ndarray) -> np.ndarray:
        """float32 of the shape of `kernel`: the nearest numbers."""
        return self.of(self.integers(kernel))

    def of(self, integers: np.ndarray) -> np.ndarray:
        """float32: step * k for each k in `integers`."""
        return np.asarray(self.steps * integers.astype(np.float32), np.float32)
