"""Equivalent computations by operators that TFLite supports in int8, with intermediate results that can be rounded."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError
from tfopt.graph.keras_internals import causal_padding
from tfopt.graph.layer_facts import facts_of

# Klambauer et al. 2017, arXiv:1706.02515, equation 2.
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def elu(values: Any, alpha: float = 1.0) -> Any:
    """Return max(x, 0) + alpha (exp(min(x, 0)) - 1), since LiteRT's ELU is float only."""
    import tensorflow as tf

    return tf.nn.relu(values) + alpha * (tf.exp(tf.minimum(values, 0.0)) - 1.0)


def selu(values: Any) -> Any:
    """Return the scaled ELU of self-normalizing networks."""
    return SELU_SCALE * elu(values, SELU_ALPHA)


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"elu": elu, "selu": selu}


def activation(function: Any) -> Any:
    """Return the int8 form of an activation of Keras if there is one, else `function` itself."""
    keras_own = str(getattr(function, "__module__", "")).startswith("tf_keras.")
    return ACTIVATIONS.get(getattr(function, "__name__", ""), function) if keras_own else function


def subtracted_from(offset: Any, values: Any, dtype: str) -> Any:
    """Return `offset` - `values` as floats; they may be integers."""
    import tensorflow as tf

    return tf.cast(offset, dtype) - tf.cast(values, dtype)


def layer(layer: Any, inputs: Any) -> Callable[[Any], Any] | None:
    """Return a function that computes what `layer` does for `inputs`, or None if the layer itself works in int8."""
    kind = type(layer).__name__
    if kind == "ELU":
        return lambda values: elu(values, float(layer.alpha))
    if kind == "GroupNormalization" and layer.axis in (-1, layer.input_spec.ndim - 1):
        return lambda values: group_normalization(layer, values)
    if kind == "Normalization" and not layer.invert:
        return lambda values: normalization(layer, values)
    if kind == "Rescaling" and np.all(np.equal(layer.scale, -1)):  # 1 - mask: as -mask + 1 it misses 0 by half a step
        return lambda values: subtracted_from(layer.offset, values, layer.compute_dtype)
    if facts_of(layer).family == "average_pooling" and averages_all(layer, inputs.shape):
        return mean_over_places
    return None


def averages_all(layer: Any, shape: Sequence[int | None]) -> bool:
    """Return whether the only window of an average pooling covers all positions of an input (batch, ..., channels).

    LiteRT's AVERAGE_POOL_2D gives its output the range of its input. An average over many positions does not come near
    the extremes of this range, so most of the 256 steps would be unused. MEAN has a separate output range.
    """
    given, window = tuple(shape)[1:-1], np.broadcast_to(layer.pool_size, len(shape) - 2)
    if layer.data_format != "channels_last" or None in given:
        return False
    return max(layer.compute_output_shape(shape)[1:-1]) == 1 and bool(np.all(window >= given))


def always_averages_all(layer: Any) -> bool:
    """Return whether `averages_all` holds in every call of `layer` in its model."""
    nodes = range(len(layer.inbound_nodes)) if facts_of(layer).family == "average_pooling" else ()
    return bool(nodes) and all(averages_all(layer, layer.get_input_shape_at(node)) for node in nodes)


def mean_over_places(values: Any) -> Any:
    """Return the mean over all axes except batch and channels, which are kept with size 1."""
    import tensorflow as tf

    return tf.reduce_mean(values, list(range(1, len(values.shape) - 1)), keepdims=True)


def normalization(layer: Any, values: Any) -> Any:
    """Return (x - mean) / deviation as one product and one sum: the converter leaves the difference in float."""
    import tensorflow as tf

    factor = 1.0 / tf.maximum(tf.sqrt(layer.variance), tf_keras().backend.epsilon())
    return values * factor - layer.mean * factor


def group_normalization(layer: Any, values: Any) -> Any:
    """Return GroupNormalization over the last axis of `values` (batch, ..., channels), without SQUARED_DIFFERENCE."""
    import tensorflow as tf

    sizes = [-1 if size is None else size for size in values.shape[1:]]
    groups = values.shape[-1] if layer.groups == -1 else layer.groups
    grouped = tf.reshape(values, [-1, *sizes[:-1], groups, values.shape[-1] // groups])
    axes = [*range(1, len(grouped.shape) - 2), len(grouped.shape) - 1]
    centered = grouped - tf.reduce_mean(grouped, axes, keepdims=True)
    variance = tf.reduce_mean(centered * centered, axes, keepdims=True)
    result = tf.reshape(centered * tf.math.rsqrt(variance + layer.epsilon), [-1, *sizes])
    if layer.scale:
        result = result * layer.gamma
    return result + layer.beta if layer.center else result


def is_separable(layer: Any) -> bool:
    """Return whether `layer` becomes a depthwise and a pointwise operator."""
    return facts_of(layer).family == "separable"


def separable(layer: Any, inputs: Any, between: Callable[[Any], Any]) -> Any:
    """Return the output of a SeparableConv1D or 2D with `between` applied to the output of its depthwise half.

    Args:
        layer: built, in the data format "channels_last".
        inputs: (batch, steps, channels) or (batch, height, width, channels).
        between: maps the depthwise output to the pointwise input.

    Raises:
        ModelError: another data format.
    """
    import tensorflow as tf

    line = len(layer.kernel_size) == 1
    depthwise, pointwise, padding = layer.depthwise_kernel, layer.pointwise_kernel, layer.padding.upper()
    strides, dilations = tuple(layer.strides), tuple(layer.dilation_rate)
    if padding == "CAUSAL":
        inputs, padding = tf.pad(inputs, causal_padding(layer, inputs)), "VALID"
    if line:  # one row high
        inputs, depthwise, pointwise = inputs[:, tf.newaxis], depthwise[tf.newaxis], pointwise[tf.newaxis]
        strides, dilations = strides * 2, (1, *dilations)
    if layer.data_format != "channels_last":
        raise ModelError(f"Layer '{layer.name}': quantization needs data_format='channels_last'; got 'channels_first'.")
    values = tf.nn.depthwise_conv2d(inputs, depthwise, (1, *strides, 1), padding, dilations=dilations)
    outputs = tf.nn.conv2d(between(values), pointwise, 1, "VALID")
    if line:
        outputs = outputs[:, 0]
    if layer.use_bias:
        outputs = outputs + layer.bias
    return layer.activation(outputs) if layer.activation is not None else outputs
