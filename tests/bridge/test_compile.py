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
        assert bridge.compiled_loss(model) is None
        with pytest.raises(ModelError, match="not compiled"):
            bridge.compile_like(flat, model)


def test_compiled_loss_is_data():
    for api in kerases().values():
        model = small(api)
        model.compile("sgd", "mse")
        assert bridge.compiled_loss(model) == "mse"
        model.compile("sgd", api.losses.mean_absolute_error)
        assert bridge.compiled_loss(model) == "mean_absolute_error"
        model.compile("sgd", own_loss)
        assert bridge.compiled_loss(model) is None
        model.compile("sgd", api.losses.Huber(delta=0.5))
        described = bridge.compiled_loss(model)
        assert described["class_name"] == "Huber"
        assert described["config"]["delta"] == 0.5


def test_what_has_no_twin_is_named():
    keras, tf_keras = kerases().values()
    target = small(tf_keras)

    class Mine(keras.losses.Loss):
        def call(self, y, p):
            return (y - p) ** 2

    class Rate(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1

        def get_config(self):
            return {}

    for settings, words in (
        ({"optimizer": "muon" if hasattr(keras.optimizers, "Muon") else keras.optimizers.Lamb()}, "Muon|Lamb"),
        ({"optimizer": keras.optimizers.SGD(Rate())}, "Rate"),
        ({"optimizer": keras.optimizers.SGD(gradient_accumulation_steps=4)}, "gradient_accumulation_steps=4"),
        ({"loss": "circle"}, "circle"),
        ({"loss": Mine()}, "Mine"),
        ({"metrics": [keras.metrics.R2Score(), keras.metrics.PearsonCorrelation()]}, "PearsonCorrelation"),
    ):
        source = small(keras)
        source.compile(**{"optimizer": "sgd", "loss": "mse", **settings})
        with pytest.raises(ModelError, match=rf"({words}).*compile the result yourself"):
            bridge.compile_like(target, source)


@pytest.mark.parametrize(
    ("kind", "name"), [("losses", "SparseCategoricalCrossentropy"), ("metrics", "SparseTopKCategoricalAccuracy")]
)
def test_arguments_at_their_defaults_need_no_equal(kind, name):
    import keras

    setting = getattr(getattr(keras, kind), name)()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    model.compile("sgd", setting if kind == "losses" else "mse", [setting] if kind == "metrics" else None)
    assert bridge.is_compiled(bridge.to_tf_keras(model))
