"""The self-check at every crossing: which inputs it uses, what it finds, what it lets pass and why."""

import numpy as np
import pytest

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.bridge import check, samples
from tfopt.bridge import layers as table
from tfopt.errors import ModelError
from tfopt.graph.walk import walk


@pytest.fixture
def wrong_leak(monkeypatch):
    """Make twins of LeakyReLU wrong."""
    true_twin = table._translate

    def wrong(layer, accepted):
        config = true_twin(layer, accepted)
        return {**config, "alpha": 0.9} if type(layer).__name__ == "LeakyReLU" else config

    monkeypatch.setattr(table, "_translate", wrong)


def test_a_saturated_softmax_hides_nothing(wrong_leak):
    """Both sides give [1, 0]; only the inputs of the softmax differ."""
    import keras

    head = keras.layers.Dense(2, activation="softmax", name="head")
    model = keras.Sequential([keras.Input((4,)), keras.layers.LeakyReLU(name="leak"), head])
    head.set_weights([np.zeros((4, 2)), np.array([100.0, 0.0])])
    with pytest.raises(ModelError, match="First difference: layer 'leak'"):
        bridge.to_tf_keras(model)


def test_a_difference_inside_of_a_nested_model_is_located(wrong_leak):
    import keras

    inner = keras.Sequential([keras.Input((4,)), keras.layers.LeakyReLU(name="leak")], name="inner")
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2)])
    with pytest.raises(ModelError, match=r"layer 'leak' \(LeakyReLU\) at 'inner/leak', by up to"):
        bridge.to_tf_keras(model)


def test_rounding_errors_that_the_model_amplifies_are_not_an_error():
    """The logistic map doubles a difference at every step; x / 3 and x * (1/3) differ in the last bit."""
    import keras

    inputs = keras.Input((50,))
    x = keras.ops.sigmoid(inputs) / 3
    for _ in range(40):
        x = x * 4 * (1 - x)
    model = keras.Model(inputs, x)
    with pytest.warns(UserWarning, match="amplifies rounding errors"):
        flat = bridge.to_tf_keras(model)
    values = np.random.default_rng(1).normal(size=(4, 50)).astype("float32")
    assert np.abs(flat(values) - model(values)).max() > 0.1


def test_inputs_suit_the_first_layers():
    import keras

    def batch(*layers, shape=(6,), dtype="float32"):
        model = keras.Sequential([keras.Input(shape, dtype=dtype), *layers])
        return np.asarray(samples.sample_batch(walk(model))[0])

    k = keras.layers
    pixels = batch(k.Rescaling(1 / 255), shape=(8, 8, 3))
    assert pixels.min() >= 0
    assert 200 < pixels.max() <= 255
    assert np.abs(batch(k.Dense(2))).max() < 5
    assert set(batch(k.Embedding(4, 2), shape=(400,), dtype="int32").ravel()) == {0, 1, 2, 3}
    assert batch(k.Normalization(mean=500.0, variance=4.0)).min() > 480
    found = set(batch(k.IntegerLookup(vocabulary=[70, 80]), shape=(50,), dtype="int64").ravel())
    assert found == {0, 70, 80}
    words = set(batch(k.StringLookup(vocabulary=["a", "b"]), shape=(50,), dtype="string").ravel())
    assert words == {b"a", b"b", b"something unknown"}
    assert batch(k.Conv2D(2, 1), shape=(None, None, 3)).shape == (2, 32, 32, 3)


