"""PruneChannels over time: schedule, files, weights that are replaced, inputs."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt import bridge
from tfopt.errors import DataError, ModelError, PromiseError, RecipeError
from tfopt.stages.channels.criteria import scores_of_gradients, weights_of
from tfopt.stages.channels.gradients import gradients_on
from tfopt.stages.channels.limits import limits_of
from tfopt.stages.channels.regularization import shrink_weights
from tfopt.stages.channels.selection import least_important, select
from tfopt.stages.channels.shrinking import shrinking_of
from tfopt.surgery.channels.cut import masked, without_channels
from tfopt.surgery.channels.groups import channels_of

L = keras.layers
X = np.random.default_rng(0).normal(size=(96, 8)).astype("float32")
Y = (X[:, :4].sum(axis=1) > 0).astype("int32")


def stack(*widths):
    keras.utils.set_random_seed(0)
    hidden = [L.Dense(width, "relu", name=f"d{number}") for number, width in enumerate(widths)]
    model = keras.Sequential([keras.Input((8,)), *hidden, L.Dense(2, "softmax", name="head")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def flat_channels(model):
    return channels_of(bridge.to_tf_keras(model))


def test_the_schedule_is_cubic_over_the_first_half():
    stage = tfopt.PruneChannels(iterations=4)
    steps = [(step, round(share, 6)) for step, share in stage._schedule(80)]
    assert steps == [(0, 0.578125), (10, 0.875), (20, 0.984375), (30, 1.0)]
    assert stage.holds_after(80) == 30


def test_steps_count_over_several_optimizers():
    stage = tfopt.PruneChannels(final_ratio=0.6)
    wrapped = stage.apply(stack(32, 32), steps=8)
    for _ in range(8):
        wrapped.compile("adam", "sparse_categorical_crossentropy")
        wrapped.fit(X[:16], Y[:16], batch_size=16, verbose=0)
    assert stage.strip(wrapped).get_layer("d1").units < 32


def test_a_small_share_in_a_rule_leaves_a_block():
    stage = tfopt.PruneChannels(epochs=0, final_ratio=0.9, layers=(("d0", 0.02),))
    assert stage.strip(stage.apply(stack(20, 64), steps=0)).get_layer("d0").units == 8
    half = tfopt.PruneChannels(epochs=0, final_ratio=0.9, layers=(("d0", 0.5),))
    assert half.strip(half.apply(stack(30, 64), steps=0)).get_layer("d0").units == 16


def test_widths_that_are_no_multiples_stay_if_the_share_allows_it():
    """8 x 20 + 20 x 20 + 40 = 600 multiplications: widths of 8, 16 or 20. 0.85 allows (20, 16), or (16, 20): 488."""
    channels = flat_channels(stack(20, 20))
    for ratio, widths in ((0.95, {(20, 16), (16, 20)}), (0.7, {(16, 16), (8, 20), (20, 8)})):
        stage = tfopt.PruneChannels(epochs=0, final_ratio=ratio)
        scores = [np.arange(20) / 20, np.arange(20) / 20]
        removed = select(channels, scores, channels.macs, 600 * ratio, limits_of(stage, channels))
        left = tuple(20 - int(np.isin(group.roots, removed).sum()) for group in channels.groups)
        assert left in widths, (ratio, left)


@pytest.mark.parametrize(
    ("distribution", "left"), [("uniform", (8, 8, 8)), ("global", (0, 8, 16)), ("isomorphic", (0, 8, 16))]
)
def test_scores_are_compared_as_the_distribution_says(distribution, left):
    """Dense layers of one structure; the scores of the first are all the lowest, those of the last all the highest."""
    channels = flat_channels(stack(16, 16, 16))
    scores = [np.linspace(0.1, 0.2, 16), np.linspace(0.4, 1.6, 16), np.linspace(2, 3, 16)]
    stage = tfopt.PruneChannels(round_to=1, least=0)
    limits = limits_of(stage, channels)
    total = lambda removed: 48 - len(set(removed))  # noqa: E731
    removed = select(channels, scores, total, 24, limits, distribution=distribution)
    kept = tuple(16 - int(np.isin(group.roots, removed).sum()) for group in channels.groups)
    assert all(abs(one - other) <= 1 for one, other in zip(kept, left, strict=True)), kept


def test_isomorphic_compares_only_groups_of_one_structure():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(16, 3, name="conv")(inputs)
    model = keras.Model(inputs, L.Dense(2, name="head")(L.Dense(16, name="dense")(L.GlobalAveragePooling2D()(x))))
    channels = flat_channels(model)
    low = {"conv": np.linspace(0.1, 0.2, 16), "dense": np.linspace(2, 3, 16)}
    scores = [low[group.name] for group in channels.groups]
    limits = limits_of(tfopt.PruneChannels(round_to=1, least=0), channels)
    for distribution, conv in (("isomorphic", 8), ("global", 1)):
        removed = select(channels, scores, lambda gone: 32 - len(set(gone)), 16, limits, distribution=distribution)
        left = {group.name: 16 - int(np.isin(group.roots, removed).sum()) for group in channels.groups}
        assert abs(left["conv"] - conv) <= 1, (distribution, left)


def test_channels_that_are_gone_stay_gone():
    channels = flat_channels(stack(8))
    (group,) = channels.groups
    gone = group.roots[[2, 5]].tolist()
    assert set(gone) <= set(least_important(channels, [np.arange(8.0)], [3], gone))


def test_weights_that_come_back_are_said():
    stage = tfopt.PruneChannels(final_ratio=0.5)
    model = stack(32, 32)
    wrapped = stage.apply(model, steps=6)
    before = wrapped.get_weights()
    wrapped.fit(X, Y, batch_size=16, verbose=0)
    wrapped.set_weights(before)
    with pytest.warns(UserWarning, match="no longer zero"):
        stage.strip(wrapped)


def test_without_training_and_inputs_nothing_compensates_and_that_is_said():
    stage = tfopt.PruneChannels(final_ratio=0.5)
    with pytest.warns(UserWarning, match="without calibrate"):
        stage.strip(stage.apply(stack(32, 32), steps=0))


def test_a_loaded_model_is_trained_on_with_the_callbacks_of_the_stage(tmp_path):
    stage = tfopt.PruneChannels(final_ratio=0.5)
    wrapped = stage.apply(stack(32, 32), steps=6)
    wrapped.fit(X, Y, batch_size=16, verbose=0)
    wrapped.save(tmp_path / "w.keras")
    again = tfopt.load_model(tmp_path / "w.keras")
    again.compile("adam", "sparse_categorical_crossentropy")
    again.fit(X, Y, verbose=0, callbacks=tfopt.PruneChannels(final_ratio=0.5).callbacks())
    small = stage.strip(again)
    assert small.get_layer("d1").units == stage.strip(wrapped).get_layer("d1").units < 32
    np.testing.assert_allclose(small.predict(X, verbose=0), again.predict(X, verbose=0), atol=1e-5)


def test_a_model_saved_before_the_end_of_the_ramp_is_refused_before_training(tmp_path):
    stage = tfopt.PruneChannels(final_ratio=0.3)
    wrapped = stage.apply(stack(32, 32), steps=600)
    wrapped.fit(X, Y, batch_size=16, verbose=0)
    wrapped.save(tmp_path / "w.keras")
    again = tfopt.load_model(tmp_path / "w.keras")
    again.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ModelError, match=r"cannot go on with .* Apply the stage again"):
        again.fit(X, Y, verbose=0, callbacks=stage.callbacks())


def test_weights_of_a_finished_training_are_loaded_into_a_new_one():
    stage = tfopt.PruneChannels(final_ratio=0.5)
    wrapped, fresh = stage.apply(stack(32, 32), steps=6), stage.apply(stack(32, 32), steps=6)
    wrapped.fit(X, Y, batch_size=16, verbose=0)
    fresh.set_weights(wrapped.get_weights())
    assert stage.strip(fresh).get_layer("d1").units == stage.strip(wrapped).get_layer("d1").units


def test_dead_filters_of_a_file_stay_where_a_rule_says_so(tmp_path):
    model = stack(16, 64)
    kernel, bias = model.get_layer("d0").get_weights()
    model.get_layer("d0").set_weights([kernel * (np.arange(16) > 3), bias * 0])
    stage = tfopt.PruneChannels(final_ratio=0.6, layers=(("d0", False),))
    wrapped = stage.apply(model, steps=6)
    wrapped.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    wrapped.fit(X, Y, batch_size=16, verbose=0)
    wrapped.save(tmp_path / "w.keras")
    assert stage.strip(tfopt.load_model(tmp_path / "w.keras")).get_layer("d0").units == 16


def test_a_file_of_a_model_that_was_not_stripped_is_refused(tmp_path):
    stage = tfopt.PruneChannels(final_ratio=0.5)
    wrapped = stage.apply(stack(32, 32), steps=6)
    wrapped.fit(X, Y, batch_size=16, verbose=0)
    with pytest.raises(ModelError, match="strip"):
        tfopt.export_tflite(wrapped, tmp_path / "w.tflite", representative_data=X)


def test_inputs_by_name_and_datasets():
    one, other = keras.Input((8,), name="zeta"), keras.Input((5,), name="alpha")
    model = keras.Model({"zeta": one, "alpha": other}, L.Dense(2)(L.Dense(16)(L.Concatenate()([one, other]))))
    stage = tfopt.PruneChannels(final_ratio=0.6)
    wrapped = stage.apply(model, steps=0)
    stage.calibrate(wrapped, {"zeta": X, "alpha": X[:, :5]})
    assert stage.strip(wrapped).count_params() < model.count_params()
    import tensorflow as tf

    with pytest.raises(DataError, match=r"got a tf\.data\.Dataset"):
        stage.calibrate(stage.apply(stack(32), steps=0), tf.data.Dataset.from_tensor_slices(X).batch(8))


def test_normalized_channels_count_by_their_scale():
    """A large bias before a BatchNormalization does not matter; what matters is its scale: here none for channel 0."""
    inputs = keras.Input((6,))
    norm = L.BatchNormalization(name="norm")
    model = keras.Model(inputs, L.Dense(1, name="out")(norm(L.Dense(4, name="made")(inputs))))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 6)).astype("float32")
    kernel, bias = rng.normal(size=(6, 4)) / np.sqrt(6), np.array([50.0, 0, 0, 0])
    model.get_layer("made").set_weights([kernel, bias])
    made = x @ kernel + bias
    norm.set_weights([np.array([0.1, 1, 1, 1]), np.zeros(4), made.mean(axis=0), made.var(axis=0)])
    flat = bridge.to_tf_keras(model)
    channels = channels_of(flat)
    (group,) = channels.groups
    whole = flat.predict(x, verbose=0)
    changes = [np.square(masked(channels, [root]).predict(x, verbose=0) - whole).mean() for root in group.roots]
    for size in (1, 32):
        gradients = gradients_on(flat, channels, x, size)
        (found,) = scores_of_gradients(channels, weights_of(channels), gradients)
        assert found.argmin() == np.argmin(changes) == 0 and found[0] < 0.1 * found[1:].min()


def test_fisher_is_of_each_sample():
    """Mean over samples of (v g)^2: twice the same input gives the same score, one batch of both four times as much."""
    model = stack(4)
    flat = bridge.to_tf_keras(model)
    channels = channels_of(flat)
    rows = [len(list(gradients_on(flat, channels, X[:8], size))) for size in (1, 8)]
    assert rows == [8, 1]
    stage = tfopt.PruneChannels(criterion="fisher", final_ratio=0.6)
    wrapped = stage.apply(stack(32), steps=0)
    with_samples = []
    import tfopt.stages.channels.shrinking as module

    before = module.gradients_on
    try:
        module.gradients_on = lambda *args: with_samples.append(args[3]) or before(*args)
        stage.calibrate(wrapped, X[:16])
    finally:
        module.gradients_on = before
    assert with_samples == [1]


def test_gradients_of_probabilities_by_hand():
    """With answers drawn from p, the gradient of -log p(drawn) by a logit is p - 1 for the drawn class, else p."""
    for last, outputs in (("softmax", 3), ("sigmoid", 2)):
        model = keras.Sequential([keras.Input((8,)), L.Dense(4, name="made"), L.Dense(outputs, last, name="out")])
        flat = bridge.to_tf_keras(model)
        channels = channels_of(flat)
        weights = {name: [np.asarray(w) for w in flat.get_layer(name).weights] for name in ("made", "out")}
        sample, probability = X[:1], flat.predict(X[:1], verbose=0)[0]
        answers = np.eye(3) if last == "softmax" else np.array([[a, b] for a in (0, 1) for b in (0, 1)])
        seen = set()
        for seed in range(12):
            (gradient,) = gradients_on(flat, channels, sample, 1, seed)
            by_units = gradient["made", 1]  # of the bias: that of the units
            wanted = [weights["out"][0] @ (probability - answer) for answer in answers]
            nearest = int(np.argmin([np.abs(each - by_units).max() for each in wanted]))
            np.testing.assert_allclose(by_units, wanted[nearest], rtol=1e-3, atol=1e-5)
            seen.add(nearest)
        assert len(seen) > 1  # answers are drawn, not the likeliest ones


def test_a_layer_called_twice_is_solved_on_all_its_inputs():
    i, j = keras.Input((12,)), keras.Input((12,))
    p, q, s = (L.Dense(n, a, name=m) for n, a, m in ((32, "relu", "p"), (32, "relu", "q"), (8, None, "s")))
    keras.utils.set_random_seed(1)
    model = keras.Model([i, j], L.Dense(3)(L.Concatenate()([s(p(i)), s(q(j))])))
    rng = np.random.default_rng(0)
    inputs = [
        (0.1 * rng.normal(size=(200, 12))).astype("float32"),
        (5 * rng.normal(size=(200, 12)) + 2).astype("float32"),
    ]
    whole, errors = model.predict(inputs, verbose=0), {}
    for order in (inputs, inputs[::-1]):
        whole = model.predict(order, verbose=0)
        for solve in (True, False):
            stage = tfopt.PruneChannels(
                epochs=0, final_ratio=0.6, round_to=4, layers=(("s", False),), reconstruct=solve
            )
            wrapped = stage.apply(model, steps=0)
            stage.calibrate(wrapped, order)
            small = stage.strip(wrapped).predict(order, verbose=0)
            errors[solve] = np.square(small - whole).mean() / whole.var()
        assert errors[True] < errors[False]


def test_what_a_removal_changes_is_found_and_named(monkeypatch):
    channels = flat_channels(stack(16, 16))
    gone = [int(group.roots[0]) for group in channels.groups]
    monkeypatch.setattr("tfopt.surgery.channels.cut.LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(
        ModelError, match=r"changed the outputs of .* by .*Keep those of d0, d1 with layers=\(\('d0', False\)"
    ):
        without_channels(channels, gone, X[:4])


def test_declarations_of_custom_layers_are_checked():
    class Wrong(L.Layer):
        tfopt_channels = "foo"

        def call(self, x):
            return x

    class Heavy(Wrong):
        tfopt_channels = "alone"

        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1],))

    for layer, said in ((Wrong(), "expected one of 'alone', 'merge', 'places'"), (Heavy(), "it has 1")):
        model = keras.Sequential([keras.Input((8,)), L.Dense(16), layer, L.Dense(2)])
        with pytest.raises(ModelError, match=said):
            tfopt.PruneChannels().apply(model, steps=4)


def test_widths_of_another_model_are_refused():
    with pytest.raises(RecipeError, match="for each of the 1 groups of channels; widths has 3 numbers"):
        tfopt.PruneChannels(widths=(8, 8, 8)).apply(stack(32), steps=4)


def test_stated_widths_are_met():
    stage = tfopt.PruneChannels(widths=(8, 24))
    wrapped = stage.apply(stack(32, 32), steps=6)
    wrapped.fit(X[:16], Y[:16], verbose=0)
    with pytest.raises(PromiseError, match="of the channels remain"):
        stage.strip(wrapped)
    wrapped.fit(X, Y, batch_size=16, verbose=0)
    small = stage.strip(wrapped)
    assert [small.get_layer(name).units for name in ("d0", "d1")] == [8, 24]
    assert shrinking_of(wrapped).complete


def test_the_penalty_by_hand():
    """Two Dense layers of one group: channel 1 is gone; the others have importance 1 and 3, so 2^4 and 1 times 0.01."""
    model = keras.Sequential([keras.Input((2,)), L.Dense(3, name="made"), L.Dense(1, name="read")])
    flat = bridge.to_tf_keras(model)
    kernel, bias, read = np.ones((2, 3)), np.ones(3), np.ones((3, 1))
    flat.set_weights([kernel, bias, read, np.ones(1)])
    channels = channels_of(flat)
    (group,) = channels.groups
    shrink_weights(channels, [np.array([1.0, 0.0, 3.0])], [int(group.roots[1])], 0.01)
    factors = np.array([1 - 0.16, 1.0, 1 - 0.01])
    made, offset, after, last = flat.get_weights()
    np.testing.assert_allclose(made, np.tile(factors, (2, 1)), rtol=1e-6)
    np.testing.assert_allclose(offset, factors, rtol=1e-6)
    np.testing.assert_allclose(after[:, 0], factors, rtol=1e-6)
    assert last == 1


def test_a_penalty_makes_the_removal_change_less():
    changes = {}
    for strength in (0.0, 20.0):
        stage = tfopt.PruneChannels(final_ratio=0.5, regularization=strength, iterations=1)
        wrapped = stage.apply(stack(64, 64), steps=120)
        assert stage._schedule(120) == [(30 if strength else 0, 1.0)]
        found = shrinking_of(wrapped)
        found._pending = [(60, 1.0)]  # at the same step in both
        norms = []
        before = found.update
        found.update = lambda progress, norms=norms, wrapped=wrapped, before=before: (
            norms.append(wrapped.predict(X, verbose=0)), before(progress), norms.append(wrapped.predict(X, verbose=0))
        )  # fmt: skip
        wrapped.fit(X, Y, batch_size=16, epochs=11, verbose=0)
        changes[strength] = np.abs(norms[0] - norms[1]).mean()
    assert changes[20.0] < 0.7 * changes[0.0]
