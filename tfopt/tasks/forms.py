"""Whether outputs are logits or probabilities, told by their values."""

from typing import Any, Literal

import numpy as np

from tfopt.errors import ModelError
from tfopt.tasks.labels import Task

Form = Literal["logits", "softmax", "sigmoid", "values"]


def tolerance_of(dtype: Any, step: float | None, classes: int) -> float:
    """How far the probabilities of a row may be from 1 in sum: rounding, half a step for each class."""
    if step:
        return classes * step / 2 + 1e-3
    return {"float16": 1e-2, "bfloat16": 5e-2}.get(dtype.name, 1e-3)


def form_of(values: np.ndarray, task: Task, said: str, tolerance: float, name: str) -> Form:
    """What the outputs (n, classes) of a classification are: in [0, 1] and summing to 1, they are probabilities."""
    if said == "logits":
        return "logits"
    inside = bool(np.all((values >= -1e-6) & (values <= 1 + 1e-6)))
    if said == "probabilities" and not inside:
        raise ModelError(
            f"The teacher '{name}' was said to give probabilities, but gives {values.min():.4g} to {values.max():.4g}; "
            'leave outputs="auto".'
        )
    if not inside:
        return "logits"
    if task == "multilabel" or values.shape[1] == 1:
        return "sigmoid"
    if bool(np.all(np.abs(values.sum(axis=1, dtype=np.float64) - 1) <= tolerance)):
        return "softmax"
    if said == "probabilities":
        return "sigmoid"
    sums = values.sum(axis=1)
    raise ModelError(
        f"The teacher '{name}' gives values from 0 to 1 that sum to {sums.min():.4g} to {sums.max():.4g} in a row, "
        'which may be logits, or one probability per class: say outputs="logits" or outputs="probabilities".'
    )
