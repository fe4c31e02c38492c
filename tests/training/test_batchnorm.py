"""BatchNormalization statistics against NumPy in float64."""

import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.base.overrides import override_attributes
from tfopt.base.progress import Progress
from tfopt.stages import Prune, Quantize
from tfopt.training import batchnorm
from tfopt.training.fit import train

RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (90, 4)).astype("float32")
BATCHES = [(X[:32], 32), (X[32:64], 32), (X[64:], 26)]


def net(momentum=0.99, dropout=0.0, twice=False):
    layers = tf_keras().layers
    norm = layers.BatchNormalization(momentum=momentum, name="norm")
    inputs = tf_keras().Input((4,))
    hidden = norm(layers.Dropout(dropout)(layers.Dense(5, name="first")(inputs)))
    if twice:
        hidden = norm(hidden)
    last = layers.BatchNormalization(momentum=momentum, name="last")(layers.Dense(3, name="second")(hidden))
    model = tf_keras().Model(inputs, layers.Softmax()(last))
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) * (1 if w.ndim == 1 else rng.normal(size=w.shape))
                       for w in model.get_weights()])  # fmt: skip
    return model


def by_hand(model):
    """Mean and variance of both layers: each batch is normalized by its own mean and variance."""
    (k1, b1), (k2, b2) = (model.get_layer(name).get_weights() for name in ("first", "second"))
    gamma, beta = model.get_layer("norm").get_weights()[:2]
    epsilon = model.get_layer("norm").epsilon
    seen = [[], []]
    for x, count in BATCHES:
        values = x.astype("float64") @ k1 + b1
        seen[0].append((count, values.mean(axis=0), values.var(axis=0)))
        values = (values - values.mean(axis=0)) / np.sqrt(values.var(axis=0) + epsilon) * gamma + beta
        values = values @ k2 + b2
        seen[1].append((count, values.mean(axis=0), values.var(axis=0)))
    found = []
    for parts in seen:
        counts = np.array([count for count, _, _ in parts])[:, None]
        means, variances = np.array([m for _, m, _ in parts]), np.array([v for _, _, v in parts])
        mean = (counts * means).sum(axis=0) / len(X)
        found.append((mean, (counts * (variances + (means - mean) ** 2)).sum(axis=0) / len(X)))
    return found


def found_in(model):
    return [model.get_layer(name).get_weights()[2:] for name in ("norm", "last")]


