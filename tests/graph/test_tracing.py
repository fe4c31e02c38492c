"""Subclassed models, whose graph is traced again each time."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfopt import bridge
from tfopt.base.keras_compat import tf_keras

MATH = {"keras": keras.ops, "tf_keras": tf.math}


def subclassed(api, math):
    class Model(api.Model):
        def __init__(self):
            super().__init__()
            self.first, self.add, self.last = api.layers.Dense(4), api.layers.Add(name="add"), api.layers.Dense(2)

        def call(self, inputs):
            hidden = self.add([self.first(inputs), 2.0 * self.first(inputs)]) + 1.0
            return math.sqrt(math.abs(self.last(hidden))), math.tanh(math.abs(hidden))

    model = Model()
    model(np.zeros((1, 3), np.float32))
    return model


@pytest.mark.parametrize("name", ["keras", "tf_keras"])
def test_the_names_of_a_subclassed_model_are_the_same_in_every_trace(name):
    model = subclassed(keras if name == "keras" else tf_keras(), MATH[name])
    first, second = (bridge.to_tf_keras(model) for _ in range(2))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    assert first.input_names == second.input_names == ["input_1"]
    assert first.output_names == second.output_names
    assert len({path for _, _, path in bridge.flat_layers(model)}) == len(bridge.flat_layers(model))


@pytest.mark.parametrize("name", ["keras", "tf_keras"])
def test_a_call_that_is_a_tf_function(name):
    api = keras if name == "keras" else tf_keras()

    class Model(api.Model):
        def __init__(self):
            super().__init__()
            self.first, self.last = api.layers.Dense(4, activation="relu"), api.layers.Dense(2)

        @tf.function
        def call(self, inputs, training=None):
            return self.last(self.first(inputs))

    model, x = Model(), np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    expected = np.asarray(model(x))
    np.testing.assert_allclose(bridge.to_tf_keras(model)(x), expected, atol=1e-6)
    np.testing.assert_array_equal(model(x), expected)
