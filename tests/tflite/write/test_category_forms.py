"""Categories in a file: counted and looked up without the operators that LiteRT lacks. Expected values by hand."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt import Export
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write.category_forms import counted

BOTH = pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])
PAIRS = np.array([[0, 2], [2, 2], [1, 0], [3, 3]], np.int64)


def file_of(api, layer, width, dtype="int64", export=FLOAT, data=None):
    inputs = api.Input((width,), dtype=dtype)
    return tfopt.export_tflite(api.Model(inputs, layer(inputs)), None, export, representative_data=data)


@BOTH
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("multi_hot", [[1, 0, 1, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]]),
        ("count", [[1, 0, 1, 0], [0, 0, 2, 0], [1, 1, 0, 0], [0, 0, 0, 2]]),
    ],
)
def test_categories_are_counted(api, mode, expected):
    lite = file_of(api, api.layers.CategoryEncoding(4, output_mode=mode), 2)
    np.testing.assert_array_equal(lite.predict(PAIRS), expected)


@BOTH
def test_one_category_is_one_hot(api):
    lite = file_of(api, api.layers.CategoryEncoding(4, output_mode="one_hot"), 1)
    np.testing.assert_array_equal(lite.predict(PAIRS[:, :1]), np.eye(4)[[0, 2, 1, 3]])


def test_weights_are_counted():
    inputs = [keras.Input((2,), dtype="int64", name="x"), keras.Input((2,), name="w")]
    model = keras.Model(
        inputs, keras.layers.CategoryEncoding(4, output_mode="count")(inputs[0], count_weights=inputs[1])
    )
    given = {"x": PAIRS[:2], "w": np.array([[0.5, 2], [1, 0.25]], "float32")}
    lite = tfopt.export_tflite(model, None, FLOAT)
    np.testing.assert_allclose(lite.predict(given), [[0.5, 0, 2, 0], [0, 0, 1.25, 0]])


def test_without_a_constant_size_the_operation_stays():
    with tf.Graph().as_default():
        size = tf.compat.v1.placeholder(tf.int64, ())
        assert counted(tf.constant([[1]], tf.int64), size, tf.zeros((0,)), binary=True) is None
        between = tf.minimum(tf.constant(3, tf.int64), tf.maximum(tf.constant(2, tf.int64), size))
        assert counted(tf.constant([[1]], tf.int64), between, tf.zeros((0,)), binary=True) is None


LOOKUPS = {  # vocabulary [70, 20, 35]: what is not in it comes first, then what is, in its order
    "plain": ({}, [[1, 0], [3, 2]], [[70, 7], [35, 20]]),
    "masked": ({"mask_token": 0}, [[2, 0], [1, 4]], [[70, 0], [7, 35]]),
    "three for others": ({"num_oov_indices": 3}, [[1, 5], [2, 3]], [[7, 35], [8, 70]]),
    "none for others": ({"num_oov_indices": 0}, [[1, 2], [0, 0]], [[20, 35], [70, 70]]),
    "counted": ({"output_mode": "count"}, [[1, 1, 0, 0], [0, 0, 0, 2]], [[70, 7], [35, 35]]),
}


@BOTH
@pytest.mark.parametrize("kind", LOOKUPS)
def test_integers_are_looked_up(api, kind):
    arguments, expected, given = LOOKUPS[kind]
    lite = file_of(api, api.layers.IntegerLookup(vocabulary=[70, 20, 35], **arguments), 2)
    np.testing.assert_array_equal(lite.predict(np.array(given, np.int64)), expected)


@pytest.mark.parametrize("activations", ["int8", "int16"])
def test_a_table_of_looked_up_integers_in_integers(activations):
    inputs = keras.Input((2,), dtype="int64")
    words = keras.layers.Embedding(4, 3, embeddings_initializer="normal")
    model = keras.Model(inputs, words(keras.layers.IntegerLookup(vocabulary=[70, 20, 35])(inputs)))
    data = np.random.default_rng(0).choice([70, 20, 35, 7], (64, 2)).astype("int64")
    lite = tfopt.export_tflite(model, None, Export(activations=activations), representative_data=data)
    table = np.asarray(words.embeddings)
    rows = np.select([data == 70, data == 20, data == 35], [1, 2, 3], 0)
    assert not lite.float_tensors()
    np.testing.assert_allclose(lite.predict(data), table[rows], atol=np.abs(table).max() / 100)


def test_numbers_are_hashed_outside():
    inputs = keras.Input((1,), dtype="int32")
    hashed = keras.layers.Hashing(8)(inputs)
    model = keras.Model(inputs, keras.layers.Embedding(8, 3)(hashed))
    with pytest.raises(ModelError, match=r"AsString.*Hash numbers before the model"):
        tfopt.export_tflite(model, None, FLOAT)


def test_words_stay_outside():
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, keras.layers.StringLookup(vocabulary=["a", "b"])(inputs))
    with pytest.raises(ModelError, match=r"LookupTableFindV2.*Look words up before the model"):
        tfopt.export_tflite(model, None, FLOAT)


def test_lookup_tables_are_saved_without_warnings():
    """TensorFlow warns of every table and of every name with a slash in it, before the one message that matters."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("tensorflow", "absl")]
    inputs = keras.Input((1,), dtype="string")
    model = keras.Model(inputs, keras.layers.StringLookup(vocabulary=["a", "b"])(inputs))
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with pytest.raises(ModelError):
            tfopt.export_tflite(model, None, FLOAT)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
    assert not said and levels == [logger.level for logger in loggers]
