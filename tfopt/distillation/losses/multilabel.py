"""MultilabelKD: soft targets where labels do not exclude each other (after Hinton et al. 2015, arXiv:1503.02531)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.formulas import kl_divergence, per_sample, to_float
from tfopt.distillation.losses.loss import Loss, LossInputs
from tfopt.tasks import Multilabel, TaskName


@config
class MultilabelKD(Loss):
    """Soft targets where labels do not exclude each other (after Hinton et al. 2015, arXiv:1503.02531).

    T^2 KL between the Bernoulli distributions of each label, averaged over labels: (batch, labels) -> (batch,).

    The probability of a label is sigmoid(logit / T). This is `Hinton` for each label by itself, each one a choice
    between two classes; the mean goes with Keras's binary cross-entropy. It also serves a single probability.

    Attributes:
        temperature: T, by which both logits are divided.

    Examples:
        >>> inputs = tfopt.extend.LossInputs(
        ...     student=np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]),
        ...     teacher=np.array([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]]),
        ... )
        >>> term = tfopt.losses.MultilabelKD(temperature=2.0)
        >>> print(np.round(term(inputs, ()), 4))
        [0.0275 0.0724]
    """

    weight: NonNegativeFloat = 0.9
    temperature: PositiveFloat = 4.0

    label: ClassVar[str] = "multilabel_kd"
    task: ClassVar[TaskName | None] = Multilabel.kind
    alpha: ClassVar[float] = 0.1

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        del connectors
        teacher, student = (
            _log_yes_no(to_float(z) / self.temperature) for z in (loss_inputs.teacher, loss_inputs.student)
        )
        return self.temperature**2 * per_sample(kl_divergence(teacher, student))


def _log_yes_no(logits: Any) -> Any:
    """Return the logarithms of the probabilities of yes and no: (...) -> (..., 2)."""
    import tensorflow as tf

    return tf.stack([-tf.nn.softplus(-logits), -tf.nn.softplus(logits)], axis=-1)
