"""A run that is stopped at any step goes on from there, to the same file."""

import dataclasses
from typing import ClassVar

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base import interruption
from tfopt.base.interruption import Interrupted
from tfopt.distillation.self_taught.mean_teacher import MeanTeacher
from tfopt.errors import DataError
from tfopt.run import identity, run_folder
from tfopt.run.identity import about_run
from tfopt.run.run_folder import open_run_folder
from tfopt.training import backup

EPOCHS = 3
STEPS = 8  # of 128 samples in batches of 16
TRAINING = tfopt.Training(batch_size=16)
FLOAT = tfopt.Export(weights="float32", activations="float32")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)).astype("float32")
    return tfopt.load_data((x, (x[:, 0] > 0) + (x[:, 1] > 0) * 1))


def network(name="net"):
    """A model with something of each kind that a backup must hold: statistics, dropout, noise."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    stack = [layers.Dense(16), layers.BatchNormalization(), layers.ReLU(), layers.GaussianNoise(0.1)]
    return keras.Sequential(
        [
            keras.Input((6,)),
            *stack,
            layers.Dropout(0.2),
            layers.Dense(8, activation="relu"),
            layers.Dense(3, "softmax"),
        ],
        name=name,
    )


@pytest.fixture
def stop_at(monkeypatch):
    """A function that lets a signal come at a step, counted over all trainings of this test."""
    recorder = backup._recorder_class()
    original = recorder.on_train_batch_end

    def stop(number):
        seen = iter(range(1, 10**6))

        def at_end(self, batch, logs=None):
            if next(seen) == number:
                monkeypatch.setattr(interruption._Request, "number", 15)
                monkeypatch.setattr(interruption._Request, "since", float("inf"))
            original(self, batch, logs)

        monkeypatch.setattr(recorder, "on_train_batch_end", at_end)
        return seen

    yield stop
    monkeypatch.undo()


def ends(stop_at, folder, number, *given, **more):
    """Stop the run at the step with this number, go on, and return the result and how many steps that took."""
    stop_at(number)
    with pytest.raises(Interrupted) as caught:
        tfopt.optimize(*given, quiet=True, checkpoint=folder, **more)
    assert caught.value.code == 143
    steps = stop_at(0)
    result = tfopt.optimize(*given, quiet=True, checkpoint=folder, **more)
    return result, next(steps) - 1


def require_same(result, whole):
    assert result.lite.data == whole.lite.data
    for weight, other in zip(result.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    found, expected = ([steady(row.notes) for row in each.report.rows] for each in (result, whole))
    assert found == expected


def steady(notes):
    """The notes that do not depend on how fast the machine is at the moment."""
    return [note for note in notes if "the speed of" not in note]


KINDS = {
    "FineTune": tfopt.FineTune(epochs=EPOCHS),
    "averaged": tfopt.FineTune(epochs=EPOCHS, ema_momentum=0.9),
    "Prune": tfopt.Prune(epochs=EPOCHS, min_steps=0),
    "Cluster": tfopt.Cluster(number_of_clusters=4, epochs=EPOCHS, min_steps=0),
    "Quantize": tfopt.Quantize(epochs=EPOCHS, min_steps=0),
    "PruneChannels": tfopt.PruneChannels(epochs=EPOCHS, min_steps=0, round_to=1, regularization=0.1),
    "taylor": tfopt.PruneChannels(epochs=EPOCHS, min_steps=0, round_to=1, criterion="taylor"),
    "LowRank": tfopt.LowRank(epochs=EPOCHS, rank=2, min_steps=0),
    "PruneBlocks": tfopt.PruneBlocks(epochs=EPOCHS, min_steps=0, final_ratio=0.8),
    "Binarize": tfopt.Binarize(epochs=EPOCHS, min_steps=0),
}


def residual():
    """Two blocks, one of which can go."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    inputs = keras.Input((6,))
    x = layers.Dense(16, "relu")(inputs)
    for _ in range(2):
        x = layers.Add()([x, layers.Dense(16)(layers.Dense(16, "relu")(x))])
    return keras.Model(inputs, layers.Dense(3, "softmax")(x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_goes_on_within_an_epoch_and_after_one(tmp_path, stop_at, data, kind):
    export = tfopt.Export() if kind in ("Quantize", "Binarize") else FLOAT
    model = residual() if kind == "PruneBlocks" else network()
    given = model, tfopt.Recipe(stages=(KINDS[kind],), training=TRAINING, export=export, max_drop=None), data
    whole = tfopt.optimize(*given, quiet=True)
    for number, left in ((3, 21), (8, 16), (13, 11), (24, 0)):
        result, steps = ends(stop_at, tmp_path / str(number), number, *given)
        assert steps == left
        require_same(result, whole)


@pytest.mark.slow
def test_a_calibration_is_not_repeated_if_the_export_is_interrupted(tmp_path, data, monkeypatch):
    from tfopt.run import optimize
    from tfopt.stages.quantize.posttraining import pipeline

    stage = tfopt.PostTraining(weight_bits=4, iterations=20)
    given = network(), tfopt.Recipe(stages=(stage,), max_drop=None), data
    whole = tfopt.optimize(*given, quiet=True)
    calls, quantize_weights = [], pipeline.quantize_weights

    def counted(*args, **more):
        calls.append(more["rounding"])
        return quantize_weights(*args, **more)

    def interrupted(*_):
        raise Interrupted(15)

    monkeypatch.setattr(pipeline, "quantize_weights", counted)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(optimize._Run, "_export", interrupted)
        tfopt.optimize(*given, quiet=True, checkpoint=tmp_path / "kept")
    assert calls == ["nearest", "adaptive"]  # the first is the dry run's
    result = tfopt.optimize(*given, quiet=True, checkpoint=tmp_path / "kept")
    assert calls == ["nearest", "adaptive", "nearest"]
    require_same(result, whole)
    (kept,) = (tmp_path / "kept").glob("*/calibrated.npz")
    kept.write_text("damaged")
    require_same(tfopt.optimize(*given, quiet=True, checkpoint=tmp_path / "kept"), whole)
    assert calls[3:] == ["nearest", "adaptive"]


@pytest.mark.slow
def test_the_seconds_of_an_interrupted_run_count(tmp_path, stop_at, data, monkeypatch):
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=2),), training=TRAINING, export=FLOAT, max_drop=None)
    monkeypatch.setattr(backup.Backup, "seconds", lambda self: 5000.0)
    result, _ = ends(stop_at, tmp_path / "kept", 11, network(), recipe, data)
    assert 5000 < result.report.rows[1].seconds < 5900


