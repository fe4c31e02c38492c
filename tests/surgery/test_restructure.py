"""restructure: architectures in other sizes.

Expected shapes come from the same network written by hand in that size, from keras.applications, or from counting by
hand.
"""

import keras
import numpy as np
import pytest

from tfopt import load_model
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError
from tfopt.graph.walk import walk
from tfopt.surgery.classifier import classifier
from tfopt.surgery.depth import repeatable_blocks
from tfopt.surgery.restructure import restructure
from tfopt.surgery.widths import scaled_width, target_shape
from tfopt.transfer.parameters import transfer_weights

APIS = {"keras": keras, "tf_keras": tf_keras()}


@pytest.fixture(params=APIS)
def api(request):
    return APIS[request.param]


def shapes(model):
    return [tuple(weight.shape) for weight in model.weights]


def residual(api, *, size=(16, 16, 3), widths=(16, 32), blocks=(2, 1), classes=4, nested=False, names=None):
    """A small ResNet; `names[stage]` names its blocks if they are not numbered from 1."""
    layers = api.layers

    def norm(x, name):
        return layers.BatchNormalization(name=f"{name}_norm")(x)

    def block(x, filters, name, strides=1):
        y = norm(layers.Conv2D(filters, 3, strides, padding="same", use_bias=False, name=f"{name}_a")(x), f"{name}_a")
        y = layers.ReLU(name=f"{name}_a_relu")(y)
        y = norm(layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"{name}_b")(y), f"{name}_b")
        if strides != 1 or x.shape[-1] != filters:
            x = norm(layers.Conv2D(filters, 1, strides, use_bias=False, name=f"{name}_short")(x), f"{name}_short")
        return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))

    def body(x):
        x = layers.ReLU(name="stem_relu")(norm(layers.Conv2D(widths[0], 3, padding="same", name="stem")(x), "stem"))
        for stage, (filters, count) in enumerate(zip(widths, blocks, strict=True)):
            if stage:
                x = block(x, filters, f"s{stage}_down", 2)
            given = names[stage] if names else [f"s{stage}_{number + 1}" for number in range(count)]
            for name in given:
                x = block(x, filters, name)
        return layers.GlobalAveragePooling2D(name="pool")(x)

    inputs = x = api.Input(size)
    if nested:
        inner = api.Input(size)
        x = api.Model(inner, body(inner), name="body")(x)
    else:
        x = body(x)
    return api.Model(inputs, layers.Dense(classes, activation="softmax", name="head")(x), name="residual")


def images(size=(16, 16, 3)):
    return np.random.default_rng(2).normal(size=(2, *size)).astype("float32")


def test_mobilenet_is_the_one_of_that_alpha(api):
    make = api.applications.MobileNet
    large, small = (
        make(weights=None, input_shape=(64, 64, 3)),
        make(weights=None, alpha=0.25, classes=5, input_shape=(96, 96, 1)),
    )
    made = restructure(large, width=0.25, classes=5, input_shape=(96, 96, 1))
    assert made.count_params() == small.count_params()
    assert shapes(made) == shapes(small)
    assert [layer.name for layer in made.layers] == [layer.name for layer in large.layers]
    assert made.output_shape == (None, 5)
    assert isinstance(made, api.Model)
    np.testing.assert_allclose(np.sum(made(images((96, 96, 1)), training=False), axis=1), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"), [("MobileNetV2", {"alpha": 0.35}), ("MobileNetV3Small", {"alpha": 0.75}), ("VGG16", {})]
)
def test_another_input_and_other_classes(api, name, arguments):
    """VGG16 has Flatten, MobileNetV3 operations and channel attention, MobileNetV2 paddings."""
    make = getattr(api.applications, name)
    if name == "MobileNetV3Small":
        arguments = {**arguments, "include_preprocessing": False}
    source = make(weights=None, input_shape=(32, 32, 3), **arguments)
    made = restructure(source, input_shape=(64, 96, 1), classes=7)
    assert shapes(made) == shapes(make(weights=None, input_shape=(64, 96, 1), classes=7, **arguments))


