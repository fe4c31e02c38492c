"""FSP: the flow between layers (Yim et al., CVPR 2017, "A Gift from Knowledge Distillation")."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import Field
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.feature import FeatureLoss, Pair, bridge_width
from tfopt.distillation.losses.formulas import shrink_to_smaller, to_float, total
from tfopt.distillation.losses.loss import LossInputs, Shape
from tfopt.errors import ModelError


@config
class FSP(FeatureLoss):
    """The flow between layers (Yim et al., CVPR 2017, "A Gift from Knowledge Distillation").

    The squared difference of the flow matrices of each two consecutive layers (equations 1 and 2): (batch,).

    A flow matrix holds the products of the channels of one layer with those of the next, averaged over positions:
    (channels, channels). The two layers of a flow are brought to the smaller size by area averaging (the paper pools
    by the maximum); sizes of student and teacher may differ. The paper takes equal widths; where they differ, the
    student gets a 1x1 convolution. All flows count alike, as in the paper, which trains first by this term alone and
    then by the labels alone.

    Attributes:
        layers: at least two pairs, from the input on: the flow goes from each pair to the next.

    Examples:
        >>> term = tfopt.losses.FSP(layers=(("first", "first"), ("second", "second")))
        >>> distilled = tfopt.distill(model, teacher, tfopt.Distillation(losses=(term,)))
    """

    layers: tuple[Pair, ...] = Field(min_length=2)

    label: ClassVar[str] = "fsp"

    @override
    def connectors(self, layers: Any, student: Mapping[str, Shape], teacher: Mapping[str, Shape]) -> list[Any]:
        self.check(student, teacher, spatial=True, widths=True)
        for (one, _), (other, _) in pairwise(self.layers):
            if len(student[one]) != len(student[other]):
                raise ModelError(
                    f"FSP cannot follow the flow from {one!r} {student[one]} to {other!r} {student[other]}: both need "
                    "the same number of axes. Choose layers before the pooling."
                )
        return [
            bridge_width(layers, f"{self.label}_{index}", student[mine], teacher[yours])
            for index, (mine, yours) in enumerate(self.layers)
        ]

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        import tensorflow as tf

        pairs = [
            (to_float(connector(student)), teacher)
            for connector, (student, teacher) in zip(connectors, self.features(loss_inputs), strict=True)
        ]
        return total(
            [
                tf.reduce_sum(tf.square(_flow(one[0], other[0]) - _flow(one[1], other[1])), axis=(1, 2))
                for one, other in pairwise(pairs)
            ]
        )


def _flow(one: Any, other: Any) -> Any:
    """Return the flow (batch, m, n) between (batch, ..., m) and (batch, ..., n)."""
    import tensorflow as tf

    ends = (tf.reshape(end, (tf.shape(end)[0], -1, end.shape[-1])) for end in shrink_to_smaller(one, other))
    one, other = ends
    return tf.matmul(one, other, transpose_a=True) / tf.cast(tf.shape(one)[1], tf.float32)