@pytest.mark.slow
def test_a_model_that_keras_cannot_save_costs_neither_run_nor_file(tmp_path, data, monkeypatch):
    from tfopt.run.checkpoint import Checkpoint

    def fails(*_, **__):
        raise tfopt.ModelError("The model 'net' cannot be saved: no config.")

    monkeypatch.setattr(Checkpoint, "save", fails)
    monkeypatch.setattr("tfopt.models.save_model", fails)
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=1),), training=TRAINING, export=FLOAT, max_drop=None)
    result = tfopt.optimize(network(), recipe, data, quiet=True, checkpoint=tmp_path / "kept")
    with pytest.warns(UserWarning, match=r"^model\.keras is missing: The model 'net' cannot be saved: no config\.$"):
        folder = result.save(tmp_path / "out")
    names = {path.name for path in folder.iterdir()}
    assert {"model.tflite", "report.json", "report.html", "recipe.json"} <= names and "model.keras" not in names
    assert "model.keras is missing" in (folder / "report.json").read_text()
    assert "model.keras is missing" in (folder / "report.html").read_text()


SUPERVISION = {
    "teacher": {"distillation": tfopt.Distillation()},
    "live": {"distillation": tfopt.Distillation(cache="never")},
    "hints": {
        "distillation": tfopt.Distillation(
            losses=(tfopt.losses.Hinton(), tfopt.losses.FitNets(layers=(("hidden", "hidden"),), two_stage=0.5))
        )
    },
    "mean": {"distillation": MeanTeacher(noise=0.1, labeled=0.5)},
    "mixup": {"training": dataclasses.replace(TRAINING, mixup=0.4)},
    "momentum": {"training": dataclasses.replace(TRAINING, optimizer="sgd", schedule="one_cycle", patience=2)},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SUPERVISION)
def test_a_run_of_two_stages_goes_on_under_any_supervision(tmp_path, stop_at, data, kind):
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(3, "softmax")],
        name="small",
    )
    settings = {"training": TRAINING, **SUPERVISION[kind]}
    taught = "distillation" in settings and kind != "mean"
    teacher = keras.models.clone_model(model) if taught else None
    stages = (tfopt.Prune(epochs=EPOCHS, min_steps=0), tfopt.Cluster(number_of_clusters=4, epochs=1, min_steps=0))
    recipe = tfopt.Recipe(stages=stages, export=FLOAT, max_drop=None, **settings)
    whole = tfopt.optimize(model, recipe, data, quiet=True, teacher=teacher)
    for number, left in ((11, 21), (29, 3)):
        result, steps = ends(stop_at, tmp_path / str(number), number, model, recipe, data, teacher=teacher)
        assert steps == left
        require_same(result, whole)


