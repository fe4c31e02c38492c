"""Distillation in a whole run: the same teacher and views in all stages, in the report and in the recipe."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest

import tfopt
from tfopt.data import Augmentation
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.losses import FitNets, Hinton, RegressionKD
from tfopt.distillation.session import DistillationSession, adapted_teacher, default_distillation, session_for
from tfopt.distillation.targets import TARGETS
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.tasks import task_named


def pictures(count, seed):
    """Images (8, 8, 1) of two classes: bright in the upper or in the lower half."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = rng.normal(size=(count, 8, 8, 1)).astype("float32")
    x[y == 0, :4] += 1.5
    x[y == 1, 4:] += 1.5
    return x, y


@pytest.fixture(scope="module")
def data():
    return tfopt.load_data((pictures(96, 0), pictures(32, 1), pictures(64, 2)))


def network(width, seed, name):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    stack = [
        keras.Input((8, 8, 1), name="image"),
        layers.Conv2D(width, 3, strides=2, activation="relu", name="conv"),
        layers.Flatten(name="flat"),
        layers.Dense(2, activation="softmax", name="head"),
    ]
    return keras.Sequential(stack, name=name)


@pytest.fixture(scope="module")
def teacher(data):
    model = network(8, 1, "teacher")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(data.train.x(), data.train.y(), epochs=30, verbose=0)
    return model


RECIPE = tfopt.Recipe(
    stages=(
        tfopt.FineTune(epochs=3),
        tfopt.Prune(final_sparsity=0.5, epochs=2, min_steps=0),
        tfopt.Quantize(epochs=1, min_steps=0),
    ),
    training=tfopt.Training(horizontal_flip=True, shift=0.125, batch_size=16, learning_rate=1e-2),
    distillation=Distillation(losses=(Hinton(), FitNets(layers=(("conv", "conv"),))), views=2),
)


@pytest.fixture(scope="module")
def whole(data, teacher):
    """A student, its weights before, and what an uninterrupted run of RECIPE made of it."""
    student = network(3, 0, "student")
    before = student.get_weights()
    return student, before, tfopt.optimize(student, RECIPE, data, teacher=teacher, quiet=True)


class Counting:
    """A function as teacher; its logits are known sums of pixels, so that answers can be matched with inputs."""

    def __init__(self):
        self.asked = 0

    def __call__(self, x):
        self.asked += len(x)
        return sums(x)


def sums(x):
    weights = np.arange(64.0).reshape(8, 8, 1) / 64
    return np.stack([(x * weights).sum((1, 2, 3)), (x * weights[::-1]).sum((1, 2, 3))], axis=1).astype("float32")


@pytest.mark.parametrize("augment", [None, Augmentation(horizontal_flip=True, shift=0.25)], ids=["plain", "augmented"])
def test_each_image_comes_with_the_answer_to_that_very_view(data, augment):
    session = DistillationSession(
        Distillation(views=3),
        adapted_teacher(Counting(), Distillation(), data),
        data,
        augment=augment,
        seed=4,
        folder=None,
    )
    seen = []
    batches = session.batches(20, seed=7, epochs=5)
    for _ in range(4):
        epoch = []
        for x, y in batches.as_numpy_iterator():
            np.testing.assert_allclose(x[TARGETS]["output"], sums(x["inputs"]), rtol=1e-5)
            epoch.append(x["inputs"])
            assert len(y) == len(x["inputs"])
        seen.append(np.sort(np.concatenate(epoch).reshape(96, -1), axis=0))
    np.testing.assert_array_equal(seen[0], seen[3])  # three views, then the first again, in another order
    assert augment is None or (seen[0] != seen[1]).any()


@pytest.mark.slow
def test_the_teacher_answers_each_view_once_for_all_stages(data):
    counting = Counting()
    recipe = dataclasses.replace(RECIPE, distillation=Distillation(views=2))
    tfopt.optimize(network(3, 0, "student"), recipe, data, teacher=counting, quiet=True)
    # Six epochs in three stages. Besides the two views: a few samples, twice, at the start and for each stage; those
    # that tell logits from probabilities; two for their size; the validation set, once, which shows that this teacher
    # guesses, so that it judges no augmentation; test.
    assert counting.asked == 2 * 96 + 2 * 64 * 4 + 64 + 2 + 32 + 64


@pytest.mark.slow
def test_terms_and_teacher_are_in_the_report_and_the_recipe(data, teacher, whole, tmp_path):
    student, before, result = whole
    notes = [" ".join(row.notes) for row in result.report.rows]
    right = np.mean(teacher.predict(data.test.x(), verbose=0).argmax(1) == data.test.y())
    assert f"teacher 'teacher' on the test set: accuracy {right:.4f}" in notes[0]
    for text in notes[1:]:
        assert "distilled from 'teacher'" in text
        for term in ("loss", "hard_loss", "hinton", "fitnets"):
            assert f" {term} " in text
    result.save(tmp_path / "out")
    assert tfopt.Recipe.load(tmp_path / "out" / "recipe.json") == RECIPE
    for old, now in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    assert result.model.count_params() == student.count_params()  # without teacher and connectors


def test_a_teacher_without_a_distillation_teaches_by_hinton(data, teacher):
    recipe = dataclasses.replace(RECIPE, distillation=None, stages=(tfopt.FineTune(epochs=1),))
    result = tfopt.optimize(network(3, 0, "student"), recipe, data, teacher=teacher, quiet=True)
    assert result.recipe.distillation == Distillation()


