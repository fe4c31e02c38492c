"""Modules come back as equivalent native layers, or as one layer with stated limits."""

import hashlib
import os
import subprocess
import sys
import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfopt
from tfopt import bridge, models
from tfopt.base import keras_compat
from tfopt.base.annotations import annotations
from tfopt.errors import ModelError
from tfopt.models.hub import folder_of, hub_layer, open_hub, with_native_layers
from tfopt.models.hub import layer as hub_layers
from tfopt.models.rebuild import NoLayerError, rebuilt, table
from tfopt.models.rebuild.layer import Layer, Made, Step
from tfopt.models.sources import model_from
from tfopt.stages import Prune

SHAPE = (8, 8, 4)
PACKAGES = pytest.mark.parametrize("package", ["keras", "tf_keras"])


def api(package):
    return keras if package == "keras" else keras_compat.tf_keras()


def drawn(*shape, seed=0, low=-1.0, high=1.0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype("float32")


def variable(name, *shape, trainable=True, low=-1.0, high=1.0):
    seed = int.from_bytes(name.encode()[:4], "little")
    return tf.Variable(drawn(*shape, seed=seed, low=low, high=high), name=name, trainable=trainable)


def traced(function, shape=(None, *SHAPE), dtype=tf.float32):
    return tf.function(function).get_concrete_function(tf.TensorSpec(shape, dtype))


def kinds(model):
    return [type(layer).__name__ for layer in model.layers if type(layer).__name__ != "InputLayer"]


def weighty(model):
    return {layer.name: [np.asarray(w) for w in layer.get_weights()] for layer in model.layers if layer.weights}


class Module(tf.Module):
    """A callable of one batch, saved without Keras."""

    def __init__(self, function, variables, shape=(None, *SHAPE), dtype=tf.float32):
        super().__init__()
        self.held = variables
        self._function = function
        self.__class__ = type("Module", (Module,), {"__call__": self._call(shape, dtype)})

    def _call(self, shape, dtype):
        @tf.function(input_signature=[tf.TensorSpec(shape, dtype)])
        def call(self, x):
            return self._function(x)

        return call


def saved(folder, function, variables=(), **given):
    tf.saved_model.save(Module(function, list(variables), **given), str(folder))
    return folder


# One operation, or a few that belong together, as layers.

KERNEL = variable("block/kernel", 3, 3, 4, 6)
NARROW = variable("thin/kernel", 3, 3, 2, 6)
DEPTH = variable("depth/kernel", 3, 3, 4, 2)
GAMMA, BETA = variable("norm/gamma", 4, low=0.5), variable("norm/beta", 4)
MEAN = variable("norm/mean", 4, trainable=False)
VARIANCE = variable("norm/variance", 4, trainable=False, low=0.5, high=2.0)
BIAS = variable("block/bias", 6)
MATRIX = variable("dense/kernel", 4, 5)
HEAD = variable("head/kernel", 4, 3)
PER_CHANNEL = np.float32([0.5, 1.5, -2.0, 1.0])


def conv(x, kernel=KERNEL, **given):
    return tf.nn.conv2d(x, kernel, **{"strides": 1, "padding": "SAME", **given})


def depthwise(x, padding="SAME", dilations=None, strides=(1, 1, 1, 1)):
    return tf.nn.depthwise_conv2d(x, DEPTH, strides, padding, dilations=dilations)


def fused_norm(x, epsilon=2e-3):
    return tf.raw_ops.FusedBatchNormV3(
        x=x, scale=GAMMA, offset=BETA, mean=MEAN, variance=VARIANCE, epsilon=epsilon, is_training=False
    )[0]


def space(x):
    return tf.reduce_mean(x, [1, 2])


CASES = {
    "conv_same_strided": (lambda x: conv(x, strides=2), ["Conv2D"]),
    "conv_valid_unequal_strides": (lambda x: conv(x, strides=[1, 2], padding="VALID"), ["Conv2D"]),
    "conv_dilated": (lambda x: conv(x, dilations=2), ["Conv2D"]),
    "conv_padded_by_itself": (
        lambda x: conv(x, strides=2, padding=[[0, 0], [1, 0], [2, 1], [0, 0]]),
        ["ZeroPadding2D", "Conv2D"],
    ),
    "conv_grouped": (lambda x: conv(x, NARROW), ["Conv2D"]),
    "conv_bias_relu6": (lambda x: tf.nn.relu6(tf.nn.bias_add(conv(x), BIAS)), ["Conv2D", "ReLU"]),
    "bias_by_addition": (lambda x: BIAS + conv(x), ["Conv2D"]),
    "conv_dilated_by_reordering": (
        lambda x: tf.nn.convolution(x, KERNEL, padding="SAME", dilations=[2, 2]),
        ["Conv2D"],
    ),
    "depthwise": (lambda x: depthwise(x, strides=(1, 2, 2, 1)), ["DepthwiseConv2D"]),
    "depthwise_dilated_same": (lambda x: depthwise(x, dilations=[2, 3]), ["DepthwiseConv2D"]),
    "depthwise_dilated_valid": (lambda x: depthwise(x, "VALID", dilations=[2, 2]), ["DepthwiseConv2D"]),
    "norm_folded_into_conv": (lambda x: conv(x) * BIAS + BIAS, ["Conv2D"]),
    "norm_folded_into_depthwise": (lambda x: depthwise(x) * drawn(8) + drawn(8, seed=1), ["DepthwiseConv2D"]),
    "norm_folded_into_dense": (
        lambda x: (space(x) @ HEAD) * 3.0 - [1.0, 2.0, 3.0],
        ["GlobalAveragePooling2D", "Dense"],
    ),
    "norm_fused": (fused_norm, ["BatchNormalization"]),
    "norm_fused_of_old": (
        lambda x: tf.raw_ops.FusedBatchNorm(
            x=tf.raw_ops.FusedBatchNormV2(
                x=x, scale=GAMMA, offset=BETA, mean=MEAN, variance=VARIANCE, is_training=False
            )[0],
            scale=GAMMA,
            offset=BETA,
            mean=MEAN,
            variance=VARIANCE,
            is_training=False,
        )[0],
        ["BatchNormalization"],  # the same variables, so the same layer
    ),
    "norm_in_parts": (
        lambda x: tf.nn.batch_normalization(x, MEAN, VARIANCE, BETA, GAMMA, 2e-3),
        ["BatchNormalization"],
    ),
    "norm_without_scale": (
        lambda x: tf.nn.batch_normalization(x, MEAN, VARIANCE, BETA, None, 2e-3),
        ["BatchNormalization"],
    ),
    "norm_without_offset": (
        lambda x: tf.nn.batch_normalization(x, MEAN, VARIANCE, None, GAMMA, 2e-3),
        ["BatchNormalization"],
    ),
    "norm_mean_first": (
        lambda x: (x - MEAN) * tf.math.rsqrt(VARIANCE + 2e-3) * GAMMA + BETA,
        ["BatchNormalization"],
    ),
    "norm_by_division": (lambda x: (x - MEAN) / tf.sqrt(VARIANCE + 2e-3), ["BatchNormalization"]),
    "norm_behind_bias": (
        lambda x: tf.nn.batch_normalization(x * 2.0 + PER_CHANNEL, MEAN, VARIANCE, BETA, GAMMA, 2e-3),
        ["Rescaling", "BatchNormalization"],
    ),
    "pixels": (lambda x: (x * 2.0) - 1.0, ["Rescaling"]),
    "pixels_per_channel": (lambda x: (x - PER_CHANNEL) / (PER_CHANNEL * 2), ["Rescaling"]),
    "one_minus": (lambda x: 1.0 - x, ["Rescaling"]),
    "negative": (lambda x: -x, ["Rescaling"]),
    "nothing": (lambda x: tf.stop_gradient(tf.identity(tf.cast(x, tf.float32) * 1.0 + 0.0)), []),
    "residual": (lambda x: tf.nn.relu(x) + x, ["ReLU", "Add"]),
    "residual_of_old": (lambda x: tf.raw_ops.Add(x=tf.nn.relu(x), y=x), ["ReLU", "Add"]),
    "difference": (lambda x: tf.nn.relu(x) - x, ["ReLU", "Subtract"]),
    "gate": (
        lambda x: x * tf.sigmoid(tf.reduce_mean(x, [1, 2], keepdims=True)),
        ["GlobalAveragePooling2D", "Activation", "Multiply"],
    ),
    "squared": (lambda x: x * x, ["Multiply"]),
    "sum_of_three": (lambda x: tf.add_n([x, tf.nn.relu(x), tf.tanh(x)]), ["ReLU", "Activation", "Add"]),
    "concat": (lambda x: tf.concat([x, tf.nn.elu(x)], -1), ["ELU", "Concatenate"]),
    "max_pool": (lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME"), ["MaxPooling2D"]),
    "average_pool": (lambda x: tf.nn.avg_pool2d(x, [2, 3], [2, 1], "VALID"), ["AveragePooling2D"]),
    "pad": (lambda x: tf.pad(x, [[0, 0], [1, 0], [2, 3], [0, 0]]), ["ZeroPadding2D"]),
    "pad_with_zeros_said": (
        lambda x: tf.raw_ops.PadV2(input=x, paddings=[[0, 0], [1, 1], [0, 0], [0, 0]], constant_values=0.0),
        ["ZeroPadding2D"],
    ),
    "pad_by_nothing": (lambda x: tf.pad(x, [[0, 0], [0, 0], [0, 0], [0, 0]]), []),
    "mean": (space, ["GlobalAveragePooling2D"]),
    "mean_and_squeeze": (
        lambda x: tf.squeeze(tf.reduce_mean(x, [1, 2], keepdims=True), [1, 2]),
        ["GlobalAveragePooling2D", "Flatten"],
    ),
    "maximum_over_space": (lambda x: tf.reduce_max(x, [1, 2]), ["GlobalMaxPooling2D"]),
    "flatten": (lambda x: tf.reshape(x, [-1, 256]), ["Flatten"]),
    "flatten_by_shape": (lambda x: tf.reshape(x, [tf.shape(x)[0], 256]), ["Flatten"]),
    "reshape": (lambda x: tf.reshape(x, [-1, 16, 16]), ["Reshape"]),
    "dense": (
        lambda x: tf.nn.softmax(tf.nn.bias_add(tf.matmul(space(x), HEAD), [1.0, 2.0, 3.0])),
        ["GlobalAveragePooling2D", "Dense", "Softmax"],
    ),
    "dense_transposed": (
        lambda x: tf.matmul(space(x), tf.transpose(HEAD), transpose_b=True),
        ["GlobalAveragePooling2D", "Dense"],
    ),
    "dense_on_rows": (lambda x: tf.matmul(tf.reshape(x, [-1, 64, 4]), HEAD), ["Reshape", "Dense"]),
    "conv_1d": (
        lambda x: tf.nn.conv1d(tf.reshape(x, [-1, 64, 4]), drawn(3, 4, 2), 1, "SAME"),
        ["Reshape", "Reshape", "Conv2D", "Reshape"],
    ),
    "relu": (tf.nn.relu, ["ReLU"]),
    "relu_by_maximum": (lambda x: tf.maximum(x, 0.0), ["ReLU"]),
    "relu_up_to_half": (lambda x: tf.clip_by_value(x, 0.0, 0.5), ["ReLU"]),
    "relu_then_minimum": (lambda x: tf.minimum(tf.nn.relu(x), 0.5), ["ReLU"]),
    "maximum_of_two": (lambda x: tf.maximum(x, tf.tanh(x)), ["Activation", "Maximum"]),
    "leaky_relu": (lambda x: tf.nn.leaky_relu(x, 0.3), ["LeakyReLU"]),
    "sigmoid": (tf.sigmoid, ["Activation"]),
    "tanh": (tf.tanh, ["Activation"]),
    "selu": (tf.nn.selu, ["Activation"]),
    "softplus": (tf.nn.softplus, ["Activation"]),
    "softsign": (tf.nn.softsign, ["Activation"]),
    "silu": (tf.nn.silu, ["Activation"]),
    "hard_sigmoid": (lambda x: tf.nn.relu6(x + 3.0) / 6.0, ["Activation"]),
    "hard_silu": (lambda x: x * (tf.nn.relu6(x + 3.0) * (1.0 / 6.0)), ["Activation"]),
    "hard_sigmoid_behind_bias": (
        lambda x: tf.nn.relu6(tf.nn.bias_add(conv(x), BIAS) + 3.0) * np.float32(1 / 6),
        ["Conv2D", "Activation"],
    ),
}


def closed(function):
    """`function` and a kernel, without which nothing is built; an activation separates them."""

    def whole(x):
        y = tf.nn.elu(function(x))
        kernel = drawn(y.shape[-1], 2, seed=5)
        if y.shape.rank == 4:
            return conv(y, kernel[None, None])
        return tf.reshape(y, [-1, np.prod(y.shape[1:])]) @ drawn(np.prod(y.shape[1:]), 2, seed=5)

    return whole, {4: ["ELU", "Conv2D"], 3: ["ELU", "Flatten", "Dense"], 2: ["ELU", "Dense"]}


# What the two Keras versions name differently, and one of each family.
IN_TF_KERAS = (
    "conv_padded_by_itself", "conv_grouped", "conv_bias_relu6", "depthwise_dilated_valid", "norm_without_scale",
    "pixels", "pixels_per_channel", "gate", "concat", "average_pool", "pad", "mean_and_squeeze", "flatten",
    "reshape", "dense", "relu_up_to_half", "leaky_relu", "selu", "silu", "hard_sigmoid", "hard_silu",
)  # fmt: skip


@pytest.mark.parametrize(
    ("case", "package"), [*((case, "keras") for case in CASES), *((case, "tf_keras") for case in IN_TF_KERAS)]
)
def test_operations_become_layers(case, package):
    function, expected = CASES[case]
    whole, closing = closed(function)
    model, notes = rebuilt(traced(whole), api(package), name="net")
    assert kinds(model) == [*expected, *closing[function(tf.zeros((1, *SHAPE))).shape.rank]]
    assert model.name == "net"
    assert notes == ()
    for x in (drawn(3, *SHAPE, seed=9), drawn(3, *SHAPE, seed=9) * 10):
        np.testing.assert_allclose(np.asarray(model(x)), whole(tf.constant(x)), atol=1e-4, rtol=1e-4)


def test_every_operation_of_the_table_is_tried():
    tried = {op.type for function, _ in CASES.values() for op in traced(closed(function)[0]).graph.get_operations()}
    assert set(table._TABLE) <= tried


@pytest.mark.parametrize(
    "function",
    [
        CASES["norm_fused"][0],
        CASES["norm_in_parts"][0],
        lambda x: (x - MEAN) * (tf.math.rsqrt(VARIANCE + 2e-3) * GAMMA) + BETA,
        lambda x: (x - MEAN) / tf.sqrt(VARIANCE + 2e-3) * GAMMA + BETA,
    ],
)
def test_the_statistics_of_batch_normalization_come_back(function):
    """They do, rather than an equivalent scale and offset, which would train differently."""
    model, _ = rebuilt(traced(lambda x: conv(function(x))), keras, name="net")
    norm = model.get_layer("norm")
    for found, expected in zip(norm.get_weights(), (GAMMA, BETA, MEAN, VARIANCE), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert norm.epsilon == pytest.approx(2e-3)
    x = drawn(5, *SHAPE)
    y = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 2e-3) * GAMMA + BETA
    np.testing.assert_allclose(np.asarray(model(x, training=True)), conv(y), atol=1e-4)


def test_layers_bear_the_names_of_the_variables():
    one, two = variable("net/first/conv/kernel", 1, 1, 4, 4), variable("net/second/conv/kernel", 1, 1, 4, 4)
    depth, point = variable("net/sep/depthwise", 1, 1, 4, 1), variable("net/sep/pointwise", 1, 1, 4, 4)
    nameless = tf.Variable(drawn(1, 1, 4, 4))

    def function(x):
        x = conv(tf.nn.relu(conv(x, one), name="early/act"), two)
        x = conv(tf.nn.depthwise_conv2d(x, depth, [1, 1, 1, 1], "SAME"), point)
        return conv(tf.nn.relu(x, name="late/act"), nameless)

    model, _ = rebuilt(traced(function), keras, name="net")
    names = [layer.name for layer in model.layers[1:]]
    assert names == ["first_conv", "early_act", "second_conv", "sep", "sep_pointwise", "late_act", "conv2d"]


def test_shared_variables_are_one_layer_and_flags_come_along():
    once, frozen = variable("a/kernel", 3, 3, 4, 4), variable("b/kernel", 3, 3, 4, 4, trainable=False)
    model, _ = rebuilt(traced(lambda x: conv(conv(conv(x, once), frozen), once)), keras, name="net")
    assert {name: len(w) for name, w in weighty(model).items()} == {"a": 1, "b": 1}
    assert [layer.trainable for layer in model.layers if layer.weights] == [True, False]


def test_a_shared_kernel_in_front_of_different_scales_is_two_layers():
    once = variable("a/kernel", 1, 1, 4, 4)
    model, _ = rebuilt(traced(lambda x: conv(conv(x, once) * 2.0, once) * 3.0), keras, name="net")
    kernels = [weights[0] for weights in weighty(model).values()]
    np.testing.assert_array_equal(kernels, [2 * np.array(once), 3 * np.array(once)])


def test_a_variable_that_no_layer_trains_is_noted():
    scale = variable("gate/scale", 4)
    model, (note,) = rebuilt(traced(lambda x: conv(tf.nn.relu(x) * scale)), keras, name="net")
    assert kinds(model) == ["ReLU", "Rescaling", "Conv2D"]
    assert "gate/scale:0" in note


def test_a_fixed_batch_becomes_free():
    model, _ = rebuilt(traced(lambda x: tf.reshape(conv(x), [1, 384]), (1, *SHAPE)), keras, name="net")
    x = drawn(3, *SHAPE)
    np.testing.assert_allclose(np.asarray(model(x)), np.reshape(conv(x), (3, 384)), atol=1e-5)


def test_free_axes_stay_free():
    model, _ = rebuilt(traced(lambda x: space(conv(x)), (None, None, None, 4)), keras, name="net")
    assert model.input_shape == (None, None, None, 4)


REFUSED = {
    "resize and spectrum": (
        lambda x: tf.abs(tf.signal.rfft(tf.image.resize(x, (4, 4)))),
        "no Keras layer is known for .*Abs.*RFFT.*ResizeBilinear",
    ),
    "channels first": (lambda x: tf.nn.conv2d(x, drawn(1, 1, 8, 2), 1, "VALID", data_format="NCHW"), "channels first"),
    "computed kernel": (lambda x: conv(x, tf.reduce_mean(x) * KERNEL), "Conv2D with computed weights"),
    "training mode": (
        lambda x: tf.raw_ops.FusedBatchNormV3(
            x=x, scale=GAMMA, offset=BETA, mean=MEAN, variance=VARIANCE, is_training=True
        )[0],
        "FusedBatchNormV3 in training mode",
    ),
    "second output": (
        lambda x: tf.raw_ops.FusedBatchNormV3(
            x=x, scale=GAMMA, offset=BETA, mean=MEAN, variance=VARIANCE, is_training=False
        )[1]
        + tf.reduce_mean(x),
        "output 1 of FusedBatchNormV3",
    ),
    "mean over channels": (lambda x: tf.reduce_mean(x, [1, 3]), r"Mean over the axes \[1, 3\]"),
    "padded channels": (
        lambda x: tf.pad(x, [[0, 0], [0, 0], [0, 0], [1, 0]]),
        "Pad of axes other than height and width",
    ),
    "mirrored": (lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT"), "MirrorPad"),
    "padded with ones": (
        lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=1.0),
        "PadV2 with values other than zero",
    ),
    "an image added": (lambda x: x + drawn(8, 8, 4), r"AddV2 with a constant of shape \(8, 8, 4\)"),
    "widened": (lambda x: space(x) + drawn(3, 4), r"AddV2 with a constant of shape \(3, 4\)"),
    "broadcast over ranks": (lambda x: x + space(x), "AddV2 of tensors of shapes"),
    "divided": (lambda x: 1.0 / x, "RealDiv of tensors"),
    "minimum alone": (lambda x: tf.minimum(x, 1.0), "Minimum with a constant"),
    "across samples": (lambda x: tf.reshape(x, [-1, 4]) @ HEAD, "Reshape across samples"),
    "unknown size": (
        lambda x: tf.reshape(x, tf.cast(tf.reduce_sum(x[0, 0, 0, :2]) * [1, 2], tf.int32)),
        "Reshape from",
    ),
    "concat of samples": (lambda x: tf.concat([x, tf.nn.relu(x)], 0), "ConcatV2 of samples"),
    "concat with a constant": (
        lambda x: tf.concat([x[:1], np.ones((1, 8, 8, 4), "f")], -1),
        "ConcatV2 with a constant",
    ),
    "no input": (lambda x: conv(np.ones((1, *SHAPE), "f")), "does not depend on the input"),
    "no weights": (lambda x: x / 2.0 + 2.0, "no weights"),
    "integers": (lambda x: conv(tf.cast(x, tf.float32)), "its input is int32"),
    "a loop": (lambda x: tf.while_loop(lambda y: tf.reduce_sum(y) < 9.0, lambda y: [y + 1.0], [conv(x)])[0], "While"),
    "a slice": (lambda x: conv(x[:, ::2]), "StridedSlice"),
    "strided and dilated": (lambda x: conv(x, strides=2, dilations=2), "Keras refuses Conv2D"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_stands_in_the_way_is_named(case):
    function, words = REFUSED[case]
    with pytest.raises(NoLayerError, match=words):
        rebuilt(traced(function, dtype=tf.int32 if case == "integers" else tf.float32), keras, name="net")


def twice(operation, graph):
    return Made([operation.inputs[0]], [Layer("ReLU"), Layer("Affine", steps=(Step("mul", 2.0),))])


def test_layers_that_compute_something_else_are_not_returned(monkeypatch):
    monkeypatch.setitem(table._TABLE, "Relu", twice)
    with pytest.raises(NoLayerError, match="different outputs, by up to"):
        rebuilt(traced(lambda x: tf.nn.relu(conv(x))), keras, name="net")
    with pytest.raises(NoLayerError, match="different outputs"):  # a softmax of large numbers would hide it
        rebuilt(traced(lambda x: tf.nn.softmax(tf.nn.relu(conv(x, KERNEL * 1e5)))), keras, name="net")


# Whole modules


def small_net(x):
    """A convolution with BatchNorm, a residual block, a head."""
    y = tf.nn.relu6(tf.nn.batch_normalization(conv(x, SQUARE), MEAN, VARIANCE, BETA, GAMMA, 1e-3))
    return space(x + y) @ HEAD


SQUARE = variable("stem/kernel", 3, 3, 4, 4)
SMALL = (SQUARE, MEAN, VARIANCE, BETA, GAMMA, HEAD)


@PACKAGES
def test_a_module_of_raw_operations(tmp_path, package):
    folder = saved(tmp_path / "net" / "1", small_net, SMALL)
    module = open_hub(folder.parent, package=package)  # one folder down
    assert module.native
    assert module.notes == ()
    assert type(module.model).__module__.startswith(f"{package}.")
    assert module.model.name == "net"
    assert not bridge.is_compiled(module.model)
    x = drawn(3, *SHAPE)
    np.testing.assert_allclose(np.asarray(module.model(x)), small_net(tf.constant(x)), atol=1e-5)
    assert module.fingerprint == open_hub(folder, package="keras").fingerprint
    assert not hub_layer(folder, trainable=False, package=package).trainable_weights


def test_the_fingerprint_is_that_of_the_files(tmp_path):
    folder = saved(tmp_path / "net", small_net, SMALL)
    before = open_hub(folder).fingerprint
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "assets" / "labels.txt").write_text("a")
    assert open_hub(folder).fingerprint != before


@PACKAGES
def test_an_export_of_keras_3(tmp_path, package, small_model, samples):
    model = small_model(keras)
    model.export(tmp_path / "out", verbose=False)
    module = open_hub(tmp_path / "out", package=package)
    assert module.native
    x = samples[0][:8]
    np.testing.assert_allclose(np.asarray(module.model(x)), np.asarray(model(x)), atol=1e-5)
    flat = {name: layer for name, layer, _ in bridge.flat_layers(model)}
    found = weighty(module.model)
    assert found.keys() == {name for name, layer in flat.items() if layer.weights}
    for name, weights in found.items():
        for ours, theirs in zip(weights, flat[name].get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    training = np.asarray(module.model(x, training=True))
    assert not np.allclose(training, np.asarray(module.model(x)), atol=1e-3)


def tf_keras_model(api):
    layers = api.layers
    inputs = x = api.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv", kernel_regularizer=api.regularizers.L2(0.01))(x)
    x = layers.BatchNormalization(momentum=0.5, name="norm")(x)
    x = layers.LeakyReLU(0.2, name="leaky")(x) * 2.0
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.Reshape((6, 24), name="rows")(x)
    x = layers.LSTM(5, name="memory")(x)
    return api.Model(inputs, layers.Dense(2, "tanh", name="head")(x), name="stored")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    model = tf_keras_model(keras_compat.tf_keras())
    model.get_layer("conv").trainable = False
    folder = tmp_path_factory.mktemp("stored") / "net"
    model.save(folder, save_format="tf")
    return model, folder


@pytest.mark.slow
@PACKAGES
def test_layers_that_tf_keras_stored(stored, package):
    """Dropout, a regularizer, a momentum and a recurrent layer: the inference graph has none of these."""
    model, folder = stored
    module = open_hub(folder, package=package)
    assert module.native
    assert module.notes == ()
    assert type(module.model).__module__.startswith(f"{package}.")
    layers = {layer.name: layer for layer in module.model.layers}
    assert float(layers["conv"].kernel_regularizer.l2) == pytest.approx(0.01)
    assert not layers["conv"].trainable
    assert layers["norm"].trainable
    assert layers["norm"].momentum == 0.5
    assert layers["drop"].rate == 0.5
    x = drawn(3, 8, 8, 3)
    np.testing.assert_allclose(np.asarray(module.model(x)), np.asarray(model(x)), atol=1e-5)
    recurrent = model.get_layer("memory").get_weights()[1]
    np.testing.assert_array_equal(layers["memory"].get_weights()[1], recurrent)


@PACKAGES
def test_numbers_of_words_go_into_stored_layers(tmp_path, package):
    layers = keras_compat.tf_keras().layers
    inputs = keras_compat.tf_keras().Input((3,), dtype="int32")
    outputs = layers.Dense(2)(layers.Flatten()(layers.Embedding(9, 4, name="words")(inputs)))
    model = keras_compat.tf_keras().Model(inputs, outputs)
    model.save(tmp_path / "net", save_format="tf")
    module = open_hub(tmp_path / "net", package=package)
    assert kinds(module.model) == ["Embedding", "Flatten", "Dense"]
    x = np.int32([[0, 4, 8], [1, 2, 3]])
    np.testing.assert_allclose(np.asarray(module.model(x)), np.asarray(model(x)), atol=1e-5)


def test_code_among_stored_layers_is_left_alone_and_the_graph_read(tmp_path):
    api = keras_compat.tf_keras()
    layers = [api.Input(SHAPE), api.layers.Conv2D(2, 3, name="conv"), api.layers.Lambda(lambda x: x * 2.0)]
    model = api.Sequential(layers)
    model.save(tmp_path / "net", save_format="tf")
    module = open_hub(tmp_path / "net")
    assert kinds(module.model) == ["Conv2D"]
    assert "Lambda" in module.notes[0]
    x = drawn(2, *SHAPE)
    np.testing.assert_allclose(np.asarray(module.model(x)), np.asarray(model(x)), atol=1e-5)


def test_hard_sigmoid_of_tf_keras_is_not_taken_for_that_of_keras_3(tmp_path):
    api = keras_compat.tf_keras()
    model = api.Sequential([api.Input(SHAPE), api.layers.Conv2D(2, 3, activation="hard_sigmoid")])
    model.save(tmp_path / "net", save_format="tf")
    module = open_hub(tmp_path / "net")
    assert module.native
    assert "hard_sigmoid" in module.notes[0]
    x = drawn(2, *SHAPE)
    np.testing.assert_allclose(np.asarray(module.model(x)), np.asarray(model(x)), atol=1e-5)


def test_what_the_module_leaves_open_can_be_filled_in(tmp_path):
    folder = saved(tmp_path / "net", lambda x: space(conv(x)), [KERNEL], shape=(None, None, None, 4))
    assert open_hub(folder).model.input_shape == (None, None, None, 4)
    assert hub_layer(folder, input_shape=(16, 12, 4)).input_shape == (None, 16, 12, 4)
    with pytest.raises(ModelError, match=r"takes inputs of shape \(None, None, 4\); got input_shape=\(16, 16, 3\)"):
        open_hub(folder, input_shape=(16, 16, 3))


def test_the_model_is_a_layer_of_another(tmp_path):
    body = hub_layer(saved(tmp_path / "net", small_net, SMALL), name="body")
    model = keras.Sequential([keras.Input(SHAPE), body, keras.layers.Dense(2, name="top")])
    assert body.name == "body"
    assert {layer.name for layer in bridge.to_tf_keras(model).layers} >= {"stem", "norm", "head", "top"}


STAGES = {
    "Prune": tfopt.Prune(schedule="one-shot", final_sparsity=0.5),
    "Cluster": tfopt.Cluster(number_of_clusters=3),
    "Quantize": tfopt.Quantize(),
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_work_on_the_layers(tmp_path, name):
    model, stage, x = hub_layer(saved(tmp_path / "net", small_net, SMALL)), STAGES[name], drawn(8, *SHAPE)
    wrapped = stage.apply(model, steps=1)
    stage.calibrate(wrapped, x)
    wrapped.compile("sgd", "mse")
    wrapped.fit(x, np.zeros((8, 3)), callbacks=stage.callbacks(), verbose=0)
    done = stage.strip(wrapped)
    for kernel in (done.get_layer("stem").get_weights()[0], done.get_layer("head").get_weights()[0]):
        if name == "Prune":
            assert np.mean(kernel == 0) == 0.5
        elif name == "Cluster":
            assert len(np.unique(kernel)) == 3
        else:  # one int8 scale per output channel
            steps = kernel / (np.abs(kernel).max(tuple(range(kernel.ndim - 1))) / 127)
            np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


@pytest.mark.slow
def test_stages_reach_the_layers_of_a_real_module(shared):
    """MobileNet V1: 14 convolutions, the first of them included, and 13 depthwise ones, which Prune leaves alone."""
    archive = shared / "models" / "hub" / "mobilenet_025_224_feature_vector.tar.gz"
    module = open_hub(archive)
    assert module.native
    assert module.notes == ()
    original = tf.saved_model.load(str(folder_of(archive)))
    x = drawn(2, 224, 224, 3, low=0.0)
    expected = original(x, training=False).numpy()
    np.testing.assert_allclose(np.asarray(module.model(x, training=False)), expected, atol=1e-5 * expected.max())

    flat = bridge.to_tf_keras(module.model)
    kind = {layer.name: type(layer).__name__ for layer in flat.layers}
    pruned = [kind[name] for name, what in tfopt.Prune().decisions(flat).items() if "zeros" in what.does]
    quantized = [kind[name] for name, what in tfopt.Quantize().decisions(flat).items() if "int8 weights" in what.does]
    assert sorted(pruned) == ["Conv2D"] * 14
    assert sorted(quantized) == ["Conv2D"] * 14 + ["DepthwiseConv2D"] * 13


# One layer that runs the SavedModel


def wavy(x):
    """A function with no equivalent layer except the Dense at the end."""
    return tf.math.sin(space(x)) @ HEAD


class Drops(tf.Module):
    """Distinguish training from inference: with running statistics, and an offset in training."""

    def __init__(self):
        super().__init__()
        self.kernel, self.seen = tf.Variable(drawn(4, 3), name="kernel"), tf.Variable(0.0, trainable=False, name="seen")

    @tf.function
    def __call__(self, x, training=False):
        if training:
            self.seen.assign_add(1.0)
            return tf.math.sin(x) @ self.kernel + 100.0
        return tf.math.sin(x) @ self.kernel


def drops(folder):
    module = Drops()
    for training in (True, False):
        module.__call__.get_concrete_function(tf.TensorSpec((None, 4)), training=training)
    tf.saved_model.save(module, str(folder))
    return folder


def forgotten(monkeypatch):
    """As in a process that has not opened any module yet."""
    monkeypatch.setattr(hub_layers, "_ALLOWED", set())


@PACKAGES
def test_what_cannot_be_rebuilt_runs_as_it_is(tmp_path, package):
    module = open_hub(saved(tmp_path / "net", wavy, [HEAD]), package=package)
    assert not module.native
    assert kinds(module.model) == ["SavedModelLayer"]
    assert "Sin" in module.notes[0]
    assert any("no stage prunes" in note for note in module.notes)
    x = drawn(5, *SHAPE)
    np.testing.assert_allclose(module.model.predict(x, verbose=0), wavy(tf.constant(x)), atol=1e-6)
    assert [tuple(w.shape) for w in module.model.trainable_weights] == [(4, 3)]
    assert not hub_layer(tmp_path / "net", trainable=False, package=package).trainable_weights


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
@PACKAGES
def test_it_trains_where_it_may(tmp_path, package):
    folder, classes, x = saved(tmp_path / "net", wavy, [HEAD]), api(package).losses, drawn(8, *SHAPE)
    for trainable in (True, False):
        model = hub_layer(folder, trainable=trainable, package=package)
        (before,) = (np.array(w) for w in model.weights)
        target = np.asarray(model(x)) + 1.0
        model.compile(api(package).optimizers.SGD(0.1), classes.MeanSquaredError())
        model.fit(x, target, epochs=1, verbose=0)
        # one step on the mean of (y - target)^2, where y = sin(mean) @ kernel and target = y + 1
        gradient = np.sin(x.mean((1, 2))).T @ np.full((8, 3), -2.0 / 24)
        (after,) = (np.array(w) for w in model.weights)
        np.testing.assert_allclose(after, before - trainable * 0.1 * gradient, atol=1e-6)
        np.testing.assert_allclose(np.asarray(model(x)), np.sin(x.mean((1, 2))) @ after, atol=1e-5)


@PACKAGES
def test_training_and_inference_are_told_apart(tmp_path, package):
    folder, x = drops(tmp_path / "net"), drawn(4, 4)
    live, frozen = (hub_layer(folder, trainable=flag, package=package) for flag in (True, False))
    plain = np.sin(x) @ drawn(4, 3)
    np.testing.assert_allclose(np.asarray(live(x, training=False)), plain, atol=1e-5)
    np.testing.assert_allclose(np.asarray(live(x, training=True)), plain + 100, atol=1e-4)
    np.testing.assert_allclose(np.asarray(frozen(x, training=True)), plain, atol=1e-5)
    assert [float(np.array(w)) for model in (live, frozen) for w in model.weights if w.shape.rank == 0] == [1.0, 0.0]
    notes = open_hub(folder, package=package).notes
    assert not any("as in inference" in note for note in notes)
    assert any("as in inference" in note for note in open_hub(saved(tmp_path / "other", wavy, [HEAD])).notes)


def test_a_keras_file_holds_the_module(tmp_path, monkeypatch):
    folder, x = saved(tmp_path / "net", wavy, [HEAD]), drawn(4, *SHAPE)
    model = keras.Sequential([keras.Input(SHAPE), hub_layer(folder), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    model.fit(x, np.ones((4, 2)), verbose=0)
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "whole.keras")
    forgotten(monkeypatch)
    for file in sorted(folder.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    loaded = keras.models.load_model(tmp_path / "whole.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, atol=1e-6)
    loaded.fit(x, np.ones((4, 2)), verbose=0)  # the trained variables are still those of the module
    assert np.abs(loaded.predict(x, verbose=0) - expected).max() > 1e-4
    again = keras.models.clone_model(loaded)
    again.set_weights(loaded.get_weights())
    np.testing.assert_allclose(again.predict(x, verbose=0), loaded.predict(x, verbose=0), atol=1e-6)


def test_a_file_opens_no_folder_that_it_names(tmp_path, monkeypatch):
    model = hub_layer(saved(tmp_path / "net", wavy, [HEAD]))
    layer, x = model.get_layer("module"), drawn(1, *SHAPE)
    forgotten(monkeypatch)
    lost = type(layer).from_config(layer.get_config())
    lost.build_from_config(layer.get_build_config())
    with pytest.raises(ModelError, match=r"is not available.*open_hub"):
        lost(x)
    twin = hub_layers.saved_model_layer("tf_keras")
    with pytest.raises(ModelError, match="was not opened in this process"):
        twin(str(tmp_path / "net"))


def test_a_file_of_tf_keras_names_the_folder(tmp_path):
    folder, x = saved(tmp_path / "net", wavy, [HEAD]), drawn(2, *SHAPE)
    module = open_hub(folder, package="tf_keras")
    assert any("name its folder" in note for note in module.notes)
    module.model.save(tmp_path / "whole.keras")
    loaded = keras_compat.tf_keras().models.load_model(tmp_path / "whole.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), module.model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.slow
@PACKAGES
def test_stages_work_around_it(tmp_path, package):
    """The head is pruned; the module's own weights are trained, carried over the bridge and back."""
    body = hub_layer(saved(tmp_path / "net", wavy, [HEAD]), package=package)
    layers, x = api(package).layers, drawn(8, *SHAPE)
    model = api(package).Sequential([api(package).Input(SHAPE), body, layers.Dense(4, name="head")])
    model.compile("sgd", "mse")
    before = [np.array(w) for w in model.weights]
    stage = tfopt.Prune(schedule="one-shot", final_sparsity=0.5)
    wrapped = stage.apply(model, steps=2)
    wrapped.fit(x, np.ones((8, 4)), epochs=2, callbacks=stage.callbacks(), verbose=0)
    sparse = stage.strip(wrapped)
    np.testing.assert_allclose(np.asarray(sparse(x)), np.asarray(wrapped(x)), atol=1e-5)
    assert np.mean(np.array(sparse.get_layer("head").kernel) == 0) == 0.5
    (inner,) = (np.array(w) for w in bridge.to_tf_keras(sparse).get_layer("module").weights)
    assert np.abs(inner - before[0]).max() > 1e-4
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.array(weight), old)


def test_text_goes_in(tmp_path):
    """A lookup table is not a variable; it travels with the module, and with a file that contains it."""

    class Words(tf.Module):
        def __init__(self):
            super().__init__()
            words = tf.lookup.KeyValueTensorInitializer(["cat", "dog"], [1.0, 2.0])
            self.table = tf.lookup.StaticHashTable(words, 0.0)

        @tf.function(input_signature=[tf.TensorSpec((None, 1), tf.string)])
        def __call__(self, x):
            return self.table.lookup(x)

    tf.saved_model.save(Words(), str(tmp_path / "words"))
    with pytest.raises(ModelError, match="has no trainable variables"):
        hub_layer(tmp_path / "words")
    model, x = hub_layer(tmp_path / "words", trainable=False), tf.constant([["dog"], ["cow"]])
    np.testing.assert_array_equal(model.predict(x, verbose=0), [[2.0], [0.0]])
    model.save(tmp_path / "words.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "words.keras").predict(x, verbose=0), [[2.0], [0.0]]
    )


def test_what_has_no_gradient_is_frozen(tmp_path):
    kernel = variable("kernel", 4, 3)
    folder = saved(tmp_path / "net", lambda x: tf.math.floor(space(x) @ kernel), [kernel])
    with pytest.raises(ModelError, match=r"no gradient reaches its variables.*Floor.*trainable=False"):
        hub_layer(folder)
    module = open_hub(folder)
    assert not module.model.trainable_weights
    assert any("cannot be trained: no gradient" in note for note in module.notes)


def test_a_fixed_batch_is_a_limit_of_the_saved_model(tmp_path):
    module = open_hub(saved(tmp_path / "net", wavy, [HEAD], shape=(2, *SHAPE)))
    assert any("2 samples at a time" in note for note in module.notes)
    assert module.model.predict(drawn(2, *SHAPE), verbose=0).shape == (2, 3)


# TF1


def test_a_tf1_module_is_for_inference(shared):
    folder = shared / "models" / "hub" / "tf1_half_plus_two.tar.gz"
    with pytest.raises(ModelError, match=r"cannot be trained: it has the TF1 format.*trainable=False"):
        hub_layer(folder)
    with pytest.raises(ModelError, match="does not state the shape of its inputs; pass"):
        hub_layer(folder, trainable=False)
    module = open_hub(folder, input_shape=(1,))
    assert not module.native
    assert any("TF1" in note for note in module.notes)
    assert not module.model.trainable_weights
    x = np.float32([[1.0], [2.0], [10.0]])
    np.testing.assert_allclose(module.model.predict(x, verbose=0), x / 2 + 2)


def test_a_tf1_module_of_known_operations_is_rebuilt(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, (None, *SHAPE), name="x")
        kernel = tf.compat.v1.get_variable("conv/weights", initializer=drawn(3, 3, 4, 2), use_resource=True)
        session.run(tf.compat.v1.global_variables_initializer())
        y = tf.nn.relu(conv(x, kernel))
        tf.compat.v1.saved_model.simple_save(session, str(tmp_path / "old"), {"x": x}, {"y": y})
    module = open_hub(tmp_path / "old", trainable=True)
    assert module.native
    assert [layer.name for layer in module.model.layers if layer.trainable_weights] == ["conv"]
    batch = drawn(3, *SHAPE)
    np.testing.assert_allclose(np.asarray(module.model(batch)), tf.nn.relu(conv(batch, drawn(3, 3, 4, 2))), atol=1e-5)


# Where modules come from


def packed(archive, folder, name="net"):
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=name)
    return archive


def test_an_archive_is_unpacked(tmp_path):
    folder = saved(tmp_path / "net", small_net, SMALL)
    for name in ("net", "."):
        module = open_hub(packed(tmp_path / "small.tar.gz", folder, name))
        assert module.native
        assert module.model.name == "small"
        assert module.fingerprint == open_hub(folder).fingerprint


def test_a_handle_is_found_in_the_cache(tmp_path, monkeypatch):
    handle = "https://tfhub.dev/nobody/net/1"
    saved(tmp_path / hashlib.sha1(handle.encode()).hexdigest(), small_net, SMALL)
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    assert open_hub(handle).model.name == "net"


def test_a_handle_without_network_names_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # with no server
    with pytest.raises(
        ModelError, match=r"needs the network.*cache.*TFHUB_CACHE_DIR.*folder or \.tar\.gz instead"
    ) as told:
        open_hub("https://tfhub.dev/x/y/1")
    assert str(tmp_path / "cache") in str(told.value)


def write(path, content=b"nothing"):
    path.write_bytes(content)
    return path


def broken(tmp_path):
    archive = packed(tmp_path / "broken.tar.gz", saved(tmp_path / "net", small_net, SMALL))
    return write(archive, archive.read_bytes()[:2000])


def escaping(tmp_path):
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as tar:
        tar.add(write(tmp_path / "file"), arcname="../outside")
    return tmp_path / "bad.tar.gz"


def linked(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    return packed(tmp_path / "bad.tar.gz", tmp_path / "link")


def two(tmp_path):
    for name in "ab":
        (tmp_path / "both" / name).mkdir(parents=True)
        write(tmp_path / "both" / name / "saved_model.pb")
    return tmp_path / "both"


def damaged(tmp_path):
    folder = saved(tmp_path / "net", small_net, SMALL)
    write(folder / "saved_model.pb", (folder / "saved_model.pb").read_bytes()[:500])
    return folder


def without_function(tmp_path):
    module = tf.Module()
    module.weight = tf.Variable(1.0)
    tf.saved_model.save(module, str(tmp_path / "net"))
    return tmp_path / "net"


def with_code(tmp_path):
    return saved(tmp_path / "net", lambda x: tf.py_function(lambda y: y, [x], tf.float32))


def with_two_inputs(tmp_path):
    class Two(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 4)), tf.TensorSpec((None, 4))])
        def __call__(self, a, b):
            return a + b

    tf.saved_model.save(Two(), str(tmp_path / "net"))
    return tmp_path / "net"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda tmp_path: 3, "path of a folder or .tar.gz file, or as a handle.*got int"),
        (lambda tmp_path: tmp_path / "nowhere", "no such folder or file; give the folder"),
        (lambda tmp_path: tmp_path, "holds no saved_model.pb, neither directly nor one folder down"),
        (two, "holds several modules: a, b. Give one of them"),
        (lambda tmp_path: write(tmp_path / "text.txt"), r"is not a complete \.tar\.gz archive"),
        (broken, r"is not a complete \.tar\.gz archive"),
        (escaping, "holds '../outside', which is not a file or lies outside"),
        (linked, "holds 'net', which is not a file"),
        (damaged, "cannot be loaded"),
        (without_function, "cannot be called with one tensor and has no signature"),
        (with_code, "contains code that tfopt does not run from files: the operation EagerPyFunc"),
        (with_two_inputs, r"takes the inputs \['a', 'b'\]; expected one tensor.*save that as \.keras"),
    ],
)
def test_what_is_not_a_module_gets_an_error_that_names_what_is_expected(tmp_path, make, words):
    with pytest.raises(ModelError, match=words):
        open_hub(make(tmp_path))


def test_an_archive_that_swells_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tfopt.models.hub.handle.HARMLESS_BYTES", 2**16)
    archive = packed(tmp_path / "bad.tar.gz", write(tmp_path / "zeros", bytes(2**20)))
    with pytest.raises(ModelError, match=r"would grow from .* to 1,048,576 bytes when unpacked"):
        open_hub(archive)


def test_of_several_outputs_the_main_one_is_taken(tmp_path):
    main = saved(tmp_path / "main", lambda x: {"default": space(x) @ HEAD, "logits": x}, [HEAD])
    x = drawn(2, *SHAPE)
    np.testing.assert_allclose(np.asarray(hub_layer(main)(x)), space(x) @ HEAD, atol=1e-6)
    with pytest.raises(ModelError, match=r"gives 2 outputs: a, b; expected one tensor\..*save that as \.keras"):
        open_hub(saved(tmp_path / "net", lambda x: {"a": x, "b": x}))


def test_an_unknown_package(tmp_path):
    with pytest.raises(ModelError, match="The package must be 'keras' or 'tf_keras'; got 'torch'"):
        open_hub(tmp_path, package="torch")


@pytest.mark.slow
def test_importing_it_loads_no_tensorflow_and_the_door_leaves_no_trace():
    code = """
import os, sys
from tfopt.base import keras_compat
from tfopt.base.annotations import annotations
import tfopt.models.hub
assert not {"tensorflow", "keras", "tf_keras", "tensorflow_hub"} & set(sys.modules)
import tensorflow as tf, keras
before = dict(os.environ)
assert keras_compat.hub().__name__ == "tensorflow_hub"
assert dict(os.environ) == before
assert tf.keras.__version__.startswith("3.")
"""
    environment = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def module_of_raw_operations(tmp_path_factory):
    """A SavedModel whose variables Keras does not know."""
    folder = tmp_path_factory.mktemp("hub") / "raw"

    class Raw(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable(drawn(3, 3, 2, 6, seed=1), name="conv/kernel")
            self.bias = tf.Variable(drawn(6, seed=2), name="conv/bias")

        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 2), tf.float32, name="x")])
        def __call__(self, x):
            x = tf.nn.bias_add(tf.nn.conv2d(x, self.kernel, 1, "SAME"), self.bias)
            return tf.reduce_mean(tf.nn.relu(x), [1, 2])

    tf.saved_model.save(Raw(), str(folder))
    return folder


