"""Weights of classes as weights of samples: expected values by hand."""

import dataclasses

import keras
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

import tfopt
from tfopt.base.progress import Progress
from tfopt.data import load_data
from tfopt.errors import RecipeError
from tfopt.run import start
from tfopt.run.recipe import require_json
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


@pytest.mark.parametrize(
    ("given", "names", "expected"),
    [
        ({0: 2.0, 1: 3.0}, None, [2, 3, 1]),
        ({"1": 3, np.int64(2): 0}, None, [1, 3, 0]),
        ({"cat": 2.0}, ("dog", "cat", "cow"), [1, 2, 1]),
        ({"cat": 2.0, 0: 4.0}, ("dog", "cat", "cow"), [4, 2, 1]),
        ({1: 5.0}, ("1", "2", "3"), [5, 1, 1]),  # the class that is called so, not the second
        ({4: 5.0}, ("4", "5", "6"), [5, 1, 1]),
    ],
)
@pytest.mark.parametrize("one_hot", [True, False])
def test_weights_of_a_dict(given, names, expected, one_hot):
    y = np.arange(40) % 3
    data = dataclasses.replace(of(np.eye(3)[y] if one_hot else y), class_names=names)
    recipe = tfopt.Recipe(stages=(), training=tfopt.Training(class_weight=given))
    require_json(recipe)
    kept = tfopt.Recipe.from_json(recipe.to_json()).training
    assert kept == recipe.training
    for training in (recipe.training, kept):
        batches = class_weighted(data.batches("train", 40), class_weights(training, data))
        np.testing.assert_allclose(next(iter(batches))[2], np.array(expected)[y])


def test_weights_of_a_dict_by_output():
    y = np.repeat([0, 1], [10, 30])
    data = of({"kind": y, "age": X[:, 0] * 1.5, "color": np.arange(40) % 3, "size": 1 - y})
    training = tfopt.Training(class_weight={"color": {2: 3.0}, "kind": "balanced"})
    assert tfopt.Recipe.from_json(tfopt.Recipe(stages=(), training=training).to_json()).training == training
    _, _, found = next(iter(class_weighted(data.batches("train", 40), class_weights(training, data))))
    np.testing.assert_allclose(found["kind"], np.where(y == 0, 2, 2 / 3), rtol=1e-6)
    np.testing.assert_allclose(found["color"], np.where(np.arange(40) % 3 == 2, 3, 1))
    np.testing.assert_allclose([found["size"], found["age"]], 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("none", r'expected "balanced", or a dict with a weight for each class, such as {0: 1.0, 1: 3.0}'),
        ({}, 'expected "balanced", or a dict'),
        ({0: -1.0}, "expected a finite weight of at least 0 for class 0, got -1.0"),
        ({0: float("inf")}, "expected a finite weight"),
        ({0: float("nan")}, "expected a finite weight"),
        ({0: True}, "expected a finite weight"),
        ({0.5: 1.0}, "by its name or its number, got 0.5"),
        ({0: 1.0, "0": 2.0}, "expected each class once"),
        ({"kind": {"a": {0: 1.0}}}, "expected a finite weight"),
        ({"kind": {0: 1.0}, "b": 2.0}, "or what each output has, got both"),
    ],
)
def test_wrong_weights_are_errors_when_they_are_written(given, words):
    with pytest.raises(RecipeError, match=words):
        tfopt.Training(class_weight=given)


@pytest.mark.parametrize(
    ("given", "several", "words"),
    [
        ({2: 1.0}, False, r"Expected class_weight for the classes dog, cat, got 2\."),
        ({"cow": 1.0}, False, "for the classes dog, cat, got cow"),
        ({"cat": 1.0, 1: 2.0}, False, "got 'cat' and '1', which are the same"),
        ({0: 0.0, 1: 0}, False, "Expected a class_weight above 0 for a class, got 0 for all"),
        ({"kind": {0: 1.0}}, False, r"by output \(kind\) is for data with several; these have one"),
        ({0: 1.0}, True, "the data have several. Give such a dict for some or all of kind"),
        ({"age": {0: 1.0}}, True, "is for output age; the outputs with classes are kind"),
        ({"kind": {3: 1.0}}, True, r"for the classes 0\.\.1 of output 'kind', got 3"),
    ],
)
def test_weights_for_other_data(given, several, words):
    y = np.arange(40) % 2
    data = of({"kind": y, "age": X[:, 0] * 1.5}) if several else dataclasses.replace(of(y), class_names=("dog", "cat"))
    with pytest.raises(RecipeError, match=words):
        class_weights(tfopt.Training(class_weight=given), data)


@pytest.mark.parametrize("one_hot", [True, False])
@pytest.mark.parametrize(("part", "said"), [("train", "train samples"), ("validation", "validation samples")])
def test_weights_of_classes_that_a_part_does_not_have(part, said, one_hot):
    """All loss would be 0, or the accuracy no number. By output, too."""
    y = np.arange(40) % 3
    rest, few = (np.eye(3, dtype="float32")[each] if one_hot else each for each in (y, y % 2))
    weights = {0: 0, 1: 0, 2: 3.0}

    def with_few(data, labels):
        return dataclasses.replace(data, **{part: dataclasses.replace(data.split(part), labels=labels)})

    words = f"Expected a class_weight above 0 for a class of the {said}"
    with pytest.raises(RecipeError, match=f"{words}, got 0 for all that they have"):
        class_weights(tfopt.Training(class_weight=weights), with_few(of(rest), few))
    several = with_few(of({"kind": rest, "age": X[:, 0] * 1.5}), {"kind": few, "age": X[:, 0]})
    with pytest.raises(RecipeError, match=f"{words} of output 'kind', got 0"):
        class_weights(tfopt.Training(class_weight={"kind": weights}), several)


def test_values_have_no_classes():
    with pytest.raises(RecipeError, match="for a classification; the data are for regression"):
        class_weights(BALANCED, of(X[:, 0] * 1.5))
    assert class_weighted("batches", class_weights(tfopt.Training(), of(X[:, 0] * 1.5))) == "batches"


@pytest.mark.slow
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
def test_the_epoch_that_finds_a_rare_class_is_kept(one_hot):
    """A model that never says 1 has an accuracy of 0.9; one that finds 1 as often as 0 has about 0.77."""
    rng, y = np.random.default_rng(0), np.repeat([0, 1], [180, 20])
    labels = np.eye(2)[y] if one_hot else y
    parts = [((rng.normal(size=(200, 1)) + 1.5 * y[:, None]).astype("float32"), labels) for _ in range(3)]
    data = load_data(dict(zip(("train", "validation", "test"), parts, strict=True)))
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, activation="softmax")])
    model.set_weights([np.zeros((1, 2)), np.array([3.0, 0.0])])
    training = dataclasses.replace(BALANCED, learning_rate=0.2, batch_size=50)
    result = tfopt.optimize(
        model, tfopt.Recipe(stages=(tfopt.FineTune(epochs=6),), training=training), data, quiet=True
    )
    answers = result.model.predict(data.validation.x(), verbose=0).argmax(axis=1)
    balanced = balanced_accuracy_score(y, answers)
    assert balanced > 0.7 and (answers == y).mean() < 0.88
    history = result.report.rows[1].history
    assert history.values["val_accuracy"][history.kept - 1] == pytest.approx(balanced, abs=1e-5)
    assert result.verdict.ok


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
