"""Numbers that no file can hold: weights and samples that are not finite, indices without a row."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.tflite.settings import FLOAT, Export

K = keras.layers
X = np.random.default_rng(0).normal(size=(40, 3))


def dense():
    return keras.Sequential([keras.Input((3,), name="features"), K.Dense(4, name="body"), K.Dense(2)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("export", [Export(), FLOAT])
def test_weights_that_are_not_finite_are_named(value, export):
    model = dense()
    weights = model.get_weights()
    weights[0][1, 2] = value
    model.set_weights(weights)
    with pytest.raises(ModelError, match=r"body/kernel.* of the layer 'body' has 1 values that are NaN or infinite"):
        tfopt.export_tflite(model, export=export, representative_data=X)


# 1e39 is finite in float64, but infinite in float32.
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
@pytest.mark.parametrize("export", [Export(), Export(weights="int4"), Export(activation_ranges="mse")])
def test_samples_that_are_not_finite_are_named(value, export):
    data = X.copy()
    data[37, 1] = value  # in the second batch of 32
    with pytest.raises(DataError, match=r"input 'features' has NaN, infinity.*float32 in sample 37"):
        tfopt.export_tflite(dense(), export=export, representative_data=data)


@pytest.mark.parametrize("export", [Export(), Export(weights="int4"), Export(activation_ranges="mse")])
def test_indices_without_a_row_are_a_clear_error(export):
    table = K.Embedding(10, 4, name="table")
    model = keras.Sequential([keras.Input((5,), dtype="int32"), table, K.Flatten(), K.Dense(2)])
    words = np.random.default_rng(0).integers(0, 10, (16, 5)).astype("int32")
    words[7, 3] = 10
    with pytest.raises(DataError, match=r"index for which .* has no row \('table' has rows 0 to 9\)"):
        tfopt.export_tflite(model, export=export, representative_data=words)


def test_data_beyond_float32_are_refused_before_they_are_narrowed():
    data = X.copy()
    data[5, 0] = -1e39
    with pytest.raises(DataError, match=r"beyond float32 .*1 of 40 samples, the first at index 5"):
        tfopt.load_data((data, np.arange(40) % 2))


@pytest.mark.parametrize("export", [Export(), FLOAT])
def test_weights_that_folding_makes_nan_are_an_error(export):
    model = keras.Sequential([keras.Input((3,)), K.Dense(4, name="body"), K.BatchNormalization(), K.Dense(2)])
    gamma, beta, mean, variance = model.layers[1].get_weights()
    variance[0] = -1
    model.layers[1].set_weights([gamma, beta, mean, variance])
    with pytest.raises(ModelError, match="NaN or in"):
        tfopt.export_tflite(model, export=export, representative_data=X)


def test_samples_of_another_shape_are_named():
    with pytest.raises(DataError, match=r"must have shape \(None, 3\), batch first; got \(32, 5\)"):
        tfopt.export_tflite(dense(), representative_data=np.zeros((40, 5), "float32"))


def test_arguments_in_the_wrong_place_are_named_before_the_work():
    with pytest.raises(RecipeError, match=r"as the second argument; got Export\(.*export_tflite\(model, None, Export"):
        tfopt.export_tflite(dense(), Export(), representative_data=X)
    for wrong in (None, "model.keras", K.Dense(3)):
        with pytest.raises(ModelError, match=r"Expected a Keras 3 or tf_keras model, got \w+; tfopt.load_model"):
            tfopt.export_tflite(wrong)


@pytest.mark.parametrize("settings", [{}, {"activation_ranges": "mse"}, {"weights": "int4"}, {"activations": "int16"}])
def test_a_layer_whose_units_are_all_dead(settings):
    """Its outputs have the range 0 to 0, for which there is no scale."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    dead = keras.layers.Dense(2, activation="relu", bias_initializer=keras.initializers.Constant(-99.0))(inputs)
    joined = keras.layers.Concatenate()([dead, keras.layers.Dense(3)(inputs)])
    model = keras.Model(inputs, keras.layers.Dense(2)(joined))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    lite = tfopt.export_tflite(model, None, Export(**settings), representative_data=x)
    want = model.predict(x, verbose=0)
    assert not lite.float_tensors()
    assert np.mean((lite.predict(x) - want) ** 2) < 0.05 * np.var(want)


def test_in_int16_what_reads_dead_units_alone_stays_in_float():
    """TensorFlow gives its kernel an infinite scale."""
    inputs = keras.Input((4,))
    dead = keras.layers.Dense(2, activation="relu", bias_initializer=keras.initializers.Constant(-99.0))(inputs)
    read = keras.layers.Dense(3, bias_initializer="ones")(dead)
    model = keras.Model(
        inputs, keras.layers.Dense(2)(keras.layers.Concatenate()([read, keras.layers.Dense(3)(inputs)]))
    )
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    lite = tfopt.export_tflite(model, None, Export(activations="int16"), representative_data=x)
    want = model.predict(x, verbose=0)
    assert np.mean((lite.predict(x) - want) ** 2) < 1e-3 * np.var(want)


def test_dead_units_in_training_for_int8():
    inputs = keras.Input((4,))
    dead = keras.layers.Dense(2, activation="relu", bias_initializer=keras.initializers.Constant(-99.0))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(dead))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    stage = tfopt.Quantize()
    wrapped = stage.apply(model, steps=1)
    stage.calibrate(wrapped, x)
    np.testing.assert_array_equal(tfopt.export_tflite(wrapped).predict(x), 0)


@pytest.mark.parametrize("stage", [tfopt.Prune(), tfopt.Cluster()], ids=["Prune", "Cluster"])
def test_a_model_that_was_not_stripped(stage):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(64, name="wide"), keras.layers.Dense(3)])
    with pytest.raises(ModelError, match=r"the wrappers of a stage, around wide, .*stage\.strip\(model\)"):
        tfopt.export_tflite(stage.apply(model, steps=10), representative_data=np.ones((40, 6), "float32"))
