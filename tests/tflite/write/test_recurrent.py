"""Recurrent layers of every form, step by step and as .tflite. Expected values come from Keras."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

import tfopt
from tfopt import bridge
from tfopt.base.overrides import override_attributes
from tfopt.errors import ModelError
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write import float_rival
from tfopt.tflite.write.recurrent import maskings, recurrent_layers, unrolled

K = keras.layers
STEPS, FEATURES, UNITS, COUNT = 5, 3, 4, 32
RNG = np.random.default_rng(0)
X = RNG.normal(size=(COUNT, STEPS, FEATURES)).astype("float32")
# Sequences of 2 to 5 steps, padded with zeros; the first also has a hole in the middle.
LENGTHS = 2 + np.arange(COUNT) % 4
PADDED = np.where(np.arange(STEPS)[None, :, None] < LENGTHS[:, None, None], X, 0).astype("float32")
PADDED[3, 2] = 0
WORDS = np.where(np.arange(STEPS) < LENGTHS[:, None], RNG.integers(1, 9, (COUNT, STEPS)), 0).astype("int32")
STATES = [RNG.normal(size=(COUNT, UNITS)).astype("float32") for _ in range(2)]


@keras.saving.register_keras_serializable("test_recurrent")
class OwnCell(keras.layers.Layer):
    """h' = tanh(x W + h R)."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size = self.output_size = UNITS

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], UNITS))
        self.recurrent_kernel = self.add_weight(shape=(UNITS, UNITS))
        self.built = True

    def call(self, values, states, training=None):
        given = keras.ops.matmul(values, self.kernel) + keras.ops.matmul(states[0], self.recurrent_kernel)
        state = keras.ops.tanh(given)
        return state, [state]


def sequential(*layers):
    return keras.Sequential([keras.Input((STEPS, FEATURES)), *layers])


def words(*layers):
    table = K.Embedding(9, 3, mask_zero=True, embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0))
    return keras.Sequential([keras.Input((STEPS,), dtype="int32"), table, *layers])


def states_out(layer):
    inputs = keras.Input((STEPS, FEATURES))
    return keras.Model(inputs, K.Concatenate()(layer(inputs)))


def encoder_decoder(kind):
    source, target = keras.Input((STEPS, FEATURES), name="a"), keras.Input((STEPS, FEATURES), name="b")
    _, *states = kind(UNITS, return_state=True)(source)
    decoded = kind(UNITS, return_sequences=True)(target, initial_state=states)
    return keras.Model([source, target], K.Dense(2)(decoded))


def states_in():
    inputs = keras.Input((STEPS, FEATURES), name="a")
    states = [keras.Input((UNITS,), name=name) for name in "bc"]
    return keras.Model([inputs, *states], K.LSTM(UNITS)(inputs, initial_state=states))


TEXTBOOK = {
    "lstm": (lambda: sequential(K.LSTM(UNITS, return_sequences=True)), X),
    "lstm backwards": (lambda: sequential(K.LSTM(UNITS, go_backwards=True, dropout=0.2)), X),
}
LOOPS = {
    "lstm relu": (lambda: sequential(K.LSTM(UNITS, activation="relu")), X),
    "lstm hard_sigmoid": (lambda: sequential(K.LSTM(UNITS, recurrent_activation="hard_sigmoid")), X),
    "lstm softsign": (lambda: sequential(K.LSTM(UNITS, activation="softsign")), X),
    "lstm without bias": (lambda: sequential(K.LSTM(UNITS, use_bias=False)), X),
    "lstm recurrent_dropout": (lambda: sequential(K.LSTM(UNITS, recurrent_dropout=0.2)), X),
    "lstm return_state": (lambda: states_out(K.LSTM(UNITS, return_state=True)), X),
    "lstm masked": (lambda: sequential(K.Masking(), K.LSTM(UNITS)), PADDED),
    "lstm words": (lambda: words(K.LSTM(UNITS, return_sequences=True)), WORDS),
    "bidirectional masked": (lambda: sequential(K.Masking(), K.Bidirectional(K.LSTM(UNITS))), PADDED),
    "gru": (lambda: sequential(K.GRU(UNITS, reset_after=False)), X),
    "gru reset before": (lambda: sequential(K.Masking(), K.GRU(UNITS, reset_after=False)), PADDED),
    "gru masked": (lambda: sequential(K.Masking(), K.GRU(UNITS, return_sequences=True)), PADDED),
    "gru words": (lambda: words(K.Bidirectional(K.GRU(UNITS, return_sequences=True))), WORDS),
    "stacked cells": (lambda: sequential(K.RNN([K.LSTMCell(UNITS), K.GRUCell(UNITS)])), X),
    "own cell": (lambda: sequential(K.RNN(OwnCell())), X),
    "own cell masked": (lambda: sequential(K.Masking(), K.RNN(OwnCell(), return_sequences=True)), PADDED),
    "encoder-decoder lstm": (lambda: encoder_decoder(K.LSTM), {"a": X, "b": X[::-1]}),
    "encoder-decoder gru": (lambda: encoder_decoder(K.GRU), {"a": X, "b": X[::-1]}),
    "lstm states in": (states_in, {"a": X, "b": STATES[0], "c": STATES[1]}),
    "convolutional": (lambda: sequential(K.Reshape((STEPS, FEATURES, 1)), K.ConvLSTM1D(4, 2, padding="same")), X),
}
# One form for each path through the code is converted; all are computed step by step.
CONVERTED = ("lstm relu", "lstm return_state", "lstm masked", "bidirectional masked", "gru words", "own cell masked",
             "gru reset before", "encoder-decoder lstm", "lstm states in", "convolutional")  # fmt: skip


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def noise(got, wanted):
    """The mean squared difference as a fraction of the variance."""
    return np.mean((np.asarray(got) - wanted) ** 2) / np.var(wanted)


