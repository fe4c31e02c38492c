"""Runs in TensorBoard, MLflow and Weights & Biases, read back with the readers of these libraries."""

import dataclasses
import json
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest

import tfopt
from tfopt.errors import RecipeError
from tfopt.run.optimize import carry_out
from tfopt.run.prepare import prepare
from tfopt.run.tracking import track
from tfopt.run.tracking.tracker import Tracker

RECIPE = tfopt.Recipe(
    name="tracked",
    stages=(tfopt.Prune(final_sparsity=0.5, epochs=3, min_steps=0), tfopt.FineTune(epochs=2, min_steps=0)),
    training=tfopt.Training(batch_size=32),
    max_drop=None,
)


def model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, activation="relu", name="hidden"), keras.layers.Dense(2, name="head")]
    return keras.Sequential([keras.Input((16,)), *layers, keras.layers.Softmax()])


def samples():
    x = np.random.default_rng(0).normal(size=(200, 16)).astype("float32")
    return x, (x[:, 0] > 0).astype("int64")


def optimized(*trackers, **more):
    return tfopt.optimize(model(), RECIPE, samples(), quiet=True, track=trackers, **more)


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory):
    """One run in TensorBoard and, if it is installed, MLflow: the folder and the result."""
    folder = tmp_path_factory.mktemp("tracked")
    names = [f"tensorboard={folder / 'logs'}"]
    if track.find_spec("mlflow"):
        names.append(f"mlflow=sqlite:///{folder / 'mlflow.db'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where MLflow keeps the files
        return folder, optimized(*names)


def scalars(folder):
    """The values and steps in the only event file of a folder, by tag."""
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    found = {}
    for tag in events.Tags()["tensors"]:
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            found[tag] = [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
    return found, events


def test_tensorboard_has_every_value_of_every_epoch(everywhere):
    folder, result = everywhere
    (logs,) = (folder / "logs" / "tracked").iterdir()
    train, events = scalars(logs / "train")
    validation, _ = scalars(logs / "validation")
    histories = [row.history.values for row in result.report.rows if row.history]
    for name in ("loss", "accuracy"):
        logged = [value for history in histories for value in history[name]]
        assert [step for step, _ in train[name]] == [1, 2, 3, 4, 5]
        assert [value for _, value in train[name]] == pytest.approx(logged, rel=1e-5)
        checked = [value for history in histories for value in history[f"val_{name}"]]
        assert [value for _, value in validation[name]] == pytest.approx(checked, rel=1e-5)
    assert len(train["learning_rate"]) == 5 and train["learning_rate"][0][1] > train["learning_rate"][2][1]
    sparsity = [value for _, value in train["sparsity/hidden/kernel"]]
    assert (
        len(sparsity) == 5 and sparsity[2] == sparsity[4] == pytest.approx(0.5, abs=0.2) and sparsity[0] < sparsity[2]
    )
    sizes = [value for _, value in train["file/bytes"]]
    assert sizes == [row.bytes for row in result.report.rows]
    assert "hidden" in str(events.Graph())


def test_mlflow_has_the_recipe_the_numbers_and_the_files(everywhere, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is not installed: pip install 'tfopt[track]'")
    from mlflow import MlflowClient

    folder, result = everywhere
    monkeypatch.chdir(folder)
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("tfopt").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "tracked")
    assert run.data.params["stages.0.final_sparsity"] == "0.5" and run.data.params["training.batch_size"] == "32"
    assert run.data.tags["tfopt"] and run.data.tags["numpy"] == np.__version__
    losses = [metric.value for metric in client.get_metric_history(run.info.run_id, "val_loss")]
    histories = [row.history.values for row in result.report.rows if row.history]
    assert losses == pytest.approx([value for history in histories for value in history["val_loss"]], rel=1e-5)
    assert run.data.metrics["file/bytes"] == result.lite.size
    found = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert found == {"model.tflite", "recipe.json", "report.html", "report.json"}
    stored = client.download_artifacts(run.info.run_id, "model.tflite", str(tmp_path))
    assert Path(stored).read_bytes() == result.lite.data


def test_names_that_mlflow_takes():
    from tfopt.run.tracking.mlflow import accepted

    assert accepted("sparsity/conv_1/kernel") == "sparsity/conv_1/kernel"
    assert accepted("pkg>Clip[0]=a") == "pkg_Clip_0__a"


def wandb_content(data):
    """The content of a run's file without the headers of chunks, one of which may divide a name.

    After 7 bytes, it is a log of LevelDB: blocks of 32 KiB with chunks of a checksum (4 bytes), a size (2), a kind (1)
    and content; fewer than 7 bytes at the end of a block are empty.
    """
    content, place, block, header = b"", 7, 32768, 7
    while place + header <= len(data):
        if (left := block - place % block) < header:
            place += left
            continue
        size = int.from_bytes(data[place + 4 : place + 6], "little")
        content += data[place + header : place + header + size]
        place += header + size
    return content


def test_wandb_gets_everything(monkeypatch, tmp_path):
    """Without a network, in a folder that `wandb sync` sends."""
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'tfopt[track]'")
    patient = {"X_SERVICE_WAIT": "600", "INIT_TIMEOUT": "600"}  # seconds: its service starts slowly on a busy machine
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true", **patient}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    optimized("wandb=digits")
    (run,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = wandb_content(run.read_bytes())
    for text in (b"val_loss", b"sparsity/hidden/kernel", b"file/bytes", b"stages.0.final_sparsity", b"report.html"):
        assert text in content


def test_the_extra_installs_every_tracker():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extra = project["project"]["optional-dependencies"]["track"]
    assert all(any(package.startswith(name) for package in extra) for name in track.TRACKERS)


class Broken(Tracker):
    """Fails in one of its methods, the `where` of it."""

    title = "Broken"
    calls = ()

    def _called(self, name):
        type(self).calls += (name,)
        if name == self.where:
            raise OSError(28, "No space left on device")

    def begin(self, start):
        self._called("begin")

    def log(self, values, step):
        self._called("log")

    def end(self, files, *, ok):
        self._called("end")


@pytest.mark.parametrize(("fails", "later"), [("begin", []), ("log", []), ("end", ["log", "end"])])
def test_a_tracker_that_fails_loses_no_run(fails, later, monkeypatch, capsys):
    monkeypatch.setattr(track, "TRACKERS", {"json": Broken})
    monkeypatch.setattr(Broken, "calls", ())
    with track.tracked([f"json={fails}"]) as listeners:
        for listener in listeners:
            listener("run_started", {"name": "r", "recipe": {}})
            for epoch in (1, 2):
                listener("epoch", {"epoch": epoch, "metrics": {"loss": 1.0}, "learning_rate": None})
    assert capsys.readouterr().err.count("note: Broken does not track this run any more (OSError") == 1
    assert Broken.calls == {"begin": ("begin",), "log": ("begin", "log"), "end": ("begin", "log", "log", "end")}[fails]


def test_a_run_that_goes_on_counts_from_where_it_was(monkeypatch):
    logged = []
    monkeypatch.setattr(track, "TRACKERS", {"json": Broken})
    monkeypatch.setattr(Broken, "log", lambda self, values, step: logged.append((step, *values)))
    with track.tracked(["json"]) as (listener,):
        listener("run_started", {"name": "r", "recipe": {}})
        listener("resumed", {"epochs": 3, "rows": 2})  # the finished stages
        listener("resumed", {"epochs": 1, "rows": 0})  # an epoch of the next one
        listener("epoch", {"metrics": {"loss": 1.0}, "learning_rate": None})
        listener("row", {"metrics": {"accuracy": 0.5}, **dict.fromkeys(track.COSTS)})
    assert logged == [(5, "loss"), (3, "file/accuracy")]


def test_nothing_that_json_or_a_store_cannot_take(monkeypatch):
    logged = []
    monkeypatch.setattr(track, "TRACKERS", {"json": Broken})
    monkeypatch.setattr(Broken, "log", lambda self, values, step: logged.append((step, dict(values))))
    with track.tracked(["json"]) as (listener,):
        listener("run_started", {"name": "r", "recipe": {}})
        listener("epoch", {"metrics": {"loss": float("nan"), "mae": 1}, "learning_rate": 0.5})
        listener("epoch", {"metrics": {"loss": float("inf")}, "learning_rate": None})
        listener("row", {"metrics": {"mse": None, "mae": 2.0}, **dict.fromkeys(track.COSTS)})
    assert logged == [(1, {"mae": 1.0, "learning_rate": 0.5}), (1, {"file/mae": 2.0})]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tensorbord"], "Expected trackers among tensorboard, mlflow, wandb; got 'tensorbord'"),
        (["mlflow"], r"Expected MLflow to be installed. Run pip install 'tfopt\[track\]'"),
    ],
)
def test_what_cannot_be_tracked_fails_before_the_run(names, message, monkeypatch):
    monkeypatch.setattr(track, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=message):
        tfopt.optimize(None, RECIPE, None, track=names)


def test_epochs_as_a_table(everywhere, tmp_path):
    import csv

    _, result = everywhere
    folder = result.save(tmp_path / "saved")
    with (folder / "epochs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], row["number"], row["epoch"]) for row in rows] == [
        *(("Prune", "1", str(epoch)) for epoch in (1, 2, 3)),
        *(("FineTune", "2", str(epoch)) for epoch in (1, 2)),
    ]
    history = next(row.history for row in result.report.rows if row.history)
    assert [float(row["val_loss"]) for row in rows[:3]] == history.values["val_loss"]
    assert [row["kept"] for row in rows[:3]] == [str(int(epoch == history.kept)) for epoch in (1, 2, 3)]


class Counting(keras.callbacks.Callback):
    """Counts epochs, and asks to end the training after the first."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        assert {"loss", "val_loss"} <= set(logs)
        self.epochs.append(epoch)
        self.model.stop_training = True


def test_callbacks_of_either_keras_may_end_a_training_that_has_reached_its_target(capsys):
    """Prune reaches its target at the end of its ramp, in the second of three epochs; fine-tuning has none."""
    import tf_keras

    first, seen = Counting(), []
    second = tf_keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append(epoch))
    result = tfopt.optimize(model(), RECIPE, samples(), callbacks=[first, second])
    trained = [len(row.history.values["loss"]) for row in result.report.rows if row.history]
    assert trained == [2, 1] and first.epochs == seen == [0, 1, 0]
    assert capsys.readouterr().err.count("1/2 Prune: a callback would end the training before") == 1


def test_callbacks_for_some_stages():
    counting = Counting()
    tfopt.optimize(
        model(), RECIPE, samples(), quiet=True, callbacks=lambda stage: [counting] if stage == RECIPE.stages[1] else []
    )
    assert counting.epochs == [0]


def test_early_stopping_restores_no_weights_from_before_the_target():
    """It monitors what is best at once, so the weights of the first epoch would be restored."""
    stopping = keras.callbacks.EarlyStopping("loss", mode="max", patience=1, restore_best_weights=True)
    result = tfopt.optimize(model(), RECIPE.stages[0], samples(), quiet=True, callbacks=[stopping])
    assert result.report.rows[-1].nonzero_parameters < 0.7 * result.report.rows[0].parameters


def test_what_is_no_callback_fails_before_the_run():
    with pytest.raises(RecipeError, match="Expected callbacks of Keras 3 or tf_keras, got str"):
        tfopt.optimize(None, RECIPE, None, callbacks=["tensorboard"])


def test_every_event_is_json():
    """But for those with objects in them, which programs do not get."""
    from tfopt.cli.events import EVENTS

    heard = []
    prepared = prepare(
        model(), dataclasses.replace(RECIPE, name="e"), samples(), quiet=True,
        listeners=[lambda event, values: heard.append((event, values))],
    )  # fmt: skip
    carry_out(prepared)
    names = [event for event, _ in heard]
    assert names[0] == "run_started" and {*names} - EVENTS == {"model", "weights", "result"}
    for event, values in heard:
        if event in EVENTS:
            json.dumps(values)
    started = [values for event, values in heard if event == "stage_started"]
    assert [(each["stage"], each["number"], each["of"], each["epochs"]) for each in started] == [
        ("Prune", 1, 2, 3),
        ("FineTune", 2, 2, 2),
    ]
