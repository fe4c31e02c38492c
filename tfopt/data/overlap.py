"""Windows that overlap: a test part drawn from them at random would repeat what was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.data.parts import Parts
from tfopt.data.stored import rows_at
from tfopt.tasks import Forecasting, Reconstruction, Regression, Task

_PAIRS = 32
"""So many pairs of neighbors are compared."""
_TELLING = 8
"""So many of them must vary where they overlap: constant windows overlap in any case."""
_SHARE = 0.75
"""So large a share of the pairs that vary must agree: those at the border of two recordings do not."""


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

    Forecasts do, and so do windows with values as labels, of one output or more, of which each overlaps the one before.
    Of windows with classes, which may come sorted by class, and of reconstructions it only notes that they overlap.

    Args:
        parts: of the source.
        labels: of its training samples, by output if there are several.
        task: what they mean.
    """
    if not (missing := [name for name in ("test", "validation") if name not in parts.pairs]):
        return InOrder()
    inputs = parts.pairs["train"][0]
    shift = _smallest(map(overlap_shift, inputs.values() if isinstance(inputs, dict) else [inputs]))
    tasks, of_output = task.by_task(), task.by_output(labels)
    values = {name: each for name, each in tasks.items() if _has_values(each)}
    if any(isinstance(each, Forecasting) for each in values.values()) or (values and shift):
        gap = max(_gap(of_output[name], each, shift) for name, each in values.items())
        said = f"each window begins {shift:,} after the one before" if shift else "forecasts are taken in their order"
        return InOrder(gap, (f"{said}: the parts follow in time",))
    if shift is None:
        return InOrder()
    own = " and ".join(missing) + (" parts" if len(missing) > 1 else " part")
    return InOrder(
        notes=(
            "neighboring windows overlap, so those split off at random share values with training samples: to measure "
            f"on other recordings, give your own {own}",
        )
    )


def overlap_shift(inputs: Any) -> int | None:
    """Return by how many steps most windows (n, steps) or (n, steps, columns) follow the one before, if they overlap.

    None if they do not, or are no such windows.
    """
    if getattr(inputs, "ndim", 0) not in (2, 3) or inputs.dtype.kind not in "iuf":
        return None
    if len(inputs) <= _TELLING or inputs.shape[1] < 3:
        return None
    first, second = _neighbors(inputs)
    last = np.array([_last_change(window) for window in first])
    agree, telling = np.zeros((2, first.shape[1]), np.int64)
    for pair in np.flatnonzero(last):
        shifts = slice(1, last[pair] + 1)
        telling[shifts] += 1
        agree[shifts] += _at_change(first[pair], second[pair], last[pair])
    for shift in np.flatnonzero(agree >= _enough(telling)):
        varies = last >= shift
        if (_same(first, second, int(shift)) & varies).sum() >= _enough(varies.sum()):
            return int(shift)
    return None


def _has_values(task: Task) -> bool:
    return isinstance(task, Regression) and not isinstance(task, Reconstruction)  # whose targets are its inputs


def _smallest(shifts: Iterable[int | None]) -> int | None:
    return min((shift for shift in shifts if shift), default=None)


def _gap(labels: Any, task: Task, shift: int | None) -> int:
    """Return how many samples to leave out, so that no value is a target of two parts.

    Args:
        labels: (n,), (n, horizon) or (n, horizon, columns) of a forecast; a regression may have several values that are
            no series.
        task: of these.
        shift: of the windows; None if these do not overlap, as short ones, though the labels may.
    """
    horizon = labels.shape[1] if labels.ndim > 1 else 1
    if shift is None:
        shift = overlap_shift(labels) or (horizon - 1 if _follow(labels, horizon - 1) else horizon)
    elif not isinstance(task, Forecasting) and not _follow(labels, shift):
        return 0
    return math.ceil(horizon / shift) - 1


def _follow(labels: Any, shift: int) -> bool:
    """Return whether most labels (n, horizon, ...) that differ from those before continue them `shift` steps later."""
    if labels.ndim not in (2, 3) or not 0 < shift < labels.shape[1] or len(labels) < 2:
        return False
    first, second = _neighbors(labels)
    differ = ~_same(first, second, 0)
    return bool((_same(first, second, shift) & differ).sum() >= max(1, _SHARE * differ.sum()))


def _neighbors(samples: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return samples spread over all, (pairs, steps, ...), and those that follow them."""
    at = np.unique(np.linspace(0, len(samples) - 2, _PAIRS).astype(np.int64))
    first, second = (np.asarray(rows_at(samples, indices)) for indices in (at, at + 1))
    return first, second


def _same(first: np.ndarray, second: np.ndarray, shift: int) -> np.ndarray:
    """Return by pair whether the end of the first, from `shift` on, is the beginning of the second, bool (pairs,)."""
    begins = second[:, : second.shape[1] - shift]
    return np.asarray((first[:, shift:] == begins).reshape(len(first), -1).all(axis=1))


def _enough(telling: Any) -> Any:
    """Return how many of the pairs that vary must agree."""
    return np.maximum(_TELLING, _SHARE * telling)


def _last_change(window: np.ndarray) -> int:
    """Return the last step of `window` (steps, ...) after which the value is another one, 0 if there is none."""
    changes = np.flatnonzero((window[1:] != window[:-1]).reshape(len(window) - 1, -1).any(axis=1))
    return int(changes[-1]) if len(changes) else 0


def _at_change(before: np.ndarray, after: np.ndarray, last: int) -> np.ndarray:
    """Return for the shifts 1 to `last` whether `after` has the last change of `before`, bool (last,).

    A comparison at one place for each shift: comparing all that overlaps would take time in the square of the steps.
    """
    pairs = ((after[step : last + step] == before[last + step]).reshape(last, -1).all(axis=1) for step in (0, 1))
    return np.asarray(np.logical_and(*pairs)[::-1])
