"""Stages whose training goes wrong, what is compared after an interruption, and verdicts on the file."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import DataError, DivergedError, RecipeError
from tfopt.evaluate.chance import Guess
from tfopt.run.checkpoint import Checkpoint
from tfopt.run.guard import Evaluation, Guard
from tfopt.run.step import StageRunner, Step
from tfopt.run.tries import carry_out_stage
from tfopt.run.verdicts import budget_missed, guesses
from tfopt.stages.budget import Budget
from tfopt.tflite.settings import FLOAT
from tfopt.training.rate_finder import find_learning_rate

RNG = np.random.default_rng(0)
CENTERS = RNG.normal(size=(3, 6)) * 3
Y = np.arange(150) % 3
X = (CENTERS[Y] + RNG.normal(size=(150, 6))).astype("float32")
SGD = tfopt.Training(optimizer="sgd", schedule="constant", batch_size=64)


@pytest.fixture(scope="module")
def data():
    return tfopt.load_data(((X, Y), (X[:60], Y[:60]), (X, Y)))


def nearest(package=keras):
    """A model that names the nearest center."""
    layers = [package.Input((6,)), package.layers.Dense(3, "softmax", name="nearest")]
    model = package.Sequential(layers, name="small")
    model.set_weights([CENTERS.T.astype("float32"), (-(CENTERS**2).sum(axis=1) / 2).astype("float32")])
    return model


def run(data, *stages, model=None, **recipe):
    recipe = tfopt.Recipe(stages=stages, export=FLOAT, **recipe)
    return tfopt.optimize(model or nearest(), recipe, data, quiet=True)


# Training that diverges ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("max_drop", [0.05, None])
def test_what_came_before_a_training_that_diverges_is_kept(data, tmp_path, max_drop):
    """The loss is finite in the only batch; the weights are not after it."""
    stage = tfopt.Prune(final_sparsity=0.2, epochs=1, min_steps=0, learning_rate=1e39)
    training = tfopt.Training(optimizer="sgd", schedule="constant", batch_size=150)
    pruned = tfopt.Prune(final_sparsity=0.1, schedule="one-shot", epochs=0)
    result = run(data, pruned, stage, training=training, max_drop=max_drop)
    assert not result.verdict.ok
    text = result.verdict.text
    assert text.startswith("Prune ended the run: 2/2 Prune: weights are NaN") and "; second try: 2/2 Prune: " in text
    assert "The file holds the model before that stage." in text and "max_drop=" not in text
    assert [row.step for row in result.report.rows] == ["original", "Prune", "exported float32"]
    assert result.report.rows[-1].metrics == result.report.rows[1].metrics
    kernel, _ = result.model.get_weights()
    assert (kernel == 0).sum() == 2  # a tenth of 18
    result.save(tmp_path / "out")


def test_a_gentler_try_may_succeed(data, monkeypatch):
    train = StageRunner.train

    def diverges_once(run, stage, *rest):
        if stage.learning_rate is None:
            raise DivergedError("The loss is inf.")
        return train(run, stage, *rest)

    monkeypatch.setattr(StageRunner, "train", diverges_once)
    result = run(data, tfopt.FineTune(epochs=1, min_steps=0), training=SGD)
    assert result.verdict.ok
    notes = result.report.rows[1].notes
    tried = "tried twice, the second was better; first: The loss is inf; second: accuracy"
    assert any(note.startswith(tried) for note in notes)
    assert "settings of the second try: epochs 2 instead of 1, learning_rate 0.0005 instead of the default" in notes
    assert result.recipe.stages[0].epochs == 2


# The learning rate of a range test ----------------------------------------------------------------


def untrained():
    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "softmax", kernel_initializer="zeros")])


def test_a_stage_without_a_rate_starts_with_that_of_a_range_test(data):
    """It is that of the model before the stage, of the same loss and samples."""
    training = tfopt.Training(optimizer="sgd", range_test=True, batch_size=50, learning_rate=1e-6)
    stages = tfopt.FineTune(epochs=1, min_steps=0), tfopt.FineTune(epochs=1, min_steps=0, learning_rate=0.5)
    result = run(data, *stages, model=untrained(), training=training)
    found = find_learning_rate(
        untrained(), data, loss="sparse_categorical_crossentropy", optimizer="sgd", batch_size=50, quiet=True
    )
    assert f"learning rate {found.suggestion:.3g}, found by a range test" in result.report.rows[1].notes
    assert result.report.rows[1].metrics["accuracy"] > 0.9  # with 1e-6 it would stay at a third
    assert not any("range test" in note for note in result.report.rows[2].notes)
    assert result.recipe.stages[0].learning_rate is None


def test_the_recipes_rate_is_used_where_no_rate_lowers_the_loss(data):
    perfect = nearest()
    perfect.set_weights([100 * weight for weight in perfect.get_weights()])  # its loss is 0
    training = tfopt.Training(optimizer="sgd", range_test=True, learning_rate=1e-4)
    result = run(data, tfopt.FineTune(epochs=1, min_steps=0), model=perfect, training=training)
    assert any(
        note.startswith("learning rate 0.0001, since the range test found none: ")
        for note in result.report.rows[1].notes
    )


def test_the_second_try_halves_the_rate_that_was_found(guard):
    stage, rates = tfopt.FineTune(epochs=1), []

    def try_stage(variant):
        rates.append(variant.learning_rate)
        return step(dataclasses.replace(variant, learning_rate=variant.learning_rate or 0.2), 20)

    carry_out_stage(stage, try_stage, guard, learning_rate=0.5, say=lambda line: None)
    assert rates == [None, 0.1]


def steps(**outcomes):
    """A function that gives the step of a stage, or raises its error, by its `retry`."""

    def try_stage(stage):
        found = outcomes[stage.retry]
        if isinstance(found, Exception):
            raise found
        return found

    return try_stage


@pytest.fixture
def guard(data):
    guard = Guard(data, 0.05)
    guard.accept(evaluation(60))
    return guard


def evaluation(right):
    by_sample = (np.arange(60) < right).astype(float)
    return Evaluation(float(by_sample.mean()), float(by_sample.mean()), by_sample)


def step(stage, right):
    return Step(stage, None, None, ["a note"], evaluation(right))


LOWER = tfopt.Prune(final_sparsity=0.8, retry="lower")  # its second try has retry="never"


@pytest.mark.parametrize(
    ("first", "second", "kept", "failure"),
    [
        (59, None, 59, ""),
        (40, 58, 58, ""),
        (40, 50, 50, "accuracy 0.8333 on 60 validation samples, 1.0000 before; max_drop=0.05. "),
        (40, 30, 40, "accuracy 0.6667 on 60 validation samples, 1.0000 before; max_drop=0.05. "),
        (40, DivergedError("It is nan."), 40, "accuracy 0.6667 on "),
        (DivergedError("It is inf."), 58, 58, ""),
        (DivergedError("It is inf."), DivergedError("It is nan."), None, "It is inf; second try: It is nan. The file"),
        (DivergedError("It is inf."), DataError("It is bad."), None, "It is inf; second try: It is bad. The file"),
    ],
)
def test_two_tries(guard, first, second, kept, failure):
    results = [each if not isinstance(each, int) else step(LOWER, each) for each in (first, second)]
    said = []
    outcome = carry_out_stage(
        LOWER, steps(lower=results[0], never=results[1]), guard, learning_rate=0.1, say=said.append
    )
    assert outcome.failure.startswith(failure) and bool(outcome.failure) == bool(failure)
    assert (outcome.step and round(outcome.step.evaluation.metric * 60)) == kept
    assert bool(said) == (second is not None)
    took_second = isinstance(second, int) and kept == second
    assert outcome.stage.final_sparsity == pytest.approx(0.6 if took_second else 0.8)
    if took_second:
        assert outcome.step.notes[-1].startswith("settings of the second try: ")
        assert "final_sparsity 0.6 instead of 0.8" in outcome.step.notes[-1]


def test_other_errors_of_the_first_try_are_errors(guard):
    with pytest.raises(RecipeError, match="It is wrong"):
        carry_out_stage(LOWER, steps(lower=RecipeError("It is wrong.")), guard, learning_rate=0.1, say=print)


# Comparison after an interruption -----------------------------------------------------------------


def test_a_resumed_run_compares_with_the_best_of_all_stages(data, tmp_path, monkeypatch):
    """0.80, 0.90, 0.87 | 0.83: seven points below the best, four below the last, above the original."""
    pruned = tfopt.Prune(final_sparsity=0.1, schedule="one-shot", epochs=0)
    recipe = tfopt.Recipe(stages=(pruned,) * 3, export=FLOAT)
    data = tfopt.load_data(((X, Y), (X[:100], Y[:100]), (X, Y)))
    answers = iter([80, 90, 87, KeyboardInterrupt(), 80, 83, 80])

    def scripted(guard, predict):
        right = next(answers)
        if isinstance(right, BaseException):
            raise right
        by_sample = (np.arange(100) < right).astype(float)
        return Evaluation(right / 100, right / 100, by_sample)

    monkeypatch.setattr(Guard, "evaluate", scripted)
    monkeypatch.setattr("tfopt.run.prepare.data_warnings", lambda *_, **__: [])
    with pytest.raises(KeyboardInterrupt):
        tfopt.optimize(nearest(), recipe, data, quiet=True, checkpoint=tmp_path / "run.npz")
    result = tfopt.optimize(nearest(), recipe, data, quiet=True, checkpoint=tmp_path / "run.npz")
    assert result.verdict.text.startswith(
        "Prune ended the run: accuracy 0.8300 on 100 validation samples, 0.9000 before"
    )


def test_few_samples_are_said_also_where_a_run_began_with_an_untrained_model(data, monkeypatch):
    """2, 12, 9 and 9 right of 12: far better than at first, and a drop from the best that chance may explain."""
    pruned = tfopt.Prune(final_sparsity=0.1, schedule="one-shot", epochs=0, retry="never")
    data = tfopt.load_data(((X, Y), (X[:12], Y[:12]), (X, Y)))
    monkeypatch.setattr("tfopt.run.prepare.data_warnings", lambda *_, **__: [])

    def verdict(*answers):
        left = iter(answers)

        def scripted(guard, predict):
            by_sample = (np.arange(12) < next(left)).astype(float)
            return Evaluation(float(by_sample.mean()), float(by_sample.mean()), by_sample)

        monkeypatch.setattr(Guard, "evaluate", scripted)
        recipe = tfopt.Recipe(stages=(pruned,) * 2, export=FLOAT)
        return tfopt.optimize(nearest(), recipe, data, quiet=True).verdict

    fell = verdict(2, 12, 9, 9)
    assert fell.ok and fell.text.startswith(
        "The file may be worse: accuracy 0.7500 on 12 validation samples, 1.0000 before; that may be chance. "
        "12 validation samples are too few to tell a drop of 0.05"
    )
    kept = verdict(2, 12, 12, 12)
    assert kept.ok and "too few" not in kept.text


def test_the_best_evaluation_comes_back_or_is_an_error(tmp_path):
    weights = SimpleNamespace(get_weights=lambda: [np.ones(2)])
    checkpoint = Checkpoint(tmp_path / "run.npz", "key")
    best = Evaluation(0.5, 0.25, np.array([0.0, 0.5]))
    checkpoint.save(weights, [], best=best)
    found = checkpoint.load().best
    assert (found.metric, found.quality, found.by_sample.tolist()) == (0.5, 0.25, [0.0, 0.5])
    checkpoint.save(weights, [], best=Evaluation(0.5, 0.25, np.array([[0.0]])))
    with pytest.raises(DataError, match=r"is damaged \(the evaluation of its best model cannot be read\)"):
        checkpoint.load()
    checkpoint.save(weights, [])
    assert checkpoint.load().best is None


def test_resuming_does_not_change_the_model_that_the_run_began_with(tmp_path):
    start, other = nearest(tf_keras()), nearest(tf_keras())
    other.set_weights([2 * weight for weight in start.get_weights()])
    before = [weight.copy() for weight in start.get_weights()]
    checkpoint = Checkpoint(tmp_path / "run.npz", "key")
    checkpoint.save(other, [])
    resumed = checkpoint.resumed(checkpoint.load(), start, resized=False)
    for weight, old, new in zip(start.get_weights(), before, resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, old)
        np.testing.assert_array_equal(new, 2 * old)


# Verdicts -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("package", [keras, tf_keras()], ids=["keras", "tf_keras"])
def test_a_stage_that_is_not_kept_is_in_the_keras_of_the_model(data, tmp_path, package):
    ruinous = tfopt.Prune(final_sparsity=0.95, schedule="one-shot", epochs=0)
    result = run(data, ruinous, model=nearest(package))
    assert [row.step for row in result.report.rows][1] == "Prune (not kept)"
    result.save(tmp_path / "out")
    kept = package.models.load_model(tmp_path / "out" / "Prune_not_kept.keras")
    assert isinstance(kept, package.Sequential) and (kept.get_weights()[0] == 0).sum() == 17


def test_a_file_that_guesses_is_a_verdict(data, monkeypatch):
    ruinous = tfopt.Prune(final_sparsity=0.95, schedule="one-shot", epochs=0)
    monkeypatch.setattr("tfopt.run.verdicts.forgotten", lambda *_, **__: Guess("accuracy", 0.5, 0.5, True))
    result = run(data, ruinous, max_drop=None)
    assert not result.verdict.ok
    assert result.verdict.text.startswith("Expected a file that does its task; the file's accuracy is 0.")
    assert result.verdict.text.endswith("(--allow-drift).")  # nothing about chance or too few samples behind it
    assert result.report.verdict == result.verdict.text and result.model is not None


def rows_with(*accuracies):
    return [SimpleNamespace(metrics={"accuracy": each}, bytes=10) for each in accuracies]


def test_files_of_which_an_accuracy_has_no_number():
    """A hundred samples of two classes; a file that swaps the answers of samples guesses, even if it names both."""
    y = np.arange(100) % 2
    part = (np.zeros((100, 2), "float32"), y)
    data = tfopt.load_data((part, part, part))
    right, guessed = np.eye(2)[y], np.eye(2)[np.arange(100) // 2 % 2]
    assert guesses(data, rows_with(0.9, 0.5), guessed, False) == (
        "the file's accuracy is 0.5000, that of always predicting the most frequent class is 0.5000; before the first "
        "stage it was 0.9000"
    )
    assert guesses(data, rows_with(None, 0.5), guessed, False).endswith("before the first stage it had no number")
    assert guesses(data, rows_with(0.5, 0.5), guessed, False) == guesses(data, rows_with(None, 1.0), right, False) == ""
    lost = guesses(data, rows_with(0.9, None), right * np.nan, False)
    assert lost == "the file's accuracy is not a number; before the first stage it was 0.9000"
    assert guesses(data, rows_with(None, None), right * np.nan, False) == ""


def test_each_output_whose_classes_are_guessed_is_named():
    kind, color = np.arange(100) % 2, np.arange(100) // 2 % 2
    part = (np.zeros((100, 2), "float32"), {"kind": kind, "color": color, "age": kind + 0.5})
    data = tfopt.load_data((part, part, part))
    rows = [SimpleNamespace(metrics=dict.fromkeys(("kind_accuracy", "color_accuracy"), 0.9))] * 2
    how = {"kind": False, "color": True, "age": False}
    outputs = {"kind": np.eye(2)[color], "color": color[:, None] - 0.5, "age": kind[:, None]}
    guessed = (
        "0.5000, that of always predicting the most frequent class is 0.5000; before the first stage it was 0.9000"
    )
    assert guesses(data, rows, outputs, how) == f"the file's accuracy of kind is {guessed}"
    outputs["color"] = kind[:, None] - 0.5
    assert guesses(data, rows, outputs, how).endswith(f"it was 0.9000; the file's accuracy of color is {guessed}")


def test_a_budget_that_is_not_kept_is_a_verdict(data, monkeypatch):
    monkeypatch.setattr(tfopt.Prune, "budget", Budget(None, 10))
    monkeypatch.setattr("tfopt.run.prepare.dry_run", lambda *_, **__: None)
    monkeypatch.setattr(StageRunner, "_with_choices", lambda run, stage, *_: (stage, []))
    result = run(data, tfopt.Prune(final_sparsity=0.1, schedule="one-shot", epochs=0))
    assert not result.verdict.ok
    assert result.verdict.text.startswith(f"The file has {len(result.lite.data):,} bytes, more than max_bytes=10.")


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ([{"accuracy": 0.9}, {"accuracy": 0.9}], ""),
        ([{"accuracy": 0.9}, {"accuracy": None}], "The accuracy of the file"),
        ([{"accuracy": None}, {"accuracy": 0.9}], "The accuracy of the model"),
        ([{"rmse": 0.9}, {"rmse": None}], ""),
    ],
)
def test_an_accuracy_without_a_number_breaks_a_budget(metrics, said):
    recipe = tfopt.Recipe(stages=(tfopt.PostTraining(rounding="nearest", max_drop=0.01),))
    rows = [SimpleNamespace(metrics=each, bytes=10) for each in metrics]
    assert budget_missed(recipe, rows).startswith(said) and bool(budget_missed(recipe, rows)) == bool(said)


@pytest.mark.parametrize(
    ("metrics", "kept"),
    [
        ([{"accuracy": 0.1}, {"accuracy": 0.9}, {"accuracy": 0.5}], False),  # the first model is untrained
        ([{"accuracy": 0.9}, {"accuracy": 0.8}, {"accuracy": 0.8}], True),  # another stage took what is missing
        ([{"binary_accuracy": 0.9}, {"binary_accuracy": 0.8}], False),
        ([{"accuracy": 0.9, "class_weighted_accuracy": 0.5}, {"accuracy": 0.8, "class_weighted_accuracy": 0.8}], True),
        ([{"accuracy": 0.9, "class_weighted_accuracy": 0.8}, {"accuracy": 0.9, "class_weighted_accuracy": 0.7}], False),
    ],
)
def test_a_budget_is_what_the_last_stage_may_cost(metrics, kept):
    recipe = tfopt.Recipe(stages=(tfopt.PostTraining(rounding="nearest", max_drop=0.01),))
    rows = [SimpleNamespace(metrics=each, bytes=10) for each in metrics]
    assert (budget_missed(recipe, rows) == "") == kept


def test_rows_have_the_accuracy_by_which_weighted_classes_are_trained(data):
    """By hand: a recall of each class on the test part, weighted by 1 and 3 and 1, as often as there are labels."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "softmax", name="poor")])
    model.set_weights([CENTERS.T.astype("float32")[:, [0, 0, 2]], np.zeros(3)])
    training = dataclasses.replace(SGD, class_weight={1: 3.0})
    rows = tfopt.optimize(model, tfopt.Recipe(stages=(), training=training), data, quiet=True).report.rows
    right = model.predict(X, verbose=0).argmax(1) == Y
    expected = np.average(right, weights=np.where(Y == 1, 3.0, 1.0))
    assert abs(expected - right.mean()) > 0.05
    assert all(row.metrics["class_weighted_accuracy"] == pytest.approx(expected, abs=1e-6) for row in rows)
    assert list(rows[0].metrics) == ["accuracy", "class_weighted_accuracy"]


