"""Inputs for scores, for the reconstruction and for the check of the smaller model."""

from typing import Any

import numpy as np

from tfopt.errors import DataError
from tfopt.graph.types import flatten, map_leaves
from tfopt.surgery.channels.rules import FREE_SIZE

SAMPLES_MADE = 4
"""Random inputs for a model of free batch size."""


def check_inputs(model: Any, inputs: Any) -> None:
    """Raise `DataError` if `inputs` are not arrays of samples for each input of `model`."""
    if hasattr(inputs, "element_spec"):
        raise DataError("Expected arrays of samples; got a tf.data.Dataset. Take a batch of it: next(iter(data)).")
    if isinstance(inputs, dict) and set(inputs) == set(model.input_names):
        inputs = [inputs[name] for name in model.input_names]
    arrays = [np.asarray(array) for array in flatten(inputs)]
    shapes = [tuple(tensor.shape)[1:] for tensor in model.inputs]
    fits = len(arrays) == len(shapes) and all(
        array.ndim == len(shape) + 1
        and len(array)
        and all(a in (None, b) for a, b in zip(shape, array.shape[1:], strict=True))
        for array, shape in zip(arrays, shapes, strict=True)
    )
    if not fits:
        raise DataError(
            f"Expected an array of samples for each input of '{model.name}', of the shapes {shapes}; got "
            f"{[array.shape for array in arrays]}."
        )


def rows_of(samples: Any, rows: slice) -> Any:
    """Return some samples of arrays for each input."""
    return map_leaves(lambda array: array[rows], samples)


def random_inputs(model: Any) -> Any:
    """Return a few inputs for a flat model: normal numbers, and small integers; None if it takes anything else."""
    if not all(tensor.dtype.is_floating or tensor.dtype.is_integer for tensor in model.inputs):
        return None
    rng, count = np.random.default_rng(0), model.inputs[0].shape[0] or SAMPLES_MADE
    arrays = []
    for tensor in model.inputs:
        shape = (count, *(size or FREE_SIZE for size in tensor.shape[1:]))
        drawn = rng.normal(size=shape) if tensor.dtype.is_floating else rng.integers(0, 2, shape)
        arrays.append(drawn.astype(tensor.dtype.as_numpy_dtype))
    return arrays[0] if len(arrays) == 1 else arrays
