"""Compile settings across the bridge, in all four directions."""

import numpy as np
import pytest

from tfopt import bridge
from tfopt.base import keras_compat
from tfopt.errors import ModelError


def kerases():
    import keras

    return {"keras": keras, "tf_keras": keras_compat.tf_keras()}


PAIRS = [(a, b) for a in ("keras", "tf_keras") for b in ("keras", "tf_keras")]


def small(api, out=3, name="out", activation=None):
    return api.Sequential(
        [api.Input((4,)), api.layers.Dense(5, "tanh"), api.layers.Dense(out, activation, name=name)], name="m"
    )


def schedule(api):
    return api.optimizers.schedules.CosineDecay(0.2, 10, alpha=0.1)


OPTIMIZERS = {
    "SGD": {"learning_rate": 0.3, "momentum": 0.8, "nesterov": True, "clipnorm": 2.0},
    "Adam": {"learning_rate": 0.02, "beta_1": 0.7, "beta_2": 0.9, "epsilon": 1e-4, "amsgrad": True},
    "AdamW": {"learning_rate": 0.02, "weight_decay": 0.05},
    "RMSprop": {"learning_rate": 0.02, "rho": 0.8, "centered": True, "momentum": 0.1},
    "Adagrad": {"learning_rate": 0.02, "initial_accumulator_value": 0.2},
    "Adadelta": {"learning_rate": 0.02, "rho": 0.8},
    "Adamax": {"learning_rate": 0.02, "beta_1": 0.8},
    "Nadam": {"learning_rate": 0.02, "beta_2": 0.9},
    "Ftrl": {"learning_rate": 0.02, "l1_regularization_strength": 0.1},
    "Lion": {"learning_rate": 0.02, "beta_1": 0.8},
}


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_is_carried(a, b, name):
    source, target = small(kerases()[a]), small(kerases()[b])
    optimizer = getattr(kerases()[a].optimizers, name)(**OPTIMIZERS[name])
    source.compile(optimizer, "mse")
    bridge.compile_like(target, source)
    assert type(target.optimizer).__name__ == name
    assert type(target.optimizer).__module__.partition(".")[0] == b
    assert target.optimizer is not optimizer
    config = target.optimizer.get_config()
    for key, value in OPTIMIZERS[name].items():
        assert config[key] == pytest.approx(value)
    assert bridge.is_compiled(target)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_schedule_is_carried(a, b):
    source, target = small(kerases()[a]), small(kerases()[b])
    source.compile(kerases()[a].optimizers.SGD(schedule(kerases()[a])), "mse")
    bridge.compile_like(target, source)
    config = target.optimizer.get_config()["learning_rate"]
    assert config["class_name"] == "CosineDecay"
    wanted = {"initial_learning_rate": 0.2, "decay_steps": 10, "alpha": 0.1}
    assert {key: config["config"][key] for key in wanted} == wanted


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_learning_rate_as_it_stands_now(a, b):
    source, target = small(kerases()[a]), small(kerases()[b])
    source.compile(kerases()[a].optimizers.Adam(0.5), "mse")
    source.optimizer.learning_rate = 0.125
    bridge.compile_like(target, source)
    assert float(np.asarray(target.optimizer.learning_rate)) == 0.125


def own_loss(y, p):
    import tensorflow as tf

    return tf.reduce_mean(tf.abs(y - p) ** 3, axis=-1)


LOSSES = {
    "mse": lambda api: "mse",
    "function": lambda api: api.losses.mean_absolute_error,
    "own function": lambda api: own_loss,
    "Huber": lambda api: api.losses.Huber(delta=0.3),
    "CategoricalCrossentropy": lambda api: api.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2),
    "sum": lambda api: api.losses.MeanSquaredError(reduction="sum"),
    "class": lambda api: api.losses.MeanSquaredError,
}


