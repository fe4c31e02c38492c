"""Ranges of activations as variables of a model. An empty range, low > high, leaves the values unrounded."""

import functools
from collections.abc import Callable
from typing import Any

from tfopt.base.keras_compat import tfmot

_EMPTY = (1.0, -1.0)


def empty(variables: dict[str, Any]) -> None:
    """Make the range of a quantizer empty, given its variables."""
    set_range(variables, *_EMPTY)


def set_range(variables: dict[str, Any], low: float, high: float) -> None:
    """Set the range of a quantizer, given its variables."""
    variables["min_var"].assign(low)
    variables["max_var"].assign(high)


def has_range(variables: dict[str, Any]) -> bool:
    """Return whether a quantizer with these variables rounds, at the time of the call or of tracing."""
    import tensorflow as tf

    with tf.init_scope():
        return bool(variables["min_var"].numpy() <= variables["max_var"].numpy())


def apart(values: Any) -> Any:
    """Return values that the converter leaves in float, with all that is computed from them before the next range.

    An operator with one scale for inputs and output, such as CONCATENATION, would be int8 otherwise. The mark, to
    float64 and back, is exact, cannot be int8, and stays until `tflite/write/unrounded.py` removes it.
    """
    import tensorflow as tf

    return tf.cast(tf.cast(values, tf.float64), tf.float32) if values.dtype == tf.float32 else values


def range_quantizer(unrounded: Callable[[Any], Any] | None = None) -> Any:
    """Return TF-MOT's quantizer of activations with a moving average of their range.

    Args:
        unrounded: applied to the values if the range is empty.
    """
    return _range_quantizer()(unrounded or (lambda values: values))


@functools.cache
def _range_quantizer() -> Any:
    """Return the class. Created on first use, because importing TF-MOT takes seconds."""
    base = tfmot().quantization.keras.quantizers.MovingAverageQuantizer

    class RangeQuantizer(base):  # type: ignore[misc, valid-type]
        def __init__(self, unrounded: Callable[[Any], Any]) -> None:
            super().__init__(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)
            self._unrounded = unrounded

        def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
            if not has_range(weights):
                return self._unrounded(inputs)
            return super().__call__(inputs, training, weights, **kwargs)

    return RangeQuantizer