@pytest.mark.slow
def test_width_of_a_small_network_written_twice(api):
    made = restructure(residual(api, widths=(32, 64)), width=0.5)
    assert shapes(made) == shapes(residual(api, widths=(16, 32)))
    assert shapes(restructure(residual(api), width=0.6)) == shapes(residual(api, widths=(16, 24)))  # 9.6 and 19.2
    assert shapes(restructure(residual(api), width=0.6, divisor=1)) == shapes(residual(api, widths=(10, 19)))
    wider = restructure(residual(api), width=2, classes=9, input_shape=(8, 8, 1))
    assert shapes(wider) == shapes(residual(api, widths=(32, 64), classes=9))[:0] + shapes(
        residual(api, size=(8, 8, 1), widths=(32, 64), classes=9)
    )


def test_nested_and_sequential_models_come_back_flat(api):
    made = restructure(residual(api, nested=True), width=0.5, depth=2)
    assert sorted(shapes(made)) == sorted(shapes(residual(api, widths=(8, 16), blocks=(4, 2))))
    layers = api.layers

    def chain(size, filters, units):
        parts = [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten()]
        return api.Sequential([api.Input(size), *parts, layers.Dense(units, activation="relu"), layers.Dense(3)])

    made = restructure(chain((12, 12, 3), 16, 32), width=0.5, input_shape=(20, 20, 1))
    assert shapes(made) == shapes(chain((20, 20, 1), 8, 16))


def test_layers_around_layers_are_scaled(api):
    layers = api.layers

    def model(units):
        inputs = api.Input((6, 4))
        x = layers.Bidirectional(layers.LSTM(units, return_sequences=True))(inputs)
        x = layers.TimeDistributed(layers.Dense(units))(x)
        x = layers.RNN(layers.GRUCell(units))(layers.ReLU()(x))
        return api.Model(inputs, layers.Dense(3)(x))

    assert shapes(restructure(model(16), width=0.5)) == shapes(model(8))


def test_the_answer_of_a_time_distributed_layer(api):
    inputs = api.Input((6, 4))
    x = api.layers.LSTM(8, return_sequences=True)(inputs)
    model = api.Model(inputs, api.layers.TimeDistributed(api.layers.Dense(3, activation="softmax"))(x))
    assert restructure(model, classes=5, width=2).output_shape == (None, 6, 5)


@pytest.mark.parametrize("width", [16, 24, 32, 40, 64, 96, 144, 160, 320, 960, 1280])
def test_scaled_width_is_that_of_mobilenet_v2(width):
    from keras.src.applications.mobilenet_v2 import _make_divisible

    for factor in (0.1, 0.25, 0.35, 0.5, 0.75, 1.3, 1.4):
        assert scaled_width(width, factor, 8) == _make_divisible(width * factor, 8)


@pytest.mark.parametrize(
    ("width", "factor", "divisor", "expected"),
    [(4, 0.5, 8, 4), (3, 2, 8, 8), (10, 2, 8, 24), (12, 0.5, 8, 8), (100, 0.333, 1, 33), (64, 0.01, 8, 8)],
)
def test_scaled_width_by_hand(width, factor, divisor, expected):
    assert scaled_width(width, factor, divisor) == expected


