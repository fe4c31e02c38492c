"""The base of all losses on inner layers: pairs of layers, and connectors between different shapes."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.formulas import to_float
from tfopt.distillation.losses.loss import Loss, LossInputs, Shape
from tfopt.errors import ModelError

Pair = tuple[str, str]


@config
class FeatureLoss(Loss):
    """A term on the outputs of layers, (batch, ..., channels) with the channels last. Several pairs add up.

    Attributes:
        layers: (student layer, teacher layer) by name, at least one pair.

    Examples:
        >>> issubclass(tfopt.losses.FitNets, tfopt.extend.FeatureLoss)
        True
        >>> tfopt.losses.PKT(layers=(("second", "second"),)).layers
        (('second', 'second'),)
    """

    layers: tuple[Pair, ...] = Field(min_length=1)

    @property
    @override
    def pairs(self) -> tuple[Pair, ...]:
        return self.layers

    def features(self, loss_inputs: LossInputs) -> list[tuple[Any, Any]]:
        """Return the features of both models in `loss_inputs` for each pair, in float32."""
        return [
            (to_float(loss_inputs.student_features[student]), to_float(loss_inputs.teacher_features[teacher]))
            for student, teacher in self.layers
        ]

    def check(self, student: Mapping[str, Shape], teacher: Mapping[str, Shape], spatial: bool, widths: bool) -> None:
        """Raise an error for layers that the loss cannot compare.

        Args:
            student: shapes without the batch axis, by layer name.
            teacher: the same of the teacher.
            spatial: whether the loss needs spatial axes.
            widths: whether the loss needs fixed numbers of channels.

        Raises:
            ModelError: a pair has different ranks, or lacks spatial axes or a width.
        """
        for mine, yours in self.layers:
            shapes = student[mine], teacher[yours]
            what = (
                f"{type(self).__name__} cannot compare the student's {mine!r} {shapes[0]} "
                f"with the teacher's {yours!r} {shapes[1]}"
            )
            if len(shapes[0]) != len(shapes[1]):
                raise ModelError(
                    f"{what}: it bridges different sizes and widths, but not different numbers of axes. Choose two "
                    "layers with the same number of axes."
                )
            if len(shapes[0]) < 1 + spatial:
                expected = "(height, width, channels) or (steps, channels)" if spatial else "(..., channels)"
                raise ModelError(f"{what}: it needs outputs {expected}. Choose layers before the pooling.")
            if widths and None in (shapes[0][-1], shapes[1][-1]):
                raise ModelError(f"{what}: it needs fixed numbers of channels. Choose layers whose last axis is fixed.")


def bridge_width(layers: Any, name: str, student: Shape, teacher: Shape, **options: Any) -> Any:
    """Return a 1x1 convolution (a Dense on the last axis) to the teacher's width, or an Identity for equal widths.

    It computes in float32 whatever the global policy, and starts equal in every run; `options` are those of a Dense.
    """
    if student[-1] == teacher[-1]:
        return layers.Identity(name=name, dtype="float32")
    return seeded_dense(layers, teacher[-1], name, **options)


def seeded_dense(layers: Any, units: Any, name: str, **options: Any) -> Any:
    """Return a float32 Dense of `layers` with Glorot's initial weights (Glorot & Bengio 2010), always the same."""
    seeded = {"class_name": "GlorotUniform", "config": {"seed": 0}}
    return layers.Dense(units, name=name, dtype="float32", **{"kernel_initializer": seeded, **options})
