"""Losses and metrics that a recipe names: built-in ones, and objects and functions registered with Keras."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.bridge import to_tf_keras
from tfopt.errors import RecipeError
from tfopt.run.recipe import require_json
from tfopt.training.loss import choose_loss
from tfopt.training.loss_notes import loss_notes
from tfopt.training.named import loss_named
from tfopt.training.outputs import objective, own_metrics
from tfopt.training.settings import LOSSES

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype("float32")
CLASSES = np.arange(60) % 3
AGE = X[:, :1]
Y, P = np.float32([[1.0], [2.0]]), np.float32([[3.0], [2.5]])


@keras.saving.register_keras_serializable("named_test")
class Scaled(keras.losses.Loss):
    """The squared error times a factor."""

    def __init__(self, factor=1.0, **more):
        super().__init__(**more)
        self.factor = factor

    def call(self, y_true, y_pred):
        return self.factor * keras.ops.mean((y_true - y_pred) ** 2, axis=-1)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@tf_keras().saving.register_keras_serializable("named_test")
def cubes(y_true, y_pred):
    return abs(y_true - y_pred) ** 3


@keras.saving.register_keras_serializable("named_test")
class Largest(keras.metrics.Metric):
    """The largest absolute error."""

    def __init__(self, name="largest", **more):
        super().__init__(name=name, **more)
        self.value = self.add_weight(name="value", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign(keras.ops.maximum(self.value, keras.ops.max(keras.ops.abs(y_true - y_pred))))

    def result(self):
        return self.value


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("mse", (4 + 0.25) / 2),
        ("MeanAbsoluteError", (2 + 0.5) / 2),
        ("named_test>Scaled", (4 + 0.25) / 2),
        (Scaled(factor=3.0), 3 * (4 + 0.25) / 2),
        (keras.losses.Huber(delta=0.5), (0.5 * (2 - 0.25) + 0.125) / 2),
        (tf_keras().losses.Huber(delta=0.5), (0.5 * (2 - 0.25) + 0.125) / 2),
        (cubes, None),
        ("named_test>cubes", None),
    ],
    ids=["mse", "MeanAbsoluteError", "a class", "an object", "of Keras 3", "of tf_keras", "a function", "its name"],
)
def test_a_loss_by_name_and_by_object_is_in_the_json_and_computes_the_same(given, value):
    training = tfopt.Training(loss=given)
    recipe = tfopt.Recipe(stages=(), training=training)
    require_json(recipe)
    loss = loss_named(tfopt.Recipe.from_json(recipe.to_json()).training.loss)
    if value is None:
        np.testing.assert_allclose(loss(Y, P), [[8.0], [0.125]])
    else:
        assert float(np.mean(loss(Y, P))) == pytest.approx(value)  # functions give a value for each sample


def test_smoothing_and_logits_of_an_object_are_used_as_they_are():
    """Two classes with label 0, smoothed by 0.2: 0.9 and 0.1 against the softmax of (1, 0)."""
    loss = loss_named(tfopt.Training(loss=keras.losses.CategoricalCrossentropy(True, 0.2)).loss)
    expected = np.log(1 + np.exp(-1.0)) + 0.1
    assert float(loss(np.float32([[1, 0]]), np.float32([[1, 0]]))) == pytest.approx(expected, rel=1e-5)


def test_what_is_not_registered_is_an_error_when_it_is_written():
    with pytest.raises(RecipeError, match=r"expected a registered one, .*register_keras_serializable"):
        tfopt.Training(loss=lambda y, p: y)
    model = tf_keras().Sequential([tf_keras().Input((4,)), tf_keras().layers.Dense(1)])
    with pytest.raises(RecipeError, match=r"Unknown loss 'other>Focal'.*register it and import the package"):
        choose_loss(model, tfopt.Training(loss="other>Focal"), tfopt.load_data((X, AGE)))


@pytest.fixture(scope="module")
def two():
    given = tf_keras().Input((4,))
    kind, age = (tf_keras().layers.Dense(units, name=name)(given) for units, name in ((3, "kind"), (1, "age")))
    return tf_keras().Model(given, [kind, age], name="two"), tfopt.load_data((X, {"kind": CLASSES, "age": AGE[:, 0]}))


def test_losses_and_weights_of_some_outputs(two):
    model, data = two
    training = tfopt.Training(loss={"age": Scaled(factor=2.0)}, loss_weights={"age": 0.25})
    require_json(tfopt.Recipe(stages=(), training=training))
    found, _ = objective(model, training, data)
    assert float(found.losses["age"](Y, P)) == pytest.approx(4 + 0.25)
    assert type(found.losses["kind"]).__name__ == "SparseCategoricalCrossentropy"
    assert found.weights == {"kind": 1.0, "age": 0.25}


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"loss": "mse"}, "is for models with one output; expected a dict by output"),
        ({"loss": {"years": "mse"}}, r"is for output years; the model has (kind, age|age, kind)\. Use these"),
        ({"loss_weights": {"years": 1.0}}, "is for output years"),
        ({"metrics": ("mae",)}, "expected a dict by output"),
    ],
)
def test_settings_of_other_outputs(two, training, words):
    model, data = two
    settings = tfopt.Training(**training)
    with pytest.raises(RecipeError, match=words):
        objective(model, settings, data)
        own_metrics(settings, data, data.test, [np.zeros((6, 3)), np.zeros((6, 1))], {"kind": True, "age": False})


@pytest.mark.parametrize("training", [{"loss": {"a": "mse"}}, {"loss_weights": {"a": 1.0}}, {"metrics": {"a": "mae"}}])
def test_one_output_has_no_names(training):
    model = tf_keras().Sequential([tf_keras().Input((4,)), tf_keras().layers.Dense(1)])
    with pytest.raises(RecipeError, match="by output is for models with several"):
        objective(model, tfopt.Training(**training), tfopt.load_data((X, AGE)))


def test_metrics_are_those_of_the_samples():
    data = tfopt.load_data((X, AGE))
    labels = data.test.y()
    outputs = labels + np.linspace(-1, 2, len(labels), dtype="float32")[:, None]
    training = tfopt.Training(metrics=("mae", Largest(), "RootMeanSquaredError", cubes))
    require_json(tfopt.Recipe(stages=(), training=training))
    found = own_metrics(training, data, data.test, outputs, False)
    errors = np.linspace(-1, 2, len(labels))
    wanted = {"mae": np.abs(errors).mean(), "largest": 2.0, "root_mean_squared_error": np.sqrt((errors**2).mean())}
    assert found == pytest.approx({**wanted, "cubes": (np.abs(errors) ** 3).mean()}, rel=1e-4)


def test_metrics_of_outputs_are_in_the_report_and_bad_ones_end_before_work():
    given = keras.Input((4,))
    kind = keras.layers.Dense(3, "softmax", name="kind")(given)
    model = keras.Model(given, [kind, keras.layers.Dense(1, name="age")(given)])
    source = (X, {"kind": CLASSES, "age": AGE[:, 0]})
    training = tfopt.Training(metrics={"age": (Largest(), "mse")})
    result = tfopt.optimize(model, tfopt.Recipe(stages=(), training=training), source, quiet=True)
    for row in result.report.rows:
        assert list(row.metrics) == ["kind_accuracy", "age_mse", "age_mae", "age_largest"]
        assert row.metrics["age_largest"] >= row.metrics["age_mae"] > 0
    with pytest.raises(RecipeError, match=r"metric (top_k_)?\w+ gives no number for labels .* of a sample"):
        wrong = tfopt.Training(metrics={"kind": keras.metrics.MeanIoU(num_classes=7)})
        tfopt.optimize(model, tfopt.Recipe(stages=(), training=wrong), source, quiet=True)


@keras.saving.register_keras_serializable("test_named")
class Accuracy(keras.metrics.MeanMetricWrapper):
    """With the name of a metric of the task."""

    def __init__(self, name="accuracy", **more):
        super().__init__(cubes, name=name, **more)

    def get_config(self):
        return {"name": self.name}


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ((keras.metrics.SparseTopKCategoricalAccuracy(2), keras.metrics.SparseTopKCategoricalAccuracy(3)), "top_k"),
        ((Accuracy(),), "Two metrics are called 'accuracy'; give one of them another name"),
    ],
)
def test_no_metric_hides_another(metrics, words):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    recipe = tfopt.Recipe(stages=(), training=tfopt.Training(metrics=metrics))
    with pytest.raises(RecipeError, match=words):
        tfopt.optimize(model, recipe, (X, CLASSES), quiet=True)


def test_a_metric_of_keras_may_be_that_of_the_task():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    recipe = tfopt.Recipe(stages=(), training=tfopt.Training(metrics=("accuracy",)))
    assert list(tfopt.optimize(model, recipe, (X, CLASSES), quiet=True).report.rows[0].metrics) == ["accuracy"]


def test_metrics_need_labels():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    recipe = tfopt.Recipe(stages=(), training=tfopt.Training(metrics=("accuracy",)))
    with pytest.raises(RecipeError, match=r"Training\(metrics=...\) compares outputs with labels"):
        tfopt.optimize(model, recipe, X, quiet=True)


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_equal_losses_are_equal_settings(package):
    """Keras numbers the objects of a class that have no name."""
    base = keras if package == "keras" else tf_keras()

    @keras.saving.register_keras_serializable(f"equal_{package}")
    class LopSided(base.losses.Loss):
        def __init__(self, factor, **options):
            super().__init__(**options)
            self.factor = factor

        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

    assert tfopt.Training(loss=LopSided(2.0)) == tfopt.Training(loss=LopSided(2.0))
    assert tfopt.Training(loss=LopSided(2.0)) != tfopt.Training(loss=LopSided(3.0))


def test_a_typing_error_is_named_when_it_is_written():
    for wrong in ("hubber", {"age": "hubber"}):
        with pytest.raises(RecipeError, match=r"^Training\.loss = .*loss as 'hubber'; the nearest one is huber\.$"):
            tfopt.Training(loss=wrong)
    for other in (
        "my_own",
        "other>huber2",
        "weighted_categorical_crossentropy",
        "masked_sparse_categorical_crossentropy",
    ):  # may be registered later
        assert tfopt.Training(loss=other).loss == other
    with keras.saving.custom_object_scope({"huber2": cubes}):
        assert tfopt.Training(loss="huber2").loss == "huber2"


def test_every_loss_of_keras_is_known_by_name():
    packages = (keras.losses, tf_keras().losses)
    made = {name for package in packages for name, value in vars(package).items() if callable(value) and name[0] != "_"}
    assert made - set(LOSSES) == {"Loss", "Reduction", "get", "serialize", "deserialize"}


@pytest.mark.parametrize(
    ("loss", "labels", "said"),
    [
        ("mse", AGE, ["loss: mse, as the model is compiled"]),
        (keras.losses.Huber(), AGE, ["loss: huber_loss, as the model is compiled"]),
        (cubes, AGE, ["loss: cubes, as the model is compiled"]),
        (
            "categorical_crossentropy",
            CLASSES,
            ["loss: that of the task for sparse labels, since categorical_crossentropy"],
        ),
        (None, AGE, []),
    ],
)
def test_the_compiled_loss_is_a_note(loss, labels, said):
    package = keras if isinstance(loss, keras.losses.Loss) else tf_keras()
    model = package.Sequential([package.Input((4,)), package.layers.Dense(1 if labels is AGE else 3)])
    if loss is not None:
        model.compile("sgd", loss)
    flat_model, data = to_tf_keras(model), tfopt.load_data((X, labels))
    found = loss_notes(flat_model, tfopt.Training(), data)
    assert [note.partition(", as the model")[0] for note in found] == [note.partition(", as")[0] for note in said]
    assert loss_notes(flat_model, tfopt.Training(loss="mae"), data) == []


def test_compiled_losses_of_outputs_are_one_note_with_their_weights(two):
    losses = {"kind": "sparse_categorical_crossentropy", "age": "mse"}
    model, data = tf_keras().models.clone_model(two[0]), two[1]
    model.compile("sgd", losses, loss_weights={"age": 0.01})
    assert loss_notes(model, tfopt.Training(), data) == [
        "loss of kind: sparse_categorical_crossentropy, as the model is compiled, weight 1; "
        "loss of age: mse, as the model is compiled, weight 0.01"
    ]
    own = tfopt.Training(loss={"kind": "mse"}, loss_weights={"age": 2.0})
    assert loss_notes(model, own, data) == ["loss of age: mse, as the model is compiled, weight 2"]


def test_a_run_notes_the_compiled_loss_once():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mae")
    float32 = tfopt.Export(weights="float32", activations="float32")
    for stage, count in ((tfopt.FineTune(epochs=1), 1), (tfopt.Prune(epochs=0, schedule="one-shot"), 0)):
        recipe = tfopt.Recipe(stages=(stage,), export=float32, max_drop=None)
        rows = tfopt.optimize(model, recipe, tfopt.load_data((X, AGE)), quiet=True).report.rows
        assert sum("loss: " in note for row in rows for note in row.notes) == count
