"""The task of the data chooses what a student learns from its teacher."""

import keras
import numpy as np
import pytest

import tfopt

RNG = np.random.default_rng(0)
TRAINING = tfopt.Training(batch_size=16, learning_rate=1e-9, patience=None)


def forecasts():
    series = np.stack([np.sin(np.arange(300) / 7), np.cos(np.arange(300) / 5)], axis=1)
    return tfopt.load_series(series, window=8, horizon=3)


def reconstructions():
    return tfopt.load_data(RNG.normal(size=(120, 6, 2)).astype("float32"), task="reconstruction")


def values():
    x = RNG.normal(size=(120, 5)).astype("float32")
    return tfopt.load_data((x, x[:, :2] * 10))


def network(data, seed):
    keras.utils.set_random_seed(seed)
    shape = data.train.target_shape
    outputs = keras.layers.Dense(int(np.prod(shape)))(keras.layers.Flatten()(given := keras.Input(data.input_shape)))
    return keras.Model(given, keras.layers.Reshape(shape)(outputs))


@pytest.mark.parametrize("make", [forecasts, reconstructions, values])
def test_values_are_learned_from_the_teachers_values(make):
    data = make()
    student, teacher = network(data, 0), network(data, 1)
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=1, min_steps=0),), training=TRAINING, max_drop=None)
    result = tfopt.optimize(student, recipe, data, teacher=teacher, quiet=True)
    note = next(note for note in result.report.rows[1].notes if "regression_kd" in note)
    made = [model.predict(data.train.x(), verbose=0).astype(np.float64) for model in (student, teacher)]
    assert float(note.split("regression_kd ")[1]) == pytest.approx(np.mean((made[0] - made[1]) ** 2), rel=0.03)
