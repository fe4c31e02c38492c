"""The limits of a proof, with outputs that are made up on both sides."""

import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import PromiseError
from tfopt.tflite.settings import Export
from tfopt.tflite.write import proof

COUNT = 256
RNG = np.random.default_rng(0)
X = RNG.normal(size=(COUNT, 6)).astype("float32")
WANT = {"first": RNG.normal(size=(COUNT, 3)), "second": RNG.normal(size=(COUNT, 2))}
FLOAT = Export(weights="float32", activations="float32")
FLOAT16 = Export(weights="float16", activations="float32")
DYNAMIC = Export(weights="int8", activations="float32")


@pytest.fixture(scope="module")
def model():
    layers = tf_keras().layers
    given = layers.Input((6,))
    return tf_keras().Model(given, [layers.Dense(3, name="first")(given), layers.Dense(2, name="second")(given)])


@pytest.fixture(scope="module")
def file(model):
    return tfopt.export_tflite(model, None, FLOAT)


@pytest.fixture
def proven(model, file, monkeypatch):
    """A function that proves a file whose outputs differ from those of its model by `errors`."""

    def prove(errors, settings=FLOAT, data=X, want=WANT, again=None, **limits):
        runs = iter([want, again or want])
        monkeypatch.setattr(proof, "keras_outputs", lambda *_: list(next(runs).values()))
        monkeypatch.setattr(
            proof, "file_outputs", lambda *_: {name: want[name] + errors.get(name, 0.0) for name in want}
        )
        monkeypatch.setattr(proof, "_first_bad_layer", lambda *_: "")
        return proof.prove(model, model, file, file, settings, data, **limits)

    return prove


def noise(share, name="first"):
    """Errors with a `share` of the variance of an output."""
    return {name: RNG.normal(size=WANT[name].shape) * np.sqrt(share)}


@pytest.mark.parametrize("name", WANT)
def test_every_output_counts(proven, name):
    with pytest.raises(PromiseError, match=f"output '{name}': noise"):
        proven(noise(1.0, name))


@pytest.mark.parametrize(
    "settings",
    [
        DYNAMIC,
        Export(weights="int8", activations="float32", weight_only=True),
        Export(weights="int4", activations="float32"),
    ],
)
def test_integer_weights_alone_excuse_no_step_of_an_output(proven, settings):
    """An output near 5 that hardly varies, off by 0.9 steps of an int8 scale for 0 to 5: three times its variance."""
    want = {**WANT, "first": 5 + 0.01 * RNG.normal(size=(COUNT, 3))}
    errors = {"first": np.full((COUNT, 3), 0.9 * 5 / 255)}
    proven(errors, Export(), want=want)
    with pytest.raises(PromiseError, match="output 'first': noise 3"):
        proven(errors, settings, want=want)


def test_the_limit_on_synthetic_inputs(proven):
    """They prove little: half of the variance passes, all of it does not."""
    assert "synthetic inputs" in proven(noise(0.3), data=None)[0]
    with pytest.raises(PromiseError, match=r"at most 0\.5"):
        proven(noise(1.0), data=None)


def rare():
    """One value of 256 is ten, the others are near zero: the square of 10 / 255 is 0.4 % of the variance."""
    values = RNG.normal(size=(COUNT, 3)) * 0.01
    values[7] = 10.0
    return {**WANT, "first": values}, {"first": np.full((COUNT, 3), 0.9 * 10 / 255)}


def test_a_step_of_an_int8_scale_is_free_only_in_int8(proven):
    want, errors = rare()
    proven(errors, DYNAMIC, want=want)
    for settings in (FLOAT, FLOAT16):
        with pytest.raises(PromiseError, match=r"at most 0\.001"):
            proven(errors, settings, want=want)


def test_a_step_is_not_free_below_a_limit_that_the_caller_sets(proven):
    want, errors = rare()
    with pytest.raises(PromiseError, match=r"at most 0\.001"):
        proven(errors, DYNAMIC, want=want, max_noise=1e-3)


def test_rounding_to_float16_is_free(proven):
    """Values around 1,000 have 11 bits: they are off by a quarter, more than a thousandth of their variance."""
    want = {**WANT, "first": 1000 + RNG.normal(size=(COUNT, 3))}
    errors = {"first": np.float16(want["first"]) - want["first"]}
    proven(errors, FLOAT16, want=want)
    with pytest.raises(PromiseError):
        proven(errors, FLOAT, want=want)


def test_a_model_that_gives_random_outputs_is_not_compared(proven):
    again = {name: values + RNG.normal(size=values.shape) for name, values in WANT.items()}
    assert "other values in each run" in proven(noise(1.0), again=again)[0]


def test_the_last_bits_are_not_random(proven):
    again = {name: values * (1 + 1e-5) for name, values in WANT.items()}
    with pytest.raises(PromiseError):
        proven(noise(1.0), again=again)


def test_logits_of_classes_must_keep_their_order():
    """A data set says that outputs are logits; without one, nothing shows it."""
    layers, data = tf_keras().layers, tfopt.load_data((X, np.arange(COUNT) % 3))
    model = tf_keras().Sequential([layers.Input((6,)), layers.Dense(3)])

    def says(given):
        notes = tfopt.export_tflite(model, None, DYNAMIC, representative_data=given).notes
        return any("same class 100.0%" in note for note in notes)

    assert says(data) and not says(X)
