"""AdaRound: patches against the layers, the choice against brute force, and whole models."""

import itertools

import numpy as np
import pytest

from tfopt.base.keras_compat import tf_keras
from tfopt.bridge import clone, to_tf_keras
from tfopt.errors import RecipeError
from tfopt.stages.kernels.table import kernels
from tfopt.stages.quantize.grids import Grid, grids_of
from tfopt.stages.quantize.posttraining.adaptive_rounding import adaptively_rounded, cannot_learn
from tfopt.stages.quantize.posttraining.patches import patches, places
from tfopt.stages.quantize.posttraining.pipeline import quantize_weights, rounded_to_nearest

SEEN = {
    "dense": (lambda k: k.Dense(3), (4,)),
    "dense on more axes": (lambda k: k.Dense(3), (5, 2, 4)),
    "1d": (lambda k: k.Conv1D(3, 4, strides=2, padding="same"), (9, 4)),
    "causal": (lambda k: k.Conv1D(3, 3, dilation_rate=2, padding="causal"), (9, 4)),
    "2d": (lambda k: k.Conv2D(3, (3, 2), strides=2, padding="same"), (8, 7, 4)),
    "2d valid": (lambda k: k.Conv2D(3, 3, strides=(1, 3)), (8, 9, 4)),
    "2d dilated": (lambda k: k.Conv2D(3, 3, dilation_rate=(2, 1), padding="same"), (8, 8, 4)),
    "3d": (lambda k: k.Conv3D(3, 2), (3, 4, 5, 4)),
    "depthwise": (lambda k: k.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2), (8, 8, 4)),
    "depthwise 1d": (lambda k: k.DepthwiseConv1D(3), (9, 4)),
}


def keyed(model, bits):
    return {(layer.name, kernel.name): bits for layer in model.layers for kernel in kernels(layer)}


def unchanged(model, before):
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def on_their_grids(model, grids):
    for key, grid in grids.items():
        (values,) = (kernel.values for kernel in kernels(model.get_layer(key[0])) if kernel.name == key[1])
        np.testing.assert_array_equal(values, grid.steps * grid.integers(values).astype("float32"))
        assert np.abs(grid.integers(values)).max() <= 2 ** (grid.bits - 1) - 1


@pytest.mark.parametrize("name", SEEN)
def test_patches_times_kernel_is_the_layer(name):
    make, shape = SEEN[name]
    layer, rng = make(tf_keras().layers), np.random.default_rng(0)
    x = rng.normal(size=(3, *shape)).astype("float32")
    outputs = layer(x).numpy()
    where = places(layer, x.shape, 10_000, rng)
    assert len(where[0]) == outputs[..., 0].size  # all of them
    seen, kernel = patches(layer, x, where), layer.get_weights()[0]
    kernel = kernel.reshape(-1, *kernel.shape[-2:])
    product = (
        np.einsum("rkc,kcm->rcm", seen, kernel).reshape(len(seen), -1)
        if "depthwise" in name
        else np.einsum("rkc,kco->ro", seen, kernel)
    )
    np.testing.assert_allclose(product, outputs[where], atol=1e-5)
    assert len(places(layer, x.shape, 2, rng)[0]) == 2


def dense(weights, activation="linear"):
    inputs = tf_keras().Input((len(weights),))
    layer = tf_keras().layers.Dense(np.shape(weights)[1], activation=activation, use_bias=False, name="d")
    model = tf_keras().Model(inputs, layer(inputs))
    model.set_weights([np.array(weights, "float32")])
    return model


def correlated(inputs, count=2000):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(count, 1)) + 0.3 * rng.normal(size=(count, inputs))).astype("float32")


def test_two_inputs_that_go_together_share_their_errors():
    """Both rounded to nearest give 0; one up and one down is closer to 0.8."""
    x = np.repeat(np.random.default_rng(0).normal(size=(500, 1)), 2, axis=1).astype("float32")
    grids = {("d", "kernel"): Grid(4, np.ones((1, 1), "float32"))}
    weights = adaptively_rounded(dense([[0.45], [0.35]]), grids, x, iterations=500).get_weights()[0]
    assert weights.sum() == 1


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_nearly_the_best_of_all_choices(activation):
    rng, x = np.random.default_rng(3), correlated(8)
    model = dense(rng.normal(size=(8, 3)), activation)
    grids = grids_of(model, keyed(model, 3))
    grid = grids["d", "kernel"]
    kernel = model.get_weights()[0]
    bend = (lambda y: np.maximum(y, 0)) if activation == "relu" else (lambda y: y)

    def errors(values):
        return ((bend(x @ values) - bend(x @ kernel)) ** 2).mean(axis=0)

    floor = np.floor(kernel / grid.steps)
    choices = (np.clip(floor + np.array(up)[:, None], -3, 3) * grid.steps for up in itertools.product((0, 1), repeat=8))
    best = np.min([errors(choice) for choice in choices], axis=0)
    nearest = errors(grid.values(kernel))
    learned = errors(adaptively_rounded(model, grids, x, iterations=1000).get_weights()[0])
    assert (learned <= nearest + 1e-12).all()
    assert learned.sum() < best.sum() + 0.1 * (nearest.sum() - best.sum())


