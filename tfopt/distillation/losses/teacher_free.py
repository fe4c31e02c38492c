"""TeacherFree: a teacher made by hand (Tf-KD_reg, Yuan et al., CVPR 2020, arXiv:1909.11723)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.formulas import number_of_classes, per_sample, tempered_kl, to_float
from tfopt.distillation.losses.loss import Loss, LossInputs
from tfopt.tasks import Classification, TaskName


@config
class TeacherFree(Loss):
    """A teacher made by hand (Tf-KD_reg, Yuan et al., CVPR 2020, arXiv:1909.11723).

    T^2 KL from a virtual teacher: `correct` for the label, the rest shared by the others (section 5): (batch,).

    Label smoothing (Szegedy et al. 2016, arXiv:1512.00567) by epsilon is the case T = 1, correct = 1 / classes,
    weight = epsilon, with 1 - epsilon for the loss on the labels: equal up to a constant. Soft labels give soft
    teachers. Both sides are divided by T as the paper writes it, and T^2 is added as in its other losses; the
    authors' code softens the probabilities of the virtual teacher as if they were logits, and the student not at all.

    Attributes:
        correct: the virtual teacher's probability of the label; at least 0.9 in the paper.
        temperature: T; 20 and more in the paper.

    Examples:
        >>> inputs = tfopt.extend.LossInputs(
        ...     student=np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]]),
        ...     labels=np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        ... )
        >>> term = tfopt.losses.TeacherFree(correct=0.9, temperature=20.0)
        >>> print(np.round(term(inputs, ()), 4))
        [0.3041 0.3041]
    """

    weight: NonNegativeFloat = 0.1
    correct: float = Field(default=0.99, gt=0, lt=1)
    temperature: PositiveFloat = 20.0

    label: ClassVar[str] = "teacher_free"
    task: ClassVar[TaskName | None] = Classification.kind
    alpha: ClassVar[float] = 0.9
    needs_teacher: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        import tensorflow as tf

        del connectors
        student, labels = to_float(loss_inputs.student), to_float(loss_inputs.labels)
        others = number_of_classes(student, type(self).__name__) - 1
        virtual = labels * self.correct + (1 - labels) * (1 - self.correct) / others
        return per_sample(tempered_kl(tf.math.log(virtual), student, self.temperature))