@pytest.mark.slow
def test_answers_on_disk_serve_the_next_run_and_no_other_teacher(data, teacher, tmp_path):
    recipe = dataclasses.replace(RECIPE, stages=(tfopt.FineTune(epochs=2),))
    weights = []
    for _ in range(2):
        result = tfopt.optimize(
            network(3, 0, "student"), recipe, data, teacher=teacher, quiet=True, teacher_cache=tmp_path / "answers"
        )
        weights.append(result.model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(DataError, match="answers"):
        tfopt.optimize(
            network(3, 0, "student"),
            recipe,
            data,
            teacher=network(8, 9, "other"),
            quiet=True,
            teacher_cache=tmp_path / "answers",
        )


@pytest.mark.slow
def test_an_interrupted_run_resumes_only_with_its_teacher(data, teacher, whole, tmp_path):
    *_, uninterrupted = whole
    stopped = []

    class StopError(Exception):
        pass

    def run(student_teacher, state="state", stop=False):
        from tfopt.run.optimize import _Run

        kept = _Run._keep

        def keep(self):
            kept(self)
            if stop:
                stopped.append(self.finished)
                raise StopError

        _Run._keep = keep
        try:
            return tfopt.optimize(
                network(3, 0, "student"),
                RECIPE,
                data,
                teacher=student_teacher,
                quiet=True,
                checkpoint=tmp_path / state,
            )
        finally:
            _Run._keep = kept

    with pytest.raises(StopError):
        run(teacher, stop=True)
    shutil.copytree(tmp_path / "state", tmp_path / "copy")
    resumed = run(teacher)
    assert resumed.lite.data == uninterrupted.lite.data
    assert resumed.report.rows[1].seconds != uninterrupted.report.rows[1].seconds  # kept from the interrupted run
    with pytest.raises(DataError, match="belongs to another run: teacher"):
        run(network(8, 9, "other"), "copy", stop=True)
    assert stopped == [1]


def test_what_cannot_be_taught_fails_before_training(data, teacher):
    student = network(3, 0, "student")
    with pytest.raises(RecipeError, match="needs a teacher"):
        tfopt.optimize(student, RECIPE, data, quiet=True)
    with pytest.raises(RecipeError, match="'regression_kd' is for regression, the data is for classification"):
        recipe = dataclasses.replace(RECIPE, distillation=Distillation(losses=(RegressionKD(),)))
        tfopt.optimize(student, recipe, data, teacher=teacher, quiet=True)
    unknown = FitNets(layers=(("convolution", "conv"),))
    with pytest.raises(ModelError, match=r"no layer 'convolution'"):
        recipe = dataclasses.replace(RECIPE, distillation=Distillation(losses=(unknown,)))
        tfopt.optimize(student, recipe, data, teacher=teacher, quiet=True)
    wide = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(5)], name="wide")
    with pytest.raises(ModelError, match=r"\(2,\).*\(5,\)"):
        recipe = dataclasses.replace(RECIPE, distillation=Distillation())
        tfopt.optimize(student, recipe, data, teacher=wide, quiet=True)


@pytest.mark.slow
def test_answers_come_with_the_weights_of_their_samples(data, teacher):
    """Also those of a teacher that is asked once, and the terms of the loss are weighted."""
    weights = np.linspace(0.5, 2, len(data.train), dtype="float32")
    weighted = dataclasses.replace(data, train=dataclasses.replace(data.train, weights=weights))
    ready = adapted_teacher(teacher, Distillation(losses=(Hinton(),)), weighted)
    session = DistillationSession(Distillation(losses=(Hinton(),)), ready, weighted, augment=None, seed=0)
    rows = {image.tobytes(): weight for image, weight in zip(data.train.x(), weights, strict=True)}
    for x, _, found in session.batches(16, seed=1, epochs=1):
        assert TARGETS in x
        np.testing.assert_allclose(found, [rows[image.tobytes()] for image in x["inputs"].numpy()])
    with pytest.raises(RecipeError, match="MeanTeacher takes samples without weights"):
        session_for(tfopt.MeanTeacher(), None, weighted, augment=None, seed=0)


def test_regression_is_taught_too(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4)).astype("float32")
    y = (x @ [[1.0], [2.0], [-1.0], [0.5]]).astype("float32")
    layers = keras.layers
    teacher = keras.Sequential([keras.Input((4,)), layers.Dense(1, name="linear")], name="exact")
    teacher.set_weights([np.array([[1.0], [2.0], [-1.0], [0.5]]), np.zeros(1)])
    student = keras.Sequential([keras.Input((4,)), layers.Dense(8, activation="relu"), layers.Dense(1)], name="student")
    recipe = tfopt.Recipe(
        stages=(tfopt.FineTune(epochs=30),),
        distillation=Distillation(losses=(RegressionKD(),), alpha=0.0),
        training=tfopt.Training(learning_rate=2e-2, batch_size=16),
    )
    rows = tfopt.optimize(student, recipe, (x, y), teacher=teacher, quiet=True).report.rows
    assert rows[-1].metrics["mse"] < 0.1 * rows[0].metrics["mse"]
    assert "teacher 'exact' on the test set: mse 0.0000" in " ".join(rows[0].notes)


@pytest.mark.parametrize(
    ("labels", "loss"),
    [
        (np.arange(60) % 3, "hinton"),
        (np.arange(120).reshape(60, 2) % 3 % 2, "multilabel_kd"),
        (np.linspace(0, 1, 60), "regression_kd"),
    ],
)
def test_the_task_chooses_the_default(labels, loss):
    data = tfopt.load_data((np.ones((60, 4), "float32"), labels))
    [found] = default_distillation(data).losses
    assert found.label == loss
    assert found.task == task_named(data.task).responses