def test_weights_depend_on_the_seed_alone(api):
    model = residual(api, widths=(16, 16), blocks=(2, 1))
    one, again, other = (restructure(model, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(one.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = {
        f"{which}/{layer.name}": layer.get_weights()[0].ravel()[:100].tobytes()
        for which, made in (("given", model), ("one", one), ("other", other))
        for layer in made.layers
        if layer.name.endswith(("_a", "_b"))
    }
    assert len(kernels) == 24
    assert len(set(kernels.values())) == len(kernels)  # no two layers start equal


def test_weights_are_drawn_for_the_new_shape(api):
    inputs = api.Input((64,))
    model = api.Model(inputs, api.layers.Dense(10)(api.layers.Dense(640, name="wide")(inputs)))
    kernel = restructure(model, width=0.1).get_layer("wide").get_weights()[0]
    assert kernel.shape == (64, 64)
    limit = np.sqrt(6 / (64 + 64))  # Glorot & Bengio 2010, eq. 16
    assert 0.95 * limit < np.abs(kernel).max() <= limit


def test_a_seed_in_the_config_does_not_tie_layers(api):
    start = api.initializers.GlorotUniform(seed=5)
    inputs = api.Input((8,))
    x = api.layers.Dense(8, kernel_initializer=start, name="a")(inputs)
    model = api.Model(inputs, api.layers.Dense(8, kernel_initializer=start, name="b")(x))
    a, b = (restructure(model).get_layer(name).get_weights()[0] for name in "ab")
    assert (a != b).any()


def test_the_model_given_stays_as_it_is(api):
    model = residual(api)
    model.get_layer("stem").trainable = False
    before, nodes = model.get_weights(), [len(layer._inbound_nodes) for layer in model.layers]
    made = restructure(model, width=0.5, depth=2, classes=3)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    assert not set(map(id, made.layers)) & set(map(id, model.layers))
    assert not made.get_layer("stem").trainable
    assert made.get_layer("head").trainable


def test_depth_of_a_small_network_written_twice(api):
    """The computation too is the same, with the weights of the network written by hand, layer by layer."""
    made = restructure(residual(api), depth=2)
    names = [["s0_1", "s0_2", "s0_2_repeat1", "s0_2_repeat2"], ["s1_1", "s1_1_repeat1"]]
    by_hand = residual(api, blocks=(4, 2), names=names)
    rng = np.random.default_rng(0)
    by_hand.set_weights([rng.uniform(0.1, 0.5, shape) for shape in shapes(by_hand)])
    for layer in by_hand.layers:
        if layer.weights:
            own = layer.name
            if "repeat" in own:  # the suffix follows the whole name
                number = own[own.index("_repeat") :][:8]
                own = own.replace(number, "") + number
            made.get_layer(own).set_weights(layer.get_weights())
    assert made.count_params() == by_hand.count_params()
    np.testing.assert_allclose(made(images(), training=False), by_hand(images(), training=False), rtol=1e-4)


@pytest.mark.slow
def test_blocks_are_left_out(api):
    source = residual(api, blocks=(4, 2))
    made = restructure(source, depth=0.5)
    by_hand = residual(api, blocks=(2, 1))
    assert shapes(made) == shapes(by_hand)
    assert [layer.name for layer in made.layers[1:]] == [layer.name for layer in by_hand.layers[1:]]
    by_hand = transfer_weights(source, by_hand).model
    filled = transfer_weights(source, made)
    assert filled.counts["skipped"] == 0
    np.testing.assert_allclose(filled.model(images(), training=False), by_hand(images(), training=False), rtol=1e-4)
    assert shapes(restructure(source, depth=0.01)) == shapes(residual(api, blocks=(1, 1)))  # of several, one stays
    assert shapes(restructure(residual(api, blocks=(3, 1)), depth=0.4)) == shapes(residual(api, blocks=(1, 0)))


def test_resnet8_of_mlperf_tiny(shared):
    """Only its first stage has a block without a projection; two more of it are 2 x 4,768 - 2 x 64 parameters."""
    model = load_model(shared / "models" / "resnet8_cifar10.h5")
    (stage,) = repeatable_blocks(model, 3)
    assert (stage.shape, len(stage.blocks), stage.count) == ((32, 32, 16), 1, 3)
    assert str(stage) == "32 x 32 x 16: 1 -> 3 blocks like conv2d_1 ... activation_2"
    made = restructure(model, depth=3)
    block = 2 * (3 * 3 * 16 * 16 + 16) + 2 * 4 * 16  # two convolutions with bias, two BatchNorms
    assert made.count_params() == model.count_params() + 2 * block
    assert {"conv2d_1_repeat1", "conv2d_1_repeat2", "conv2d_2_repeat2", "activation_2_repeat2"} <= {
        layer.name for layer in made.layers
    }
    assert made.output_shape == (None, 10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("MobileNet", [1, 1, 5, 1]),  # Howard et al. 2017, table 1
        ("MobileNetV2", [1, 2, 3, 2, 2]),  # Sandler et al. 2018, table 2: n - 1 of each stage keep the shape
        ("ResNet50", [2, 3, 5, 2]),  # He et al. 2016, table 1, without the first of each stage
        ("ResNet50V2", [1, 2, 4, 2]),  # likewise, and the last block of each stage has strides (keras.applications)
        ("EfficientNetB0", [1, 1, 2, 2, 3]),  # Tan & Le 2019, table 1, likewise
        ("DenseNet121", []),  # every layer adds channels
    ],
)
def test_blocks_of_known_networks(name, blocks):
    model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3))
    stages = repeatable_blocks(model)
    assert [len(stage.blocks) for stage in stages] == blocks
    ends = ("_add", "_out", "_relu")  # but not a normalization that belongs to what follows
    assert all(block[-1].endswith(ends) for stage in stages for block in stage.blocks)


