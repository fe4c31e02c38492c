"""Grids of a few bits: steps against brute force and another implementation, rounding, and shared steps."""

import numpy as np
import pytest

from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError, RecipeError
from tfopt.stages.kernels.table import kernels
from tfopt.stages.quantize.grids import Grid, grid_of, grids_of
from tfopt.stages.quantize.weight_ranges import BITS, METHODS, on_grid, steps


def weights(shape=(3, 3, 8, 5), seed=0):
    """Heavy-tailed, with output channels of different sizes."""
    rng = np.random.default_rng(seed)
    return (rng.laplace(size=shape) * np.geomspace(0.01, 10, shape[-1])).astype("float32")


def error(kernel, step, bits):
    top = 2 ** (bits - 1) - 1
    return ((kernel - step * np.clip(np.round(kernel / step), -top, top)) ** 2).sum()


@pytest.mark.parametrize("bits", BITS)
def test_max_reaches_the_largest_weight_of_each_channel(bits):
    kernel = weights()
    found = steps(kernel, bits, (-1,), "max")
    assert found.shape == (1, 1, 1, 5) and found.dtype == np.float32
    np.testing.assert_allclose(found[0, 0, 0], np.abs(kernel).max(axis=(0, 1, 2)) / (2 ** (bits - 1) - 1), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("bits", BITS)
def test_mse_is_as_good_as_a_dense_search(bits):
    kernel = weights().astype("float64")
    found = steps(kernel, bits, (-1,), "mse")
    for channel in range(kernel.shape[-1]):
        values = kernel[..., channel]
        dense = np.abs(values).max() / (2 ** (bits - 1) - 1) * np.linspace(0.01, 1.5, 20_000)
        least = min(error(values, step, bits) for step in dense)
        assert error(values, float(found[0, 0, 0, channel]), bits) <= 1.04 * least


@pytest.mark.parametrize("bits", BITS)
def test_octav_has_the_least_error_of_its_model_of_noise(bits):
    kernel = np.abs(weights((200, 1)).astype("float64"))
    top = 2 ** (bits - 1) - 1

    def modeled(reach):
        return np.where(kernel >= reach, (kernel - reach) ** 2, (reach / top) ** 2 / 12).sum()

    found = float(steps(kernel, bits, (), "octav").item()) * top
    tried = np.linspace(0.001, 1, 20_000) * kernel.max()
    assert modeled(found) <= 1.02 * min(map(modeled, tried))  # it jumps at each of the 200 weights


@pytest.mark.parametrize("bits", (2, 4, 8))
def test_octav_agrees_with_litert_quantizer(bits):
    from litert_quantizer.algorithms.uniform_quantize import octav

    kernel, top = weights((64, 6)), 2 ** (bits - 1) - 1
    theirs = octav._guess_clipping_with_octav(
        kernel, bits, 0, 100, 4.0**-bits * 12 * top**2  # the noise that a grid of 2 top + 1 levels has
    )  # fmt: skip
    np.testing.assert_allclose(steps(kernel, bits, (-1,), "octav") * top, theirs, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_hard_channels(method):
    """All zero, one weight, all of one size, one outlier, almost nothing."""
    kernel = np.zeros((20, 5), "float32")
    kernel[3, 1], kernel[:, 2], kernel[:, 3], kernel[:, 4] = -0.5, 0.25, 0.01, 1e-44
    kernel[0, 2], kernel[0, 3] = -0.25, 100
    found = steps(kernel, 4, (-1,), method)
    assert np.isfinite(found).all() and (found > 0).all()
    values = Grid(4, found).values(kernel)
    assert not values[:, 0].any()
    np.testing.assert_allclose(values[:, 1:3], kernel[:, 1:3], rtol=1e-5)


def test_a_step_for_all_and_for_two_axes():
    kernel = weights((3, 3, 4, 2))
    assert steps(kernel, 8, (), "mse").shape == (1, 1, 1, 1)
    assert steps(kernel, 8, (-2, -1), "octav").shape == (1, 1, 4, 2)


def test_halves_go_to_the_even_integer_and_far_weights_to_the_end():
    integers = on_grid(np.array([0.5, 1.5, 2.5, -0.5, -2.5, 9, -9], "float32"), np.ones(1, "float32"), 3)
    assert integers.dtype == np.int8
    np.testing.assert_array_equal(integers, [0, 2, 2, 0, -2, 3, -3])
    assert set(on_grid(weights(), np.float32(0.1), 2).ravel()) == {-1, 0, 1}


def test_values_stay_when_they_are_rounded_again():
    grid = Grid(4, steps(weights(), 4, (-1,), "mse"))
    values = grid.values(weights())
    assert values.dtype == np.float32
    np.testing.assert_array_equal(grid.values(values), values)
    np.testing.assert_array_equal(grid.of(grid.integers(weights())), values)


@pytest.mark.parametrize(
    ("layer", "shape", "own"),
    [
        (lambda layers: layers.Dense(3), (4,), (1, 3)),
        (lambda layers: layers.Conv2D(3, 2), (6, 6, 4), (1, 1, 1, 3)),
        (lambda layers: layers.Conv2DTranspose(3, 2), (6, 6, 4), (1, 1, 3, 1)),
        (lambda layers: layers.DepthwiseConv2D(2, depth_multiplier=2), (6, 6, 4), (1, 1, 4, 2)),
        (lambda layers: layers.Conv3D(3, 2), (4, 4, 4, 2), (1, 1, 1, 1, 1)),
    ],
)
def test_weights_share_steps_as_in_the_operator(layer, shape, own):
    made = layer(tf_keras().layers)
    made.build((None, *shape))
    assert grid_of(kernels(made)[0], 4).steps.shape == own


def test_an_lstm_has_a_step_for_each_gate():
    layer = tf_keras().layers.LSTM(3)
    layer.build((None, 5, 4))
    grid = grid_of(kernels(layer)[0], 4, "max")
    kernel = kernels(layer)[0].values
    np.testing.assert_allclose(grid.steps[0], np.repeat(np.abs(kernel.reshape(4, 4, 3)).max(axis=(0, 2)) / 7, 3))
    np.testing.assert_array_equal(grid.values(grid.values(kernel)), grid.values(kernel))


def test_what_is_refused():
    with pytest.raises(RecipeError, match="2 to 8 bits"):
        steps(weights(), 9, (-1,), "max")
    with pytest.raises(RecipeError, match="'octav'"):
        steps(weights(), 4, (-1,), "best")
    with pytest.raises(ModelError, match="finite"):
        steps(np.array([np.nan]), 4, (), "max")


def test_grids_of_a_model_by_key(small_model):
    model = small_model(tf_keras())
    grids = grids_of(model, {("head", "kernel"): 2, ("stem", "kernel"): 4}, "max")
    assert {key: grid.bits for key, grid in grids.items()} == {("stem", "kernel"): 4, ("head", "kernel"): 2}
    with pytest.raises(RecipeError, match="no kernel 'stem/kernels'"):
        grids_of(model, {("stem", "kernels"): 4})
