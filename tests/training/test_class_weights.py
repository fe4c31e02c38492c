"""Weights of classes as weights of samples: expected values by hand."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.progress import Progress
from tfopt.data import load_data
from tfopt.errors import RecipeError
from tfopt.run import start
from tfopt.training.class_weights import class_weighted, class_weights, weighted_by_class
from tfopt.transfer import Transferred

BALANCED = tfopt.Training(class_weight="balanced")
X = np.arange(40, dtype="float32").reshape(40, 1)


def of(y, **options):
    return load_data(dict.fromkeys(("train", "validation", "test"), (X, y)), **options)


def weights_in(data):
    batches = class_weighted(data.batches("train", 40), class_weights(BALANCED, data))
    return next(iter(batches))[2]


def test_weights_of_classes():
    """Ten samples of class 0 and thirty of class 1: 40 / (2 * 10) and 40 / (2 * 30)."""
    y = np.repeat([0, 1], [10, 30])
    np.testing.assert_allclose(weights_in(of(y)), np.where(y == 0, 2, 2 / 3), rtol=1e-6)
    np.testing.assert_allclose(weights_in(of(np.eye(2)[y])), np.where(y == 0, 2, 2 / 3), rtol=1e-6)


def test_weights_of_places():
    """Each of 40 masks has one pixel of class 1 and three of class 0."""
    y = np.zeros((40, 2, 2), int)
    y[:, 0, 1] = 1
    found = weights_in(of(y))
    np.testing.assert_allclose(found, np.where(y == 0, 160 / (2 * 120), 160 / (2 * 40)), rtol=1e-6)


def test_weights_of_outputs_times_those_of_samples():
    y, own = np.repeat([0, 1], [10, 30]), np.linspace(1, 2, 40)
    part = (X, {"kind": y, "age": X[:, 0]}, own)
    found = weights_in(load_data(dict.fromkeys(("train", "validation", "test"), part)))
    np.testing.assert_allclose(found["kind"], np.where(y == 0, 2, 2 / 3) * own, rtol=1e-6)
    np.testing.assert_allclose(found["age"], own, rtol=1e-6)


def test_values_have_no_classes():
    with pytest.raises(RecipeError, match="for a classification; the data are for regression"):
        class_weights(BALANCED, of(X[:, 0] * 1.5))
    assert class_weighted("batches", class_weights(tfopt.Training(), of(X[:, 0] * 1.5))) == "batches"


@pytest.mark.parametrize("kind", ["values", "places", "several"])
def test_weights_decide_what_is_learned(kind):
    """Half of the samples say 0, the others, which weigh nine times as much, say 1: without weights the mean is 1/2."""
    say = np.arange(40) % 2

    def of_nine(y):
        """What nine of ten samples of the validation part say, whose samples count alike."""
        if isinstance(y, dict):
            return {name: of_nine(each) for name, each in y.items()}
        return y[np.where(np.arange(40) % 10, 1, 0)]

    own = np.where(say, 9.0, 1.0)
    x = np.ones((40, 1), "float32")
    inputs = keras.Input((1,))
    if kind == "values":
        y, model = say * 1.0, keras.Sequential([inputs, keras.layers.Dense(1)])
    elif kind == "places":
        y = np.repeat(say[:, None], 3, axis=1)[..., None]
        layers = [keras.layers.Dense(3, activation="sigmoid"), keras.layers.Reshape((3, 1))]
        model = keras.Sequential([inputs, *layers])
    else:
        y = {"a": say * 1.0, "b": say * 1.0}
        model = keras.Model(inputs, [keras.layers.Dense(1, name=name)(inputs) for name in "ab"])
        own = {"a": own, "b": np.ones(40)}
    data = load_data({"train": (x, y, own), "validation": (x, of_nine(y)), "test": (x, y)})
    rate = 0.01 if kind == "several" else 0.05  # there, errors are divided by the variance of 1/4
    training = tfopt.Training(learning_rate=rate, batch_size=40, schedule="constant", optimizer="sgd")
    result = tfopt.optimize(
        model, tfopt.Recipe(stages=(tfopt.FineTune(epochs=150),), training=training), data, quiet=True
    )
    found = result.model.predict(x[:1], verbose=0)
    found = [float(np.mean(each)) for each in (found if isinstance(found, list) else [found])]
    np.testing.assert_allclose(found, [0.9, 0.5][: len(found)], atol=0.06)


@pytest.mark.parametrize("one_hot", [True, False])
def test_a_transfer_gets_them_as_weights_of_samples(monkeypatch, one_hot):
    y, given = np.repeat([0, 1], [10, 30]), np.arange(1, 41)
    labels = np.eye(2)[y] if one_hot else y
    plain, weighted = of(labels), load_data(dict.fromkeys(("train", "validation", "test"), (X, labels, given)))
    expected = np.where(y == 0, 2, 2 / 3)
    np.testing.assert_allclose(weighted_by_class(BALANCED, plain).train.w(), expected, rtol=1e-6)
    assert weighted_by_class(BALANCED, plain).test is plain.test
    seen = []

    def transferred(self, source, data, **how):
        seen.append(data.train.w())
        return Transferred(source, ())

    monkeypatch.setattr(tfopt.transfer.FeatureTransfer, "transferred", transferred)
    for training in (BALANCED, tfopt.Training()):
        recipe = tfopt.Recipe(transfer=tfopt.transfer.FeatureTransfer(), stages=(), training=training)
        start.transferred(recipe, None, weighted, cache=None, progress=Progress(quiet=True))
    np.testing.assert_allclose(seen, [expected * given, given], rtol=1e-6)
