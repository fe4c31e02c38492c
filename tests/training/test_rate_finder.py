"""find_learning_rate: curves against the same descent in NumPy, what it leaves alone, and what it refuses."""

import keras
import matplotlib.image
import numpy as np
import pytest

import tfopt
from tfopt import bridge
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import DataError, OutputError, RecipeError
from tfopt.training.rate_finder import LearningRates, find_learning_rate

BOTH = pytest.mark.parametrize("api", [keras, tf_keras()], ids=["keras", "tf_keras"])
RNG = np.random.default_rng(0)
X = RNG.normal(size=(96, 4)).astype("float32")
TRUE = np.array([1.0, -2.0, 0.5, 3.0])
VALUES = (X @ TRUE + 1).astype("float32")[:, None]


def line(api, **compiled):
    model = api.Sequential([api.Input((4,)), api.layers.Dense(1, kernel_initializer="zeros", name="out")], name="line")
    if compiled:
        model.compile(**compiled)
    return model


def averages(values):
    """Exponential moving averages with their weights written out."""
    steps = np.arange(len(values))
    weights = np.where(steps[:, None] >= steps, 0.9 ** (steps[:, None] - steps).clip(0), 0)
    return weights @ values / weights.sum(axis=1)


def smooth(values):
    """Smooth from the start, then up to the lowest point from there."""
    forwards = averages(values)
    falling = np.arange(len(values)) <= np.argmin(forwards)
    return np.concatenate([averages(forwards[falling][::-1])[::-1], forwards[~falling]])


def descent(rates):
    """Losses of gradient descent on all of X, each before the step with its rate; ended at 4 times the best."""
    inputs = np.hstack([X, np.ones((96, 1))]).astype(np.float64)
    parameters, losses, mean, best = np.zeros(5), [], 0.0, np.inf
    for step, rate in enumerate(rates):
        errors = inputs @ parameters - VALUES[:, 0]
        losses.append(np.mean(errors**2))
        parameters -= rate * 2 * inputs.T @ errors / 96
        mean = 0.9 * mean + 0.1 * losses[-1]
        average = mean / (1 - 0.9 ** (step + 1))
        best = min(best, average)
        if average > 4 * best:
            break
    return np.array(losses)


@BOTH
def test_the_curve_is_that_of_gradient_descent_at_rising_rates(api):
    found = find_learning_rate(line(api), X, VALUES, loss="mse", optimizer="sgd", lowest=1e-4, highest=100, steps=50,
                               batch_size=96, quiet=True)  # fmt: skip
    rates = 1e-4 * 1e6 ** (np.arange(50) / 49)
    losses = descent(rates)
    assert len(found.losses) == len(losses) < 50  # it diverged
    np.testing.assert_allclose(found.rates, rates[: len(losses)])
    np.testing.assert_allclose(found.losses, losses, rtol=1e-3)
    np.testing.assert_allclose(found.smoothed, smooth(losses), rtol=1e-3)
    between = np.diff(smooth(losses)[: np.argmin(averages(losses)) + 1])
    steepest = np.argmin(between[1:] + between[:-1]) + 1  # in equal steps of log rate
    assert found.suggestion == pytest.approx(rates[steepest])
    curvature = np.linalg.eigvalsh(2 * np.cov(X.T)).max()
    assert 0.01 < found.suggestion < 2 / curvature  # above that, descent diverges


def all_of(model):
    state = [weight.tobytes() for weight in model.get_weights()]
    return state, [layer.trainable for layer in model.layers], id(model.optimizer), bridge.is_compiled(model)


@pytest.mark.slow
@BOTH
def test_the_model_is_not_changed_and_its_compiled_settings_are_used(api):
    schedule = api.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    model = line(api, optimizer=api.optimizers.SGD(schedule), loss="mse", metrics=["mae"])
    before = all_of(model)
    found = find_learning_rate(model, X, VALUES, lowest=1e-4, highest=100, steps=50, batch_size=96, quiet=True)
    assert all_of(model) == before
    assert int(model.optimizer.iterations) == 0
    explicit = find_learning_rate(model, X, VALUES, loss="mse", optimizer=api.optimizers.SGD(9.0), lowest=1e-4,
                                  highest=100, steps=50, batch_size=96, quiet=True)  # fmt: skip
    np.testing.assert_allclose(found.losses, explicit.losses, rtol=1e-5)
    adam = find_learning_rate(model, X, VALUES, optimizer="adam", lowest=1e-4, steps=30, batch_size=96, quiet=True)
    assert not np.allclose(adam.losses[:20], found.losses[:20], rtol=1e-3)
    default = find_learning_rate(line(api), X, VALUES, loss="mse", lowest=1e-4, steps=30, batch_size=96, quiet=True)
    np.testing.assert_allclose(default.losses, adam.losses, rtol=1e-5)


