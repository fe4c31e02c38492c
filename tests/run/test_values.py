"""Runs on values with axes: forecasts, reconstructions, and several classes at once for each place."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.errors import DataError, RecipeError
from tfopt.tasks import task_of
from tfopt.transfer import FeatureTransfer

SHORT = tfopt.Training(batch_size=32, learning_rate=0.01)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def series():
    time = np.arange(600)
    waves = [np.sin(2 * np.pi * time / 12), np.cos(2 * np.pi * time / 12)]
    return tfopt.load_series(np.stack(waves, axis=1) * 3 + 10, window=12, horizon=4)


def test_a_forecast_of_several_columns(series):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((12, 2)), keras.layers.Flatten(), keras.layers.Dense(8), keras.layers.Reshape((4, 2))]
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=20), tfopt.PostTraining()), training=SHORT)
    result = tfopt.optimize(keras.Sequential(layers), recipe, series, quiet=True)
    found, labels = result.lite.predict(series.test.x()), series.test.y()
    assert found.shape == labels.shape == (len(series.test), 4, 2)
    last = result.report.rows[-1].metrics
    assert last["mae"] == pytest.approx(np.abs(found - labels).mean(), rel=1e-4)
    assert last["rmse"] == pytest.approx(np.sqrt(np.square(found - labels).mean()), rel=1e-4)
    naive = np.abs(series.test.x()[:, -1:] - labels).mean()  # of the last value again
    assert last["mae"] < naive / 4
    assert any("naive forecast" in note for note in result.report.rows[0].notes)


@pytest.fixture(scope="module")
def patterns():
    """Normal samples lie on a plane of two dimensions; anomalies do not."""
    plane = RNG.normal(size=(2, 16))
    normal, others = RNG.normal(size=(400, 2)) @ plane, RNG.normal(size=(60, 16)) * 2
    x, flags = np.concatenate([normal, others]).reshape(-1, 4, 4), np.repeat([0, 1], [400, 60])
    return tfopt.load_data((x.astype("float32"), flags), task="reconstruction")


def test_an_autoencoder_finds_anomalies(patterns):
    keras.utils.set_random_seed(0)
    middle = [keras.layers.Dense(2), keras.layers.Dense(16)]
    layers = [keras.Input((4, 4)), keras.layers.Flatten(), *middle, keras.layers.Reshape((4, 4))]
    stages = (tfopt.FineTune(epochs=60), tfopt.Quantize(epochs=3, min_steps=0))
    recipe = tfopt.Recipe(stages=stages, training=SHORT)
    result = tfopt.optimize(keras.Sequential(layers), recipe, patterns, quiet=True)
    scores = tfopt.anomaly_scores(patterns.test.x(), result.lite.predict(patterns.test.x()))
    anomalous = patterns.test.labels == 1
    last = result.report.rows[-1].metrics
    assert last["mse"] == pytest.approx(scores[~anomalous].mean(), rel=1e-4)
    pairs = scores[anomalous][:, None] > scores[~anomalous]
    assert last["auc"] == pytest.approx(pairs.mean(), abs=1e-6) and last["auc"] > 0.95


def test_several_classes_at_once_for_each_place():
    x = RNG.random((300, 6, 6, 3)).astype("float32")
    masks = (x[..., :2] > 0.5).astype("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(2, 1, activation="sigmoid")])
    data = tfopt.load_data((x, masks))
    assert (data.task, task_of(data).places) == ("multilabel", (6, 6))
    recipe = tfopt.Recipe(
        stages=(tfopt.FineTune(epochs=20), tfopt.PostTraining()),
        training=tfopt.Training(batch_size=32, learning_rate=0.1),
    )
    result = tfopt.optimize(model, recipe, data, quiet=True)
    right = (result.lite.predict(data.test.x()) > 0.5) == (data.test.y() > 0.5)
    assert result.report.rows[-1].metrics["binary_accuracy"] == pytest.approx(right.mean()) and right.mean() > 0.9


def test_values_in_another_form_than_the_outputs(series):
    model = keras.Sequential([keras.Input((12, 2)), keras.layers.Flatten(), keras.layers.Dense(8)])
    with pytest.raises(DataError, match=r"shape \(8,\) .* have \(4, 2\); reshape the labels to \(n, 8\)"):
        tfopt.optimize(model, [tfopt.FineTune()], series, quiet=True)


def test_a_transfer_gives_one_answer(series):
    model = keras.Sequential([keras.Input((12, 2)), keras.layers.Flatten(), keras.layers.Dense(8)])
    with pytest.raises(RecipeError, match=r"the labels have one for each of \(4,\) places"):
        tfopt.optimize(
            model, tfopt.Recipe(stages=(tfopt.PostTraining(),), transfer=FeatureTransfer()), series, quiet=True
        )
