"""Weights of fewer than 8 bits in the file, read back from its bytes by hand."""

import keras
import numpy as np
import pytest

from tfopt import bridge
from tfopt.base.keras_compat import unwrapped
from tfopt.errors import PromiseError, RecipeError
from tfopt.stages import Cluster, Prune, Quantize
from tfopt.stages.quantize.integers import Integers, integers_of
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import Export
from tfopt.tflite.write.export import build_file
from tfopt.tflite.write.low_bit_weights import packed_in_4_bits, store_integers

INT8 = Export(weights="int8", activations="int8", compact=False)
# Where each kernel of the small model is in the file: the axes of Keras in the order of the file.
ORDER = {"stem": (3, 0, 1, 2), "inline": (3, 0, 1, 2), "apart": (3, 0, 1, 2), "head": (1, 0)}


@pytest.fixture(scope="module")
def model(small_model):
    made = small_model(keras)
    norm = made.get_layer("stem_norm")
    gamma, *others = norm.get_weights()
    gamma[2] *= -1  # when folded, it changes the sign of a channel
    norm.set_weights([gamma, *others])
    head = made.get_layer("head")
    kernel, bias = head.get_weights()
    kernel[:, 1], bias[:] = 0, (3.0, -2.0, 0.5, 1.0)
    head.set_weights([kernel, bias])
    return made


def quantized(model, samples, **settings):
    """(what is exported, its file)"""
    stage = Quantize(**settings)
    wrapped = stage.apply(model, steps=1)
    stage.calibrate(wrapped, samples[0])
    return wrapped, build_file(wrapped, INT8, samples[0])


def by_hand(kernel, bits):
    """Integers of a Keras kernel with channels last, on the grid up to the largest weight of each channel."""
    top = 2 ** (bits - 1) - 1
    largest = np.abs(kernel.astype(np.float64)).max(axis=tuple(range(kernel.ndim - 1)), keepdims=True)
    return np.rint(kernel / np.where(largest > 0, largest / top, 1))


def stored(lite, name):
    """Integers of the weight tensor of the layer `name`, from the bytes of its buffer, and its scales."""
    (tensor,) = [w.tensor for w in lite.weights() if f"/{name}/" in f"/{w.tensor.name}/"]
    raw = lite._graph.model.subgraphs[0].tensors[tensor.index]
    data = lite._graph.model.buffers[raw.buffer].data
    if tensor.dtype == "int4":
        halves = np.stack([data & 15, data >> 4], axis=-1).reshape(-1)[: np.prod(tensor.shape)].astype(int)
        numbers = np.where(halves > 7, halves - 16, halves)
    else:
        numbers = data.view(np.int8).astype(int)
    return numbers.reshape(tensor.shape), np.array(raw.quantization.scale)


@pytest.fixture(scope="module")
def four_bits(model, samples):
    return quantized(model, samples, weight_bits=4)


@pytest.mark.parametrize("name", ORDER)
def test_the_file_holds_the_integers_of_the_grid_in_4_bits(model, four_bits, name):
    numbers, scales = stored(four_bits[1], name)
    expected = by_hand(model.get_layer(name).get_weights()[0], 4).transpose(ORDER[name])
    if name == "stem":
        expected[2] *= -1
    np.testing.assert_array_equal(numbers, expected)
    assert len(scales) == len(numbers) and np.all(scales > 0)
    # Short: the last 16 of the 24 bits of a float32's fraction are zero.
    assert not np.any(scales.astype(np.float32).view(np.uint32) & 0xFFFF)


def test_a_kernel_without_a_4_bit_operator_has_its_integers_in_8(four_bits):
    lite = four_bits[1]
    notes = lite.notes
    depth = next(w for w in lite.weights() if w.op_name == "DEPTHWISE_CONV_2D")
    assert depth.tensor.dtype == "int8" and np.abs(depth.values).max() == 7
    assert any("stored in 8: depth" in note for note in notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"weight_bits": 4},
        {"weight_bits": 3, "weight_steps": "mse"},
        {"weight_steps": "octav"},
        {"weight_bits": 4, "weight_steps": "learned"},
    ],
)
def test_the_file_computes_what_was_trained(model, samples, settings):
    wrapped, lite = quantized(model, samples, **settings)
    expected = wrapped.predict(samples[0], verbose=0)
    # The file rounds the outputs to 1/256, and its inner values in the same places as the model.
    assert np.abs(lite.predict(samples[0]) - expected).max() < 0.03


def test_the_stripped_model_has_the_values_of_the_grid(model, four_bits):
    stripped = Quantize(weight_bits=4).strip(four_bits[0])
    for name in ORDER:
        kernel = stripped.get_layer(name).get_weights()[0]
        before = model.get_layer(name).get_weights()[0]
        largest = np.abs(before).max(axis=tuple(range(before.ndim - 1)), keepdims=True)
        np.testing.assert_allclose(kernel, by_hand(before, 4) * largest / 7, atol=1e-6)


def test_outputs_are_called_as_in_keras(four_bits, model):
    assert [port.name for port in four_bits[1].outputs] == [model.layers[-1].name]


def test_of_8_bits_nothing_is_said(model, samples):
    _, lite = quantized(model, samples, weight_steps="octav")
    assert not any("8 bits" in note for note in lite.notes)