def flat_inputs(data):
    return list(data.values()) if isinstance(data, dict) else data


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTBOOK | LOOPS)
@pytest.mark.parametrize("blended", [False, True])
def test_step_by_step_they_compute_the_same(name, blended):
    make, data = (TEXTBOOK | LOOPS)[name]
    model = make()
    flat = bridge.to_tf_keras(model)
    wanted = np.asarray(model.predict(data, verbose=0))
    with override_attributes(maskings(flat) + unrolled(recurrent_layers(flat), blended=blended)):
        got = flat(flat_inputs(data), training=False)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(flat(flat_inputs(data), training=False), wanted, atol=1e-5)  # and afterwards


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTBOOK | LOOPS)
def test_what_the_converter_fuses_is_known_by_structure(name):
    flat = bridge.to_tf_keras((TEXTBOOK | LOOPS)[name][0]())
    assert all(one.fused for one in recurrent_layers(flat)) == (name in TEXTBOOK)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERTED)
def test_int8_files_follow_keras(name):
    make, data = LOOPS[name]
    model = make()
    wanted = model.predict(data, verbose=0)
    lite = tfopt.export_tflite(model, representative_data=data)
    assert not lite.float_tensors()
    # Measured 4e-4 to 1.2e-3: 8-bit gates over five steps.
    assert noise(lite.predict(data), wanted) < 4e-3


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.4, 1.0, 8.0])
def test_lstm_operators_compute_right_whatever_the_size_of_their_states(scale):
    """LiteRT has no int8 tanh of a cell state whose scale is below 2^-15: outputs were at the end of their range."""
    model = sequential(K.LSTM(3, return_sequences=True), K.LSTM(UNITS), K.Dense(2))
    model.set_weights([weight * scale for weight in model.get_weights()])
    lite = tfopt.export_tflite(model, representative_data=X)
    assert [op.name for op in lite.ops()].count("UNIDIRECTIONAL_SEQUENCE_LSTM") == 2
    assert noise(lite.predict(X), model.predict(X, verbose=0)) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("sequences", [False, True])
def test_bidirectional_lstms_are_two_operators(sequences):
    """CONCATENATION gives both outputs one scale, and LiteRT takes the hidden states to have it too."""
    model = sequential(K.Bidirectional(K.LSTM(UNITS, return_sequences=sequences)), K.Dense(2))
    lite = tfopt.export_tflite(model, representative_data=X)
    assert not lite.float_tensors()
    assert [op.name for op in lite.ops()].count("UNIDIRECTIONAL_SEQUENCE_LSTM") == 2
    assert noise(lite.predict(X), model.predict(X, verbose=0)) < 2e-3  # measured 3e-4; was 5e-3 to 0.8