@pytest.fixture(scope="module")
def module_of_layers(tmp_path_factory):
    api = keras_compat.tf_keras()
    api.utils.set_random_seed(3)
    layers = api.layers
    net = api.Sequential([
        api.Input((8, 8, 2)), layers.Conv2D(6, 3, name="conv"), layers.BatchNormalization(name="norm"), layers.ReLU(),
        layers.GlobalAveragePooling2D(),
    ])  # fmt: skip
    folder = tmp_path_factory.mktemp("hub") / "layers"
    net.save(folder, save_format="tf")
    return folder


def with_module(folder, form, trainable=True):
    """A tf_keras model with a `hub.KerasLayer` in the middle, in a Sequential, a graph, or a model within."""
    api, hub = keras_compat.tf_keras(), keras_compat.hub()
    api.utils.set_random_seed(1)
    layer, layers = hub.KerasLayer(str(folder), trainable=trainable, name="module"), api.layers
    head = layers.Dense(3, name="head")
    if form == "Sequential":
        return api.Sequential([api.Input((8, 8, 2)), layers.Rescaling(0.5), layer, head])
    inputs = api.Input((8, 8, 2))
    inner = layer(layers.Rescaling(0.5)(inputs))
    if form == "nested":
        return api.Sequential([api.Input((8, 8, 2)), api.Model(inputs, inner), head])
    return api.Model(inputs, [head(inner), layers.Dense(2, name="other")(inner)])


