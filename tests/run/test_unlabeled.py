"""Runs on samples without labels: possible where no stage needs any, and the report marks accuracy as unknown."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.errors import RecipeError
from tfopt.run.guard import Guard
from tfopt.run.run_data import UNKNOWN, data_of_run

X = np.random.default_rng(0).normal(size=(100, 6)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3, "softmax")]
    )


@pytest.fixture(params=["array", "npz"])
def samples(request, tmp_path):
    if request.param == "array":
        return X
    np.savez(tmp_path / "x.npz", x=X)
    return tmp_path / "x.npz"


@pytest.mark.parametrize("stages", [(tfopt.PostTraining(rounding="nearest"),), ()], ids=["PostTraining", "export"])
def test_stages_without_training_need_no_labels(model, samples, stages):
    result = tfopt.optimize(model, tfopt.Recipe(stages=stages), samples, quiet=True)
    assert all(row.metrics == {} and row.notes[0] == UNKNOWN for row in result.report.rows)
    assert result.verdict.ok and "accuracy of the file is unknown" in result.verdict.text
    assert {weight.tensor.dtype for weight in result.lite.weights()} == {"int8"}
    difference = np.abs(result.lite.predict(X) - model.predict(X, verbose=0))
    assert difference.max() < 0.05
    assert "original" in str(result.report)


def test_arrays_are_read_as_those_of_a_file(model, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x=X)
    array, file = (data_of_run(model, tfopt.Recipe(stages=()), source) for source in (X, tmp_path / "x.npz"))
    assert array.notes == file.notes == () and array.fingerprint == file.fingerprint
    assert (array.labels, len(array.train), array.source) == ("none", 80, "arrays, without labels")
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    total = keras.layers.Add()([a, b])
    two = keras.Model([a, b], [keras.layers.Dense(1, name="c")(total), keras.layers.Dense(2, name="d")(total)])
    data = data_of_run(two, tfopt.Recipe(stages=()), {"b": X, "a": X + 1})
    assert list(data.train.inputs) == ["a", "b"] and list(data.outputs) == ["c", "d"] and data.notes == ()
    assert not capsys.readouterr().err


def test_what_a_file_beside_says_is_told_as_the_run_wants(tmp_path, capsys):
    """To listeners, and on stderr unless the run is quiet; sizes are those that the caller asks for."""
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3)).astype("uint8")
    (tmp_path / "data.json").write_text(json.dumps({"preprocessing": tfopt.data.Preprocessing.named("unit").to_dict()}))
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D()])
    heard = []
    how = {"beside": [tmp_path], "input_shape": (6, 6, 3), "listeners": [lambda *event: heard.append(event)]}
    data = data_of_run(model, tfopt.Recipe(stages=()), images, quiet=True, **how)
    assert data.input_shape == (6, 6, 3) and not capsys.readouterr().err
    assert heard == [("note", {"text": data.notes[-1]})] and "as data.json beside" in data.notes[-1]
    data_of_run(model, tfopt.Recipe(stages=()), images, **how)
    assert data.notes[-1] in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("recipe", "who"),
    [
        (tfopt.Recipe(stages=(tfopt.Prune(), tfopt.Quantize())), "Prune, Quantize"),
        (tfopt.Recipe(stages=(tfopt.PostTraining(max_drop=0.01),)), "PostTraining"),
    ],
)
def test_what_needs_labels_says_so(model, recipe, who):
    unlabeled = data_of_run(model, tfopt.Recipe(stages=()), X)
    with pytest.raises(RecipeError, match=f"Expected samples with labels for {who}; arrays, without labels"):
        tfopt.optimize(model, recipe, unlabeled, quiet=True)
    with pytest.raises(RecipeError, match="for a teacher"):
        tfopt.optimize(model, tfopt.PostTraining(), unlabeled, teacher=model, quiet=True)


def test_outputs_that_are_no_numbers_are_worse_than_any(model):
    guard = Guard(data_of_run(model, tfopt.Recipe(stages=()), X), 0.05)
    guard.accept(guard.evaluate(lambda x: np.ones((len(x), 3))))
    assert not guard.too_low(guard.evaluate(lambda x: np.zeros((len(x), 3))))
    assert guard.too_low(guard.evaluate(lambda x: np.full((len(x), 3), np.nan)))


def test_the_command_line_takes_them(model, tmp_path):
    model.save(tmp_path / "m.keras")
    np.savez(tmp_path / "x.npz", x=X)
    files = [str(part) for part in ("--model", tmp_path / "m.keras", "--data", tmp_path / "x.npz")]
    done = CliRunner().invoke(cli.main, ["run", "post_training", *files, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rows"][-1]["metrics"] == {} and "unknown" in report["verdict"]
    refused = CliRunner().invoke(cli.main, ["run", "prune", *files, "--out", str(tmp_path / "pruned")])
    assert refused.exit_code == 2 and "Expected labels next to the inputs" in refused.stderr
