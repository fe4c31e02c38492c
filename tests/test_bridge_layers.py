"""Every layer of the table: the twin gives equal outputs, there and back, with random weights."""

import numpy as np
import pytest

from tfopt import bridge
from tfopt.bridge import layers as table
from tfopt.errors import ModelError

VECTOR, SERIES, IMAGE, VOLUME = (6,), (8, 4), (8, 8, 4), (6, 6, 6, 2)

ACTIVATIONS = [
    "linear", "relu", "relu6", "softmax", "sigmoid", "tanh", "elu", "selu",
    "softplus", "softsign", "exponential", "gelu", "mish", "log_softmax", "silu", "hard_sigmoid",
    "hard_silu", "leaky_relu", "log_sigmoid", "hard_tanh", "celu", "squareplus", "tanh_shrink", "soft_shrink",
    "hard_shrink",
]  # fmt: skip

# class, arguments, shape of an input without the batch axis
SINGLE = [
    ("Dense", {"units": 3, "activation": "relu"}, VECTOR),
    ("Dense", {"units": 3, "use_bias": False, "activation": "softmax"}, IMAGE),
    ("EinsumDense", {"equation": "abc,cd->abd", "output_shape": (None, 5), "bias_axes": "d"}, SERIES),
    ("Conv1D", {"filters": 3, "kernel_size": 3, "padding": "causal", "dilation_rate": 2}, SERIES),
    ("Conv2D", {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same", "groups": 2}, IMAGE),
    ("Conv2D", {"filters": 3, "kernel_size": (1, 3), "dilation_rate": (1, 2), "use_bias": False}, IMAGE),
    ("Conv3D", {"filters": 3, "kernel_size": 2, "activation": "tanh"}, VOLUME),
    ("Conv1DTranspose", {"filters": 3, "kernel_size": 3, "strides": 2}, SERIES),
    ("Conv2DTranspose", {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same"}, IMAGE),
    ("Conv3DTranspose", {"filters": 2, "kernel_size": 2}, VOLUME),
    ("DepthwiseConv1D", {"kernel_size": 3, "depth_multiplier": 2}, SERIES),
    ("DepthwiseConv2D", {"kernel_size": 3, "depth_multiplier": 2, "strides": 2, "padding": "same"}, IMAGE),
    ("SeparableConv1D", {"filters": 3, "kernel_size": 3}, SERIES),
    ("SeparableConv2D", {"filters": 3, "kernel_size": 3, "depth_multiplier": 2}, IMAGE),
    ("BatchNormalization", {"momentum": 0.9, "epsilon": 0.1}, IMAGE),
    ("BatchNormalization", {"center": False}, VECTOR),
    ("BatchNormalization", {"scale": False, "axis": 1}, SERIES),
    ("LayerNormalization", {"epsilon": 0.1}, SERIES),
    ("GroupNormalization", {"groups": 2}, IMAGE),
    ("UnitNormalization", {}, SERIES),
    *[(f"{kind}Pooling1D", {"pool_size": 3, "padding": "same"}, SERIES) for kind in ("Max", "Average")],
    *[(f"{kind}Pooling2D", {"pool_size": (3, 2), "strides": 2}, IMAGE) for kind in ("Max", "Average")],
    *[(f"{kind}Pooling3D", {"pool_size": 2}, VOLUME) for kind in ("Max", "Average")],
    *[(f"Global{kind}Pooling1D", {}, SERIES) for kind in ("Max", "Average")],
    *[(f"Global{kind}Pooling2D", {"keepdims": True}, IMAGE) for kind in ("Max", "Average")],
    *[(f"Global{kind}Pooling3D", {}, VOLUME) for kind in ("Max", "Average")],
    ("ZeroPadding1D", {"padding": (1, 2)}, SERIES),
    ("ZeroPadding2D", {"padding": ((0, 1), (2, 0))}, IMAGE),
    ("ZeroPadding3D", {"padding": 1}, VOLUME),
    ("Cropping1D", {"cropping": 1}, SERIES),
    ("Cropping2D", {"cropping": ((1, 0), (0, 2))}, IMAGE),
    ("Cropping3D", {"cropping": 1}, VOLUME),
    ("UpSampling1D", {"size": 2}, SERIES),
    ("UpSampling2D", {"size": (2, 3)}, IMAGE),
    ("UpSampling2D", {"interpolation": "bilinear"}, IMAGE),
    ("UpSampling3D", {}, VOLUME),
    ("Flatten", {}, IMAGE),
    ("Reshape", {"target_shape": (16, -1)}, IMAGE),
    ("Permute", {"dims": (2, 1)}, SERIES),
    ("RepeatVector", {"n": 3}, VECTOR),
    ("Dropout", {"rate": 0.5, "seed": 3}, VECTOR),
    ("SpatialDropout1D", {"rate": 0.5}, SERIES),
    ("SpatialDropout2D", {"rate": 0.5}, IMAGE),
    ("SpatialDropout3D", {"rate": 0.5}, VOLUME),
    ("GaussianNoise", {"stddev": 0.5}, VECTOR),
    ("GaussianDropout", {"rate": 0.5}, VECTOR),
    ("ActivityRegularization", {"l2": 0.1}, VECTOR),
    ("ReLU", {}, VECTOR),
    ("ReLU", {"max_value": 1.0, "negative_slope": 0.1, "threshold": 0.2}, VECTOR),
    ("LeakyReLU", {"negative_slope": 0.1}, VECTOR),
    ("ELU", {"alpha": 0.5}, VECTOR),
    ("PReLU", {"shared_axes": [1, 2]}, IMAGE),
    ("Softmax", {"axis": 1}, SERIES),
    ("Rescaling", {"scale": 0.5, "offset": -1.0}, IMAGE),
    ("Normalization", {"mean": [1.0, 2.0, 3.0, 4.0], "variance": [4.0, 3.0, 2.0, 1.0]}, SERIES),
    ("Resizing", {"height": 5, "width": 11}, IMAGE),
    ("CenterCrop", {"height": 5, "width": 4}, IMAGE),
    ("RandomFlip", {"mode": "horizontal"}, IMAGE),
    ("RandomRotation", {"factor": 0.1}, IMAGE),
    ("RandomZoom", {"height_factor": 0.1}, IMAGE),
    ("RandomTranslation", {"height_factor": 0.1, "width_factor": 0.2}, IMAGE),
    ("RandomContrast", {"factor": 0.1}, IMAGE),
    ("RandomBrightness", {"factor": 0.1}, IMAGE),
    *[("Activation", {"activation": name}, VECTOR) for name in ACTIVATIONS],
]
MERGES = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"]


def random_weights(model, rng):
    """Positive, so that they serve as variances too."""
    model.set_weights([rng.uniform(0.2, 1.0, w.shape).astype(w.dtype) for w in model.get_weights()])


def there_and_back(model, *arrays):
    legacy = bridge.to_tf_keras(model)
    back = bridge.to_keras(legacy, model)
    x = list(arrays) if len(arrays) > 1 else arrays[0]
    expected = np.asarray(model(x, training=False))
    np.testing.assert_allclose(np.asarray(legacy(x, training=False)), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(back(x, training=False)), expected)
    for ours, theirs in zip(back.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return legacy


@pytest.mark.parametrize(("name", "arguments", "shape"), SINGLE, ids=lambda v: str(v).replace(" ", ""))
def test_layer_has_equal_twin(name, arguments, shape):
    import keras

    rng = np.random.default_rng(1)
    model = keras.Sequential([keras.Input(shape), getattr(keras.layers, name)(**arguments)])
    random_weights(model, rng)
    there_and_back(model, rng.normal(0, 2, (3, *shape)).astype("float32"))


@pytest.mark.parametrize("name", MERGES)
def test_merge_has_equal_twin(name):
    import keras

    rng = np.random.default_rng(1)
    inputs = [keras.Input(SERIES), keras.Input(SERIES)]
    model = keras.Model(inputs, getattr(keras.layers, name)()(inputs))
    there_and_back(model, *rng.normal(size=(2, 3, *SERIES)).astype("float32"))


def test_dot_has_equal_twin():
    import keras

    rng = np.random.default_rng(1)
    inputs = [keras.Input(SERIES), keras.Input(SERIES)]
    model = keras.Model(inputs, keras.layers.Dot(axes=(2, 2), normalize=True)(inputs))
    there_and_back(model, *rng.normal(size=(2, 3, *SERIES)).astype("float32"))


def test_embedding_has_equal_twin():
    import keras

    model = keras.Sequential([keras.Input((5,), dtype="int32"), keras.layers.Embedding(7, 3)])
    there_and_back(model, np.arange(15, dtype="int32").reshape(3, 5) % 7)


def test_every_layer_of_the_table_is_tested():
    tested = {name for name, _, _ in SINGLE} | {*MERGES, "Dot", "Embedding"}
    assert set(table.SAME_NAME) == tested


def test_adapted_normalization_keeps_its_statistics():
    import keras

    data = np.array([[0.0, 10.0], [4.0, 30.0]], "float32")  # mean 2, 20; variance 4, 100
    layer = keras.layers.Normalization()
    layer.adapt(data)
    model = keras.Sequential([keras.Input((2,)), layer])
    legacy = there_and_back(model, data)
    np.testing.assert_allclose(legacy(data).numpy(), [[-1, -1], [1, 1]], atol=1e-5)


def test_hard_sigmoid_is_that_of_keras_3():
    import keras

    model = keras.Sequential([keras.Input((5,)), keras.layers.Activation("hard_sigmoid")])
    x = np.array([[-4.0, -1.5, 0.0, 1.2, 4.0]], "float32")
    expected = [[0.0, 0.25, 0.5, 0.7, 1.0]]  # clip((x + 3) / 6, 0, 1); Keras 2 would say 0.2 for -1.5
    np.testing.assert_allclose(bridge.to_tf_keras(model)(x).numpy(), expected, atol=1e-6)


def test_silu_is_called_swish():
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="silu")])
    assert bridge.to_tf_keras(model).layers[-1].get_config()["activation"] == "swish"


def test_relu6_layer_becomes_relu_with_maximum():
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Activation("relu6", name="six")])
    twin = bridge.to_tf_keras(model).get_layer("six")
    assert type(twin).__name__ == "ReLU"
    assert float(twin.max_value) == 6.0


