"""Models as they are found in public repositories, shrunken: each has broken an export once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt import Export
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import DataError, ModelError, PromiseError
from tfopt.tflite.prove.types import contents
from tfopt.tflite.settings import FLOAT

L, ops = keras.layers, keras.ops
INT4, INT16 = Export(weights="int4"), Export(activations="int16")


def draw(*shape):
    return np.random.default_rng(0).normal(size=(320, *shape)).astype("float32")


def noise(model, lite, x):
    """The largest noise of an output: mean squared error / variance."""
    wanted, got = model.predict(x, verbose=0), lite.predict(x)
    pairs = zip(wanted, got, strict=True) if isinstance(wanted, list) else [(wanted, got)]
    return max(float(np.mean((a - b) ** 2) / np.var(a)) for a, b in pairs)


def chained(x, *layers):
    return keras.Sequential([keras.Input(x.shape[1:]), *layers])


def test_a_layer_that_is_called_twice_has_a_bias_for_each_call():
    """16x8: the scale of a bias is that of its inputs, which differ 20 times between the calls."""
    shared = L.Dense(8, activation="relu", bias_initializer=keras.initializers.Constant(1.5))
    inputs = [keras.Input((6,), name="a"), keras.Input((6,), name="b")]
    model = keras.Model(inputs, L.Dense(3)(L.Concatenate()(list(map(shared, inputs)))))
    x = [draw(6), draw(6)[::-1] * 0.05]
    lite = tfopt.export_tflite(model, None, Export(activations="int16", mixed=False), representative_data=x)
    assert noise(model, lite, x) < 1e-3  # with one bias for both: 2.5


@pytest.mark.slow
@pytest.mark.parametrize("export", [FLOAT, Export(), INT16], ids=["float", "int8", "int16"])
def test_steps_that_move_into_the_batch_and_back(export):
    inputs = keras.Input((6, 6))
    hidden = ops.reshape(L.Dense(5)(ops.reshape(inputs, (-1, 6))), (-1, 6, 5))
    model, x = keras.Model(inputs, L.Dense(3)(L.Flatten()(hidden))), draw(6, 6)
    assert noise(model, tfopt.export_tflite(model, None, export, representative_data=x), x) < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("export", [FLOAT, Export()], ids=["float", "int8"])
def test_a_float_mask_that_changes_its_shape_first(api, export):
    steps, mask = api.Input((8, 12), name="x"), api.Input((8,), name="y")
    attended = api.layers.MultiHeadAttention(2, 6)(steps, steps, attention_mask=api.layers.Reshape((1, 8))(mask))
    model = api.Model([steps, mask], api.layers.Dense(2)(api.layers.Flatten()(attended)))
    kept = np.arange(8) < np.random.default_rng(1).integers(2, 9, (320, 1))
    x = [draw(8, 12), kept.astype("float32")]
    assert noise(model, tfopt.export_tflite(model, None, export, representative_data=x), x) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("export", [Export(), INT16, INT4], ids=["int8", "int16", "int4"])
def test_a_spectrum_stays_in_float(export):
    def spectrum(wave):
        return tf.abs(tf.signal.stft(wave, frame_length=64, frame_step=32))

    x = draw(256)
    model = chained(x, L.Lambda(spectrum, output_shape=(7, 33)), L.Conv1D(4, 3, activation="relu"), L.Flatten())
    lite = tfopt.export_tflite(model, None, export, representative_data=x)
    assert noise(model, lite, x) < 0.05
    assert any("RFFT2D" in note and "no int" in note for note in lite.notes)


@pytest.mark.slow
@pytest.mark.parametrize("last", ["sin", "floor", "sign", "cumsum"])
def test_an_output_of_an_operator_without_an_int16_form(last):
    x = draw(6)
    function = {"sin": tf.sin, "floor": tf.floor, "sign": tf.sign, "cumsum": lambda v: tf.cumsum(v, axis=-1)}[last]
    model = chained(x, L.Dense(4), L.Lambda(function, output_shape=(4,)))
    lite = tfopt.export_tflite(model, None, INT16, representative_data=x)
    assert lite.outputs[0].dtype == "float32" and noise(model, lite, x) < 0.05


def test_a_dynamic_batch_of_free_sizes():
    model = keras.Sequential([keras.Input((None, None, 1)), L.Conv2D(4, 3), L.Conv2D(4, 3)])
    lite = tfopt.export_tflite(model, None, Export(weights="float32", activations="float32", batch="dynamic"))
    x = draw(9, 7, 1)[:3]
    np.testing.assert_allclose(lite.predict(x), model.predict(x, verbose=0), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("export", [FLOAT, Export(), INT16], ids=["float", "int8", "int16"])
def test_gelu_by_hand_is_one_operator(export):
    x = draw(6)
    model = chained(x, L.Dense(4), L.Lambda(lambda v: 0.5 * v * (1 + tf.math.erf(v / 1.41421356)), output_shape=(4,)))
    lite = tfopt.export_tflite(model, None, export, representative_data=x)
    assert sum(op.name == "GELU" for op in lite.ops()) == 1 and noise(model, lite, x) < 0.05


class AddsLoss(L.Layer):
    """As in the OCR example of keras.io: the loss of CTC, with loops, is added where the model is called."""

    def call(self, labels, scores):
        count = ops.ones((ops.shape(labels)[0],), "int32")
        self.add_loss(ops.mean(ops.ctc_loss(labels, scores, 3 * count, 8 * count, mask_index=4)))
        return scores


@pytest.mark.parametrize("export", [FLOAT, Export(), INT16], ids=["float", "int8", "int16"])
def test_a_loss_inside_of_a_model_is_left_out(export):
    wave, labels = keras.Input((8, 6)), keras.Input((3,), dtype="int32")
    model = keras.Model([wave, labels], AddsLoss()(labels, L.Dense(5)(wave)))
    x = [draw(8, 6), np.random.default_rng(0).integers(0, 4, (320, 3)).astype("int32")]
    lite = tfopt.export_tflite(model, None, export, representative_data=x)
    assert [op.name for op in lite.ops() if op.name != "RESHAPE"] == ["FULLY_CONNECTED"]
    assert noise(model, lite, x) < 2e-3


# int4


class WithSine(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.last = L.Dense(8), L.Dense(3)

    def call(self, x):
        return self.last(ops.sin(self.first(x)))


class Pair(L.Layer):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(4)

    def call(self, x):
        made = self.dense(x)
        return made, ops.sin(made)


class Batched(L.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape=(4, shape[-1], 5), name="table")

    def call(self, x):
        return ops.sum(ops.matmul(x, self.table), axis=1)


def subclassed():
    model, x = WithSine(), draw(6)
    model(x[:2])
    return model, x


def with_a_pair():
    inputs = keras.Input((6,))
    return keras.Model(inputs, L.Dense(3)(ops.add(*Pair()(inputs)))), draw(6)


def with_a_batched_constant():
    return chained(draw(4, 9, 6), Batched(), L.Flatten(), L.Dense(3)), draw(4, 9, 6)


def with_a_folded_norm():
    """The converter multiplies the BatchNormalization into the kernel behind it, whose values leave their grid."""
    model = chained(draw(6, 4), L.BatchNormalization(), L.Dense(8, activation="selu"), L.Flatten(), L.Dense(3))
    rng = np.random.default_rng(0)
    model.layers[0].set_weights([rng.uniform(0.5, 1.5, 4) for _ in range(4)])
    return model, draw(6, 4)


@pytest.mark.slow
@pytest.mark.parametrize("made", [subclassed, with_a_pair, with_a_batched_constant, with_a_folded_norm])
def test_int4_where_litert_quantizer_lacks_something(made):
    model, x = made()
    lite = tfopt.export_tflite(model, None, INT4, representative_data=x)
    assert noise(model, lite, x) < 0.05
    assert contents(lite).weights["int4"] > 0


@pytest.mark.slow
def test_int4_rounds_only_what_a_file_can_hold_in_4_bits():
    x = draw(8, 8, 4)
    model = chained(x, L.DepthwiseConv2D(3), L.LeakyReLU(), L.Conv2D(4, 3))
    lite = tfopt.export_tflite(model, None, INT4, representative_data=x)
    assert contents(lite).weights == {"int8": 36, "int4": 144}
    assert any(note.startswith("36 of 180 weights in 8 bits") for note in lite.notes)
    depthwise = next(weight for weight in lite.weights() if weight.tensor.dtype == "int8")
    assert np.unique(depthwise.values).size > 20  # 4 bits have 16 values, times 4 channels with scales of their own
    without = chained(x, L.DepthwiseConv2D(3), L.LeakyReLU())
    lite = tfopt.export_tflite(without, None, INT4, representative_data=x)
    assert noise(without, lite, x) < 2e-3  # as in int8


@pytest.mark.slow
def test_the_file_of_the_other_converter_is_proven_too(monkeypatch):
    from tfopt.tflite.write import four_bits

    rounded = four_bits._rounded

    def broken(*arguments):
        model = rounded(*arguments)
        model.layers[-1].set_weights([weight * 0 for weight in model.layers[-1].get_weights()])
        return model

    monkeypatch.setattr(four_bits, "_rounded", broken)
    x = draw(6)
    with pytest.raises(PromiseError):
        tfopt.export_tflite(chained(x, L.Dense(8), L.LeakyReLU(), L.Dense(3)), None, INT4, representative_data=x)


def test_an_output_of_nothing_but_nan_is_no_random_output():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, ops.log(-1.0 - ops.square(L.Dense(4)(inputs))))
    with pytest.raises(PromiseError, match="the model gives NaN or infinity alone"):
        tfopt.export_tflite(model, None, FLOAT, representative_data=draw(8))


def test_a_limit_of_noise_where_no_operator_computes():
    model, x = chained(draw(8, 8, 3), L.MaxPooling2D(), L.Flatten()), draw(8, 8, 3)
    assert noise(model, tfopt.export_tflite(model, None, Export(max_noise=0.05), representative_data=x), x) < 0.05


def test_a_softmax_with_a_constant_mask():
    inputs, x = keras.Input((8,)), draw(8)
    kept = np.array([[1, 1, 1, 1, 0, 0, 1, 1]], bool)
    model = keras.Model(inputs, L.Dense(2)(L.Softmax()(inputs, mask=kept)))
    assert noise(model, tfopt.export_tflite(model, None, Export(), representative_data=x), x) < 5e-3


def times(factor):
    def scaled(values):
        return values * factor

    return scaled


@pytest.mark.parametrize(
    "layers",
    [
        [L.Dense(6, activation=lambda v: ops.maximum(v, 0.1 * v)), L.Dense(2)],
        [L.Dense(6, activation=times(-3.0)), L.Dense(2, activation=times(2.0))],
        [keras.Sequential([L.Dense(6, activation=lambda v: v * 2)]), L.Lambda(lambda v: v * 3), L.Dense(2)],
    ],
    ids=["lambda", "two of one name", "nested"],
)
def test_functions_that_no_config_can_name(layers):
    model, x = chained(draw(8), *layers), draw(8)
    stage = tfopt.Prune()
    wrapped = stage.apply(model, steps=5)
    wrapped.compile("adam", "mse")
    wrapped.fit(x, np.zeros((320, 2)), epochs=1, verbose=0, callbacks=stage.callbacks())
    stripped = stage.strip(wrapped)
    np.testing.assert_allclose(stripped.predict(x, verbose=0), wrapped.predict(x, verbose=0), rtol=1e-5, atol=1e-5)
    assert stripped.layers[-1].activation is model.layers[-1].activation


def test_channel_attention_is_trained_for_int8():
    """CBAM: the converter takes a Dense output (1, 1, 1, n) for a bias, and fails to add it to another one."""
    inputs, x = keras.Input((6, 6, 4)), draw(6, 6, 4)
    shared = L.Dense(4)
    pooled = [L.Reshape((1, 1, 4))(pool()(inputs)) for pool in (L.GlobalAveragePooling2D, L.GlobalMaxPooling2D)]
    gates = L.Activation("sigmoid")(L.Add()(list(map(shared, pooled))))
    model, stage = keras.Model(inputs, L.Multiply()([inputs, gates])), tfopt.Quantize()
    wrapped = stage.apply(model, steps=1)
    stage.calibrate(wrapped, x)
    assert noise(model, tfopt.export_tflite(wrapped, None, Export()), x) < 5e-3


@pytest.mark.parametrize("named", [True, False])
def test_inputs_keep_their_names_beside_a_lambda(named):
    left, right = (keras.Input((4,), name=name if named else None) for name in ("left", "right"))
    hidden = L.Dense(3, activation=lambda v: ops.maximum(v, 0.1 * v))(L.concatenate([left, right]))
    model, stage = keras.Model({"a": left, "b": right}, L.Dense(2)(hidden)), tfopt.Prune(schedule="one-shot")
    stripped = stage.strip(stage.apply(model, steps=0))
    assert [layer.name for layer in stripped.layers] == [layer.name for layer in model.layers]
    assert set(stripped.input) == {"a", "b"}


def unlike(count=300):
    sizes, offsets = np.array([1, 10, 100, 1000, 1e4, 0.1]), np.array([0, 100, 5, 1e4, 0, 3])
    return (np.random.default_rng(0).normal(size=(count, 6)) * sizes + offsets).astype("float32")


def normalized(kind):
    x = unlike()
    first = L.Normalization() if kind == "Normalization" else L.BatchNormalization()
    model = chained(x, first, L.Dense(16, activation="relu"), L.Dense(2))
    if kind == "Normalization":
        first.adapt(x)
    else:
        first.set_weights([np.ones(6), np.zeros(6), x.mean(axis=0), x.var(axis=0)])
    return model, x


@pytest.mark.parametrize("kind", ["Normalization", "BatchNormalization"])
def test_raw_features_in_4_bits(kind):
    model, x = normalized(kind)
    assert noise(model, tfopt.export_tflite(model, None, INT4, representative_data=x), x) < 0.1


def test_one_hot_words_in_4_bits():
    inputs = keras.Input((20,), dtype="int32")
    hidden = L.Conv1D(16, 3, activation="relu")(ops.one_hot(inputs, 30))
    model = keras.Model(inputs, L.Dense(3)(L.GlobalMaxPooling1D()(hidden)))
    x = np.random.default_rng(0).integers(0, 30, (300, 20)).astype("int32")
    assert noise(model, tfopt.export_tflite(model, None, INT4, representative_data=x), x) < 0.15


def test_texts_and_numbers_side_by_side():
    word, age = keras.Input((1,), name="word", dtype="string"), keras.Input((1,), name="age")
    looked_up = L.StringLookup(vocabulary=["n", "f"], output_mode="one_hot")(word)
    model = keras.Model([word, age], L.Dense(1)(L.concatenate([looked_up, age])))
    with pytest.raises(ModelError, match="Look words up before the model"):
        tfopt.export_tflite(model, None, FLOAT)


def test_texts_as_samples():
    lookup = L.TextVectorization(10, output_sequence_length=4)
    lookup.adapt(["a b c", "b c d"])
    words = keras.Input((1,), dtype="string")
    model = keras.Model(words, L.Dense(2)(L.Flatten()(L.Embedding(10, 4)(lookup(words)))))
    with pytest.raises(DataError, match="LiteRT has no texts: look words up before the model"):
        tfopt.export_tflite(model, None, Export(), representative_data=np.array([["a b"], ["c d"]] * 20, object))


def test_a_file_that_goes_on_from_its_last_states_says_so():
    model = chained(draw(12, 4), L.LSTM(8), L.Dense(3))
    notes = tfopt.export_tflite(model, None, FLOAT, representative_data=draw(12, 4)).notes
    assert any("goes on from the last states" in note and "reset_all_variables()" in note for note in notes)


@keras.saving.register_keras_serializable("test_other_peoples_models")
class Stepwise(keras.layers.Layer):
    """Repeats a step, or takes it only where the mean is positive."""

    def __init__(self, repeats, **kwargs):
        super().__init__(**kwargs)
        self.repeats, self.step = repeats, keras.layers.Dense(8, activation="tanh")

    def build(self, shape):
        self.step.build(shape)

    def call(self, x):
        if self.repeats:
            return ops.fori_loop(0, self.repeats, lambda _, values: self.step(values), x)
        return ops.cond(ops.mean(x) > 0, lambda: self.step(x), lambda: 2.0 * x)

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "repeats": self.repeats}


@pytest.mark.parametrize("repeats", [3, 0], ids=["a loop", "a branch"])
@pytest.mark.parametrize("trained", [False, True])
def test_loops_and_branches_stay_in_float(repeats, trained):
    x, kind = draw(8), "WHILE" if repeats else "IF"
    model = chained(x, L.Dense(8, activation="relu"), Stepwise(repeats, name="steps"), L.Dense(3))
    if trained:
        stage = tfopt.Quantize()
        model = stage.apply(model, steps=1)
        stage.calibrate(model, x)
    lite = tfopt.export_tflite(model, None, representative_data=x)
    (note,) = [note for note in lite.notes if note.startswith("float operators in the file")]
    assert f"steps ({kind})" in note and note.endswith("left in float: steps (LiteRT has no int8 operator for it)")
    assert noise(model, lite, x) < 0.01
    assert {weight.tensor.dtype for weight in lite.weights() if weight.tensor.shape == (8, 8)} >= {"int8"}


def test_a_branch_has_no_int16_form():
    x = draw(8)
    model = chained(x, L.Dense(8, activation="relu"), Stepwise(0, name="steps"), L.Dense(3))
    with pytest.raises(ModelError, match=r"no operator IF for int16 activations.*needs it in steps\."):
        tfopt.export_tflite(model, None, INT16, representative_data=x)


def test_the_class_index_beside_the_scores_of_a_trained_model():
    x = draw(8)
    inputs = keras.Input((8,))
    scores = L.Dense(5, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(0, 2.0))(inputs)
    model = keras.Model(inputs, [scores, ops.argmax(scores, -1)])
    stage = tfopt.Quantize()
    wrapped = stage.apply(model, steps=1)
    stage.calibrate(wrapped, x)
    lite = tfopt.export_tflite(wrapped, None, representative_data=x)
    assert not lite.float_tensors()
    (probabilities, places), (want, _) = lite.predict(x), model.predict(x, verbose=0)
    assert (places == probabilities.argmax(-1)).all() and np.mean(places == want.argmax(-1)) > 0.95


def test_a_layer_without_a_range_in_16_bits_is_named():
    inputs = keras.Input((6,))
    middle = ops.expand_dims(ops.median(inputs, 1), 1)
    model = keras.Model(inputs, L.Add()([L.Dense(2)(middle), L.Dense(2)(inputs)]))
    with pytest.raises(
        ModelError, match=r"The layer 'median\w*' of the model .* no range for, with int16 activations\."
    ):
        tfopt.export_tflite(model, None, INT16, representative_data=draw(6))
