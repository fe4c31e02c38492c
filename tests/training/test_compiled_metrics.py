"""The metrics that a model is compiled with, in the rows of the report: values from NumPy and scikit-learn."""

import keras
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.training.compiled_metrics import CompiledMetric, compiled_metrics, measured_metrics, usable_metrics
from tfopt.training.outputs import own_metrics

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 4)).astype("float32")
OLD = (X[:, 0] + RNG.normal(size=400) > 0).astype("int32")
AGE = X[:, 0] * 3 + 1
FLOAT = tfopt.Export(weights="float32", activations="float32")
PACKAGES = pytest.mark.parametrize("package", [keras, tf_keras()], ids=["keras", "tf_keras"])


def off_by(y_true, y_pred):
    return abs(keras.ops.cast(y_true, "float32") - y_pred)


def network(package, activation=None):
    return package.Sequential([package.Input((4,)), package.layers.Dense(1, activation)])


@PACKAGES
def test_each_row_has_them_from_fresh_copies(package):
    model = network(package, "sigmoid")
    auc = package.metrics.AUC(name="area", num_thresholds=5000)
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy", auc, "mse", off_by])
    model.fit(X, OLD[:, None], epochs=1, verbose=0)
    state = [np.array(variable) for variable in auc.variables]
    data = tfopt.load_data((X, OLD))
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=1),), export=FLOAT)
    result = tfopt.optimize(model, recipe, data, quiet=True)
    rows, labels = result.report.rows, data.test.y()
    assert [row.step for row in rows] == ["original", "FineTune", "exported float32"]
    assert all(list(row.metrics) == ["accuracy", "area", "mse", "off_by"] for row in rows)
    for row, model_of_row in ((rows[0], model), (rows[-1], result.lite)):
        found = np.asarray(model_of_row.predict(data.test.x())).ravel()
        assert row.metrics["area"] == pytest.approx(roc_auc_score(labels, found), abs=2e-3)
        assert row.metrics["mse"] == pytest.approx(np.square(found - labels).mean(), rel=1e-4)
        assert row.metrics["off_by"] == pytest.approx(np.abs(found - labels).mean(), rel=1e-4)
    for variable, before in zip(auc.variables, state, strict=True):  # the caller's object is unchanged
        np.testing.assert_array_equal(np.array(variable), before)
    assert "area" in str(result.report).lower()


@PACKAGES
def test_outputs_have_their_own_and_names_do_not_collide(package):
    given = package.Input((4,))
    outputs = [package.layers.Dense(1, name="age")(given), package.layers.Dense(1, "sigmoid", name="old")(given)]
    model = package.Model(given, outputs)
    mae = package.metrics.MeanSquaredError(name="mae")  # with the name of another metric of the task
    model.compile("sgd", ["mse", "binary_crossentropy"], metrics={"age": ["mae", mae], "old": "mse"})
    data = tfopt.load_data((X, {"age": AGE, "old": OLD}))
    metrics = compiled_metrics(model, data)
    assert [(metric.output, metric.name) for metric in metrics] == [("age", "mae"), ("old", "mse")]
    predicted = {"age": data.test.y()["age"][:, None] + 2, "old": np.full((len(data.test), 1), 0.5)}
    logits = {"age": False, "old": False}
    found, failed = measured_metrics(metrics, data, data.test, predicted, logits, taken={"age_mae": 2.0})
    assert found == pytest.approx({"compiled_age_mae": 4.0, "old_mse": 0.25}, rel=1e-5) and not failed


def test_lists_of_outputs():
    """Keras 3 has an entry for each output; for tf_keras a plain list is for all of them."""
    for package, metrics, expected in (
        (keras, ["mape", ["mse"]], [("age", "mape"), ("old", "mse")]),
        (tf_keras(), ["mape"], [("age", "mape"), ("old", "mape")]),
        (tf_keras(), [["mape"], ["mse"]], [("age", "mape"), ("old", "mse")]),
        (tf_keras(), "mape", [("age", "mape"), ("old", "mape")]),
    ):
        given = package.Input((4,))
        outputs = [package.layers.Dense(1, name="age")(given), package.layers.Dense(1, "sigmoid", name="old")(given)]
        model = package.Model(given, outputs)
        model.compile("sgd", ["mse", "binary_crossentropy"], metrics=metrics)
        found = compiled_metrics(model, tfopt.load_data((X, {"age": AGE, "old": OLD})))
        assert [(metric.output, metric.name) for metric in found] == expected


