"""Clusters of a model trained for int8 remain as many distinct values in the file, however the layer is converted."""

import numpy as np
import pytest

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.stages import Cluster, Quantize
from tfopt.stages.kernels.table import kernels
from tfopt.tflite.prove.kernels import find_kernels
from tfopt.tflite.settings import Export
from tfopt.tflite.write.export import build_file

CLUSTERS = 6


def model_of(kind):
    """A model with BatchNormalization, with scales of both signs, directly after each layer."""
    keras = keras_compat.tf_keras()
    layers = keras.layers
    shape, middle = {
        "dense": ((12,), [layers.Dense(24, use_bias=False, name="one"), layers.Dense(16, name="two")]),
        "dilated": (
            (12, 12, 2),
            [layers.Conv2D(8, 3, padding="same", dilation_rate=2, name=name) for name in ("one", "two")],
        ),
        "transposed": ((8, 8, 4), [layers.Conv2DTranspose(8, 3, strides=2, padding="same", name="one")]),
        "sequence": ((20, 4), [layers.Conv1D(8, 3, dilation_rate=2, name="one"), layers.Dense(8, name="two")]),
        "grouped": ((8, 8, 4), [layers.Conv2D(8, 3, groups=2, name="one")]),
    }[kind]
    parts = [part for layer in middle for part in (layer, layers.BatchNormalization(name=f"{layer.name}_norm"))]
    model = keras.Sequential([layers.Input(shape), *parts, layers.Dense(4, name="head")])
    rng = np.random.default_rng(0)
    for layer in middle:
        beta = rng.normal(size=(4, layer.bias.shape[0] if layer.use_bias else 24))
        norm = [beta[0] + np.sign(beta[0]), beta[1], beta[2], np.square(beta[3]) + 0.5]
        model.get_layer(f"{layer.name}_norm").set_weights(norm)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("settings", [Export(), Export(activations="float32")], ids=["int8", "float sums"])
@pytest.mark.parametrize("kind", ["dense", "dilated", "transposed", "sequence", "grouped"])
def test_as_many_values_as_clusters(kind, settings):
    model = model_of(kind)
    x = np.random.default_rng(1).normal(size=(64, *model.input_shape[1:])).astype("float32")
    cluster, quantize = Cluster(number_of_clusters=CLUSTERS), Quantize()
    clustered = bridge.to_tf_keras(cluster.strip(cluster.apply(model, steps=1)))
    promises = cluster.promises(clustered)
    wrapped = quantize.apply(clustered, steps=1, keep=frozenset({"clusters"}))
    quantize.calibrate(wrapped, x)
    plain = bridge.to_tf_keras(quantize.strip(wrapped))
    lite = build_file(wrapped, settings, x, promises, plain)

    for weight in lite.weights():
        assert np.unique(weight.values).size <= CLUSTERS
    # The file stores the kernel of the model with each output channel times some factor.
    for key, place in find_kernels(lite, plain.layers).items():
        (part,), (axis,) = place.parts, place.axes
        stored = np.moveaxis(part.dequantized, axis, 0).reshape(part.values.shape[axis], -1)
        own = {kernel.name: kernel for kernel in kernels(plain.get_layer(key[0]))}[key[1]]
        rows = np.moveaxis(own.values, own.channel_axis, 0).reshape(stored.shape)
        largest = np.abs(rows).argmax(axis=1)
        each = np.arange(len(rows))
        factors = stored[each, largest] / rows[each, largest]
        np.testing.assert_allclose(stored, factors[:, None] * rows, atol=1e-5, err_msg=str(key))
    expected, got = wrapped.predict(x, verbose=0), lite.predict(x)
    assert np.mean(np.square(expected - got)) < 0.01 * np.var(expected)
