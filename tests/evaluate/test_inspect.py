"""What `inspect` and `compare` report about files, against weights set by hand."""

import gzip
import zlib

import keras
import numpy as np
import pytest

import tfopt
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import DataError, ModelError
from tfopt.evaluate.compare import compare_files
from tfopt.evaluate.inspect import inspect_file

RNG = np.random.default_rng(3)
X = RNG.normal(size=(80, 6, 6, 2)).astype("float32")


def filled(package):
    """A convolution with 12 zeros among 5 values, and a nested 3 x 4 head of ones."""
    layers = package.layers
    head = package.Sequential([package.Input((3,)), layers.Dense(4, name="out")], name="head")
    source = package.Input((6, 6, 2))
    inner = layers.Conv2D(3, 2, name="conv", activation="relu")(source)
    model = package.Model(source, head(layers.GlobalAveragePooling2D(name="mean")(inner)))
    kernel = np.array([0.0] * 12 + [1, 2, -1, 0.5] * 3, "float32")
    np.random.default_rng(0).shuffle(kernel)
    bias = np.array([0.1, 0.2, 0.3], "float32")
    model.set_weights([kernel.reshape(2, 2, 2, 3), bias, np.ones((3, 4)), np.zeros(4)])
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    import keras

    folder = tmp_path_factory.mktemp("files")
    filled(keras).save(folder / "model.keras")
    filled(tf_keras()).save(folder / "model.h5")
    filled(tf_keras()).save(folder / "folder", save_format="tf")
    tfopt.export_tflite(filled(keras), folder / "float.tflite", tfopt.Export(weights="float32", activations="float32"))
    tfopt.export_tflite(filled(keras), folder / "int8.tflite", representative_data=X)
    return folder


@pytest.mark.parametrize(
    ("name", "kind"), [("model.keras", "keras3"), ("model.h5", "tf_keras"), ("folder", "tf_keras")]
)
def test_layers_of_a_keras_model(files, name, kind):
    found = inspect_file(files / name)
    assert found.kind == kind
    parts = {part.name: part for part in found.parts if part.parameters}
    assert set(parts) == {"conv", "head/out"}
    conv, out = parts["conv"], parts["head/out"]
    assert (conv.kind, conv.shape, conv.parameters, conv.sparsity, conv.unique, conv.dtype) == (
        "Conv2D", "(None, 5, 5, 3)", 27, 0.5, 5, "float32",
    )  # fmt: skip
    assert (out.kind, out.parameters, out.sparsity, out.unique) == ("Dense", 16, 0.0, 1)
    (mean,) = [part for part in found.parts if part.name == "mean"]
    assert (mean.parameters, mean.sparsity, mean.unique) == (0, None, None)


def test_a_packed_file_has_two_sizes(files, tmp_path):
    """By gzip, not by `pack`."""
    content = (files / "int8.tflite").read_bytes()
    (tmp_path / "m.tflite.gz").write_bytes(packed := gzip.compress(content))
    found = inspect_file(tmp_path / "m.tflite.gz")
    assert (found.packed_bytes, found.bytes) == (len(packed), len(content))
    weights = 27 - 3 + 16 - 4  # without biases
    title = found.table().title
    assert f" {len(packed):,} bytes packed, unpacked {len(content):,} bytes, " in title
    assert f"{8 * len(packed) / weights:.2f} with the whole file deflated" in title
    plain = inspect_file(files / "int8.tflite")
    assert plain.packed_bytes is None and " packed, unpacked" not in plain.table().title


@pytest.mark.parametrize(("name", "dtype"), [("float.tflite", "float32"), ("int8.tflite", "int8")])
def test_operators_of_a_tflite(files, name, dtype):
    found = inspect_file(files / name)
    assert found.kind == "tflite"
    parts = {part.kind: part for part in found.parts}
    conv, out, mean = parts["CONV_2D"], parts["FULLY_CONNECTED"], parts["MEAN"]
    kernel = np.array(filled(tf_keras()).get_layer("conv").get_weights()[0])
    if dtype == "int8":
        kernel = np.round(kernel / np.abs(kernel).max(axis=(0, 1, 2)) * 127)  # one scale per channel
    unique = len(np.unique(kernel))
    assert (conv.shape, conv.parameters, conv.sparsity, conv.dtype) == ("(1, 5, 5, 3)", 27, 0.5, dtype)
    assert conv.unique == unique
    assert out.parameters in (12, 16)  # the converter drops a bias of zeros
    assert (out.unique, out.dtype) == (1, dtype)
    assert (mean.parameters, mean.sparsity, mean.dtype) == (0, None, dtype)  # axes are not parameters


