"""What of a kernel the quantizers keep, on kernels made by hand."""

import numpy as np
import pytest

from tfopt.stages.quantize import SCHEMES
from tfopt.stages.quantizers import Structure, preserving_quantizer, structure_of

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


def quantized(structure, kernel, *, per_axis=True, latent=None):
    """(what a training step sees of `kernel`, the variables)."""
    import tensorflow as tf

    quantizer = preserving_quantizer()(per_axis=per_axis, structure=structure)
    shape = kernel.shape[-1:] if per_axis else ()
    variables = {"min_var": tf.Variable(tf.fill(shape, -6.0)), "max_var": tf.Variable(tf.fill(shape, 6.0))}
    if structure.mask is not None:
        variables["mask"] = tf.constant(structure.mask)
    if structure.centroids is not None:
        variables["centroids"] = tf.Variable(structure.centroids.astype("float32"))
        variables["latent"] = tf.Variable(kernel if latent is None else latent)
    own = tf.Variable(kernel)
    result = quantizer(own, True, weights=variables)
    return result.numpy(), variables, own.numpy()


def grid(values, largest):
    """Rounded to 127 steps of `largest` on either side."""
    scale = largest / 127
    return np.round(values / scale) * scale


def test_a_kernel_with_zeros_is_rounded_with_a_scale_per_channel():
    kernel = (RNG.normal(size=(3, 3, 4, 5)) * [1, 2, 0.1, 5, 1]).astype("float32")
    mask = (RNG.random(kernel.shape) < 0.5).astype("float32")
    result, variables, _ = quantized(Structure(mask=mask), kernel)
    largest = np.abs(kernel * mask).max(axis=(0, 1, 2))
    np.testing.assert_allclose(variables["max_var"], largest)
    np.testing.assert_allclose(result, grid(kernel * mask, largest), atol=1e-6)


def test_clusters_of_the_whole_kernel_share_one_scale():
    result, variables, own = quantized(Structure(centroids=VALUES), WHOLE * np.float32([1.0, 0.9, 1.1, 1.05]))
    np.testing.assert_array_equal(variables["max_var"], [1.0] * 4)  # the largest of `VALUES`
    np.testing.assert_array_equal(own, WHOLE)  # back on the nearest centroid
    np.testing.assert_allclose(result, grid(WHOLE, 1.0), atol=1e-6)


def test_clusters_per_channel_have_scales_of_their_own():
    centroids = np.stack([np.unique(CHANNELS[..., channel]) for channel in range(6)])
    result, variables, own = quantized(Structure(centroids=centroids), CHANNELS + np.float32(1e-4))
    np.testing.assert_array_equal(variables["max_var"], np.abs(CHANNELS).max(axis=(0, 1, 2)))
    np.testing.assert_array_equal(own, CHANNELS)
    np.testing.assert_allclose(result, grid(CHANNELS, np.abs(CHANNELS).max(axis=(0, 1, 2))), atol=1e-6)


def test_pruned_weights_stay_zero_whatever_centroids_and_latent_weights_do():
    mask = (WHOLE != 0).astype("float32")
    drifted = Structure(mask=mask, centroids=VALUES + np.float32(0.05))
    result, _, own = quantized(drifted, WHOLE, latent=WHOLE + np.float32(0.2) * (mask == 0))
    assert np.all(result[mask == 0] == 0)
    assert np.all(own[mask == 0] == 0)
    np.testing.assert_allclose(own[mask == 1], WHOLE[mask == 1] + 0.05, atol=1e-6)


def test_the_gradient_of_a_centroid_is_the_sum_over_its_weights():
    import tensorflow as tf

    quantizer = preserving_quantizer()(per_axis=True, structure=Structure(centroids=VALUES))
    variables = {"min_var": tf.Variable(tf.zeros(4)), "max_var": tf.Variable(tf.zeros(4))}
    variables |= {"centroids": tf.Variable(VALUES), "latent": tf.Variable(WHOLE)}
    own, upstream = tf.Variable(WHOLE), RNG.normal(size=WHOLE.shape).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantizer(own, True, weights=variables) * upstream)
    centroids, latent, kernel = tape.gradient(loss, [variables["centroids"], variables["latent"], own])
    expected = [upstream[value == WHOLE].sum() for value in VALUES]
    np.testing.assert_allclose(tf.convert_to_tensor(centroids), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(latent, upstream, rtol=1e-6)
    assert np.all(kernel.numpy() == 0)