def test_rules_give_layers_bits_of_their_own(model, samples):
    _, lite = quantized(model, samples, layers=(("stem", 4), ("Dense", 2)))
    assert stored(lite, "stem")[0].dtype == int and np.abs(stored(lite, "stem")[0]).max() == 7
    assert np.abs(stored(lite, "head")[0]).max() == 1
    assert np.abs(stored(lite, "inline")[0]).max() == 127


def test_zeros_stay_zero(model, samples):
    prune = Prune(final_sparsity=0.5, schedule="one-shot")
    sparse = prune.strip(prune.apply(model, steps=0))
    stage = Quantize(weight_bits=4, weight_steps="learned")
    wrapped = stage.apply(sparse, steps=1, keep={"sparsity"})
    stage.calibrate(wrapped, samples[0])
    promises = prune.promises(bridge.to_tf_keras(sparse))
    lite = build_file(wrapped, INT8, samples[0], promises, bridge.to_tf_keras(stage.strip(wrapped)))
    kernel = sparse.get_layer("inline").get_weights()[0]
    assert np.all(stored(lite, "inline")[0][(kernel == 0).transpose(ORDER["inline"])] == 0)


def test_clusters_need_8_bits(model):
    cluster = Cluster(number_of_clusters=6)
    clustered = cluster.strip(cluster.apply(model, steps=0))
    with pytest.raises(RecipeError, match="8 bits"):
        Quantize(weight_bits=4).apply(clustered, steps=1, keep={"clusters"})


@pytest.mark.parametrize("bits", [1, 9])
def test_other_bits_are_refused(model, bits):
    with pytest.raises(RecipeError, match="weight_bits"):
        Quantize(weight_bits=bits)
    with pytest.raises(RecipeError, match="2 to 8"):
        Quantize(layers=(("stem", bits),)).apply(model, steps=1)


def test_a_file_whose_weights_are_off_the_grid_is_an_error(model, samples, four_bits):
    wrapped, lite = four_bits
    wrong = {key: Integers(4, found.values // 2) for key, found in integers_of(wrapped).items()}
    with pytest.raises(PromiseError, match="off the grid"):
        store_integers(lite.data, wrapped, wrong)


def test_the_usual_rounding_needs_no_grid(model):
    assert integers_of(Quantize().apply(model, steps=1)) == {}


def test_two_values_share_a_byte():
    assert packed_in_4_bits(np.array([[1, -1, 7], [-7, 0, -8]])).tolist() == [0xF1, 0x97, 0x80]
    assert packed_in_4_bits(np.array([3])).tolist() == [3]


def least_squares_steps(kernel, top):
    """The step of each output channel with the least squared error, from a fine search."""
    rows = kernel.reshape(-1, kernel.shape[-1]).T
    found = []
    for row in rows:
        tried = np.linspace(0.3, 1.2, 20_001) * np.abs(row).max() / top
        integers = np.clip(np.rint(row / tried[:, None]), -top, top)
        found.append(tried[((integers * tried[:, None] - row) ** 2).sum(axis=1).argmin()])
    return np.array(found)


def test_learned_steps_have_the_gradient_of_lsq(model):
    """Esser et al. 2020, equation 3: -w/s + round(w/s) inside, +-levels outside, times 1 / sqrt(weights * levels)."""
    import tensorflow as tf

    wrapped = Quantize(weight_bits=4, weight_steps="learned").apply(model, steps=1)
    layer = next(layer for layer in wrapped.layers if unwrapped(layer).name == "inline")
    ((variable, quantizer, made),) = layer._weight_vars
    with tf.GradientTape() as tape:
        rounded = quantizer(variable, True, weights=made)
        total = tf.reduce_sum(rounded * tf.reshape(tf.range(8.0), (1, 1, 1, 8)))
    by_step, by_weight = tape.gradient(total, [made["step"], variable])
    weights = variable.numpy().astype(np.float64)
    steps = least_squares_steps(weights, 7)
    ratio = weights / steps
    slope = np.where(np.abs(ratio) < 7, np.rint(ratio) - ratio, 7 * np.sign(ratio)).sum(axis=(0, 1, 2))
    expected = slope * np.arange(8) * steps / np.sqrt(weights[..., 0].size * 7)
    np.testing.assert_allclose(np.ravel(by_step), expected, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(by_weight, np.where(np.abs(ratio) < 7, 1.0, 0.0) * np.arange(8), atol=1e-6)


@pytest.mark.slow
def test_learned_steps_are_trained(model, samples):
    from tfopt.base.keras_compat import tf_keras

    stage = Quantize(weight_bits=4, weight_steps="learned")
    wrapped = stage.apply(model, steps=4)
    steps = [made["step"] for layer in wrapped.layers for *_, made in getattr(layer, "_weight_vars", ())]
    wrapped.compile(tf_keras().optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    wrapped.fit(samples[0][:64], samples[1][:64], batch_size=16, verbose=0)
    assert len(steps) == 6 and all(np.mean(step.numpy() != 1) > 0.5 for step in steps)
    lite = build_file(wrapped, INT8, samples[0])
    assert isinstance(lite, LiteModel)


def test_inspect_shows_the_stored_type(four_bits, tmp_path):
    from tfopt.evaluate.inspect import inspect_file

    path = tmp_path / "model.tflite"
    path.write_bytes(four_bits[1].data)
    types = {part.kind: part.dtype for part in inspect_file(path).parts}
    assert (types["CONV_2D"], types["FULLY_CONNECTED"], types["DEPTHWISE_CONV_2D"]) == ("int4", "int4", "int8")
