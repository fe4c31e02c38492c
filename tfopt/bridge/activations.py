"""tf_keras equivalents of Keras 3 activations.

Most have the same name and meaning. `hard_sigmoid` has the same name but a different meaning: Keras 3 computes
relu6(x + 3) / 6, Keras 2 clip(0.2 x + 0.5, 0, 1). Those that tf_keras lacks are functions here, registered so that a
saved tf_keras model can be loaded again.
"""

import functools
from collections.abc import Callable
from typing import Any

from tfopt.base import keras_compat
from tfopt.errors import ModelError

_SAME = (
    "linear", "relu", "relu6", "softmax", "sigmoid", "tanh", "elu", "selu", "softplus", "softsign",
    "exponential", "gelu", "mish", "log_softmax",
)  # fmt: skip


class NoTwinError(ModelError):
    """A layer without an equivalent in tf_keras; it can still be carried."""


@functools.cache
def registered() -> dict[str, Callable[[Any], Any]]:
    """Return functions on tensors by their Keras 3 names, registered in tf_keras under the package `tfopt`."""
    import tensorflow as tf

    def keras3_hard_sigmoid(x: Any) -> Any:
        return tf.nn.relu6(x + 3.0) * (1.0 / 6.0)

    def keras3_hard_silu(x: Any) -> Any:
        return x * keras3_hard_sigmoid(x)

    def keras3_leaky_relu(x: Any) -> Any:
        return tf.nn.leaky_relu(x, 0.2)  # Keras 3's default slope

    def keras3_log_sigmoid(x: Any) -> Any:
        return -tf.nn.softplus(-x)

    def keras3_hard_tanh(x: Any) -> Any:
        return tf.clip_by_value(x, -1.0, 1.0)

    def keras3_celu(x: Any) -> Any:
        return tf.nn.relu(x) + tf.exp(tf.minimum(x, 0.0)) - 1.0

    def keras3_squareplus(x: Any) -> Any:
        return (x + tf.sqrt(x * x + 4.0)) / 2.0

    def keras3_tanh_shrink(x: Any) -> Any:
        return x - tf.tanh(x)

    def keras3_soft_shrink(x: Any) -> Any:
        return tf.nn.relu(x - 0.5) - tf.nn.relu(-x - 0.5)

    def keras3_hard_shrink(x: Any) -> Any:
        return tf.where(tf.abs(x) > 0.5, x, tf.zeros_like(x))

    def keras3_gelu_approximate(x: Any) -> Any:
        return tf.nn.gelu(x, approximate=True)

    functions = (
        keras3_hard_sigmoid, keras3_hard_silu, keras3_leaky_relu, keras3_log_sigmoid, keras3_hard_tanh,
        keras3_celu, keras3_squareplus, keras3_tanh_shrink, keras3_soft_shrink, keras3_hard_shrink,
        keras3_gelu_approximate,
    )  # fmt: skip
    register = keras_compat.tf_keras().saving.register_keras_serializable("tfopt")
    return {function.__name__.removeprefix("keras3_"): register(function) for function in functions}


def twin(activation: Any) -> Any:
    """Return the tf_keras equivalent of the `activation` of a Keras 3 config: a name or a function.

    Raises:
        NoTwinError: the activation is not built into Keras 3.
    """
    name = _name(activation)
    if name in _SAME:
        return name
    if name in ("silu", "swish"):
        return "swish"  # the only name under which TF-MOT quantizes it
    functions = registered()
    if name in functions:
        return functions[name]
    known = ", ".join([*_SAME, "silu", *functions])
    raise NoTwinError(f"its activation {name!r} has no tf_keras twin; known are {known}")


def _name(activation: Any) -> str:
    if activation is None:
        return "linear"
    if isinstance(activation, dict):  # a function that is not built in, or a layer used as an activation
        if activation.get("module") not in (None, "builtins", "keras.activations"):
            return str(activation.get("registered_name") or activation.get("class_name"))
        inner = activation.get("config")
        # a custom function may have the name of a built-in one
        if activation.get("registered_name") not in (None, "function", inner):
            return str(activation["registered_name"])
        return inner if isinstance(inner, str) else str(activation.get("class_name"))
    return str(activation)
