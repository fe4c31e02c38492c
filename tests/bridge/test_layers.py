"""Every layer that both Keras versions have: the twin gives equal outputs, there and back, with random weights."""

import numpy as np
import pytest

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.bridge import layers as table
from tfopt.bridge import twins
from tfopt.errors import ModelError

VECTOR, SERIES, IMAGE, VOLUME = (6,), (8, 4), (8, 8, 4), (6, 6, 6, 2)

ACTIVATIONS = [
    "linear", "relu", "relu6", "softmax", "sigmoid", "tanh", "elu", "selu",
    "softplus", "softsign", "exponential", "gelu", "mish", "log_softmax", "silu", "hard_sigmoid",
    "hard_silu", "leaky_relu", "log_sigmoid", "hard_tanh", "celu", "squareplus", "tanh_shrink", "soft_shrink",
    "hard_shrink",
]  # fmt: skip

# class, arguments, input shape without the batch axis
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
    ("Identity", {}, VECTOR),
    ("Masking", {"mask_value": 1.0}, SERIES),
    ("AlphaDropout", {"rate": 0.5}, VECTOR),
    ("SimpleRNN", {"units": 3, "return_sequences": True}, SERIES),
    ("LSTM", {"units": 3, "recurrent_activation": "hard_sigmoid", "dropout": 0.1}, SERIES),
    ("LSTM", {"units": 3, "go_backwards": True, "unit_forget_bias": False, "activation": "relu"}, SERIES),
    ("GRU", {"units": 3, "return_sequences": True}, SERIES),
    ("GRU", {"units": 3, "reset_after": False, "unroll": True, "recurrent_dropout": 0.1}, SERIES),
    ("ConvLSTM1D", {"filters": 2, "kernel_size": 3}, (4, 6, 2)),
    ("ConvLSTM2D", {"filters": 2, "kernel_size": 3, "padding": "same", "return_sequences": True}, (3, 5, 5, 2)),
    ("ConvLSTM3D", {"filters": 2, "kernel_size": 2}, (3, 4, 4, 4, 1)),
    ("Discretization", {"bin_boundaries": [-1.0, 0.0, 0.5]}, VECTOR),
    ("Discretization", {"bin_boundaries": [-1.0, 0.5], "output_mode": "one_hot"}, (1,)),
    ("Discretization", {"bin_boundaries": [-1.0, 0.5], "output_mode": "one_hot"}, VECTOR),
    ("Discretization", {"bin_boundaries": [-1.0, 0.5], "output_mode": "one_hot"}, SERIES),
]
# function of the package that makes the layer; input shape
WRAPPING = {
    "RNN": (lambda k: k.layers.RNN(k.layers.LSTMCell(3), return_sequences=True), SERIES),
    "SimpleRNNCell": (lambda k: k.layers.RNN(k.layers.SimpleRNNCell(3)), SERIES),
    "LSTMCell": (lambda k: k.layers.RNN(k.layers.LSTMCell(3), go_backwards=True), SERIES),
    "GRUCell": (lambda k: k.layers.RNN(k.layers.GRUCell(3)), SERIES),
    "StackedRNNCells": (
        lambda k: k.layers.RNN([k.layers.GRUCell(3), k.layers.LSTMCell(2), k.layers.GRUCell(4)]),
        SERIES,
    ),
    "Bidirectional": (lambda k: k.layers.Bidirectional(k.layers.LSTM(3, return_sequences=True)), SERIES),
    "Bidirectional, two kinds": (
        lambda k: k.layers.Bidirectional(
            k.layers.GRU(3), backward_layer=k.layers.GRU(3, activation="relu", go_backwards=True), merge_mode="sum"
        ),
        SERIES,
    ),
    "TimeDistributed": (lambda k: k.layers.TimeDistributed(k.layers.BatchNormalization(axis=-1)), (3, 4, 4, 2)),
    "TimeDistributed, Sequential": (
        lambda k: k.layers.TimeDistributed(
            k.Sequential([k.Input((6, 6, 2)), k.layers.Conv2D(3, 3), k.layers.BatchNormalization(), k.layers.Flatten()])
        ),
        (3, 6, 6, 2),
    ),
    "TimeDistributed, nested models": (
        lambda k: k.layers.TimeDistributed(
            k.Sequential([k.Input((4,)), k.Sequential([k.Input((4,)), k.layers.Dense(3)]), k.layers.Dense(2)])
        ),
        SERIES,
    ),
}
MERGES = ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"]


