"""The variables of a model, kept as they are while it is called."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_SEED = "seed_generator_state"  # in the path of a variable that a random layer of Keras 3 advances


@contextmanager
def unchanged(model: Any, *, seeds: bool = True) -> Iterator[None]:
    """Give the variables of a built model or layer of either Keras their values back after the block.

    Layers may assign variables whenever they are called, in inference too: counters, running means.

    Args:
        model: a model or layer.
        seeds: also those of random layers. Without, a second call draws other numbers.
    """
    before = [(variable, np.array(variable.numpy())) for variable in _variables(model, seeds)]
    try:
        yield
    finally:
        for variable, value in before:
            if not _same(value, variable.numpy()):
                variable.assign(value)


def _variables(model: Any, seeds: bool) -> list[Any]:
    found = [each for each in model.variables if hasattr(each, "assign")]  # skips lookup tables
    return [each for each in found if seeds or _SEED not in getattr(each, "path", "")]


def _same(one: np.ndarray, two: Any) -> bool:
    """Return whether two arrays of one shape and type have the same bytes: ten times faster than with NaN in mind."""
    if one.dtype.hasobject:
        return np.array_equal(one, two)
    first, second = (np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in (one, two))
    return np.array_equal(first, second)
