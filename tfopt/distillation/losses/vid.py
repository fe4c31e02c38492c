"""VID: variational information distillation (Ahn et al., CVPR 2019, arXiv:1904.05835)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, PositiveInt
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.feature import FeatureLoss, seeded_dense
from tfopt.distillation.losses.formulas import per_sample, shrink_to_smaller, to_float, total
from tfopt.distillation.losses.loss import LossInputs, Shape

SMALLEST = 1e-5
"""Variance that a channel can have; keeps its logarithm finite."""


@config
class VID(FeatureLoss):
    """Variational information distillation (Ahn et al., CVPR 2019, arXiv:1904.05835).

    Negative log-likelihood of the teacher's features given the student's (section 2): (batch,).

    Each value is Gaussian: the mean comes from the student's features through trained 1x1 convolutions with ReLU in
    between, the variance is one trained number for each of the teacher's channels. Averaged over the values, without
    the constant log(2 pi) / 2; it is below 0 where the fit is good. Unlike sizes are bridged by shrinking the larger
    to the smaller.

    Attributes:
        depth: number of 1x1 convolutions; the inner ones are as wide as the teacher's layer.
        initial_variance: of all channels at the start; 5 in the authors' code.

    Examples:
        >>> term = tfopt.losses.VID(layers=(("second", "second"),), depth=2)
        >>> distilled = tfopt.distill(model, teacher, tfopt.Distillation(losses=(term,)))
    """

    depth: PositiveInt = 3
    initial_variance: float = Field(default=5.0, ge=1e-3)

    label: ClassVar[str] = "vid"

    @override
    def connectors(self, layers: Any, student: Mapping[str, Shape], teacher: Mapping[str, Shape]) -> list[Any]:
        self.check(student, teacher, spatial=False, widths=True)
        return [
            layer
            for index, (_, yours) in enumerate(self.layers)
            for layer in self._layers_of_pair(layers, f"{self.label}_{index}", teacher[yours][-1])
        ]

    def _layers_of_pair(self, layers: Any, name: str, width: Any) -> list[Any]:
        """Return the convolutions for the mean, in order, then a Dense whose kernel determines the variances.

        A stock layer, fed with a constant, so that one file serves both Kerases.
        """
        means = [
            seeded_dense(
                layers,
                width,
                f"{name}_mean_{position}",
                use_bias=False,
                activation="relu" if position < self.depth - 1 else None,
            )
            for position in range(self.depth)
        ]
        above = self.initial_variance - SMALLEST
        start = {"class_name": "Constant", "config": {"value": above + math.log(-math.expm1(-above))}}
        variance = seeded_dense(layers, width, f"{name}_variance", use_bias=False, kernel_initializer=start)
        return [*means, variance]

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        import tensorflow as tf

        terms = []
        for index, pair in enumerate(self.features(loss_inputs)):
            *means, raw = connectors[index * (self.depth + 1) : (index + 1) * (self.depth + 1)]
            mean, teacher = shrink_to_smaller(*pair)
            for layer in means:
                mean = layer(mean)
            variance = tf.reshape(tf.nn.softplus(to_float(raw(tf.ones((1, 1))))) + SMALLEST, (-1,))
            errors = tf.square(teacher - to_float(mean)) / variance
            terms.append(per_sample(0.5 * (errors + tf.math.log(variance))))
        return total(terms)