def transformer(api, depth, before=True):
    layers = api.layers
    inputs = api.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8)(inputs)
    for _ in range(depth):
        for part in (layers.MultiHeadAttention(2, 4), api.Sequential([layers.Dense(16, "gelu"), layers.Dense(8)])):
            y = layers.LayerNormalization()(x) if before else x
            x = layers.Add()([x, part(y, y) if "Attention" in type(part).__name__ else part(y)])
            x = x if before else layers.LayerNormalization()(x)
    x = layers.LayerNormalization()(x) if before else x
    return api.Model(inputs, layers.Dense(3, "softmax")(layers.GlobalAveragePooling1D()(x)))


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["norm before", "norm behind"])
@pytest.mark.parametrize("depth", [1, 2])
def test_attention_and_mlp_are_one_block(api, depth, before):
    model = transformer(api, depth, before)
    (stage,) = repeatable_blocks(model, 2)
    assert (len(stage.blocks), stage.count) == (depth, 2 * depth)
    assert shapes(restructure(model, depth=2)) == shapes(transformer(api, 2 * depth, before))
    assert restructure(model, input_shape=(9,), classes=2).output_shape == (None, 2)


def test_what_ends_a_stage_is_in_no_block(api):
    layers = api.layers
    parts = [layer for _ in range(3) for layer in (layers.Dense(8), layers.BatchNormalization(), layers.ReLU())]
    model = chained(api, (4,), *parts, layers.Dropout(0.5), layers.Dense(3))
    (stage,) = repeatable_blocks(model, 2)
    assert [len(block) for block in stage.blocks] == [3, 3]
    made = restructure(model, depth=2)
    kinds = [type(layer).__name__ for layer in made.layers[1:]]
    assert kinds == ["Dense", "BatchNormalization", "ReLU"] * 5 + ["Dropout", "Dense"]


def test_a_layer_that_is_called_twice_is_in_no_block(api):
    inputs = api.Input((8,))
    shared_layer = api.layers.Dense(8, name="shared")
    x = api.layers.Dense(8, name="own")(shared_layer(shared_layer(inputs)))
    model = api.Model(inputs, api.layers.Dense(8, name="head")(x))
    assert [stage.blocks for stage in repeatable_blocks(model)] == [(("own",),)]
    assert shapes(restructure(model, depth=3)) == [(8, 8), (8,)] * 5


def test_normalization_keeps_what_it_was_adapted_to(api):
    def model(size):
        norm = api.layers.Normalization(name="norm")
        norm.adapt(np.array([[[0.0, 10.0]], [[4.0, 30.0]]]).reshape(2, 1, 1, 2))
        return api.Sequential([api.Input(size), norm, api.layers.Flatten(), api.layers.Dense(2)], name="adapted")

    made = restructure(model((1, 1, 2)), input_shape=(3, 3, 2))
    norm = made.get_layer("norm")
    np.testing.assert_allclose(norm(np.array([[[[4.0, 40.0]]]], "float32")).numpy().ravel(), [1, 2], rtol=1e-6)
    with pytest.raises(
        ModelError, match=r"'norm' \(Normalization\).* was adapted to data whose mean has the shape \(2,\)"
    ):
        restructure(model((1, 1, 2)), input_shape=(3, 3, 1))


