"""Loops that collect their steps are unrolled for integers, or refused before any conversion."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt import Export
from tfopt.errors import ModelError

ops = keras.ops
STEPS, WIDTH = 5, 4
KERNEL = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)))[0].astype("float32")


def next_state(state, step):
    return ops.tanh(ops.matmul(state, KERNEL) + step)


def scanned(x):
    def step(state, values):
        state = next_state(state, values)
        return state, state

    steps = ops.transpose(x, (1, 0, 2))
    return ops.scan(step, ops.zeros_like(steps[0]), steps)[1][-1]


def backward(x):
    def step(state, values):
        state = next_state(state, values)
        return state, state

    steps = ops.transpose(x, (1, 0, 2))
    return ops.scan(step, ops.zeros_like(steps[0]), steps, reverse=True)[0]


def mapped(x):
    return ops.map(lambda row: ops.tanh(ops.matmul(row, KERNEL)), x)


def mapped_by_tf(x):
    steps = tf.transpose(x, (1, 0, 2))
    return tf.reduce_sum(tf.map_fn(lambda step: tf.tanh(tf.matmul(step, KERNEL)), steps), axis=0)


def scanned_by_tf(x):
    steps = tf.transpose(x, (1, 0, 2))
    return tf.scan(next_state, steps, initializer=tf.zeros_like(steps[0]))[-1]


def folded(x):
    steps = tf.transpose(x, (1, 0, 2))
    return tf.foldl(next_state, steps, initializer=tf.zeros_like(steps[0]))


def collected(x, steps=STEPS):
    """A loop by hand, which writes each state into an array."""

    def body(number, state, array):
        state = next_state(state, x[:, 0] if steps > STEPS else x[:, number])
        return number + 1, state, array.write(number, state)

    array = tf.TensorArray(tf.float32, size=steps)
    array = tf.while_loop(lambda number, *_: number < steps, body, (0, tf.zeros_like(x[:, 0]), array))[2]
    return tf.reduce_mean(array.stack(), axis=0)


def until_large(x):
    """Its number of steps depends on the inputs."""

    def body(number, state, array):
        return number + 1, state * 2, array.write(number, state)

    def small(number, state, _):
        return (tf.reduce_sum(tf.abs(state)) < 100) & (number < 8)

    return tf.while_loop(small, body, (0, x[:, 0], tf.TensorArray(tf.float32, 8)))[2].stack()[0]


LOOPS = [scanned, backward, mapped, mapped_by_tf, scanned_by_tf, folded, collected]


class Loop(keras.layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)

    def compute_output_shape(self, shape):
        return shape if self.function is mapped else (shape[0], WIDTH)


def model_with(function):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((STEPS, WIDTH))
    looped = Loop(function, name="looping")(keras.layers.Dense(WIDTH, name="first")(inputs))
    return keras.Model(inputs, keras.layers.Dense(3, name="last")(keras.layers.Flatten()(looped)))


def noise_of(model, lite, x):
    expected = np.asarray(model(x))
    return np.mean((lite.predict(x) - expected) ** 2) / expected.var()


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(64, STEPS, WIDTH)).astype("float32")


@pytest.mark.parametrize("function", LOOPS)
def test_a_loop_that_collects_its_steps_is_int8(function, x):
    model = model_with(function)
    lite = tfopt.export_tflite(model, None, Export(mixed=False), representative_data=x)
    assert lite.float_tensors() == [] and not any(op.name == "WHILE" for op in lite.ops())
    assert noise_of(model, lite, x) < 5e-3


@pytest.mark.parametrize("form", [Export(activations="int16"), Export(weights="int4")], ids=["int16", "int4"])
def test_other_integers(form, x):
    model = model_with(scanned)
    lite = tfopt.export_tflite(model, None, form, representative_data=x)
    assert lite.float_tensors() == [] and noise_of(model, lite, x) < 0.05


def test_in_float_it_stays_a_loop(x):
    model = model_with(scanned)
    lite = tfopt.export_tflite(model, None, Export(weights="float32", activations="float32"), representative_data=x)
    assert any(op.name == "WHILE" for op in lite.ops()) and noise_of(model, lite, x) < 1e-9


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (until_large, "the number of its steps depends on the inputs"),
        (lambda x: collected(x, 129), "it has more than 128 steps"),
    ],
    ids=["until_large", "long"],
)
def test_a_loop_that_cannot_be_unrolled_is_refused(function, why, x):
    with pytest.raises(
        ModelError, match=rf"as in looping, unless they can be unrolled: {why}.*activations=\"float32\""
    ):
        tfopt.export_tflite(model_with(function), None, representative_data=x)
