"""RegressionKD and BoundedRegression: a teacher of values (Chen et al., NeurIPS 2017)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.formulas import huber, per_sample, to_float
from tfopt.distillation.losses.loss import Loss, LossInputs
from tfopt.tasks import Regression, TaskName


@config
class RegressionKD(Loss):
    """The mean squared difference from the teacher's values for each sample: (batch, ...) -> (batch,).

    Attributes:
        huber: takes half the square up to this difference and grows linearly beyond (Huber 1964), so that a teacher
            far off on one sample does not dominate the batch; None uses the squared error.

    Examples:
        >>> inputs = tfopt.extend.LossInputs(
        ...     student=np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]),
        ...     teacher=np.array([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]]),
        ... )
        >>> term = tfopt.losses.RegressionKD(huber=0.5)
        >>> print(np.round(term(inputs, ()), 4))
        [0.125 0.25 ]
    """

    huber: PositiveFloat | None = None

    label: ClassVar[str] = "regression_kd"
    task: ClassVar[TaskName | None] = Regression.kind

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        import tensorflow as tf

        del connectors
        errors = to_float(loss_inputs.student) - to_float(loss_inputs.teacher)
        return per_sample(tf.square(errors) if self.huber is None else huber(errors, self.huber))


@config
class BoundedRegression(Loss):
    """The student's squared error while it is not better than the teacher's by the margin, else 0: (batch,).

    Section 3.3 of "Learning Efficient Object Detection Models with Knowledge Distillation": a teacher of values may be
    wrong without bound, so it is an upper bound to beat, not a target. Errors are means over the values of a sample.

    Attributes:
        margin: m of the paper, in squared units of the values.

    Examples:
        >>> inputs = tfopt.extend.LossInputs(
        ...     student=np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]),
        ...     teacher=np.array([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]]),
        ...     labels=np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 2.0]]),
        ... )
        >>> term = tfopt.losses.BoundedRegression(margin=0.1)
        >>> print(np.round(term(inputs, ()), 4))
        [0.     0.6667]
    """

    weight: NonNegativeFloat = 0.5
    margin: NonNegativeFloat = 0.0

    label: ClassVar[str] = "bounded_regression"
    task: ClassVar[TaskName | None] = Regression.kind
    needs_labels: ClassVar[bool] = True

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        import tensorflow as tf

        del connectors
        labels = to_float(loss_inputs.labels)
        student = per_sample(tf.square(to_float(loss_inputs.student) - labels))
        teacher = per_sample(tf.square(to_float(loss_inputs.teacher) - labels))
        return tf.where(student + self.margin > teacher, student, 0.0)
