"""Where the 256 steps of activations reach, in the file, and how far."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import RecipeError
from tfopt.stages import Quantize
from tfopt.stages.quantize.activation_ranges import least_squares_range
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import Export
from tfopt.tflite.write.export import build_file

RNG = np.random.default_rng(5)


def squared_error(values, low, high):
    """Of 256 evenly spaced numbers between `low` and `high`, shifted so that zero is one of them."""
    step = (high - low) / 255
    first = -np.rint(-low / step) * step
    grid = first + step * np.arange(256)
    return np.square(grid[np.abs(grid - values[:, None]).argmin(axis=1)] - values).sum()


@pytest.mark.parametrize(
    "values",
    [RNG.normal(size=400), np.abs(RNG.standard_t(2, size=400)), RNG.laplace(2, size=400), -RNG.exponential(size=400)],
    ids=["normal", "heavy tail", "shifted", "negative"],
)
def test_the_range_is_the_best_of_a_search(values):
    low, high = least_squares_range(values, np.ones(400))
    ends = np.linspace(0.02, 1, 25)
    lows, highs = min(values.min(), 0) * ends, max(values.max(), 0) * ends
    best = min(squared_error(values, a, b) for a in np.unique(lows) for b in np.unique(highs))
    assert squared_error(values, low, high) < 1.02 * best
    assert low <= 0 <= high and (low < 0) == (values.min() < 0) and (high > 0) == (values.max() > 0)


def test_what_occurs_often_weighs_more():
    values, once = np.append(np.abs(RNG.normal(size=400)), 50.0), np.ones(401)
    often = np.where(values < 50, 1e6, 1)
    assert least_squares_range(values, often)[1] < 5 < 45 < least_squares_range(values, once)[1]


def test_nothing_but_zeros_has_a_range():
    assert least_squares_range(np.zeros(3), np.ones(3)) == (0.0, 0.0)


@pytest.fixture(scope="module")
def same():
    """A model that returns its input, and two sets of samples with long tails."""
    inputs = keras.Input((16,), name="x")
    layer = keras.layers.Dense(16, kernel_initializer="identity", name="same")
    return keras.Model(inputs, layer(inputs)), *RNG.laplace(size=(2, 4096, 16)).astype("float32")


def test_rare_extremes_do_not_cost_the_others_their_steps(same):
    model, samples, others = same
    errors = {}
    for ranges in ("max", "mse"):
        lite = build_file(model, Export(activation_ranges=ranges, calibration_samples=4096), samples)
        assert not lite.float_tensors() and {w.tensor.dtype for w in lite.weights()} == {"int8"}
        assert "activation ranges from 4096 training samples" in lite.notes
        errors[ranges] = np.square(lite.predict(others) - others).mean()
        assert [port.name for port in lite.outputs] == ["same"]
    assert errors["mse"] < 0.95 * errors["max"]


def test_ranges_of_the_file_are_the_best_for_the_samples(same):
    model, samples, _ = same
    lite = build_file(model, Export(activation_ranges="mse", calibration_samples=64), samples)
    scale, _ = Interpreter(model_content=lite.data).get_input_details()[0]["quantization"]
    given = samples[:64].astype(np.float64).reshape(-1)
    tried = np.linspace(0.3, 1, 36)
    _, low, high = min((squared_error(given, a, b), a, b) for a in given.min() * tried for b in given.max() * tried)
    assert scale * 255 == pytest.approx(high - low, rel=0.03)


def test_several_inputs():
    left, right = keras.Input((6, 6, 3), name="left"), keras.Input((4,), name="right")
    pooled = keras.layers.GlobalAveragePooling2D(name="mean")(left)
    outputs = keras.layers.Concatenate()([pooled, keras.layers.Dense(4, "tanh", name="side")(right)])
    model = keras.Model({"left": left, "right": right}, outputs)
    samples = {"left": RNG.random((80, 6, 6, 3), np.float32), "right": RNG.random((80, 4), np.float32)}
    lite = build_file(model, Export(activation_ranges="mse"), samples)
    assert not lite.float_tensors()
    assert np.abs(lite.predict(samples) - model.predict(samples, verbose=0)).max() < 0.03


@pytest.mark.parametrize(
    "settings", [{"activations": "float32"}, {"activations": "int16"}, {"weights": "int4"}, {"weight_only": True}]
)
def test_other_activations_have_no_such_ranges(settings):
    settings = {"activations": "float32", **settings} if "weight_only" in settings else settings
    with pytest.raises(RecipeError, match='activation_ranges="mse" needs int8 weights and activations'):
        Export(activation_ranges="mse", **settings)


# Averages over all places ------------------------------------------------------------------------


def averaging(pool, shape, **settings):
    layers = tf_keras().layers
    dimensions = len(shape) - 1
    return tf_keras().Sequential(
        [
            tf_keras().Input(shape),
            getattr(layers, f"AveragePooling{dimensions}D")(pool, name="pool", **settings),
            layers.Flatten(),
            layers.Dense(shape[-1], kernel_initializer="identity", name="head"),
        ]
    )


def peaks(shape):
    """Mostly small values, one in a hundred about 10: their mean over all places is far from the extremes."""
    x = RNG.exponential(0.1, size=(64, *shape))
    return np.where(RNG.random(x.shape) < 0.01, 10.0, x).astype("float32")


@pytest.mark.parametrize("shape, pool", [((8, 8, 4), 8), ((8, 8, 4), (8, 8)), ((64, 4), 64), ((6, 8, 4), (6, 8))])
@pytest.mark.parametrize("trained", [False, True])
def test_an_average_over_all_places_has_a_separate_range(shape, pool, trained):
    model, x = averaging(pool, shape), peaks(shape)
    exact = x.astype(np.float64).mean(axis=tuple(range(1, x.ndim - 1)))
    given = model
    if trained:
        given = Quantize().apply(model, steps=1)
        Quantize().calibrate(given, x)
    lite = tfopt.export_tflite(given, representative_data=None if trained else x)
    assert not lite.float_tensors() and "AVERAGE_POOL_2D" not in {op.name for op in lite.ops()}
    # A step of the input is 10/255; the mean has separate steps of 1/255 of its range, and so do the outputs.
    assert np.abs(lite.predict(x) - exact).max() < 2.5 * exact.max() / 255 + 0.1 * 10 / 255
    np.testing.assert_allclose(model.predict(x, verbose=0), exact, rtol=1e-5)


@pytest.mark.parametrize(
    "pool, settings", [(4, {}), ((8, 4), {}), (4, {"strides": 8}), (6, {"padding": "same", "strides": 8})]
)
def test_an_average_over_some_places_stays_one(pool, settings):
    model, x = averaging(pool, (8, 8, 4), **settings), peaks((8, 8, 4))
    if model.layers[-1].kernel.shape[0] != 4:
        model.layers[-1].kernel.assign(np.eye(*model.layers[-1].kernel.shape))
    lite = tfopt.export_tflite(model, representative_data=x)
    assert "AVERAGE_POOL_2D" in {op.name for op in lite.ops()}
    assert np.abs(lite.predict(x) - model.predict(x, verbose=0)).max() < 3 * 10 / 255
    wrapped = Quantize().apply(model, steps=1)
    Quantize().calibrate(wrapped, x)
    assert "AVERAGE_POOL_2D" in {op.name for op in tfopt.export_tflite(wrapped).ops()}


@pytest.mark.parametrize("sizes", [(4, 8), (8, 4)])
def test_a_layer_that_averages_all_in_one_of_its_calls_stays_as_it_is(sizes):
    layers = tf_keras().layers
    inputs = [tf_keras().Input((size, size, 4), name=f"of_{size}") for size in sizes]
    pool = layers.AveragePooling2D(4, name="pool")
    model = tf_keras().Model(inputs, layers.Add()([layers.Dense(3)(layers.Flatten()(pool(x))) for x in inputs]))
    x = {f"of_{size}": RNG.random((64, size, size, 4), np.float32) for size in sizes}
    lite = tfopt.export_tflite(model, representative_data=x)
    assert np.abs(lite.predict(x) - model.predict(x, verbose=0)).max() < 0.02


def test_float_files_keep_the_pooling():
    lite = build_file(averaging(8, (8, 8, 4)), Export(weights="float32", activations="float32"))
    assert "AVERAGE_POOL_2D" in {op.name for op in LiteModel(lite.data).ops()}
