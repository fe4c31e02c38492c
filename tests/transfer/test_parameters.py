"""transfer_weights: which weight goes where, and the report on it.

Expected values are written by hand or come from the source model, whose outputs the target must give if all of its
weights were transferred.
"""

import keras
import numpy as np
import pytest

from tfopt import load_model
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError
from tfopt.transfer.matching import by_name
from tfopt.transfer.parameters import fitted_channels, transfer_weights
from tfopt.transfer.weight_report import Move, TransferredWeights

APIS = {"keras": keras, "tf_keras": tf_keras()}


@pytest.fixture(params=APIS)
def api(request):
    return APIS[request.param]


def body(api, names=True):
    """Conv, BatchNorm and Conv with automatic names."""
    layers = api.layers
    given = {"stem": {"name": "stem"}, "norm": {"name": "norm"}, "second": {"name": "second"}} if names else {}
    return [
        layers.Conv2D(4, 3, **given.get("stem", {})),
        layers.BatchNormalization(**given.get("norm", {})),
        layers.ReLU(),
        layers.Conv2D(4, 3, use_bias=False, **given.get("second", {})),
        layers.GlobalAveragePooling2D(),
    ]


def network(api, *, channels=3, outputs=5, nested=False, names=True, seed=0, head="head"):
    """(8, 8, channels) -> outputs; weights drawn from `seed`, moving statistics included."""
    inputs = x = api.Input((8, 8, channels))
    if nested:
        x = api.Sequential([api.Input((8, 8, channels)), *body(api, names)], name="backbone")(x)
    else:
        for layer in body(api, names):
            x = layer(x)
    x = api.layers.Dense(outputs, **({"name": head} if names else {}))(x)
    return randomized(api.Model(inputs, x, name="net"), seed)


def randomized(model, seed):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def images(channels=3):
    return np.random.default_rng(9).normal(size=(3, 8, 8, channels)).astype("float32")


def rows(done):
    return {(move.layer, move.weight): (move.source, move.status) for move in done.moves}


