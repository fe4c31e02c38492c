"""PKT: probabilistic knowledge transfer (Passalis & Tefas, ECCV 2018, arXiv:1803.10837)."""

from collections.abc import Sequence
from typing import Any, ClassVar

from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.feature import FeatureLoss
from tfopt.distillation.losses.formulas import as_rows, kl_divergence, total, unit
from tfopt.distillation.losses.loss import LossInputs


@config
class PKT(FeatureLoss):
    """Probabilistic knowledge transfer (Passalis & Tefas, ECCV 2018, arXiv:1803.10837).

    KL between the probabilities that a sample has another one as its neighbor (section 3): ().

    The probability of neighbor j of sample i is (1 + cosine of i and j) / 2 over the sum of that over all j but i.
    The divergences of the samples are averaged, not added, so that the term does not grow with the batch. Features
    of any shape are flattened, and the two models' need not be alike. The paper trains by this term alone.

    Examples:
        >>> term = tfopt.losses.PKT(layers=(("second", "second"),))
        >>> distilled = tfopt.distill(model, teacher, tfopt.Distillation(losses=(term,)))
    """

    label: ClassVar[str] = "pkt"

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        import tensorflow as tf

        del connectors
        return total(
            [
                tf.reduce_mean(kl_divergence(_log_neighbors(teacher), _log_neighbors(student)))
                for student, teacher in self.features(loss_inputs)
            ]
        )


def _log_neighbors(features: Any) -> Any:
    """Return log-probabilities, those of a sample itself very low: (batch, ...) -> (batch, batch)."""
    import tensorflow as tf

    rows = unit(as_rows(features))
    kernel = tf.maximum((1 + tf.matmul(rows, rows, transpose_b=True)) / 2, 1e-7)
    logits = tf.linalg.set_diag(tf.math.log(kernel), tf.fill([tf.shape(kernel)[0]], -1e30))
    return tf.nn.log_softmax(logits)
