"""The form of a model's outputs, judged by their values, and the logits behind them."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tfopt.tasks.several import Several
from tfopt.tasks.task import Task

Form = Literal["logits", "softmax", "sigmoid", "values"]
"""Probabilities are "softmax" if those of a sample sum to 1, "sigmoid" if they are independent."""
# Smaller probabilities are indistinguishable from 0: float32 keeps 38 digits, and its logarithm must stay finite.
FLOOR = 1e-30


@dataclass(frozen=True)
class Tolerance:
    """Tolerances of probabilities: on their sum (1) and on the interval [0, 1]."""

    sums: float
    bounds: float = 0.0


# For the rounding of float32.
FLOAT32 = Tolerance(sums=1e-3 + 1e-5)
# For half precision, and for int8 in steps of 1/256.
INT8 = Tolerance(sums=0.02 + 1e-5)


def form_of(outputs: np.ndarray, task: Task | type[Task], tolerance: Tolerance) -> Form | None:
    """Return the form of the `outputs` (N, ..., C) of a model for `task`, judged by their range and sums.

    None if they lie in [0, 1] but do not sum to 1 as the task requires: they may be logits, or one probability per
    class. NaN counts as outside.
    """
    if not task.has_probabilities:
        return "values"
    if not bool(np.all((outputs >= -tolerance.bounds) & (outputs <= 1 + tolerance.bounds))):
        return "logits"
    if not task.exclusive(outputs.shape[-1]):
        return "sigmoid"
    sums = outputs.sum(axis=-1, dtype=np.float64)
    return "softmax" if bool(np.all(np.abs(sums - 1) <= tolerance.sums)) else None


def are_logits(outputs: np.ndarray, task: Task | type[Task]) -> bool:
    """Return whether the `outputs` (N, ..., C) of a model for `task` are logits; False for a task of values."""
    return task.has_probabilities and form_of(outputs, task, FLOAT32) not in ("softmax", "sigmoid")


def logits_by_output(outputs: Any, task: Task) -> Any:
    """Return what `are_logits` says: of the only output, or a dict of each of several by name.

    Args:
        outputs: of a model for `task`: an array, or several as a list in their order or a dict.
        task: what the outputs are for.
    """
    if not isinstance(task, Several):
        return are_logits(outputs, task)
    return {name: are_logits(found, task.tasks[name]) for name, found in task.by_output(outputs).items()}


def as_logits(outputs: Any, form: Form, floor: float = FLOOR) -> Any:
    """Return `outputs` of that form as float32 logits; values stay as they are in a regression.

    Logits are log p, or log p - log(1 - p) for sigmoids. softmax(log p) is p again, whatever constant the true logits
    had. `floor` is the smallest probability that is distinguished from 0.
    """
    import tensorflow as tf

    outputs = tf.cast(outputs, tf.float32)
    if form == "softmax":
        return log_probabilities(outputs, floor)
    if form == "sigmoid":
        return log_odds(outputs, max(floor, 1e-7))  # the smallest step of 1 - p
    return outputs


def log_probabilities(p: Any, low: float) -> Any:
    """Return log p of the float32 tensor `p`; `low` is the smallest probability that is distinguished from 0."""
    import tensorflow as tf

    return tf.math.log(tf.maximum(p, low))


def log_odds(p: Any, margin: float) -> Any:
    """Return log p - log(1 - p) of the float32 tensor `p`, clipped to stay `margin` away from 0 and 1."""
    import tensorflow as tf

    inside = tf.clip_by_value(p, margin, 1 - margin)
    return tf.math.log(inside) - tf.math.log1p(-inside)
