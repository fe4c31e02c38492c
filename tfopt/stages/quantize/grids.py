"""The grids of a model's kernels; TFLite's operators determine which weights share a step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.errors import RecipeError
from tfopt.stages.kernels.rules import Key
from tfopt.stages.kernels.table import Kernel, kernels_by_key
from tfopt.stages.quantize import weight_ranges
from tfopt.stages.quantize.plan import scales_of


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
        """Return the integers k nearest to `kernel`, clipped; int8, of the same shape. Ties go to the even integer."""
        return weight_ranges.on_grid(kernel, self.steps, self.bits)

    def values(self, kernel: np.ndarray) -> np.ndarray:
        """Return the grid values nearest to `kernel`; float32, of the same shape."""
        return self.of(self.integers(kernel))

    def of(self, integers: np.ndarray) -> np.ndarray:
        """Return step * k for each k in `integers`; float32."""
        return np.asarray(self.steps * integers.astype(np.float32), np.float32)


def grid_of(kernel: Kernel, bits: int, method: str = "mse") -> Grid:
    """Return a grid for `kernel` with separate steps where TFLite's operator has them.

    Raises:
        RecipeError: as in `weight_ranges.steps`.
        ModelError: as in `weight_ranges.steps`.
    """
    scales, values = scales_of(kernel), kernel.values
    found = weight_ranges.steps(values.reshape(scales.view or values.shape), bits, scales.axes, method)
    if scales.view:
        found = np.broadcast_to(found, scales.view).reshape(values.shape)
    return Grid(bits, found)


def grids_of(model: Any, bits: Mapping[Key, int], method: str = "mse") -> dict[Key, Grid]:
    """Return a grid for each kernel in `bits`, in the order of the model's layers.

    Raises:
        RecipeError: as in `kernels_of` and `grid_of`.
        ModelError: as in `grid_of`.
    """
    found = kernels_of(model, bits)
    return {key: grid_of(kernel, bits[key], method) for key, kernel in found.items()}


def kernels_of(model: Any, keys: Mapping[Key, Any]) -> dict[Key, Kernel]:
    """Return the kernels `keys` of a flat tf_keras model, in the order of its layers.

    Raises:
        RecipeError: the model has no kernel with one of these names.
    """
    known = kernels_by_key(model.layers)
    if missing := [key for key in keys if key not in known]:
        names = ", ".join(map("/".join, known)) or "none"
        raise RecipeError(f"The model has no kernel {'/'.join(missing[0])!r}. Its kernels: {names}.")
    return {key: kernel for key, kernel in known.items() if key in keys}
