"""Selective precision: the fewest operators stay in float, they are listed, and the file is proven."""

import itertools
import re

import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import CannotRunError, PromiseError, RecipeError
from tfopt.tflite.prove.outputs import OutputProof
from tfopt.tflite.read.parts import Op, Tensor
from tfopt.tflite.settings import Export
from tfopt.tflite.write import selective
from tfopt.tflite.write.selective import _Measured, _measured_before, _Search, _units

RNG = np.random.default_rng(0)
SPREADS, MEANS = (90, 60, 2, 0.05, 40, 15), (50, -80, 1, 0.3, 180, -140)
RAW = np.stack([RNG.normal(mean, spread, 600) for spread, mean in zip(SPREADS, MEANS, strict=True)], 1)
RAW = RAW.astype("float32")
STRICT = Export(mixed=False)


@pytest.fixture(scope="module")
def raw_model():
    """A model whose Normalization makes features of like size from unlike ones."""
    tf_keras().utils.set_random_seed(0)
    layers = tf_keras().layers
    scale = layers.Normalization(name="scaling")
    scale.adapt(RAW)
    given = tf_keras().Input((6,), name="given")
    hidden = layers.Dense(16, activation="relu", name="first")(scale(given))
    return tf_keras().Model(given, layers.Dense(2, name="last")(hidden))


def noise(model, lite, x):
    expected, found = model.predict(x, verbose=0).astype(float), lite.predict(x).astype(float)
    return (np.square(found - expected).mean(axis=0) / expected.var(axis=0)).max()


def test_raw_features_stay_in_float_up_to_their_scaling(raw_model):
    lite = tfopt.export_tflite(raw_model, None, representative_data=RAW)
    assert noise(raw_model, lite, RAW) < 0.02
    dtypes = {
        weight.tensor.dtype for weight in lite.weights() if weight.values.ndim == 2 and weight.values.shape[0] > 1
    }
    assert dtypes == {"int8"}  # the Dense layers
    (listed,) = (note for note in lite.notes if note.startswith("float operators"))
    assert "scaling" in listed and "first" not in listed and "last" not in listed
    assert any(note.startswith("inputs and outputs are float32") for note in lite.notes)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "advice"), [(STRICT, "mixed=True"), (Export(io="int8"), 'io="float32"')])
def test_who_wants_integers_only_gets_them_or_an_error(raw_model, form, advice):
    with pytest.raises(PromiseError, match=r"noise .* \(at most 0\.1\)") as caught:
        tfopt.export_tflite(raw_model, None, form, representative_data=RAW)
    assert advice in str(caught.value)


@pytest.fixture(scope="module")
def offset_model():
    """A model and features for which XNNPACK refuses the int8 file: the first layer shrinks its input 400 times."""
    x = np.stack([RNG.normal(1000, 0.1, 400), RNG.normal(-50000, 40, 400)], 1).astype("float32")
    layers = tf_keras().layers
    scale = layers.BatchNormalization(name="scaling")
    chain = [layers.InputLayer((2,)), scale, layers.Dense(8, activation="relu", name="first"), layers.Dense(1)]
    model = tf_keras().Sequential(chain)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    scale.set_weights([np.ones(2), np.zeros(2), x.mean(0), x.var(0)])
    return model, x


def test_what_litert_cannot_run_stays_in_float(offset_model):
    model, x = offset_model
    lite = tfopt.export_tflite(model, None, representative_data=x)
    assert noise(model, lite, x) < 0.02
    assert any("scaling" in note and "float operators" in note for note in lite.notes)


@pytest.mark.slow
def test_an_error_says_what_litert_cannot_run(offset_model):
    model, x = offset_model
    with pytest.raises(CannotRunError, match=r"LiteRT can run .*XNNPACK.*mixed=True.*choose other weights"):
        tfopt.export_tflite(model, None, STRICT, representative_data=x)


def test_the_limit_is_proven_on_held_out_samples(raw_model):
    lite = tfopt.export_tflite(raw_model, None, Export(max_noise=0.01), representative_data=RAW)
    assert noise(raw_model, lite, RAW[256:]) < 0.01
    assert any("'last' noise" in note for note in lite.notes)