def random_weights(model, rng):
    """Positive, so that they can serve as variances too."""
    model.set_weights([rng.uniform(0.2, 1.0, w.shape).astype(w.dtype) for w in model.get_weights()])


def there_and_back(model, *arrays):
    flat_model = bridge.to_tf_keras(model)
    back = bridge.to_keras(flat_model, model)
    x = list(arrays) if len(arrays) > 1 else arrays[0]
    expected = np.asarray(model(x, training=False))
    np.testing.assert_allclose(np.asarray(flat_model(x, training=False)), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(back(x, training=False)), expected)
    for ours, theirs in zip(back.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return flat_model


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


@pytest.mark.slow
@pytest.mark.parametrize("name", WRAPPING)
def test_layers_around_layers_have_equal_twins(name):
    import keras

    rng = np.random.default_rng(1)
    layer, shape = WRAPPING[name]
    model = keras.Sequential([keras.Input(shape), layer(keras)])
    random_weights(model, rng)
    flat_model = there_and_back(model, rng.normal(size=(3, *shape)).astype("float32"))
    assert type(flat_model.layers[-1]).__name__ == type(model.layers[-1]).__name__


def test_recurrent_states_go_in_and_out():
    import keras

    rng = np.random.default_rng(1)
    inputs = keras.Input(SERIES)
    _, h, c = keras.layers.LSTM(3, return_state=True)(inputs)
    x = keras.layers.LSTM(3, return_sequences=True)(inputs, initial_state=[h, c])
    forward = keras.layers.Bidirectional(keras.layers.GRU(2, return_state=True))(x)
    model = keras.Model(inputs, keras.layers.Concatenate()(list(forward)))
    random_weights(model, rng)
    there_and_back(model, rng.normal(size=(3, *SERIES)).astype("float32"))


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ({}, {}),
        ({"use_bias": False, "value_dim": 5, "output_shape": 6}, {}),
        ({}, {"use_causal_mask": True}),
    ],
)
def test_multi_head_attention_has_equal_twin(arguments, call):
    import keras

    rng = np.random.default_rng(1)
    a, b = keras.Input((5, 8)), keras.Input((7, 8))
    layer = keras.layers.MultiHeadAttention(2, 3, **arguments)
    model = keras.Model([a, b], layer(a, b, **call))
    random_weights(model, rng)
    flat_model = there_and_back(model, *(rng.normal(size=(3, n, 8)).astype("float32") for n in (5, 7)))
    assert type(flat_model.layers[-1]).__name__ == "MultiHeadAttention"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Attention", {"use_scale": True}),
        ("Attention", {"score_mode": "concat"}),
        ("AdditiveAttention", {"use_scale": True}),
    ],
)
def test_attention_has_equal_twin(name, arguments):
    import keras

    rng = np.random.default_rng(1)
    a, b = keras.Input((5, 8)), keras.Input((7, 8))
    model = keras.Model([a, b], getattr(keras.layers, name)(**arguments)([a, b]))
    random_weights(model, rng)
    flat_model = there_and_back(model, *(rng.normal(size=(3, n, 8)).astype("float32") for n in (5, 7)))
    assert type(flat_model.layers[-1]).__name__ == name


def test_embedding_has_equal_twin():
    import keras

    model = keras.Sequential([keras.Input((5,), dtype="int32"), keras.layers.Embedding(7, 3)])
    there_and_back(model, np.arange(15, dtype="int32").reshape(3, 5) % 7)


