"""Bias correction restores the means of the float model in all layers."""

import numpy as np

from tfopt.base.keras_compat import tf_keras
from tfopt.bridge import clone, to_tf_keras
from tfopt.stages.kernels.table import kernels
from tfopt.stages.quantize.grids import grids_of
from tfopt.stages.quantize.posttraining.bias_correction import bias_corrected


def rounded(model, bits=3):
    """A copy with all kernels rounded coarsely."""
    result = clone(model)
    keys = {(layer.name, kernel.name): bits for layer in result.layers for kernel in kernels(layer)}
    for (layer, _), grid in grids_of(result, keys, "max").items():
        (kernel,) = kernels(result.get_layer(layer))
        kernel.variable.assign(grid.values(kernel.values))
    return result


def test_a_dense_layer_by_hand():
    k = tf_keras()
    inputs = k.Input((2,))
    model = k.Model(inputs, k.layers.Dense(1, activation="relu", name="d")(inputs))
    model.set_weights([np.array([[1.0], [2.0]]), np.array([0.5])])
    coarse = clone(model)
    coarse.get_layer("d").kernel.assign([[1.5], [2.0]])
    x = np.array([[1, 0], [3, 5]], "float32")  # the error is 0.5 x_0: 1 on average
    result = bias_corrected(coarse, model, x)
    np.testing.assert_allclose(result.get_layer("d").bias, [-0.5])
    np.testing.assert_allclose(coarse.get_layer("d").bias, [0.5])


def test_each_layer_gets_its_mean_back(small_model, samples):
    model = to_tf_keras(small_model(tf_keras()))
    coarse, x = rounded(model), samples[0] + 1
    before = coarse.get_weights()
    result = bias_corrected(coarse, model, x)
    for old, new in zip(before, coarse.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    # `conv` and `depth` have no bias: the mean is that after their BatchNormalization.
    for name in ("stem_norm", "apart", "conv_norm", "depth_norm"):
        means = [
            tf_keras().Model(m.input, m.get_layer(name).output)(x).numpy().mean(axis=(0, 1, 2))
            for m in (model, coarse, result)
        ]
        assert np.abs(means[1] - means[0]).max() > 0.01
        np.testing.assert_allclose(means[2], means[0], atol=1e-4)
    for layer in result.layers:
        for mine, yours in zip(kernels(layer), kernels(coarse.get_layer(layer.name)), strict=True):
            np.testing.assert_array_equal(mine.values, yours.values)


def test_nothing_to_correct(small_model, samples):
    model = to_tf_keras(small_model(tf_keras()))
    result = bias_corrected(model, model, samples[0][:8])
    for old, new in zip(model.get_weights(), result.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_shared_layers_several_inputs_and_layers_without_a_constant():
    k = tf_keras()
    one, two = k.Input((4,), name="one"), k.Input((4,), name="two")
    shared, bare = k.layers.Dense(3, name="shared"), k.layers.Dense(2, use_bias=False, name="bare")
    lstm = k.layers.LSTM(2, name="lstm")(k.layers.Reshape((4, 1))(two))
    merged = k.layers.Concatenate()([shared(one), shared(two), lstm])
    model = k.Model({"one": one, "two": two}, bare(merged))
    coarse = clone(model)
    for name in ("shared", "bare"):
        kernel = coarse.get_layer(name).kernel
        kernel.assign(kernel.numpy() + 0.1)
    rng = np.random.default_rng(0)
    x = {name: rng.uniform(size=(70, 4)).astype("float32") for name in ("one", "two")}
    result = bias_corrected(coarse, model, x)
    shift = 0.1 * np.concatenate([x["one"], x["two"]]).sum(axis=1).mean()
    np.testing.assert_allclose(result.get_layer("shared").bias, np.full(3, -shift), rtol=1e-4)
    assert len(result.get_layer("bare").get_weights()) == 1