@pytest.mark.parametrize(("error", "equal"), [(3e-5, True), (3e-4, False), (3e-3, False)])
def test_twins_may_differ_by_a_ten_thousandth_of_the_largest_output(error, equal):
    """The twin multiplies by 2 (1 + error), so its outputs are off by `error` of the largest."""
    import keras
    import tf_keras

    class Doubled(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

    bridge.register_twin(Doubled, lambda layer: tf_keras.layers.Rescaling(2 * (1 + error)))
    model = keras.Sequential([keras.Input((20,)), Doubled(name="doubled")])
    if equal:
        bridge.to_tf_keras(model)
        return
    with pytest.raises(ModelError, match="First difference: layer 'doubled'"):
        bridge.to_tf_keras(model)


def test_excess_scales_with_the_largest_output():
    a = np.array([0.0, 50.0])
    assert check._excess(a, a + 0.004, 1e-4) == ""  # allowed: 1e-4 * 50
    assert "0.006" in check._excess(a, a + 0.006, 1e-4)
    assert "finite" in check._excess(a, np.array([np.nan, 50.0]), 1e-4)
    assert "shape" in check._excess(a, a[:1], 1e-4)


def test_layers_that_are_random_by_default_are_compared_in_inference():
    """Keras 3's augmentation layers, called alone, are random, and `RandomCrop` gives other shapes."""
    import keras

    class Wrapped(keras.layers.Layer):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.inner = keras.layers.RandomBrightness(0.9, value_range=(0, 1))

        def call(self, x):
            return self.inner(x)

    layers = keras.layers
    model = keras.Sequential([
        keras.Input((8, 8, 3)), layers.RandomFlip(), layers.RandomCrop(6, 6), Wrapped(),
        layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax"),
    ])  # fmt: skip
    for _ in range(3):
        flat = bridge.to_tf_keras(model)
    x = np.random.default_rng(0).uniform(0, 1, (4, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(flat.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    assert np.abs(flat(x, training=True) - flat(x, training=True)).max() > 1e-3


def test_a_layer_whose_shape_in_inference_is_not_that_of_the_model_is_named():
    """Keras 3's RandomCrop promises crops but leaves the images whole in inference: no Keras can predict with this."""
    import keras

    layers = keras.layers
    model = keras.Sequential([
        keras.Input((8, 8, 3)), layers.RandomCrop(6, 6, name="crop"), layers.Flatten(), layers.Dense(3)
    ])  # fmt: skip
    with pytest.raises(ModelError, match=r"'crop' \(RandomCrop\).*\(None, 8, 8, 3\).*\(None, 6, 6, 3\)"):
        bridge.to_tf_keras(model)


def test_strings_must_be_equal():
    words = np.array([b"a", b"b"], object)
    assert not check._excess(words, words.copy(), 1e-4)
    assert check._excess(words, words[::-1], 1e-4) == "in their strings"


def test_a_missing_output_is_an_error(monkeypatch):
    import keras

    inputs = keras.Input((4,))
    model = keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(3)(inputs)])
    run, runs = check.run, []

    def shorter(one, batch, **_):
        runs.append(one)
        outputs = run(one, batch)
        return outputs if one is model else [*outputs, outputs[0]]

    monkeypatch.setattr(check, "run", shorter)
    with pytest.raises(ModelError, match="has 2 outputs, its conversion has 3"):
        bridge.to_tf_keras(model)


def test_a_difference_that_the_model_does_not_amplify_is_an_error(monkeypatch):
    """A hundred times what rounding explains: an output off by 1e-3, of a model with hardly any drift."""
    import keras

    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    run = check.run
    monkeypatch.setattr(
        check, "run", lambda one, batch, **_: [output + (0 if one is model else 1e-3) for output in run(one, batch)]
    )
    monkeypatch.setattr(check, "_first_difference", lambda *_: None)
    with pytest.raises(ModelError, match="in no single layer, only in their sum"):
        bridge.to_tf_keras(model)


def test_integers_that_keras_3_resizes():
    """In a graph, as in `predict`, Keras 3 resizes integers without rounding; in a call it rounds them, or fails."""
    import keras

    layers, x = keras.layers, np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3)).astype("uint8")
    for behind in ([layers.Rescaling(1 / 255.0), layers.Conv2D(2, 3)], [layers.Conv2D(2, 3)]):
        model = keras.Sequential([keras.Input((20, 24, 3), dtype="uint8"), layers.Resizing(18, 18), *behind])
        flat_model = bridge.to_tf_keras(model)
        np.testing.assert_allclose(flat_model(x), model.predict(x, verbose=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("api", ["keras", "tf_keras"])
def test_states_are_reset_before_models_are_compared(api):
    package = keras_compat.tf_keras() if api == "tf_keras" else pytest.importorskip("keras")
    layers = package.layers
    chain = [layers.LSTM(4, stateful=True, name="kept"), layers.Dense(2)]
    model = package.Sequential([package.Input(batch_shape=(4, 8, 3)), *chain])
    model.predict(np.ones((4, 8, 3), "float32"), verbose=0)
    assert bridge.to_tf_keras(model).get_layer("kept").stateful


@pytest.mark.parametrize("api", ["keras", "tf_keras"])
def test_a_layer_may_call_itself_stateful_without_states_to_reset(api):
    package = keras_compat.tf_keras() if api == "tf_keras" else pytest.importorskip("keras")

    class Own(package.layers.Layer):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.stateful = True

        def call(self, x):
            return 2 * x

    model = package.Sequential([package.Input((3,)), Own(), package.layers.Dense(2)])
    np.testing.assert_allclose(check.run(model, [np.ones((1, 3), "float32")])[0], model(np.ones((1, 3))), rtol=1e-6)


def test_errors_of_keras_come_on_one_line():
    import keras

    class Failing(keras.layers.Layer):
        def call(self, inputs):
            raise ValueError("\x1b[1mno such luck\x1b[0m")

        def compute_output_spec(self, inputs):
            return keras.KerasTensor(inputs.shape)

    model = keras.Sequential([keras.Input((3,)), Failing(name="failing")])
    with pytest.raises(ModelError) as caught:
        bridge.to_tf_keras(model)
    assert str(caught.value) == (
        "layer 'failing' (Failing) at 'failing': tf_keras refuses its input (Exception encountered when calling "
        "Failing.call(). no such luck)."
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("scaled", [False, True], ids=["layers", "operations"])
def test_inputs_of_half_precision(dtype, scaled):
    """The model rounds what it is fed, by up to 2^-9; operations go on in half precision, layers in float32."""
    import keras

    inputs = keras.Input((5,), dtype=dtype)
    hidden = inputs * 3.3 + 1.7 if scaled else inputs
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(64, "relu")(hidden)))
    (batch,) = samples.sample_batch(walk(model))
    held = np.asarray(keras.ops.cast(keras.ops.cast(batch, dtype), "float32"))
    np.testing.assert_array_equal(batch, held)
    assert batch.dtype == np.float32
    bridge.to_tf_keras(model)


def test_nested_inputs_are_refused():
    import keras

    inputs = {"image": keras.Input((6,), name="image"), "more": {"age": keras.Input((1,), name="age")}}
    joined = keras.layers.Concatenate()([inputs["image"], inputs["more"]["age"]])
    with pytest.raises(ModelError, match=r"inputs of 'two' are nested; expected one tensor.*Use one flat dict"):
        bridge.to_tf_keras(keras.Model(inputs, keras.layers.Dense(2)(joined), name="two"))


def test_channels_first_on_a_cpu_is_named():
    import keras
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("GPUs compute it")
    layers = [keras.layers.Conv2D(4, 3, data_format="channels_first", name="conv"), keras.layers.Flatten()]
    with pytest.raises(ModelError, match=r'NCHW.* The layers conv have data_format="channels_first".*channels_last'):
        bridge.to_tf_keras(keras.Sequential([keras.Input((3, 8, 8)), *layers]))
