"""Model files are told apart by content; the names here lie on purpose."""

import json
import os
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tfopt import legacy, models
from tfopt.errors import ModelError

SHARED = os.environ.get("TFOPT_SHARED")
needs_shared = pytest.mark.skipif(SHARED is None, reason="TFOPT_SHARED does not say where the models are")
X = np.linspace(-1, 1, 8, dtype="float32").reshape(2, 4)


def kerases():
    import keras

    return {"keras3": keras, "tf_keras": legacy.tf_keras()}


def small(kind, compiled=True):
    api = kerases()[kind]
    model = api.Sequential([api.Input((4,)), api.layers.Dense(3, "tanh"), api.layers.Dense(2)], name="small")
    if compiled:
        model.compile(api.optimizers.SGD(0.25), "mse", metrics=["mae"])
    return model


def is_kind(model, kind):
    return legacy.is_keras3_model(model) if kind == "keras3" else legacy.is_tf_keras_model(model)


def quietly(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .h5 is a format of the past to both
        model.save(path)


@pytest.mark.parametrize("kind", ["keras3", "tf_keras"])
@pytest.mark.parametrize(("ending", "lie"), [(".keras", ".h5"), (".h5", ".keras"), (".keras", ""), (".h5", ".tflite")])
def test_kind_is_told_by_content(tmp_path, kind, ending, lie):
    model = small(kind)
    quietly(model, tmp_path / f"true{ending}")
    path = shutil.move(tmp_path / f"true{ending}", tmp_path / f"lie{lie}")
    assert models.kind(path) == kind
    loaded = models.load_model(path)
    assert is_kind(loaded, kind)
    np.testing.assert_allclose(np.asarray(loaded(X)), np.asarray(model(X)), atol=1e-6)
    assert float(np.asarray(loaded.optimizer.learning_rate)) == 0.25


def test_saved_model_of_tf_keras(tmp_path):
    model = small("tf_keras")
    model.save(tmp_path / "folder.keras", save_format="tf")
    assert models.kind(tmp_path / "folder.keras") == "tf_keras"
    loaded = models.load_model(tmp_path / "folder.keras")
    assert type(loaded.layers[0]).__name__ == "Dense"
    np.testing.assert_allclose(loaded(X), model(X), atol=1e-6)


def test_saved_model_without_layers(tmp_path):
    small("keras3").export(tmp_path / "out", verbose=False)
    assert models.kind(tmp_path / "out") == "saved_model"
    with pytest.raises(ModelError, match="without Keras layers"):
        models.load_model(tmp_path / "out")


def test_tflite_is_told_what_takes_it(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(100))
    assert models.kind(path) == "tflite"
    with pytest.raises(ModelError, match="tfopt inspect"):
        models.load_model(path)


@pytest.mark.parametrize("kind", ["keras3", "tf_keras"])
def test_weights_only(tmp_path, kind):
    path = tmp_path / "x.weights.h5"
    small(kind).save_weights(path)
    assert models.kind(path) == "weights"
    with pytest.raises(ModelError, match="weights only"):
        models.load_model(path)


def test_hdf5_without_version(tmp_path):
    import h5py

    for kind in ("keras3", "tf_keras"):
        path = tmp_path / f"{kind}.h5"
        quietly(small(kind), path)
        with h5py.File(path, "a") as file:
            del file.attrs["keras_version"]
        assert models.kind(path) == kind


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("kind", ["keras3", "tf_keras"])
def test_truncated_file(tmp_path, kind, ending):
    path = tmp_path / f"m{ending}"
    quietly(small(kind), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ModelError, match=r"damaged or incomplete.*again"):
        models.load_model(path)


def test_flipped_bits(tmp_path):
    path = tmp_path / "m.keras"
    small("keras3").save(path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("model.weights.h5").header_offset + 2000
    content[start : start + 50] = bytes(255 - b for b in content[start : start + 50])
    path.write_bytes(content)
    with pytest.raises(ModelError, match="damaged or incomplete"):
        models.load_model(path)


def test_all_that_is_no_model(tmp_path):
    (tmp_path / "text.keras").write_text("hello, this is no model")
    (tmp_path / "empty.h5").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"no": "version"}))
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("text.keras", "no model file"),
        ("empty.h5", "is empty"),
        ("other.zip", "no metadata.json"),
        ("bad.zip", "no .keras file"),
        ("folder", r"without saved_model\.pb"),
        ("nothing.keras", "no such file"),
    ):
        with pytest.raises(ModelError, match=words):
            models.load_model(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("keras3", ".keras"), ("keras3", ".h5"), ("tf_keras", ".keras"), ("tf_keras", ".h5"), ("tf_keras", "")],
)
def test_lambda_code_is_not_run(tmp_path, kind, ending):
    api = kerases()[kind]
    model = api.Sequential([api.Input((4,)), api.layers.Lambda(lambda x: x * 2)])
    quietly(model, tmp_path / f"m{ending}")
    with pytest.raises(ModelError, match=r"Lambda layer.*replace it"):
        models.load_model(tmp_path / f"m{ending}")


def own_loss(y, p):
    return (y - p) ** 2


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("kind", ["keras3", "tf_keras"])
def test_lost_compile_settings_make_no_noise(tmp_path, capfd, kind, ending):
    model = small(kind, compiled=False)
    model.compile("sgd", own_loss)
    quietly(model, tmp_path / f"m{ending}")
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = models.load_model(tmp_path / f"m{ending}")
    assert capfd.readouterr() == ("", "")
    np.testing.assert_allclose(np.asarray(loaded(X)), np.asarray(model(X)), atol=1e-6)


def test_custom_layer_is_explained(tmp_path):
    import keras

    class Mine(keras.layers.Layer):
        def call(self, x):
            return x

    keras.Sequential([keras.Input((4,)), Mine()]).save(tmp_path / "m.keras")
    with pytest.raises(ModelError, match=r"needs class 'Mine'.*custom_objects"):
        models.load_model(tmp_path / "m.keras")


@pytest.mark.parametrize("kind", ["keras3", "tf_keras"])
def test_save_and_load(tmp_path, kind):
    model, path = small(kind), tmp_path / "m.keras"
    path.write_text("an older file")
    models.save_model(model, path)
    assert models.kind(path) == kind
    assert [p.name for p in tmp_path.iterdir()] == ["m.keras"]
    for ours, theirs in zip(models.load_model(path).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model, path = small("keras3"), tmp_path / "m.keras"
    path.write_text("an older file")

    def half(self, where):
        Path(where).write_text("half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(type(model), "save", half)
    with pytest.raises(ModelError, match="cannot be saved: disk full"):
        models.save_model(model, path)
    assert path.read_text() == "an older file"
    assert [p.name for p in tmp_path.iterdir()] == ["m.keras"]


def test_save_says_what_it_expects(tmp_path):
    for path, words in ((tmp_path / "m.h5", r"ends in \.keras"), (tmp_path / "no" / "m.keras", "no such folder")):
        with pytest.raises(ModelError, match=words):
            models.save_model(small("keras3"), path)


@needs_shared
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mobilenet_025_224_imagenet.keras", "keras3"),
        ("resnet8_cifar10.h5", "tf_keras"),
        ("ad01.h5", "tf_keras"),
        ("resnet8_cifar10_int8.tflite", "tflite"),
    ],
)
def test_files_of_others(name, kind):
    path = Path(SHARED, "models", name)
    assert models.kind(path) == kind
    if kind != "tflite":
        assert is_kind(models.load_model(path), kind)