@PACKAGES
@pytest.mark.parametrize("name", ["crossentropy", "ce"])
def test_shapes_decide_what_a_crossentropy_is(package, name):
    for units, activation, labels in ((1, "sigmoid", OLD), (3, "softmax", OLD + 1)):
        model = package.Sequential([package.Input((4,)), package.layers.Dense(units, activation)])
        model.compile("sgd", "mse", metrics=[name])
        data = tfopt.load_data((X, labels), task="classification")
        outputs = model.predict(data.test.x(), verbose=0)
        if units == 1:
            chances = np.where(data.test.y() == 1, outputs[:, 0], 1 - outputs[:, 0])
        else:
            chances = outputs[np.arange(len(outputs)), data.test.y()]
        (metric,), notes = usable_metrics(model, data, data.test.some(8), outputs[:8], False)
        found, _ = measured_metrics((metric,), data, data.test, outputs, False, taken=())
        assert found == pytest.approx({name: -np.log(chances).mean()}, rel=1e-4) and not notes


class Needy(keras.metrics.Metric):
    """Cannot do without weights."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        raise ValueError("no weights" if sample_weight is None else "")

    def result(self):
        return 0.0


class Settings(Needy):
    """Does not say what it is made with."""

    def __init__(self, more, **options):
        super().__init__(**options)


def test_what_cannot_be_measured_is_a_note():
    model = network(keras)
    metrics = [Needy(name="needy"), Settings(3, name="settings"), keras.metrics.Mean(name="mean"), "mape"]
    model.compile("sgd", "mse", metrics=metrics, weighted_metrics=["mae"])
    data = tfopt.load_data((X, AGE))
    some = data.test.some(8)
    kept, notes = usable_metrics(model, data, some, model.predict(some.x(), verbose=0), False)
    assert [metric.name for metric in kept] == ["mape"]
    begin = "the metric {!r} that the model is compiled with is not in the report, since it cannot be computed from"
    reasons = {"needy": "no weights", "settings": "more", "mean": "it takes values and their weights"}
    for note, (name, why) in zip(notes[:3], reasons.items(), strict=True):
        assert note.startswith(begin.format(name)) and why in note
    found, failed = measured_metrics(
        (CompiledMetric("", Needy(name="needy"), keras),), data, some, model.predict(some.x()), False, taken=()
    )
    assert found == {"needy": None} and list(failed.values()) == ["no weights"]
    assert notes[3] == "the weighted metrics of the model are not in the report, which weighs no samples"


def test_other_models_have_none():
    data = tfopt.load_data((X, AGE))
    assert compiled_metrics(network(keras), data) == ()
    model = network(keras)
    model.compile("sgd", "mse")
    assert compiled_metrics(model, data) == ()


THREE = (X[:, 0] > 0).astype("int32") + (X[:, 1] > 0)


def classifier(loss, metrics):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", loss, metrics=metrics)
    return model


def measured_on_test(model, data):
    predicted = model.predict(data.test.x(), verbose=0)
    metrics, notes = usable_metrics(model, data, data.test, predicted, False)
    assert notes == []
    return predicted, measured_metrics(metrics, data, data.test, predicted, False, taken=())[0]


def agrees_with_largest(y_true, y_pred):
    """Of one's own, for the labels of the loss: whether the largest of each are at the same place."""
    same = keras.ops.argmax(y_true, axis=-1) == keras.ops.argmax(y_pred, axis=-1)
    return keras.ops.cast(same, "float32")


