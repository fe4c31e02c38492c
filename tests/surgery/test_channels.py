"""Groups of channels, and models without some of them: the same outputs as with zeros in their place."""

import keras
import numpy as np
import pytest

from tfopt import bridge
from tfopt.base.keras_compat import tf_keras
from tfopt.surgery.channels.atoms import FIXED, Atoms
from tfopt.surgery.channels.cut import masked, without_channels
from tfopt.surgery.channels.groups import channels_of

L = keras.layers


def test_union_find():
    atoms = Atoms()
    one, other = atoms.new(3), atoms.new(3)
    atoms.unite(one[:2], other[1:])
    atoms.unite(other[0], FIXED)
    roots = atoms.roots([*one, *other])
    assert roots[0] == roots[4] and roots[1] == roots[5] and roots[3] == FIXED
    assert len(set(roots.tolist())) == 4  # FIXED, two pairs, and the last of `one`


def residual(inputs):
    x = L.Conv2D(6, 3, padding="same", name="stem")(inputs)
    y = L.Conv2D(4, 3, padding="same", use_bias=False, name="inner")(x)
    y = L.ReLU()(L.BatchNormalization(name="norm")(y))
    x = L.Add()([x, L.Conv2D(6, 1, name="outer")(y)])
    return L.Dense(3, name="head")(L.GlobalAveragePooling2D()(x))


def concatenated(inputs):
    a, b = L.Conv2D(4, 3, activation="relu")(inputs), L.Conv2D(6, 3, activation="sigmoid")(inputs)
    x = L.Conv2D(5, 1)(L.Concatenate()([a, b, a]))
    return L.Dense(3)(L.Flatten()(L.MaxPooling2D(2)(x)))


def squeezed(inputs):
    x = L.SeparableConv2D(8, 3)(L.Conv2D(4, 1)(inputs))
    gate = L.Dense(8, "sigmoid")(L.Dense(4, "relu")(L.GlobalAveragePooling2D(keepdims=True)(x)))
    x = L.DepthwiseConv2D(3, depth_multiplier=2)(L.Multiply()([x, gate]))
    return L.Dense(3)(L.GlobalMaxPooling2D()(L.PReLU(shared_axes=[1, 2])(x)))


def grouped(inputs):
    x = L.Conv2D(8, 3, groups=2, padding="same")(L.Conv2D(8, 1)(inputs))
    x = L.Permute((1, 2, 4, 3))(L.Reshape((8, 8, 2, 4))(x))
    x = L.Conv2D(16, 3, groups=8)(L.Reshape((8, 8, 8))(x))
    return L.Dense(3)(L.Flatten()(L.Conv2DTranspose(4, 2)(x)))


def arithmetic(inputs):
    ops = keras.ops
    x = L.Conv2D(8, 3, padding="same")(inputs)
    left, right = ops.split(x, 2, axis=-1)
    x = ops.concatenate([left * ops.sigmoid(right), ops.sqrt(ops.square(left) + 1.0)], axis=-1)
    x = x * np.arange(1, 9, dtype="float32") - ops.mean(x, axis=(1, 2), keepdims=True)
    return L.Dense(3)(ops.sum(x[:, 1:-1, ::2], axis=(1, 2)))


def sequence(inputs):
    x = L.Reshape((8, 24))(inputs)
    x = L.Bidirectional(L.LSTM(4, return_sequences=True))(x)
    x = L.TimeDistributed(L.Dense(6, "relu"))(x)
    return L.Dense(3)(L.GRU(5)(L.Conv1D(7, 3, padding="causal")(x)))


