"""States of LSTMs that the converter shares with constant zeros of the same shape."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.tflite.read.flatbuffer import unpacked
from tfopt.tflite.write.own_states import KEEPING_STATES

L = keras.layers
X = np.random.default_rng(0).uniform(size=(96, 12, 6)).astype("float32")


def chain(*layers):
    """Return a model whose outputs all vary: recurrent weights that Keras draws differ with the machine's LAPACK."""
    model = keras.Sequential([L.Input((12, 6)), *layers])
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(0.3 * (weight.ndim == 1), 0.3, weight.shape) for weight in model.get_weights()])
    return model


def with_zeros():
    keras.utils.set_random_seed(0)
    inputs = L.Input((12, 6))
    x = L.LSTM(8)(L.Dense(6)(inputs))
    return keras.Model(inputs, keras.ops.concatenate([x, keras.ops.zeros_like(x), 2 * x], axis=-1))


MODELS = {
    "LSTM, GRU": lambda: chain(L.LSTM(8, return_sequences=True), L.GRU(8, return_sequences=True)),
    "LSTM, SimpleRNN": lambda: chain(L.LSTM(8, return_sequences=True), L.SimpleRNN(8)),
    "BiLSTM, GRU": lambda: chain(L.Bidirectional(L.LSTM(8, return_sequences=True)), L.GRU(8), L.Dense(3)),
    "autoencoder": lambda: chain(L.LSTM(8), L.RepeatVector(4), L.GRU(8, return_sequences=True)),
    "LSTM, own activation": lambda: chain(L.LSTM(8, return_sequences=True), L.LSTM(8, activation="relu")),
    "zeros": with_zeros,
}
FORMS = {
    "float32": (tfopt.Export(weights="float32", activations="float32"), 1e-9),
    "weight only": (tfopt.Export(weights="int8", activations="float32", weight_only=True), 2e-2),
    "dynamic": (tfopt.Export(weights="int8", activations="float32"), 2e-2),
    "int8": (tfopt.Export(), 5e-2),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_no_state_is_read_by_another_operator(name, form):
    model, (settings, most) = MODELS[name](), FORMS[form]
    lite = tfopt.export_tflite(model, None, settings, representative_data=X)
    keeping = [op for op in lite.ops() if op.name in KEEPING_STATES]
    raw = unpacked(lite.data).subgraphs[0]
    states = {index for index, tensor in enumerate(raw.tensors) if tensor.isVariable}
    if form == "float32":
        assert keeping and states
    for op in (op for op in lite.ops() if op.subgraph == 0 and op not in keeping):
        assert not states & set(op.inputs)
    want = np.asarray(model.predict(X, verbose=0), "float64")
    assert np.square(lite.predict(X) - want).mean() < most * want.var()
