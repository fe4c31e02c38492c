"""Models of texts whose Input has Keras's default dtype, float32: their files take integers, whatever they hold."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import DataError
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import FLOAT

ROWS = 3000  # 256 steps of an int8 input could not tell them apart
IDS = np.random.default_rng(0).integers(0, ROWS, (40, 6))


def model_of(api):
    table = api.layers.Embedding(ROWS, 4, embeddings_initializer=api.initializers.RandomNormal(stddev=1.0))
    inputs = api.Input((6,), name="words")
    return api.Model(inputs, api.layers.Dense(2)(api.layers.GlobalAveragePooling1D()(table(inputs))))


def wanted_of(model, ids):
    table, kernel, bias = (weight.astype(np.float64) for weight in model.get_weights())
    return table[ids].mean(axis=1) @ kernel + bias


def noise(got, wanted):
    return np.mean((got - wanted) ** 2) / np.var(wanted)


@pytest.mark.parametrize("api", [keras, tf_keras()])
@pytest.mark.parametrize("export", [tfopt.Export(), FLOAT, tfopt.Export(weights="int4")])
def test_files_take_integers(api, export):
    model = model_of(api)
    data = None if export == FLOAT else IDS.astype("float32")
    lite = tfopt.export_tflite(model, export=export, representative_data=data)
    assert lite.inputs[0].dtype == "int32"
    assert export == FLOAT or not lite.float_tensors()
    for dtype in ("float32", "int64"):
        limit = 0.05 if export.weights == "int4" else 1e-3  # measured 2e-2 and 2e-4
        assert noise(lite.predict(IDS.astype(dtype)), wanted_of(model, IDS)) < limit


def test_trained_for_int8_they_take_integers():
    model, stage = model_of(keras), tfopt.Quantize()
    aware = stage.apply(model, steps=1)
    stage.calibrate(aware, IDS.astype("float32"))
    lite = tfopt.export_tflite(aware, representative_data=IDS)
    assert lite.inputs[0].dtype == "int32"
    assert noise(lite.predict(IDS), wanted_of(model, IDS)) < 1e-3


def test_scaled_indices_are_refused():
    data = IDS / ROWS
    with pytest.raises(DataError, match=r"input 'words' must have int32 numbers, .*; sample 0 has others"):
        tfopt.export_tflite(model_of(keras), representative_data=data)


def test_files_of_others_with_a_float_input_are_timed_on_indices():
    import tensorflow as tf

    class Lookup(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 6), tf.float32)])
        def __call__(self, x):
            return tf.gather(tf.reshape(tf.range(40, dtype=tf.float32), (10, 4)), tf.cast(tf.reshape(x, (6,)), "int32"))

    module = Lookup()
    data = tf.lite.TFLiteConverter.from_concrete_functions([module.__call__.get_concrete_function()], module).convert()
    lite = LiteModel(data)
    assert lite.inputs[0].dtype == "float32"
    np.testing.assert_array_equal(lite.random_sample(), np.zeros((1, 6)))
    numbers = tfopt.export_tflite(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), export=FLOAT)
    assert np.unique(numbers.random_sample()).size == 3
