"""Check that float32, in which models compute, can tell wider numbers apart."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfopt.errors import DataError

MOST_NOISE = 1e-3
"""Rounding errors of a larger deviation, as a share of that of the values, are a loss of information."""
FEWEST_VALUES = 8
"""Fewer values say too little about how far values lie apart."""
_CONSTANT = 64
"""Values whose deviation is at most this many spacings of float64 are one value computed in several ways."""
_AT_ONCE = 2**20  # numbers
_LARGEST_EXACT = 2  # bytes: smaller integers and floats are exact in float32


def check_float32(what: str, arrays: Sequence[Any]) -> None:
    """Raise `DataError` if float32 loses too much of numbers, as of 1.7e9 + 1, 2, 3, which become one number.

    It does if the rounding errors of a column have more than `MOST_NOISE` of the standard deviation of its values. An
    error that all values share, as in a column that is constant, loses nothing.

    Args:
        what: the numbers in messages, e.g. "labels".
        arrays: of finite numbers, (n,), (n, columns) or (n, ..., columns), in memory or stored in a file; a column may
            be spread over several.
    """
    kept = [array for array in arrays if array.dtype.kind in "iuf" and _is_wide(array.dtype) and 0 not in array.shape]
    if not kept:
        return
    first = _columns(kept[0][:1])[0].astype(np.float64)
    moments, count = np.zeros((4, len(first))), 0
    with np.errstate(over="ignore", invalid="ignore"):
        for values in _chunks(kept):
            error, shifted = values - values.astype(np.float32), values - first
            moments += [each.sum(axis=0) for each in (shifted, np.square(shifted), error, np.square(error))]
            count += len(values)
        mean, square, error_mean, error_square = moments / count
        deviation = np.sqrt(np.maximum(square - np.square(mean), 0))
        noise = np.sqrt(np.maximum(error_square - np.square(error_mean), 0))
        varied = deviation > _CONSTANT * np.spacing(np.abs(first + mean))
        lost = varied & ~(noise <= MOST_NOISE * deviation)
    if count >= FEWEST_VALUES and lost.any():
        column = int(lost.argmax())
        raise _error(what if len(first) == 1 else f"column {column} of {what}", kept, column, float(deviation[column]))


def _error(what: str, arrays: Sequence[Any], column: int, deviation: float) -> DataError:
    values = np.concatenate([chunk[:, column].copy() for chunk in _chunks(arrays)])
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    return DataError(
        f"Expected {what} that float32, in which models compute, can tell apart, got values from {values.min():.10g} "
        f"to {values.max():.10g} with a standard deviation of {deviation:.3g}: rounding changes them by up to "
        f"{np.abs(values - narrow).max():.3g}, and {len(np.unique(narrow)):,} of {len(np.unique(values)):,} different "
        "values are left. Subtract an offset, such as the mean, before you load them; give dates as differences."
    )


def _is_wide(dtype: np.dtype[Any]) -> bool:
    return dtype.itemsize > (4 if dtype.kind == "f" else _LARGEST_EXACT)


def _columns(values: np.ndarray) -> np.ndarray:
    """Return (n, ..., columns) as (n', columns), and (n,) as (n, 1)."""
    return values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values[:, None]


def _chunks(arrays: Sequence[Any]) -> Iterator[np.ndarray]:
    """Yield the values of all arrays as float64 (n, columns), some at a time."""
    for array in arrays:
        step = max(1, _AT_ONCE // math.prod(array.shape[1:]))
        for start in range(0, len(array), step):
            yield _columns(np.asarray(array[start : start + step])).astype(np.float64, copy=False)
