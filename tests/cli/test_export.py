"""`tfopt export` from the outside, and work in a separate process."""

import numpy as np
import pytest
from click.testing import CliRunner

import tfopt
from tfopt import cli
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError
from tfopt.tflite.read import LiteModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model, data with class names, and files that are not models."""
    folder = tmp_path_factory.mktemp("export")
    layers, x = tf_keras().layers, np.random.default_rng(0).normal(size=(80, 8, 8, 1)).astype("float32")
    tf_keras().utils.set_random_seed(0)
    ends = tf_keras().Input((8, 8, 1), name="image"), layers.Dense(3, name="head")
    inner = [layers.Conv2D(4, 3, name="stem"), layers.GlobalAveragePooling2D()]
    tf_keras().Sequential([ends[0], *inner, ends[1]]).save(folder / "model.h5")
    tf_keras().Sequential([ends[0], inner[0], layers.ELU(name="elu"), inner[1], ends[1]]).save(folder / "elu.h5")
    np.savez(folder / "data.npz", x=x, y=np.arange(80) % 3, class_names=["ash", "birch", "cedar"])
    np.savez(folder / "few.npz", x=x[:12], y=np.arange(12) % 3)
    (folder / "garbage.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64)
    (folder / "text.tflite").write_text("no model")
    return folder


@pytest.fixture
def here(monkeypatch):
    """Silence TensorFlow from the start."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")


def export(*arguments):
    return CliRunner().invoke(cli.main, ["export", *map(str, arguments)])


def failed(done, code, *words):
    assert (done.exit_code, done.stdout) == (code, ""), done.output
    (line,) = done.stderr.splitlines()
    for part in ("error: ", *words):
        assert part in line


def test_the_command_writes_the_file_and_shows_its_contents(folder, tmp_path):
    out = tmp_path / "new" / "m.tflite"
    done = export(
        folder / "model.h5", "--data", folder / "data.npz", "--out", out, "--weights", "int4", "--io", "uint8"
    )
    assert done.exit_code == 0, done.output
    for part in ("int4 weights, int8 activations", "image uint8", "48 int4", "ash, birch, cedar", f"wrote {out}"):
        assert part in done.stdout
    assert [path.name for path in out.parent.iterdir()] == ["m.tflite"]
    assert LiteModel(out).labels == ("ash", "birch", "cedar")


@pytest.mark.parametrize(
    ("options", "dtypes"),
    [
        ([], {"int8"}),
        (["--activations", "int16"], {"int8"}),
        (["--weights", "int4", "--weight-only"], {"int4"}),
        (["--weights", "float16"], {"float16"}),
        (["--activations", "float32", "--sparse"], {"float32"}),
    ],
)
def test_forms(options, dtypes, folder, tmp_path, here):
    done = export(folder / "model.h5", "--data", folder / "data.npz", "--out", tmp_path / "m.tflite", *options)
    assert done.exit_code == 0, done.output
    assert {weight.tensor.dtype for weight in LiteModel(tmp_path / "m.tflite").weights()} == dtypes


@pytest.mark.parametrize(("options", "size"), [([], 1), (["--batch", "static"], 1), (["--batch", "dynamic"], None)])
def test_the_batch_is_static_unless_asked(options, size, folder, tmp_path, here):
    done = export(folder / "model.h5", "--activations", "float32", "--out", tmp_path / "m.tflite", *options)
    assert done.exit_code == 0, done.output
    assert LiteModel(tmp_path / "m.tflite").inputs[0].shape == (size, 8, 8, 1)


def test_what_cannot_work_is_one_line_and_leaves_nothing(folder, tmp_path, here):
    model, data, out = folder / "model.h5", ("--data", folder / "data.npz"), ("--out", tmp_path / "m.tflite")
    failed(export(model, *out), 2, "int8 activations need", "--data", "--activations float32")
    failed(export(model, *out, *data, "--weights", "float16", "--activations", "int8"), 2, "need int8 or int4 weights")
    failed(export(model, *out, *data, "--io", "int16"), 2, "int16 inputs and outputs")
    failed(export(folder / "text.tflite", *out, *data), 2, "text.tflite")
    failed(export(folder / "garbage.tflite", *out, *data), 2, "garbage.tflite")
    failed(export(folder / "none.keras", *out, *data), 2, "none.keras")
    failed(export(model, *out, "--data", folder / "none.npz"), 2, "none.npz")
    failed(export(model, "--out", tmp_path, *data), 2, "is a folder")
    assert not list(tmp_path.iterdir())
    (tmp_path / "m.tflite").write_bytes(b"old")
    failed(export(model, *out, *data), 2, "exists", "--overwrite")
    assert (tmp_path / "m.tflite").read_bytes() == b"old"
    assert export(model, *out, *data, "--overwrite").exit_code == 0


