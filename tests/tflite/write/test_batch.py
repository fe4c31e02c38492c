"""A static batch by default, a dynamic one on request: operators counted, answers those of Keras for any number."""

import numpy as np
import pytest

from tfopt.base import keras_compat
from tfopt.cli.exporting import export as command
from tfopt.stages import Quantize
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import Export
from tfopt.tflite.write.calibration import Calibration
from tfopt.tflite.write.converter import convert
from tfopt.tflite.write.export import build_file
from tfopt.tflite.write.strategies import strategies_for


def layers():
    return keras_compat.tf_keras().layers


def model_of(shape, *parts, batch=None):
    model = keras_compat.tf_keras().Sequential([layers().Input(shape, batch_size=batch), *parts])
    rng = np.random.default_rng(0)
    model.set_weights([np.abs(rng.normal(size=weight.shape)) * 0.3 + 0.1 for weight in model.get_weights()])
    return model


def dilated(batch=None):
    conv = layers().Conv2D(8, 3, dilation_rate=2, padding="same")
    return model_of(
        (12, 12, 2), conv, layers().BatchNormalization(), layers().ReLU(), layers().Conv2D(3, 1), batch=batch
    )


def on_a_sequence(batch=None):
    return model_of(
        (12, 6), layers().Dense(8), layers().BatchNormalization(), layers().ReLU(), layers().Dense(3), batch=batch
    )


def reshaped(batch=None):
    return model_of(
        (8, 8, 4),
        layers().Conv2D(4, 3, padding="same"),
        layers().Reshape((4, 4, 16)),
        layers().Conv2D(3, 1),
        batch=batch,
    )


def samples(model, count=40):
    return np.random.default_rng(1).normal(size=(count, *model.input_shape[1:])).astype("float32")


# One operator for each layer that computes; BatchNormalization and ReLU are in the one before, a static Reshape is one.
@pytest.mark.parametrize("make, operators", [(dilated, 2), (on_a_sequence, 2), (reshaped, 3)])
def test_a_static_batch_computes_no_shapes(make, operators):
    model = make()
    x = samples(model)
    lite = build_file(model, Export(), x)
    assert len(lite.ops()) == operators
    assert {port.shape[0] for port in (*lite.inputs, *lite.outputs)} == {1}
    free = build_file(model, Export(batch="dynamic"), x)
    assert len(lite.ops()) < len(free.ops())
    assert {port.shape[0] for port in free.inputs} == {None}
    expected = model.predict(x, verbose=0)
    for file in (lite, free):
        for count in (1, 7, 40):
            got = file.predict(x[:count])
            assert got.shape == expected[:count].shape
            assert np.mean(np.square(got - expected[:count])) < 0.01 * np.var(expected)
    assert not any("one sample at a time" in note for note in lite.notes)


@pytest.mark.parametrize("batch", ["static", "dynamic"])
def test_a_model_with_a_batch_size_keeps_it(batch):
    model = on_a_sequence(batch=4)
    x = samples(model)
    lite = build_file(model, Export(weights="float32", activations="float32", batch=batch))
    assert lite.inputs[0].shape == (4, 12, 6)
    assert any("made for 4 samples at a time" in note for note in lite.notes) == (batch == "dynamic")
    assert not any("cannot be converted" in note for note in lite.notes)
    np.testing.assert_allclose(lite.predict(x[:10]), model.predict(x, batch_size=4, verbose=0)[:10], atol=1e-4)


def test_an_input_without_a_batch_size_takes_that_of_the_others():
    keras, rng = keras_compat.tf_keras(), np.random.default_rng(1)
    one, two = keras.Input((6,), name="one"), keras.Input((3,), batch_size=4, name="two")
    model = keras.Model([one, two], keras.layers.Dense(2)(keras.layers.Concatenate()([one, two])))
    lite = build_file(model, Export(weights="float32", activations="float32"))
    assert [port.shape for port in lite.inputs] == [(4, 6), (4, 3)]
    x = {"one": rng.normal(size=(9, 6)).astype("float32"), "two": rng.normal(size=(9, 3)).astype("float32")}
    kernel, bias = model.layers[-1].get_weights()
    expected = np.concatenate([x["one"], x["two"]], axis=1) @ kernel + bias
    np.testing.assert_allclose(lite.predict(x), expected, atol=1e-5)


