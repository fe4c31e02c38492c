"""Divisions, and what people normalize by hand, as int8 files: after training, and from samples alone."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras

RNG = np.random.default_rng(0)
X = RNG.normal(size=(192, 6)).astype("float32")
KERNEL = RNG.normal(size=(6, 2)).astype("float32")


def last(function, values):
    return function(values, axis=-1, keepdims=True)


def softmax(api, x):
    exponentials = api.exp(x - last(api.max, x))
    return exponentials / last(api.sum, exponentials)


# Written with functions that `keras.ops` and numpy share, so that numpy gives the expected values in float64.
FORMS = {
    "norm": lambda api, x: x / last(getattr(api, "norm", None) or np.linalg.norm, x),
    "softmax": softmax,
    "exponentials": lambda api, x: api.exp(x) / last(api.sum, api.exp(x)),
    "variance": lambda api, x: (x - last(api.mean, x)) / api.sqrt(last(api.var, x) + 1e-5),
    "deviation": lambda api, x: (x - last(api.mean, x)) / (last(api.std, x) + 1e-3),
    "square": lambda api, x: x / (1 + last(api.mean, api.square(x))),
    "softsign": lambda api, x: x / (1 + api.abs(x)),
    "span": lambda api, x: (x - last(api.min, x)) / (last(api.max, x) - last(api.min, x)),
    "constant divisor": lambda api, x: x / (1.0 + 0.0 * api.abs(x)),
    "choice": lambda api, x: api.where(x > 0, x / (1 + x * x), x * 0.1),
}


def noise(wanted, got):
    return np.mean((wanted - got) ** 2) / np.var(wanted)


def file_of(model, way):
    if way == "samples":
        return tfopt.export_tflite(model, representative_data=X)
    stage = tfopt.Quantize()
    wrapped = stage.apply(model, steps=4)
    stage.calibrate(wrapped, X)
    return tfopt.export_tflite(wrapped, representative_data=X if way == "trained" else None)


def model_of(form):
    inputs, dense = keras.Input((6,)), keras.layers.Dense(2, use_bias=False)
    model = keras.Model(inputs, dense(form(keras.ops, inputs)))
    dense.set_weights([KERNEL])
    return model


@pytest.mark.slow
@pytest.mark.parametrize("way", ["samples", "trained", "trained, without samples"])
@pytest.mark.parametrize("name", FORMS)
def test_it_is_int8_and_right(name, way):
    lite = file_of(model_of(FORMS[name]), way)
    wanted = FORMS[name](np, X.astype(np.float64)) @ KERNEL
    assert not lite.float_tensors()
    assert noise(wanted, lite.predict(X)) < 2e-3


def test_squares_inside_an_operation_are_products():
    lite = file_of(model_of(lambda api, x: api.normalize(x, axis=-1)), "samples")
    assert not lite.float_tensors() and "SQUARE" not in {op.name for op in lite.ops()}
    assert noise(FORMS["norm"](np, X.astype(np.float64)) @ KERNEL, lite.predict(X)) < 2e-3


@pytest.mark.parametrize("way", ["trained", "trained, without samples"])
@pytest.mark.parametrize("name", ["norm", "l2_normalize", "reduce_std"])
def test_functions_of_tensorflow(name, way):
    import tensorflow as tf

    inputs, dense = tf_keras().Input((6,)), tf_keras().layers.Dense(2, use_bias=False)
    x = X.astype(np.float64)
    values, wanted = {
        "norm": lambda: (inputs / tf.linalg.norm(inputs, axis=-1, keepdims=True), FORMS["norm"](np, x)),
        "l2_normalize": lambda: (tf.math.l2_normalize(inputs, axis=-1), FORMS["norm"](np, x)),
        "reduce_std": lambda: (
            inputs / (tf.math.reduce_std(inputs, axis=-1, keepdims=True) + 0.1), x / (last(np.std, x) + 0.1)
        ),
    }[name]()  # fmt: skip
    model = tf_keras().Model(inputs, dense(values))
    dense.set_weights([KERNEL])
    lite = file_of(model, way)
    assert not lite.float_tensors()
    assert noise(wanted @ KERNEL, lite.predict(X)) < 2e-3


def test_a_divisor_stored_as_zero_does_not_end_the_invocation():
    """LiteRT refuses to divide by what rounds to zero, here the sum of few small values."""
    ops = keras.ops
    positive = np.abs(X)
    lite = file_of(model_of(lambda api, x: ops.relu(x) / (last(ops.sum, ops.relu(x)) + 1e-6)), "samples")
    assert {"DIV", "MAXIMUM"} <= {op.name for op in lite.ops()} and not lite.float_tensors()
    np.testing.assert_allclose(lite.predict(np.zeros((1, 6), "float32")), 0, atol=0.02)
    wanted = positive / last(np.sum, positive) @ KERNEL
    assert noise(wanted, lite.predict(positive)) < 0.02


def test_a_negative_divisor_stays_below_zero():
    ops = keras.ops
    lite = file_of(model_of(lambda api, x: ops.relu(x) / (-1.0 * last(ops.sum, ops.relu(x)) - 1e-6)), "samples")
    np.testing.assert_allclose(lite.predict(np.zeros((1, 6), "float32")), 0, atol=0.02)
    positive = np.abs(X)
    wanted = -positive / last(np.sum, positive) @ KERNEL
    assert noise(wanted, lite.predict(positive)) < 0.02


def test_a_softmax_by_hand_has_the_scale_that_litert_requires():
    lite = file_of(model_of(FORMS["exponentials"]), "trained")
    [operator] = [op for op in lite.ops() if op.name == "SOFTMAX"]
    [output] = [tensor for tensor in lite.tensors() if tensor.index == operator.outputs[0]]
    assert (output.scales[0], output.zero_points[0]) == (1 / 256, -128)