@pytest.mark.slow
def test_a_model_of_all_sorts(small_model, samples):
    model, x = to_tf_keras(small_model(tf_keras())), samples[0]
    grids, before, told = grids_of(model, keyed(model, 3)), model.get_weights(), []
    result = adaptively_rounded(model, grids, x, iterations=400, progress=told.append)
    unchanged(model, before)
    on_their_grids(result, grids)
    assert len(told) == len(grids) and all("learned" in line for line in told)
    shown = [
        tf_keras().Model(m.input, m.get_layer("depth_relu").output)(x).numpy()
        for m in (model, result, rounded_to_nearest(model, grids))
    ]
    assert ((shown[1] - shown[0]) ** 2).mean() < 0.5 * ((shown[2] - shown[0]) ** 2).mean()
    again = adaptively_rounded(model, grids, x, iterations=400)
    unchanged(again, result.get_weights())  # the same seed


def test_no_more_iterations_than_none_is_to_nearest_or_better(small_model, samples):
    model = to_tf_keras(small_model(tf_keras()))
    grids = grids_of(model, {("stem", "kernel"): 2})
    result = adaptively_rounded(model, grids, samples[0], iterations=0)
    unchanged(result, rounded_to_nearest(model, grids).get_weights())


def test_what_is_left_to_nearest():
    k = tf_keras()
    inputs = k.Input((8, 4))
    outputs = k.layers.Conv1D(4, 2, groups=2, name="grouped")(inputs)
    outputs = k.layers.SeparableConv1D(3, 2, name="separable")(outputs)
    model = k.Model(inputs, k.layers.LSTM(2, name="lstm")(outputs))
    assert all(cannot_learn(layer) for layer in model.layers)
    x = np.random.default_rng(0).normal(size=(6, 8, 4)).astype("float32")
    result, grids, notes = quantize_weights(model, keyed(model, 4), x, rounding="adaptive", bias_correction=False)
    unchanged(result, rounded_to_nearest(model, grids).get_weights())
    assert "lstm/recurrent_kernel rounded to nearest: rounding is not learned for LSTM" in notes


@pytest.mark.parametrize("rounding", ["nearest", "adaptive"])
def test_all_of_it(small_model, samples, rounding):
    model, x = to_tf_keras(small_model(tf_keras())), samples[0]
    before, bits = model.get_weights(), keyed(model, 4) | {("stem", "kernel"): 8}
    result, grids, notes = quantize_weights(model, bits, x, rounding=rounding, iterations=100)
    unchanged(model, before)
    on_their_grids(result, grids)
    assert grids.keys() == bits.keys() and grids["stem", "kernel"].bits == 8
    assert "equalized: stem -> inline" in notes and notes[-1] == "biases corrected"
    assert np.abs(result(x).numpy() - model(x).numpy()).mean() < 0.1
    saved = clone(result)
    on_their_grids(saved, grids)


def test_only_what_is_named_is_rounded(small_model, samples):
    model = to_tf_keras(small_model(tf_keras()))
    result, _, notes = quantize_weights(
        model, {("head", "kernel"): 4}, samples[0], bias_correction=False, equalization=False
    )
    assert notes == []
    changed = [
        layer.name
        for layer, other in zip(model.layers, result.layers, strict=True)
        if any(not np.array_equal(a, b) for a, b in zip(layer.get_weights(), other.get_weights(), strict=True))
    ]
    assert changed == ["head"]


def test_what_is_refused(small_model, samples):
    model = to_tf_keras(small_model(tf_keras()))
    with pytest.raises(RecipeError, match="'adaptive'"):
        quantize_weights(model, {}, samples[0], rounding="up")
    with pytest.raises(RecipeError, match="no kernel 'body/kernel'"):
        quantize_weights(model, {("body", "kernel"): 4}, samples[0])
