"""ChannelWise: where each channel looks (Shu et al., ICCV 2021, arXiv:2011.13256)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.feature import FeatureLoss, Pair, bridge_width
from tfopt.distillation.losses.formulas import shrink_to_smaller, tempered_kl, to_float, total
from tfopt.distillation.losses.loss import LossInputs, Shape
from tfopt.errors import ModelError
from tfopt.tasks import Classification, TaskName


@config
class ChannelWise(FeatureLoss):
    """Where each channel looks, for segmentation (Shu et al., ICCV 2021, arXiv:2011.13256).

    T^2 KL(softmax(teacher / T) || softmax(student / T)), where a softmax is over all positions of one channel, averaged
    over the channels (section 3.2): (batch, ..., channels) -> (batch,).

    The positions at which a channel is large count most, so large regions do not drown small ones as with the KL of
    each pixel (`Hinton`). Without `layers` the responses are compared, the logits of each class; with `layers`, their
    outputs, as in `FitNets`. The weight is the paper's for responses; for layers it takes 50.

    Attributes:
        layers: (student layer, teacher layer) by name; none compares the responses.
        temperature: T; larger ones let more positions count.

    Examples:
        >>> left, right = np.zeros((1, 1, 2, 1)), np.zeros((1, 1, 2, 1))
        >>> left[0, 0, 0], right[0, 0, 1] = 4.0, 4.0  # a row of two pixels, one class
        >>> term = tfopt.losses.ChannelWise(temperature=4.0)
        >>> print(np.round(term(tfopt.extend.LossInputs(student=left, teacher=right), ()), 4))
        [7.3939]
    """

    weight: NonNegativeFloat = 3.0
    layers: tuple[Pair, ...] = Field(default=())
    temperature: PositiveFloat = 4.0

    label: ClassVar[str] = "channel_wise"

    @property
    def task(self) -> TaskName | None:  # type: ignore[override]  # it depends on what is compared
        """The task whose responses are compared; None if layers are."""
        return None if self.layers else Classification.kind

    @override
    def connectors(self, layers: Any, student: Mapping[str, Shape], teacher: Mapping[str, Shape]) -> list[Any]:
        self.check(student, teacher, spatial=True, widths=True)
        return [  # without biases: a softmax over positions does not see them
            bridge_width(layers, f"{self.label}_{index}", student[mine], teacher[yours], use_bias=False)
            for index, (mine, yours) in enumerate(self.layers)
        ]

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        if not self.layers:
            return self._of_maps(to_float(loss_inputs.student), to_float(loss_inputs.teacher))
        terms = []
        for (student, teacher), connector in zip(self.features(loss_inputs), connectors, strict=True):
            student, teacher = shrink_to_smaller(student, teacher)
            terms.append(self._of_maps(to_float(connector(student)), teacher))
        return total(terms)

    def _of_maps(self, student: Any, teacher: Any) -> Any:
        import tensorflow as tf

        if student.shape.rank < 3:
            raise ModelError(
                f"ChannelWise compares positions; the student's responses have shape {tuple(student.shape)}, without "
                "any. Use Hinton, or name layers before the pooling: ChannelWise(layers=...)."
            )
        return tf.reduce_mean(tempered_kl(_by_channel(teacher), _by_channel(student), self.temperature), axis=-1)


def _by_channel(maps: Any) -> Any:
    """Return (batch, ..., channels) as (batch, channels, positions)."""
    import tensorflow as tf

    sizes = tf.shape(maps)
    return tf.transpose(tf.reshape(maps, (sizes[0], -1, maps.shape[-1] or sizes[-1])), (0, 2, 1))