def test_a_drop_is_finite():
    with pytest.raises(RecipeError, match=r"max_drop.*finite"):
        tfopt.Recipe(stages=(), max_drop=float("inf"))


# Seeds --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_last_seed_of_all_wraps_around(data):
    stages = (tfopt.FineTune(epochs=1, min_steps=0),) * 2
    training = tfopt.Training(seed=2**32 - 1, batch_size=64)
    assert run(data, *stages, training=training, max_drop=None).verdict.ok


def zeros(result):
    return np.flatnonzero(result.model.get_weights()[0] == 0).tolist()


@pytest.mark.slow
def test_the_seed_of_a_recipe_is_that_of_stages_without_one(data):
    """Which weights fall at random depends on the seed; of 18 weights, nine may fall in 48,620 ways."""
    random = {"importance": "random", "schedule": "one-shot", "epochs": 0}
    recipe = tfopt.Recipe(stages=(tfopt.Prune(**random),), export=FLOAT, max_drop=None)
    drawn = [zeros(tfopt.optimize(nearest(), recipe.seeded(seed), data, quiet=True)) for seed in (0, 1)]
    own = tfopt.Recipe(stages=(tfopt.Prune(**random, seed=1),), export=FLOAT, max_drop=None)
    assert drawn[0] != drawn[1] == zeros(tfopt.optimize(nearest(), own.seeded(7), data, quiet=True))
    assert tfopt.PostTraining().seeded(3).seed == 3 and tfopt.PostTraining(seed=0).seeded(3).seed == 0
    assert tfopt.Cluster().seeded(3) == tfopt.Cluster()
