"""Inputs and outputs of a file have the order of the Keras model, by index as well as by name."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.tflite.settings import FLOAT, Export

RNG = np.random.default_rng(0)
NAMES = ("zeta", "alpha", "mid")  # neither the order of the alphabet nor that of creation


def many(api, outputs):
    """Three inputs of equal shapes and three outputs of equal shapes, each a multiple of one input."""
    inputs = [api.Input((2,), name=f"in_{name}") for name in NAMES]
    made = {
        name: api.layers.Dense(2, use_bias=False, name=name)(tensor)
        for name, tensor in sorted(zip(NAMES, inputs, strict=True))
    }
    model = api.Model(inputs, outputs(made))
    for number, name in enumerate(NAMES):
        model.get_layer(name).set_weights([np.eye(2) * (number + 1)])
    return model


STRUCTURES = {
    "list": lambda made: [made[name] for name in NAMES],
    "nested": lambda made: [made["zeta"], [made["alpha"], made["mid"]]],
    "dict": lambda made: {"b": made["alpha"], "a": made["zeta"], "c": made["mid"]},
}
X = [RNG.normal(size=(64, 2)).astype("float32") for _ in NAMES]


def flat(outputs):
    if isinstance(outputs, dict):
        return [outputs[key] for key in sorted(outputs)]
    return [leaf for each in outputs for leaf in (flat(each) if isinstance(each, (list, tuple)) else [each])]


@pytest.mark.slow
@pytest.mark.parametrize("struct", STRUCTURES)
@pytest.mark.parametrize("kind", ["float", "int8", "int4 weights", "trained"])
def test_by_index_and_by_name(struct, kind):
    model = many(tf_keras() if kind == "trained" else keras, STRUCTURES[struct])
    if kind == "trained":
        stage = tfopt.Quantize()
        wrapped = stage.apply(model, steps=1)
        stage.calibrate(wrapped, X)
        lite = tfopt.export_tflite(wrapped, None, Export(io="float32"))
    else:
        weights = "int4" if kind == "int4 weights" else kind
        settings = FLOAT if kind == "float" else Export(weights=weights, io="float32")
        lite = tfopt.export_tflite(model, None, settings, representative_data=X)
    assert [port.name for port in lite.inputs] == [f"in_{name}" for name in NAMES]
    assert [port.name for port in lite.outputs] == (["a", "b", "c"] if struct == "dict" else list(NAMES))
    want = [(number + 1) * x for number, x in enumerate(X)]
    for one, other in zip(flat(model.predict(X, verbose=0)), want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    tolerance = 1e-5 if kind == "float" else 0.3
    found = lite.predict(X)
    by_name = lite.predict({f"in_{name}": x for name, x in zip(NAMES, X, strict=True)})
    for got, again, expected in zip(found, by_name, want, strict=True):
        np.testing.assert_allclose(got, expected, atol=tolerance)
        np.testing.assert_array_equal(got, again)
    # As a program on a device reads it: by the places in the graph.
    interpreter = Interpreter(model_content=lite.data)
    interpreter.allocate_tensors()
    for place, x in zip(interpreter.get_input_details(), X, strict=True):
        interpreter.set_tensor(place["index"], x[:1])
    interpreter.invoke()
    for place, expected in zip(interpreter.get_output_details(), want, strict=True):
        np.testing.assert_allclose(interpreter.get_tensor(place["index"]), expected[:1], atol=tolerance)


def test_an_output_that_is_an_input_of_another_keeps_its_place():
    inputs = keras.Input((2,), name="x")
    first = keras.layers.Dense(2, name="z_first")(inputs)
    model = keras.Model(inputs, [first, keras.layers.Dense(2, name="a_second")(first)])
    lite = tfopt.export_tflite(model, None, FLOAT)
    assert [port.name for port in lite.outputs] == ["z_first", "a_second"]
    for got, want in zip(lite.predict(X[0]), model.predict(X[0], verbose=0), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", [None, tfopt.Quantize()], ids=["after training", "in training"])
def test_outputs_of_a_dict_have_its_keys(stage):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8)(inputs)
    model = keras.Model(inputs, {"zeta": keras.layers.Dense(2)(hidden), "alpha": keras.layers.Dense(3)(hidden)})
    x = np.random.default_rng(0).normal(size=(96, 4)).astype("float32")
    made = model
    if stage is not None:
        made = stage.apply(model, steps=1)
        stage.calibrate(made, x)
    lite = tfopt.export_tflite(made, representative_data=x)
    want = model.predict(x, verbose=0)
    assert sorted(port.name for port in lite.outputs) == ["alpha", "zeta"]
    for port, got in zip(lite.outputs, lite.predict(x), strict=True):
        assert np.mean((got - want[port.name]) ** 2) < 0.02 * np.var(want[port.name])
