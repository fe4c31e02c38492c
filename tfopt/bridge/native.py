"""tf_keras versions of layers that only Keras 3 has, so that stages can work on them."""

import functools
from typing import Any

from tfopt.base import keras_compat
from tfopt.graph import keras_internals


def classes(name: str) -> Any:
    """Return the class `name` of this module: LayerScale, StochasticDepth, ScaledAdd or RMSNormalization."""
    return _classes()[name]


@functools.cache
def _classes() -> dict[str, Any]:
    import tensorflow as tf

    tf_keras = keras_compat.tf_keras()
    layer_class: Any = tf_keras.layers.Layer
    register = tf_keras.saving.register_keras_serializable("tfopt")

    @register
    class LayerScale(layer_class):  # type: ignore[misc]
        """x * gamma, one trained factor per channel, from ConvNeXt (https://arxiv.org/abs/2103.17239, eq. 4)."""

        def __init__(self, init_values: float, projection_dim: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.init_values = init_values
            self.projection_dim = projection_dim

        def build(self, input_shape: Any) -> None:
            start = tf_keras.initializers.Constant(self.init_values)
            self.gamma = self.add_weight("gamma", (self.projection_dim,), initializer=start)
            super().build(input_shape)

        def call(self, inputs: Any) -> Any:
            return inputs * self.gamma

        def get_config(self) -> dict[str, Any]:
            own = {"init_values": self.init_values, "projection_dim": self.projection_dim}
            return {**super().get_config(), **own}

    @register
    class StochasticDepth(layer_class):  # type: ignore[misc]
        """Drop whole samples in training with probability `drop_path_rate` (https://arxiv.org/abs/1603.09382)."""

        def __init__(self, drop_path_rate: float, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.drop_path_rate = drop_path_rate
            self.random_numbers = keras_internals.random_numbers()

        def call(self, inputs: Any, training: Any = None) -> Any:
            if not training:
                return inputs
            keep = 1 - self.drop_path_rate
            shape = [tf.shape(inputs)[0], *[1] * (len(inputs.shape) - 1)]
            return inputs / keep * tf.floor(keep + self.random_numbers.random_uniform(shape, dtype=inputs.dtype))

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "drop_path_rate": self.drop_path_rate}

    @register
    class ScaledAdd(layer_class):  # type: ignore[misc]
        """a + scale * b for inputs [a, b]: CustomScaleLayer of InceptionResNetV2."""

        tfopt_channels = "merge"

        def __init__(self, scale: float, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.scale = scale

        def call(self, inputs: Any) -> Any:
            return inputs[0] + inputs[1] * self.scale

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "scale": self.scale}

    @register
    class RMSNormalization(layer_class):  # type: ignore[misc]
        """x / sqrt(mean(x^2) + epsilon) * scale over the last axis (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4)."""

        axis = -1

        def __init__(self, epsilon: float, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.epsilon = epsilon
            self.supports_masking = True

        def build(self, input_shape: Any) -> None:
            self.scale = self.add_weight("scale", (input_shape[-1],), initializer="ones")
            super().build(input_shape)

        def call(self, inputs: Any) -> Any:
            squares = tf.reduce_mean(tf.square(inputs), axis=self.axis, keepdims=True)
            return inputs * tf.math.rsqrt(squares + self.epsilon) * self.scale

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "epsilon": self.epsilon}

    made = (LayerScale, StochasticDepth, ScaledAdd, RMSNormalization)
    return {cls.__name__: cls for cls in made}
