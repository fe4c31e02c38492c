"""What the quantizers keep of a kernel, on handmade kernels."""

import numpy as np
import pytest

from tfopt.base.keras_compat import tf_keras
from tfopt.stages.quantize.quantization_aware import SCHEMES
from tfopt.stages.quantize.quantizers import Scales, Structure, held_weight, kernel_quantizer, structure_of

BOTH = frozenset({"sparsity", "clusters"})
RNG = np.random.default_rng(0)
VALUES = np.array([-0.75, 0.0, 0.25, 1.0], "float32")
WHOLE = RNG.choice(VALUES, (3, 3, 8, 4))
CHANNELS = np.stack([RNG.choice(RNG.normal(size=4), (3, 3, 8)) for _ in range(6)], axis=-1).astype("float32")


def test_zeros_become_the_mask():
    structure = structure_of(WHOLE, SCHEMES[frozenset({"sparsity"})], output_channels_last=True)
    np.testing.assert_array_equal(structure.mask, WHOLE != 0)
    assert structure.centroids is None
    assert structure_of(WHOLE + 2, SCHEMES[frozenset({"sparsity"})], output_channels_last=True) == Structure()
    assert structure_of(WHOLE, SCHEMES[frozenset()], output_channels_last=True) == Structure()


def test_values_that_channels_share_are_clusters_of_the_whole_kernel():
    structure = structure_of(WHOLE, SCHEMES[BOTH], output_channels_last=True)
    np.testing.assert_array_equal(structure.centroids, VALUES)


@pytest.mark.parametrize("zeros", [False, True])
def test_values_of_one_channel_only_are_clusters_per_channel(zeros):
    kernel = CHANNELS * (RNG.random(CHANNELS.shape) < 0.5) if zeros else CHANNELS
    centroids = structure_of(kernel, SCHEMES[BOTH], output_channels_last=True).centroids
    assert centroids.shape == (6, 5 if zeros else 4)
    for channel in range(6):
        assert set(centroids[channel]) == set(np.unique(kernel[..., channel]))


def test_channels_with_fewer_values_repeat_one():
    kernel = CHANNELS.copy()
    kernel[..., 2] = 0.5
    np.testing.assert_array_equal(
        structure_of(kernel, SCHEMES[BOTH], output_channels_last=True).centroids[2], [0.5] * 4
    )


def test_clusters_per_channel_need_output_channels_last():
    assert structure_of(CHANNELS, SCHEMES[BOTH], output_channels_last=False).centroids.shape == (24,)


@pytest.mark.parametrize("kernel", [RNG.normal(size=(3, 3, 8, 4)), RNG.choice(RNG.normal(size=300), (40, 40))])
def test_what_int8_cannot_hold_or_is_no_clustering_is_not_kept(kernel):
    assert structure_of(kernel, SCHEMES[BOTH], output_channels_last=False).centroids is None


# The quantizer itself ----------------------------------------------------------------------------


CHANNEL = Scales((-1,))


def quantized(structure, kernel, *, scales=CHANNEL, latent=None, training=True):
    """(what a training step sees of `kernel`, the kernel after it)"""
    import tensorflow as tf

    quantizer = kernel_quantizer()(scales, structure, kernel)
    variables = {}
    if structure.mask is not None:
        variables["mask"] = tf.constant(structure.mask)
    if structure.centroids is not None:
        variables["centroids"] = tf.Variable(structure.centroids.astype("float32"))
        variables["latent"] = tf.Variable(kernel if latent is None else latent)
    own = tf.Variable(kernel)
    result = quantizer(own, training, weights=variables)
    return result.numpy(), own.numpy()


def grid(values, largest):
    """Round to 127 steps of `largest` on either side."""
    scale = largest / 127
    return np.round(values / scale) * scale


@pytest.mark.parametrize("training", [False, True])
def test_a_kernel_with_zeros_is_rounded_with_a_scale_per_channel(training):
    kernel = (RNG.normal(size=(3, 3, 4, 5)) * [1, 2, 0.1, 5, 0]).astype("float32")
    mask = (RNG.random(kernel.shape) < 0.5).astype("float32")
    result, _ = quantized(Structure(mask=mask), kernel, training=training)
    largest = np.abs(kernel * mask).max(axis=(0, 1, 2))
    largest[4] = 1.0  # all zero, whatever the scale
    np.testing.assert_allclose(result, grid(kernel * mask, largest), atol=1e-6)
    assert np.all(result[mask == 0] == 0)