def attentive(inputs):
    x = L.Dense(8)(L.Reshape((8, 24))(inputs))
    x = x + L.MultiHeadAttention(2, 4, value_dim=6)(x, x)
    q, v = L.EinsumDense("abc,cd->abd", output_shape=(8, 6), bias_axes="d")(x), L.Dense(5)(x)
    x = L.Attention()([q, v, L.Dense(6)(x)])
    scores = keras.ops.softmax(keras.ops.matmul(q, keras.ops.transpose(q, (0, 2, 1))))
    return L.Dense(3)(L.Flatten()(keras.ops.concatenate([x, keras.ops.matmul(scores, v)], -1)))


MODELS = [residual, concatenated, squeezed, grouped, arithmetic, sequence, attentive]
SAMPLES = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype("float32")


def built(body):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, body(inputs))
    rng = np.random.default_rng(2)
    for weight in model.weights:  # also biases and statistics
        weight.assign(rng.uniform(0.3, 1, weight.shape) * rng.choice([-1, 1] if "variance" not in weight.name else [1]))
    return model


def some(channels, seed=0):
    """Return about half of the channels of each group."""
    rng = np.random.default_rng(seed)
    return [root for group in channels.groups for root in rng.permutation(group.roots)[: len(group) // 2]]


@pytest.mark.parametrize("body", MODELS, ids=lambda body: body.__name__)
def test_without_channels_is_with_zeros_in_their_place(body):
    model = built(body)
    channels = channels_of(bridge.to_tf_keras(model))
    removed = some(channels)
    assert removed
    small = without_channels(channels, removed, SAMPLES)  # raises if they differ
    assert small.count_params() == channels.parameters(removed) < model.count_params()
    assert channels.macs(removed) < channels.macs()
    back = bridge.to_keras(small, model, resized=True)
    np.testing.assert_allclose(back.predict(SAMPLES, verbose=0), small.predict(SAMPLES, verbose=0), atol=1e-4)
    assert back.count_params() == small.count_params()


@pytest.mark.parametrize("body", MODELS, ids=lambda body: body.__name__)
def test_nothing_is_lost_without_a_removal(body):
    model = built(body)
    same = without_channels(channels_of(bridge.to_tf_keras(model)), [])
    np.testing.assert_allclose(
        same.predict(SAMPLES, verbose=0), model.predict(SAMPLES, verbose=0), rtol=1e-4, atol=1e-4
    )


def test_a_residual_block_by_hand():
    """Stem and outer convolution share their channels; 8 x 8 places."""
    model = built(residual)
    channels = channels_of(bridge.to_tf_keras(model))
    groups = {group.name: len(group) for group in channels.groups}
    assert groups == {"stem + outer": 6, "inner": 4}
    places = 8 * 8
    macs = places * (9 * 3 * 6 + 9 * 6 * 4 + 4 * 6) + 6 * 3
    assert channels.macs() == macs and sum(channels.macs_by_layer().values()) == macs
    removed = [*channels.groups[0].roots[:2], channels.groups[1].roots[3]]
    assert channels.macs(removed) == places * (9 * 3 * 4 + 9 * 4 * 3 + 3 * 4) + 4 * 3
    assert channels.parameters(removed) == (27 * 4 + 4) + 9 * 4 * 3 + 4 * 3 + (3 * 4 + 4) + (4 * 3 + 3)
    # What remains, computed by hand: the other channels of every weight.
    small = without_channels(channels, removed)
    by_name = {layer.name: layer for layer in model.layers}
    stay, inner = [2, 3, 4, 5], [0, 1, 2]
    np.testing.assert_array_equal(small.get_layer("stem").kernel, np.array(by_name["stem"].kernel)[..., stay])
    np.testing.assert_array_equal(
        small.get_layer("inner").kernel, np.array(by_name["inner"].kernel)[:, :, stay][..., inner]
    )
    np.testing.assert_array_equal(small.get_layer("norm").beta, np.array(by_name["norm"].beta)[inner])
    np.testing.assert_array_equal(small.get_layer("head").kernel, np.array(by_name["head"].kernel)[stay])


def test_the_masked_model_has_zeros_and_the_same_shapes():
    channels = channels_of(bridge.to_tf_keras(built(residual)))
    inner = next(group for group in channels.groups if group.name == "inner")
    model = masked(channels, inner.roots[:1])
    kernel = np.array(model.get_layer("inner").kernel)
    assert kernel.shape == (3, 3, 6, 4) and not kernel[..., 0].any() and kernel[..., 1:].all()
    assert not np.array(model.get_layer("outer").kernel)[:, :, 0].any()


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (L.LayerNormalization(), "normalizes over them"),
        (L.RMSNormalization(name="rms"), "'rms' (RMSNormalization) normalizes over them"),
        (L.Softmax(), "reads all of them"),
        (L.Lambda(lambda x: x[..., ::-1], output_shape=(8, 8, 4)), "is not known to treat channels one by one"),
        (L.GroupNormalization(2), "normalizes over them"),
        (L.Activation("softmax"), "applies softmax to all channels"),
    ],
)
def test_barriers_are_named(layer, why):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(layer(L.Conv2D(4, 3, padding="same")(inputs)))))
    channels = channels_of(bridge.to_tf_keras(model))
    assert not channels.groups
    assert any(why in said and count == 4 for said, count in channels.barriers().items())


