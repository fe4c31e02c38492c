"""The moving average of weights, by hand in float64."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.training.averaging import averaged_weights

X = np.random.default_rng(0).normal(size=(12, 3))
Y = X @ [1.0, -2.0, 0.5]
RATE, MOMENTUM = 0.05, 0.3


def by_hand(epochs, batch_size):
    """Return the weights and their average after SGD on the mean squared error of a linear model, at each epoch."""
    weights, average, steps, ends = np.zeros(3), np.zeros(3), 0, []
    for _ in range(epochs):
        for start in range(0, len(X), batch_size):
            x, y = X[start : start + batch_size], Y[start : start + batch_size]
            weights = weights - RATE * 2 * x.T @ (x @ weights - y) / len(x)
            steps += 1
            rate = 1 - min(MOMENTUM, (1 + steps) / (10 + steps))
            average = average + rate * (weights - average)
        ends.append((weights, average))
    return ends


@pytest.mark.parametrize("validated", [True, False])
def test_validation_and_the_end_have_the_average_and_training_the_weights(validated):
    package = tf_keras()
    model = package.Sequential([package.Input((3,)), package.layers.Dense(1, use_bias=False)])
    model.set_weights([np.zeros((3, 1))])
    model.compile(package.optimizers.SGD(RATE), "mse")
    data = (X, Y) if validated else None
    history = model.fit(
        X, Y, epochs=3, batch_size=4, shuffle=False, validation_data=data, callbacks=[averaged_weights(MOMENTUM)],
        verbose=0,
    ).history  # fmt: skip
    ends = by_hand(3, 4)
    assert np.abs(ends[-1][0] - ends[-1][1]).max() > 0.01
    np.testing.assert_allclose(model.get_weights()[0][:, 0], ends[-1][1], atol=1e-5)
    if validated:
        expected = [np.mean((X @ average - Y) ** 2) for _, average in ends]
        np.testing.assert_allclose(history["val_loss"], expected, rtol=1e-4)


@pytest.mark.slow
def test_the_stage_keeps_zeros_and_says_so():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(120, 4)).astype("float32"), rng.integers(0, 2, 120)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2, "softmax")])
    stages = (
        tfopt.Prune(final_sparsity=0.5, epochs=1, min_steps=0),
        tfopt.FineTune(epochs=2, ema_momentum=0.9, learning_rate=0.05),
    )
    floats = tfopt.Export(weights="float32", activations="float32")
    result = tfopt.optimize(model, tfopt.Recipe(stages=stages, export=floats, max_drop=None), (x, y), quiet=True)
    assert "keeps the moving average of the weights (0.9)" in result.report.rows[2].notes
    assert [np.mean(layer.kernel == 0) for layer in result.model.layers] == [0.5, 0.5]


def test_fit_adds_no_second_average():
    """The model that a stage returns adds the callbacks of the stage, unless they are given."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    stage = tfopt.FineTune(ema_momentum=MOMENTUM)
    ends = []
    for callbacks in (stage.callbacks(), []):
        applied = stage.apply(model, steps=9)
        applied.compile("sgd", "mse")
        applied.fit(X, Y, epochs=3, batch_size=4, shuffle=False, callbacks=callbacks, verbose=0)
        ends.append(applied.get_weights()[0])
    np.testing.assert_array_equal(*ends)