def test_vocabularies_are_kept(api):
    inputs = api.Input((2,), dtype="string")
    lookup = api.layers.StringLookup(name="words")
    lookup.adapt(np.array(["a", "b", "a"]))
    x = api.layers.Flatten()(api.layers.Embedding(3, 4)(lookup(inputs)))
    made = restructure(api.Model(inputs, api.layers.Dense(2)(x)), classes=3)
    assert made.get_layer("words").get_vocabulary() == ["[UNK]", "a", "b"]


def test_what_was_frozen_stays_frozen(api):
    """Inside a frozen submodel (which in tf_keras freezes everything in it) and inside a layer."""
    body = api.Sequential(
        [api.Input((5, 8)), api.layers.Dense(8, name="a"), api.layers.Dense(8, name="b")], name="body"
    )
    body.trainable = False
    body.get_layer("b").trainable = True
    attention = api.layers.MultiHeadAttention(2, 4, name="attention")
    inputs = api.Input((5, 8))
    x = body(inputs)
    x = attention(x, x)
    model = api.Model(inputs, api.layers.Dense(2, name="head")(x))
    next(iter(attention._flatten_layers(include_self=False, recursive=False))).trainable = False
    made = restructure(model)
    assert sorted(tuple(w.shape) for w in made.trainable_weights) == sorted(
        tuple(w.shape) for w in model.trainable_weights
    )
    assert len(made.trainable_weights) == len(made.weights) - (4 if api is keras else 6)


def ending(api, *parts):
    inputs = x = api.Input((4,))
    for part in (api.layers.Dense(8, activation="relu", name="hidden"), *parts):
        x = part(x)
    return api.Model(inputs, x, name="ending")


def last_activation(model):
    layers = [layer for layer in model.layers if hasattr(layer, "activation") and layer.name != "hidden"]
    return [layer.activation.__name__ for layer in layers]


def test_activation_of_the_classifier(api):
    layers = api.layers
    inline = ending(api, layers.Dense(3, activation="softmax"))
    apart = ending(api, layers.Dense(3), layers.Dropout(0.1), layers.Softmax())
    for given, expected in (("same", "softmax"), ("sigmoid", "sigmoid"), (None, "linear")):
        assert last_activation(restructure(inline, classes=2, activation=given)) == [expected]
    assert last_activation(restructure(apart, classes=2, activation="sigmoid")) == ["linear", "sigmoid"]
    assert restructure(apart, classes=1, activation="sigmoid").output_shape == (None, 1)
    for model in (inline, apart):
        with pytest.raises(ModelError, match="softmax of one output is always 1: pass activation='sigmoid'"):
            restructure(model, classes=1)


def test_the_classifier_keeps_its_width(api):
    layers = api.layers
    assert shapes(restructure(ending(api, layers.Dense(16)), width=2)) == [(4, 16), (16,), (16, 16), (16,)]
    body = ending(api, layers.Dense(16, activation="relu"))
    apart = ending(api, layers.Dense(16), layers.ReLU())
    for model in (body, apart):
        assert shapes(restructure(model, width=2)) == [(4, 16), (16,), (16, 32), (32,)]  # features, not a classifier
    with pytest.raises(ModelError, match="'ending' ends in features, not in a classifier"):
        restructure(body, classes=3)
    with pytest.raises(ModelError, match="'ending' ends in features"):
        restructure(ending(api, layers.Dense(16), layers.BatchNormalization()), classes=3)


def test_squeezenet_answers_through_relu_and_pooling(api):
    """Its classifier is a convolution before a ReLU, pooled, with a softmax (Iandola et al. 2016)."""
    inputs = api.Input((8, 8, 3))
    x = api.layers.Conv2D(8, 3, activation="relu")(inputs)
    x = api.layers.GlobalAveragePooling2D()(api.layers.Conv2D(10, 1, activation="relu", name="answer")(x))
    model = api.Model(inputs, api.layers.Activation("softmax")(x))
    assert [leaf.path for leaf in classifier(walk(model)).heads] == ["answer"]
    assert shapes(restructure(model, width=2, classes=4)) == [(3, 3, 3, 16), (16,), (1, 1, 16, 4), (4,)]