@pytest.mark.parametrize("other", APIS)
@pytest.mark.parametrize("nested", [False, True], ids=["flat source", "nested source"])
def test_all_weights_go_over_between_kerases_and_nestings(api, other, nested):
    source, target = network(api, nested=nested), network(APIS[other], nested=not nested, seed=1)
    kept = [target.get_weights(), source.get_weights()]
    done = transfer_weights(source, target)
    assert done.counts == {"matched": 9, "adapted": 0, "skipped": 0}
    assert isinstance(done.model, APIS[other].Model)
    assert [layer.name for layer in done.model.layers] == [layer.name for layer in target.layers]
    np.testing.assert_allclose(done.model(images(), training=False), source(images(), training=False), rtol=1e-5)
    for before, now in zip(kept, [target.get_weights(), source.get_weights()], strict=True):
        for a, b in zip(before, now, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_result_is_like_the_target(api):
    target = network(api, seed=1)
    target.get_layer("norm").trainable = False
    target.compile("sgd", "mse")
    model = transfer_weights(network(api), target).model
    assert [layer.trainable for layer in model.layers] == [layer.trainable for layer in target.layers]
    assert not model.get_layer("norm").trainable
    assert model.loss == "mse"


def test_a_new_head_is_skipped_and_stays(api):
    source, target = network(api, outputs=7), network(api, outputs=5, seed=1)
    done = transfer_weights(source, target)
    note = "a different number of outputs: 5 here, 7 in the source"
    assert done.moves[-2:] == (
        Move("head", "kernel", "head", "skipped", note),
        Move("head", "bias", "head", "skipped", note),
    )
    assert done.counts == {"matched": 7, "adapted": 0, "skipped": 2}
    for got, expected in zip(
        done.model.get_layer("head").get_weights(), target.get_layer("head").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(got, expected)
    for got, expected in zip(
        done.model.get_layer("norm").get_weights(), source.get_layer("norm").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_a_layer_that_differs_elsewhere_is_skipped_whole(api):
    source, target = network(api), network(api, seed=1)
    wider = [api.Input((8, 8, 3)), *body(api), api.layers.Dense(5, name="head")]
    wider[1] = api.layers.Conv2D(4, 5, name="stem")
    target = randomized(api.Sequential(wider), 1)
    done = transfer_weights(source, target)
    expected = Move("stem", "bias", "stem", "skipped", "kernel is (5, 5, 3, 4) here, (3, 3, 3, 4) in the source")
    assert done.moves[1] == expected  # the bias fits, but not without its kernel
    np.testing.assert_array_equal(done.model.get_layer("stem").get_weights()[1], target.layers[0].get_weights()[1])
    assert rows(done)["second", "kernel"] == ("second", "matched")


def test_a_bias_on_one_side_only(api):
    def model(bias, seed):
        layers = [api.Input((3,)), api.layers.Dense(3, use_bias=bias, name="a"), api.layers.Dense(2, name="b")]
        return randomized(api.Sequential(layers), seed)

    with_bias, without = model(True, 0), model(False, 1)
    assert transfer_weights(without, with_bias).moves[:2] == (
        Move("a", "kernel", "a", "matched"),
        Move("a", "bias", "a", "skipped", "'a' has none"),
    )
    assert transfer_weights(with_bias, without).moves[0].note == "no place here for the source's bias"


@pytest.mark.parametrize(
    ("given", "channels", "expected"),
    [
        ([1, 2, 4], 1, [7]),
        ([1, 2, 4], 2, [5, 2]),
        ([1, 2, 4], 3, [1, 2, 4]),
        ([3], 3, [1, 1, 1]),
        ([2, 3, 5], 4, [1, 3, 5, 1]),
        ([2, 3], 6, [2 / 3, 1, 2 / 3, 1, 2 / 3, 1]),
    ],
)
def test_fitted_channels(given, channels, expected):
    kernel = np.array(given, "float32").reshape(1, 1, -1, 1)
    fitted = fitted_channels(np.repeat(kernel, 2, axis=-1), channels)
    assert fitted.shape == (1, 1, channels, 2)
    np.testing.assert_allclose(fitted[0, 0, :, 1], expected, rtol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(3, 1), (1, 3), (3, 4), (3, 2)])
def test_an_image_of_equal_channels_gives_the_same_answer(api, old, new):
    source, target = network(api, channels=old), network(api, channels=new, seed=1)
    done = transfer_weights(source, target)
    assert done.counts == {"matched": 8, "adapted": 1, "skipped": 0}
    assert done.moves[0] == Move(
        "stem", "kernel", "stem", "adapted", f"input channels: {new} here, {old} in the source"
    )
    gray = images(1)
    got, expected = (model(np.repeat(gray, n, -1), training=False) for model, n in ((done.model, new), (source, old)))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_input_channels_are_left_alone_unless_requested():
    source, target = network(keras), network(keras, channels=1, seed=1)
    done = transfer_weights(source, target, adapt=False)
    assert done.moves[0].note == "kernel is (3, 3, 1, 4) here, (3, 3, 3, 4) in the source"
    assert done.counts == {"matched": 7, "adapted": 0, "skipped": 2}


def test_only_the_first_convolution_is_adapted():
    def model(filters):
        layers = keras.layers
        chain = [layers.Conv2D(filters, 3, name="a"), layers.Conv2D(4, 3, name="b"), layers.Flatten()]
        return keras.Sequential([keras.Input((8, 8, 3)), *chain])

    done = transfer_weights(model(4), model(2), strict=False)
    assert done.counts == {"matched": 0, "adapted": 0, "skipped": 4}


def test_channels_that_are_not_those_of_the_input_are_not_adapted(api):
    """Grouped, so that the kernel's inputs are some of the channels; and channels that used to be places."""

    def grouped(channels):
        return api.Sequential([api.Input((8, 8, channels)), api.layers.Conv2D(4, 3, groups=2, name="stem")])

    def regrouped(channels):
        layers = [api.layers.Reshape((4, 4, 4 * channels)), api.layers.Conv2D(4, 3, name="stem")]
        return api.Sequential([api.Input((8, 8, channels)), *layers])

    for model in (grouped, regrouped):
        done = transfer_weights(model(4), model(2), strict=False)
        assert done.counts == {"matched": 0, "adapted": 0, "skipped": 2}


def test_names_that_keras_made_up_are_matched_by_rank(api):
    source = network(api, names=False)
    network(api, names=False)  # so that the numbers differ
    target = network(api, names=False, nested=True, seed=1)
    done = transfer_weights(source, target)
    assert done.counts == {"matched": 9, "adapted": 0, "skipped": 0}
    np.testing.assert_allclose(done.model(images(), training=False), source(images(), training=False), rtol=1e-5)
    assert "number 2 among the Conv2D layers" in done.moves[6].note


def test_made_up_names_are_not_trusted_across_counters(api):
    """All three kernels have the same shape: conv2d_1 is the second layer there, the first here."""

    def model(first, seed):
        names = [f"conv2d_{number}" if number else "conv2d" for number in range(first, first + 3)]
        layers = [api.layers.Conv2D(3, 1, use_bias=False, name=name) for name in names]
        return randomized(api.Sequential([api.Input((4, 4, 3)), *layers]), seed)

    source, target = model(0, 0), model(1, 1)
    done = transfer_weights(source, target)
    assert [move.source for move in done.moves] == ["conv2d", "conv2d_1", "conv2d_2"]
    same_start = transfer_weights(source, model(0, 2))
    assert [(move.source, move.note) for move in same_start.moves] == [
        ("conv2d", ""),
        ("conv2d_1", ""),
        ("conv2d_2", ""),
    ]


def test_equal_names_in_two_branches_are_distinguished_by_their_paths(api):
    def model(branches, seed, outer=None):
        inputs = api.Input((4,))
        parts = [
            api.Sequential([api.Input((4,)), api.layers.Dense(4, name="fc")], name=branch)(inputs)
            for branch in branches
        ]
        inner = api.Model(inputs, api.layers.Add()(parts))
        if outer:
            again = api.Input((4,))
            inner = api.Model(again, inner(again))
        return randomized(inner, seed)

    source = model(("a", "b"), 0)
    inside = transfer_weights(source, model(("b", "a"), 1, outer="net"))
    assert {move.layer.split("/")[-2]: move.source for move in inside.moves} == {"a": "a/fc", "b": "b/fc"}
    single = randomized(api.Sequential([api.Input((4,)), api.layers.Dense(4, name="fc")]), 1)
    done = transfer_weights(source, single, strict=False)
    assert {move.note for move in done.moves} == {"the source has 2 layers of that name (a/fc, b/fc): give a mapping"}
    reverse = transfer_weights(single, source, strict=False)
    assert {move.note for move in reverse.moves} == {"several layers here share the name of 'fc': give a mapping"}


def test_order(api):
    source, target = network(api), network(api, names=False, seed=1)
    done = transfer_weights(source, target, match="order")
    assert [move.source for move in done.moves] == ["stem"] * 2 + ["norm"] * 4 + ["second"] + ["head"] * 2
    assert done.moves[6].note == "Conv2D number 2"
    np.testing.assert_allclose(done.model(images(), training=False), source(images(), training=False), rtol=1e-5)


def test_order_says_where_the_source_ends(api):
    long, short = (
        randomized(api.Sequential([api.Input((4,)), *(api.layers.Dense(4, name=f"{n}_{k}") for k in range(n))]), seed)
        for n, seed in ((3, 0), (2, 1))
    )
    done = transfer_weights(short, long, match="order")
    assert done.counts == {"matched": 4, "adapted": 0, "skipped": 2}
    assert done.moves[-1].note == "the source has 2 layers of class Dense"


def test_mapping(api):
    source = network(api, nested=True)
    target = randomized(
        api.Sequential(
            [api.Input((8, 8, 3)), api.layers.Conv2D(4, 3, name="first"), api.layers.Flatten(), api.layers.Dense(5)]
        ),
        1,
    )
    done = transfer_weights(source, target, match={"first": "backbone/stem"})
    assert done.counts == {"matched": 2, "adapted": 0, "skipped": 2}
    assert done.moves[0] == Move("first", "kernel", "backbone/stem", "matched", "by the mapping")
    assert done.moves[2].note == "not in the mapping"
    expected = source.get_layer("backbone").layers[0].get_weights()
    for got, value in zip(done.model.get_layer("first").get_weights(), expected, strict=True):
        np.testing.assert_array_equal(got, value)


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"stm": "stem"}, r"'net' has no layer 'stm' \(nearest: stem\)"),
        ({"stem": "secnd"}, r"'net' has no layer 'secnd' \(nearest: second\)"),
        (
            {"stem": "second"},
            r"'stem' of 'net' does not take the weights of 'second' of 'net': bias: 'second' has none",
        ),
        ({"head": "stem"}, r"kernel is \(4, 5\) here, \(3, 3, 4, 4\) in the source"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(mapping, says):
    source = network(keras, channels=4)
    with pytest.raises(ModelError, match=says):
        transfer_weights(source, network(keras, channels=4, seed=1), match=mapping)


def test_a_mapping_to_a_layer_without_weights_is_refused():
    layers = [keras.Input((4,)), keras.layers.ReLU(name="relu"), keras.layers.Dense(2, name="fc")]
    model = keras.Sequential(layers, name="m")
    with pytest.raises(ModelError, match=r"'relu' of 'm' \(ReLU\) has no weights: leave it out of the mapping"):
        transfer_weights(model, model, match={"fc": "relu"})
    with pytest.raises(ModelError, match=r"match='name', match='order' or a mapping .* got 'shape'"):
        transfer_weights(model, model, match="shape")


def test_a_mapping_that_does_not_fit_may_be_skipped():
    done = transfer_weights(network(keras), network(keras, seed=1), match={"head": "stem"}, strict=False)
    assert done.counts == {"matched": 0, "adapted": 0, "skipped": 9}


@pytest.mark.parametrize(
    ("first", "taken"), [(1, ["stem"]), (2, ["stem", "norm"]), ("norm", ["stem", "norm"]), ("relu", ["stem", "norm"])]
)
def test_only_the_first_layers(first, taken):
    source, target = network(keras), network(keras, seed=1)
    if first == "relu":
        first = next(layer.name for layer in target.layers if "re_lu" in layer.name)
    done = transfer_weights(source, target, first=first)
    assert list(dict.fromkeys(move.layer for move in done.moves if move.status == "matched")) == taken
    assert done.moves[-1].note == "after the requested layers"
    np.testing.assert_array_equal(
        done.model.get_layer("head").get_weights()[0], target.get_layer("head").get_weights()[0]
    )


@pytest.mark.parametrize(
    ("first", "says"),
    [(0, "4 layers with weights; got first=0"), (5, "got first=5"), ("nrm", r"no layer 'nrm' \(nearest: norm\)")],
)
def test_first_out_of_range_is_refused(first, says):
    with pytest.raises(ModelError, match=says):
        transfer_weights(network(keras), network(keras), first=first)


def test_nothing_that_fits_is_an_error_that_says_what_came_close():
    def model(*names, units=4):
        return keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(units, name=n) for n in names)], name=names[0])

    with pytest.raises(
        ModelError,
        match=r"No weight of 'fc_1' fits 'fc1'; closest: the names 'fc1' and 'fc_1' \(Dense\)\. match='order' would "
        r"take 4 of 4 weights; a mapping names pairs of layers; or pass strict=False",
    ):
        transfer_weights(model("fc_1", "out_layer"), model("fc1", "top"))
    with pytest.raises(
        ModelError, match=r"'a' and 'a' correspond, but kernel is \(4, 3\) here, \(4, 4\) in the source"
    ):
        transfer_weights(model("a", "b"), model("a", "c", units=3))
    with pytest.raises(ModelError, match="because they have no layer class in common"):
        convolution = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
        transfer_weights(model("a"), convolution)
    assert transfer_weights(model("a", "b"), model("c", "d"), strict=False).counts["skipped"] == 4


