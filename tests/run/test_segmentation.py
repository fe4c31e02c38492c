"""Runs on labels with a class for each place: data, training, guard, report, file and distillation."""

import dataclasses

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.data import load_data
from tfopt.distillation.self_taught.mean_teacher_session import MeanTeacherSession
from tfopt.errors import DataError, RecipeError
from tfopt.evaluate.verify import verify_file
from tfopt.losses import ChannelWise, Hinton
from tfopt.run.guard import Guard
from tfopt.tflite.read import LiteModel
from tfopt.training.class_weights import class_weights
from tfopt.training.settings import Training
from tfopt.transfer import FeatureTransfer

SHORT = Training(batch_size=16)


@pytest.fixture(scope="module")
def images():
    """Images whose pixels tell the class: dark, red or green, in blocks; the labels follow from the colors alone."""
    rng = np.random.default_rng(0)
    y = np.kron(rng.integers(0, 3, (160, 4, 4)), np.ones((1, 2, 2))).astype("int64")
    x = np.eye(3, 4, -1)[:, :3][y] + rng.normal(0, 0.1, (160, 8, 8, 3))
    return np.abs(x).astype("float32"), y


def net(package, classes=3, activation="softmax", seed=0):
    package.utils.set_random_seed(seed)
    layers = package.layers
    return package.Sequential(
        [
            package.Input((8, 8, 3)),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="body"),
            layers.Conv2D(classes, 1, activation=activation, name="head"),
        ]
    )


@pytest.fixture(scope="module")
def trained(images):
    import keras

    x, y = images
    model = net(keras)
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=15, batch_size=16, verbose=0)
    return model


def iou(answers, labels, classes=3):
    """Mean intersection over union in plain sets."""
    pairs = [(answers == c, labels == c) for c in range(classes)]
    return np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs])


@pytest.mark.slow
@pytest.mark.parametrize("last", [False, True], ids=["(n, h, w)", "(n, h, w, 1)"])
def test_a_run_measures_places(images, trained, last, tmp_path):
    x, y = images
    data = load_data((x, y[..., None] if last else y))
    assert data.task == "segmentation" and data.labels == "sparse" and data.num_classes == 3
    assert data.train.labels.shape[1:] == (8, 8)
    recipe = tfopt.Recipe(
        stages=[tfopt.Prune(final_sparsity=0.5, epochs=1), tfopt.Quantize(epochs=1)], training=SHORT, max_drop=0.2
    )
    result = tfopt.optimize(trained, recipe, data, quiet=True)
    assert result.verdict.ok, result.verdict
    outputs = result.lite.predict(data.test.x())
    answers, labels = outputs.argmax(axis=-1), data.test.labels
    row = result.report.rows[-1]
    assert set(row.metrics) == {"accuracy", "mean_iou", "mean_dice"}
    assert row.metrics["accuracy"] == pytest.approx(np.mean(answers == labels))
    assert row.metrics["mean_iou"] == pytest.approx(iou(answers, labels))
    assert row.metrics["mean_iou"] > 0.8  # the colors tell the classes
    kernel = result.model.get_layer("body").get_weights()[0]
    assert np.mean(kernel == 0) >= 0.49
    result.save(tmp_path / "out")
    found = verify_file(result.model, tmp_path / "out" / "model.tflite", data)
    assert found.outputs[0].metrics["mean_iou"][1] == pytest.approx(row.metrics["mean_iou"])
    assert found.agreement > 0.9 and found.outputs[0].interval is None and not found.problems


@pytest.mark.slow
@pytest.mark.parametrize("form", ["float mask", "integer mask"])
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_a_mask_for_a_single_output(images, form, activation):
    x, y = images
    mask = (y[..., None] == 1).astype("float32" if form == "float mask" else "uint8")
    import keras

    model = net(keras, classes=1, activation=activation)
    result = tfopt.optimize(
        model, tfopt.Recipe(stages=[tfopt.FineTune(epochs=20)], training=Training(batch_size=16, learning_rate=0.03)),
        (x, mask), quiet=True,
    )  # fmt: skip
    data = load_data((x, mask))
    outputs = result.lite.predict(data.test.x())[..., 0]
    answers = outputs > (0.5 if activation else 0)
    assert result.report.rows[-1].metrics["accuracy"] == pytest.approx(np.mean(answers == data.test.labels))
    assert result.report.rows[-1].metrics["mean_iou"] == pytest.approx(iou(answers, data.test.labels, classes=2))
    assert result.report.rows[-1].metrics["accuracy"] > 0.9


def test_one_hot_places_train_as_numbers_do(images, trained):
    x, y = images
    rows = []
    for labels in (y, np.eye(3)[y]):
        recipe = tfopt.Recipe(stages=[tfopt.FineTune(epochs=1)], training=SHORT)
        rows.append(tfopt.optimize(trained, recipe, (x, labels), quiet=True).report.rows[-1].metrics)
    assert rows[0] == pytest.approx(rows[1], abs=1e-3)