def test_answers_that_are_added_or_put_side_by_side(api):
    inputs = api.Input((4,))
    parts = [api.layers.Dense(3, name=name)(inputs) for name in ("one", "two")]
    assert restructure(api.Model(inputs, api.layers.Add()(parts)), classes=5, width=2).output_shape == (None, 5)
    joined = api.Model(inputs, api.layers.Concatenate(name="join")(parts))
    with pytest.raises(ModelError, match=r"combined by layer 'join' \(Concatenate\)"):
        restructure(joined, classes=5)
    assert restructure(joined, width=2).output_shape == (None, 6)
    with pytest.raises(ModelError, match=r"need a model with one output; .* has 2"):
        restructure(api.Model(inputs, parts), classes=5)


@pytest.mark.parametrize(
    ("given", "made", "now", "expected"),
    [
        ((1, 1, 10), (10,), (1, 1, 4), (-1,)),  # flattens
        ((4, 4, 8), (128,), (2, 2, 8), (-1,)),
        ((8,), (1, 1, 8), (4,), (1, 1, 4)),  # carries the channels
        ((4, 4, 8), (16, 8), (4, 4, 6), (16, 6)),
        ((4, 4, 8), (16, 8), (6, 5, 8), (-1, 8)),
        ((None, None, 8), (None, 8), (None, None, 4), (-1, 4)),
        ((4, 4, 8), (2, 2, 32), (4, 4, 8), (2, 2, 32)),  # as before
        ((4, 4, 8), (2, 2, 32), (4, 4, 4), None),
        ((4, 4, 8), (2, 8, 8), (6, 6, 8), None),
        ((4, 4, 8), (4, 4, 2, 4), (4, 4, 4), None),
        ((12,), (2, 6), (6,), None),
    ],
)
def test_target_of_a_reshape(given, made, now, expected):
    if expected is None:
        with pytest.raises(ModelError, match="which does not apply to inputs of"):
            target_shape(given, made, now)
    else:
        assert target_shape(given, made, now) == expected


def test_reshapes_follow_or_are_named(api):
    layers = api.layers

    def model(filters, target):
        inputs = api.Input((4, 4, 3))
        x = layers.Conv2D(filters, 1, name="conv")(inputs)
        gate = layers.Reshape((1, 1, filters), name="gate")(layers.GlobalAveragePooling2D()(x))
        x = layers.Reshape(target, name="rows")(layers.Multiply()([x, gate]))
        return api.Model(inputs, layers.Dense(2)(layers.Flatten()(x)), name="reshaping")

    assert shapes(restructure(model(16, (16, 16)), width=0.5)) == shapes(model(8, (16, 8)))
    made = restructure(model(16, (16, 16)), input_shape=(6, 6, 3))
    assert made.get_layer("rows").output.shape[1:] == (36, 16)
    with pytest.raises(ModelError, match=r"layer 'rows' \(Reshape\) at 'rows': It turns \(4, 4, 16\) into \(8, 32\)"):
        restructure(model(16, (8, 32)), width=0.5)