def test_layers_of_another_class_are_not_mixed_up(api):
    norms = [api.layers.BatchNormalization, api.layers.LayerNormalization]
    source, target = (
        randomized(api.Sequential([api.Input((4,)), cls(name="norm"), api.layers.Dense(2, name="fc")]), seed)
        for seed, cls in enumerate(norms)
    )
    done = transfer_weights(source, target)
    assert done.moves[0] == Move(
        "norm", "gamma", "norm", "skipped", "a BatchNormalization in the source, a LayerNormalization here"
    )


@pytest.mark.slow
@pytest.mark.parametrize("other", APIS)
def test_layers_around_layers(api, other):
    def model(api, seed):
        inputs = api.Input((5, 4))
        x = api.layers.Bidirectional(api.layers.LSTM(3, return_sequences=True), name="both")(inputs)
        x = api.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
        x = api.layers.TimeDistributed(api.layers.Dense(2), name="each")(x)
        return randomized(api.Model(inputs, x), seed)

    source, target = model(api, 0), model(APIS[other], 1)
    done = transfer_weights(source, target)
    assert done.counts == {"matched": 6 + 8 + 2, "adapted": 0, "skipped": 0}
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    np.testing.assert_allclose(done.model(x, training=False), source(x, training=False), rtol=1e-4, atol=1e-5)
    assert done.moves[0].weight == "forward_lstm/lstm_cell/kernel"