def test_an_int8_model_with_a_batch_size_keeps_it():
    model = on_a_sequence(batch=4)
    x = samples(model)
    expected = np.concatenate([model.predict(x[i : i + 4], verbose=0) for i in range(0, 40, 4)])
    for weights in ("int8", "int4"):
        lite = build_file(model, Export(weights=weights), x)
        assert lite.inputs[0].shape == (4, 12, 6) and not lite.float_tensors()
        allowed = 0.01 if weights == "int8" else 0.3
        assert np.mean(np.square(lite.predict(x[:10]) - expected[:10])) < allowed * np.var(expected)


def test_free_sizes_stay_free_in_a_static_batch():
    model = model_of((None, None, 2), layers().Conv2D(3, 3, padding="same"))
    lite = build_file(model, Export(weights="float32", activations="float32"))
    assert lite.inputs[0].shape == (1, None, None, 2)
    for size in (5, 9):
        x = np.random.default_rng(2).normal(size=(3, size, size, 2)).astype("float32")
        np.testing.assert_allclose(lite.predict(x), model.predict(x, verbose=0), atol=1e-4)


def test_a_free_batch_that_cannot_be_is_said_so():
    model = model_of((8, 8, 4), layers().Conv2DTranspose(4, 3, strides=2))
    x = samples(model)
    lite = build_file(model, Export(batch="dynamic"), x)
    assert not lite.float_tensors()
    said = [note for note in lite.notes if "made for one sample at a time" in note]
    assert bool(said) == (lite.inputs[0].shape[0] == 1)


def test_signals_of_a_file_that_only_delegates_can_resize():
    # XNNPACK runs TRANSPOSE_CONV for any batch; signals are read without it.
    model = model_of((4, 4, 3), layers().Conv2DTranspose(4, 3, strides=2, padding="same"))
    x = samples(model)
    lite = build_file(model, Export(weights="float32", activations="float32"))
    (op,) = lite.ops()
    assert op.name == "TRANSPOSE_CONV" and lite.inputs[0].shape[0] == 1
    np.testing.assert_allclose(lite.signals(x)[op.outputs[0]], model.predict(x, verbose=0), atol=1e-4)


