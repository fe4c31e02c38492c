"""Bytes go into integer files as they are, even if the calibration samples do not reach 0 and 255."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras

PIXELS = np.random.default_rng(0).integers(20, 200, (64, 8, 8, 3)).astype("float32")
SCALED = {"raw": (PIXELS, 1, 0), "unit": (PIXELS / 255, 1 / 255, 0)}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="photo")
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


@pytest.mark.parametrize("form", SCALED)
@pytest.mark.parametrize(
    "settings", [{}, {"weights": "int4"}, {"activation_ranges": "mse"}], ids=["int8", "int4", "mse"]
)
def test_the_scale_of_an_input(model, form, settings):
    values, scale, zero = SCALED[form]
    lite = tfopt.export_tflite(model, None, tfopt.Export(io="uint8", **settings), representative_data=values)
    [port] = lite.inputs
    assert port.dtype == "uint8" and port.scales[0] == pytest.approx(scale, rel=1e-6) and port.zero_points == (zero,)


def test_other_inputs_keep_their_ranges(model):
    values = np.random.default_rng(1).normal(size=PIXELS.shape).astype("float32")
    lite = tfopt.export_tflite(model, None, tfopt.Export(io="uint8"), representative_data=values)
    assert lite.inputs[0].scales[0] == pytest.approx((values.max() - values.min()) / 255, rel=1e-3)


def test_only_the_input_of_bytes_of_two():
    first, second = keras.Input((4, 4, 3), name="photo"), keras.Input((5,), name="facts")
    photo = keras.layers.Flatten()(keras.layers.Conv2D(2, 3)(first))
    both = keras.layers.Concatenate()([photo, keras.layers.Dense(3)(second)])
    two = keras.Model([first, second], keras.layers.Dense(2)(both))
    facts = np.random.default_rng(1).normal(size=(64, 5)).astype("float32")
    lite = tfopt.export_tflite(two, representative_data={"photo": PIXELS[:, :4, :4], "facts": facts})
    scales = {port.name: port.scales[0] for port in lite.inputs}
    assert scales["photo"] == 1
    assert scales["facts"] == pytest.approx((facts.max() - facts.min()) / 255, rel=1e-3)


def test_training_keeps_the_range(model, tmp_path):
    stage = tfopt.Quantize()
    wrapped = stage.apply(model, steps=20)
    stage.calibrate(wrapped, PIXELS)
    wrapped.save(tmp_path / "wrapped.keras")
    for trained in (wrapped, tfopt.load_model(tmp_path / "wrapped.keras")):
        trained.compile(tf_keras().optimizers.SGD(1e-4), "mse")
        trained.fit(PIXELS, np.zeros((64, 2)), batch_size=16, epochs=5, verbose=0)
        lite = tfopt.export_tflite(trained, None, tfopt.Export(io="uint8"))
        assert lite.inputs[0].scales[0] == pytest.approx(1) and lite.inputs[0].zero_points == (0,)


def test_training_moves_other_ranges(model):
    stage = tfopt.Quantize()
    wrapped = stage.apply(model, steps=20)
    values = np.random.default_rng(1).normal(size=PIXELS.shape).astype("float32")
    stage.calibrate(wrapped, values)
    [before] = [float(layer.quantizer_vars["max_var"]) for layer in wrapped.layers if hasattr(layer, "quantizer_vars")]
    wrapped.compile(tf_keras().optimizers.SGD(0.0), "mse")
    wrapped.fit(values * 3, np.zeros((64, 2)), batch_size=4, epochs=2, verbose=0)
    [after] = [float(layer.quantizer_vars["max_var"]) for layer in wrapped.layers if hasattr(layer, "quantizer_vars")]
    assert after > 1.02 * before
