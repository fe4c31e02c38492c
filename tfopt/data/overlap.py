"""Windows that overlap: a test part drawn from them at random would repeat what was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.data.parts import Parts
from tfopt.data.stored import rows_at
from tfopt.tasks import Forecasting, Regression, Task

_PAIRS = 32
"""So many pairs of neighbors are compared."""
_TELLING = 8
"""So many of them must vary where they overlap: constant windows overlap in any case."""


@dataclass(frozen=True)
class InOrder:
    """How the order of samples matters for a split.

    Attributes:
        gap: how many samples to leave out before a part that is split off; None if it may be drawn at random.
        notes: on that.
    """

    gap: int | None = None
    notes: tuple[str, ...] = ()


def in_order(parts: Parts, labels: Any, task: Task) -> InOrder:
    """Return whether the training samples of `parts` follow in time, so that parts split off must follow, too.

    Forecasts do, and so do windows with values as labels of which each overlaps the one before. Of windows with
    classes, which may come sorted by class, it only notes that they overlap.

    Args:
        parts: of the source.
        labels: of its training samples.
        task: what they mean.
    """
    if "test" in parts.pairs and "validation" in parts.pairs:
        return InOrder()
    shift = overlap_shift(parts.pairs["train"][0])
    if isinstance(task, Forecasting | Regression):
        if shift is None and not isinstance(task, Forecasting):
            return InOrder()
        horizon = labels.shape[1] if labels.ndim > 1 else 1
        gap = math.ceil(horizon / shift) - 1 if shift else 0
        said = f"each window begins {shift:,} after the one before" if shift else "forecasts are taken in their order"
        return InOrder(gap, (f"{said}: the parts follow in time",))
    if shift is None or not task.has_classes:
        return InOrder()
    return InOrder(
        notes=(
            "neighboring windows overlap, so those split off at random share values with training samples: to measure "
            "on other recordings, give your own test part",
        )
    )


def overlap_shift(inputs: Any) -> int | None:
    """Return by how many steps each window (n, steps) or (n, steps, columns) follows the one before, if they overlap.

    None if they do not, or are no such windows.
    """
    if getattr(inputs, "ndim", 0) not in (2, 3) or inputs.dtype.kind not in "iuf" or len(inputs) <= _TELLING:
        return None
    at = np.unique(np.linspace(0, len(inputs) - 2, _PAIRS).astype(np.int64))
    first, second = (np.asarray(rows_at(inputs, indices)) for indices in (at, at + 1))
    for shift in range(1, inputs.shape[1] - 1):
        ends, begins = first[:, shift:], second[:, :-shift]
        telling = (ends != ends[:, :1]).reshape(len(at), -1).any(axis=1)
        if telling.sum() >= _TELLING and np.array_equal(ends, begins):
            return shift
    return None