def test_config_is_carried():
    import keras

    layers = [
        keras.layers.Dense(
            4,
            name="d",
            kernel_initializer=keras.initializers.RandomNormal(0.0, 0.3, seed=2),
            kernel_regularizer=keras.regularizers.L1L2(0.1, 0.2),
            bias_regularizer="l2",
            kernel_constraint=keras.constraints.MaxNorm(2.0, axis=0),
        ),
        keras.layers.BatchNormalization(momentum=0.7, epsilon=0.02, name="b", trainable=False),
        keras.layers.Dropout(0.3, seed=5, name="o"),
    ]
    legacy = bridge.to_tf_keras(keras.Sequential([keras.Input((3,)), *layers]))
    dense, norm, drop = (legacy.get_layer(name) for name in "dbo")
    assert type(dense.kernel_initializer).__name__ == "RandomNormal"
    assert dense.kernel_initializer.stddev == 0.3
    assert (float(dense.kernel_regularizer.l1), float(dense.kernel_regularizer.l2)) == pytest.approx((0.1, 0.2))
    assert float(dense.bias_regularizer.l2) == pytest.approx(0.01)  # the default of both Kerases
    assert (dense.kernel_constraint.max_value, dense.kernel_constraint.axis) == (2.0, 0)
    assert (norm.momentum, norm.epsilon, norm.trainable) == (0.7, 0.02, False)
    assert (drop.rate, drop.seed) == (0.3, 5)


