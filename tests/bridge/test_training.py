"""Training mode across the bridge: losses, updates and one step of SGD are the same in both Keras versions."""

import numpy as np
import pytest

from tfopt import bridge
from tfopt.base import keras_compat


def dense_with_norm(k):
    return [
        k.layers.Dense(5, kernel_regularizer="l2", bias_regularizer="l1", activity_regularizer="l2"),
        k.layers.BatchNormalization(momentum=0.6, gamma_regularizer="l2"),
        k.layers.Dense(3, kernel_constraint="non_neg"),
    ]


def recurrent(k):
    return [
        k.layers.Bidirectional(k.layers.LSTM(3, return_sequences=True, recurrent_regularizer="l2")),
        k.layers.GRU(3),
        k.layers.Dense(2),
    ]


class Attention:
    """A graph of layers and operations."""

    def __new__(cls, k):
        inputs = k.Input((4, 6))
        x = k.layers.MultiHeadAttention(2, 3, kernel_regularizer="l2")(inputs, inputs)
        x = k.layers.LayerNormalization()(k.ops.silu(x) * 2 + inputs)
        x = k.ops.einsum("btc,bsc->bts", x, x)
        return k.Model(inputs, k.layers.Dense(2)(k.ops.mean(x, 1)))


def model_of(name):
    import keras

    if name == "attention":
        return Attention(keras)
    build = {"dense": dense_with_norm, "recurrent": recurrent}[name]
    return keras.Sequential([keras.Input((4, 6) if name == "recurrent" else (6,)), *build(keras)])


def by_layer(model, like):
    """The weights of the flat `model`, in the order of those of `like`."""
    return bridge.to_keras(model, like).get_weights()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense", "recurrent", "attention"])
def test_a_step_of_sgd_is_the_same(name):
    import keras

    model = model_of(name)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(-0.6, 0.6, w.shape) + (w.ndim == 1) for w in model.get_weights()])
    flat = bridge.to_tf_keras(model)
    x = rng.normal(size=(8, *model.input_shape[1:])).astype("float32")
    y = rng.normal(size=(8, *model.output_shape[1:])).astype("float32")
    model(x, training=True)
    flat(x, training=True)
    losses = [sorted(float(loss) for loss in each.losses) for each in (model, flat)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert len(losses[0]) == {"dense": 4, "recurrent": 2, "attention": 4}[name]
    model = keras.models.clone_model(model)
    model.set_weights(by_layer(flat, model))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    flat.compile(keras_compat.tf_keras().optimizers.SGD(0.1), "mse")
    got = [each.train_on_batch(x, y) for each in (model, flat)]
    assert float(np.ravel(got[0])[0]) == pytest.approx(float(np.ravel(got[1])[0]), rel=1e-5)
    for ours, theirs in zip(by_layer(flat, model), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_stochastic_depth_drops_whole_samples():
    """It keeps with probability 0.75 and divides by that: the factor is 0 or 4/3, the same within a sample."""
    from tfopt.bridge import native

    layer = native.classes("StochasticDepth")(0.25)
    out = layer(np.ones((4000, 3), "float32"), training=True).numpy()
    assert set(np.round(np.unique(out), 4)) == {np.float32(0.0), np.round(np.float32(4 / 3), 4)}
    assert (out == out[:, :1]).all()
    assert (out[:, 0] > 0).mean() == pytest.approx(0.75, abs=0.03)
    np.testing.assert_array_equal(layer(np.ones((2, 3), "float32")), np.ones((2, 3)))


def test_custom_layers_of_tf_keras_just_work():
    tf_keras = keras_compat.tf_keras()

    class Scale(tf_keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight("scale", (shape[-1],))

        def call(self, inputs):
            return inputs * self.scale

    inputs = tf_keras.Input((4, 3))
    model = tf_keras.Model(inputs, tf_keras.layers.TimeDistributed(Scale())(Scale(name="own")(inputs)))
    flat = bridge.to_tf_keras(model)
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    np.testing.assert_allclose(flat(x), model(x), rtol=1e-6)
    np.testing.assert_allclose(bridge.to_keras(flat, model)(x), model(x), rtol=1e-6)
