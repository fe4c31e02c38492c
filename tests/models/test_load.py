"""Model files are identified by content; the file names here are misleading on purpose."""

import errno
import json
import os
import shutil
import warnings
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from tfopt import models
from tfopt.base import keras_compat
from tfopt.errors import ModelError, OutputError
from tfopt.tflite.read import LiteModel

SHARED = os.environ.get("TFOPT_SHARED")
needs_shared = pytest.mark.skipif(SHARED is None, reason="TFOPT_SHARED does not say where the models are")
X = np.linspace(-1, 1, 8, dtype="float32").reshape(2, 4)


def kerases():
    import keras

    return {"keras3": keras, "tf_keras": keras_compat.tf_keras()}


def small(kind, compiled=True):
    api = kerases()[kind]
    model = api.Sequential([api.Input((4,)), api.layers.Dense(3, "tanh"), api.layers.Dense(2)], name="small")
    if compiled:
        model.compile(api.optimizers.SGD(0.25), "mse", metrics=["mae"])
    return model


def is_kind(model, kind):
    return keras_compat.is_keras3_model(model) if kind == "keras3" else keras_compat.is_tf_keras_model(model)


def quietly(model, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both consider .h5 a legacy format
        model.save(path)


@pytest.mark.parametrize("kind", ["keras3", "tf_keras"])
@pytest.mark.parametrize(("ending", "lie"), [(".keras", ".h5"), (".h5", ".keras"), (".keras", ""), (".h5", ".tflite")])
def test_kind_is_identified_by_content(tmp_path, kind, ending, lie):
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


def test_a_tflite_named_keras_points_to_inspect(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(100))
    assert models.kind(path) == "tflite"
    with pytest.raises(ModelError, match="tfopt inspect"):
        models.load_model(path)


@pytest.mark.parametrize("like", ["keras3", "tf_keras"])
@pytest.mark.parametrize(
    ("kind", "name"), [("keras3", "x.weights.h5"), ("tf_keras", "x.weights.h5"), ("tf_keras", "x.h5")]
)
def test_weights_only(tmp_path, kind, name, like):
    model, other = small(kind), small(like)
    path, lie = tmp_path / name, tmp_path / "lie.txt"
    model.save_weights(path)
    path.rename(lie)
    assert models.kind(lie) == "weights"
    with pytest.raises(ModelError, match=r"weights only.*like=model"):
        models.load_model(lie)
    before = other.get_weights()
    loaded = models.load_model(lie, like=other)
    assert is_kind(loaded, like)
    for ours, theirs, untouched, kept in zip(
        loaded.get_weights(), model.get_weights(), other.get_weights(), before, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(untouched, kept)


@pytest.mark.parametrize("like", ["keras3", "tf_keras"])
def test_weights_of_another_model(tmp_path, like):
    path, api = tmp_path / "x.weights.h5", kerases()[like]
    small("keras3").save_weights(path)
    other = api.Sequential([api.Input((4,)), api.layers.Dense(5), api.layers.Dense(2)])
    with pytest.raises(ModelError, match="do not fit the model"):
        models.load_model(path, like=other)


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


def test_everything_that_is_not_a_model(tmp_path):
    (tmp_path / "text.keras").write_text("hello, this is no model")
    (tmp_path / "empty.h5").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"no": "version"}))
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("text.keras", "not a model file"),
        ("empty.h5", "is empty"),
        ("other.zip", "no metadata.json"),
        ("bad.zip", "not a .keras file"),
        ("folder", r"without saved_model\.pb"),
        ("nothing.keras", "no such file"),
    ):
        with pytest.raises(ModelError, match=words):
            models.load_model(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("read", [models.load_model, models.kind, LiteModel])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.keras")
    end = os.open(tmp_path / "pipe.keras", os.O_RDWR)  # a reader finds the other end open
    os.write(end, b"0123TFL3")
    try:
        with pytest.raises(ModelError, match="is a pipe or a device"):
            read(tmp_path / "pipe.keras")
        (tmp_path / "link.keras").symlink_to(tmp_path / "pipe.keras")
        with pytest.raises(ModelError, match="is a pipe or a device"):
            read(tmp_path / "link.keras")
    finally:
        os.close(end)


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("keras3", ".keras"), ("keras3", ".h5"), ("tf_keras", ".keras"), ("tf_keras", ".h5"), ("tf_keras", "")],
)
def test_lambda_code_is_not_run(tmp_path, kind, ending):
    api = kerases()[kind]
    model = api.Sequential([api.Input((4,)), api.layers.Lambda(lambda x: x * 2)])
    quietly(model, tmp_path / f"m{ending}")
    with pytest.raises(ModelError, match=r"a Lambda layer with Python code at 'lambda.*Replace a Lambda layer"):
        models.load_model(tmp_path / f"m{ending}")
    loaded = models.load_model(tmp_path / f"m{ending}", allow_unsafe=True)
    np.testing.assert_allclose(np.asarray(loaded(X)), 2 * X)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("kind", ["keras3", "tf_keras"])
