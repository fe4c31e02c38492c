import collections

import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.flatbuffer import rewritten
from tfopt.tflite.write.float_forms import (
    with_merged_factors,
    with_products,
    without_block_moves,
    without_unread_parts,
)

FLOAT = tfopt.Export(weights="float32", activations="float32")


def split_model(axis, read):
    """Products of the parts of an input, split in three, that are `read`."""
    import tensorflow as tf

    keras = tf_keras()
    inputs = keras.Input((6, 9), batch_size=1)
    parts = tf.split(inputs, 3, axis=axis)
    return keras.Model(inputs, [parts[number] * 2.0 for number in read])


@pytest.mark.parametrize("axis, read", [(-1, (0, 2)), (1, (1,)), (2, (2, 1))])
def test_a_split_with_an_unread_part_becomes_slices(axis, read):
    lite = tfopt.export_tflite(split_model(axis, read), None, FLOAT)
    assert "SPLIT" in {op.name for op in lite.ops()}
    changed = LiteModel(rewritten(lite.data, without_unread_parts))
    counts = collections.Counter(op.name for op in changed.ops())
    assert counts["SPLIT"] == 0 and counts["SLICE"] == len(read)
    x = np.random.default_rng(0).normal(size=(1, 6, 9)).astype("float32")
    got = changed.predict(x)
    wanted = [2 * np.array_split(x, 3, axis=axis)[number] for number in read]
    for one, other in zip(got if len(read) > 1 else [got], wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_split_with_all_parts_read_stays():
    data = tfopt.export_tflite(split_model(-1, (0, 1, 2)), None, FLOAT).data
    assert rewritten(data, without_unread_parts) == data


@pytest.mark.parametrize("sequences", [True, False])
def test_an_lstm_unrolled_from_zeros_has_no_unread_tensor(sequences):
    keras = tf_keras()
    keras.utils.set_random_seed(0)
    layer = keras.layers.LSTM(4, activation="relu", return_sequences=sequences)  # not one operator, so unrolled
    model = keras.Sequential([keras.Input((3, 5)), layer])
    x = np.random.default_rng(0).normal(size=(32, 3, 5)).astype("float32")
    lite = tfopt.export_tflite(model, representative_data=x)
    read = {index for op in lite.ops() for index in op.inputs} | {port.index for port in lite.outputs}
    assert read.issuperset(index for op in lite.ops() for index in op.outputs)
    wanted = model(x).numpy()
    assert np.mean((lite.predict(x) - wanted) ** 2) < 2e-3 * np.var(wanted)


def scaled_file(function):
    """A file of `function` on rows of four."""
    inputs = tf_keras().Input((6, 4), batch_size=1)
    return tfopt.export_tflite(tf_keras().Model(inputs, function(inputs)), None, FLOAT)


def steps(first, second, between=lambda x: x):
    """A Rescaling, what is `between`, and another Rescaling, which the converter keeps apart."""
    rescale = tf_keras().layers.Rescaling
    return lambda x: rescale(second)(between(rescale(first)(x)))


SIZES, INVERSE = [0.01, 1.0, 100.0, 1e4], [50.0, 2.0, 0.02, 2e-4]


def test_factors_are_merged():
    lite = scaled_file(steps(SIZES, INVERSE))
    assert [op.name for op in lite.ops()] == ["MUL", "MUL"]
    changed = LiteModel(rewritten(lite.data, with_merged_factors))
    assert [op.name for op in changed.ops()] == ["MUL"]
    x = np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
    np.testing.assert_allclose(changed.predict(x), x.astype(np.float64) * [0.5, 2, 2, 2], rtol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [y := tf_keras().layers.Rescaling(SIZES)(x), tf_keras().layers.Rescaling(INVERSE)(y)],
        lambda x: (y := tf_keras().layers.Rescaling(SIZES)(x)) + tf_keras().layers.Rescaling(INVERSE)(y),
        steps(SIZES, INVERSE, tf_keras().layers.ReLU()),
        steps(SIZES, INVERSE, lambda x: x - 1.0),
        steps([1e30, 1.0, 1.0, 1.0], [1e30, 1.0, 1.0, 1.0]),
        steps([1e-30, 1.0, 1.0, 1.0], [1e-30, 1.0, 1.0, 1.0]),
    ],
    ids=["an output", "another reader", "a ReLU between", "a difference between", "too large", "too small"],
)
def test_factors_are_not_merged(function):
    data = scaled_file(function).data
    assert rewritten(data, with_merged_factors) == data