def test_operations_follow_or_are_named(api):
    import tensorflow as tf

    ops = keras.ops if api is keras else None

    def model(change):
        inputs = api.Input((4, 4, 3))
        x = change(api.layers.Conv2D(16, 1, name="conv")(inputs))
        return api.Model(inputs, api.layers.Dense(2)(x))

    def rows(x):
        return ops.reshape(x, (-1, 16, 16)) if ops else tf.reshape(x, (-1, 16, 16))

    assert shapes(restructure(model(rows), width=0.5)) == [(1, 1, 3, 8), (8,), (8, 2), (2,)]
    assert restructure(model(rows), input_shape=(2, 2, 3)).output_shape == (None, 4, 2)
    last = restructure(model(lambda x: x[:, -1] * 2.0 + 1.0), width=0.5, input_shape=(8, 8, 3))
    assert last.output_shape == (None, 8, 2)
    x = np.ones((1, 8, 8, 3), "float32")
    conv, dense = last.get_layer("conv").get_weights(), last.layers[-1].get_weights()
    expected = ((x[:, -1] @ conv[0][0, 0] + conv[1]) * 2 + 1) @ dense[0] + dense[1]
    np.testing.assert_allclose(last(x), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(
        ModelError, match=r"Its arguments refer to places in an input of \(4, 4, 16\).*one of \(4, 4, 8\)"
    ):
        restructure(model(lambda x: x[..., :8]), width=0.5)
    assert shapes(restructure(model(lambda x: x[..., :8]), input_shape=(6, 6, 3)))[2] == (8, 2)
    with pytest.raises(ModelError, match="refer to places in an input"):
        restructure(model(lambda x: x[:, 1:3]), input_shape=(6, 6, 3))


def test_operations_do_not_share_nodes_with_the_model_given():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.ops.relu(inputs) + 1.0))
    before = [len(operation._inbound_nodes) for operation in model.operations]
    made = restructure(model, classes=3)
    assert [len(operation._inbound_nodes) for operation in model.operations] == before
    assert not set(map(id, made.operations)) & set(map(id, model.operations))
    rebuilt = keras.Model.from_config(made.get_config())
    assert rebuilt.output_shape == (None, 3)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"width": 0}, "width must be a factor above 0, got 0"),
        ({"depth": float("inf")}, "depth must be a factor above 0, got inf"),
        ({"divisor": 0}, "got divisor=0"),
        ({"classes": 0}, "classes=0"),
        ({"seed": -1}, "The seed must be a whole number of 0 or more, got -1"),
        ({"input_shape": (16, 16)}, r"input_shape of 3 axes like \(16, 16, 3\).* got \(16, 16\)"),
        ({"input_shape": (0, 16, 3)}, r"got \(0, 16, 3\)"),
        ({"depth": 1.1}, r"depth=1.1 changes nothing: the stages of 'residual' keep their \[2, 1\] blocks"),
    ],
)
def test_settings_out_of_range(wrong, says):
    with pytest.raises(ModelError, match=says):
        restructure(residual(keras), **wrong)


def chained(api, size, *layers):
    return api.Sequential([api.Input(size), *layers], name="chain")


def test_what_an_architecture_does_not_allow_is_named(api):
    layers = api.layers
    embedding = chained(api, (5,), layers.Embedding(9, 8, name="words"), layers.Flatten(), layers.Dense(2))
    with pytest.raises(ModelError, match=r"layer 'words' \(Embedding\) at 'words': Its output_dim = 8 does not follow"):
        restructure(embedding, width=0.5)
    with pytest.raises(ModelError, match=r"\(MultiHeadAttention\) at .*: Its key_dim = 4 does not follow"):
        inputs = api.Input((5, 8))
        attended = layers.MultiHeadAttention(2, 4)(inputs, inputs)
        restructure(api.Model(inputs, layers.Dense(2)(attended)), width=0.5)
    groups = chained(api, (4, 4, 3), layers.Conv2D(24, 1), layers.GroupNormalization(12, name="norm"), layers.Dense(2))
    with pytest.raises(ModelError, match=r"'norm' \(GroupNormalization\) at 'norm': Its 12 groups do not divide 16"):
        restructure(groups, width=0.5)
    assert shapes(restructure(groups, width=2))[2] == (48,)
    small = chained(api, (9, 9, 3), layers.Conv2D(8, 3, name="a"), layers.Conv2D(8, 5, name="b"), layers.Dense(2))
    with pytest.raises(ModelError, match=r"layer 'b' \(Conv2D\) at 'b' cannot be built for inputs of \(4, 4, 8\)"):
        restructure(small, input_shape=(6, 6, 3))
    with pytest.raises(ModelError, match="'chain' has no block to repeat or leave out"):
        restructure(chained(api, (4,), layers.Dense(8, activation="relu"), layers.Dense(2)), depth=2)


