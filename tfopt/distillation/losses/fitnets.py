"""FitNets: hints from inner layers (Romero et al. 2015, arXiv:1412.6550)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.feature import FeatureLoss, bridge_width
from tfopt.distillation.losses.formulas import per_sample, shrink_to_smaller, to_float, total
from tfopt.distillation.losses.loss import LossInputs, Shape


@config
class FitNets(FeatureLoss):
    """Hints from inner layers (Romero et al. 2015, arXiv:1412.6550).

    Half the mean squared error between hint and guided layer (equation 3): (batch,).

    The paper sums over the values; the mean makes one weight fit all shapes. Its regressor is the connector here, a
    1x1 convolution where widths differ; different sizes are bridged by shrinking the larger to the smaller.

    Attributes:
        two_stage: share of the training steps in which the hint alone is trained, after which it stops counting, as
            in the paper's two stages; 0 adds it to the other terms throughout.

    Examples:
        >>> hint = tfopt.losses.FitNets(layers=(("second", "second"),))  # 8 channels against 16: a trained 1x1 layer
        >>> distilled = tfopt.distill(model, teacher, tfopt.Distillation(losses=(tfopt.losses.Hinton(), hint)))
        >>> distilled.compile("adam", "sparse_categorical_crossentropy")
        >>> sorted(distilled.fit(x, y, verbose=0).history)
        ['fitnets', 'hard_loss', 'hinton', 'loss']
    """

    two_stage: float = Field(default=0.0, ge=0, lt=1)

    label: ClassVar[str] = "fitnets"

    @property
    @override
    def hint_phase(self) -> float:
        return self.two_stage

    @override
    def connectors(self, layers: Any, student: Mapping[str, Shape], teacher: Mapping[str, Shape]) -> list[Any]:
        self.check(student, teacher, spatial=False, widths=True)
        return [
            bridge_width(layers, f"{self.label}_{index}", student[mine], teacher[yours])
            for index, (mine, yours) in enumerate(self.layers)
        ]

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        import tensorflow as tf

        terms = []
        for (student, teacher), connector in zip(self.features(loss_inputs), connectors, strict=True):
            student, teacher = shrink_to_smaller(student, teacher)
            terms.append(0.5 * per_sample(tf.square(to_float(connector(student)) - teacher)))
        return total(terms)
