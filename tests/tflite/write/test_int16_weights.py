"""Weights that the converter treats as activations, with int16 activations: tied embeddings, constants in products."""

import keras
import numpy as np
import pytest

import tfopt

RNG = np.random.default_rng(3)
ops = keras.ops


def tied():
    words = keras.Input((6,), dtype="int32")
    table = keras.layers.ReversibleEmbedding(20, 8)
    return keras.Model(words, table(keras.layers.Dense(8, activation="relu")(table(words)), reverse=True))


def product(*shape, left=False):
    inputs, constant = keras.Input((4, 6)), RNG.normal(size=shape).astype("float32")
    hidden = keras.layers.Dense(6)(inputs)
    return keras.Model(inputs, ops.matmul(constant, hidden) if left else ops.matmul(hidden, constant))


MODELS = {"tied": tied, "batched": lambda: product(1, 6, 3), "left": lambda: product(5, 4, left=True)}


@pytest.mark.parametrize("name", MODELS)
def test_such_weights_become_int16_with_a_note(name):
    model = MODELS[name]()
    x = (
        RNG.integers(0, 20, (64, 6)).astype("int32")
        if name == "tied"
        else RNG.normal(size=(64, 4, 6)).astype("float32")
    )
    lite = tfopt.export_tflite(model, None, tfopt.Export(activations="int16"), representative_data=x)
    assert not lite.float_tensors()
    assert any(note.startswith("int16 weights, since the converter has no int8 form for them") for note in lite.notes)
    want = model.predict(x, verbose=0)
    assert np.mean((lite.predict(x) - want) ** 2) / want.var() < 1e-3
