"""Operations of keras.ops, and of TensorFlow in tf_keras graphs, become native layers or are carried."""

import numpy as np
import pytest

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.bridge import operations
from tfopt.errors import ModelError

IMAGE = (6, 6, 4)
ONES = np.arange(1, 5, dtype="float32")

# operation on x (and a second tensor y of the same shape), NumPy equivalent, class of the tf_keras layer
NATIVE = {
    "Add": (lambda o, x, y: x + y, lambda x, y: x + y, "Add"),
    "Add, number": (lambda o, x, y: 3 + x, lambda x, y: 3 + x, "Rescaling"),
    "Add, array": (lambda o, x, y: x + ONES, lambda x, y: x + ONES, "Rescaling"),
    "Subtract": (lambda o, x, y: x - y, lambda x, y: x - y, "Subtract"),
    "Subtract, from number": (lambda o, x, y: 2.5 - x, lambda x, y: 2.5 - x, "Rescaling"),
    "Multiply": (lambda o, x, y: x * y, lambda x, y: x * y, "Multiply"),
    "Multiply, array": (lambda o, x, y: x * ONES, lambda x, y: x * ONES, "Rescaling"),
    "TrueDivide": (lambda o, x, y: x / 4, lambda x, y: x / 4, "Rescaling"),
    "Divide": (lambda o, x, y: o.divide(x, 4.0), lambda x, y: x / 4, "Rescaling"),
    "Negative": (lambda o, x, y: -x, lambda x, y: -x, "Rescaling"),
    "Square": (lambda o, x, y: o.square(x), lambda x, y: x * x, "Multiply"),
    "Maximum": (lambda o, x, y: o.maximum(x, y), np.maximum, "Maximum"),
    "Maximum, 0": (lambda o, x, y: o.maximum(x, 0.0), lambda x, y: np.maximum(x, 0), "ReLU"),
    "Minimum": (lambda o, x, y: o.minimum(x, y), np.minimum, "Minimum"),
    "Clip": (lambda o, x, y: o.clip(x, 0, 2), lambda x, y: np.clip(x, 0, 2), "ReLU"),
    "Relu": (lambda o, x, y: o.relu(x), lambda x, y: np.maximum(x, 0), "ReLU"),
    "Relu6": (lambda o, x, y: o.relu6(4 * x), lambda x, y: np.clip(4 * x, 0, 6), "ReLU"),
    "LeakyRelu": (lambda o, x, y: o.leaky_relu(x, 0.3), lambda x, y: np.where(x > 0, x, 0.3 * x), "LeakyReLU"),
    "Elu": (lambda o, x, y: o.elu(x, 0.5), lambda x, y: np.where(x > 0, x, 0.5 * (np.exp(x) - 1)), "ELU"),
    "Softmax": (
        lambda o, x, y: o.softmax(x, axis=-1),
        lambda x, y: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
        "Softmax",
    ),
    "Gelu": (
        lambda o, x, y: o.gelu(x),
        lambda x, y: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        "Activation",
    ),
    "Sigmoid": (lambda o, x, y: o.sigmoid(x), lambda x, y: 1 / (1 + np.exp(-x)), "Activation"),
    "Tanh": (lambda o, x, y: o.tanh(x), lambda x, y: np.tanh(x), "Activation"),
    "Silu": (lambda o, x, y: o.silu(x), lambda x, y: x / (1 + np.exp(-x)), "Activation"),
    "HardSilu": (lambda o, x, y: o.hard_silu(x), lambda x, y: x * np.clip(x + 3, 0, 6) / 6, "Activation"),
    "HardSigmoid": (lambda o, x, y: o.hard_sigmoid(x), lambda x, y: np.clip(x + 3, 0, 6) / 6, "Activation"),
    "Softplus": (lambda o, x, y: o.softplus(x), lambda x, y: np.log1p(np.exp(x)), "Activation"),
    "Softsign": (lambda o, x, y: o.softsign(x), lambda x, y: x / (1 + np.abs(x)), "Activation"),
    "Selu": (
        lambda o, x, y: o.selu(x),
        lambda x, y: 1.05070098 * np.where(x > 0, x, 1.67326324 * (np.exp(x) - 1)),
        "Activation",
    ),
    "Exp": (lambda o, x, y: o.exp(x), lambda x, y: np.exp(x), "Activation"),
    "LogSigmoid": (lambda o, x, y: o.log_sigmoid(x), lambda x, y: -np.log1p(np.exp(-x)), "Activation"),
    "Concatenate": (lambda o, x, y: o.concatenate([x, y], -1), lambda x, y: np.concatenate([x, y], -1), "Concatenate"),
    "Reshape": (lambda o, x, y: o.reshape(x, (-1, 9, 16)), lambda x, y: x.reshape(-1, 9, 16), "Reshape"),
    "ExpandDims": (lambda o, x, y: o.expand_dims(x, 1), lambda x, y: x[:, None], "Reshape"),
    "Squeeze": (lambda o, x, y: o.squeeze(o.expand_dims(x, 2), 2), lambda x, y: x, "Reshape"),
    "Transpose": (lambda o, x, y: o.transpose(x, (0, 3, 1, 2)), lambda x, y: x.transpose(0, 3, 1, 2), "Permute"),
    "Mean": (lambda o, x, y: o.mean(x, (1, 2)), lambda x, y: x.mean((1, 2)), "GlobalAveragePooling2D"),
    "Max": (
        lambda o, x, y: o.max(x, (1, 2), keepdims=True),
        lambda x, y: x.max((1, 2), keepdims=True),
        "GlobalMaxPooling2D",
    ),
    "Amax": (lambda o, x, y: o.amax(x, (-2, -3)), lambda x, y: x.max((1, 2)), "GlobalMaxPooling2D"),
    "MaxPool": (
        lambda o, x, y: o.max_pool(x, 2),
        lambda x, y: x.reshape(-1, 3, 2, 3, 2, 4).max((2, 4)),
        "MaxPooling2D",
    ),
    "AveragePool": (
        lambda o, x, y: o.average_pool(x, 2),
        lambda x, y: x.reshape(-1, 3, 2, 3, 2, 4).mean((2, 4)),
        "AveragePooling2D",
    ),
    "Pad": (
        lambda o, x, y: o.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))),
        lambda x, y: np.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))),
        "ZeroPadding2D",
    ),
}
CARRIED = {
    "matmul": (lambda o, x, y: o.matmul(x, y), lambda x, y: x @ y),
    "einsum": (lambda o, x, y: o.einsum("bijc,bijd->bcd", x, y), lambda x, y: np.einsum("bijc,bijd->bcd", x, y)),
    "slice": (lambda o, x, y: x[:, 1:, ::2, 0], lambda x, y: x[:, 1:, ::2, 0]),
    "where": (lambda o, x, y: o.where(x > 0, x, y), lambda x, y: np.where(x > 0, x, y)),
    "stack": (lambda o, x, y: o.stack([x, y], 1), lambda x, y: np.stack([x, y], 1)),
    "sum": (lambda o, x, y: o.sum(x, -1), lambda x, y: x.sum(-1)),
    "mean of channels": (lambda o, x, y: o.mean(x, -1), lambda x, y: x.mean(-1)),
    "divide": (lambda o, x, y: x / (2 + o.abs(y)), lambda x, y: x / (2 + np.abs(y))),
    "split": (lambda o, x, y: o.split(x, 2, -1)[1], lambda x, y: x[..., 2:]),
    "wider array": (lambda o, x, y: x[..., :1] + ONES, lambda x, y: x[..., :1] + ONES),
    "cast": (lambda o, x, y: o.cast(o.cast(x, "int32"), "float32"), lambda x, y: np.trunc(x)),
    "roll the batch": (lambda o, x, y: o.roll(x, 1, 0), lambda x, y: np.roll(x, 1, 0)),
}