@pytest.mark.slow
@BOTH
def test_data_of_every_kind(api):
    import tensorflow as tf

    api.utils.set_random_seed(0)  # from an unlucky start the loss may not fall
    labels = (X[:, 0] > 0).astype("int32")
    model = api.Sequential([api.Input((4,)), api.layers.Dense(2)], name="two")
    loss = api.losses.SparseCategoricalCrossentropy(from_logits=True)
    batches = tf.data.Dataset.from_tensor_slices((X, labels)).batch(32)
    weighted = tf.data.Dataset.from_tensor_slices((X, labels, np.full(96, 2.0, "float32"))).batch(32)
    kinds = {
        "arrays": (X, labels),
        "batches": (batches,),
        "weighted": (weighted,),
        "set": (tfopt.load_data((X, labels)),),
    }
    found = {
        name: find_learning_rate(model, *data, loss=loss, steps=40, batch_size=32, quiet=True)
        for name, data in kinds.items()
    }
    assert all(np.isfinite(each.suggestion) for each in found.values())
    assert found["weighted"].losses[0] == pytest.approx(2 * found["batches"].losses[0], rel=1e-5)
    again = find_learning_rate(model, X, labels, loss=loss, steps=40, batch_size=32, quiet=True)
    np.testing.assert_allclose(again.losses, found["arrays"].losses, rtol=1e-5)
    other = find_learning_rate(model, X, labels, loss=loss, steps=40, batch_size=32, quiet=True, seed=1)
    assert other.losses[0] != pytest.approx(again.losses[0], rel=1e-5)


def test_several_inputs_and_outputs():
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    outputs = [keras.layers.Dense(1, name="a")(first), keras.layers.Dense(1, name="b")(second)]
    model = keras.Model([first, second], outputs)
    model.compile("sgd", ["mse", "mse"], loss_weights=[1.0, 0.5])
    found = find_learning_rate(model, [X, X], [VALUES, VALUES], steps=40, batch_size=96, quiet=True)
    errors = [np.mean((output - VALUES) ** 2) for output in model.predict([X, X], verbose=0)]
    assert found.losses[0] == pytest.approx(errors[0] + 0.5 * errors[1], rel=1e-4)


# What a person sees -------------------------------------------------------------------------------


def some_rates():
    rates = np.geomspace(1e-4, 1.0, 60)
    losses = np.linspace(2.0, 1.0, 60)
    return LearningRates(rates, losses, losses, float(rates[33]))


def test_the_table_says_how_it_was_chosen_and_holds_the_suggestion():
    text = str(some_rates())
    assert f"suggested learning rate: {some_rates().suggestion:.3g} (steepest descent of the smoothed loss)" in text
    (line,) = [line for line in text.splitlines() if line.rstrip(" │").endswith("suggested")]
    assert f"{some_rates().suggestion:.3g}" in line
    assert 20 <= len(text.splitlines()) <= 30


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_plot_is_a_picture(tmp_path, suffix):
    path = some_rates().plot(tmp_path / f"rates.{suffix}")
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert path.read_bytes().startswith(starts[suffix])
    if suffix == "png":
        assert matplotlib.image.imread(path).shape == (675, 1050, 4)


@pytest.mark.parametrize("name", ["rates.txt", "rates"])
def test_a_plot_of_another_kind_is_refused(tmp_path, name):
    with pytest.raises(OutputError, match=r"Cannot draw .*Name a file that ends in \.png"):
        some_rates().plot(tmp_path / name)
    assert not list(tmp_path.iterdir())


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"lowest": 0.0}, RecipeError, "0 < lowest < highest"),
        ({"lowest": 1.0, "highest": 0.5}, RecipeError, "lowest 1.0, highest 0.5"),
        ({"steps": 19}, RecipeError, "at least 20 steps.*steps 19"),
        ({"batch_size": 0}, RecipeError, "batch_size 0"),
        ({"loss": None}, RecipeError, "'line' is not compiled, so it has no loss"),
        ({"optimizer": "addam"}, RecipeError, "Unknown optimizer 'addam'"),
        (
            {"loss": "sparse_categorical_crossentropy", "y": np.ones((96, 7))},
            RecipeError,
            "cannot be trained with this loss",
        ),
        ({"loss": lambda y, p: -(p**2) - 1}, RecipeError, "The loss is -1 at step 1.*needs losses of 0 or more"),
        (
            {"y": np.where(np.arange(96)[:, None] == 5, np.nan, VALUES)},
            RecipeError,
            "step 1, the loss is nan: too early",
        ),
        ({"optimizer": "sgd", "lowest": 100.0, "highest": 1e6}, RecipeError, r"risen to 4 times its best: too early"),
        ({"lowest": 1e-20, "highest": 1e-15}, RecipeError, "did not fall at any learning rate"),
        ({"y": None}, DataError, "Expected labels"),
        ({"y": VALUES[:50]}, DataError, "as many labels as inputs; got 50 and 96"),
        ({"batch_size": 97}, DataError, "at least one batch of 97 samples; got 96. Lower batch_size"),
    ],
)
def test_bad_input(settings, error, message):
    settings = {"x": X, "y": VALUES, "loss": "mse", "batch_size": 96, "quiet": True, **settings}
    with pytest.raises(error, match=message):
        find_learning_rate(line(keras), **settings)


def test_data_sets_without_batches_or_labels():
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensor_slices((X, VALUES)).batch(32)
    with pytest.raises(DataError, match="is empty"):
        find_learning_rate(line(keras), batches.take(0), loss="mse", quiet=True)
    with pytest.raises(DataError, match="has no labels"):
        find_learning_rate(line(keras), batches.map(lambda x, y: x), loss="mse", quiet=True)


def test_a_model_whose_layers_are_all_frozen():
    model = line(tf_keras())
    model.trainable = False
    with pytest.raises(RecipeError, match="All layers of 'line' are frozen"):
        find_learning_rate(model, X, VALUES, loss="mse", batch_size=96, quiet=True)
