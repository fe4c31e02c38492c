"""Kernels are found by the layer they belong to, whatever values they have. Expected values: weights folded by hand."""

import numpy as np
import pytest

from tfopt.base import keras_compat
from tfopt.errors import PromiseError
from tfopt.stages.kernels.promise import Clusters
from tfopt.stages.kernels.table import kernels
from tfopt.tflite.prove.kernels import explained, find_kernels, same_places
from tfopt.tflite.prove.promises import verify_promises
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import Export
from tfopt.tflite.write import export
from tfopt.tflite.write.compact import compact

FLOAT, INT8 = Export(weights="float32", activations="float32"), Export()
EPSILON = 1e-3  # of BatchNormalization


def images():
    """One of each convolution, with BatchNormalization where a converter may fold it, and one layer called twice."""
    layers = keras_compat.tf_keras().layers
    shared = layers.Conv2D(8, 3, padding="same", name="shared")
    image = layers.Input(batch_shape=(1, 16, 16, 4), name="image")
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="first")(image)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="first_norm")(x))
    x = layers.BatchNormalization(name="shared_norm")(shared(shared(x)))
    x = layers.Conv2D(8, 3, padding="same", name="second")(x)
    x = layers.Conv2D(8, 3, padding="same", name="third")(layers.ReLU()(x))
    x = layers.Conv2D(8, 3, padding="same", dilation_rate=2, name="dilated")(x)
    x = layers.BatchNormalization(name="dilated_norm")(x)
    x = layers.Conv2D(8, 3, padding="same", groups=2, name="grouped")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_norm")(x)
    x = layers.SeparableConv2D(8, 3, padding="same", name="separable")(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="transposed")(x)
    x = layers.Dense(8, name="dense")(layers.GlobalAveragePooling2D()(x))
    x = layers.ReLU()(layers.BatchNormalization(name="dense_norm")(x))
    return keras_compat.tf_keras().Model(image, layers.Dense(8, activation="softmax", name="head")(x))


