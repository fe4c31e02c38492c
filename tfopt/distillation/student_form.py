"""Whether a student gives logits or probabilities."""

import numpy as np

from tfopt.errors import ModelError
from tfopt.tasks import task_named
from tfopt.tasks.responses import Form, Tolerance, form_of

# How far the sum of probabilities may be from 1, in half precision and in int8 with steps of 1/256.
TOLERANCE = Tolerance(sums=0.02 + 1e-5)


def student_form(outputs: np.ndarray, task: str | None) -> Form:
    """Return what the student's `outputs` (N, ...) are; where their values leave it open, logits.

    `task` is None where no loss looks at them: they are values then.

    Raises:
        ModelError: NaN or infinity.
    """
    if not np.isfinite(outputs).all():
        raise ModelError("Expected finite outputs; got NaN or infinity. Look at the weights and the inputs.")
    if task is None:
        return "values"
    return form_of(outputs, task_named(task), TOLERANCE) or "logits"