@pytest.mark.parametrize("name", ["model.keras", "int8.tflite"])
def test_bytes_are_those_of_the_file(files, name):
    content = (files / name).read_bytes()
    found = inspect_file(files / name)
    assert (found.bytes, found.deflated_bytes) == (len(content), len(zlib.compress(content, 9)))
    assert f"{len(content):,} bytes, {len(zlib.compress(content, 9)):,} deflated" in found.table().title


def test_bytes_of_a_folder_are_those_of_all_its_files(files):
    inside = [path for path in (files / "folder").rglob("*") if path.is_file()]
    assert len(inside) > 1
    assert inspect_file(files / "folder").bytes == sum(path.stat().st_size for path in inside)


def test_what_is_no_model(tmp_path):
    (tmp_path / "note.txt").write_text("hello, this is text")
    (tmp_path / "cut.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(40))
    for name in ("note.txt", "cut.tflite", "absent"):
        with pytest.raises(ModelError, match=name) as caught:
            inspect_file(tmp_path / name)
        assert "\n" not in str(caught.value)


def column(table, index):
    return list(table.columns[index].cells)


def test_compare_reports_the_agreement_of_predictions(files, tmp_path):
    """The second file reverses the order of the four classes, so the two files never agree."""
    import keras

    labels = np.arange(80) % 4
    np.savez(tmp_path / "data.npz", x_train=X, y_train=labels, x_test=X, y_test=labels)
    models = {}
    for name, flip in (("a", 1), ("b", -1)):
        layers = keras.layers
        models[name] = keras.Sequential(
            [keras.Input((6, 6, 2)), layers.Flatten(), layers.Dense(4, "softmax", use_bias=False)]
        )
        kernel = np.random.default_rng(8).normal(size=(72, 4))[:, ::flip]
        models[name].set_weights([kernel])
        models[name].save(tmp_path / f"{name}.keras")
    scores = X.reshape(80, -1) @ np.random.default_rng(8).normal(size=(72, 4))
    table = compare_files(tmp_path / "a.keras", tmp_path / "b.keras", tmp_path / "data.npz")
    names, a, b = column(table, 0), column(table, 1), column(table, 2)
    row = names.index("accuracy")
    assert float(a[row]) == pytest.approx(np.mean(scores.argmax(axis=1) == labels), abs=1e-4)
    assert float(b[row]) == pytest.approx(np.mean(3 - scores.argmax(axis=1) == labels), abs=1e-4)
    assert b[names.index("agreement")] == "0.0000"
    assert a[names.index("MACs")] == b[names.index("MACs")] == "288"
    assert float(a[names.index("ms per sample, median (1 thread)")]) > 0
    assert names[-1] == "speed ratio" and float(b[-1].rstrip("x")) > 0


def test_compare_refuses_other_data(files):
    with pytest.raises(DataError, match="shape"):
        compare_files(files / "float.tflite", files / "int8.tflite", (X[:, :5], np.arange(80) % 4))


@pytest.mark.parametrize("package", [keras, tf_keras()])
def test_layers_of_several_outputs(package, tmp_path):
    layers = package.layers
    given = package.Input((5, 4))
    _, state, carry = layers.LSTM(3, return_state=True, name="lstm")(given)
    package.Model(given, [state, carry]).save(tmp_path / "model.keras")
    shapes = {part.name: part.shape for part in inspect_file(tmp_path / "model.keras").parts}
    assert shapes["lstm"] == "(None, 3), (None, 3), (None, 3)"


def test_weights_that_are_no_numbers_are_said(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="good"), keras.layers.Dense(2, name="bad")])
    kernel = np.array([[1, np.nan], [np.inf, 2]], "float32")
    model.get_layer("bad").set_weights([kernel, np.zeros(2, "float32")])
    model.save(tmp_path / "m.keras")
    found = inspect_file(tmp_path / "m.keras")
    assert [part.not_finite for part in found.parts] == [0, 2]
    assert "NaN or infinite numbers in bad (2)" in found.table().title