def test_batch_normalization_learns_the_same_statistics():
    import keras

    x = np.random.default_rng(0).normal(2, 3, (16, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(momentum=0.8)])
    legacy = bridge.to_tf_keras(model)
    legacy(x, training=True)
    _, _, mean, variance = legacy.get_weights()
    np.testing.assert_allclose(mean, 0.2 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, 0.8 + 0.2 * x.var(0), rtol=1e-5)
    model(x, training=True)
    for ours, theirs in zip(legacy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_dropout_stays_alive():
    import keras

    legacy = bridge.to_tf_keras(keras.Sequential([keras.Input((1000,)), keras.layers.Dropout(0.5)]))
    out = legacy(np.ones((1, 1000), "float32"), training=True).numpy()
    assert 300 < np.count_nonzero(out == 0) < 700


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (lambda k: k.layers.LSTM(3, name="x"), ["'x'", "LSTM", "Supported"]),
        (lambda k: k.layers.Lambda(lambda t: t, name="x"), ["'x'", "Lambda", "replace it"]),
        (lambda k: k.layers.Dense(3, activation=lambda t: t, name="x"), ["'x'", "Dense", "activation", "relu6"]),
        (lambda k: k.layers.LayerNormalization(rms_scaling=True, name="x"), ["'x'", "rms_scaling=True"]),
    ],
)
def test_unknown_layers_are_named(layer, words):
    import keras

    inner = keras.Sequential([keras.Input(SERIES), layer(keras)], name="inner")
    model = keras.Sequential([keras.Input(SERIES), inner])
    with pytest.raises(ModelError) as error:
        bridge.to_tf_keras(model)
    for word in [*words, "'inner/x'"]:
        assert word in str(error.value)