@pytest.mark.parametrize("form", ["Sequential", "graph", "nested"])
@pytest.mark.parametrize("kind", ["layers", "raw"])
def test_a_module_inside_a_model_becomes_native_layers(module_of_layers, module_of_raw_operations, kind, form):
    model = with_module(module_of_layers if kind == "layers" else module_of_raw_operations, form)
    for variable in model.trainable_variables:  # as after training: not the weights of the folder
        variable.assign(variable + 0.1 * drawn(*variable.shape, seed=7))
    x = drawn(5, 8, 8, 2, seed=4)
    expected, before = model(x, training=False), [w.copy() for w in model.get_weights()]
    native = with_native_layers(model)
    for one, other in zip(tf.nest.flatten(expected), tf.nest.flatten(native(x, training=False)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    found = [type(layer).__name__ for layer in native._flatten_layers()]
    assert "Conv2D" in found and "KerasLayer" not in found
    assert all((one == other).all() for one, other in zip(before, model.get_weights(), strict=True))


def test_stages_and_files_reach_the_module_inside_a_model(module_of_layers, tmp_path):
    model = with_module(module_of_layers, "Sequential")
    stage = Prune(final_sparsity=0.5)
    wrapped = stage.apply(model, steps=2)
    x = drawn(32, 8, 8, 2, seed=4)
    wrapped.compile("adam", "mse")
    wrapped.fit(x, np.zeros((32, 3)), batch_size=16, epochs=1, verbose=0, callbacks=stage.callbacks())
    stripped = stage.strip(wrapped)
    kernels = [
        layer.get_weights()[0] for layer in stripped._flatten_layers() if type(layer).__name__ in ("Conv2D", "Dense")
    ]
    assert [kernel.shape for kernel in kernels] == [(3, 3, 2, 6), (6, 3)]
    assert all(np.mean(kernel == 0) >= 0.49 for kernel in kernels)
    lite = tfopt.export_tflite(model, tmp_path / "model.tflite", tfopt.Export(), representative_data=x)
    assert not lite.float_tensors()
    np.testing.assert_allclose(lite.predict(x), model.predict(x, verbose=0), atol=0.1)


@pytest.mark.parametrize("form", ["Sequential", "graph", "nested"])
@pytest.mark.parametrize("name", ["m.h5", "m.keras"])
def test_a_saved_model_with_a_module_loads_on_request_as_native_layers(module_of_layers, tmp_path, form, name):
    model = with_module(module_of_layers, form)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1 * drawn(*variable.shape, seed=7))
    model.save(tmp_path / name)
    with pytest.raises(models.UnsafeFileError, match=rf"the TF-Hub module '{module_of_layers}' in a hub.KerasLayer"):
        models.load_model(tmp_path / name)
    x = drawn(5, 8, 8, 2, seed=4)
    expected = tf.nest.flatten(model(x, training=False))
    classes = {"KerasLayer": keras_compat.hub().KerasLayer}
    for loaded in (
        model_from(tmp_path / name, allow_unsafe=True),
        with_native_layers(models.load_model(tmp_path / name, custom_objects=classes)),
    ):
        found = [type(layer).__name__ for layer in loaded._flatten_layers()]
        assert "Conv2D" in found and "KerasLayer" not in found
        for one, other in zip(expected, tf.nest.flatten(loaded(x, training=False)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_run_says_that_a_module_became_layers(module_of_layers):
    model = with_module(module_of_layers, "Sequential", trainable=False)
    source = model_from(model)
    assert any("'module' as native layers" in note for note in annotations(source).notes)
    frozen = [layer for layer in source._flatten_layers() if type(layer).__name__ == "Conv2D"]
    assert len(frozen) == 1 and not frozen[0].trainable and source.get_layer("head").trainable


def test_a_module_inside_a_model_that_cannot_be_rebuilt_is_named(tmp_path):
    class Odd(tf.Module):
        def __init__(self):
            super().__init__()
            self.weight = tf.Variable(drawn(2, 2), name="weight")

        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 2), tf.float32, name="x")])
        def __call__(self, x):
            return tf.reduce_mean(tf.math.bessel_i0(x @ self.weight), [1, 2])

    tf.saved_model.save(Odd(), str(tmp_path / "odd"))
    model = with_module(tmp_path / "odd", "graph")
    with pytest.raises(ModelError, match=r"TF-Hub layer 'module' cannot be rebuilt .*BesselI0"):
        Prune().apply(model, steps=2)