def test_groups_of_one_channel_follow(api):
    layers = api.layers

    def model(filters):
        grouped = layers.Conv2D(2 * filters, 3, groups=filters)
        norm = layers.GroupNormalization(2 * filters)
        return chained(api, (4, 4, 3), layers.Conv2D(filters, 1), grouped, norm, layers.Dense(2))

    assert shapes(restructure(model(16), width=0.5)) == shapes(model(8))
    halves = chained(api, (4, 4, 3), layers.Conv2D(24, 1), layers.Conv2D(48, 1, groups=3, name="g"), layers.Dense(2))
    with pytest.raises(ModelError, match=r"layer 'g' .*Its 3 groups do not divide 16 channels and 24 filters"):
        restructure(halves, width=0.5)


def test_numbers_for_each_channel_are_not_spread(api):
    model = chained(api, (4, 4, 3), api.layers.Rescaling([1.0, 2.0, 3.0], name="scale"), api.layers.Dense(2))
    with pytest.raises(ModelError, match=r"'scale' \(Rescaling\).*: Its scale holds 3 numbers for the channels of"):
        restructure(model, input_shape=(4, 4, 1))
    assert restructure(model, input_shape=(8, 8, 3)).output_shape == (None, 8, 8, 2)


def test_numbers_in_an_operation_are_not_spread(api):
    inputs = api.Input((4, 4, 3))
    model = api.Model(inputs, api.layers.Dense(2)(inputs * np.array([1.0, 2.0, 3.0], "float32")))
    with pytest.raises(
        ModelError, match=r"holds numbers for inputs of \(4, 4, 3\), which turn \(4, 4, 1\) into \(4, 4, 3\)"
    ):
        restructure(model, input_shape=(4, 4, 1))
    assert restructure(model, input_shape=(8, 8, 3)).output_shape == (None, 8, 8, 2)


def test_several_inputs(api):
    inputs = [api.Input((4,), name="left"), api.Input((4,), name="right")]
    x = api.layers.Dense(8, activation="relu")(api.layers.Concatenate()(inputs))
    model = api.Model(inputs, api.layers.Dense(2)(x), name="two")
    assert shapes(restructure(model, width=2, classes=3)) == [(8, 16), (16,), (16, 3), (3,)]
    with pytest.raises(ModelError, match=r"'two' has 2 \(left, right\)"):
        restructure(model, input_shape=(5,))


def test_custom_layers_and_subclassed_models():
    @keras.saving.register_keras_serializable("tests_structure")
    class Gain(keras.layers.Layer):
        def build(self, shape):
            self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

        def call(self, x):
            return x * self.gain

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.body, self.gain, self.head = keras.layers.Dense(16, "relu"), Gain(), keras.layers.Dense(2)

        def call(self, x):
            return self.head(self.gain(self.body(x)))

    model = Net()
    model(np.zeros((1, 4), "float32"))
    assert shapes(restructure(model, width=0.5, classes=3)) == [(4, 8), (8,), (8,), (8, 3), (3,)]


def test_a_custom_layer_with_a_fixed_width_is_named():
    @keras.saving.register_keras_serializable("tests_structure")
    class Wide(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 24), name="kernel")

        def call(self, x):
            return x @ self.kernel

    model = chained(keras, (4,), keras.layers.Dense(16), Wide(name="wide"), keras.layers.Dense(2))
    assert restructure(model, classes=3).output_shape == (None, 3)
    with pytest.raises(ModelError, match=r"'wide' \(Wide\).* custom layer that turns 16 channels into 24 by itself"):
        restructure(model, width=0.5)


@pytest.mark.slow
def test_convnext_scales(api):
    """LayerScale states its width, StochasticDepth grows from block to block."""
    make = api.applications.ConvNeXtTiny
    model = make(weights=None, input_shape=(32, 32, 3), include_preprocessing=False, classes=4)
    assert [len(stage.blocks) for stage in repeatable_blocks(model)] == [3, 3, 9, 3]  # Liu et al. 2022, section 2.2
    made = restructure(model, width=0.5, depth=0.34)
    widths = {w.shape[-1] for layer in made.layers for w in layer.weights if "layer_scale" in layer.name.lower()}
    assert widths == {48, 96, 192, 384}
