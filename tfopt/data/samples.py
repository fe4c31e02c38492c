"""Samples in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.data.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False)
class Split:
    """Samples in memory as they were read; scaled only on access.

    Args:
        inputs: (n, ...), in a compact dtype such as uint8.
        labels: int32 (n,) class numbers, or float32 (n, k) or (n, ...).
        preprocessing: the mapping from `inputs` to model inputs.
    """

    inputs: np.ndarray
    labels: np.ndarray
    preprocessing: Preprocessing

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs)

    def x(self, indices: Any = None) -> np.ndarray:
        """Return model inputs, float32 (n, ...): all samples, or those at `indices` (integers, a slice)."""
        return self.preprocessing.apply(self.inputs if indices is None else self.inputs[indices])

    def y(self, indices: Any = None) -> np.ndarray:
        """Return the labels of all samples, or of those at `indices`."""
        return self.labels if indices is None else self.labels[indices]

    def __repr__(self) -> str:
        """Return the number and the shape of the samples, not their values."""
        return f"Split({len(self):,} samples of {self.inputs.shape[1:]} {self.inputs.dtype})"

    def some(self, n: int) -> Split:
        """Return `n` of the samples (all, if fewer), evenly spaced."""
        chosen = self.spread(n)
        return Split(self.inputs[chosen], self.labels[chosen], self.preprocessing)

    def spread(self, n: int) -> np.ndarray:
        """Return indices of `n` samples (all, if fewer), evenly spaced: image folders come sorted by class."""
        return np.linspace(0, len(self), min(n, len(self)), endpoint=False).astype(np.int64)
