"""StandardizedKD: logit standardization (Sun et al., CVPR 2024, arXiv:2403.01427)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.formulas import centered_unit, per_sample, tempered_kl, to_float
from tfopt.distillation.losses.loss import Loss, LossInputs
from tfopt.tasks import Classification, TaskName


@config
class StandardizedKD(Loss):
    """Logit standardization (Sun et al., CVPR 2024, arXiv:2403.01427).

    T^2 KL of the z-scores of both logits for each sample (algorithms 1 and 2): (batch,).

    The z-score, (logit - mean) / standard deviation over the classes, is what the student has to match: not the
    teacher's range, which a small student cannot reach, but its relations. Equal logits have z-score 0. The standard
    deviation is the population's, as printed; the authors' code takes the sample's, which acts like another T.

    Attributes:
        temperature: T, by which the z-scores are divided; the paper's base temperature.

    Examples:
        >>> inputs = tfopt.extend.LossInputs(
        ...     student=np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]),
        ...     teacher=np.array([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]]),
        ... )
        >>> term = tfopt.losses.StandardizedKD(temperature=2.0)
        >>> print(np.round(term(inputs, ()), 4))
        [0.015 0.611]
    """

    weight: NonNegativeFloat = 9.0
    temperature: PositiveFloat = 2.0

    label: ClassVar[str] = "standardized_kd"
    task: ClassVar[TaskName | None] = Classification.kind
    alpha: ClassVar[float] = 0.1

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        del connectors
        teacher, student = (_z_scores(to_float(logits)) for logits in (loss_inputs.teacher, loss_inputs.student))
        return per_sample(tempered_kl(teacher, student, self.temperature))


def _z_scores(logits: Any) -> Any:
    import tensorflow as tf

    return tf.sqrt(float(logits.shape[-1])) * centered_unit(logits)