def test_a_layer_with_weights_and_no_rule_is_named():
    inputs = keras.Input((6, 3))
    x = L.Dense(8, name="wide")(inputs)
    x = L.GroupQueryAttention(4, 4, 2, name="grouped")(x, x)
    barriers = channels_of(bridge.to_tf_keras(keras.Model(inputs, L.Dense(3)(x)))).barriers()
    assert any("'grouped' (GroupedQueryAttention)" in said and count == 8 for said, count in barriers.items())


@pytest.mark.parametrize(("norm", "weight"), [(L.LayerNormalization, "gamma"), (L.RMSNormalization, "scale")])
def test_norms_over_channels_on_request(norm, weight):
    inputs = keras.Input((8, 8, 3))
    x = norm()(L.Conv2D(4, 3, padding="same")(inputs))
    channels = channels_of(bridge.to_tf_keras(keras.Model(inputs, L.Dense(3)(L.Flatten()(x)))), through_norms=True)
    (group,) = channels.groups
    small = without_channels(channels, group.roots[:1])
    assert getattr(small.layers[2], weight).shape == (3,)


def test_shared_layers_and_tf_keras():
    """A layer that is called twice ties the channels of both of its inputs together."""
    layers = tf_keras().layers
    a, b = tf_keras().Input((4,)), tf_keras().Input((4,))
    shared = layers.Dense(5, name="shared")
    ends = [shared(layers.Dense(6, name=name)(x)) for name, x in (("first", a), ("second", b))]
    model = tf_keras().Model([a, b], layers.Dense(2, name="head")(layers.Concatenate()(ends)))
    channels = channels_of(bridge.to_tf_keras(model))
    assert {tuple(sorted(group.layers)): len(group) for group in channels.groups} == {
        ("first", "second"): 6,
        ("shared",): 5,
    }
    samples = [SAMPLES[:, 0, :4, 0], SAMPLES[:, 0, 4:, 0]]
    small = without_channels(channels, some(channels), samples)
    assert small.get_layer("head").kernel.shape == (2 * 3, 2)


def gated(x):
    gate = L.Conv2D(8, 1, activation="sigmoid", name="gate")(x)
    return x * keras.ops.sum(gate, axis=-1, keepdims=True)


def linear_attention(x):
    q, k = (keras.ops.elu(L.Dense(8, name=name)(x)) + 1 for name in ("query", "key"))
    return keras.ops.matmul(q, keras.ops.matmul(keras.ops.transpose(k, (0, 1, 3, 2)), L.Dense(4)(x)))


def added(x):
    return keras.ops.sum(x, axis=-1, keepdims=True)


def both_ways(x):
    return L.Bidirectional(L.LSTM(8, activation="sigmoid", return_sequences=True), name="end")(x)


