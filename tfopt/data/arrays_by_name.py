"""One array, or several by name: the inputs of models with several inputs, the labels of those with several outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfopt.errors import DataError

Arrays = np.ndarray | dict[str, np.ndarray]
"""All with the same number of samples."""


def refuse_masked(name: str, values: Any) -> None:
    """Raise `DataError` if an array has masked values, which would come back as numbers."""
    if isinstance(values, np.ma.MaskedArray) and (masked := int(np.ma.getmaskarray(values).sum())):
        raise DataError(
            f"Expected {name} without masked values, got {masked:,} in a masked array, whose mask no model sees; "
            "fill or remove them."
        )


def map_arrays(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Return what `function` makes of an array, or of each array in dicts with the same names, by name."""
    if not isinstance(first, dict):
        return function(first, *others)
    return {name: function(array, *(other[name] for other in others)) for name, array in first.items()}


def leaves(arrays: Any) -> list[Any]:
    """Return the arrays in a list, in the order of their names."""
    return list(arrays.values()) if isinstance(arrays, dict) else [arrays]


def in_order(arrays: Any, names: Sequence[str]) -> Any:
    """Return the arrays of a dict in the order of `names`, which are all of its names; an array alone unchanged."""
    return {name: arrays[name] for name in names} if isinstance(arrays, dict) else arrays


def names_of(arrays: Any, what: str) -> list[str]:
    """Return a description of each array for messages: `what`, with its name if it has one."""
    return [f"{what} {name!r}" for name in arrays] if isinstance(arrays, dict) else [what]


def count_samples(arrays: Any) -> int:
    """Return the number of samples, that of the first array."""
    return len(leaves(arrays)[0])


def rows(arrays: Any, indices: Any) -> Any:
    """Return the samples at `indices` (integers, a slice, or None for all)."""
    chosen = slice(None) if indices is None else indices
    return map_arrays(lambda array: array[chosen], arrays)


def weights_of(weights: Any, output: str) -> Any:
    """Return the weights of the samples for one output; an array serves all outputs."""
    return weights.get(output) if isinstance(weights, dict) else weights