def test_what_is_good_enough_stays_int8():
    layers = tf_keras().layers
    tf_keras().utils.set_random_seed(1)
    x = RNG.normal(size=(300, 6)).astype("float32")
    model = tf_keras().Sequential([tf_keras().Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(2)])
    limited, plain = (
        tfopt.export_tflite(model, None, form, representative_data=x) for form in (Export(max_noise=0.05), Export())
    )
    assert limited.data == plain.data


def test_boxes_and_scores_in_one_output_stay_apart():
    layers = tf_keras().layers
    tf_keras().utils.set_random_seed(1)
    x = RNG.normal(size=(300, 6)).astype("float32")
    given = tf_keras().Input((6,))
    hidden = layers.Dense(16, activation="relu", name="hidden")(given)
    boxes = layers.Rescaling(640.0)(layers.Dense(4, activation="sigmoid")(hidden))
    scores = layers.Dense(2, activation="sigmoid")(hidden)
    model = tf_keras().Model(given, layers.Concatenate(name="head")([boxes, scores]))
    lite = tfopt.export_tflite(model, None, representative_data=x)
    assert noise(model, lite, x) < 0.02
    assert any("CONCATENATION" in note for note in lite.notes if note.startswith("float operators"))


@pytest.fixture(scope="module")
def rare_model():
    """A model whose scores are those of a rare class, from 0.005 to 0.015: int8 scores have a step of 1/256."""
    layers = tf_keras().layers
    tf_keras().utils.set_random_seed(1)
    rare = tf_keras().initializers.Constant(-4.6)
    chain = [layers.Dense(16, activation="relu", name="hidden")]
    chain.append(layers.Dense(1, activation="sigmoid", name="score", bias_initializer=rare))
    model = tf_keras().Sequential([tf_keras().Input((6,)), *chain])
    return model, 0.3 * RNG.normal(size=(400, 6)).astype("float32")


def test_scores_of_a_rare_class_can_be_told_apart(rare_model):
    model, x = rare_model
    lite = tfopt.export_tflite(model, None, representative_data=x)
    assert len(np.unique(lite.predict(x))) > 25 and noise(model, lite, x) < 0.05
    (listed,) = (note for note in lite.notes if note.startswith("float operators"))
    assert "(LOGISTIC)" in listed and "FULLY_CONNECTED" not in listed


LOST = r"noise \d\S* \(at most 0\.1\), since it varies by 0\.00\d+, and an int8 step is 0\.0039"


def test_scores_that_integers_cannot_tell_apart_are_an_error(rare_model):
    with pytest.raises(PromiseError, match=rf"{LOST}.* mixed=True"):
        tfopt.export_tflite(rare_model[0], None, STRICT, representative_data=rare_model[1])


def test_scores_that_the_type_asked_for_cannot_tell_apart_are_said_so(rare_model):
    lite = tfopt.export_tflite(rare_model[0], None, Export(io="uint8"), representative_data=rare_model[1])
    assert lite.outputs[0].dtype == "uint8"
    assert any(re.search(rf"{LOST}: its type cannot .* io=\"float32\" can", note) for note in lite.notes)


class KnownNoises(_Search):
    """A search in which the noise of each operator is known, and noises add up."""

    def __init__(self, noises, most):
        self._noises, self._most, self.measured = noises, most, 0
        self._operators = [[f"operator {number}"] for number in range(len(noises))]
        self._made = frozenset
        self._known = _Measured()

    def _proofs(self, data):
        self.measured += 1
        found = sum(noise for number, noise in enumerate(self._noises) if number not in data)
        return [OutputProof("output", found, failures=("noise",) if found > self._most else ())]


def test_the_fewest_operators_by_hand():
    noises = [1e-5] * 200
    noises[3], noises[150], noises[151] = 0.5, 0.02, 0.004
    search = KnownNoises(noises, most=0.007)
    assert search.fewest() == ["operator 3", "operator 150"]  # 0.002 + 0.004 are left
    assert search.measured < 60  # not each of 200
    assert KnownNoises(noises, most=0.003).fewest() == ["operator 3", "operator 150", "operator 151"]
    assert KnownNoises([0.1] * 5, most=1e-9).fewest() == [f"operator {number}" for number in range(5)]