def test_custom_layer_and_custom_regularizer_are_named():
    import keras

    class Doubler(keras.layers.Layer):
        def call(self, x):
            return x * 2

    class Mine(keras.regularizers.Regularizer):
        def __call__(self, x):
            return 0.0

        def get_config(self):
            return {}

    for layer, word in ((Doubler(name="x"), "Doubler"), (keras.layers.Dense(2, kernel_regularizer=Mine()), "Mine")):
        with pytest.raises(ModelError, match=word):
            bridge.to_tf_keras(keras.Sequential([keras.Input((3,)), layer]))


def test_quantized_layer_is_refused():
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="q")])
    model.quantize("int8")
    with pytest.raises(ModelError, match="quantized already"):
        bridge.to_tf_keras(model)


def test_mixed_precision_becomes_float32():
    import keras

    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, dtype="mixed_float16"), keras.layers.Dense(2, dtype="float32")]
    )
    legacy = bridge.to_tf_keras(model)
    assert [layer.compute_dtype for layer in legacy.layers] == ["float32"] * 3
    for ours, theirs in zip(bridge.to_keras(legacy, model).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_self_check_catches_a_wrong_twin(monkeypatch):
    import keras

    true_twin = table._translate

    def wrong(layer, accepted):
        config = true_twin(layer, accepted)
        return {**config, "alpha": 0.9} if type(layer).__name__ == "LeakyReLU" else config

    monkeypatch.setattr(table, "_translate", wrong)
    layers = [keras.layers.Dense(4), keras.layers.LeakyReLU(name="leak"), keras.layers.Dense(2)]
    with pytest.raises(
        ModelError, match=r"First to differ: layer 'leak' \(LeakyReLU\) at 'leak', by up to \d.*allowed: 0.0001"
    ):
        bridge.to_tf_keras(keras.Sequential([keras.Input((3,)), *layers]))


def test_batch_normalization_of_images_learns_nearly_the_same_variance():
    """tf_keras's fused kernel divides by n - 1, Keras 3 by n; here n = 4 * 8 * 8 = 256."""
    import keras

    x = np.random.default_rng(0).normal(2, 3, (4, 8, 8, 2)).astype("float32")
    model = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.BatchNormalization(momentum=0.8)])
    legacy = bridge.to_tf_keras(model)
    legacy(x, training=True)
    model(x, training=True)
    variance = x.var((0, 1, 2))
    np.testing.assert_allclose(legacy.get_weights()[2], model.get_weights()[2], rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[3], 0.8 + 0.2 * variance, rtol=1e-4)
    np.testing.assert_allclose(legacy.get_weights()[3], 0.8 + 0.2 * variance * 256 / 255, rtol=1e-4)
