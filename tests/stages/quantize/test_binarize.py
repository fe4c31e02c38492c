"""Rounding rules by the formulas of their papers in float64, and how the file stores them."""

import warnings

import keras
import numpy as np
import pytest

from tfopt import bridge
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import RecipeError
from tfopt.stages import Binarize, Quantize
from tfopt.stages.quantize.rounding import ROUNDINGS, Precision
from tfopt.stages.quantize.weight_ranges import affine_integers, fixed_point_step
from tfopt.tflite.settings import Export
from tfopt.tflite.write.export import build_file

INT8 = Export(weights="int8", activations="int8", compact=False)
KERNEL = np.random.default_rng(3).normal(0, 0.4, (3, 3, 5, 4)).astype("float32")
EXACT = KERNEL.astype(np.float64)
CHANNELS = (0, 1, 2)


def rule(name, bits=2, **kwargs):
    precision = Precision(bits, name, **kwargs)
    return ROUNDINGS[name](precision, (-1,), KERNEL)


def test_xnor_weights_are_signs_times_the_mean_size():
    expected = np.sign(EXACT) * np.abs(EXACT).mean(axis=CHANNELS)
    np.testing.assert_allclose(rule("xnor").rounded(KERNEL, {}), expected, rtol=1e-5)


def test_binary_connect_has_one_size_for_all():
    expected = np.sign(EXACT) * np.sqrt(np.square(EXACT).mean())
    np.testing.assert_allclose(rule("binary_connect").rounded(KERNEL * 0.5, {}), expected, rtol=1e-5)


def test_ternary_weights_by_the_threshold_of_twn():
    sizes = np.abs(EXACT)
    beyond = sizes > 0.7 * sizes.mean(axis=CHANNELS)
    size = (sizes * beyond).sum(axis=CHANNELS) / beyond.sum(axis=CHANNELS)
    np.testing.assert_allclose(rule("ternary").rounded(KERNEL, {}), np.sign(EXACT) * beyond * size, rtol=1e-5)


def test_the_gradient_passes_where_weights_are_at_most_1():
    import tensorflow as tf

    kernel = tf.constant(4 * KERNEL)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        total = tf.reduce_sum(rule("xnor").in_training(kernel, {}))
    np.testing.assert_array_equal(tape.gradient(total, kernel), np.abs(4 * KERNEL) <= 1)


@pytest.mark.parametrize(("bits", "fractional"), [(8, 6), (8, 3), (4, 2), (8, -1)])
def test_fixed_point_rounds_to_fractions_of_a_power_of_two(bits, fractional):
    top = 2 ** (bits - 1) - 1
    expected = np.clip(np.rint(EXACT * 2.0**fractional), -top, top) / 2.0**fractional
    found = rule("fixed_point", bits, fractional_bits=fractional).rounded(KERNEL, {})
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_fixed_point_chooses_the_finest_step_that_clips_nothing():
    step = fixed_point_step(KERNEL, 8)
    assert np.log2(step) == round(np.log2(step))
    assert np.rint(np.abs(KERNEL) / step).max() <= 127 < np.rint(np.abs(KERNEL) / (step / 2)).max()
    assert fixed_point_step(np.zeros(3), 8) == 1


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_affine_integers_reach_from_the_smallest_weight_to_the_largest(bits):
    integers, scale, bias = affine_integers(KERNEL, bits, (-1,))
    np.testing.assert_array_equal(integers, np.rint(EXACT * scale + bias))
    assert np.all(integers.min(axis=CHANNELS) == 0) and np.all(integers.max(axis=CHANNELS) == 2**bits - 1)
    assert np.all(np.abs((integers - bias) / scale - EXACT) <= 0.5 / scale + 1e-12)


def test_affine_integers_of_equal_weights_are_finite():
    integers, scale, bias = affine_integers(np.full((2, 2), 0.25), 8)
    np.testing.assert_allclose((integers - bias) / scale, 0.25)


# In the file -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(small_model):
    return small_model(keras)


def trained(stage, model, samples):
    wrapped = stage.apply(model, steps=4)
    stage.calibrate(wrapped, samples[0])
    wrapped.compile(tf_keras().optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    wrapped.fit(samples[0][:64], samples[1][:64], batch_size=16, verbose=0)
    return wrapped


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "values"), [("ternary", {-1, 0, 1}), ("xnor", {-1, 1})])
def test_the_file_holds_two_or_three_values(model, samples, scheme, values):
    wrapped = trained(Binarize(scheme=scheme), model, samples)
    lite = build_file(wrapped, INT8, samples[0])
    by_name = {name: w for w in lite.weights() for name in ("stem", "inline", "apart", "depth", "head")
               if f"/{name}/" in f"/{w.tensor.name}/"}  # fmt: skip
    for name in ("inline", "apart"):
        assert set(np.unique(by_name[name].values)) == values and by_name[name].tensor.dtype == "int4"
    for name in ("stem", "depth", "head"):  # the ends, and what has few weights
        assert np.abs(by_name[name].values).max() == 127
    expected = wrapped.predict(samples[0], verbose=0)
    assert np.abs(lite.predict(samples[0]) - expected).max() < 0.05


def test_the_ends_can_be_binarized_too_and_rules_say_which(model):
    stage = Binarize(spare_ends=False, layers=(("head", 8),))
    decisions = stage.decisions(bridge.to_tf_keras(model))
    assert "2-bit" in decisions["stem"].does and "int8" in decisions["head"].does


def test_fixed_point_weights_stand_in_the_file(model, samples):
    wrapped = trained(Quantize(weight_steps="fixed_point", fractional_bits=5), model, samples)
    stripped = Quantize(weight_steps="fixed_point", fractional_bits=5).strip(wrapped)
    kernel = stripped.get_layer("inline").get_weights()[0]
    np.testing.assert_array_equal(kernel * 32, np.rint(kernel * 32))
    lite = build_file(wrapped, INT8, samples[0])
    inline = next(w for w in lite.weights() if "/inline/" in f"/{w.tensor.name}/")
    np.testing.assert_array_equal(inline.values, (kernel * 32).transpose(3, 0, 1, 2))


def test_zeros_are_not_kept(model):
    with pytest.raises(RecipeError, match="cannot keep sparsity"):
        Binarize().apply(model, steps=1, keep={"sparsity"})


def test_a_model_of_ends_alone_keeps_8_bits():
    model = tf_keras().Sequential([tf_keras().layers.Dense(4, input_shape=(3,)), tf_keras().layers.Dense(2)])
    with pytest.warns(UserWarning, match=r"Binarize finds no layer for two or three values in .* Set spare_ends=False"):
        Binarize().apply(model, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        Binarize(spare_ends=False).apply(model, steps=1)
        Binarize(layers=(("*", True),)).apply(model, steps=1)
    assert any("all keep 8 bits" in note for note in Binarize().notes(bridge.to_tf_keras(model)))
