"""Methods that round a kernel to integers times steps during training: the source of the steps, and the gradient.

Kernels come in the view of their scales (see `quantizers.Scales`); steps have size 1 along the axes that share a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from typing_extensions import override

from tfopt.stages.quantize.weight_ranges import fixed_point_step, levels
from tfopt.stages.quantize.weight_ranges import steps as steps_of

_TINY = float(np.finfo(np.float32).tiny)

WeightSteps = Literal["max", "mse", "octav", "learned", "fixed_point", "xnor", "binary_connect", "ternary"]


@dataclass(frozen=True)
class Precision:
    """How finely a kernel is rounded.

    Attributes:
        bits: 8 or fewer; values are step * k for integers |k| <= 2^(bits - 1) - 1.
        weight_steps: the source of the steps, a key of `ROUNDINGS`.
        fractional_bits: of "fixed_point"; None for the most that the kernel allows.
    """

    bits: int = 8
    weight_steps: WeightSteps = "max"
    fractional_bits: int | None = None

    @property
    def usual(self) -> bool:
        """Whether this is the rounding that the converter itself would choose."""
        return self.bits == 8 and self.weight_steps == "max"


USUAL = Precision()


class Rounding:
    """Rounding to the nearest integer within the levels; gradients pass straight through (Bengio et al. 2013).

    Args:
        precision: see `Precision`.
        axes: the axes, negative, whose indices have separate steps; () for one step for all.
        start: the kernel when training begins, in its view.
        fixed: what `start` has decided before, from a file; None to compute it.
    """

    words: ClassVar[str] = "steps up to the largest weight"

    def __init__(
        self, precision: Precision, axes: tuple[int, ...], start: np.ndarray, fixed: np.ndarray | None = None
    ) -> None:
        self.precision, self.start = precision, start
        self.axes = axes
        self.others = tuple(axis for axis in range(start.ndim) if axis - start.ndim not in axes)
        self.levels = levels(precision.bits)
        self.fixed = self._first() if fixed is None else fixed

    def _first(self) -> np.ndarray | None:
        """Return what the initial kernel decides for the whole training; None if nothing."""
        return None

    def variables(self) -> Mapping[str, np.ndarray]:
        """Return the initial values, by name, of what is trained besides the kernel."""
        return {}

    def steps(self, kernel: Any, trained: Mapping[str, Any]) -> Any:
        """Return the steps for the current `kernel`."""
        import tensorflow as tf

        del trained
        largest = tf.reduce_max(tf.abs(kernel), axis=self.others, keepdims=True)
        return tf.maximum(largest / self.levels, _TINY)  # a channel may be all zero

    def integers(self, kernel: Any, steps: Any) -> Any:
        """Return the integers (as floats) to which the kernel is rounded."""
        import tensorflow as tf

        return tf.clip_by_value(tf.round(kernel / steps), -self.levels, self.levels)

    def rounded(self, kernel: Any, trained: Mapping[str, Any]) -> Any:
        """Return the kernel as the file will store it."""
        steps = self.steps(kernel, trained)
        return self.integers(kernel, steps) * steps

    def in_training(self, kernel: Any, trained: Mapping[str, Any]) -> Any:
        """Return the rounded kernel, with a gradient."""
        import tensorflow as tf

        return kernel + tf.stop_gradient(self.rounded(kernel, trained) - kernel)

    def _mean(self, values: Any) -> Any:
        import tensorflow as tf

        return tf.maximum(tf.reduce_mean(values, axis=self.others, keepdims=True), _TINY)


class Kept(Rounding):
    """Rounding with the steps of the initial kernel."""

    words = "steps of the initial kernel"

    @override
    def _first(self) -> np.ndarray:
        return steps_of(self.start, self.precision.bits, self.axes, self.precision.weight_steps)

    @property
    def _steps(self) -> np.ndarray:
        assert self.fixed is not None
        return self.fixed

    @override
    def steps(self, kernel: Any, trained: Mapping[str, Any]) -> Any:
        del kernel, trained
        return self._steps


class FixedPoint(Kept):
    """Rounding with a single step, a power of two: round(w * 2^p) / 2^p with p fractional bits."""

    words = "fixed point"

    def _first(self) -> np.ndarray:
        step = fixed_point_step(self.start, self.precision.bits, self.precision.fractional_bits)
        return np.full((1,) * self.start.ndim, step, np.float32)


class Learned(Kept):
    """Rounding with steps trained along with the weights: LSQ (Esser et al. 2020, arXiv:1902.08153).

    They start where the squared error is least. LSQ's own 2 <|w|> / sqrt(levels) is coarser, and short trainings do not
    make up for that.
    """

    words = "learned steps"

    def _first(self) -> np.ndarray:
        return steps_of(self.start, self.precision.bits, self.axes, "mse")

    @override
    def variables(self) -> Mapping[str, np.ndarray]:
        # Relative to the initial steps, so that the updates of an optimizer have the right size.
        return {"step": np.ones(self._steps.shape, np.float32)}

    @override
    def steps(self, kernel: Any, trained: Mapping[str, Any]) -> Any:
        import tensorflow as tf

        del kernel
        return self._steps * tf.abs(trained["step"])

    def in_training(self, kernel: Any, trained: Mapping[str, Any]) -> Any:
        """Return the rounded kernel with gradients for the steps, and for weights within the range only.

        Equations 1 to 3 and section 2.2 of the paper.
        """
        import tensorflow as tf

        weights_a_step = self.start.size / self._steps.size
        factor = float(1 / np.sqrt(weights_a_step * self.levels))
        relative = factor * trained["step"] + tf.stop_gradient((1 - factor) * trained["step"])
        steps = self._steps * tf.abs(relative)
        inside = tf.clip_by_value(kernel / steps, -float(self.levels), float(self.levels))
        return (inside + tf.stop_gradient(tf.round(inside) - inside)) * steps


class Signs(Rounding):
    """Weights a * sign(w) with a = mean |w|: XNOR-Net (Rastegari et al. 2016, arXiv:1603.05279, equation 6).

    The gradient passes only where |w| <= 1, which bounds the weights (Courbariaux et al. 2015, arXiv:1511.00363).
    """

    words = "signs times their mean magnitude"

    @override
    def steps(self, kernel: Any, trained: Mapping[str, Any]) -> Any:
        import tensorflow as tf

        del trained
        return self._mean(tf.abs(kernel))

    @override
    def integers(self, kernel: Any, steps: Any) -> Any:
        import tensorflow as tf

        del steps
        return tf.where(kernel >= 0, 1.0, -1.0)

    @override
    def in_training(self, kernel: Any, trained: Mapping[str, Any]) -> Any:
        import tensorflow as tf

        clipped = tf.clip_by_value(kernel, -1.0, 1.0)
        return clipped + tf.stop_gradient(self.rounded(kernel, trained) - clipped)


class BareSigns(Signs):
    """Weights a * sign(w) with one untrained a for the whole kernel: BinaryConnect (Courbariaux et al. 2015).

    In the paper a is 1; here it is the root mean square of the initial kernel. With a BatchNormalization after the
    layer, both are equivalent.
    """

    words = "signs"

    @override
    def _first(self) -> np.ndarray:
        size = max(float(np.sqrt(np.mean(np.square(self.start)))), _TINY)
        return np.full((1,) * self.start.ndim, size, np.float32)

    @override
    def steps(self, kernel: Any, trained: Mapping[str, Any]) -> Any:
        del kernel, trained
        return self.fixed


class Ternary(Signs):
    """Weights a * t with t in -1, 0, 1: Ternary Weight Networks (Li et al. 2016, arXiv:1605.04711, eq. 5 and 6).

    t = 0 where |w| <= 0.7 mean |w|; a is the mean of |w| over the other weights.
    """

    words = "ternary"
    THRESHOLD: ClassVar[float] = 0.7

    def _beyond(self, kernel: Any) -> Any:
        import tensorflow as tf

        return tf.cast(tf.abs(kernel) > self.THRESHOLD * self._mean(tf.abs(kernel)), tf.float32)

    @override
    def steps(self, kernel: Any, trained: Mapping[str, Any]) -> Any:
        import tensorflow as tf

        del trained
        beyond = self._beyond(kernel)
        count = tf.maximum(tf.reduce_sum(beyond, axis=self.others, keepdims=True), 1.0)
        return tf.maximum(tf.reduce_sum(beyond * tf.abs(kernel), axis=self.others, keepdims=True) / count, _TINY)

    @override
    def integers(self, kernel: Any, steps: Any) -> Any:
        import tensorflow as tf

        del steps
        return tf.sign(kernel) * self._beyond(kernel)


ROUNDINGS: dict[str, type[Rounding]] = {
    "max": Rounding,
    "mse": Kept,
    "octav": Kept,
    "learned": Learned,
    "fixed_point": FixedPoint,
    "xnor": Signs,
    "binary_connect": BareSigns,
    "ternary": Ternary,
}
