"""Weights of samples in the training loss."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfopt.data.arrays_by_name import Arrays, count_samples, leaves
from tfopt.errors import DataError


def checked_weights(
    weights: Mapping[str, Arrays], labels: Mapping[str, Arrays]
) -> tuple[dict[str, Arrays], tuple[str, ...]]:
    """Return weights by part as float32 (n,), or by output with 1 for outputs without, and a note on them.

    Args:
        weights: by part; parts may be missing.
        labels: by part.

    Raises:
        DataError: weights are not one finite number of at least 0 for each sample, are all 0, or name other outputs.
    """
    found = {part: _of_part(part, each, labels[part]) for part, each in weights.items()}
    if not found:
        return {}, ()
    smallest, largest = (
        choose(float(choose(each)) for arrays in found.values() for each in leaves(arrays)) for choose in (min, max)
    )
    note = f"sample weights of {smallest:.4g} to {largest:.4g} count in the training loss, not in metrics"
    return found, (note,)


def _of_part(part: str, weights: Arrays, labels: Arrays) -> Arrays:
    count = count_samples(labels)
    if not isinstance(weights, dict):
        return _checked(f"{part} weights", weights, count)
    outputs = list(labels) if isinstance(labels, dict) else []
    if strangers := [name for name in weights if name not in outputs]:
        raise DataError(
            f"Expected {part} weights for the outputs {', '.join(outputs) or 'of one array'}, got some for "
            f"{strangers[0]!r}; name them as the labels."
        )
    ones = np.ones(count, np.float32)
    return {
        name: _checked(f"{part} weights of {name!r}", weights[name], count) if name in weights else ones
        for name in outputs
    }


def _checked(name: str, weights: Any, count: int) -> np.ndarray:
    values = np.asarray(weights)
    values = values[:, 0] if values.shape[1:] == (1,) else values
    if values.dtype.kind not in "biuf" or values.shape != (count,):
        raise DataError(
            f"Expected {name} as one number for each of {count:,} samples, got {values.dtype} of shape {values.shape}."
        )
    values = values.astype(np.float32)
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any() or not values.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"Expected finite {name} of at least 0, not all 0, got {values[row]:g} for sample {row:,}; correct them."
        )
    return values
