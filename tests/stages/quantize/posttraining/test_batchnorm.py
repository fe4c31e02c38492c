"""Statistics of BatchNormalization against those computed by hand in float64."""

import numpy as np
import pytest

from tfopt.base.keras_compat import tf_keras
from tfopt.stages import PostTraining
from tfopt.stages.quantize.posttraining.batchnorm import reestimated

RNG = np.random.default_rng(11)
X = RNG.gamma(2.0, size=(300, 6, 6, 3)).astype("float32")


@pytest.fixture
def model():
    layers = tf_keras().layers
    tf_keras().utils.set_random_seed(4)
    return tf_keras().Sequential(
        [
            tf_keras().Input((6, 6, 3)),
            layers.Conv2D(5, 3, name="conv"),
            layers.BatchNormalization(name="first", epsilon=1e-2),
            layers.ReLU(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(4, name="dense"),
            layers.BatchNormalization(name="second"),
            layers.Dense(2, name="head"),
        ]
    )


def convolved(model, x):
    kernel, bias = (weight.astype(np.float64) for weight in model.get_layer("conv").get_weights())
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), axis=(1, 2))
    return np.einsum("nijckl,klcf->nijf", windows, kernel) + bias


def test_all_samples_count_the_same_in_whatever_batches(model):
    found, names = reestimated(model, X)  # 128, 128 and 44
    values = convolved(model, X).reshape(-1, 5)
    assert names == ["first", "second"]
    np.testing.assert_allclose(found.get_layer("first").moving_mean, values.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.get_layer("first").moving_variance, values.var(axis=0), rtol=1e-3)


def test_a_later_layer_sees_the_new_statistics_and_no_dropout(model):
    x = X[:100]
    found, _ = reestimated(model, x)
    values = convolved(model, x)
    normal = np.maximum((values - values.mean(axis=(0, 1, 2))) / np.sqrt(values.var(axis=(0, 1, 2)) + 1e-2), 0)
    kernel, bias = model.get_layer("dense").get_weights()
    second = normal.reshape(100, -1) @ kernel.astype(np.float64) + bias
    np.testing.assert_allclose(found.get_layer("second").moving_mean, second.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(found.get_layer("second").moving_variance, second.var(axis=0), rtol=0.02)  # n or n - 1


def test_the_model_and_frozen_layers_keep_theirs(model):
    before = [weight.copy() for weight in model.get_weights()]
    model.get_layer("first").trainable = False
    found, names = reestimated(model, X)
    assert names == ["second"] and found.get_layer("first").moving_mean.numpy().tolist() == [0.0] * 5
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert found.get_layer("second").momentum == model.get_layer("second").momentum
    after = found.get_layer("second").moving_mean.numpy().copy()
    found(X[:64], training=False)
    assert np.array_equal(after, found.get_layer("second").moving_mean)


def test_the_stage_rounds_what_has_the_new_statistics(model):
    plain = PostTraining(rounding="nearest", bias_correction=False, batchnorm_statistics=True)
    applied = plain.apply(model, steps=0)
    plain.calibrate(applied, X)
    expected, _ = reestimated(model, X)
    np.testing.assert_allclose(applied.predict(X, verbose=0), expected.predict(X, verbose=0), atol=0.05)
    assert "statistics recomputed: first, second" in plain.summary(applied)


def test_a_model_without_such_layers_is_reported():
    model = tf_keras().Sequential([tf_keras().Input((4,)), tf_keras().layers.Dense(2)])
    stage = PostTraining(rounding="nearest", batchnorm_statistics=True)
    applied = stage.apply(model, steps=0)
    stage.calibrate(applied, X.reshape(-1, 4)[:64])
    assert "statistics recomputed: none, no BatchNormalization qualifies" in stage.summary(applied)
