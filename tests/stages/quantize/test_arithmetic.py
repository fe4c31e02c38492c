"""Tensor arithmetic in models: shapes as tensors, and division by what is computed. Expected values by formula."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import DataError

X = np.random.default_rng(0).normal(size=(96, 6)).astype("float32")
IMAGES = np.random.default_rng(0).normal(size=(40, 4, 4, 6)).astype("float32")


def tensorflow():
    import tensorflow as tf

    return tf


def in_int8(model, samples):
    """The file of `model` after `Quantize`, with samples for tensors without a trained range."""
    stage = tfopt.Quantize()
    aware = stage.apply(model, steps=1)
    stage.calibrate(aware, samples)
    lite = tfopt.export_tflite(aware, representative_data=samples)
    assert not lite.float_tensors()
    return lite


def noise(got, wanted):
    return np.mean((got - wanted) ** 2) / np.var(wanted)


def of_tensorflow(function, shape):
    layers = tf_keras().layers
    inputs = tf_keras().Input(shape)
    return tf_keras().Model(inputs, layers.Dense(2, name="head")(function(inputs)))


def through_head(model, values):
    kernel, bias = (weight.astype(np.float64) for weight in model.get_layer("head").get_weights())
    return values @ kernel + bias


def shuffled(x):
    tf = tensorflow()
    batch, height, width, channels = (tf.shape(x)[axis] for axis in range(4))
    split = tf.reshape(x, tf.stack([batch, height, width, 2, channels // 2]))
    return tf.reshape(tf.transpose(split, (0, 1, 2, 4, 3)), [-1, 4, 4, 6])


@pytest.mark.parametrize(
    ("function", "samples", "wanted"),
    [
        (lambda x: tensorflow().reshape(x, [tensorflow().shape(x)[0], 6]), X, X),
        (lambda x: tensorflow().concat([x, tensorflow().zeros([tensorflow().shape(x)[0], 2])], 1), X,
         np.pad(X, ((0, 0), (0, 2)))),
        (shuffled, IMAGES, IMAGES[..., [0, 3, 1, 4, 2, 5]]),
    ],
    ids=["reshape", "zeros", "channel shuffle"],
)  # fmt: skip
def test_shapes_as_tensors_can_be_quantized(function, samples, wanted):
    model = of_tensorflow(function, samples.shape[1:])
    assert noise(in_int8(model, samples).predict(samples), through_head(model, wanted)) < 2e-3


@pytest.mark.parametrize("name", ["softsign", "largest"])
def test_division_by_a_computed_tensor(name):
    """LiteRT's DIV refuses a divisor that is stored as 0, which is the middle of its range, when ranges are found."""
    ops = keras.ops
    inputs = keras.Input((6,))
    divisors = {
        "softsign": (ops.abs(inputs), np.abs(X)),
        "largest": (ops.max(ops.abs(inputs), axis=-1, keepdims=True), np.abs(X).max(-1, keepdims=True)),
    }
    given, computed = divisors[name]
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(inputs / (given + 1.0)))
    assert noise(in_int8(model, X).predict(X), through_head(model, X / (computed + 1.0))) < 2e-3


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e39])
def test_calibration_samples_that_are_not_finite_are_named(value):
    stage = tfopt.Quantize()
    aware = stage.apply(keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)]), steps=1)
    samples = X.astype("float64")
    samples[40, 2] = value
    with pytest.raises(DataError, match="sample 40 has NaN, infinity or a number beyond float32"):
        stage.calibrate(aware, samples)