@pytest.mark.slow
@pytest.mark.parametrize("taught", [False, True], ids=["labels", "teacher"])
def test_a_run_with_two_outputs_goes_on(tmp_path, stop_at, data, taught):
    def forked(width):
        inputs = keras.Input((6,), name="x")
        inner = keras.layers.Dense(width, "relu")(inputs)
        ends = [keras.layers.Dense(count, "softmax", name=name)(inner) for name, count in (("a", 3), ("b", 2))]
        return keras.Model(inputs, dict(zip("ab", ends, strict=True)))

    x, y = data.train.x(), data.train.y()
    several = tfopt.load_data((x, {"a": y, "b": y % 2}))
    recipe = tfopt.Recipe(
        stages=(tfopt.Prune(epochs=EPOCHS, min_steps=0),), training=TRAINING, export=FLOAT, max_drop=None
    )
    keras.utils.set_random_seed(2)
    given, more = (forked(8), recipe, several), {"teacher": forked(12)} if taught else {}
    whole = tfopt.optimize(*given, quiet=True, **more)
    result, _ = ends(stop_at, tmp_path / "kept", 8, *given, **more)
    require_same(result, whole)


@pytest.mark.minutes
@pytest.mark.slow
def test_a_depth_study_repeats_no_network_and_a_transfer_is_kept(tmp_path, stop_at, data):
    study = tfopt.transfer.DepthStudy(epochs=2, places=1, batch_size=16)
    recipe = tfopt.Recipe(transfer=study, stages=(tfopt.FineTune(),), training=TRAINING, export=FLOAT, max_drop=None)
    given = network(), recipe, data
    whole = tfopt.optimize(*given, quiet=True)
    trained = 2 * STEPS * 5
    for number in (20, trained + 5):
        result, steps = ends(stop_at, tmp_path / str(number), number, *given)
        assert steps == trained + STEPS - number
        require_same(result, whole)
        assert result.files["depth_study.json"] == whole.files["depth_study.json"]


@pytest.mark.slow
def test_a_depth_study_is_kept_within_an_epoch_as_often_as_asked(tmp_path, data, monkeypatch):
    study = tfopt.transfer.DepthStudy(epochs=1, places=1, batch_size=16)
    recipe = tfopt.Recipe(transfer=study, stages=(), training=TRAINING, export=FLOAT, max_drop=None)
    steps = []
    monkeypatch.setattr(backup.Backup, "save", lambda self, state: steps.append(state.step))
    tfopt.optimize(network(), recipe, data, quiet=True, checkpoint=tmp_path / "kept", checkpoint_every=1e-9)
    assert steps == [*range(1, STEPS), 0] * 5


@pytest.mark.slow
def test_a_second_try_does_not_repeat_the_first(tmp_path, stop_at, data):
    stages = (tfopt.Prune(final_sparsity=0.98, epochs=1, min_steps=0, learning_rate=1e-6),)
    recipe = tfopt.Recipe(stages=stages, training=TRAINING, export=FLOAT, max_drop=1e-6)
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(data.train.x(), data.train.y(), epochs=30, verbose=0)
    whole = tfopt.optimize(model, recipe, data, quiet=True)
    assert "tried twice" in " ".join(whole.report.rows[1].notes)
    result, steps = ends(stop_at, tmp_path / "kept", STEPS + 5, model, recipe, data)
    assert steps == 2 * STEPS - 5
    require_same(result, whole)


# Whose checkpoint it is


@pytest.fixture
def opened(tmp_path, data):
    from tfopt.base.progress import Progress

    class Said(Progress):
        lines: ClassVar[list[str]] = []

        def say(self, text):
            self.lines.append(text)

    model = network()

    def open_with(recipe, *, threads=2, loss="mse", overwrite=False):
        about = about_run({"recipe": recipe.to_dict()}, data="data", model=model, loss=loss, threads=threads)
        return open_run_folder(tmp_path / "kept", about, overwrite=overwrite, progress=Said(quiet=True))

    open_with.said = Said.lines
    return open_with


