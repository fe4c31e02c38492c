"""DKD: decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv:2203.08679)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.formulas import kl_divergence, number_of_classes, per_sample, to_float
from tfopt.distillation.losses.loss import Loss, LossInputs
from tfopt.tasks import Classification, TaskName


@config
class DKD(Loss):
    """Decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv:2203.08679).

    T^2 (alpha TCKD + beta NCKD) for each sample (section 3): (batch,).

    TCKD compares how sure both are of the label against all other classes, NCKD how they rank the others among
    themselves. KL is TCKD + (1 - p_label) NCKD: Hinton's loss silences NCKD where the teacher is sure.
    The label is the class of the largest value in `labels`. The loss on the labels counts 1, as in the paper. The
    paper lets the term grow over the first 20 epochs; it counts in full from the start here.

    Attributes:
        temperature: T, by which both logits are divided.
        target_weight: the paper's alpha; 1 throughout.
        nontarget_weight: the paper's beta; 8 for most pairs on CIFAR-100, 0.5 to 2 on ImageNet; the surer the teacher
            is of the labels, the higher.

    Examples:
        >>> inputs = tfopt.extend.LossInputs(
        ...     student=np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]),
        ...     teacher=np.array([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]]),
        ...     labels=np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        ... )
        >>> term = tfopt.losses.DKD(temperature=2.0)
        >>> print(np.round(term(inputs, ()), 4))
        [0.1207 1.1686]
    """

    temperature: PositiveFloat = 4.0
    target_weight: NonNegativeFloat = 1.0
    nontarget_weight: NonNegativeFloat = 8.0

    label: ClassVar[str] = "dkd"
    task: ClassVar[TaskName | None] = Classification.kind
    needs_labels: ClassVar[bool] = True

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        import tensorflow as tf

        del connectors
        student = to_float(loss_inputs.student) / self.temperature
        teacher = to_float(loss_inputs.teacher) / self.temperature
        classes = number_of_classes(student, type(self).__name__)
        is_label = tf.one_hot(
            tf.argmax(loss_inputs.labels, axis=-1), classes, on_value=True, off_value=False, dtype=tf.bool
        )
        target = kl_divergence(_label_or_not(teacher, is_label), _label_or_not(student, is_label))
        nontarget = kl_divergence(_among_others(teacher, is_label), _among_others(student, is_label))
        return self.temperature**2 * per_sample(self.target_weight * target + self.nontarget_weight * nontarget)


def _label_or_not(logits: Any, is_label: Any) -> Any:
    """Return the logarithms of the probabilities of the label and of all other classes together: (..., 2)."""
    import tensorflow as tf

    at_label = tf.reduce_logsumexp(_only(logits, is_label), axis=-1)
    at_others = tf.reduce_logsumexp(_only(logits, ~is_label), axis=-1)
    return tf.nn.log_softmax(tf.stack([at_label, at_others], axis=-1))


def _among_others(logits: Any, is_label: Any) -> Any:
    """Return the log-probabilities of the other classes, given that it is one of them; the label stays very low."""
    import tensorflow as tf

    return tf.nn.log_softmax(_only(logits, ~is_label))


def _only(logits: Any, kept: Any) -> Any:
    """Return `logits` with the classes not `kept` at a value whose exponential is zero, and so is its gradient."""
    import tensorflow as tf

    return tf.where(kept, logits, -1e30)
