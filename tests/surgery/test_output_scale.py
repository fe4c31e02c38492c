"""The scale of regression targets in the last layer of a model."""

import keras
import numpy as np
import pytest

from tfopt.base.keras_compat import tf_keras
from tfopt.surgery.output_scale import predict_normalized, predict_values
from tfopt.tasks.scaling import TargetScale

APIS = pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])
LABELS = np.array([[40.0, 3000], [60, 3010], [50, 3005]], np.float32)  # mean 50 and 3005, deviation sqrt(200/3), half


def model_of(api, *ending):
    inputs = x = api.Input((4,))
    for layer in (api.layers.Dense(5, activation="relu"), *ending):
        x = layer(x)
    return api.Model(inputs, x)


@APIS
def test_outputs_are_normalized_and_come_back(api):
    model = model_of(api, api.layers.Dense(2), api.layers.Dropout(0.5))
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    values = model.predict(x, verbose=0).astype(np.float64)
    scale, deviation = TargetScale.of(LABELS), np.array([np.sqrt(200 / 3), np.sqrt(50 / 3)])
    assert predict_normalized(model, scale)
    np.testing.assert_allclose(model.predict(x, verbose=0), (values - [50, 3005]) / deviation, rtol=1e-4)
    assert predict_values(model, scale)
    np.testing.assert_allclose(model.predict(x, verbose=0), values, atol=2e-3)  # float32 of 3005
    assert predict_values(model, scale)
    np.testing.assert_allclose(model.predict(x, verbose=0), values * deviation + [50, 3005], rtol=1e-5)


@APIS
def test_what_cannot_take_the_scale_stays_as_it_is(api):
    layers = api.layers
    for ending in (
        [layers.Dense(2, activation="sigmoid")],
        [layers.Dense(2), layers.Activation("tanh")],
        [layers.Dense(2), layers.ReLU(6.0)],
        [layers.Dense(2, use_bias=False)],
        [layers.Dense(3)],
    ):
        model = model_of(api, *ending)
        before = model.get_weights()
        assert not predict_values(model, TargetScale.of(LABELS))
        assert not predict_normalized(model, TargetScale.of(LABELS))
        for old, now in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, now)


@APIS
def test_values_pass_an_activation_or_a_rescaling(api):
    """What the layer gives is d z + m of the targets, up to the sign of a Rescaling."""
    layers, scale = api.layers, TargetScale.of(LABELS)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    endings = {
        "relu": ([layers.Dense(2, activation="relu")], [1, 1]),
        "layer": ([layers.Dense(2), layers.ReLU()], [1, 1]),
        "rescaling": ([layers.Dense(2), layers.Rescaling(7.0, 3.0)], [1, 1]),
        "rescalings": ([layers.Dense(2), layers.Rescaling([2.0, -3.0], 1.0), layers.Rescaling(5.0, -4.0)], [1, -1]),
    }
    for name, (ending, signs) in endings.items():
        model = model_of(api, *ending)
        kernel, bias = ending[0].get_weights()
        body = api.Model(model.inputs, ending[0].input)
        z = body.predict(x, verbose=0).astype(np.float64) @ kernel + bias
        before = [kernel, bias]
        assert not predict_normalized(model, scale), name
        for old, now in zip(before, ending[0].get_weights(), strict=True):
            np.testing.assert_array_equal(old, now)
        assert predict_values(model, scale), name
        expected = [50, 3005] + z * [np.sqrt(200 / 3), np.sqrt(50 / 3)] * signs
        np.testing.assert_allclose(model.predict(x, verbose=0), np.maximum(expected, 0), rtol=1e-5, err_msg=name)
