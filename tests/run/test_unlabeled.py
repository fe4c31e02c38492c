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
from tfopt.run.run_data import UNKNOWN, _without_labels

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


@pytest.mark.parametrize(
    ("recipe", "who"),
    [
        (tfopt.Recipe(stages=(tfopt.Prune(), tfopt.Quantize())), "Prune, Quantize"),
        (tfopt.Recipe(stages=(tfopt.PostTraining(max_drop=0.01),)), "PostTraining"),
    ],
)
def test_what_needs_labels_says_so(model, recipe, who):
    unlabeled = _without_labels(tfopt.load_data((X, np.zeros(100, int))))
    with pytest.raises(RecipeError, match=f"Expected samples with labels for {who}; an array without labels"):
        tfopt.optimize(model, recipe, unlabeled, quiet=True)
    with pytest.raises(RecipeError, match="for a teacher"):
        tfopt.optimize(model, tfopt.PostTraining(), unlabeled, teacher=model, quiet=True)


def test_outputs_that_are_no_numbers_are_worse_than_any(model):
    guard = Guard(_without_labels(tfopt.load_data((X, np.zeros(100, int)))), 0.05)
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
