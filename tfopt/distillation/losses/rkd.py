"""RKD: relational knowledge distillation (Park et al., CVPR 2019, arXiv:1904.05068)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import NonNegativeFloat
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.feature import FeatureLoss
from tfopt.distillation.losses.formulas import as_rows, huber, root, total, unit
from tfopt.distillation.losses.loss import LossInputs


@config
class RKD(FeatureLoss):
    """Relational knowledge distillation (Park et al., CVPR 2019, arXiv:1904.05068).

    Distances and angles between the samples of a batch (sections 3.2.1 and 3.2.2): ().

    Distances are divided by their mean over the batch; an angle is the cosine at the middle one of three samples.
    Differences between student and teacher go through Huber's function and are averaged over all pairs and all
    triples, those with equal members counting as 0, as in the authors' code. Features of any shape are flattened,
    and the two models' need not be alike. It holds batch^2 x values and batch^3 numbers: take the layer of the
    embedding, not a large feature map.

    Attributes:
        distance_weight, angle_weight: of the two parts; 25 and 50 in the paper.

    Examples:
        >>> term = tfopt.losses.RKD(layers=(("head", "head"),), distance_weight=25.0)
        >>> distilled = tfopt.distill(model, teacher, tfopt.Distillation(losses=(term,)))
    """

    distance_weight: NonNegativeFloat = 25.0
    angle_weight: NonNegativeFloat = 50.0

    label: ClassVar[str] = "rkd"

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        import tensorflow as tf

        del connectors
        terms = []
        for pair in self.features(loss_inputs):
            student, teacher = (_differences(each) for each in pair)
            distance = tf.reduce_mean(huber(_distances(student) - _distances(teacher)))
            angle = tf.reduce_mean(huber(_cosines(student) - _cosines(teacher)))
            terms.append(self.distance_weight * distance + self.angle_weight * angle)
        return total(terms)


def _differences(features: Any) -> Any:
    """Return pairwise differences: (batch, batch, values). A Gram matrix would suffer from cancellation."""
    rows = as_rows(features)
    return rows[None] - rows[:, None]


def _distances(differences: Any) -> Any:
    """Return the distances in units of their mean over pairs; 0 if all samples are equal: (batch, batch)."""
    import tensorflow as tf

    distances = root(tf.reduce_sum(tf.square(differences), axis=-1))
    batch = tf.cast(tf.shape(distances)[0], tf.float32)
    mean = tf.math.divide_no_nan(tf.reduce_sum(distances), batch * (batch - 1))
    return tf.math.divide_no_nan(distances, mean)


def _cosines(differences: Any) -> Any:
    """Return the cosines at the first sample between the directions to two others: (batch, batch, batch)."""
    import tensorflow as tf

    directions = unit(differences)
    return tf.matmul(directions, directions, transpose_b=True)