def of(build):
    import keras

    x, y = keras.Input((6, 4, 4), name="x"), keras.Input((6, 4, 4), name="y")
    return keras.Model([x, y], build(keras.ops, x, y))


def there_and_back(model, expected, shape):
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 2, (2, 3, *shape)).astype("float32")
    flat = bridge.to_tf_keras(model)
    for flat_model in (flat, bridge.clone(flat)):
        np.testing.assert_allclose(flat_model([x, y]), expected(x, y), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(bridge.to_keras(flat, model)([x, y]), expected(x, y), rtol=2e-5, atol=2e-5)
    return flat


@pytest.mark.parametrize("name", NATIVE)
def test_operation_becomes_a_layer(name):
    import keras

    build, expected, layer = NATIVE[name]
    x, y = keras.Input(IMAGE, name="x"), keras.Input(IMAGE, name="y")
    flat = there_and_back(keras.Model([x, y], build(keras.ops, x, y)), expected, IMAGE)
    assert type(flat.layers[-1]).__name__ == layer
    assert not any(bridge.plans.is_carried(each) for each in flat.layers)


@pytest.mark.parametrize("name", CARRIED)
def test_other_operations_are_carried(name):
    build, expected = CARRIED[name]
    flat = there_and_back(of(build), expected, (6, 4, 4))
    assert any(bridge.plans.is_carried(each) for each in flat.layers)


def test_every_operation_of_the_table_is_tested():
    assert set(operations._TABLE) == {name.partition(",")[0] for name in NATIVE}


def test_broadcasting_over_an_axis():
    import keras

    x, y = keras.Input((5, 5, 3), name="x"), keras.Input((1, 1, 3), name="y")
    model = keras.Model([x, y], [x * y, x - y, keras.ops.maximum(x, y)])
    a, b = np.random.default_rng(0).normal(size=(2, 5, 5, 3)), np.random.default_rng(1).normal(size=(2, 1, 1, 3))
    a, b = a.astype("float32"), b.astype("float32")
    flat = bridge.to_tf_keras(model)
    assert {type(layer).__name__ for layer in flat.layers} == {"InputLayer", "Multiply", "Subtract", "Maximum"}
    for got, expected in zip(flat([a, b]), (a * b, a - b, np.maximum(a, b)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_integers_stay_integers():
    import keras

    x = keras.Input((3,), dtype="int32")
    flat = bridge.to_tf_keras(keras.Model(x, keras.ops.cast(x * 3 + 1, "int32")))
    got = flat(np.array([[1, 2, 3]], "int32"))
    assert got.dtype == "int32"
    np.testing.assert_array_equal(got, [[4, 7, 10]])


def test_a_model_of_operations_called_twice_gives_each_call_its_layer():
    import keras

    a = keras.Input((4,))
    inner = keras.Model(a, keras.layers.Dense(4, name="d")(keras.ops.relu(a) + 1), name="inner")
    x = keras.Input((4,))
    model = keras.Model(x, inner(inner(x)))
    flat = bridge.to_tf_keras(model)
    names = [layer.name for layer in flat.layers]
    assert len(names) == len(set(names)) == 6  # input, 2 x (ReLU, Rescaling), one Dense
    values = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    np.testing.assert_allclose(flat(values), model(values), atol=1e-6)


def test_a_mask_ends_at_an_operation():
    """keras.ops drops masks, but tf_keras layers would pass them on to the LSTM."""
    import keras

    x = keras.Input((6,), dtype="int32")
    embedded = keras.layers.Embedding(5, 4, mask_zero=True)(x)
    model = keras.Model(x, keras.layers.LSTM(3)(keras.ops.relu(embedded)))
    values = np.array([[1, 2, 0, 0, 0, 0]], "int32")
    np.testing.assert_allclose(bridge.to_tf_keras(model)(values), model(values), atol=1e-6)


def test_free_axes():
    import keras

    x = keras.Input((None, None, 3))
    y = keras.layers.Conv2D(4, 3, padding="same")(x)
    y = keras.ops.relu6(y + 3) * y / 6
    model = keras.Model(x, keras.ops.mean(y, (1, 2), keepdims=True) * y)
    flat = bridge.to_tf_keras(model)
    for size in (5, 9):
        values = np.random.default_rng(0).normal(size=(2, size, size + 1, 3)).astype("float32")
        np.testing.assert_allclose(flat(values), model(values), atol=1e-6)


def test_a_variable_outside_of_layers_is_refused():
    import keras
    import tensorflow as tf

    x = keras.Input((3,))
    with pytest.raises(ModelError, match=r"Multiply.*variable that belongs to no layer"):
        bridge.to_tf_keras(keras.Model(x, keras.ops.multiply(x, keras.Variable(np.ones(3, "float32")))))
    x = keras_compat.tf_keras().Input((3,))
    with pytest.raises(ModelError, match=r"TFOpLambda.*belongs to no layer"):
        bridge.to_tf_keras(keras_compat.tf_keras().Model(x, x * tf.Variable(2.0)))


def test_tensorflow_functions_in_tf_keras():
    import tensorflow as tf

    tf_keras = keras_compat.tf_keras()
    inputs = tf_keras.Input((6, 6, 4))
    x = tf.nn.relu(inputs)
    x = tf.nn.relu6(x + 3.0) * x / 6.0 - tf.sigmoid(inputs)
    x = 1.0 - tf.maximum(tf.concat([x, inputs], -1), 0.5)
    x = tf.reduce_mean(x[:, 1:, ::2], [1, 2])
    model = tf_keras.Model(inputs, tf.clip_by_value(x, 0.0, 6.0) + 0.1 * x)
    flat = bridge.to_tf_keras(model)
    values = np.random.default_rng(0).normal(0, 2, (3, 6, 6, 4)).astype("float32")
    np.testing.assert_allclose(flat(values), model(values), atol=1e-5)
    np.testing.assert_allclose(bridge.clone(flat)(values), model(values), atol=1e-5)
    np.testing.assert_allclose(bridge.to_keras(flat, model)(values), model(values), atol=1e-5)
    kinds = [type(layer).__name__ for layer in flat.layers]
    for kind in ("ReLU", "Rescaling", "Multiply", "Subtract", "Activation", "Add", "SlicingOpLambda"):
        assert kind in kinds