def test_code_is_found_at_any_depth(tmp_path, kind, ending):
    api = kerases()[kind]
    inner = api.Sequential([api.Input((4,)), api.layers.Lambda(lambda x: x * 2, name="double")], name="inner")
    outer = api.Sequential([api.Input((4,)), inner], name="outer")
    quietly(api.Sequential([api.Input((4,)), outer]), tmp_path / f"m{ending}")
    with pytest.raises(ModelError, match="Python code at 'outer/inner/double'"):
        models.load_model(tmp_path / f"m{ending}")


def own_activation(x):
    return x * 3


@pytest.mark.parametrize("kind", ["keras3", "tf_keras"])
def test_custom_functions_need_the_users_word(tmp_path, kind):
    api, path = kerases()[kind], tmp_path / "m.keras"
    api.Sequential([api.Input((4,)), api.layers.Dense(2, own_activation, name="last")]).save(path)
    with pytest.raises(ModelError, match=r"custom function 'own_activation' at 'last'.*custom_objects"):
        models.load_model(path)
    loaded = models.load_model(path, custom_objects={"own_activation": own_activation})
    kernel, bias = loaded.get_weights()
    np.testing.assert_allclose(np.asarray(loaded(X)), 3 * (X @ kernel + bias), atol=1e-6)


@pytest.mark.parametrize("function", ["io.write_file", "py_function", "raw_ops.WriteFile"])
def test_tensorflow_functions_that_reach_out_are_refused(tmp_path, function):
    """A handmade config: TFOpLambda calls what the file names."""
    import h5py

    api, path = keras_compat.tf_keras(), tmp_path / "m.h5"
    inputs = api.Input((4,))
    quietly(api.Model(inputs, legacy_add(inputs)), path)
    models.load_model(path)  # harmless arithmetic
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace("__operators__.add", function)
    with pytest.raises(ModelError, match=rf"a call of tf\.{function} at"):
        models.load_model(path)


def legacy_add(tensor):
    return tensor + 1.0


def test_a_saved_model_that_reaches_out_is_refused(tmp_path):
    import tensorflow as tf

    model = small("tf_keras")

    @tf.function(input_signature=[tf.TensorSpec((None, 4))])
    def serve(x):
        tf.io.write_file(str(tmp_path / "stolen"), "x")
        return model(x)

    model.save(tmp_path / "m", save_format="tf", signatures=serve)
    with pytest.raises(ModelError, match="operation WriteFile in its graph"):
        models.load_model(tmp_path / "m")
    assert not (tmp_path / "stolen").exists()


def test_layers_that_run_programs_of_their_own_are_refused(tmp_path):
    path = tmp_path / "m.keras"
    small("keras3").save(path)
    rewrite(path, "config.json", lambda text: text.replace(b'"class_name": "Dense"', b'"class_name": "TFSMLayer"', 1))
    with pytest.raises(ModelError, match="a TFSMLayer, which runs a program from the file at 'dense"):
        models.load_model(path)


