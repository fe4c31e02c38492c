"""Models that output logits are measured with the threshold 0 everywhere: report, verification, sensitivity."""

import keras
import numpy as np
import pytest

import tfopt
from tfopt import cli
from tfopt.evaluate.bench import benchmark_files
from tfopt.evaluate.compare import compare_files
from tfopt.evaluate.verify import verify_file
from tfopt.tflite.settings import FLOAT
from tfopt.training.loss import gives_logits

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, (120, 2))
# Right answers, most of them between 0 and 0.5; each tenth answer is wrong.
INPUTS = np.where(LABELS == 1, 0.3, -0.3).astype("float32") * RNG.choice([1, 1.2, 4], (120, 2)).astype("float32")
INPUTS[::10] *= -1


def model_of(outputs, activation=None):
    """A model that outputs its inputs as logits, or their sigmoid."""
    head = keras.layers.Dense(outputs, activation, use_bias=False, name="head")
    model = keras.Sequential([keras.Input((outputs,)), head])
    model.set_weights([np.eye(outputs, dtype="float32")])
    return model


CASES = pytest.mark.parametrize(("outputs", "labels"), [(1, LABELS[:, 0]), (2, LABELS)], ids=["one", "multilabel"])


@CASES
def test_the_report(outputs, labels):
    x = INPUTS[:, :outputs]
    part = (x, labels)
    recipe = tfopt.Recipe(stages=(), export=FLOAT)
    result = tfopt.optimize(model_of(outputs), recipe, (part, part, part), quiet=True)
    expected = ((x > 0) == labels.reshape(x.shape)).mean()
    assert expected == pytest.approx(0.9)
    for row in result.report.rows:
        assert next(iter(row.metrics.values())) == pytest.approx(expected)
    assert result.verdict.ok


@CASES
def test_files(outputs, labels, tmp_path):
    model, x = model_of(outputs), INPUTS[:, :outputs]
    tfopt.export_tflite(model, tmp_path / "same.tflite", FLOAT)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=labels, x_test=x, y_test=labels)
    found = verify_file(model, tmp_path / "same.tflite", tmp_path / "data.npz")
    assert next(iter(found.outputs[0].metrics.values())) == pytest.approx((0.9, 0.9))
    (measured,) = benchmark_files([tmp_path / "same.tflite"], tmp_path / "data.npz", rounds=1)
    assert next(iter(measured.metrics.values())) == pytest.approx(0.9)
    tfopt.export_tflite(model_of(outputs, "sigmoid"), tmp_path / "sigmoid.tflite", FLOAT)
    table = compare_files(tmp_path / "same.tflite", tmp_path / "sigmoid.tflite", tmp_path / "data.npz")
    columns = [list(column.cells) for column in table.columns]
    assert columns[1][0] == columns[2][0] == "0.9000"
    if outputs == 1:
        assert columns[2][1] == "1.0000"  # the agreement


@CASES
def test_sensitivity(outputs, labels):
    part = (INPUTS[:, :outputs], labels)
    found = tfopt.sensitivity(model_of(outputs), (part, part, part), bits=(4,))
    assert found.before == pytest.approx(0.9)


def test_the_accuracy_that_is_asked_for(tmp_path):
    from click.testing import CliRunner

    x, labels = INPUTS[:, :1], LABELS[:, 0]
    model_of(1).save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x_train=x, y_train=labels, x_test=x, y_test=labels)
    (tmp_path / "recipe.json").write_text(tfopt.Recipe(stages=(), export=FLOAT).to_json())
    arguments = ["run", "recipe.json", "--model", "model.keras", "--data", "data.npz", "--out", "out", "--quiet"]
    paths = [str(tmp_path / word) if "." in word or word == "out" else word for word in arguments]
    done = CliRunner().invoke(cli.main, [*paths, "--min-accuracy", "0.89"])
    assert done.exit_code == 0, done.output


def test_few_validation_samples_do_not_hide_logits():
    """All validation logits lie between 0 and 1, like probabilities; training samples show what they are."""
    x, labels = INPUTS[:, :1], LABELS[:, 0]
    few = (np.array([[0.3], [0.4]], "float32"), np.array([1, 1]))
    data = tfopt.load_data(((x, labels), few, few))
    assert gives_logits(model_of(1), data)
    assert not gives_logits(model_of(1, "sigmoid"), data)