@pytest.mark.slow
@pytest.mark.parametrize("kind", [K.LSTM, K.GRU])
def test_float_files_leave_the_number_of_steps_free(kind):
    source, target = keras.Input((None,), dtype="int32", name="a"), keras.Input((None, FEATURES), name="b")
    _, *states = kind(UNITS, return_state=True)(K.Embedding(9, 3, mask_zero=True)(source))
    model = keras.Model([source, target], kind(UNITS, return_sequences=True)(target, initial_state=states))
    lite = tfopt.export_tflite(model, export=FLOAT)
    for steps in (STEPS, 3):
        data = {"a": WORDS[:, :steps], "b": X[:, : steps - 1]}
        np.testing.assert_allclose(lite.predict(data), model.predict(data, verbose=0), atol=1e-5)


def test_stateful_layers_are_refused():
    inputs = keras.Input(batch_shape=(1, STEPS, FEATURES))
    model = keras.Model(inputs, K.GRU(UNITS, stateful=True, name="going_on")(inputs))
    with pytest.raises(ModelError, match=r"going_on are stateful.*stateful=False.*return_state=True"):
        tfopt.export_tflite(model, export=FLOAT)


def test_an_autoencoder_has_operators_of_microcontrollers():
    """tensorflow/tflite-micro issue 2231: TILE is not one of them."""
    decoder = [K.RepeatVector(STEPS), K.LSTM(UNITS, return_sequences=True), K.TimeDistributed(K.Dense(FEATURES))]
    model = sequential(K.LSTM(UNITS), *decoder)
    lite = tfopt.export_tflite(model, representative_data=X)
    assert not lite.float_tensors()
    assert "TILE" not in {op.name for op in lite.ops()}
    assert noise(lite.predict(X), model.predict(X, verbose=0)) < 4e-3


@pytest.mark.slow
def test_float_files_are_exact():
    for name in ("lstm masked", "encoder-decoder lstm"):
        make, data = LOOPS[name]
        model = make()
        lite = tfopt.export_tflite(model, export=FLOAT)
        np.testing.assert_allclose(lite.predict(data), model.predict(data, verbose=0), atol=1e-5)


def test_a_mask_of_another_value_is_distinguished_in_int8():
    """Padding is -1; features range from -1 to 3, and zero is a value like any other."""
    data = np.where(PADDED == 0, -1, np.abs(X)).astype("float32")
    data[::4, 0] = 0
    model = sequential(K.Masking(mask_value=-1.0), K.GRU(UNITS))
    lite = tfopt.export_tflite(model, representative_data=data)
    assert not lite.float_tensors()
    assert noise(lite.predict(data), model.predict(data, verbose=0)) < 4e-3
    zeros = data.copy()
    zeros[:, 1] = 0  # no padding, but at the end of a range that would leave out -1
    assert noise(lite.predict(zeros), model.predict(zeros, verbose=0)) < 4e-3


@pytest.mark.slow
def test_trained_for_int8_they_follow_the_model():
    make, data = LOOPS["lstm masked"]
    stage = tfopt.Quantize()
    aware = stage.apply(make(), steps=1)
    stage.calibrate(aware, data)
    lite = tfopt.export_tflite(aware, representative_data=data)
    assert not lite.float_tensors()
    assert noise(lite.predict(data), aware.predict(data, verbose=0)) < 4e-3


def test_long_loops_of_an_lstm_are_refused_by_structure():
    long = np.zeros((2, 200, 3), "float32")
    model = keras.Sequential([keras.Input((200, 3)), K.LSTM(4, activation="relu", name="slow")])
    with pytest.raises(ModelError, match=r"int8 activations for slow.*128 steps.*\[200\].*float32"):
        tfopt.export_tflite(model, representative_data=long)


def test_a_note_where_int8_does_not_pay():
    """Twelve copies of the operators of a cell are larger than one loop in float."""
    package = keras
    x = np.random.default_rng(0).normal(size=(40, 12, 8)).astype("float32")

    def exported(layer, **settings):
        model = package.Sequential([package.Input((12, 8)), layer])
        return tfopt.export_tflite(model, None, tfopt.Export(**settings), representative_data=x)

    unrolled = exported(package.layers.LSTM(6, activation="relu"))
    loop = exported(package.layers.LSTM(6, activation="relu"), weights="float32", activations="float32")
    [note] = [note for note in unrolled.notes if note.startswith("recurrent layers: ")]
    assert f" {unrolled.size:,} bytes and" in note
    floats = int(note.partition("in float32 ")[2].split(" bytes")[0].replace(",", ""))
    assert floats == pytest.approx(loop.size, abs=64) and floats < unrolled.size
    assert not any("recurrent" in note for note in (*loop.notes, *exported(package.layers.Dense(6)).notes))


