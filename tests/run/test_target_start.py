"""Models of values that know nothing about their targets begin at their mean and deviation."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt import bridge
from tfopt.data import load_data
from tfopt.evaluate.chance import worse_than_the_mean
from tfopt.evaluate.report import answers_on_test
from tfopt.run.target_start import begin_at_targets
from tfopt.run.verdicts import behind_the_mean
from tfopt.tasks import task_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 2)).astype("float32")
FLOAT = tfopt.Export(weights="float32", activations="float32")
AGE = 50 + 10 * X.sum(axis=1) / np.sqrt(2)


def network(activation=None):
    layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1, activation=activation)]
    return keras.Sequential([keras.Input((2,)), *layers])


def test_the_last_layer_begins_at_the_targets():
    """Outputs o become 50 + 10 o, up to mean and deviation of the training part."""
    data = load_data((X, AGE))
    model = bridge.to_tf_keras(network())
    before = model.predict(X, verbose=0)
    begun, (note,) = begin_at_targets(model, data)
    labels = data.train.labels
    np.testing.assert_allclose(begun.predict(X, verbose=0), labels.mean() + labels.std() * before, rtol=1e-4)
    np.testing.assert_array_equal(model.predict(X, verbose=0), before)
    assert "times their variance): its last layer begins with their mean and deviation" in note
    assert begin_at_targets(begun, data) == (begun, [])


@pytest.mark.parametrize("case", ["targets near 0", "a bounded activation", "below 0", "classes"])
def test_others_begin_as_they_are(case):
    model = bridge.to_tf_keras(network({"a bounded activation": "sigmoid", "below 0": "relu"}.get(case)))
    weights = model.get_weights()
    labels = {"targets near 0": (AGE - 50) / 10, "a bounded activation": AGE, "classes": (AGE > 50).astype(int)}
    labels = labels.get(case, -AGE)
    assert begin_at_targets(model, load_data((X, labels))) == (model, [])
    for ours, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("scale", [pytest.param(1.0, marks=pytest.mark.slow), 1e4])
def test_targets_of_any_scale_are_learned_alike(scale):
    data, model = load_data((X, AGE * scale)), network()
    weights = model.get_weights()
    training = tfopt.Training(learning_rate=3e-3, batch_size=32)
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=40), tfopt.PostTraining()), training=training)
    result = tfopt.optimize(model, recipe, data, quiet=True)
    rows = result.report.rows
    assert rows[0].metrics["mse"] > 4 * (10 * scale) ** 2
    assert rows[-1].metrics["mse"] < 0.1 * (10 * scale) ** 2
    assert any("begins with their mean" in note for row in rows for note in row.notes)
    for ours, theirs in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


ENDINGS = {
    "relu": lambda x: keras.layers.Dense(1, activation="relu")(x),
    "rescaling": lambda x: keras.layers.Rescaling(0.01, 7.0)(keras.layers.Dense(1)(x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", [*ENDINGS, "several"])
def test_every_head_of_values_begins_at_its_targets_and_learns(ending):
    inputs = keras.Input((2,))
    body = keras.layers.Dense(16, activation="relu")(inputs)
    labels, outputs = AGE * 1e3, ENDINGS.get(ending, lambda x: None)(body)
    if ending == "several":
        kinds = {"age": AGE, "price": AGE * 1e4, "old": (AGE > 50).astype(int)}
        heads = [keras.layers.Dense(1, name=name)(body) for name in ("age", "price")]
        outputs, labels = [*heads, keras.layers.Dense(2, activation="softmax", name="old")(body)], kinds
    model, data = keras.Model(inputs, outputs), load_data((X, labels))
    training = tfopt.Training(learning_rate=3e-3, batch_size=32)
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=40),), training=training)
    result = tfopt.optimize(model, recipe, data, quiet=True)
    assert worse_than_the_mean(data, answers_on_test(result.lite, data)) == {}
    assert result.verdict.ok
    said = [note for row in result.report.rows for note in row.notes if "begins with their mean" in note]
    assert len(said) == (2 if ending == "several" else 1)
    guides, test = task_of(data).by_output(data.train.labels), task_of(data).by_output(data.test.y())
    made = task_of(data).by_output(result.lite.predict(data.test.x()))
    for name in ("age", "price") if ending == "several" else ("",):
        error = np.square(np.asarray(made[name]).ravel() - test[name].ravel()).mean()
        assert error < 0.1 * guides[name].var(), name


def test_the_verdict_says_that_always_answering_the_mean_is_better():
    """A sigmoid gives at most 1: the squared error is (mean - 1)^2 or more, that of the mean the variance."""
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=1),), export=FLOAT)
    data = load_data((X, AGE))
    result = tfopt.optimize(network("sigmoid"), recipe, data, quiet=True)
    assert result.verdict.text.startswith("The file has not learned its values: always answering the mean of the")
    labels, answers = data.test.y().ravel(), result.lite.predict(data.test.x()).ravel()
    mean = data.train.labels.mean()
    ratio = np.square(answers - labels).mean() / np.square(mean - labels).mean()
    assert worse_than_the_mean(data, answers[:, None])[""] == pytest.approx(ratio, rel=1e-3)
    assert f"Its squared error on the test samples is {ratio:.3g} times" in result.verdict.text
    assert result.verdict.text in " ".join(str(result.report).split())


def test_the_verdict_says_that_the_file_has_not_learned_its_classes():
    """Labels that no input tells: no file is right on many more than half of them."""
    rng = np.random.default_rng(0)
    data = load_data((rng.normal(size=(2000, 4)).astype("float32"), rng.integers(0, 2, 2000)))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=1),), export=FLOAT)
    result = tfopt.optimize(model, recipe, data, quiet=True)
    right = (result.lite.predict(data.test.x()).argmax(axis=1) == data.test.labels).mean()
    often = np.bincount(data.test.labels).max() / 400
    assert result.verdict.text.startswith(
        f"The file has not learned its classes: its accuracy on 400 test samples is {right:.4f}, that of always "
        f"predicting the most frequent class is {often:.4f}."
    )


def test_the_verdict_names_each_output_that_has_not_learned(monkeypatch):
    monkeypatch.setattr("tfopt.run.verdicts.worse_than_the_mean", lambda *_: {"age": 1.594, "height": 2.0})
    assert behind_the_mean(None, None).endswith(
        "is better. For age, its squared error on the test samples is 1.59 times that of the mean. For height, its "
        "squared error on the test samples is 2 times that of the mean."
    )


@pytest.mark.parametrize(("off", "is_worse"), [(0.3, True), (0.0, False)])
def test_the_verdict_says_that_the_naive_forecast_is_better(off, is_worse):
    """The model repeats the last value of column 1, plus `off`, on steps of 0.25 up and down around 10 sin(i / 50)."""
    steps = np.arange(600)
    series = np.stack([steps / 600, 10 * np.sin(steps / 50) + 0.125 * (-1.0) ** steps], 1).astype("float32")
    data = tfopt.load_series(series, window=4, horizon=2, targets=[1])
    model = keras.Sequential([keras.Input((4, 2)), keras.layers.Flatten(), keras.layers.Dense(2)])
    kernel = np.zeros((8, 2), "float32")
    kernel[7] = 1
    model.layers[-1].set_weights([kernel, np.full(2, off, "float32")])
    result = tfopt.optimize(model, tfopt.Recipe(stages=(), export=FLOAT), data, quiet=True)
    text = result.verdict.text
    first = 600 - 120
    windows = range(first, 600 - 1)
    naive = np.mean([abs(series[i - 1, 1] - series[i : i + 2, 1]).mean() for i in windows])
    made = np.mean([abs(series[i - 1, 1] + off - series[i : i + 2, 1]).mean() for i in windows])
    assert ("worse than the naive forecast" in text) == is_worse, text
    if is_worse:
        assert f"its MAE is {made:.4g}, that of the naive forecast is {naive:.4g}." in text


def test_the_file_of_a_failed_stage_holds_the_original_model(monkeypatch):
    """A guard that rejects everything: the model of the first row is exported; the row of the stage has the note."""
    for name in ("too_low", "fails"):
        monkeypatch.setattr(f"tfopt.run.guard.Guard.{name}", lambda guard, evaluation: True)
    model = network()
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=1, retry="never"),), export=FLOAT)
    result = tfopt.optimize(model, recipe, load_data((X, AGE)), quiet=True)
    assert "The file holds the model before that stage" in result.verdict.text
    original, rejected, exported = result.report.rows
    assert "begins with their mean" in rejected.notes[0] and rejected.step == "FineTune (not kept)"
    assert exported.metrics == original.metrics
    np.testing.assert_allclose(result.lite.predict(X), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)
