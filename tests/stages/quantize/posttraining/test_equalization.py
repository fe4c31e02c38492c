"""Equalization: equal outputs and ranges; which layers form a pair and which do not."""

import numpy as np
import pytest

from tfopt.base.keras_compat import tf_keras
from tfopt.bridge import to_tf_keras
from tfopt.stages.quantize.posttraining.equalization import equalized
from tfopt.stages.quantize.posttraining.wiring import gain_and_offset


def chain(*layers, shape=(8, 8, 3), seed=0):
    """A model of `layers` with channels of different sizes."""
    inputs = outputs = tf_keras().Input(shape)
    for layer in layers:
        outputs = layer(outputs)
    model = tf_keras().Model(inputs, outputs)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        values = [rng.normal(size=w.shape) * np.exp(rng.normal(size=w.shape[-1:])) for w in layer.get_weights()]
        if type(layer).__name__ == "BatchNormalization":
            values[-1] = np.exp(values[-1])
        layer.set_weights([value.astype("float32") for value in values])
    return model


def same(model, other):
    x = np.random.default_rng(1).normal(size=(4, *model.input_shape[1:])).astype("float32")
    expected = model(x).numpy()
    np.testing.assert_allclose(other(x).numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def layers():
    return tf_keras().layers


CHAINS = {
    "plain": lambda k: [k.Conv2D(4, 3, name="a", activation="relu"), k.Conv2D(5, 3, name="b")],
    "norm": lambda k: [k.Conv2D(4, 3, name="a", use_bias=False), k.BatchNormalization(), k.ReLU(),
                       k.Conv2D(5, 3, name="b")],
    "norm without gamma": lambda k: [k.Conv2D(4, 3, name="a"), k.BatchNormalization(scale=False),
                                     k.Activation("relu"), k.Conv2D(5, 3, name="b")],
    "norm behind relu": lambda k: [k.Conv2D(4, 3, name="a", activation="relu"), k.BatchNormalization(center=False),
                                   k.Conv2D(5, 3, name="b")],
    "padding, pooling": lambda k: [k.Conv2D(4, 3, name="a"), k.LeakyReLU(), k.ZeroPadding2D(), k.MaxPooling2D(),
                                   k.Conv2D(5, 2, name="b")],
    "into depthwise": lambda k: [k.Conv2D(4, 3, name="a"), k.DepthwiseConv2D(2, depth_multiplier=2, name="b")],
    "from depthwise": lambda k: [k.DepthwiseConv2D(2, depth_multiplier=2, name="a"), k.ReLU(),
                                 k.Conv2D(5, 1, name="b")],
    "into the head": lambda k: [k.Conv2D(4, 3, name="a", activation="relu"), k.GlobalAveragePooling2D(),
                                k.Dense(6, activation="softmax", name="b")],
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_outputs_stay_and_ranges_become_equal(name):
    model = chain(*CHAINS[name](layers()))
    before = model.get_weights()
    result, pairs = equalized(model)
    assert pairs == [("a", "b")]
    same(model, result)
    first, second = (result.get_layer(layer).get_weights()[0] for layer in "ab")
    outputs = first.shape[-1] if name != "from depthwise" else first.shape[-1] * first.shape[-2]
    range_1 = np.abs(first.reshape(-1, outputs)).max(axis=0)
    for layer in result.layers:
        if type(layer).__name__ == "BatchNormalization":
            range_1 = range_1 * np.abs(gain_and_offset(layer)[0])
    range_2 = np.abs(second).max(axis=-1).reshape(-1, outputs).max(axis=0)
    np.testing.assert_allclose(range_1, range_2, rtol=1e-3)
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_the_scale_is_that_of_the_paper():
    """Eq. 11 by hand, for two Dense layers."""
    model = chain(layers().Dense(2, name="a"), layers().ReLU(), layers().Dense(1, name="b"), shape=(2,))
    model.set_weights([np.array([[8.0, 1], [-2, 1]]), np.array([4.0, 4]), np.array([[0.5], [-4]]), np.zeros(1)])
    result, _ = equalized(model)
    weights = result.get_weights()
    np.testing.assert_allclose(weights[0], [[2, 2], [-0.5, 2]])  # s = sqrt(8 / 0.5) = 4, sqrt(1 / 4) = 1 / 2
    np.testing.assert_allclose(weights[1], [1, 8])
    np.testing.assert_allclose(weights[2], [[2], [-2]])


def test_several_pairs_settle_together():
    k = layers()
    model = chain(
        k.Conv2D(4, 3, name="a"), k.BatchNormalization(), k.ReLU(), k.DepthwiseConv2D(3, name="b"),
        k.BatchNormalization(), k.ReLU(), k.Conv2D(6, 1, name="c"), k.ReLU(), k.Conv2D(2, 1, name="d"),
    )  # fmt: skip
    result, pairs = equalized(model)
    assert pairs == [("a", "b"), ("b", "c"), ("c", "d")]
    same(model, result)
    last, head = (np.abs(result.get_layer(name).get_weights()[0]) for name in "cd")
    np.testing.assert_allclose(last.max(axis=(0, 1, 2)), head.max(axis=(0, 1, 3)), rtol=1e-3)


def test_a_channel_that_is_cut_off_stays():
    model = chain(layers().Dense(2, name="a"), layers().Dense(1, name="b"), shape=(2,))
    model.set_weights([np.array([[0.0, 1], [0, 1]]), np.array([4.0, 4]), np.array([[0.5], [-4]]), np.zeros(1)])
    result, _ = equalized(model)
    same(model, result)
    np.testing.assert_allclose(result.get_weights()[1], [4, 8])


@pytest.mark.parametrize(
    "between",
    [lambda k: k.ReLU(6.0), lambda k: k.Activation("sigmoid"), lambda k: k.Softmax(), lambda k: k.Reshape((6, 6, 4))],
)
def test_no_pair_no_change(between):
    model = chain(layers().Conv2D(4, 3), between(layers()), layers().Conv2D(5, 3))
    result, pairs = equalized(model)
    assert pairs == [] and result is not model
    for value, old in zip(result.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, old)


def test_a_branch_is_not_a_pair():
    k = layers()
    inputs = tf_keras().Input((8, 8, 3))
    first = k.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    outputs = k.Add()([first, k.Conv2D(4, 3, padding="same")(first)])
    assert equalized(tf_keras().Model(inputs, outputs))[1] == []
    assert equalized(tf_keras().Model(inputs, [first, k.Conv2D(2, 1)(first)]))[1] == []


def test_a_model_of_all_sorts(small_model):
    model = to_tf_keras(small_model(tf_keras()))
    result, pairs = equalized(model)
    assert ("stem", "inline") in pairs and ("inline", "apart") in pairs and ("conv", "depth") not in pairs[:2]
    same(model, result)
