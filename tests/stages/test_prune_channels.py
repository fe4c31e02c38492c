"""PruneChannels: what goes, what stays, what the smaller model computes."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt import bridge
from tfopt.errors import DataError, ModelError, PromiseError, RecipeError
from tfopt.stages.channels.criteria import scores, scores_of_gradients, weights_of
from tfopt.stages.channels.gradients import gradients_on
from tfopt.stages.channels.selection import Limits, select
from tfopt.surgery.channels.groups import channels_of

L = keras.layers
X = np.random.default_rng(0).normal(size=(192, 8, 8, 3)).astype("float32")
Y = (X.mean(axis=(1, 2)).argmax(axis=1)).astype("int32")


def network(width=16):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(width, 3, padding="same", use_bias=False, name="stem")(inputs)))
    y = L.Conv2D(2 * width, 3, padding="same", activation="relu", name="inner")(x)
    x = L.Add()([x, L.Conv2D(width, 1, name="outer")(y)])
    outputs = L.Dense(3, "softmax", name="head")(L.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def groups_of(model):
    channels = channels_of(bridge.to_tf_keras(model))
    return channels, {group.name: number for number, group in enumerate(channels.groups)}


def test_trained_in_fit_and_smaller_after_strip(tmp_path):
    model, stage = network(), tfopt.PruneChannels(final_ratio=0.5)
    macs = 64 * (27 * 16 + 9 * 16 * 32 + 32 * 16) + 16 * 3
    wrapped = stage.apply(model, steps=24)
    stage.calibrate(wrapped, X)
    wrapped.fit(X, Y, epochs=4, batch_size=32, verbose=0)
    small = stage.strip(wrapped)
    assert type(small) is type(model) and model.count_params() == network().count_params()
    stem, inner = small.get_layer("stem").filters, small.get_layer("inner").filters
    assert stem % 8 == inner % 8 == 0 and small.get_layer("outer").filters == stem
    left = 64 * (27 * stem + 9 * stem * inner + inner * stem) + stem * 3
    assert left <= macs / 2
    assert f"MACs {macs:,} -> {left:,}" in stage.summary(wrapped)[0]
    np.testing.assert_allclose(small.predict(X, verbose=0), wrapped.predict(X, verbose=0), atol=1e-5)
    lite = tfopt.export_tflite(small, tmp_path / "small.tflite", representative_data=X)
    assert (lite.predict(X).argmax(1) == small.predict(X, verbose=0).argmax(1)).mean() > 0.95
    small.save(tmp_path / "small.keras")
    assert tfopt.load_model(tmp_path / "small.keras").count_params() == small.count_params()


def test_training_too_short_breaks_the_promise():
    stage = tfopt.PruneChannels(final_ratio=0.5)
    wrapped = stage.apply(network(), steps=200)
    wrapped.fit(X, Y, verbose=0)
    with pytest.raises(PromiseError, match=r"of the MACs remain, promised 0\.5\. Run fit for the steps"):
        stage.strip(wrapped)


def test_a_file_of_a_model_that_shrinks_is_stripped_too(tmp_path):
    stage = tfopt.PruneChannels(final_ratio=0.5)
    wrapped = stage.apply(network(), steps=12)
    wrapped.fit(X, Y, epochs=2, verbose=0)
    wrapped.save(tmp_path / "wrapped.keras")
    again = stage.strip(tfopt.load_model(tmp_path / "wrapped.keras"))
    assert again.count_params() == stage.strip(wrapped).count_params()


def test_channels_come_back_neither_in_training_nor_by_momentum():
    stage = tfopt.PruneChannels(final_ratio=0.5)
    wrapped = stage.apply(network(), steps=6)
    wrapped.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
    wrapped.fit(X, Y, verbose=0)
    zeros = [(np.array(weight) == 0) for weight in wrapped.get_layer("inner").weights]
    wrapped.fit(X, Y, epochs=2, verbose=0)
    for before, weight in zip(zeros, wrapped.get_layer("inner").weights, strict=True):
        assert not np.array(weight)[before].any()


def test_without_training_the_others_make_up_for_it():
    """Two pairs of equal channels: with one of each gone, least squares restores the outputs exactly."""
    inputs = keras.Input((6,))
    first, second = L.Dense(4, "relu", name="first"), L.Dense(3, name="second")
    model = keras.Model(inputs, second(first(inputs)))
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(6, 2))
    first.set_weights([np.concatenate([kernel, kernel * [1.01, 0.99]], axis=1), np.zeros(4)])
    x = rng.normal(size=(400, 6)).astype("float32")
    errors = {}
    for reconstruct in (True, False):
        stage = tfopt.PruneChannels(
            epochs=0, final_ratio=0.5, measure="channels", round_to=1, least=0.5, reconstruct=reconstruct
        )
        wrapped = stage.apply(model, steps=0)
        stage.calibrate(wrapped, x)
        small = stage.strip(wrapped)
        assert small.get_layer("first").units == 2
        wanted = model.predict(x, verbose=0)
        errors[reconstruct] = float(np.square(small.predict(x, verbose=0) - wanted).mean() / wanted.var())
    assert errors[True] < errors[False]


@pytest.mark.parametrize("measure", ["macs", "parameters", "channels"])
@pytest.mark.parametrize("distribution", ["isomorphic", "global", "uniform"])
def test_the_share_is_met_and_not_by_far(measure, distribution):
    model = network(32)
    stage = tfopt.PruneChannels(epochs=0, final_ratio=0.6, measure=measure, distribution=distribution, round_to=1)
    small = stage.strip(stage.apply(model, steps=0))
    stem, inner = small.get_layer("stem").filters, small.get_layer("inner").filters
    costs = {
        "macs": lambda a, b: 64 * (27 * a + 9 * a * b + b * a) + a * 3,
        "parameters": lambda a, b: 27 * a + 4 * a + 9 * a * b + b + b * a + a + 3 * a + 3,
        "channels": lambda a, b: a + b,
    }
    share = costs[measure](stem, inner) / costs[measure](32, 64)
    assert 0.54 < share <= 0.6


def test_scores_by_hand():
    channels, names = groups_of(network(4))
    rng = np.random.default_rng(1)
    leaves = {leaf.name: leaf.layer for leaf in channels.trace.graph.leaves}
    made, read = rng.normal(size=(3, 3, 4, 8)), rng.normal(size=(1, 1, 8, 4))
    leaves["inner"].kernel.assign(made)
    leaves["outer"].kernel.assign(read)
    values, number = weights_of(channels), names["inner"]
    squares = [(made**2).sum(axis=(0, 1, 2)), (read**2).sum(axis=(0, 1, 3))]
    norm = np.sqrt(np.mean([each / each.mean() for each in squares], axis=0))
    np.testing.assert_allclose(scores(channels, "l2", values)[number], norm / norm.mean(), rtol=1e-5)
    sums = [np.abs(made).sum(axis=(0, 1, 2)), np.abs(read).sum(axis=(0, 1, 3))]
    size = np.mean([each / each.mean() for each in sums], axis=0)
    np.testing.assert_allclose(scores(channels, "l1", values)[number], size / size.mean(), rtol=1e-5)
    filters = made.reshape(-1, 8).T
    far = np.linalg.norm(filters[:, None] - filters[None], axis=-1).sum(axis=1)
    np.testing.assert_allclose(scores(channels, "geometric_median", values)[number], far / far.mean(), rtol=1e-4)
    lamp = [norm[i] ** 2 / sum(each**2 for each in norm if each >= norm[i]) for i in range(8)]
    np.testing.assert_allclose(scores(channels, "lamp", values)[number], lamp, rtol=1e-5)
    assert max(lamp) == 1
    next(layer for layer in leaves.values() if hasattr(layer, "gamma")).gamma.assign([3.0, -1.0, 2.0, 2.0])
    found = scores(channels, "bn_scale", weights_of(channels))[names["stem + outer"]]
    np.testing.assert_allclose(found, [3.0, 1.0, 2.0, 2.0])
    assert (scores(channels, "random", values, 3)[0] == scores(channels, "random", values, 3)[0]).all()


def test_scores_of_gradients_by_hand():
    """The squared change to first order: of all weights that make a channel, w times its gradient, summed."""
    model = network(4)
    flat = bridge.to_tf_keras(model)
    channels = channels_of(flat)
    values = weights_of(channels)
    found = list(gradients_on(flat, channels, X[:8], 4))
    assert len(found) == 2
    number = [group.name for group in channels.groups].index("inner")
    wanted = np.zeros(8)
    for gradient in found:
        kernel = (values["inner", 0] * gradient["inner", 0]).sum(axis=(0, 1, 2))
        wanted += (kernel + values["inner", 1] * gradient["inner", 1]) ** 2
    got = scores_of_gradients(channels, values, found)[number]
    np.testing.assert_allclose(got, wanted / wanted.mean(), rtol=1e-4)


def test_gradients_are_those_of_the_models_own_answers():
    """For a linear model with Gaussian answers, the mean squared gradient is E[x^2], whatever the weights."""
    inputs = keras.Input((2,))
    model = keras.Model(
        inputs, L.Dense(1, use_bias=False, name="end")(L.Dense(2, use_bias=False, name="first")(inputs))
    )
    model.set_weights([np.eye(2), np.ones((2, 1))])
    flat = bridge.to_tf_keras(model)
    x = np.random.default_rng(0).normal(size=(4000, 2)).astype("float32") * [1.0, 2.0]
    squares = np.mean([g["first", 0] ** 2 for g in gradients_on(flat, channels_of(flat), x, 1)], axis=0)
    np.testing.assert_allclose(squares[:, 0], [1.0, 4.0], rtol=0.15)


def test_the_least_important_go_first():
    channels, names = groups_of(network(8))
    limits = Limits(least=(1, 1), fixed=(None, None), round_to=(1, 1))
    ranks = [np.linspace(1, 2, len(group)) for group in channels.groups]
    total = sum(map(len, channels.groups))
    gone = select(channels, ranks, lambda r: total - len(set(r)), total - 6, limits, distribution="global")
    inner, stem = channels.groups[names["inner"]], channels.groups[names["stem + outer"]]
    assert len(gone) == 6 and set(gone) == {*inner.roots[:4].tolist(), *stem.roots[:2].tolist()}


def test_rules_keep_channels_or_set_their_share():
    stage = tfopt.PruneChannels(epochs=0, final_ratio=0.8, round_to=4, layers=(("stem", False), ("inner", 0.25)))
    small = stage.strip(stage.apply(network(), steps=0))
    assert (small.get_layer("stem").filters, small.get_layer("inner").filters) == (16, 8)


def test_decisions_and_notes():
    stage = tfopt.PruneChannels(epochs=0, final_ratio=0.5)
    flat = bridge.to_tf_keras(network())
    found = stage.decisions(flat)
    assert found["stem"].does == "16 -> 8 channels, with outer" and found["outer"].does == "16 -> 8 channels, with stem"
    assert found["inner"].why == "keeps all 32 channels" or found["inner"].does == "32 -> 24 channels"
    assert "applies softmax to all channels" in found["head"].why
    assert any(note.startswith("head keeps its channels") for note in stage.notes(flat))


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        (
            {"final_ratio": 0.01},
            RecipeError,
            r"final_ratio=0\.01 cannot be reached: at least 0\.\d+ of the MACs",
        ),
        ({"round_to": 64}, RecipeError, "round_to=64 leaves nothing to remove: the widest group"),
        (
            {"layers": (("inner", 2.0),)},
            RecipeError,
            "for inner the rules set 2",
        ),
        ({"layers": (("nothing", False),)}, RecipeError, "matches no layer"),
    ],
)
def test_targets_that_cannot_be_met(settings, error, said):
    with pytest.raises(error, match=said):
        tfopt.PruneChannels(**settings).apply(network(), steps=10)


@pytest.mark.parametrize("ratio", [0, 1, -1, 2])
def test_ratios_out_of_range(ratio):
    with pytest.raises(RecipeError, match="final_ratio"):
        tfopt.PruneChannels(final_ratio=ratio)


def test_criteria_that_need_inputs_say_so():
    stage = tfopt.PruneChannels(criterion="taylor")
    wrapped = stage.apply(network(), steps=6)
    with pytest.raises(DataError, match=r"call stage\.calibrate\(model, inputs\) before fit"):
        wrapped.fit(X, Y, verbose=0)


class Own(keras.layers.Layer):
    def call(self, x):
        return keras.ops.flip(x, axis=-1)


class Stated(Own):
    tfopt_channels = "alone"

    def call(self, x):
        return keras.ops.tanh(x) * 2


def test_layers_of_other_people_say_what_they_do():
    def model(layer):
        inputs = keras.Input((4,))
        return keras.Model(inputs, L.Dense(2)(layer(L.Dense(16)(inputs))))

    with pytest.raises(
        ModelError, match=r"No channel of .* can be removed: .*\(Own\).* class attribute tfopt_channels"
    ):
        tfopt.PruneChannels().apply(model(Own()), steps=0)
    stage = tfopt.PruneChannels(epochs=0)
    small = stage.strip(stage.apply(model(Stated()), steps=0))
    assert small.layers[1].units == 8


def test_heads_or_widths():
    inputs = keras.Input((6, 16))
    x = L.MultiHeadAttention(4, 8, name="attention")(inputs, inputs)
    model = keras.Model(inputs, L.Dense(2)(L.Flatten()(x + inputs)))
    x = np.random.default_rng(0).normal(size=(8, 6, 16)).astype("float32")
    for attention, wanted in (("heads", (2, 8)), ("widths", (4, 4))):
        stage = tfopt.PruneChannels(epochs=0, attention=attention, round_to=4, final_ratio=0.6, reconstruct=False)
        wrapped = stage.apply(model, steps=0)
        stage.calibrate(wrapped, x)
        layer = stage.strip(wrapped).get_layer("attention")
        assert (layer.num_heads, layer.key_dim) == wanted


@pytest.mark.slow
def test_a_recipe_to_a_verified_file(tmp_path):
    stages = (
        tfopt.PruneChannels(epochs=2, min_steps=0),
        tfopt.Cluster(epochs=1),
        tfopt.Quantize(epochs=1, min_steps=0),
    )
    result = tfopt.optimize(
        network(), tfopt.Recipe(stages=stages, max_drop=None), (X, Y), teacher=network(), quiet=True
    )
    assert result.model.count_params() < network().count_params()
    assert any("MACs" in note for row in result.report.rows for note in row.notes)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (lambda: keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9), {}),
        (lambda: "adam", {"steps_per_execution": 3}),
    ],
)
def test_averages_and_steps_at_once_keep_the_promise(optimizer, options):
    stage = tfopt.PruneChannels(final_ratio=0.5)
    wrapped = stage.apply(network(), steps=12)
    wrapped.compile(optimizer(), "sparse_categorical_crossentropy", **options)
    wrapped.fit(X, Y, epochs=2, verbose=0)
    small = stage.strip(wrapped)
    np.testing.assert_allclose(small.predict(X, verbose=0), wrapped.predict(X, verbose=0), atol=1e-5)


def test_dead_filters_of_layers_with_a_rule_stay():
    model = network()
    kernel = model.get_layer("stem").kernel
    kernel.assign(np.array(kernel) * (np.arange(16) > 3))
    stage = tfopt.PruneChannels(epochs=0, final_ratio=0.6, layers=(("stem", False),))
    assert stage.strip(stage.apply(model, steps=0)).get_layer("stem").filters == 16


def test_inputs_of_another_form_are_refused():
    stage = tfopt.PruneChannels()
    wrapped = stage.apply(network(), steps=4)
    for wrong in (X[:0], X[..., :1], [X, X]):
        with pytest.raises(DataError, match="Expected an array of samples for each input"):
            stage.calibrate(wrapped, wrong)


def test_rules_without_effect_are_refused():
    with pytest.raises(RecipeError, match="has no effect: none of the layers it matches has channels"):
        tfopt.PruneChannels(layers=(("head", 0.5),)).apply(network(), steps=4)


def test_layers_with_functions_and_axes_of_free_size_come_back_smaller():
    inputs = keras.Input((6, 8))
    x = L.EinsumDense("abc,cde->abde", output_shape=(None, 2, 4), bias_axes="de", name="parts")(inputs)
    x = L.EinsumDense("abde,dec->abc", output_shape=(None, 3), name="head")(x)
    outputs = L.Lambda(lambda values: 2.0 * values)(x)
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(1).normal(size=(32, 6, 8)).astype("float32")
    stage = tfopt.PruneChannels(final_ratio=0.6, round_to=1)
    wrapped = stage.apply(model, steps=0)
    stage.calibrate(wrapped, x)
    small = stage.strip(wrapped)
    assert small.count_params() < model.count_params()
    np.testing.assert_allclose(small.predict(x, verbose=0), wrapped.predict(x, verbose=0), atol=1e-4)