@pytest.mark.slow
@pytest.mark.parametrize("after", ["LSTM", "Bidirectional", "MultiHeadAttention", "GlobalAveragePooling1D"])
def test_masks_are_passed_on(after):
    """What follows the first 0 of a sentence has no influence."""
    import keras

    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(9, 4, mask_zero=True)(inputs)
    if after == "MultiHeadAttention":
        x = keras.layers.GlobalAveragePooling1D()(keras.layers.MultiHeadAttention(2, 3)(x, x))
    elif after == "Bidirectional":
        x = keras.layers.Bidirectional(keras.layers.LSTM(3))(x)
    else:
        x = getattr(keras.layers, after)(*([3] if after == "LSTM" else []))(x)
    model = keras.Model(inputs, x)
    random_weights(model, np.random.default_rng(2))
    short, long = np.array([[3, 5, 2, 0, 0]], "int32"), np.array([[3, 5, 2]], "int32")
    flat_model = there_and_back(model, np.array([[3, 5, 2, 0, 0], [1, 2, 3, 4, 5]], "int32"))
    np.testing.assert_allclose(flat_model(short), flat_model(long), atol=1e-5)
    assert not any(bridge.plans.is_carried(layer) for layer in flat_model.layers)
    again = keras.Model.from_config(model.get_config())  # Keras 3 writes the masks of a rebuilt model as operations
    assert {row.how for row in bridge.crossings(again)} == {"same"}