@pytest.mark.parametrize(
    ("shape", "scales", "others"),
    [
        ((3, 3, 4, 2), Scales((-2, -1)), (0, 1)),  # depthwise: channels and multiplier
        ((3, 3, 4, 2), Scales((-2,)), (0, 1, 3)),  # transposed convolution
        ((6, 5), Scales(), (0, 1)),  # one scale
    ],
)
def test_scales_run_along_their_axes(shape, scales, others):
    kernel = RNG.normal(size=shape).astype("float32")
    result, _ = quantized(Structure(), kernel, scales=scales)
    np.testing.assert_allclose(result, grid(kernel, np.abs(kernel).max(axis=others, keepdims=True)), atol=1e-6)


def test_each_gate_of_an_lstm_has_a_separate_scale():
    kernel = (RNG.normal(size=(3, 8)) * np.repeat([1, 5, 0.1, 2], 2)).astype("float32")  # 2 units
    result, _ = quantized(Structure(), kernel, scales=Scales((-2,), (3, 4, 2), "per gate"))
    for gate in range(4):
        part = slice(2 * gate, 2 * gate + 2)
        np.testing.assert_allclose(result[:, part], grid(kernel[:, part], np.abs(kernel[:, part]).max()), atol=1e-6)


def test_clusters_of_the_whole_kernel_share_one_scale():
    result, own = quantized(Structure(centroids=VALUES), WHOLE * np.float32([1.0, 0.9, 1.1, 1.05]))
    np.testing.assert_array_equal(own, WHOLE)  # back on the nearest centroid
    np.testing.assert_allclose(result, grid(WHOLE, 1.0), atol=1e-6)  # the largest of `VALUES`
    channel = np.where(WHOLE == 1, np.float32(0.25), WHOLE) * np.float32([1, 1, 1, 0])  # no 1.0 in any channel
    result, _ = quantized(Structure(centroids=VALUES), np.concatenate([WHOLE, channel]))
    np.testing.assert_allclose(result[3:], grid(channel, 1.0), atol=1e-6)


def test_clusters_per_channel_have_scales_of_their_own():
    centroids = np.stack([np.unique(CHANNELS[..., channel]) for channel in range(6)])
    result, own = quantized(Structure(centroids=centroids), CHANNELS + np.float32(1e-4))
    np.testing.assert_array_equal(own, CHANNELS)
    np.testing.assert_allclose(result, grid(CHANNELS, np.abs(CHANNELS).max(axis=(0, 1, 2))), atol=1e-6)


def test_a_weight_left_in_float_keeps_its_zeros_or_its_clusters():
    import tensorflow as tf

    mask = (WHOLE != 0).astype("float32")
    moved = tf.Variable(WHOLE + np.float32(0.3))

    def held(structure):
        quantizer = held_weight()(structure, WHOLE, "kernel")
        return quantizer(moved, True, weights=quantizer.build(WHOLE.shape, "kernel", tf_keras().layers.Layer()))

    np.testing.assert_allclose(held(Structure(mask=mask)), (WHOLE + 0.3) * mask, atol=1e-6)
    np.testing.assert_array_equal(held(Structure(mask=mask, centroids=VALUES)), WHOLE)


def test_pruned_weights_stay_zero_whatever_centroids_and_latent_weights_do():
    mask = (WHOLE != 0).astype("float32")
    drifted = Structure(mask=mask, centroids=VALUES + np.float32(0.05))
    result, own = quantized(drifted, WHOLE, latent=WHOLE + np.float32(0.2) * (mask == 0))
    assert np.all(result[mask == 0] == 0)
    assert np.all(own[mask == 0] == 0)
    np.testing.assert_allclose(own[mask == 1], WHOLE[mask == 1] + 0.05, atol=1e-6)


def test_the_gradient_of_a_centroid_is_the_sum_over_its_weights():
    import tensorflow as tf

    quantizer = kernel_quantizer()(CHANNEL, Structure(centroids=VALUES), WHOLE)
    variables = {"centroids": tf.Variable(VALUES), "latent": tf.Variable(WHOLE)}
    own, upstream = tf.Variable(WHOLE), RNG.normal(size=WHOLE.shape).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantizer(own, True, weights=variables) * upstream)
    centroids, latent, kernel = tape.gradient(loss, [variables["centroids"], variables["latent"], own])
    expected = [upstream[value == WHOLE].sum() for value in VALUES]
    np.testing.assert_allclose(tf.convert_to_tensor(centroids), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(latent, upstream, rtol=1e-6)
    assert np.all(kernel.numpy() == 0)


def test_the_gradient_passes_the_rounding_straight_through():
    import tensorflow as tf

    kernel, upstream = tf.Variable(RNG.normal(size=(4, 3)).astype("float32")), tf.constant(RNG.normal(size=(4, 3)))
    with tf.GradientTape() as tape:
        rounded = kernel_quantizer()(CHANNEL, Structure(), kernel.numpy())(kernel, True, weights={})
        loss = tf.reduce_sum(rounded * tf.cast(upstream, tf.float32))
    np.testing.assert_allclose(tape.gradient(loss, kernel), upstream, rtol=1e-5)