def test_class_numbers_become_one_hot_for_metrics_that_expect_that():
    kinds = keras.metrics
    model = classifier(
        "categorical_crossentropy",
        [
            kinds.CategoricalAccuracy(name="right"),
            kinds.TopKCategoricalAccuracy(2, name="two"),
            kinds.BinaryAccuracy(name="single"),
            kinds.Precision(name="precision"),
            "mse",
            agrees_with_largest,
        ],
    )
    data = tfopt.load_data((X, THREE))
    p, found = measured_on_test(model, data)
    labels = data.test.y()
    hot, rank = np.eye(3)[labels], (-p).argsort(axis=1).argsort(axis=1)[np.arange(len(labels)), labels]
    assert found["right"] == found["agrees_with_largest"] == pytest.approx(np.mean(rank == 0))
    assert found["two"] == pytest.approx(np.mean(rank < 2))
    assert found["single"] == pytest.approx(np.mean((p > 0.5) == hot))
    assert found["precision"] == pytest.approx(hot[p > 0.5].mean())
    assert found["mse"] == pytest.approx(np.square(p - hot).mean(), rel=1e-5)
    top = tfopt.Training(metrics=("top_k_categorical_accuracy", "binary_accuracy"))
    recalled = own_metrics(top, data, data.test, p, False)
    assert recalled == {"top_k_categorical_accuracy": 1.0, "binary_accuracy": found["single"]}  # of 3, the top 5


def test_one_hot_labels_become_class_numbers_for_metrics_that_expect_that():
    kinds = keras.metrics
    metrics = [kinds.SparseCategoricalAccuracy(name="right"), kinds.SparseTopKCategoricalAccuracy(2, name="two")]
    model = classifier("sparse_categorical_crossentropy", [*metrics, kinds.MeanIoU(3, sparse_y_pred=False, name="iou")])
    data = tfopt.load_data((X, np.eye(3, dtype="float32")[THREE]))
    p, found = measured_on_test(model, data)
    labels, answers = data.test.y().argmax(axis=1), p.argmax(axis=1)
    rank = (-p).argsort(axis=1).argsort(axis=1)[np.arange(len(labels)), labels]
    assert found["right"] == pytest.approx(np.mean(rank == 0)) and found["two"] == pytest.approx(np.mean(rank < 2))
    shares = [np.sum((labels == c) & (answers == c)) / np.sum((labels == c) | (answers == c)) for c in range(3)]
    assert found["iou"] == pytest.approx(np.mean(shares))


def dice(y_true, y_pred):
    """For masks (n, height, width, 1)."""
    y_true = keras.ops.cast(y_true, "float32")
    return 2 * keras.ops.sum(y_true * y_pred) / keras.ops.sum(y_true + y_pred)


def without_axis(y_true, y_pred):
    """Squeezes labels, as many losses for masks do."""
    y_true = keras.ops.one_hot(keras.ops.squeeze(keras.ops.cast(y_true, "int32"), -1), 2)
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=(1, 2, 3))


def test_own_metrics_and_losses_of_masks_get_their_last_axis():
    x = RNG.normal(size=(60, 6, 6, 1)).astype("float32")
    masks = (x > 0.3).astype("int32")
    given = keras.Input((6, 6, 1))
    data = tfopt.load_data((x, masks))
    one = keras.Model(given, keras.layers.Conv2D(1, 1, activation="sigmoid")(given))
    one.compile("sgd", "binary_crossentropy", metrics=[dice])
    p, found = measured_on_test(one, data)
    labels = data.test.y()[..., None]
    assert found["dice"] == pytest.approx(2 * (labels * p).sum() / (labels + p).sum(), rel=1e-5)
    two = keras.Model(given, keras.layers.Conv2D(2, 1, activation="softmax")(given))
    two.compile("sgd", without_axis)
    result = tfopt.optimize(two, tfopt.Recipe(stages=(tfopt.FineTune(epochs=1),), export=FLOAT), data, quiet=True)
    assert result.report.rows[1].step == "FineTune"