def test_the_steps_of_an_unrolled_loop_are_chosen_together():
    """Each of 4 steps multiplies by one of two kernels and adds; then there are two additions outside of the loop."""
    kernels = {0: "lstm/kernel", 1: "lstm/other"}
    tensors = {
        number: Tensor(number, name, (8, 8), "float32", (), (), None, True, 256) for number, name in kernels.items()
    }
    ops = []

    def add(kind, layer, *inputs):
        made = len(tensors)
        tensors[made] = Tensor(made, f"{layer}/{kind}_{made}", (1, 8), "float32", (), (), None, False, 0)
        ops.append(Op(len(ops), kind, inputs, (made,)))
        return made

    for _ in range(4):
        add("ADD", "lstm", add("FULLY_CONNECTED", "lstm", 2, 0, -1), add("FULLY_CONNECTED", "lstm", 2, 1, -1))
    add("ADD", "head", add("ADD", "head", 2, 3), 3)
    found = [[op.index for op in unit] for unit in _units(ops, tensors)]
    assert found == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11], [12], [13]]


def test_another_limit_of_the_same_file_measures_nothing_again():
    samples = {"x": np.arange(4, dtype="float32")}
    known = _measured_before(b"files", samples, False)
    known.noises["block",] = 0.25
    assert _measured_before(b"files", dict(samples), False).noises == {("block",): 0.25}
    search = KnownNoises([0.5, 0.1], most=0.05)
    search._known.noises.update({("operator 0", "operator 1"): 0.7, ("operator 0",): 0.7})
    assert search._noise([0, 1]) == search._noise([0]) == 0.7 and search.measured == 0
    assert search._noise([1]) == 0.1 and search.measured == 1
    for other in ((b"others", samples, False), (b"files", {"x": samples["x"] + 1}, False), (b"files", samples, True)):
        assert _measured_before(*other) == _Measured()


@pytest.mark.parametrize(("seconds", "left"), [(3, 12), (200, 6)])
def test_a_search_of_slow_conversions_ends(seconds, left, monkeypatch):
    """Each look at the clock takes a second here. Of 16 blocks of 12 operators the first has most noise."""
    ticks = itertools.count()
    monkeypatch.setattr(selective, "SECONDS", seconds)
    monkeypatch.setattr(selective, "FEWEST_SECONDS", 0)
    monkeypatch.setattr(selective.time, "monotonic", lambda: float(next(ticks)))
    search = KnownNoises([0.1] * 6 + [1e-5] * 186, most=1e-4)
    found = search.fewest()
    assert search.measured <= seconds
    assert found[:left] == [f"operator {number}" for number in range(left)]


def test_searches_of_the_same_file_share_their_time(monkeypatch):
    """Ten seconds are used up, so the first ends after 110; for the second less than the least of 30 would be left."""
    clock = [0.0]
    monkeypatch.setattr(selective.time, "monotonic", lambda: clock[0])
    search = KnownNoises([0.1] * 2, most=0.15)
    slow = search._proofs
    search._proofs = lambda data: (clock.__setitem__(0, clock[0] + 50), slow(data))[1]
    search._known.seconds = 10.0
    search.fewest()
    assert search._until == 110 and search._known.seconds == 10 + clock[0]
    before = clock[0]
    search.fewest()
    assert search._until == before + 30


@pytest.mark.parametrize(
    "other",
    [{"activations": "float32"}, {"weights": "int4"}, {"mixed": False}, {"sparse": True}],
)
def test_a_limit_is_for_integers(other):
    with pytest.raises(RecipeError, match="max_noise needs int8"):
        Export(max_noise=0.01, **other)


def test_a_file_without_integers_is_no_int8_file():
    layers = tf_keras().layers
    model = tf_keras().Sequential([tf_keras().Input((8, 8, 2)), layers.Conv2D(4, 3), layers.MaxPooling2D()])
    x = np.random.default_rng(0).normal(size=(300, 8, 8, 2)).astype("float32")
    with pytest.raises(PromiseError, match=r"noise of at most 1e-12 every operator has to stay in float"):
        tfopt.export_tflite(model, None, Export(max_noise=1e-12), representative_data=x)


