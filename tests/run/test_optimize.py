"""Whole runs, one with all techniques; every number in the report is recomputed without tfopt."""

import dataclasses
import json
import os
import re
import zlib

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import tfopt
from tfopt import models
from tfopt.base import keras_compat
from tfopt.base.keras_compat import tf_keras
from tfopt.data import for_model
from tfopt.errors import DataError, ModelError, OutputError, PromiseError, RecipeError
from tfopt.run import rows as run_rows
from tfopt.tflite.read import LiteModel
from tfopt.tflite.settings import FLOAT
from tfopt.tflite.write import export

FILES = [
    *("data.json", "epochs.csv", "labels.txt", "model.keras", "model.tflite"),
    *("recipe.json", "report.html", "report.json"),
]
ROW = {
    "step": str,
    "metrics": dict,
    "parameters": int,
    "nonzero_parameters": int,
    "max_unique_weights": int,
    "bytes": int,
    "deflated_bytes": int,
    "latency_ms": float,
    "seconds": float,
    "notes": list,
    "macs": int,
    "speedup": float,
    "history": dict,
}
KERNELS = [(16, 3, 3, 1), (16, 3, 3, 16), (10, 16)]  # in the layout of .tflite: output channels first
NUMBERS = 16 * 9 + 16 + 16 * 9 * 16 + 16 + 160 + 10


def digits_net(package, last="softmax"):
    layers = package.layers
    return package.Sequential(
        [
            package.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem"),
            layers.BatchNormalization(momentum=0.8, name="norm"),
            layers.ReLU(name="relu"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="body"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dense(10, activation=last, name="head"),
        ],
        name="digits_net",
    )


def interpreter(data):
    opened = Interpreter(model_content=data)
    opened.allocate_tensors()
    return opened


def run_tflite(data, x):
    """Outputs in real units, sample by sample: quantize, invoke, dequantize as specified."""
    opened = interpreter(data)
    (source,), (target,) = opened.get_input_details(), opened.get_output_details()
    rows = []
    for sample in x:
        if source["dtype"] == np.int8:
            scale, zero = source["quantization"]
            sample = np.clip(np.round(sample / np.float32(scale)) + zero, -128, 127)
        opened.set_tensor(source["index"], sample[None].astype(source["dtype"]))
        opened.invoke()
        row = opened.get_tensor(target["index"])[0]
        if target["dtype"] == np.int8:
            scale, zero = target["quantization"]
            row = (row.astype("float32") - zero) * np.float32(scale)
        rows.append(row)
    return np.stack(rows)


def constants(data, shapes):
    """The constants of these shapes in the file: LiteRT has values for tensors that depend on no input."""
    opened = interpreter(data)
    found = {}
    for detail in opened.get_tensor_details():
        shape = tuple(int(axis) for axis in detail["shape"])
        if shape in shapes:
            found[shape] = opened.get_tensor(detail["index"])
    return found


@pytest.fixture(scope="module")
def digits():
    return tfopt.load_data("digits")


@pytest.fixture(scope="module")
def trained(digits):
    """A Keras 3 model that recognizes the digits, and a tf_keras model with the same weights."""
    import keras

    keras.utils.set_random_seed(3)
    model = digits_net(keras)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(digits.train.x(), digits.train.y(), epochs=8, batch_size=32, verbose=0)
    flat_model = digits_net(tf_keras())
    flat_model.set_weights(model.get_weights())
    return {"keras3": model, "tf_keras": flat_model}


RECIPE = tfopt.Recipe(
    name="all",
    stages=(
        tfopt.FineTune(epochs=1, layers=(("norm", False),)),
        tfopt.Prune(final_sparsity=0.5, epochs=1, min_steps=0),
        tfopt.Cluster(number_of_clusters=8, epochs=1, min_steps=0),
        tfopt.Quantize(epochs=1, min_steps=0),
    ),
    training=tfopt.Training(horizontal_flip=True, batch_size=32, seed=4),
    max_drop=None,
)
STEPS = ["original", "FineTune", "Prune", "Cluster", "exported int8"]


def variables():
    return {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}


@pytest.fixture(scope="module")
def run(digits, trained):
    """The run, the files behind its rows, and the state of the caller's model and the process before it."""
    model = trained["keras3"]
    before = [np.array(weight) for weight in model.get_weights()]
    flags = [layer.trainable for layer in model.layers]
    environment = variables()
    files = []

    def spy(step, lite, *args, **kwargs):
        files.append((step, lite.data))
        return MEASURED_ROW(step, lite, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_rows, "measured_row", spy)
        result = tfopt.optimize(model, RECIPE, digits, quiet=True)
    return {"result": result, "files": files, "before": before, "flags": flags, "environment": environment}


MEASURED_ROW = run_rows.measured_row


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory):
    return run["result"].save(tmp_path_factory.mktemp("results") / "all")


