"""Models with several outputs on the command line: what cannot measure or train them says so before any work."""

import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli


def tfopt_command(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with one input and two outputs, its .tflite, and data that would fit its first output."""
    import keras

    folder = tmp_path_factory.mktemp("two")
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(3, name="kind")(inputs), keras.layers.Dense(1, name="place")(inputs)]
    model = keras.Model(inputs, outputs, name="two")
    model.save(folder / "two.keras")
    floats = tfopt.Export(weights="float32", activations="float32")
    tfopt.export_tflite(model, folder / "two.tflite", floats)
    np.savez(folder / "data.npz", x=np.ones((30, 4), "float32"), y=np.arange(30) % 3)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ("compare", "two.tflite", "two.tflite"),
        ("bench", "two.tflite", "--rounds", 1),
        ("verify", "two.keras", "two.tflite"),
    ],
)
def test_what_measures_the_answers_needs_labels_for_all_outputs(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    done = tfopt_command(*command, "--data", "data.npz")
    assert done.exit_code == 2, done.output
    assert "gives the outputs kind, place; the data have one without a name. Name the arrays" in done.stderr


@pytest.mark.parametrize("data", ["data.npz", "absent.npz"])
def test_sensitivity_needs_one_output(data, folder, monkeypatch):
    monkeypatch.chdir(folder)
    done = tfopt_command("sensitivity", "two.keras", "--data", data)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.startswith("error: Expected a model with one input and one output, but 'two' has 1 and 2; ")


def test_sensitivity_in_python_says_the_same(folder):
    with pytest.raises(tfopt.ModelError, match="one input and one output, but 'two' has 1 and 2"):
        tfopt.sensitivity(folder / "two.keras", folder / "data.npz")


def test_bench_without_data_measures_them(folder):
    done = tfopt_command("bench", folder / "two.tflite", "--rounds", 1)
    assert done.exit_code == 0, done.output


def test_check_finds_nothing_wrong_with_them(folder):
    found = tfopt.check(folder / "two.keras", convert=False)
    assert found.ok and not found.by_hand and "the recipe can run" in str(found)


def test_check_says_that_the_stages_are_applied_by_hand():
    import keras

    given = keras.Input((4,), name="given")
    model = keras.Model({"given": given}, keras.layers.Dense(3)(given), name="odd")
    found = tfopt.check(model, convert=False)
    assert found.ok and found.by_hand and "the stages can be applied by hand" in str(found)
    assert "'odd' has its input or output in a dict or list. Take them out" in str(found)


def test_check_of_other_models_says_no_such_thing():
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    found = tfopt.check(model, convert=False)
    assert not found.by_hand and "the recipe can run" in str(found) and found.notes == ()