TEXTS = {
    "StringLookup": ({"vocabulary": ["cat", "dog", "emu"], "num_oov_indices": 2}, "string", ["dog", "cow", "emu"]),
    "IntegerLookup": ({"vocabulary": [7, 9, 42], "output_mode": "multi_hot"}, "int64", [42, 1, 7]),
    "TextVectorization": (
        {"vocabulary": ["the", "cat", "sat"], "output_sequence_length": 4},
        "string",
        ["The cat sat.", "a CAT!", "dog"],
    ),
    "Hashing": ({"num_bins": 5, "salt": 3}, "string", ["dog", "cow", "emu"]),
    "CategoryEncoding": ({"num_tokens": 4, "output_mode": "one_hot"}, "int32", [0, 3, 1]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_lookups_and_encodings_have_equal_twins(name):
    import keras
    import tensorflow as tf

    arguments, dtype, values = TEXTS[name]
    model = keras.Sequential([keras.Input((1,), dtype=dtype), getattr(keras.layers, name)(**arguments)])
    there_and_back(model, tf.constant([[value] for value in values], dtype))


def test_adapted_vocabulary_is_carried():
    import keras
    import tensorflow as tf

    layer = keras.layers.StringLookup()
    layer.adapt(["b", "b", "a", "b", "a", "c"])  # 0 is unknown; the others are sorted by frequency
    model = keras.Sequential([keras.Input((1,), dtype="string"), layer])
    flat_model = there_and_back(model, tf.constant([["c"], ["?"]]))
    np.testing.assert_array_equal(flat_model(tf.constant([["b"], ["a"], ["c"], ["?"]])), [[1], [2], [3], [0]])


def test_adapted_discretization_is_carried():
    import keras

    layer = keras.layers.Discretization(num_bins=4)
    layer.adapt(np.arange(100, dtype="float32"))
    model = keras.Sequential([keras.Input((1,)), layer])
    flat_model = there_and_back(model, np.array([[10.0], [40.0], [60.0], [90.0]], "float32"))
    np.testing.assert_array_equal(flat_model(np.array([[10.0], [40.0], [60.0], [90.0]])), [[0], [1], [2], [3]])


def test_adapted_lookup_of_tf_keras_keeps_its_vocabulary():
    import tensorflow as tf

    tf_keras = keras_compat.tf_keras()
    layer = tf_keras.layers.StringLookup()
    layer.adapt(["b", "b", "a"])
    inputs = tf_keras.Input((1,), dtype="string")
    model = tf_keras.Model(inputs, layer(inputs))
    flat = bridge.to_tf_keras(model)
    for flat_model in (flat, bridge.to_keras(flat, model)):
        np.testing.assert_array_equal(flat_model(tf.constant([["b"], ["a"], ["?"]])), [[1], [2], [0]])


def test_flags_of_layers_inside_of_layers_are_carried():
    import keras

    inputs = keras.Input(SERIES)
    attention = keras.layers.MultiHeadAttention(2, 3)
    both = keras.layers.Bidirectional(keras.layers.LSTM(3))
    model = keras.Model(inputs, both(attention(inputs, inputs)))
    attention._query_dense.trainable = False
    both.backward_layer.trainable = False
    both.forward_layer.cell.trainable = False
    flat = bridge.to_tf_keras(model)
    assert sorted(tuple(w.shape) for w in flat.trainable_weights) == sorted(
        tuple(w.shape) for w in model.trainable_weights
    )
    assert len(flat.non_trainable_weights) == 2 + 3 + 3
    bridge.to_keras(bridge.clone(flat), model)


def test_hashed_crossing_has_equal_twin():
    import keras
    import tensorflow as tf

    inputs = keras.Input((1,), dtype="string"), keras.Input((1,), dtype="string")
    model = keras.Model(inputs, keras.layers.HashedCrossing(11)(inputs))
    there_and_back(model, tf.constant([["a"], ["b"]]), tf.constant([["x"], ["y"]]))


def test_every_layer_of_the_table_is_tested():
    tested = {name for name, _, _ in SINGLE} | {*MERGES, *WRAPPING, *TEXTS, "Dot", "Embedding", "HashedCrossing"}
    tested |= {"MultiHeadAttention", "Attention", "AdditiveAttention"}
    assert set(twins.SAME_NAME) <= tested


def test_adapted_normalization_keeps_its_statistics():
    import keras

    data = np.array([[0.0, 10.0], [4.0, 30.0]], "float32")  # mean 2, 20; variance 4, 100
    layer = keras.layers.Normalization()
    layer.adapt(data)
    model = keras.Sequential([keras.Input((2,)), layer])
    flat_model = there_and_back(model, data)
    np.testing.assert_allclose(flat_model(data).numpy(), [[-1, -1], [1, 1]], atol=1e-5)


def test_hard_sigmoid_is_that_of_keras_3():
    import keras

    model = keras.Sequential([keras.Input((5,)), keras.layers.Activation("hard_sigmoid")])
    x = np.array([[-4.0, -1.5, 0.0, 1.2, 4.0]], "float32")
    expected = [[0.0, 0.25, 0.5, 0.7, 1.0]]  # clip((x + 3) / 6, 0, 1); Keras 2 gives 0.2 for -1.5
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
    flat_model = bridge.to_tf_keras(keras.Sequential([keras.Input((3,)), *layers]))
    dense, norm, drop = (flat_model.get_layer(name) for name in "dbo")
    assert type(dense.kernel_initializer).__name__ == "RandomNormal"
    assert dense.kernel_initializer.stddev == 0.3
    assert (float(dense.kernel_regularizer.l1), float(dense.kernel_regularizer.l2)) == pytest.approx((0.1, 0.2))
    assert float(dense.bias_regularizer.l2) == pytest.approx(0.01)  # the default of both Keras versions
    assert (dense.kernel_constraint.max_value, dense.kernel_constraint.axis) == (2.0, 0)
    assert (norm.momentum, norm.epsilon, norm.trainable) == (0.7, 0.02, False)
    assert (drop.rate, drop.seed) == (0.3, 5)


@pytest.mark.parametrize("make", [np.asarray, np.ndarray.tolist, "tensor"])
def test_an_initializer_may_hold_an_array(make):
    """As the matrix of word vectors in Keras's own examples."""
    import keras

    vectors = np.arange(15, dtype="float32").reshape(5, 3)
    start = keras.initializers.Constant(keras.ops.convert_to_tensor(vectors) if make == "tensor" else make(vectors))
    words = keras.layers.Embedding(5, 3, embeddings_initializer=start, trainable=False, name="words")
    flat_model = bridge.to_tf_keras(keras.Sequential([keras.Input((2,), dtype="int32"), words]))
    twin = flat_model.get_layer("words")
    np.testing.assert_array_equal(twin.get_weights()[0], vectors)
    np.testing.assert_array_equal(twin.embeddings_initializer((5, 3), "float32"), vectors)


def test_batch_normalization_learns_the_same_statistics():
    import keras

    x = np.random.default_rng(0).normal(2, 3, (16, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(momentum=0.8)])
    flat_model = bridge.to_tf_keras(model)
    flat_model(x, training=True)
    _, _, mean, variance = flat_model.get_weights()
    np.testing.assert_allclose(mean, 0.2 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, 0.8 + 0.2 * x.var(0), rtol=1e-5)
    model(x, training=True)
    for ours, theirs in zip(flat_model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_dropout_stays_alive():
    import keras

    flat_model = bridge.to_tf_keras(keras.Sequential([keras.Input((1000,)), keras.layers.Dropout(0.5)]))
    out = flat_model(np.ones((1, 1000), "float32"), training=True).numpy()
    assert 300 < np.count_nonzero(out == 0) < 700


def test_quantized_layer_is_refused():
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="q")])
    model.quantize("int8")
    with pytest.raises(ModelError, match="already quantized"):
        bridge.to_tf_keras(model)


