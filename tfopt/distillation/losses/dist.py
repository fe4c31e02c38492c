"""DIST: relations instead of values (Huang et al., NeurIPS 2022, arXiv:2205.10536)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.formulas import centered_unit, to_float
from tfopt.distillation.losses.loss import Loss, LossInputs
from tfopt.tasks import Classification, TaskName


@config
class DIST(Loss):
    """Relations instead of values (Huang et al., NeurIPS 2022, arXiv:2205.10536).

    T^2 (beta inter + gamma intra), where both are 1 - Pearson's r of probabilities (section 3): ().

    Inter-class: r over the classes of each sample, averaged over samples. Intra-class: r over the samples of each
    class, averaged over classes; it needs batches of several samples. The relation of equal values, e.g. of a class
    in a batch of one, counts as r = 0. The loss on the labels counts 1, as in the paper.

    Attributes:
        temperature: T, by which both logits are divided; 4 on CIFAR-100, 1 on ImageNet.
        inter_weight, intra_weight: the paper's beta and gamma; 2 on CIFAR-100.

    Examples:
        >>> inputs = tfopt.extend.LossInputs(
        ...     student=np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]),
        ...     teacher=np.array([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]]),
        ... )
        >>> term = tfopt.losses.DIST(temperature=1.0)
        >>> print(np.round(term(inputs, ()), 4))
        1.0143
    """

    temperature: PositiveFloat = 4.0
    inter_weight: NonNegativeFloat = 2.0
    intra_weight: NonNegativeFloat = 2.0

    label: ClassVar[str] = "dist"
    task: ClassVar[TaskName | None] = Classification.kind

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        import tensorflow as tf

        del connectors
        logits = to_float(loss_inputs.student), to_float(loss_inputs.teacher)
        student, teacher = (tf.nn.softmax(tf.reshape(z, (-1, z.shape[-1])) / self.temperature) for z in logits)
        inter = _distance(student, teacher)
        intra = _distance(tf.transpose(student), tf.transpose(teacher))
        return self.temperature**2 * (self.inter_weight * inter + self.intra_weight * intra)


def _distance(one: Any, other: Any) -> Any:
    """Return 1 - Pearson's r of the rows, averaged: (rows, values) -> ()."""
    import tensorflow as tf

    return 1 - tf.reduce_mean(tf.reduce_sum(centered_unit(one) * centered_unit(other), axis=-1))
