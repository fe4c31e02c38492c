"""AttentionTransfer: where inner layers look (Zagoruyko & Komodakis, ICLR 2017, arXiv:1612.03928)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import NonNegativeFloat
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.feature import FeatureLoss
from tfopt.distillation.losses.formulas import as_rows, per_sample, shrink_to_smaller, total, unit
from tfopt.distillation.losses.loss import LossInputs, Shape


@config
class AttentionTransfer(FeatureLoss):
    """Where inner layers look (Zagoruyko & Komodakis, ICLR 2017, arXiv:1612.03928).

    The mean squared difference of the attention maps, each at length 1 (section 3.1): (batch,).

    An attention map is the sum of squares over the channels, one value a position, so widths may differ; maps of
    different sizes are compared at the smaller one. Equation 2 writes the norm of the difference; this is the authors'
    code, whose beta of 1000 over the number of positions and samples is the default weight. It needs layers with
    spatial axes.

    Examples:
        >>> term = tfopt.losses.AttentionTransfer(layers=(("first", "first"), ("second", "second")))
        >>> distilled = tfopt.distill(model, teacher, tfopt.Distillation(losses=(term,)))
    """

    weight: NonNegativeFloat = 1000.0

    label: ClassVar[str] = "attention_transfer"

    @override
    def connectors(self, layers: Any, student: Mapping[str, Shape], teacher: Mapping[str, Shape]) -> list[Any]:
        del layers
        self.check(student, teacher, spatial=True, widths=False)
        return []

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        import tensorflow as tf

        del connectors
        terms = []
        for pair in self.features(loss_inputs):
            maps = shrink_to_smaller(*(tf.reduce_sum(tf.square(each), axis=-1, keepdims=True) for each in pair))
            student, teacher = (unit(as_rows(each)) for each in maps)
            terms.append(per_sample(tf.square(student - teacher)))
        return total(terms)