def same(before, after):
    return all((old == new).all() for pair in zip(before, after, strict=True) for old, new in zip(*pair, strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_statistics_are_those_of_the_data_without_dropout(dropout):
    model = net(dropout=dropout)
    expected = by_hand(model)
    others = [model.get_layer(name).get_weights() for name in ("first", "second")]
    assert [norm.name for norm in batchnorm.recompute_statistics(model, BATCHES)] == ["norm", "last"]
    for (mean, variance), got in zip(expected, found_in(model), strict=True):
        np.testing.assert_allclose(got[0], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got[1], variance, rtol=1e-4)
    assert model.get_layer("norm").momentum == 0.99
    for before, name in zip(others, ("first", "second"), strict=True):
        for old, new in zip(before, model.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


def test_frozen_layers_and_layers_called_twice_keep_theirs():
    model = net(twice=True)
    model.get_layer("last").trainable = False
    before = found_in(model)
    assert batchnorm.recompute_statistics(model, BATCHES) == []
    assert same(before, found_in(model))


@pytest.mark.parametrize("stage", [Prune(), Quantize()], ids=["Prune", "Quantize"])
def test_layers_in_wrappers_are_found(stage):
    model = net()
    applied = stage.apply(model, steps=10)
    names = [norm.name for norm in batchnorm.recompute_statistics(applied, BATCHES)]
    assert names == ["norm", "last"]


def test_layers_inside_layers_are_found():
    package = tf_keras()
    norm = package.layers.BatchNormalization(name="deep")
    model = package.Sequential([package.Input((6, 4)), package.layers.TimeDistributed(norm)])
    x = RNG.normal(5, 3, (20, 6, 4)).astype("float32")
    assert batchnorm.recompute_statistics(model, [(x, 20)]) == [norm]
    np.testing.assert_allclose(norm.moving_mean, x.mean(axis=(0, 1), dtype="float64"), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, x.var(axis=(0, 1), dtype="float64"), rtol=1e-4)


def test_lag_is_one_if_means_shift_by_a_deviation():
    norm = tf_keras().layers.BatchNormalization(epsilon=0.0)
    precise = [(np.array([1.0, 2.0]), np.array([4.0, 9.0]))]
    shifted = [(np.array([3.0, 5.0]), np.array([4.0, 9.0]))]  # by 2 and by 3: once each deviation
    assert batchnorm.statistics_shift([norm], shifted, precise) == pytest.approx(np.sqrt((1 + 1 + 0 + 0) / 4))
    wider = [(np.array([1.0, 2.0]), np.array([16.0, 36.0]))]  # twice each deviation
    assert batchnorm.statistics_shift([norm], wider, precise) == pytest.approx(np.sqrt((0 + 0 + 1 + 1) / 4))
    assert batchnorm.statistics_shift([norm], precise, precise) == 0


@pytest.mark.parametrize(("steps", "momentum"), [(5, 0.5), (48, 1 - 1 / 4.8), (500, 0.98), (1000, 0.99), (5000, 0.99)])
def test_momentum_fits_the_number_of_steps(steps, momentum):
    model = net()
    with override_attributes(batchnorm.fitting_momentum(model, steps)):
        assert model.get_layer("norm").momentum == pytest.approx(momentum)
    assert model.get_layer("norm").momentum == 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("batchnorm_", "seen", "samples", "moves"), [
    ("frozen", True, 200, False), ("frozen", False, 200, True), ("train", True, 200, True),
    ("auto", True, 200, False), ("auto", True, 1500, True), ("auto", False, 200, True),
])  # fmt: skip
def test_which_statistics_are_used_in_training(batchnorm_, seen, samples, moves, monkeypatch):
    """Statistics that the training uses and does not change are those from before."""
    monkeypatch.setattr("tfopt.training.fit.SMALL_SHIFT", np.inf)  # keep what the training has made
    rng = np.random.default_rng(2)
    data = tfopt.load_data((rng.normal(3, 2, (samples, 4)).astype("float32"), rng.integers(0, 3, samples)))
    model = net()
    for name in ("norm", "last"):
        gamma, beta, mean, variance = model.get_layer(name).get_weights()
        if not seen:
            mean, variance = 0 * mean, 0 * variance + 1
        model.get_layer(name).set_weights([gamma, beta, mean, variance])
    before = found_in(model)
    trained(model, data, batchnorm_)
    assert all((new != old).all() == moves for pairs in zip(before, found_in(model), strict=True)
               for old, new in zip(*pairs, strict=True))  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"batchnorm": "frozen"}, 1 / 2),  # 10 steps, of which the first 2 rise
        ({"batchnorm": "auto"}, 1 / 2),
        ({"batchnorm": "frozen", "schedule": "constant"}, 1 / 2),
        ({"batchnorm": "train"}, 1.0),
        ({"batchnorm": "frozen", "warm_up": 0.0}, 1.0),
        ({"batchnorm": "frozen", "warm_up": 0.4}, 1 / 4),
        ({"batchnorm": "frozen", "schedule": "one_cycle"}, 1 / 25),
    ],
)
def test_the_rate_rises_where_trained_statistics_are_kept(settings, first):
    rates = []

    class Rates(tf_keras().callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    rng = np.random.default_rng(2)
    data = tfopt.load_data((rng.normal(3, 2, (80, 4)).astype("float32"), np.arange(80) % 3))
    given = tfopt.Training(learning_rate=1e-3, batch_size=32, **settings)
    train(
        net(), data.batches("train", 32), data, loss="sparse_categorical_crossentropy", training=given, epochs=5,
        progress=Progress(quiet=True), label="test", callbacks=[Rates()],
    )  # fmt: skip
    assert len(rates) == 10
    assert rates[0] == pytest.approx(1e-3 * first)


def trained(model, data, batchnorm_="train", epochs=1):
    return train(
        model,
        data.batches("train", 64),
        data,
        loss="sparse_categorical_crossentropy",
        training=tfopt.Training(batchnorm=batchnorm_, learning_rate=1e-9),
        epochs=epochs,
        progress=Progress(quiet=True),
        label="test",
    )


def test_lagging_averages_are_replaced_if_that_validates_better():
    """Labels are the network's own answers with right statistics; frozen averages are far off."""
    model = net()
    x = RNG.normal(3, 2, (600, 4)).astype("float32")
    batchnorm.recompute_statistics(model, [(x, 600)])
    labels = model.predict(x, verbose=0).argmax(axis=1)
    right = found_in(model)
    for name in ("norm", "last"):
        gamma, beta, mean, variance = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([gamma, beta, mean + 3, 9 * variance])
    notes = trained(model, tfopt.load_data((x, labels)), "frozen").notes
    assert len(notes) == 1 and notes[0].startswith(
        "BatchNormalization statistics recomputed (moving averages are off by"
    )
    for pairs in zip(right, found_in(model), strict=True):
        for expected, got in zip(*pairs, strict=True):
            np.testing.assert_allclose(got, expected, rtol=0.2, atol=0.2)


def test_averages_that_validate_better_are_kept():
    """Labels are the network's answers with its own averages, which are not those of the data."""
    model = net()
    x = RNG.normal(3, 2, (600, 4)).astype("float32")
    for name in ("norm", "last"):
        gamma, beta, _, _ = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([gamma, beta, 1 + 0 * beta, 2 + 0 * beta])
    before = found_in(model)
    labels = model.predict(x, verbose=0).argmax(axis=1)
    notes = trained(model, tfopt.load_data((x, labels)), "frozen").notes
    assert len(notes) == 1 and notes[0].startswith("BatchNormalization keeps its moving averages")
    assert same(before, found_in(model))