def blocks(move, size=2, batch=1):
    """A convolution, and its values moved between channels and places."""
    import tensorflow as tf

    keras = tf_keras()
    inputs = keras.Input((4, 6, 3), batch_size=batch)
    convolved = keras.layers.Conv2D(2 * size**2, 1)(inputs)
    return keras.Model(inputs, getattr(tf.nn, move)(convolved, size))


def moved(values, move, size=2):
    """The values of (batch, height, width, channels) moved one by one, as TensorFlow documents it."""
    batch, height, width, channels = values.shape
    deep = move == "space_to_depth"
    result = np.zeros(
        (batch, height // size, width // size, channels * size**2)
        if deep
        else (batch, height * size, width * size, channels // size**2)
    )
    each = channels if deep else channels // size**2
    for b, y, x, c in np.ndindex(result.shape if not deep else values.shape):
        apart = (b, y // size, x // size, (y % size * size + x % size) * each + c)
        if deep:
            result[apart] = values[b, y, x, c]
        else:
            result[b, y, x, c] = values[apart]
    return result


@pytest.mark.parametrize("move", ["depth_to_space", "space_to_depth"])
@pytest.mark.parametrize("weights, activations", [("int4", "int8"), ("int8", "int16"), ("int4", "int16")])
def test_blocks_move_in_integers(move, weights, activations):
    model = blocks(move)
    x = np.random.default_rng(0).normal(size=(40, 4, 6, 3)).astype("float32")
    lite = tfopt.export_tflite(
        model, None, tfopt.Export(weights=weights, activations=activations), representative_data=x
    )
    wanted = model.predict(x, verbose=0, batch_size=1)
    assert np.mean((lite.predict(x) - wanted) ** 2) < (0.03 if weights == "int4" else 1e-3) * np.var(wanted)


@pytest.mark.parametrize("move", ["depth_to_space", "space_to_depth"])
def test_blocks_move_to_the_same_places(move):
    model = blocks(move, batch=3)
    x = np.random.default_rng(0).normal(size=(3, 4, 6, 3)).astype("float32")
    lite = tfopt.export_tflite(model, None, FLOAT)
    assert move.upper() in {op.name for op in lite.ops()}
    changed = LiteModel(rewritten(lite.data, without_block_moves))
    assert [op.name for op in changed.ops()] == ["CONV_2D", "RESHAPE", "TRANSPOSE", "RESHAPE"]
    np.testing.assert_array_equal(changed.predict(x), lite.predict(x))
    np.testing.assert_allclose(changed.predict(x), moved(model.layers[1](x).numpy(), move), atol=1e-5)


def test_float_squares_and_signs_become_products_and_integers_stay():
    import tensorflow as tf

    class Signs(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 6), tf.float32), tf.TensorSpec((1, 6), tf.int32)])
        def run(self, x, n):
            return {"square": tf.square(x), "sign": -x, "whole": -n}

    module = Signs()
    data = tf.lite.TFLiteConverter.from_concrete_functions([module.run.get_concrete_function()], module).convert()
    assert collections.Counter(op.name for op in LiteModel(data).ops()) == {"SQUARE": 1, "NEG": 2}
    changed = LiteModel(rewritten(data, with_products))
    assert collections.Counter(op.name for op in changed.ops()) == {"MUL": 2, "NEG": 1}
    x, n = np.arange(-3, 3, dtype="float32")[None], np.arange(-3, 3, dtype="int32")[None]
    got = changed.predict({"x": x, "n": n})
    for one, wanted in zip(got, (-x, x**2, -n), strict=True):
        np.testing.assert_array_equal(one, wanted)