def test_rows_are_in_order_from_the_untouched_model_to_the_file(run, trained, digits):
    rows = run["result"].report.rows
    assert [row.step for row in rows] == STEPS == [step for step, _ in run["files"]]
    import keras

    x = digits.test.x()
    untouched = keras.ops.convert_to_numpy(trained["keras3"](x, training=False))
    np.testing.assert_allclose(run_tflite(run["files"][0][1], x), untouched, atol=1e-4)
    assert run["files"][-1][1] == run["result"].lite.data
    for _, data in run["files"][:-1]:
        opened = interpreter(data)
        assert {opened.get_input_details()[0]["dtype"], opened.get_output_details()[0]["dtype"]} == {np.float32}


def test_accuracies_are_those_of_the_files(run, digits):
    x, labels = digits.test.x(), digits.test.y()
    assert len(x) == 359
    accuracies = []
    for row, (_, data) in zip(run["result"].report.rows, run["files"], strict=True):
        right = run_tflite(data, x).argmax(axis=1) == labels
        # Two classes may have the same int8 score, and kernels for one or 32 samples may differ in the last bit.
        assert row.metrics == {"accuracy": pytest.approx(right.mean(), abs=1.01 / 359)}
        accuracies.append(right.mean())
    assert accuracies[0] > 0.85
    assert min(accuracies) > 0.5


def test_sizes_zeros_and_unique_weights_are_those_of_the_files(run):
    for row, (_, data) in zip(run["result"].report.rows, run["files"], strict=True):
        assert row.bytes == len(data)
        assert row.deflated_bytes == len(zlib.compress(data, 9))
        kernels = constants(data, KERNELS)
        biases = constants(data, [(16,), (10,)])
        assert set(kernels) == set(KERNELS)
        assert row.max_unique_weights == max(len(np.unique(kernel)) for kernel in kernels.values())
        assert row.parameters == NUMBERS
        zeros = sum(int((kernel == 0).sum()) for kernel in kernels.values())
        biases_at_zero = NUMBERS - zeros - row.nonzero_parameters
        assert 0 <= biases_at_zero <= sum((bias == 0).sum() for bias in biases.values()) + 16  # `biases` has one of two
        assert row.latency_ms > 0
        assert row.seconds > 0


def test_the_file_holds_what_every_stage_promised(run):
    data = run["result"].lite.data
    for kernel in constants(data, KERNELS).values():
        assert kernel.dtype == np.int8
        assert (kernel == 0).mean() >= 0.5 - 0.5 / kernel.size
        assert len(np.unique(kernel)) <= 8
    details = Interpreter(model_content=data).get_tensor_details()  # unallocated, so without scratch tensors
    assert {str(np.dtype(detail["dtype"])) for detail in details} <= {"int8", "int32"}
    pruned, clustered = (constants(run["files"][i][1], KERNELS) for i in (2, 3))
    for shape in KERNELS:
        assert (pruned[shape] == 0).mean() >= 0.5 - 0.5 / pruned[shape].size
        assert (clustered[shape] == 0).mean() >= 0.5 - 0.5 / clustered[shape].size
        for channel in clustered[shape]:  # its BatchNorm is folded, so the whole kernel has more values
            assert len(np.unique(channel)) <= 8