def test_few_samples_are_noted(folder, tmp_path, here):
    done = export(folder / "model.h5", "--data", folder / "few.npz", "--out", tmp_path / "m.tflite")
    assert done.exit_code == 0, done.output
    assert "few, below 32" in done.stdout


@pytest.mark.parametrize(
    ("name", "words"), [("text.tflite", "not a .tflite"), ("garbage.tflite", "LiteRT cannot run it")]
)
def test_files_of_another_kind_are_refused_in_one_line(name, words, folder):
    with pytest.raises(ModelError, match=words) as caught:
        LiteModel(folder / name)
    assert "\n" not in str(caught.value)


def test_inputs_alone_are_enough_for_ranges(folder, tmp_path, here):
    """All rows but the first 40 have values from -1 to 3, so that is the range of 20 rows from all over the file."""
    x = np.zeros((80, 8, 8, 1), "float32")
    x[40:] = np.linspace(-1, 3, 64).reshape(8, 8, 1)
    for keys in ({"x": x}, {"x_train": x}):
        np.savez(tmp_path / "x.npz", **keys)
        options = ("--overwrite", "--calibration-samples", 20, "--io", "int8")
        done = export(folder / "model.h5", "--data", tmp_path / "x.npz", "--out", tmp_path / "m.tflite", *options)
        assert done.exit_code == 0, done.output
        (port,) = LiteModel(tmp_path / "m.tflite").inputs
        assert port.scales[0] == pytest.approx(4 / 255, rel=1e-3)


def test_images_alone_are_converted_and_scaled_as_those_with_labels(folder, tmp_path, here):
    x = np.random.default_rng(0).integers(0, 256, (50, 12, 9, 3)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", x=x)
    options = ("--preprocessing", "unit", "--limit", 40, "--io", "int8")
    done = export(folder / "model.h5", "--data", tmp_path / "x.npz", "--out", tmp_path / "m.tflite", *options)
    assert done.exit_code == 0, done.output
    assert "activation ranges from 32 training samples" in done.stdout
    (port,) = LiteModel(tmp_path / "m.tflite").inputs
    assert port.scales[0] <= 1 / 255 * 1.001


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.full((4, 8, 8, 1), np.nan)}, "NaN"),
        ({"x": np.array(["a", "b"])}, "numbers"),
        ({"x": np.zeros((4, 5, 5, 2), "float32")}, "(None, 8, 8, 1)"),
        ({"x": np.zeros((4, 8, 8, 1)), "other": np.zeros(4)}, "x and y"),
    ],
)
def test_bad_inputs_alone(arrays, words, folder, tmp_path, here):
    np.savez(tmp_path / "x.npz", **arrays)
    done = export(folder / "model.h5", "--data", tmp_path / "x.npz", "--out", tmp_path / "m.tflite")
    failed(done, 2, words)


def test_accuracy_needs_labels(folder, tmp_path, here):
    np.savez(tmp_path / "x.npz", x=np.zeros((40, 8, 8, 1), "float32"))
    done = CliRunner().invoke(cli.main, ["sensitivity", str(folder / "model.h5"), "--data", str(tmp_path / "x.npz")])
    failed(done, 2, "Expected labels next to the inputs", "got x alone", "`bench` need no labels.")


@pytest.mark.parametrize(
    ("outputs", "said"),
    [(4, "the 4 outputs of the model are not the 3 classes of the data"), (3, "the model guesses: accuracy 0.")],
)
def test_data_that_the_model_does_not_know(tmp_path, outputs, said):
    """Squares whose brightness is their class; the model names the first class whatever it sees."""
    keras, y = tf_keras(), np.arange(900) % 3
    x = np.zeros((900, 6, 6, 3), "uint8") + (100 * y[:, None, None, None]).astype("uint8")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    head = keras.layers.Dense(outputs)
    model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.GlobalAveragePooling2D(), head])
    head.set_weights([np.full((3, outputs), 0.01) * np.arange(1, outputs + 1), 30.0 * (np.arange(outputs) == 0)])
    model.save(tmp_path / "m.h5")
    done = export(tmp_path / "m.h5", "--data", tmp_path / "data.npz", "--out", tmp_path / "m.tflite")
    assert done.exit_code == 0, done.output
    assert f"note: {said}" in done.output


def test_a_model_that_quantize_has_trained_needs_no_data(tmp_path):
    layers = tf_keras().layers
    model = tf_keras().Sequential([layers.Dense(8, "relu", input_shape=(6,)), layers.Dense(3)])
    stage, x = tfopt.Quantize(), np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    trained = stage.apply(model, steps=2)
    stage.calibrate(trained, x)
    trained.save(tmp_path / "trained.keras")
    done = export(tmp_path / "trained.keras", "--out", tmp_path / "m.tflite")
    assert done.exit_code == 0, done.output
    assert LiteModel(tmp_path / "m.tflite").inputs[0].dtype == "int8"
