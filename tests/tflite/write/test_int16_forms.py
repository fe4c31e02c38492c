"""Operators without a form for int16 activations, made of others: equal in float, and right in the int16 file."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.flatbuffer import kind_of, rewritten
from tfopt.tflite.write.int16_forms import with_int16_forms

FLOAT = tfopt.Export(weights="float32", activations="float32")
X = np.random.default_rng(0).normal(size=(64, 6, 8)).astype("float32")


# What a model computes, and which operator it must have to begin with.
FUNCTIONS = {
    "SQUARED_DIFFERENCE": lambda x: tf.math.squared_difference(x, x[:, :1]),
    "SUB": tf_keras().layers.LayerNormalization(),  # from zeros, in TensorFlow's fused normalization
    "SUM": lambda x: tf.reduce_sum(x, (1, 2)) / 3.0,
    "HARD_SWISH": lambda x: x * tf.nn.relu6(x + 3.0) * (1 / 6),
    "L2_NORMALIZATION": lambda x: tf.math.l2_normalize(x, -1),
    "DIV": lambda x: x / (x[:, :1] - 5.0),
    "PRELU": tf_keras().layers.PReLU("random_normal", shared_axes=[1]),
}


def float_file(function, batch=1):
    inputs = tf_keras().Input((6, 8), batch_size=batch)
    settings = FLOAT if batch else dataclasses.replace(FLOAT, batch="dynamic")
    return tfopt.export_tflite(tf_keras().Model(inputs, function(inputs)), None, settings)


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_the_new_operators_compute_the_same_in_float(kind):
    lite = float_file(FUNCTIONS[kind])
    assert kind in [op.name for op in lite.ops()]
    changed = LiteModel(rewritten(lite.data, with_int16_forms))
    constants = {tensor.index for tensor in changed.tensors() if tensor.constant}
    assert not any(op.name == kind and (kind != "SUB" or op.inputs[0] in constants) for op in changed.ops())
    moves = {"STRIDED_SLICE", "RESHAPE", "TRANSPOSE"}
    assert {op.name for op in changed.ops()} <= {"ABS", "ADD", "SUB", "MUL", "RSQRT", "MEAN", *moves}
    np.testing.assert_allclose(changed.predict(X), FUNCTIONS[kind](X), rtol=1e-5, atol=1e-6)


def with_relu(model, subgraph):
    """Give the subtraction from zeros an activation."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = [kind_of(model.operatorCodes[operator.opcodeIndex]) for operator in subgraph.operators]
    subtraction = subgraph.operators[kinds.index(schema.BuiltinOperator.SUB)]
    subtraction.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
    return True


def test_a_fused_activation_stays():
    plain = float_file(FUNCTIONS["SUB"])
    lite = LiteModel(rewritten(plain.data, with_relu))
    want = lite.predict(X)
    assert not np.allclose(want, plain.predict(X), atol=1e-2)
    np.testing.assert_allclose(LiteModel(rewritten(lite.data, with_int16_forms)).predict(X), want, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / 3.0,
        lambda x: 1.0 - tf.reduce_mean(x, 1),
        lambda x: x + 1.0,
        lambda x: tf.sqrt(x * x),
    ],
    ids=["a division by a constant", "a difference from ones", "a sum of two", "a root alone"],
)
def test_other_operators_stay(function):
    data = float_file(function).data
    assert rewritten(data, with_int16_forms) == data


def test_integers_stay():
    inputs = tf_keras().Input((4,), dtype="int32", batch_size=1)
    data = tfopt.export_tflite(tf_keras().Model(inputs, tf.reduce_sum(inputs, 1, keepdims=True)), None, FLOAT).data
    assert "SUM" in [op.name for op in LiteModel(data).ops()]
    assert rewritten(data, with_int16_forms) == data


def test_a_sum_over_an_axis_of_fixed_size_with_any_batch():
    lite = float_file(lambda x: tf.reduce_sum(x, 2), batch=None)
    assert lite.inputs[0].shape[0] is None and "SUM" in [op.name for op in lite.ops()]
    names = [op.name for op in LiteModel(rewritten(lite.data, with_int16_forms)).ops()]
    assert "SUM" not in names and {"MEAN", "MUL"} <= set(names)


LAYERS = {
    "one group": keras.layers.GroupNormalization(1, scale=False),
    "LayerNormalization": keras.layers.LayerNormalization(),
    "GroupNormalization": keras.layers.GroupNormalization(2),
    "UnitNormalization": keras.layers.UnitNormalization(),
    "gelu": keras.layers.Activation("gelu"),
    "hard_silu": keras.layers.Activation("hard_silu"),
    "softsign": keras.layers.Lambda(lambda x: x / (1.0 + keras.ops.abs(x))),
    "a negative divisor": keras.layers.Lambda(lambda x: x / (-1.0 - keras.ops.abs(x[:, :1]))),
    "PReLU": keras.layers.PReLU("random_normal"),
    "PReLU of zeros": keras.layers.PReLU(shared_axes=[1, 2]),
    "standard deviation": keras.layers.Lambda(lambda x: keras.ops.std(x, axis=1)),
    "by hand": keras.layers.Lambda(lambda x: (x - x[:, :1]) / keras.ops.sqrt(keras.ops.var(x, -1, keepdims=True) + 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_an_int16_file_follows_the_layer(name):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 8))
    model = keras.Model(inputs, keras.layers.Dense(3)(LAYERS[name](keras.layers.Dense(8)(inputs))))
    lite = tfopt.export_tflite(model, None, tfopt.Export(activations="int16"), representative_data=X)
    assert not lite.float_tensors()
    want = model.predict(X, verbose=0)
    assert np.mean((lite.predict(X) - want) ** 2) < 1e-3 * np.var(want)