# RESHAPE to and from the four axes of CONV_2D beside the one operator of the layer, BatchNormalization and ReLU.
FOLDED = {
    "Conv1D": ((12, 4), lambda: layers().Conv1D(6, 3, padding="same"), 3),
    "dilated Conv1D": ((12, 4), lambda: layers().Conv1D(6, 3, padding="same", dilation_rate=2), 3),
    "DepthwiseConv1D": ((12, 4), lambda: layers().DepthwiseConv1D(3, padding="same"), 3),
    "Conv1DTranspose": ((6, 4), lambda: layers().Conv1DTranspose(6, 3, strides=2, padding="same"), 3),
    "Conv2DTranspose": ((4, 4, 4), lambda: layers().Conv2DTranspose(6, 3, strides=2, padding="same"), 1),
    "Dense on a sequence": ((6, 4), lambda: layers().Dense(6), 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDED)
def test_after_quantize_batch_normalization_is_part_of_the_layer_before(name):
    shape, make, operators = FOLDED[name]
    model = model_of(shape, make(), layers().BatchNormalization(), layers().ReLU())
    x = samples(model)
    stage = Quantize()
    aware = stage.apply(model, steps=1)
    stage.calibrate(aware, x)
    lite = build_file(aware, Export())  # without samples: there are trained ranges for everything
    assert len(lite.ops()) == operators
    for expected, allowed in ((model.predict(x, verbose=0), 2e-3), (aware.predict(x, verbose=0), 1e-4)):
        assert np.mean(np.square(lite.predict(x) - expected)) < allowed * np.var(expected)


def test_a_strategy_that_keeps_the_promises_is_preferred():
    model, settings = on_a_sequence(), Export(weights="float32", activations="float32", batch="dynamic")

    def batch(breaks):
        return LiteModel(convert(model, settings, breaks=breaks)).inputs[0].shape[0]

    def dynamic(data):
        return LiteModel(data).inputs[0].shape[0] is None

    assert batch(lambda data: False) is None
    assert batch(dynamic) == 1
    assert batch(lambda data: not dynamic(data)) is None
    assert batch(lambda data: True) == 1  # equally bad; fewer operators


@pytest.mark.parametrize(
    "shape, batch, fixed_batch, calibrated, ways",
    [
        ((4,), "static", None, True, ["static", "free"]),
        ((4,), "static", 2, True, ["static"]),
        ((4,), "dynamic", None, True, ["free", "static"]),
        ((4,), "dynamic", 2, True, ["free"]),
        ((None, 4), "static", None, True, ["static", "samples", "free"]),
        ((None, 4), "static", None, False, ["static", "free"]),
        ((None, 4), "dynamic", None, True, ["free", "static", "samples"]),
    ],
)
def test_no_way_is_tried_twice(shape, batch, fixed_batch, calibrated, ways):
    model = model_of(shape, layers().Dense(2), batch=fixed_batch)
    samples = Calibration(np.zeros((2, *(size or 3 for size in shape)), "float32"), 2).bind(model)
    found = strategies_for(model, Export(batch=batch), samples if calibrated else None)
    names = {"free": "_free_batch", "static": "_static_batch", "samples": "_sizes_of_samples"}
    assert [strategy.trace.__name__ for strategy in found] == [names[way] for way in ways]
    assert [strategy.rescue for strategy in found] == [batch == "static" and way == "free" for way in ways]


@pytest.mark.parametrize("weights, activations", [("int4", "int8"), ("int4", "int16"), ("int8", "int16")])
def test_super_resolution_of_any_size_has_all_integer_forms(weights, activations):
    up = layers().UpSampling2D(2)
    model = model_of((None, None, 2), layers().Conv2D(4, 3, padding="same"), up, layers().Conv2D(2, 3, padding="same"))
    x = np.random.default_rng(1).normal(size=(40, 6, 8, 2)).astype("float32")
    lite = build_file(model, Export(weights=weights, activations=activations), x)
    assert not lite.float_tensors()
    expected = model.predict(x, verbose=0)
    assert np.mean(np.square(lite.predict(x) - expected)) < (0.1 if weights == "int4" else 1e-3) * np.var(expected)
    free = None in lite.inputs[0].shape
    assert free != any("(1, 6, 8, 2): with free sizes it cannot be converted" in note for note in lite.notes)


def test_the_command_has_the_setting():
    (option,) = [each for each in command.params if each.name == "batch"]
    assert option.default == Export().batch == "static" and tuple(option.type.choices) == ("static", "dynamic")


@pytest.mark.parametrize("form", [Export(), Export(activations="int16"), Export(weights="int4")])
def test_a_batch_size_that_the_model_computes_with(form):
    """Calibration runs as many samples at a time: 4, of 66."""
    import keras

    rng = np.random.default_rng(0)
    given = keras.Input(batch_shape=(4, 6))
    halves = keras.ops.reshape(keras.layers.Dense(8)(given), (4, 2, 4))
    model = keras.Model(given, keras.layers.Dense(3)(halves))
    x = rng.normal(size=(66, 6)).astype("float32")
    lite = build_file(model, form, x)
    assert lite.inputs[0].shape == (4, 6) and any("from 66 training samples" in note for note in lite.notes)
    expected = model.predict(x[:64], batch_size=4, verbose=0).astype(float)
    assert np.square(lite.predict(x[:64]) - expected).mean() < 0.03 * expected.var()
