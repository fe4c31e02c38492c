"""Operators of an int16 file in float. Expected values come from the float file."""

from dataclasses import replace

import keras
import numpy as np
import pytest

import tfopt
from tfopt.tflite.read import LiteModel
from tfopt.tflite.write.float_islands import with_float_islands

K = keras.layers
X = np.random.default_rng(0).normal(size=(40, 6, 6, 3)).astype("float32")
INT16 = tfopt.Export(activations="int16", compact=False)


def two_ends():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    first = K.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    second = K.Conv2D(4, 1)(first)
    joined = K.Concatenate()([K.Add()([first, second]), K.MaxPooling2D(3, 1, "same")(inputs)])
    flat = K.Flatten()(joined)
    return keras.Model(inputs, [K.Dense(3, activation="softmax")(flat), K.Dense(2)(flat), joined])


@pytest.fixture(scope="module")
def files():
    model = two_ends()
    floats = tfopt.export_tflite(model, None, tfopt.Export(weights="float32", activations="float32", compact=False))
    return floats, {io: tfopt.export_tflite(model, None, replace(INT16, io=io), representative_data=X) for io in IO}


IO = ("float32", "int16")


def names_of(floats):
    tensors = {tensor.index: tensor.name for tensor in floats.tensors()}
    return [[tensors[end] for end in op.outputs] for op in floats.ops()]


def noise(got, want):
    return max(np.mean((g - w) ** 2) / np.var(w) for g, w in zip(got, want, strict=True))


@pytest.mark.parametrize("io", IO)
def test_each_operator_alone(files, io):
    floats, quantized = files
    want = floats.predict(X)
    for op, outputs in zip(floats.ops(), names_of(floats), strict=True):
        made = LiteModel(with_float_islands(quantized[io].data, floats.data, outputs))
        in_float = {t.index for t in made.tensors() if t.dtype == "float32"}
        computed = [one.name for one in made.ops() if one.outputs[0] in in_float and one.inputs[0] in in_float]
        assert computed == [op.name], "only this one has float inputs and outputs"
        assert noise(made.predict(X), want) < 1e-4


def test_all_operators_together_are_the_float_file(files):
    floats, quantized = files
    names = [name for outputs in names_of(floats) for name in outputs]
    made = LiteModel(with_float_islands(quantized["float32"].data, floats.data, names))
    assert [op.name for op in made.ops()] == [op.name for op in floats.ops()]
    for got, want in zip(made.predict(X), floats.predict(X), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert not any(weight.tensor.dtype == "int8" for weight in made.weights())


def test_an_input_that_is_an_output():
    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, [K.Identity()(inputs), K.Conv2D(2, 1)(inputs)])
    floats = tfopt.export_tflite(model, None, tfopt.Export(weights="float32", activations="float32", compact=False))
    quantized = tfopt.export_tflite(model, None, replace(INT16, io="float32"), representative_data=X)
    names = [name for outputs in names_of(floats) for name in outputs]
    made = LiteModel(with_float_islands(quantized.data, floats.data, names))
    assert noise(made.predict(X), floats.predict(X)) < 1e-6


def test_raw_features_of_unlike_scale_stay_in_float():
    """In 8 bits, the weights of the feature with the smallest values leave nothing to the others."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(mean, spread, 400) for mean, spread in ((50, 900), (0.3, 0.002), (-140, 15))], 1)
    x = x.astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), K.Dense(16, "relu", name="wide"), K.BatchNormalization(), K.Dense(4)])
    kernel = model.layers[0].get_weights()[0] / x.std(axis=0)[:, None]
    model.layers[0].set_weights([kernel, -x.mean(axis=0) @ kernel])
    lite = tfopt.export_tflite(model, None, tfopt.Export(activations="int16"), representative_data=x[:256])
    [note] = [note for note in lite.notes if note.startswith("float operators in the file: wide (FULLY_CONNECTED)")]
    assert "for noise of at most" in note and lite.inputs[0].dtype == "float32"
    assert noise([lite.predict(x)], [model.predict(x, verbose=0)]) < 0.02
    with pytest.raises(tfopt.errors.PromiseError, match="mixed=True"):
        tfopt.export_tflite(model, None, tfopt.Export(activations="int16", mixed=False), representative_data=x[:256])