def test_layers_that_run_inside_another_keras():
    """A layer that tf_keras lacks is carried in the twin; its weights come back from there by name."""
    from tfopt import bridge

    model = randomized(
        keras.Sequential(
            [keras.Input((4,)), keras.layers.RMSNormalization(name="rms"), keras.layers.Dense(2, name="fc")]
        ),
        0,
    )
    target = keras.models.clone_model(model)
    done = transfer_weights(bridge.to_tf_keras(model), target)
    assert rows(done) == {
        ("rms", "scale"): ("rms", "matched"),
        ("fc", "kernel"): ("fc", "matched"),
        ("fc", "bias"): ("fc", "matched"),
    }
    for got, expected in zip(done.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_vocabularies_stay_those_of_the_target(api):
    def model(words, seed):
        inputs = api.Input((2,), dtype="string")
        x = api.layers.StringLookup(vocabulary=words, name="words")(inputs)
        x = api.layers.Embedding(4, 3, name="embedding")(x)
        return randomized(api.Model(inputs, api.layers.Flatten()(x)), seed)

    done = transfer_weights(model(["a", "b", "c"], 0), model(["x", "y", "z"], 1))
    assert done.model.get_layer("words").get_vocabulary() == ["[UNK]", "x", "y", "z"]
    assert [move.layer for move in done.moves] == ["embedding"]


def test_normalization_computes_with_what_it_got(api):
    def model(data):
        layer = api.layers.Normalization(name="norm")
        layer.adapt(data)
        return api.Sequential([api.Input((2,)), layer])

    source = model(np.array([[0.0, 10.0], [4.0, 30.0]]))
    target = model(np.array([[0.0, 0.0], [1.0, 1.0]]))
    result = transfer_weights(source, target).model(np.array([[4.0, 40.0]], "float32"))
    np.testing.assert_allclose(result, [[1.0, 2.0]], rtol=1e-6)  # (x - mean) / standard deviation


def test_what_is_told():
    done = transfer_weights(network(keras, outputs=7), network(keras, channels=1, seed=1))
    assert done.notes == (
        "9 weights: 6 matched, 1 adapted, 2 skipped",
        "stem adapted: input channels: 1 here, 3 in the source",
        "head skipped: a different number of outputs: 5 here, 7 in the source",
    )
    only_first = transfer_weights(network(keras), network(keras, seed=1), first=1)
    assert only_first.notes[1:] == ("norm, second, head skipped: after the requested layers",)
    said = str(done)
    assert "9 weights: 6 matched, 1 adapted, 2 skipped" in said
    (line,) = [line for line in said.splitlines() if "norm" in line]
    assert all(word in line for word in ("gamma", "beta", "moving_mean", "moving_variance", "matched"))
    assert len(done.table().rows) == 5  # stem twice, norm, second, head


def test_long_lists_are_cut_short():
    moves = tuple(Move(f"layer_{number}", "kernel", "", "skipped", "why") for number in range(5))
    assert TransferredWeights(None, moves).notes[1] == "layer_0, layer_1, layer_2 and 2 more skipped: why"


def test_a_rank_is_given_once():
    """dense_1 would be second by rank, but the source's second is dense_2, which already has its namesake."""
    source, target = (
        keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4, name=name) for name in names)])
        for names in (("dense", "dense_2"), ("dense", "dense_1", "dense_2"))
    )
    from tfopt.graph.walk import walk

    pairs = by_name(walk(source), walk(target))
    assert [pair.source and pair.source.path for pair in pairs] == ["dense", None, "dense_2"]
    assert pairs[1].note == "the source has no matching Dense with an automatic name"