def lines():
    """Sequences: a Dense on three axes, attention whose kernels have one shape, two LSTMs of one shape."""
    layers = keras_compat.tf_keras().layers
    line = layers.Input(batch_shape=(1, 12, 8), name="line")
    x = layers.Conv1D(8, 3, padding="causal", dilation_rate=2, name="conv")(line)
    x = layers.Dense(8, name="dense")(layers.BatchNormalization(name="conv_norm")(x))
    x = layers.BatchNormalization(name="dense_norm")(x)
    x = layers.Reshape((12, 8))(layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de", name="einsum")(x))
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.LSTM(8, return_sequences=True, name="memory")(x)
    x = layers.Bidirectional(layers.LSTM(8, name="inner"), name="both")(x)
    return keras_compat.tf_keras().Model(line, layers.Dense(8, name="head")(x))


def filled(model, seed):
    """Set random weights; BatchNormalization divides by the square roots of 0.5 to 2."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        layer.set_weights([rng.normal(size=weight.shape) * 0.3 for weight in layer.get_weights()])
        if type(layer).__name__ == "BatchNormalization":
            gamma, beta, mean, _ = layer.get_weights()
            layer.set_weights([gamma + 1, beta, mean, rng.uniform(0.5, 2, gamma.shape)])
    return model


@pytest.fixture(scope="module")
def dead():
    """Images where half the channels of `first` and three quarters of those of `depthwise` are almost switched off.

    `second` and `third` have the same kernel except for one weight.
    """
    model = filled(images(), 0)
    for name, every in (("first_norm", 2), ("depthwise_norm", 4)):
        weights = model.get_layer(name).get_weights()
        weights[0][np.arange(len(weights[0])) % every != 0] *= 1e-9
        model.get_layer(name).set_weights(weights)
    kernel, bias = model.get_layer("second").get_weights()
    kernel[0, 0, 0, 0] += 0.5
    model.get_layer("third").set_weights([kernel, bias])
    return model


@pytest.fixture(scope="module")
def sequences():
    return filled(lines(), 1)


def lite_of(model, settings):
    samples = np.random.default_rng(2).normal(size=(16, *model.input_shape[1:])).astype("float32")
    return LiteModel(export.convert(model, settings, samples))


@pytest.fixture(scope="module", params=[FLOAT, INT8], ids=["float", "int8"])
def file_of_dead(request, dead):
    return lite_of(dead, request.param)


def by_channel(kernel):
    """The kernel as (output channels, weights), in float64, as in its layer."""
    values = kernel.values.astype(np.float64)
    if kernel.name.endswith("depthwise_kernel"):
        return values.reshape(-1, values.shape[-2] * values.shape[-1]).T
    return np.moveaxis(values, kernel.channel_axis, 0).reshape(values.shape[kernel.channel_axis], -1)


def factors(model, name):
    """The factors of the BatchNormalization after the layer `name` for its channels; ones without it."""
    try:
        gamma, _, _, variance = model.get_layer(f"{name}_norm").get_weights()
    except ValueError:
        return 1.0
    return (gamma / np.sqrt(variance + EPSILON)).astype(np.float64)[:, None]


def rows_in_file(place):
    return np.concatenate(
        [
            np.moveaxis(part.dequantized, axis, 0).reshape(part.values.shape[axis], -1)
            for part, axis in zip(place.parts, place.axes, strict=True)
        ]
    )


def steps_in_file(place):
    """The largest distance between neighbors that the tensors can represent."""
    return max((max(part.tensor.scales, default=0.0) for part in place.parts), default=0.0)


def test_each_convolution_is_found_folded_or_not_with_dead_channels_and_near_twins(dead, file_of_dead):
    found = find_kernels(file_of_dead, dead.layers)
    wanted = {(layer.name, kernel.name): kernel for layer in dead.layers for kernel in kernels(layer)}
    assert set(found) == set(wanted)
    for (layer, name), kernel in wanted.items():
        plain = by_channel(kernel)
        for place in found[layer, name].everywhere:
            stored = rows_in_file(place)
            allowed = 1e-5 + steps_in_file(place)
            off = min(np.abs(stored - plain).max(), np.abs(stored - plain * factors(dead, layer)).max())
            assert off < allowed, f"{layer}, {name}: {off}"


def test_near_twins_are_distinguished_by_who_reads_them(dead, file_of_dead):
    found = find_kernels(file_of_dead, [dead.get_layer("third"), dead.get_layer("second")])
    second, third = (found[name, "kernel"].parts[0].readers[0].index for name in ("second", "third"))
    assert second < third


def test_a_layer_called_twice_is_found_in_both_forms(dead, file_of_dead):
    # Only its second call has a BatchNormalization after it.
    place = find_kernels(file_of_dead, [dead.get_layer("shared")])["shared", "kernel"]
    plain = by_channel(kernels(dead.get_layer("shared"))[0])
    readers = [op.index for part in place.everywhere for op in part.parts[0].readers]
    assert len(readers) == 2
    folded = plain * factors(dead, "shared")
    forms = [min(np.abs(rows_in_file(one) - form).max() for one in place.everywhere) for form in (plain, folded)]
    assert forms[0] < 0.05  # unchanged; the other call has it folded, or MUL after it
    assert len(place.everywhere) == 1 or forms[1] < 0.05
    found = {("shared", "kernel"): place}
    again = same_places(found, LiteModel(compact(file_of_dead.data)))["shared", "kernel"]
    assert [rows_in_file(one).tolist() for one in again.everywhere] == [
        rows_in_file(one).tolist() for one in place.everywhere
    ]


@pytest.mark.parametrize("name", ["shared", "depthwise", "dilated"])
def test_promises_hold_or_break_in_each_place(dead, file_of_dead, name):
    kernel = kernels(dead.get_layer(name))[0]
    different = np.unique(kernel.values).size
    kept = [Clusters(name, different, weight=kernel.name)]
    assert verify_promises(file_of_dead, dead, kept, trained_ranges=False) == []
    with pytest.raises(PromiseError, match=f"breaks a promise: layer '{name}'"):
        verify_promises(file_of_dead, dead, [Clusters(name, 2, weight=kernel.name)], trained_ranges=False)


@pytest.mark.slow
def test_kernels_of_one_shape_in_sequences_are_found_with_names_and_without(sequences):
    for settings in (FLOAT, INT8):
        named = lite_of(sequences, settings)
        found = find_kernels(named, sequences.layers)
        without = LiteModel(compact(named.data))
        for guessed in (find_kernels(without, sequences.layers), same_places(found, without)):
            for key, place in found.items():
                assert [part.tensor.index for part in guessed[key].parts] == [p.tensor.index for p in place.parts], key
        for layer in ("memory", "both"):
            for kernel in kernels(sequences.get_layer(layer)):
                stored = rows_in_file(found[layer, kernel.name])
                np.testing.assert_allclose(stored, kernel.values.T, atol=0.02, err_msg=f"{layer}, {kernel.name}")


def test_equal_kernels_of_three_layers_go_by_their_names_then_by_their_order():
    layers, rng = keras_compat.tf_keras().layers, np.random.default_rng(3)
    kernel = rng.normal(size=(8, 8))
    same = [layers.Dense(8, use_bias=False, name=name) for name in ("z", "a", "m")]
    line = layers.Input(batch_shape=(1, 8))
    x = line
    for layer in same:
        x = layers.BatchNormalization(name=f"{layer.name}_norm")(layer(x))
    model = keras_compat.tf_keras().Model(line, x)
    for number, layer in enumerate(same, 1):
        layer.set_weights([kernel])
        ones = np.ones(8)
        model.get_layer(f"{layer.name}_norm").set_weights([ones * number, ones * 0, ones * 0, ones - EPSILON])
    named = lite_of(model, FLOAT)
    for lite in (named, LiteModel(compact(named.data))):
        found = find_kernels(lite, model.layers)
        for number, layer in enumerate(same, 1):
            stored = found[layer.name, "kernel"].parts[0].dequantized
            np.testing.assert_allclose(stored, number * kernel.T, rtol=1e-4, atol=1e-5)
            assert len(found[layer.name, "kernel"].everywhere) == 1  # the others are other layers', not copies


def test_an_inner_layer_of_the_same_name_and_kernel_is_another_one():
    layers, rng = keras_compat.tf_keras().layers, np.random.default_rng(4)
    line = layers.Input(batch_shape=(1, 6, 8))
    x = layers.MultiHeadAttention(2, 4, use_bias=False, name="attention")(line, line)
    outer = layers.Dense(8, use_bias=False, name="query")
    model = keras_compat.tf_keras().Model(line, outer(x))
    kernel = rng.normal(size=(8, 8))
    attention = model.get_layer("attention")
    # One kernel up to a factor, which content cannot tell apart: query 1, key 3, value 5, output 7, outer 2.
    inner = {"query": 1, "key": 3, "value": 5, "attention_output": 7}
    shapes = [weight.shape for weight in attention.get_weights()]
    attention.set_weights(
        [factor * kernel.reshape(shape) for factor, shape in zip(inner.values(), shapes, strict=True)]
    )
    outer.set_weights([2 * kernel])
    lite = lite_of(model, FLOAT)

    def largest(*asked):
        """The largest weight in each place of the first kernel that is `asked` for, over that of `kernel`."""
        places = find_kernels(lite, model.layers, asked)[asked[0]].everywhere
        return [np.abs(rows_in_file(place)).max() / np.abs(kernel).max() for place in places]

    np.testing.assert_allclose(largest(("query", "kernel")), [2], rtol=1e-5)
    # The converter multiplies the query by 1 / sqrt(4), the size of a head.
    assert largest(("attention", "query/kernel")) in (pytest.approx([1]), pytest.approx([0.5]))
    for name in ("key", "value", "attention_output"):
        np.testing.assert_allclose(largest(("attention", f"{name}/kernel")), [inner[name]], rtol=1e-5, err_msg=name)


def test_a_grouped_kernel_may_stand_group_by_group():
    import tensorflow as tf

    layers, rng = keras_compat.tf_keras().layers, np.random.default_rng(5)
    kernel = rng.normal(size=(3, 3, 2, 6)).astype("float32")

    class Split(layers.Layer):
        """What a converter makes of a grouped convolution for which it has no operator."""

        def call(self, x):
            parts = zip(tf.split(x, 3, axis=-1), np.split(kernel, 3, axis=-1), strict=True)
            return tf.concat([tf.nn.conv2d(part, weights, 1, "VALID") for part, weights in parts], axis=-1)

    image = layers.Input(batch_shape=(1, 5, 5, 6))
    lite = lite_of(keras_compat.tf_keras().Model(image, Split(name="grouped")(image)), FLOAT)
    whole = layers.Conv2D(6, 3, groups=3, use_bias=False, name="grouped")
    whole(image)
    whole.set_weights([kernel])
    place = find_kernels(lite, [whole])["grouped", "kernel"]
    assert len(place.parts) == 3 and len(place.everywhere) == 1
    np.testing.assert_allclose(rows_in_file(place), kernel.reshape(18, 6).T, rtol=1e-6)
    np.testing.assert_allclose(place.values, np.moveaxis(kernel, -1, 0), rtol=1e-6)


def test_layers_with_one_and_the_same_kernel_share_the_tensor():
    layers, rng = keras_compat.tf_keras().layers, np.random.default_rng(3)
    line = layers.Input(batch_shape=(1, 6, 6, 8))
    x = layers.Conv2D(8, 3, activation="relu", name="first")(line)
    model = keras_compat.tf_keras().Model(line, layers.Conv2D(8, 3, name="second")(x))
    weights = [rng.normal(size=(3, 3, 8, 8)), rng.normal(size=8)]
    for name in ("first", "second"):
        model.get_layer(name).set_weights(weights)
    found = find_kernels(lite_of(model, FLOAT), model.layers)
    assert set(found) == {("first", "kernel"), ("second", "kernel")}
    for place in found.values():
        np.testing.assert_allclose(rows_in_file(place), weights[0].reshape(-1, 8).T, rtol=1e-6)


def test_a_name_alone_is_not_proof(dead, file_of_dead):
    other = filled(images(), 9)
    with pytest.raises(PromiseError, match=r"The kernel of layer 'second' was not found .*best match 0\.\d\d, needed"):
        find_kernels(file_of_dead, [other.get_layer("second")])


@pytest.mark.parametrize(
    "stored, kernel, steps, share, cosine",
    [
        ([[2, 4]], [[1, 2]], [0], 1, 1),  # twice the kernel
        ([[2, 4], [-3, 0]], [[1, 2], [1, 0]], [0, 0], 1, 7 / 29**0.5 / 6**0.5),  # another factor for each channel
        ([[3, 4]], [[4, -3]], [0], 0, 0),  # at right angles
        ([[0, 0], [3, 4]], [[5, -7], [3, 4]], [0, 0], 1, 25 / 25 / (99 / 25) ** 0.5),  # a channel of zeros
        ([[3, 4], [0, 5]], [[0, 0], [0, 1]], [0, 0], 0.5, 5 / 50**0.5),  # a channel that is not in the kernel
        ([[3, 4]], [[4, 3]], [0], 24**2 / 25**2, 24 / 25),
        # 49 / 25 of error, of which 2 / 3 * 1.2^2 = 0.96 may be rounding.
        ([[3, 4]], [[4, 3]], [1.2], 1 - (49 / 25 - 0.96) / 25, 24 / 25),
        ([[0, 0]], [[1, 2]], [1], 1, 1),
    ],
)
def test_the_share_that_a_kernel_explains(stored, kernel, steps, share, cosine):
    arrays = (np.array(stored, np.float32), np.array(kernel, np.float32), np.array(steps, np.float64))
    np.testing.assert_allclose(explained(*arrays), (share, cosine), rtol=1e-6, atol=1e-6)
