"""Convert inputs and outputs between real numbers and the values that a .tflite stores."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfopt.errors import DataError
from tfopt.tflite.read.parts import Port, Tensor


def quantized(array: NDArray[Any], port: Port) -> NDArray[Any]:
    """Return real values as the input stores them: clamp(round(x / scale) + zero_point).

    Raises:
        DataError: the input cannot store a value: NaN, infinity, or a fraction in an integer input.
    """
    dtype: np.dtype[Any] = np.dtype(port.dtype)
    if not np.issubdtype(dtype, np.integer):
        return array.astype(dtype)
    if not np.isfinite(array).all():
        raise DataError(f"The input {port.name!r} stores integers; got NaN or infinity.")
    if port.scales:
        limits = np.iinfo(dtype)
        steps = np.rint(array.astype(np.float32) / np.float32(port.scales[0])) + port.zero_points[0]
        return np.asarray(np.clip(steps, limits.min, limits.max)).astype(dtype)
    stored = array.astype(dtype)
    if not np.array_equal(stored, array):
        raise DataError(f"The input {port.name!r} takes {dtype} numbers; got values that {dtype} cannot hold.")
    return stored


def dequantized(array: NDArray[Any], port: Port | Tensor) -> NDArray[Any]:
    """Return a tensor in real units: scale * (stored - zero_point) in float32; unchanged if it is not quantized."""
    if not port.scales:
        return array
    return (array.astype(np.float32) - np.float32(port.zero_points[0])) * np.float32(port.scales[0])


def nothing(port: Port) -> NDArray[Any]:
    """Return the result of `dequantized` for zero samples."""
    return dequantized(np.zeros((0, *(axis or 0 for axis in port.shape[1:])), port.dtype), port)


def noise(rng: np.random.Generator, port: Port) -> NDArray[Any]:
    """Return one random sample in real units; zeros for plain integers, which are often table indices."""
    shape = (1, *(axis or 1 for axis in port.shape[1:]))
    dtype: np.dtype[Any] = np.dtype(port.dtype)
    if not np.issubdtype(dtype, np.integer):
        return rng.standard_normal(shape).astype(dtype)
    if not port.scales:
        return np.zeros(shape, dtype)
    limits = np.iinfo(dtype)
    return dequantized(rng.integers(limits.min, limits.max, shape, endpoint=True), port)