@pytest.mark.slow
def test_an_operator_in_float_does_not_excuse_the_weights_of_others():
    """DEPTHWISE_CONV_2D has no 4-bit form, with or without a LeakyReLU, which has no int16 form, behind it."""
    layers = tf_keras().layers
    x = np.random.default_rng(0).normal(size=(300, 8, 8, 4)).astype("float32")
    export = Export(weights="int4", activations="int16")
    for behind in ([], [layers.LeakyReLU()]):
        model = tf_keras().Sequential([tf_keras().Input((8, 8, 4)), layers.DepthwiseConv2D(3), *behind])
        with pytest.raises(PromiseError, match=r"no operator of the file has a form for them: .*DEPTHWISE_CONV_2D"):
            tfopt.export_tflite(model, None, export, representative_data=x)
    more = [layers.DepthwiseConv2D(3), layers.LeakyReLU(), layers.Flatten(), layers.Dense(3)]
    lite = tfopt.export_tflite(
        tf_keras().Sequential([tf_keras().Input((8, 8, 4)), *more]), None, export, representative_data=x
    )
    assert any("int8 weights, since no operator supports 4 bits" in note for note in lite.notes)
    assert any("LEAKY_RELU" in note for note in lite.notes)


def test_some_outputs_in_float_and_others_not():
    """The converter gives no integers to a maximum that a sum of exponentials also reads."""
    import keras

    ops, x = keras.ops, np.random.default_rng(0).normal(size=(300, 6)).astype("float32")
    given = keras.Input((6,))
    logits = keras.layers.Dense(5)(keras.layers.Dense(8, activation="relu")(given))
    outputs = {"energy": -ops.logsumexp(logits, -1), "best": ops.max(logits, -1)}
    model = keras.Model(given, outputs)
    lite = tfopt.export_tflite(model, None, representative_data=x)
    expected = model.predict(x, verbose=0)
    for port, found in zip(lite.outputs, lite.predict(x), strict=True):
        wanted = expected[port.name].astype(float)
        assert np.square(found - wanted).mean() < 0.1 * wanted.var()
    types = {port.name: port.dtype for port in (*lite.inputs, *lite.outputs)}
    named = [name for name, dtype in types.items() if dtype == "float32"]
    if named and len(named) < len(types):
        assert any(note.startswith("float32 and not int8") and f"'{named[0]}'" in note for note in lite.notes)


@pytest.mark.parametrize("form", [Export(), Export(activations="int16")])
def test_an_input_that_nothing_reads(form):
    layers, rng = tf_keras().layers, np.random.default_rng(0)
    used, left = tf_keras().Input((4,), name="used"), tf_keras().Input((3,), name="left")
    model = tf_keras().Model([used, left], layers.Dense(2)(used))
    x = {"used": rng.normal(size=(300, 4)).astype("float32"), "left": rng.normal(size=(300, 3)).astype("float32")}
    lite = tfopt.export_tflite(model, None, form, representative_data=x)
    assert "nothing in the model uses its input 'left'" in lite.notes
    expected = x["used"].astype(float) @ model.get_weights()[0]
    assert np.square(lite.predict(x) - expected).mean() < 0.01 * expected.var()


def test_random_numbers_stay_in_float():
    """As in a variational autoencoder (Kingma and Welling 2013)."""
    import tensorflow as tf

    class Sampling(tf_keras().layers.Layer):
        def call(self, given):
            mean, log_variance = given
            return mean + tf.exp(0.5 * log_variance) * tf.random.normal(tf.shape(mean))

    layers, x = tf_keras().layers, np.random.default_rng(0).normal(size=(300, 6)).astype("float32")
    given = tf_keras().Input((6,))
    mean, log_variance = layers.Dense(2, name="mean")(given), layers.Dense(2)(given)
    model = tf_keras().Model(given, [mean, log_variance, layers.Dense(6)(Sampling(name="drawn")([mean, log_variance]))])
    lite = tfopt.export_tflite(model, None, representative_data=x)
    assert {port.dtype for port in (*lite.inputs, *lite.outputs)} == {"int8"}
    assert any("drawn (RANDOM_STANDARD_NORMAL); left in float" in note for note in lite.notes)


def test_a_model_without_an_integer_operator():
    import keras

    given = keras.Input((6, 4))
    x = np.random.default_rng(0).normal(size=(300, 6, 4)).astype("float32")
    with pytest.raises(PromiseError, match=r"Nothing that it computes has integers: export with activations=.float32"):
        tfopt.export_tflite(keras.Model(given, keras.ops.cumsum(given, 1)), None, representative_data=x)
