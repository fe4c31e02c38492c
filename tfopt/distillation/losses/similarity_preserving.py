"""SimilarityPreserving: which samples of a batch resemble each other (Tung & Mori, ICCV 2019, arXiv:1907.09682)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import NonNegativeFloat
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.feature import FeatureLoss
from tfopt.distillation.losses.formulas import as_rows, total, unit
from tfopt.distillation.losses.loss import LossInputs


@config
class SimilarityPreserving(FeatureLoss):
    """Which samples of a batch resemble each other (Tung & Mori, ICCV 2019, arXiv:1907.09682).

    The mean squared difference of the batch's Gram matrices, each row at length 1 (section 3): ().

    Features of any shape are flattened, and the two models' need not be alike. The default weight is the paper's
    gamma.

    Examples:
        >>> term = tfopt.losses.SimilarityPreserving(layers=(("second", "second"),))
        >>> distilled = tfopt.distill(model, teacher, tfopt.Distillation(losses=(term,)))
    """

    weight: NonNegativeFloat = 3000.0

    label: ClassVar[str] = "similarity_preserving"

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        import tensorflow as tf

        del connectors
        return total(
            [
                tf.reduce_mean(tf.square(_similarities(student) - _similarities(teacher)))
                for student, teacher in self.features(loss_inputs)
            ]
        )


def _similarities(features: Any) -> Any:
    """Return the similarities of the samples: (batch, ...) -> (batch, batch)."""
    import tensorflow as tf

    rows = as_rows(features)
    return unit(tf.matmul(rows, rows, transpose_b=True))