def test_the_checkpoint_of_another_run_is_an_error_that_says_what_differs(opened):
    recipe = tfopt.Recipe(stages=(tfopt.Prune(), tfopt.Quantize()))
    first = opened(recipe)
    first.attempt(0, recipe.stages[0], recipe.training)
    (first.path / "stages.npz").write_text("of the first run")
    assert opened(recipe).key == first.key
    with pytest.raises(DataError, match=r"belongs to another run: recipe.training.seed was 0, is 1\. Go on"):
        opened(recipe.seeded(1))
    with pytest.raises(DataError, match=r"recipe.stages.1.epochs was \d+, is 7; threads was 2, is 1\."):
        opened(tfopt.Recipe(stages=(tfopt.Prune(), tfopt.Quantize(epochs=7))), threads=1)
    with pytest.raises(DataError, match=r'belongs to another run: loss was "mse", is "mae"\. Go on'):
        opened(recipe, loss="mae")
    again = opened(recipe.seeded(1), overwrite=True)
    assert not (again.path / "stages.npz").exists()
    assert "recipe.training.seed was 0, is 1. It is replaced." in opened.said[-1]


@pytest.mark.parametrize("weights", [(1.0, 0.1), None])
def test_a_model_that_is_compiled_in_another_way_makes_another_run(stop_at, tmp_path, weights):
    def compiled(loss, loss_weights=None):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((4,), name="x")
        hidden = keras.layers.Dense(4, name="h")(inputs)
        outputs = [keras.layers.Dense(1, name=name)(hidden) for name in ("a", "b")]
        model = keras.Model(inputs, outputs if loss_weights else outputs[0])
        model.compile("adam", loss=[loss, "mse"] if loss_weights else loss, loss_weights=loss_weights)
        return model

    x = np.random.default_rng(0).normal(size=(160, 4)).astype("float32")
    data = tfopt.load_data((x, {"a": x[:, 0], "b": x[:, 1]} if weights else x[:, 0]))
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=2, min_steps=0),), training=TRAINING)
    stop_at(4)
    with pytest.raises(Interrupted):
        model = compiled(keras.losses.Huber(delta=2.0), weights and list(weights))
        tfopt.optimize(model, recipe, data, quiet=True, checkpoint=tmp_path / "kept")
    stop_at(0)
    one = r"loss\.losses\.a" if weights else "loss"
    with pytest.raises(DataError, match=one + r"\.config\.delta was 2\.0, is 0\.5"):
        other = compiled(keras.losses.Huber(delta=0.5), weights and list(weights))
        tfopt.optimize(other, recipe, data, quiet=True, checkpoint=tmp_path / "kept")
    if weights:
        with pytest.raises(DataError, match=r"loss\.weights\.b was 0\.1, is 10\.0\. Go on"):
            other = compiled(keras.losses.Huber(delta=2.0), [1.0, 10.0])
            tfopt.optimize(other, recipe, data, quiet=True, checkpoint=tmp_path / "kept")


def test_a_checkpoint_without_progress_binds_nobody(opened):
    recipe = tfopt.Recipe(stages=(tfopt.Prune(),))
    opened(recipe).attempt(0, recipe.stages[0], recipe.training)
    opened(recipe.seeded(1))
    assert "It is replaced." in opened.said[-1]


def test_measured_choices_are_progress(opened):
    """They may have taken hours, and are not thrown away with an interrupted run."""
    recipe = tfopt.Recipe(stages=(tfopt.Prune(),))
    kept = opened(recipe)
    kept.attempt(0, recipe.stages[0], recipe.training).keep_choice(recipe.stages[0], ["a choice"])
    kept.remove_if_useless()
    with pytest.raises(DataError, match=r"belongs to another run: recipe.training.seed was 0, is 1\."):
        opened(recipe.seeded(1))
    assert opened(recipe).attempt(0, recipe.stages[0], recipe.training).choice()[1] == ["a choice"]
    other = opened(recipe.seeded(1), overwrite=True)
    other.begin()
    other.keep_batch_size(0, 8)
    other.remove_if_useless()
    assert opened(recipe.seeded(1)).batch_size(0, 16) == 8


def test_only_measured_choices_are_kept(tmp_path, data, stop_at):
    recipe = tfopt.Recipe(stages=(tfopt.FineTune(epochs=1),), training=TRAINING, export=FLOAT, max_drop=None)
    stop_at(1)
    with pytest.raises(Interrupted):
        tfopt.optimize(network(), recipe, data, quiet=True, checkpoint=tmp_path / "kept")
    assert not list((tmp_path / "kept").rglob("choice.json"))


def test_choices_are_kept(opened):
    stage = tfopt.Prune(layers=(("conv*", 0.25),))
    attempt = opened(tfopt.Recipe(stages=(stage,))).attempt(0, stage, tfopt.Training())
    assert attempt.choice() is None
    attempt.keep_choice(tfopt.Prune(final_sparsity=0.75), ["a note"])
    assert attempt.choice() == (tfopt.Prune(final_sparsity=0.75), ["a note"])
    (attempt.folder / "choice.json").write_text("[1]")
    assert attempt.choice() is None


