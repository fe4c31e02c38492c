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
from tfopt.tflite.read.flatbuffer import rewritten
from tfopt.tflite.write.int16_choices import is_about_integers, with_int16_choices

FLOAT = tfopt.Export(weights="float32", activations="float32")
INT16 = tfopt.Export(activations="int16")
X = np.random.default_rng(0).normal(size=(64, 6, 8)).astype("float32")
WORDS = np.random.default_rng(1).integers(0, 9, (64, 6)).astype("int32")
MOVES = {"STRIDED_SLICE", "RESHAPE", "TRANSPOSE"}

CHOICES = {
    "a number or another": lambda x: tf.where(x > 0.25, 2.0, -3.0),
    "values or others": lambda x: tf.where(x < 0.25, x * 2.0, x[:, :1] - 1.0),
    "values or zero": lambda x: tf.where(x >= x[:, ::-1], x, 0.0),
    "zero or values": lambda x: tf.where(x <= 0.0, 0.0, x),
    "rows by their first value": lambda x: tf.where(x[..., :1] > 0.0, x, -x),
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


def test_an_operator_without_a_form_is_named():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: keras.ops.sin(x) + 1.0, name="wave")(inputs))
    with pytest.raises(ModelError, match=r"no operator SIN for int16.* in wave"):
        tfopt.export_tflite(model, None, INT16, representative_data=X[:, 0, :4])


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