@pytest.mark.slow
def test_mobilenet_from_its_file(shared):
    source = load_model(shared / "models" / "mobilenet_025_224_imagenet.keras")
    target = keras.applications.MobileNet(weights=None, alpha=0.25, classes=5, input_shape=(64, 64, 1))
    done = transfer_weights(source, target)
    # 27 convolutions, each with BatchNorm, and the classifier with a bias
    assert done.counts == {"matched": 27 * 5 - 1, "adapted": 1, "skipped": 2}
    gray = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 1)).astype("float32")
    bodies = [
        keras.applications.MobileNet(weights=None, alpha=0.25, include_top=False, input_shape=(64, 64, n))
        for n in (1, 3)
    ]
    filled = [transfer_weights(source, one).model for one in bodies]
    answers = [
        np.asarray(model(np.repeat(gray, n, -1), training=False)) for model, n in zip(filled, (1, 3), strict=True)
    ]
    assert answers[1].max() > 0.1
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-3)


def test_a_flat_twin_gives_back_what_it_got(api):
    """Its layers have other names if two had the same."""
    from tfopt import bridge

    inputs = api.Input((4,))
    parts = [
        api.Sequential([api.Input((4,)), api.layers.Dense(4, name="fc")], name=branch)(inputs) for branch in ("b", "a")
    ]
    source = randomized(api.Model(inputs, api.layers.Concatenate()(parts)), 0)
    target = randomized(api.models.clone_model(source), 1)
    done = transfer_weights(bridge.to_tf_keras(source), target)
    for got, expected in zip(done.model.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)
