"""Outputs of a model for all samples of a split, with few inputs in memory at a time."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tfopt.data.arrays_by_name import leaves
from tfopt.data.samples import Split

AT_ONCE = 2**26
"""Bytes of model inputs that are in memory at a time."""


def outputs_for(predict: Callable[[Any], Any], split: Split) -> Any:
    """Return the outputs for all samples of `split`, as `predict` returns them: an array, or several in a list or dict.

    Args:
        predict: maps model inputs, as `Split.x` returns them, to outputs with as many samples.
        split: the samples.
    """
    bytes_per_sample = sum(4 * math.prod(shape) for shape in leaves(split.shapes))
    step = max(1, AT_ONCE // max(bytes_per_sample, 1))
    if step >= len(split):
        return predict(split.x())
    return joined([predict(split.x(slice(start, start + step))) for start in range(0, len(split), step)])


def joined(parts: list[Any]) -> Any:
    """Return outputs for several batches as those for one; all of one form, an array, or several in a list or dict."""
    first = parts[0]
    if isinstance(first, dict):
        return {name: joined([part[name] for part in parts]) for name in first}
    if isinstance(first, list | tuple):
        return [joined(list(each)) for each in zip(*parts, strict=True)]
    return np.concatenate([np.asarray(part) for part in parts])
