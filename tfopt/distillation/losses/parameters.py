"""L2 and L2SP: terms on the student's parameters (Li, Grandvalet & Davoine, ICML 2018, arXiv:1802.01483)."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from pydantic import NonNegativeFloat
from typing_extensions import override

from tfopt.base.config import config
from tfopt.distillation.losses.formulas import to_float
from tfopt.distillation.losses.loss import Loss, LossInputs


@config
class L2(Loss):
    """Decay of the weights (Li, Grandvalet & Davoine, ICML 2018, arXiv:1802.01483).

    Return half the sum of the squares of all kernels (section 3; the weight is its alpha): ().

    Kernels are the parameters with two axes or more; biases and BatchNorm's scales are left free. It adds to
    whatever regularizers the student's layers have.

    Examples:
        >>> objective = tfopt.Distillation(losses=(tfopt.losses.L2(weight=1e-4),))
        >>> distilled = tfopt.distill(model, distillation=objective)  # no teacher
    """

    weight: NonNegativeFloat = 1e-4

    label: ClassVar[str] = "l2"
    needs_teacher: ClassVar[bool] = False
    needs_parameters: ClassVar[bool] = True

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        del connectors
        return _half_squares(now for now, start in loss_inputs.parameters if start.ndim >= 2)


@config
class L2SP(Loss):
    """Decay toward the initial weights (Li, Grandvalet & Davoine, ICML 2018, arXiv:1802.01483).

    Half the squared distance of all parameters from where they were when distillation began (section 3): ().

    It keeps a pretrained student near what it knows; the weight is the paper's alpha, chosen there between 0.001 and
    1 for each task. The penalty's other half, plain L2 on the layers that are new, is not part of it: new layers are
    held at their start like all others.

    Examples:
        >>> recipe = tfopt.Recipe(
        ...     stages=tfopt.fine_tuning(unfreeze=("second",)),
        ...     distillation=tfopt.Distillation(losses=(tfopt.losses.L2SP(weight=0.1),)),
        ... )
    """

    weight: NonNegativeFloat = 0.1

    label: ClassVar[str] = "l2_sp"
    needs_teacher: ClassVar[bool] = False
    needs_parameters: ClassVar[bool] = True

    @override
    def __call__(self, loss_inputs: LossInputs, connectors: Sequence[Any]) -> Any:
        del connectors
        return _half_squares(to_float(now) - to_float(start) for now, start in loss_inputs.parameters)


def _half_squares(tensors: Iterable[Any]) -> Any:
    """Return half the sum of all squares, 0 of none: ()."""
    import tensorflow as tf

    return sum((tf.reduce_sum(tf.square(to_float(tensor))) for tensor in tensors), tf.constant(0.0)) / 2
