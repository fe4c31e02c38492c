"""Hinton: soft targets (Hinton, Vinyals & Dean 2015, arXiv:1503.02531)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.formulas import per_sample, tempered_kl, to_float
from tfopt.distillation.losses.loss import Loss, LossInputs
from tfopt.tasks import Classification, TaskName


@config
class Hinton(Loss):
    """Soft targets (Hinton, Vinyals & Dean 2015, arXiv:1503.02531).

    T^2 KL(softmax(teacher / T) || softmax(student / T)) for each sample (section 2): (batch,).

    Logits are (batch, classes), or (batch, 1) of two classes; further axes between the two, e.g. of a segmentation, are
    averaged over. The loss on the labels counts 0.1 and this term 0.9, the usual choice on CIFAR.

    Attributes:
        temperature: T, by which both logits are divided.

    Examples:
        >>> inputs = tfopt.extend.LossInputs(
        ...     student=np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]),
        ...     teacher=np.array([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]]),
        ... )
        >>> term = tfopt.losses.Hinton(temperature=2.0)
        >>> print(np.round(term(inputs, ()), 4))
        [0.1207 0.3986]
    """

    weight: NonNegativeFloat = 0.9
    temperature: PositiveFloat = 4.0

    label: ClassVar[str] = "hinton"
    task: ClassVar[TaskName | None] = Classification.kind
    alpha: ClassVar[float] = 0.1

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        del connectors
        teacher, student = (_of_classes(to_float(z)) for z in (loss_inputs.teacher, loss_inputs.student))
        return per_sample(tempered_kl(teacher, student, self.temperature))


def _of_classes(logits: Any) -> Any:
    """Return a logit for each class: of a single output, which decides between two, 0 and itself."""
    import tensorflow as tf

    return tf.concat([tf.zeros_like(logits), logits], axis=-1) if logits.shape[-1] == 1 else logits
