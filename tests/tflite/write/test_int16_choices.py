"""Comparisons, choices, masks and lookup tables with int16 activations: equal in float, and right in the int16 file."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError, PromiseError
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.flatbuffer import new_operator, rewritten, stored
from tfopt.tflite.write.int16_choices import is_about_integers, with_int8_tables, with_int16_choices

FLOAT = tfopt.Export(weights="float32", activations="float32")
INT16 = tfopt.Export(activations="int16")
ONLY_INT16 = dataclasses.replace(INT16, mixed=False)
X = np.random.default_rng(0).normal(size=(64, 6, 8)).astype("float32")
WORDS = np.random.default_rng(1).integers(0, 9, (64, 6)).astype("int32")
MOVES = {"STRIDED_SLICE", "RESHAPE", "TRANSPOSE"}

CHOICES = {
    "a number or another": lambda x: tf.where(x > 0.25, 2.0, -3.0),
    "values or others": lambda x: tf.where(x < 0.25, x * 2.0, x[:, :1] - 1.0),
    "values or zero": lambda x: tf.where(x >= x[:, ::-1], x, 0.0),
    "zero or values": lambda x: tf.where(x <= 0.0, 0.0, x),
    "rows by their first value": lambda x: tf.where(x[..., :1] > 0.0, x, -x),
    "where a value is 0": lambda x: tf.where(tf.equal(tf.nn.relu(x), 0.0), -1.0, x),
    "where a value is not 0": lambda x: tf.where(tf.not_equal(tf.zeros(8), tf.nn.relu(x)), x, -1.0),
    "against more zeros than values": lambda x: tf.where(x[:, :1] > tf.zeros((1, 6, 8)), x, -x),
    "more zeros against values": lambda x: tf.where(tf.zeros((1, 6, 8)) > x[:, :1], x, -x),
    "5 axes": lambda x: tf.where((y := tf.reshape(x, (-1, 2, 3, 2, 4))) > 0.5, y, -1.0),
}


def float_file(function, x=X):
    inputs = tf_keras().Input(x.shape[1:], batch_size=1, dtype=x.dtype)
    return tfopt.export_tflite(tf_keras().Model(inputs, function(inputs)), None, FLOAT)


@pytest.mark.parametrize("name", CHOICES)
def test_choices_compute_the_same_in_float(name):
    lite = float_file(CHOICES[name])
    assert {"SELECT_V2", "SELECT"} & {op.name for op in lite.ops()}
    changed = LiteModel(rewritten(lite.data, with_int16_choices))
    assert not {"SELECT_V2", "SELECT"} & {op.name for op in changed.ops()}
    np.testing.assert_allclose(changed.predict(X), CHOICES[name](X), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CHOICES)
def test_choices_in_an_int16_file(name):
    keras.utils.set_random_seed(1)
    inputs = tf_keras().Input((6, 8))
    model = tf_keras().Model(inputs, CHOICES[name](inputs))
    lite = tfopt.export_tflite(model, None, INT16, representative_data=X)
    assert not lite.float_tensors()
    want, got = CHOICES[name](X).numpy(), lite.predict(X)
    # A value less than a step from the border may fall on the other side; with 32767 steps hardly any does.
    assert np.mean(np.abs(got - want) > 1e-3) < 2e-3


def test_integers_are_compared_and_computed_with():
    inputs = tf_keras().Input((6,), dtype="int32")
    kept = tf.where((inputs != 0) & (inputs < 7), 1.0, 0.0)[..., None]
    table = tf_keras().layers.Embedding(9, 4, embeddings_initializer="random_normal")
    model = tf_keras().Model(inputs, table(tf.minimum(inputs + 1, 8)) * kept)
    lite = tfopt.export_tflite(model, None, INT16, representative_data=WORDS)
    assert not lite.float_tensors()
    rows = table.get_weights()[0][np.minimum(WORDS + 1, 8)]
    want = rows * ((WORDS != 0) & (WORDS < 7))[..., None]
    assert np.mean((lite.predict(WORDS) - want) ** 2) < 1e-3 * np.var(want)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.LSTM(5),
        keras.layers.GRU(5),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Bidirectional(keras.layers.LSTM(3)),
    ],
    ids=["LSTM", "GRU", "average", "both directions"],
)
def test_masked_words(layer):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,), dtype="int32")
    words = keras.layers.Embedding(9, 8, mask_zero=True, embeddings_initializer=keras.initializers.RandomUniform(-1, 1))
    model = keras.Model(inputs, keras.layers.Dense(3)(layer(words(inputs))))
    lite = tfopt.export_tflite(model, None, INT16, representative_data=WORDS)
    assert not lite.float_tensors()
    want = model.predict(WORDS, verbose=0)
    assert np.mean((lite.predict(WORDS) - want) ** 2) < 1e-3 * np.var(want)


def test_a_lookup_table_has_8_bits():
    inputs = keras.Input((6,), dtype="int32")
    table = keras.layers.Embedding(9, 8)
    model = keras.Model(inputs, keras.layers.Dense(3)(table(inputs)))
    lite = tfopt.export_tflite(model, None, INT16, representative_data=WORDS)
    (stored,) = [weight for weight in lite.weights() if weight.readers[0].name == "GATHER"]
    want = table.get_weights()[0]
    assert stored.tensor.dtype == "int8"
    assert np.abs(stored.values).max() == 127
    np.testing.assert_allclose(stored.values * (np.abs(want).max() / 127), want, atol=np.abs(want).max() / 250)


def test_a_table_of_two_lookups_is_stored_once():
    first, second = (keras.Input((6,), dtype="int32", name=name) for name in ("first", "second"))
    table = keras.layers.Embedding(300, 8)
    model = keras.Model([first, second], keras.layers.Dense(3)(table(first) * table(second)))
    samples = [np.random.default_rng(seed).integers(0, 300, (64, 6)).astype("int32") for seed in (0, 1)]
    lite = tfopt.export_tflite(model, None, INT16, representative_data=samples)
    readers = [op for op in lite.ops() if op.name == "GATHER"]
    assert len(readers) == 2 and len({op.inputs[0] for op in readers}) == 1
    assert len(lite.data) < 2 * 300 * 8, "no table of int16 values is left"
    want, got = model.predict(samples, verbose=0), lite.predict(samples)
    assert np.mean((got - want) ** 2) < 1e-3 * np.var(want)


def test_a_table_that_is_a_kernel_too_stays_in_int16():
    from ai_edge_litert import schema_py_generated as schema

    table = new_tensor("table", (4, 2), scale=0.5)
    rows, same = new_tensor("rows", (3, 2), scale=0.5), new_tensor("same", (4, 2), scale=0.5)
    model, subgraph = schema.ModelT(), schema.SubGraphT()
    values = np.array([[254, -254], [127, 64], [0, 1], [2, -1]], np.int16)
    model.buffers, model.operatorCodes, model.subgraphs = [schema.BufferT() for _ in range(2)], [], [subgraph]
    model.buffers[1].data, table.buffer = values.reshape(-1).view(np.uint8), 1
    subgraph.tensors = [table, new_tensor("numbers", (3,)), rows, same]
    lookup = new_operator(model, schema.BuiltinOperator.GATHER, [0, 1], [2])
    subgraph.operators = [lookup, new_operator(model, schema.BuiltinOperator.ABS, [0], [3])]
    assert with_int8_tables(model, subgraph)
    np.testing.assert_array_equal(stored(model, table).view(np.int16), values.reshape(-1))
    narrow = subgraph.tensors[int(lookup.inputs[0])]
    assert narrow.quantization.scale == [1.0], "127 steps reach 254 of the wide ones"
    np.testing.assert_array_equal(stored(model, narrow).view(np.int8), [127, -127, 64, 32, 0, 0, 1, 0])


def new_tensor(name, shape, scale=None):
    from ai_edge_litert import schema_py_generated as schema

    made = schema.TensorT()
    made.name, made.shape, made.buffer = name.encode(), np.array(shape, np.int32), 0
    made.type = schema.TensorType.INT32 if scale is None else schema.TensorType.INT16
    if scale is not None:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = np.array([scale], np.float32)
    return made


def test_two_values_that_are_computed_are_not_compared_for_equality():
    """A step of int16 is too coarse to tell equal values from others. The operator stays in float where it may."""
    inputs = keras.Input((6, 8))
    equal = keras.layers.Lambda(lambda x: keras.ops.equal(keras.ops.abs(x), x), name="same")(inputs)
    model = keras.Model(inputs, keras.ops.cast(equal, "float32") * inputs)
    with pytest.raises(ModelError, match=r"EQUAL.* same"):
        tfopt.export_tflite(model, None, ONLY_INT16, representative_data=X)
    lite = tfopt.export_tflite(model, None, INT16, representative_data=X)
    assert any("same (EQUAL)" in note and "LiteRT has no int16 operator for it" in note for note in lite.notes)


def test_an_operator_without_a_form_is_named():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: keras.ops.sin(x) + 1.0, name="wave")(inputs))
    with pytest.raises(ModelError, match=r"no operator SIN for int16.* in wave"):
        tfopt.export_tflite(model, None, ONLY_INT16, representative_data=X[:, 0, :4])


def test_a_float_operator_is_not_about_integers():
    data = float_file(lambda x: tf.where(tf.sin(x) > 0.5, x, 1.0)).data
    words = "Quantization to 16x8-bit not yet supported for op: '{}'."
    assert is_about_integers(data, words.format("LOGICAL_AND"))
    assert not is_about_integers(data, words.format("SIN"))
    assert not is_about_integers(data, "out of memory")


def test_int8_values_besides_lookup_tables_are_not_allowed_with_int16_activations():
    from tfopt.tflite.prove.types import verify_types
    from tfopt.tflite.read.layer_names import LayerNames

    inputs = keras.Input((6,), dtype="int32")
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Embedding(9, 8)(inputs)))
    lite = tfopt.export_tflite(model, None, dataclasses.replace(INT16, activations="int8"), representative_data=WORDS)
    with pytest.raises(PromiseError, match="produce int8"):
        verify_types(lite, dataclasses.replace(INT16, io="int16"), {}, LayerNames(lite, []))