def taught(images, trained, loss):
    """Return a student that hardly changes, the data, and the term `loss` that its row reports."""
    import keras

    student, data = net(keras, seed=3), load_data(images)
    recipe = tfopt.Recipe(
        stages=[tfopt.FineTune(epochs=1)], training=Training(batch_size=16, learning_rate=1e-9, patience=None),
        distillation=tfopt.Distillation(losses=(loss,), alpha=0.0),
    )  # fmt: skip
    result = tfopt.optimize(student, recipe, data, teacher=trained, quiet=True)
    note = next(note for note in result.report.rows[1].notes if loss.label in note)
    return student, data, float(note.split(f"{loss.label} ")[1])


def test_a_student_learns_the_teachers_places(images, trained):
    student, data, term = taught(images, trained, Hinton(temperature=2.0, weight=1.0))
    p, q = (np.log(m.predict(data.train.x(), verbose=0).astype(np.float64)) / 2 for m in (trained, student))
    p, q = (z - np.log(np.exp(z).sum(axis=-1, keepdims=True)) for z in (p, q))
    expected = 4 * (np.exp(p) * (p - q)).sum(axis=-1).mean()  # T^2 KL, averaged over the places
    assert term == pytest.approx(expected, rel=0.02)


def test_a_student_learns_where_the_teachers_classes_are(images, trained):
    student, data, term = taught(images, trained, ChannelWise(temperature=2.0, weight=1.0))
    p, q = (
        scipy.special.softmax(np.log(m.predict(data.train.x(), verbose=0).astype(np.float64)) / 2, axis=(1, 2))
        for m in (trained, student)
    )
    expected = 4 * scipy.special.rel_entr(p, q).sum(axis=(1, 2)).mean()
    assert term == pytest.approx(expected, rel=0.02)


def test_class_weights_count_the_labels_that_a_mean_teacher_uses(images, trained, monkeypatch):
    """Half of the images are labeled; the weights of their pixels are a (batch, 8, 8) beside unlabeled images."""
    x, y = images
    found = []

    def weights(training, data):
        found.append((len(data.train), class_weights(training, data)[""]))
        return class_weights(training, data)

    monkeypatch.setattr("tfopt.run.step.class_weights", weights)
    recipe = tfopt.Recipe(
        stages=(tfopt.FineTune(epochs=1),),
        training=dataclasses.replace(SHORT, class_weight="balanced"),
        distillation=tfopt.MeanTeacher(task="segmentation", labeled=0.5),
    )
    data = load_data((x, y))
    tfopt.optimize(trained, recipe, data, quiet=True)
    labeled = MeanTeacherSession(recipe.distillation, data, augment=None, seed=SHORT.seed).labeled
    counts = np.bincount(data.train.labels[labeled].ravel())
    ((number, balanced),) = found
    assert number == len(labeled) < len(data.train)
    np.testing.assert_allclose(balanced, counts.sum() / (3 * counts), rtol=1e-6)


def test_the_guard_compares_places(images, trained):
    data = load_data(images)
    guard = Guard(data, 0.02)
    guard.accept(guard.evaluate(lambda x: trained.predict(x, verbose=0)))
    worse = guard.evaluate(lambda x: np.roll(trained.predict(x, verbose=0), 1, axis=-1))
    assert guard.best.by_sample.shape == (len(data.validation),)
    assert guard.fails(worse) and worse.metric < 0.2


def test_what_does_not_fit(images, trained):
    x, y = images
    stages = tfopt.Recipe(stages=[tfopt.FineTune(epochs=1)], training=SHORT)
    with pytest.raises(DataError, match=r"places of shape \(8, 8\), the labels have \(4, 8\)"):
        tfopt.optimize(trained, stages, (x, y[:, :4]), quiet=True)
    void = y.copy()
    void[:, 0, 0] = 255
    with pytest.raises(DataError, match="values 0, 1, 2 and 255 in the labels"):
        tfopt.optimize(trained, stages, (x, void), quiet=True)
    transfer = tfopt.Recipe(stages=[], transfer=FeatureTransfer(), training=SHORT)
    with pytest.raises(RecipeError, match="one answer for each sample"):
        tfopt.optimize(trained, transfer, (x, y), quiet=True)


def test_on_the_command_line(images, trained, tmp_path):
    x, y = images
    np.savez(tmp_path / "data.npz", x=x, y=y[..., None])
    trained.save(tmp_path / "model.keras")
    tfopt.export_tflite(trained, tmp_path / "model.tflite", tfopt.Export(), representative_data=x)
    files = [str(tmp_path / name) for name in ("model.keras", "model.tflite")]
    done = CliRunner().invoke(
        cli.main, ["verify", *files, "--data", str(tmp_path / "data.npz"), "--min-agreement", "0.9"]
    )
    assert done.exit_code == 0, done.output
    assert "mean IoU: model" in done.output and "same class: " in done.output
    done = CliRunner().invoke(cli.main, ["compare", files[1], files[1], "--data", str(tmp_path / "data.npz")])
    assert done.exit_code == 0 and "mean IoU" in done.output and "agreement" in done.output, done.output
    assert LiteModel(files[1]).outputs[0].shape[1:] == (8, 8, 3)


def test_a_tf_data_pipeline(images, trained):
    x, y = images
    pipeline = tf.data.Dataset.from_tensor_slices((x, y[..., None].astype("uint8"))).batch(32)
    data = load_data({"train": pipeline, "test": pipeline})
    assert data.task == "segmentation" and data.test.labels.shape == (160, 8, 8)
    np.testing.assert_array_equal(data.test.labels, y)