def test_the_model_that_comes_back_is_the_file(run, digits):
    """A Keras 3 model whose kernels are, per channel, multiples of those in the file."""
    model = run["result"].model
    assert keras_compat.is_keras3_model(model)
    assert [layer.name for layer in model.layers] == ["stem", "norm", "relu", "pool", "body", "mean", "head"]
    assert model.optimizer is not None
    x = digits.test.x()
    import keras

    probabilities = keras.ops.convert_to_numpy(model(x, training=False))
    assert (probabilities.argmax(axis=1) == digits.test.y()).mean() > 0.5
    np.testing.assert_allclose(run_tflite(run["result"].lite.data, x), probabilities, atol=0.12)
    stored = constants(run["result"].lite.data, KERNELS)
    for name, shape in zip(("body", "head"), KERNELS[1:], strict=True):
        kernel = np.moveaxis(np.array(model.get_layer(name).kernel), -1, 0)
        np.testing.assert_array_equal(kernel == 0, stored[shape] == 0)
        for mine, files in zip(kernel, stored[shape], strict=True):
            if files.any():
                factor = np.abs(mine).max() / np.abs(files.astype(float)).max()
                np.testing.assert_allclose(mine, files * factor, atol=1e-6)


def test_the_callers_model_and_environment_are_untouched(run, trained):
    model = trained["keras3"]
    for old, new in zip(run["before"], model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [layer.trainable for layer in model.layers] == run["flags"]
    assert variables() == run["environment"]
    import keras
    import tensorflow as tf

    assert isinstance(tf.keras.layers.Dense(1), keras.layers.Layer)


def test_notes_say_what_was_decided(run):
    notes = {row.step: row.notes for row in run["result"].report.rows}
    assert any("augmentation horizontal_flip left out" in note for note in notes["original"])
    assert any(note.startswith("samples: 1,294 train, 144 validation, 359 test") for note in notes["original"])
    (agreement,) = [note for note in notes["exported int8"] if "agree on" in note]
    assert agreement.endswith("of 359 test samples")


def test_report_json_follows_the_schema(saved):
    report = json.loads((saved / "report.json").read_text())
    assert set(report) == {"recipe", "rows", "verdict", "ok", "findings", "resources"}
    assert report["recipe"] == json.loads((saved / "recipe.json").read_text())
    assert [row["step"] for row in report["rows"]] == STEPS
    for row in report["rows"]:
        first = {"speedup": type(None), "history": type(None)} if row["step"] == STEPS[0] else {}
        assert {key: type(value) for key, value in row.items()} == {**ROW, **first}
        assert list(row) == list(ROW)
        assert all(type(value) is float for value in row["metrics"].values())
        assert all(type(note) is str for note in row["notes"])


def test_histories_are_those_of_the_epochs(run):
    """Every stage trained for one epoch, which was kept: its validation is the score that the notes repeat."""
    for row, stage in zip(run["result"].report.rows[1:], RECIPE.stages, strict=True):
        history = row.history
        assert history.metric == "accuracy" and history.kept <= stage.epochs
        assert history.values.keys() >= {"loss", "accuracy", "val_loss", "val_accuracy"}
        assert {len(values) for values in history.values.values()} == {stage.epochs}


def test_findings_are_about_the_file(run, digits):
    found = run["result"].report.findings
    x, labels = digits.test.x(), digits.test.y()
    answers = run_tflite(run["result"].lite.data, x).argmax(axis=1)
    assert found.notes == [] and found.samples == 359
    (output,) = found.answers
    assert output.classes.support == np.bincount(labels).tolist()
    assert sum(output.classes.right) == pytest.approx((answers == labels).sum(), abs=1)
    assert [layer.layer for layer in found.layers if layer.weights] == ["stem, norm, relu", "body", "head"]
    assert all(layer.unique <= 8 for layer in found.layers if layer.weights)
    assert [each.layer for each in found.histograms] == ["stem, norm, relu", "body", "head"]
    assert [sum(each.before) for each in found.histograms] == [144, 2304, 160]


def test_the_file_answers_once_for_each_test_sample(monkeypatch):
    asked = []
    predict = LiteModel.predict

    def counting(self, x, batch_size=32):
        asked.append((len(self.data), len(x)))
        return predict(self, x, batch_size)

    monkeypatch.setattr(LiteModel, "predict", counting)
    x = np.random.default_rng(0).normal(size=(300, 4)).astype("float32")
    labels = (np.arange(300) % 10 == 0).astype(int)  # imbalanced, so the report lists recalls
    data = tfopt.load_data({"train": (x[:100], labels[:100]), "test": (x[100:], labels[100:])})
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
    result = tfopt.optimize(model, tfopt.PostTraining(rounding="nearest"), data, quiet=True)
    assert any("recall by class" in note for note in result.report.rows[-1].notes)
    assert result.report.findings.answers[0].classes.support == [180, 20]
    assert [count for size, count in asked if size == result.lite.size].count(200) == 1


def test_a_page_that_cannot_be_made_costs_no_result(run, tmp_path, monkeypatch):
    def broken(report):
        raise KeyError("templates")

    monkeypatch.setattr("tfopt.run.result.report_page", broken)
    with pytest.warns(UserWarning, match=r"report\.html could not be made: KeyError"):
        folder = run["result"].save(tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_save_writes_all_files(run, saved, digits):
    assert sorted(path.name for path in saved.iterdir()) == FILES
    assert [path.name for path in saved.parent.iterdir()] == ["all"]
    assert (saved / "model.tflite").read_bytes() == run["result"].lite.data
    assert (saved / "labels.txt").read_text().split() == [str(i) for i in range(10)]
    data = json.loads((saved / "data.json").read_text())
    assert data["input_shape"] == [8, 8, 1]
    assert data["class_names"] == [str(i) for i in range(10)]
    assert data["fingerprint"] == digits.fingerprint
    assert data["preprocessing"]["scale"] == 1 / 16


def test_saved_model_predicts_the_same(run, saved, digits):
    import keras

    again = keras.models.load_model(saved / "model.keras")
    x = digits.test.x()
    np.testing.assert_array_equal(again.predict(x, verbose=0), run["result"].model.predict(x, verbose=0))


def test_saved_recipe_is_the_one_that_ran(saved):
    """It also says how the digits were fed: from 0 to 1, of 16 shades."""
    loaded = tfopt.Recipe.load(saved / "recipe.json")
    assert dataclasses.replace(loaded, preprocessing=None) == RECIPE
    assert loaded.preprocessing.scale == 1 / 16 and loaded.preprocessing.offset == 0


def test_save_refuses_what_exists(run, saved, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious.txt").write_text("keep")
    with pytest.raises(OutputError, match="not empty"):
        run["result"].save(mine)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "precious.txt"]
    run["result"].save(mine, overwrite=True)
    assert sorted(path.name for path in mine.iterdir()) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OutputError, match="is a file"):
        run["result"].save(tmp_path / "file", overwrite=True)
    with pytest.raises(OutputError, match="file"):
        run["result"].save(tmp_path / "file" / "deeper")
    assert (tmp_path / "file").read_text() == "a file"


@pytest.mark.parametrize("error", [RuntimeError("disk"), KeyboardInterrupt()])
def test_save_is_all_or_nothing(run, tmp_path, monkeypatch, error):
    def fail(*args):
        raise error

    old = tmp_path / "old"
    old.mkdir()
    (old / "model.tflite").write_bytes(b"older")
    monkeypatch.setattr(models, "save_model", fail)
    with pytest.raises(type(error)):
        run["result"].save(tmp_path / "new")
    with pytest.raises(type(error)):
        run["result"].save(old, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert [path.read_bytes() for path in old.iterdir()] == [b"older"]


# Smaller runs -------------------------------------------------------------------------------------


def blobs(classes=3, width=6, count=150, seed=0):
    """Points around one center per class, which any linear model can separate."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, width)) * 3
    labels = np.arange(count) % classes
    return (centers[labels] + rng.normal(size=(count, width))).astype("float32"), labels


def dense_net(package, outputs=3, last=None, width=6, seed=0):
    package.utils.set_random_seed(seed)
    layers = package.layers
    return package.Sequential(
        [package.Input((width,)), layers.Dense(16, "relu", name="a"), layers.Dense(outputs, last, name="b")]
    )


CLUSTER = tfopt.Recipe(stages=(tfopt.Cluster(number_of_clusters=4, epochs=1, min_steps=0),))


@pytest.fixture(scope="module")
def seeded_files():
    """The same recipe twice with seed 1, once with seed 2, on the same Keras 3 model."""
    import keras

    model, data = dense_net(keras), blobs()
    return [tfopt.optimize(model, CLUSTER.seeded(seed), data, quiet=True) for seed in (1, 1, 2)]


@pytest.mark.slow
def test_a_seed_gives_the_same_bytes_and_another_one_others(seeded_files):
    first, again, other = (result.lite.data for result in seeded_files)
    assert first == again
    assert first != other
    assert seeded_files[2].recipe.training.seed == 2


def test_tf_keras_in_tf_keras_out():
    model = dense_net(tf_keras(), last="softmax")
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = [weight.copy() for weight in model.get_weights()]
    result = tfopt.optimize(model, CLUSTER, blobs(), quiet=True)
    assert keras_compat.is_tf_keras_model(result.model)
    assert result.model.optimizer is not None
    assert all(len(np.unique(layer.kernel.numpy())) <= 4 for layer in result.model.layers)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_a_path_will_do(tmp_path):
    import keras

    dense_net(keras).save(tmp_path / "m.keras")
    x, y = blobs()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    recipe = tfopt.Recipe(stages=(tfopt.Prune(schedule="one-shot", epochs=0),))
    result = tfopt.optimize(tmp_path / "m.keras", recipe, tmp_path / "data.npz", quiet=True)
    assert keras_compat.is_keras3_model(result.model)
    assert [row.step for row in result.report.rows] == ["original", "Prune", "exported int8"]
    assert (np.array(result.model.get_layer("a").kernel) == 0).mean() == 0.5


def test_no_stage_is_post_training_quantization():
    import keras

    model, (x, y) = dense_net(keras), blobs()
    result = tfopt.optimize(model, tfopt.Recipe(stages=()), (x, y), quiet=True)
    assert [row.step for row in result.report.rows] == ["original", "exported int8"]
    assert constants(result.lite.data, [(16, 6)])[(16, 6)].dtype == np.int8
    for old, new in zip(model.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def regression():
    x = np.random.default_rng(1).normal(size=(200, 6)).astype("float32")
    return x, (x @ np.arange(6.0)[:, None] / 5).astype("float32")


def binary():
    x, labels = blobs(classes=2)
    return x, labels


def one_hot():
    x, labels = blobs()
    return x, np.eye(3, dtype="float32")[labels]


def several_labels():
    x, labels = blobs(classes=4)
    return x, np.stack([labels % 2, labels // 2], axis=1)


TASKS = {
    "regression": (regression, 1, None, "mse"),
    "binary with a sigmoid": (binary, 1, "sigmoid", "accuracy"),
    "one-hot labels": (one_hot, 3, "softmax", "accuracy"),
    "several labels": (several_labels, 2, "sigmoid", "binary_accuracy"),
    "logits": (blobs, 3, None, "accuracy"),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_learns(task):
    """From random weights: the accuracy after training proves that loss and labels match."""
    make, outputs, last, metric = TASKS[task]
    x, y = make()
    recipe = tfopt.Recipe(
        stages=(tfopt.FineTune(epochs=15),),
        training=tfopt.Training(learning_rate=0.02, batch_size=16),
        export=tfopt.Export(weights="float32", activations="float32"),
    )
    result = tfopt.optimize(dense_net(tf_keras(), outputs, last), recipe, ((x, y), (x, y)), quiet=True)
    got = run_tflite(result.lite.data, x)
    if task == "regression":
        value = np.mean((got - y) ** 2)
        assert value < 0.1 < np.var(y) / 5
        assert result.report.rows[-1].metrics["mae"] == pytest.approx(np.abs(got - y).mean(), rel=1e-3)
    elif metric == "binary_accuracy" or outputs == 1:
        value = np.mean((got > 0.5) == (y.reshape(got.shape) > 0.5))
        assert value > 0.95
    else:
        value = np.mean(got.argmax(axis=1) == (y if y.ndim == 1 else y.argmax(axis=1)))
        assert value > 0.95
    assert result.report.rows[-1].metrics[metric] == pytest.approx(value, rel=1e-3)


# Broken promises ----------------------------------------------------------------------------------

PRUNE = tfopt.Recipe(
    stages=(tfopt.Prune(schedule="one-shot", epochs=0),),
    export=tfopt.Export(weights="float32", activations="float32"),
)


def test_a_file_that_is_denser_than_promised_is_refused(monkeypatch):
    import keras

    model = dense_net(keras)
    convert = export.convert
    count = []

    def denser(given, settings, data=None, flat_model=None, **_):
        count.append(1)
        if len(count) > 2:  # not the earlier rows
            given = keras.models.clone_model(model)
            given.set_weights(model.get_weights())
        return convert(given, settings, data)

    monkeypatch.setattr(export, "convert", denser)
    with pytest.raises(PromiseError) as caught:
        tfopt.optimize(model, PRUNE, blobs(), quiet=True)
    assert "layer 'a'" in str(caught.value) or "layer 'b'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_float_file_where_int8_was_promised_is_refused(monkeypatch):
    import keras

    convert = export.convert
    monkeypatch.setattr(export, "convert", lambda model, settings, *_, **_more: convert(model, FLOAT))
    with pytest.raises(PromiseError, match=r"tensors of the \.tflite are float: .+"):
        tfopt.optimize(dense_net(keras), tfopt.Recipe(stages=()), blobs(), quiet=True)


def test_nan_while_training_fails_with_one_clear_verdict(capfd):
    recipe = tfopt.Recipe(
        stages=(tfopt.FineTune(epochs=3, learning_rate=1e30),), training=tfopt.Training(optimizer="sgd")
    )
    result = tfopt.optimize(dense_net(tf_keras()), recipe, blobs(), quiet=True)
    assert not result.verdict.ok
    said = r"FineTune ended the run: 1/1 FineTune: the loss is (nan|inf) after batch \d+.*learning rate"
    assert re.match(said, result.verdict.text)
    assert "\n" not in result.verdict.text
    assert capfd.readouterr().out == ""


# Bad input: one clear error before any training ---------------------------------------------------


@pytest.fixture
def no_fit(monkeypatch):
    """Fail the test if a tf_keras model is trained."""

    def fit(self, *args, **kwargs):
        raise AssertionError("fit was called")

    monkeypatch.setattr(tf_keras().Model, "fit", fit)


TUNE = tfopt.Recipe(stages=(tfopt.FineTune(epochs=1),))


def refused(error, model, data, *told, recipe=TUNE):
    with pytest.raises(error) as caught:
        tfopt.optimize(model, recipe, data, quiet=True)
    text = str(caught.value)
    assert "\n" not in text
    for part in told:
        assert part in text


def test_the_spy_on_fit_works(no_fit):
    with pytest.raises(AssertionError, match="fit was called"):
        tfopt.optimize(dense_net(tf_keras()), TUNE, blobs(), quiet=True)


@pytest.mark.parametrize("kind", ["keras3", "tf_keras"])
def test_unbuilt_and_subclassed_models(no_fit, kind):
    import keras

    package = keras if kind == "keras3" else tf_keras()

    class Own(package.Model):
        def __init__(self):
            super().__init__()
            self.dense = package.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

    refused(ModelError, package.Sequential([package.layers.Dense(3)], name="unbuilt"), blobs(), "unbuilt")
    refused(ModelError, Own(), blobs(), "ubclass")


@pytest.mark.parametrize("thing", [None, 3, blobs])
def test_what_is_no_model(no_fit, thing):
    refused(ModelError, thing, blobs())


def test_two_outputs(no_fit):
    import keras

    source = keras.Input((6,))
    dense = keras.layers.Dense
    model = keras.Model(source, [dense(3, name="a")(source), dense(2, name="b")(source)])
    refused(DataError, model, blobs(), "gives the outputs a, b", "one without a name")


def test_nothing_to_prune(no_fit):
    import keras

    model = keras.Sequential([keras.Input((6,)), keras.layers.ReLU()], name="bare")
    x = np.random.default_rng(0).normal(size=(30, 6)).astype("float32")
    refused(ModelError, model, (x, np.arange(30) % 6), "bare", recipe=PRUNE)


def test_unknown_loss(no_fit):
    recipe = tfopt.Recipe(stages=TUNE.stages, training=tfopt.Training(loss="crossentropie"))
    refused(RecipeError, dense_net(tf_keras()), blobs(), "'crossentropie'", recipe=recipe)


def test_loss_that_the_other_keras_does_not_know(no_fit):
    """It crosses the bridge and gets as far as the training."""
    import keras

    class Odd(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(y_pred)

    model = dense_net(keras)
    model.compile("sgd", Odd())
    with pytest.raises(AssertionError, match="fit was called"):
        tfopt.optimize(model, TUNE, blobs(), quiet=True)


def test_rule_that_matches_nothing(no_fit):
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(layers=(("conv9", False),)),))
    refused(RecipeError, dense_net(tf_keras()), blobs(), "conv9", "a (Dense)", recipe=recipe)


def test_later_stage_is_tried_before_the_first_trains(no_fit):
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=5), tfopt.Cluster(layers=(("conv9", 4),))))
    refused(RecipeError, dense_net(tf_keras()), blobs(), "conv9", recipe=recipe)


def with_value(value, where):
    x, y = blobs()
    x[where] = value
    return x, y


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_in_the_data(no_fit, value):
    refused(DataError, dense_net(tf_keras()), with_value(value, (17, 2)), "NaN or infinity", "17")


@pytest.mark.parametrize("wrong", [3, -1])
def test_labels_outside_the_classes(no_fit, wrong):
    x, y = blobs()
    y = y.copy()
    y[5] = wrong
    refused(DataError, dense_net(tf_keras()), (x, y), "labels within 0..", str(wrong))


def test_shape_that_does_not_fit(no_fit):
    x, y = blobs(width=7)
    refused(DataError, dense_net(tf_keras()), (x, y), "(6,)", "(7,)")
    refused(DataError, dense_net(tf_keras()), (x[:-1], y), "149", "150")


def test_labels_of_another_width(no_fit):
    x, _ = blobs()
    refused(DataError, dense_net(tf_keras()), (x, np.eye(5)[np.arange(150) % 5]), "3 outputs", "5 values")


def image_folder(root):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(root / name / f"{i}.png")
    return root


def photo_net():
    package = tf_keras()
    layers = package.layers
    return package.Sequential(
        [package.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(2)]
    )


def test_empty_class_folder_and_corrupt_image(no_fit, tmp_path):
    folder = image_folder(tmp_path / "photos")
    (folder / "cow").mkdir()
    refused(DataError, photo_net(), folder, "cow", "none")
    (folder / "cow").rmdir()
    (folder / "dog" / "3.png").write_bytes((folder / "dog" / "3.png").read_bytes()[:60])
    refused(DataError, photo_net(), folder, "3.png")
    (folder / "dog" / "3.png").unlink()
    with pytest.raises(AssertionError, match="fit was called"):
        tfopt.optimize(photo_net(), TUNE, folder, quiet=True)


def test_folder_that_is_not_there(no_fit, tmp_path):
    refused(DataError, photo_net(), tmp_path / "nowhere", "nowhere")
    refused(ModelError, tmp_path / "nothing.keras", blobs(), "nothing.keras")


def test_images_of_another_size_are_brought_to_the_models(tmp_path):
    model = photo_net()
    data = for_model.data_for(model, str(image_folder(tmp_path / "photos")))
    assert data.input_shape == (8, 8, 3)
    wider = tf_keras().Sequential([tf_keras().Input((5, 7, 1)), tf_keras().layers.Flatten()])
    resized = for_model.data_for(wider, tmp_path / "photos", preprocessing="unit", limit=3)
    assert resized.input_shape == (5, 7, 1)
    assert len(resized.train) == 3
    assert 0.1 < resized.train.x().max() <= 1


@pytest.mark.slow
def test_progress_is_on_stderr_and_quiet_is_quiet(capsys):
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=2),))
    tfopt.optimize(dense_net(tf_keras()), recipe, blobs())
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "1/1 FineTune epoch 1/2  loss " in shown.err
    assert "1/1 FineTune epoch 2/2  loss " in shown.err
    assert "original: accuracy " in shown.err
    tfopt.optimize(dense_net(tf_keras()), recipe, blobs(), quiet=True)
    assert capsys.readouterr() == ("", "")