def rewrite(path, member, change):
    """The zip at `path` with one member changed."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[member] = change(parts[member])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_a_zip_that_unpacks_elsewhere_is_refused(tmp_path, name):
    path = tmp_path / "m.keras"
    small("keras3").save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")
    for read in (models.kind, models.load_model):
        with pytest.raises(ModelError, match="outside its own folder"):
            read(path)


def test_a_zip_that_grows_without_measure_is_refused(tmp_path):
    path = tmp_path / "m.keras"
    small("keras3").save(path)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("assets/zeros", "w", force_zip64=True) as file,
    ):
        for _ in range(300):
            file.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(ModelError, match="would grow"):
        models.load_model(path)


@pytest.mark.parametrize("packed", [False, True], ids=["h5", "in_keras"])
def test_an_hdf5_file_that_grows_without_measure_is_refused(tmp_path, packed):
    import h5py

    path = tmp_path / "m.keras"
    if packed:
        small("keras3").save(path)
    else:
        quietly(small("keras3"), path.with_suffix(".h5"))
        path = path.with_suffix(".h5")

    def swell(where):
        with h5py.File(where, "a") as file:
            file.create_dataset("huge", shape=(2**40,), dtype="float32", chunks=(2**20,))  # without a byte of the data

    if packed:
        inner = tmp_path / "inner.h5"
        with zipfile.ZipFile(path) as archive:
            inner.write_bytes(archive.read("model.weights.h5"))
        swell(inner)
        rewrite(path, "model.weights.h5", lambda _: inner.read_bytes())
    else:
        swell(path)
    with pytest.raises(ModelError, match="would grow"):
        models.load_model(path)


@pytest.mark.parametrize("how", ["link", "external"])
def test_an_hdf5_file_that_reads_other_files_is_refused(tmp_path, how):
    import h5py

    path = tmp_path / "m.h5"
    quietly(small("tf_keras"), path)
    (tmp_path / "secret").write_bytes(bytes(16))
    with h5py.File(path, "a") as file:
        if how == "link":
            file["more"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
        else:
            file.create_dataset("more", (4,), "float32", external=[(str(tmp_path / "secret"), 0, 16)])
    with pytest.raises(ModelError, match="holds its own weights"):
        models.load_model(path)


def own_loss(y, p):
    return (y - p) ** 2


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("kind", ["keras3", "tf_keras"])
@pytest.mark.parametrize("compiled", [True, False])
def test_lost_compile_settings_make_no_noise(tmp_path, caplog, kind, ending, compiled):
    model = small(kind, compiled=False)
    if compiled:
        model.compile("sgd", own_loss)
    quietly(model, tmp_path / f"m{ending}")
    caplog.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = models.load_model(tmp_path / f"m{ending}")
    assert caplog.messages == []
    np.testing.assert_allclose(np.asarray(loaded(X)), np.asarray(model(X)), atol=1e-6)


def test_custom_layer_is_explained(tmp_path):
    import keras

    class Mine(keras.layers.Layer):
        def call(self, x):
            return x

    keras.Sequential([keras.Input((4,)), Mine()]).save(tmp_path / "m.keras")
    with pytest.raises(ModelError, match=r"the custom class 'Mine' at 'mine.*custom_objects"):
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


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (RuntimeError("no config."), ModelError, r"cannot be saved: no config\.$"),
        (OSError(errno.ENOSPC, "No space left"), OutputError, r"Cannot write .*m\.keras: No space left\.$"),
    ],
)
def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch, error, expected, words):
    model, path = small("keras3"), tmp_path / "m.keras"
    path.write_text("an older file")

    def half(self, where):
        Path(where).write_text("half")
        raise error

    monkeypatch.setattr(type(model), "save", half)
    with pytest.raises(expected, match=words):
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


def with_backslashes(path):
    """Rewrite the `.keras` or `.weights.h5` file `path` as Keras 2 wrote it on Windows: `layers\\dense/vars`."""
    import io
    import zipfile

    def rewritten(data):
        written = io.BytesIO()
        with h5py.File(io.BytesIO(data), "r") as source, h5py.File(written, "w") as target:

            def put(name, item):
                if isinstance(item, h5py.Group) and "vars" in item:
                    source.copy(item["vars"], target.require_group(name.replace("/", "\\")), name="vars")

            source.visititems(put)
            if "vars" in source:
                source.copy("vars", target)
        return written.getvalue()

    if not zipfile.is_zipfile(path):
        path.write_bytes(rewritten(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, rewritten(data) if name.endswith(".h5") else data)


def test_files_that_keras_2_wrote_on_windows(tmp_path):
    """https://github.com/keras-team/keras/issues/18528; nested, so that backslashes occur at two depths."""
    api = kerases()["tf_keras"]
    inner = api.Sequential([api.Input((4,)), api.layers.Dense(3), api.layers.Dense(5)])
    model = api.Sequential([api.Input((4,)), inner, api.layers.Dense(2)])
    whole, weights = tmp_path / "w.keras", tmp_path / "w.weights.h5"
    model.save(whole)
    model.save_weights(weights)
    for path in (whole, weights):
        with_backslashes(path)
    with pytest.raises(ValueError, match="variables"):
        api.models.load_model(whole)
    before = whole.read_bytes()
    like = api.models.clone_model(model)
    for loaded in (models.load_model(whole), models.load_model(weights, like=like)):
        for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert whole.read_bytes() == before


@pytest.mark.parametrize("like", ["keras3", "tf_keras"])
@pytest.mark.parametrize(("kind", "name"), [("keras3", "x.keras"), ("tf_keras", "x.keras"), ("tf_keras", "x.h5")])
def test_like_takes_the_weights_of_a_whole_file(tmp_path, kind, name, like):
    model, other = small(kind), small(like)
    model.save(tmp_path / name)
    before = other.get_weights()
    loaded = models.load_model(tmp_path / name, like=other)
    assert is_kind(loaded, like)
    for ours, theirs, untouched, kept in zip(
        loaded.get_weights(), model.get_weights(), other.get_weights(), before, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(untouched, kept)


def test_files_of_keras_1(tmp_path):
    """Its configuration has other names (`output_dim`), which no later Keras reads; its weights are read."""
    path, rng = tmp_path / "one.h5", np.random.default_rng(0)
    kernel, bias = rng.normal(size=(4, 3)).astype("float32"), rng.normal(size=3).astype("float32")
    layer = {"class_name": "Dense", "config": {"name": "d", "output_dim": 3, "batch_input_shape": [None, 4]}}
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = b"1.2.2"
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": [layer]}).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"d"]
        group.create_group("d").attrs["weight_names"] = [b"d_W", b"d_b"]
        group["d"]["d_W"], group["d"]["d_b"] = kernel, bias
    with pytest.raises(ModelError, match=r"is of Keras 1.*like=model"):
        models.load_model(path)
    for api in kerases().values():
        like = api.Sequential([api.Input((4,)), api.layers.Dense(3, name="d")])
        loaded = models.load_model(path, like=like)
        np.testing.assert_allclose(loaded.predict(np.eye(4), verbose=0), kernel + bias, atol=1e-6)