def test_mixed_precision_becomes_float32():
    import keras

    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, dtype="mixed_float16"), keras.layers.Dense(2, dtype="float32")]
    )
    flat_model = bridge.to_tf_keras(model)
    assert [layer.compute_dtype for layer in flat_model.layers] == ["float32"] * 3
    for ours, theirs in zip(bridge.to_keras(flat_model, model).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_double_precision_becomes_float32(package):
    import keras

    api = keras if package == "keras" else keras_compat.tf_keras()
    inputs = api.Input((4, 4, 2), dtype="float64")
    made = api.layers.BatchNormalization(dtype="float64")(api.layers.Conv2D(3, 3, dtype="float64")(inputs))
    model = api.Model(inputs, api.layers.Flatten(dtype="float64")(made * 2.0))
    flat_model = bridge.to_tf_keras(model)
    assert {tensor.dtype.name for tensor in (*flat_model.inputs, *flat_model.outputs)} == {"float32"}
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 2))
    np.testing.assert_allclose(flat_model.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


def test_self_check_catches_a_wrong_twin(monkeypatch):
    import keras

    true_twin = table._translate

    def wrong(layer, accepted):
        config = true_twin(layer, accepted)
        return {**config, "alpha": 0.9} if type(layer).__name__ == "LeakyReLU" else config

    monkeypatch.setattr(table, "_translate", wrong)
    layers = [keras.layers.Dense(4), keras.layers.LeakyReLU(name="leak"), keras.layers.Dense(2)]
    with pytest.raises(
        ModelError, match=r"First difference: layer 'leak' \(LeakyReLU\) at 'leak', by up to \d.*allowed: 0.0001"
    ):
        bridge.to_tf_keras(keras.Sequential([keras.Input((3,)), *layers]))


def test_batch_normalization_of_images_learns_nearly_the_same_variance():
    """tf_keras's fused kernel divides by n - 1, Keras 3 by n; here n = 4 * 8 * 8 = 256."""
    import keras

    x = np.random.default_rng(0).normal(2, 3, (4, 8, 8, 2)).astype("float32")
    model = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.BatchNormalization(momentum=0.8)])
    flat_model = bridge.to_tf_keras(model)
    flat_model(x, training=True)
    model(x, training=True)
    variance = x.var((0, 1, 2))
    np.testing.assert_allclose(flat_model.get_weights()[2], model.get_weights()[2], rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[3], 0.8 + 0.2 * variance, rtol=1e-4)
    np.testing.assert_allclose(flat_model.get_weights()[3], 0.8 + 0.2 * variance * 256 / 255, rtol=1e-4)


def test_a_virtual_batch_size_is_refused():
    layers, inputs = keras_compat.tf_keras().layers, keras_compat.tf_keras().Input((8,))
    model = keras_compat.tf_keras().Model(inputs, layers.BatchNormalization(virtual_batch_size=4, name="norm")(inputs))
    with pytest.raises(ModelError, match=r"layer 'norm'.*virtual_batch_size=4.*Build it without.*set_weights"):
        bridge.to_tf_keras(model)
