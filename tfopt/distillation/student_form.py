"""The output form of a student: logits or probabilities."""

import numpy as np

from tfopt.errors import ModelError
from tfopt.tasks import task_named
from tfopt.tasks.responses import INT8, Form, form_of


def student_form(outputs: np.ndarray, task: str | None) -> Form:
    """Return the form of the student's `outputs` (N, ...); logits if their values are ambiguous.

    `task` is None if no loss uses them; the form is then values.

    Raises:
        ModelError: NaN or infinity.
    """
    if not np.isfinite(outputs).all():
        raise ModelError("Expected finite outputs; got NaN or infinity. Check the weights and the inputs.")
    if task is None:
        return "values"
    return form_of(outputs, task_named(task), INT8) or "logits"