@pytest.mark.parametrize(
    ("body", "stay"),
    [
        (gated, {"gate"}),
        (linear_attention, {"query", "key"}),
        (lambda x: L.UnitNormalization()(L.Dense(8, "sigmoid", name="end")(x)), {"end"}),
        (lambda x: x / L.Dense(8, name="divisor")(x), {"divisor"}),
        (lambda x: keras.ops.log(L.Dense(8, name="end")(x)), {"end"}),
        (lambda x: L.LSTM(8, activation="softmax", name="end")(L.Reshape((64, 8))(x)), {"end"}),
        (lambda x: added(L.TimeDistributed(L.Dense(8, "sigmoid"), name="end")(x)), {"end"}),
        (lambda x: added(both_ways(L.Reshape((64, 8))(x))), {"end"}),
        (lambda x: added(L.RNN(L.SimpleRNNCell(8, "sigmoid"), name="end")(L.Reshape((64, 8))(x))), {"end"}),
        (lambda x: added(L.Dense(8, "sigmoid", name="end")(x) * L.Dense(1)(x)), {"end"}),
        (lambda x: added(L.Dense(8, name="end")(x) + L.Dense(1)(x)), {"end"}),
        (lambda x: L.Dense(8)(x) // (L.Dense(8, name="end")(x)), {"end"}),
        (lambda x: L.Dense(3)(L.Flatten(data_format="channels_first")(x)), set()),
    ],
)
def test_channels_that_are_not_zero_when_they_are_gone_stay(body, stay):
    """Sigmoid, elu + 1 and the like: a sum over such channels would be another one; log of 0 is none."""
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="stem")(inputs)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(body(x))))
    channels = channels_of(bridge.to_tf_keras(model))
    assert not stay & {name for group in channels.groups for name in group.layers}
    if removed := some(channels):
        without_channels(channels, removed, SAMPLES)


def test_layers_called_on_channels_that_stay_keep_theirs():
    a, b = keras.Input((4,)), keras.Input((6,))
    shared = L.Dense(5, name="shared")
    model = keras.Model([a, b], L.Dense(2)(L.Concatenate()([shared(L.Dense(6, name="first")(a)), shared(b)])))
    channels = channels_of(bridge.to_tf_keras(model))
    assert [group.name for group in channels.groups] == ["shared"]
    without_channels(channels, some(channels), [SAMPLES[:, 0, :4, 0], SAMPLES[:, 0, :6, 1]])


def test_an_attention_called_twice_is_scaled_once():
    inputs = keras.Input((6, 8))
    x, attention = L.Dense(16)(inputs), L.MultiHeadAttention(2, 8)
    model = keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling1D()(attention(attention(x, x), x))))
    channels = channels_of(bridge.to_tf_keras(model))
    without_channels(channels, some(channels), np.random.default_rng(0).normal(size=(4, 6, 8)).astype("float32") * 3)


def test_layers_that_are_not_known_count():
    """A ConvLSTM is left alone; its multiplications are there, about: all kernels at each place."""
    inputs = keras.Input((4, 8, 8, 3))
    x = L.ConvLSTM2D(8, 3, padding="same", name="unknown")(inputs)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Conv2D(16, 1)(x))))
    found = channels_of(bridge.to_tf_keras(model)).macs_by_layer()
    assert found["unknown"] == 8 * 8 * 9 * (3 + 8) * 32


def test_free_sizes_count_as_64():
    inputs = keras.Input((None, None, 3))
    x = L.Conv2D(8, 3, padding="same", strides=2, name="first")(inputs)
    model = keras.Model(inputs, L.Dense(2, name="last")(L.GlobalAveragePooling2D()(x)))
    assert channels_of(bridge.to_tf_keras(model)).macs_by_layer() == {"first": 32 * 32 * 27 * 8, "last": 8 * 2}