def test_the_disk_must_have_room(opened, monkeypatch):
    folder = opened(tfopt.Recipe(stages=(tfopt.Prune(),)))
    free = 2**20 + 21 * 1000 + 2 * 300
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free}))
    folder.require_space(1000, 300)
    with pytest.raises(tfopt.TfoptError, match=r"takes up to 1\.0 MiB, and .* has 1\.0 MiB free\. Make room"):
        folder.require_space(1001, 300)
    # A run that goes on has written a part of it.
    attempt = folder.attempt(0, tfopt.Prune(), tfopt.Training())
    attempt.folder.mkdir()
    (attempt.folder / "state_0.npz").write_bytes(bytes(21))
    folder.require_space(1001, 300)


def test_what_only_the_chief_writes_is_only_read_by_others(opened):
    stage = tfopt.Prune()
    recipe = tfopt.Recipe(stages=(stage,))
    chief = opened(recipe)
    chief.attempt(0, stage, recipe.training).keep_choice(stage, ["a note"])
    other = dataclasses.replace(chief, writes=False)
    assert other.attempt(0, stage, recipe.training).choice() == (stage, ["a note"])
    before = {path: path.stat().st_mtime_ns for path in chief.path.rglob("*")}
    attempt = other.attempt(0, stage, recipe.training)
    attempt.keep_choice(stage, [])
    attempt.backup.save(backup.State(0, 1, False, {}, {}))
    other.keep_batch_size(0, 4)
    assert other.cache() is None
    other.require_space(10**18, 10**18)
    assert {path: path.stat().st_mtime_ns for path in chief.path.rglob("*")} == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("version", r'versions\.keras was "[\d.]+", is "0\.1"; versions\.numpy was "[\d.]+", is "0\.1"; '),
        (
            "device_kind",
            r'device was "CPU", is "0\.1"\. Go on with that run by .* or delete .* --overwrite, or give ano',
        ),
    ],
)
def test_other_versions_or_devices_make_another_run(opened, monkeypatch, name, said):
    recipe = tfopt.Recipe(stages=(tfopt.Prune(),))
    opened(recipe).attempt(0, recipe.stages[0], recipe.training).keep_choice(recipe.stages[0], ["a choice"])
    monkeypatch.setattr(identity, name, lambda *_: "0.1")
    with pytest.raises(DataError, match=said):
        opened(recipe)


def test_a_finished_run_leaves_the_checkpoint_of_another(opened):
    recipe = tfopt.Recipe(stages=(tfopt.Prune(),))
    first = opened(recipe)
    first.attempt(0, recipe.stages[0], recipe.training)
    with run_folder.in_use(first.path):  # another process goes on there
        first.remove_finished()
    assert first.path.exists() and "is not removed: " in opened.said[-1] and "in use by process" in opened.said[-1]
    second = opened(recipe.seeded(1))
    second.attempt(0, recipe.stages[0], recipe.training)
    first.remove_finished()
    assert second.path.exists()
    second.remove_finished()
    assert not second.path.exists()


def test_a_folder_that_is_no_checkpoint_is_left_alone(opened, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "photo.png").write_text("mine")
    with pytest.raises(tfopt.TfoptError, match=r"holds files but no run\.json, so it is no checkpoint"):
        opened(tfopt.Recipe(stages=(tfopt.Prune(),)), overwrite=True)
    assert (tmp_path / "kept" / "photo.png").read_text() == "mine"


def test_a_damaged_checkpoint_is_one_line(opened):
    recipe = tfopt.Recipe(stages=(tfopt.Prune(),))
    opened(recipe).attempt(0, recipe.stages[0], recipe.training)
    (opened(recipe).path / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"^The checkpoint .* is damaged \(.*\)\. Delete it to start over\.$"):
        opened(recipe)


@pytest.mark.slow
def test_a_range_test_depends_on_the_seed_alone(data):
    """Also in a network with Dropout, whatever was drawn before."""
    recipe = tfopt.Recipe(
        stages=(tfopt.FineTune(epochs=1, min_steps=0),),
        training=tfopt.Training(range_test=True, batch_size=16),
        export=FLOAT,
        max_drop=None,
    )
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dropout(0.5), keras.layers.Dense(3, "softmax")])
    found = []
    for draws in (1, 2):
        keras.utils.set_random_seed(draws)
        rows = tfopt.optimize(model, recipe, data, quiet=True).report.rows
        found += [note for row in rows for note in row.notes if "range test" in note]
    assert len(found) == 2 and found[0] == found[1]