@pytest.mark.slow
@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("loss", LOSSES)
def test_one_step_of_sgd_agrees(a, b, loss):
    one, other = kerases()[a], kerases()[b]
    if loss == "class" and a == "tf_keras":
        pytest.skip("tf_keras takes no class as loss")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 4)).astype("float32")
    y = np.eye(3, dtype="float32")[rng.integers(0, 3, 8)]
    source, target = small(one), small(other)
    target.set_weights(source.get_weights())
    source.compile(one.optimizers.SGD(0.1), LOSSES[loss](one), metrics=["accuracy", "mae"])
    bridge.compile_like(target, source)
    ours = target.fit(x, y, batch_size=8, verbose=0, shuffle=False).history
    theirs = source.fit(x, y, batch_size=8, verbose=0, shuffle=False).history
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert ours[key] == pytest.approx(theirs[key], rel=1e-4)
    for ours, theirs in zip(target.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_metrics_are_new_and_equal(a, b):
    one, other = kerases()[a], kerases()[b]
    source, target = small(one), small(other)
    top = one.metrics.TopKCategoricalAccuracy(k=2, name="top2")
    source.compile("sgd", "categorical_crossentropy", metrics=[top, "accuracy"], weighted_metrics=["mae"])
    bridge.compile_like(target, source)
    assert target.evaluate(np.zeros((2, 4)), np.eye(3)[:2], verbose=0, return_dict=True).keys() == {
        "loss",
        "top2",
        "accuracy",
        "mae",
    }
    mine = target._compile_config.config["metrics"][0]
    assert mine is not top
    assert mine.get_config()["k"] == 2


def two_outputs(api, wrap):
    """Outputs named after a nested model if `wrap`; the flat model names them after its layers."""
    inputs = api.Input((4,))
    head = api.Sequential([api.Input((4,)), api.layers.Dense(2, name="inner")], name="head")
    first = head(inputs) if wrap else api.layers.Dense(2, name="inner")(inputs)
    return api.Model(inputs, [first, api.layers.Dense(1, name="other")(inputs)])


@pytest.mark.parametrize("api", ["keras", "tf_keras"])
def test_settings_by_output_name_follow_the_output(api):
    api = kerases()[api]
    source = two_outputs(api, wrap=True)
    source.compile(
        "sgd",
        loss={"head": "mse", "other": api.losses.Huber()},
        loss_weights={"head": 0.25, "other": 2.0},
        metrics={"head": ["mae"], "other": [api.metrics.MeanSquaredError(name="m")]},
    )
    flat = bridge.to_tf_keras(source)
    assert flat.loss.keys() == {"inner", "other"}
    x, y = np.ones((2, 4), "float32"), [np.zeros((2, 2), "float32"), np.zeros((2, 1), "float32")]
    assert flat.evaluate(x, y, verbose=0)[0] == pytest.approx(source.evaluate(x, y, verbose=0)[0], rel=1e-5)
    back = bridge.to_keras(flat, source)
    assert back.loss.keys() == {"head", "other"}
    assert back.evaluate(x, y, verbose=0)[0] == pytest.approx(source.evaluate(x, y, verbose=0)[0], rel=1e-5)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_lists_of_losses(a, b):
    one, other = kerases()[a], kerases()[b]
    source, target = two_outputs(one, False), two_outputs(other, False)
    source.compile("sgd", loss=["mse", one.losses.Huber()], loss_weights=[0.5, 1.0], metrics=[["mae"], []])
    bridge.compile_like(target, source)
    target.set_weights(source.get_weights())
    x, y = np.ones((2, 4), "float32"), [np.zeros((2, 2), "float32"), np.zeros((2, 1), "float32")]
    assert target.evaluate(x, y, verbose=0)[0] == pytest.approx(source.evaluate(x, y, verbose=0)[0], rel=1e-5)


def test_uncompiled_stays_uncompiled():
    for api in kerases().values():
        model = small(api)
        flat = bridge.to_tf_keras(model)
        assert not bridge.is_compiled(flat)
        assert not bridge.is_compiled(bridge.to_keras(flat, model))
        with pytest.raises(ModelError, match="not compiled"):
            bridge.compile_like(flat, model)


def test_what_keras_3_lacks_is_named():
    keras, tf_keras = kerases().values()

    class Mine(tf_keras.losses.Loss):
        def call(self, y, p):
            return (y - p) ** 2

    class OwnMean(tf_keras.metrics.Mean):
        pass

    class Rate(tf_keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1

        def get_config(self):
            return {}

    for settings, words in (
        ({"optimizer": tf_keras.optimizers.SGD(Rate())}, "Rate"),
        ({"loss": Mine()}, "Mine"),
        ({"metrics": [tf_keras.metrics.R2Score(), OwnMean()]}, "OwnMean"),
    ):
        source = small(tf_keras)
        source.compile(**{"optimizer": "sgd", "loss": "mse", **settings})
        with pytest.raises(ModelError, match=rf"({words}).*compile the result yourself"):
            bridge.compile_like(small(keras), source)


def own_keras3(keras, reduction="sum_over_batch_size"):
    class Cubes(keras.losses.Loss):
        def call(self, y, p):
            return keras.ops.mean(keras.ops.abs(y - p) ** 3, axis=-1)

    return Cubes(reduction=reduction)


class Cubed:
    """A loss that is called like a function; with integer labels it fails."""

    def __call__(self, y_true, y_pred):
        import keras

        return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** 3, axis=-1)


CARRIED_LOSSES = {
    "object": lambda keras: keras.losses.Dice(),
    "name": lambda keras: "tversky",
    "sum": lambda keras: own_keras3(keras, "sum"),
    "weighted mean": lambda keras: keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"),
    "own class": own_keras3,
    "callable": lambda keras: Cubed(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CARRIED_LOSSES)
def test_a_loss_that_tf_keras_lacks_runs_as_keras_3(name):
    keras, _ = kerases().values()
    model, rng = small(keras, activation="softmax"), np.random.default_rng(0)
    model.compile("sgd", CARRIED_LOSSES[name](keras))
    x, y = rng.normal(size=(24, 4)).astype("float32"), np.eye(3, dtype="float32")[rng.integers(0, 3, 24)]
    weights = rng.uniform(0, 1, 24).astype("float32")
    flat = bridge.to_tf_keras(model)
    for sample_weight in (None, weights):
        wanted = model.evaluate(x, y, 8, sample_weight=sample_weight, verbose=0)
        assert flat.evaluate(x, y, 8, sample_weight=sample_weight, verbose=0) == pytest.approx(wanted, rel=1e-5)
    for each in (model, flat):  # one step of descent: the gradient is that of Keras 3
        each.train_on_batch(x, y)
    for ours, theirs in zip(model.get_weights(), flat.get_weights(), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-6)


def test_a_callable_loss_gets_floats():
    keras, _ = kerases().values()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", Cubed())
    x, y = np.random.default_rng(0).normal(size=(24, 4)).astype("float32"), np.arange(24).reshape(-1, 1) % 3
    expected = np.mean(np.abs(y - model.predict(x, verbose=0).astype("float64")) ** 3)
    assert bridge.to_tf_keras(model).evaluate(x, y, 24, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_metrics_that_tf_keras_lacks_run_as_keras_3():
    keras, _ = kerases().values()

    @keras.saving.register_keras_serializable("tests")
    class Batches(keras.metrics.Metric):
        def __init__(self, name="batches", **settings):
            super().__init__(name=name, **settings)
            self.count = self.add_weight(name="count", initializer="zeros")

        def update_state(self, y, p, sample_weight=None):
            self.count.assign_add(1.0)

        def result(self):
            return self.count

    model, rng = small(keras), np.random.default_rng(0)
    own = Batches()
    model.compile("sgd", "mse", metrics=[keras.metrics.PearsonCorrelation(), own])
    x, y = rng.normal(size=(24, 4)).astype("float32"), rng.normal(size=(24, 3)).astype("float32")
    flat = bridge.to_tf_keras(model)
    for _ in range(2):  # evaluate starts from zero each time
        found = flat.evaluate(x, y, 8, verbose=0, return_dict=True)
    assert found["batches"] == 3
    assert float(own.result()) == 0  # the caller's metric is not touched
    wanted = model.evaluate(x, y, 8, verbose=0, return_dict=True)["pearson_correlation"]
    assert found["pearson_correlation"] == pytest.approx(wanted, rel=1e-4)


def test_a_schedule_that_tf_keras_lacks_runs_as_keras_3():
    keras, tf_keras = kerases().values()

    class Falling(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.5 / (1 + keras.ops.cast(step, "float32"))

        def get_config(self):
            return {}

    source, target = small(keras), small(tf_keras)
    source.compile(keras.optimizers.SGD(Falling(), momentum=0.8), "mse")
    assert bridge.compile_like(target, source) == ()
    assert target.optimizer.get_config()["momentum"] == pytest.approx(0.8)
    rates = []
    for _ in range(3):
        target.train_on_batch(np.ones((2, 4), "float32"), np.ones((2, 3), "float32"))
        rates.append(float(target.optimizer.learning_rate))  # that of the last step
    assert rates == pytest.approx([0.5, 0.25, 0.5 / 3])


def test_an_optimizer_that_tf_keras_lacks_is_replaced_and_said():
    keras, tf_keras = kerases().values()

    class Mine(keras.optimizers.SGD):
        pass

    for optimizer, used, words in (
        (keras.optimizers.Muon(0.03), ("Adam", 0.03), "no optimizer Muon: Adam with its learning rate"),
        (Mine(0.2, momentum=0.7), ("SGD", 0.2), "no optimizer Mine: SGD with its settings"),
        (keras.optimizers.AdamW(0.1, gradient_accumulation_steps=4), ("AdamW", 0.1), "gradient_accumulation_steps=4"),
        (keras.optimizers.AdamW(0.1, loss_scale_factor=8.0), ("AdamW", 0.1), ""),
    ):
        source, target = small(keras), small(tf_keras)
        source.compile(optimizer, "mse")
        notes = bridge.compile_like(target, source)
        assert type(target.optimizer).__name__ == used[0]
        assert float(target.optimizer.learning_rate) == pytest.approx(used[1])
        assert [words in note for note in notes] == ([True] if words else [])
        if type(optimizer) is Mine:
            assert target.optimizer.get_config()["momentum"] == pytest.approx(0.7)


def test_a_metric_that_cannot_be_copied_is_left_out_and_said():
    for api in kerases().values():

        class Fixed(api.metrics.Mean):
            def __init__(self, level):
                super().__init__(name="fixed")
                self.level = level

            def get_config(self):
                return {}

        source, target = small(api), small(kerases()["tf_keras"])
        source.compile("sgd", "mse", metrics=["mae", Fixed(2)])
        (note,) = bridge.compile_like(target, source)
        assert "the metric Fixed is left out" in note
        target.evaluate(np.ones((2, 4)), np.ones((2, 3)), verbose=0)
        assert [metric.name for metric in target.metrics] == ["loss", "mae"]


def test_a_stage_says_what_it_trains_with():
    import tfopt

    keras, _ = kerases().values()
    model = small(keras)
    model.compile(keras.optimizers.Muon(0.01), "mse")
    with pytest.warns(UserWarning, match="no optimizer Muon"):
        tfopt.Prune().apply(model, steps=1)


@pytest.mark.parametrize(
    ("kind", "name"), [("losses", "SparseCategoricalCrossentropy"), ("metrics", "SparseTopKCategoricalAccuracy")]
)
def test_arguments_at_their_defaults_need_no_equal(kind, name):
    import keras

    setting = getattr(getattr(keras, kind), name)()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    model.compile("sgd", setting if kind == "losses" else "mse", [setting] if kind == "metrics" else None)
    assert bridge.is_compiled(bridge.to_tf_keras(model))