def test_files_are_timed_in_turns(monkeypatch):
    """Rounds take 3, 1 and 2 ms for the first file, and 5, 9 and 6 ms for the second: the medians are 2 and 6."""
    seconds = iter(np.cumsum([0, 3, 0, 5, 0, 1, 0, 9, 0, 2, 0, 6]) / 1000)
    monkeypatch.setattr(float_rival.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(float_rival, "ROUNDS", 3)
    asked = []
    files = [SimpleNamespace(predict=lambda x, name=name: asked.append((name, x))) for name in "ab"]
    assert float_rival._milliseconds(files, "x") == pytest.approx([2, 6])
    assert asked == [("a", "x"), ("b", "x")] * 3


@pytest.mark.parametrize(
    ("size", "times", "said"),
    [(99, (10.9, 10), False), (99, (11, 10), True), (100, (1, 10), True)],
    ids=["smaller", "slower", "no smaller"],
)
def test_a_note_where_the_float_file_is_as_small_or_faster(monkeypatch, size, times, said):
    monkeypatch.setattr(float_rival, "recurrent_layers", lambda _: ["lstm"])
    monkeypatch.setattr(float_rival, "convert", lambda *_, **__: b"")
    monkeypatch.setattr(float_rival, "compact", lambda data: data)
    monkeypatch.setattr(float_rival, "LiteModel", lambda _: SimpleNamespace(size=100))
    monkeypatch.setattr(float_rival, "_milliseconds", lambda *_: list(times))
    lite = SimpleNamespace(size=size)
    notes = float_rival.compared_with_float(None, None, lite, tfopt.Export(), [X[:1]])
    ours, theirs = f"{size} bytes and {times[0]:.2f} ms a sample in int8", "in float32 100 bytes and 10.00 ms"
    assert notes == ([f"recurrent layers: {ours}; {theirs}"] if said else [])


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"weights": "float32", "activations": "float32"}, {}, {"activations": "int16"}],
    ids=["float32", "int8", "int16"],
)
def test_states_of_an_encoder_that_gives_its_sequence_too(settings):
    """LiteRT opens the file with loops, and does not run it."""
    keras.utils.set_random_seed(0)
    source, target = keras.Input((6, 4)), keras.Input((5, 4))
    _, *states = K.LSTM(8, return_state=True, return_sequences=True)(source)
    model = keras.Model([source, target], K.Dense(3)(K.LSTM(8)(target, initial_state=states)))
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(96, steps, 4)).astype("float32") for steps in (6, 5)]
    lite = tfopt.export_tflite(model, None, tfopt.Export(**settings), representative_data=x)
    want = model.predict(x, verbose=0)
    assert np.mean((lite.predict(x) - want) ** 2) < 2e-3 * np.var(want)


def test_an_lstm_behind_another_layer_in_int16():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 4)), K.Dense(5), K.LSTM(8), K.Dense(3)])
    x = np.random.default_rng(0).normal(size=(96, 6, 4)).astype("float32")
    lite = tfopt.export_tflite(model, None, tfopt.Export(activations="int16"), representative_data=x)
    want = model.predict(x, verbose=0)
    assert not lite.float_tensors() and np.mean((lite.predict(x) - want) ** 2) < 1e-3 * np.var(want)


@pytest.mark.parametrize(
    "layer, activations",
    [(K.LSTM(8), "int16"), (K.Bidirectional(K.GRU(5)), "int8"), (K.GRU(8), "int16")],
    ids=["lstm-int16", "gru-int8", "gru-int16"],
)
def test_a_free_number_of_steps_is_that_of_the_samples(layer, activations):
    """LiteRT does not open an int16 LSTM as one operator, and a loop has no ranges: only unrolled steps are left."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((None, 4)), layer, K.Dense(3)])
    x = np.random.default_rng(0).normal(size=(96, 6, 4)).astype("float32")
    lite = tfopt.export_tflite(model, None, tfopt.Export(activations=activations), representative_data=x)
    want = model.predict(x, verbose=0)
    assert not lite.float_tensors() and np.mean((lite.predict(x) - want) ** 2) < 5e-3 * np.var(want)
    assert any("made for inputs of the samples' size, (1, 6, 4)" in note for note in lite.notes)
