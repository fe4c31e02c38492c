"""Nothing in a model file runs unless the user allows it: all attack files must be refused.

Each file is built here, by hand. A file counts as refused if tfopt raises ModelError and the canary is untouched. Plain
Keras and plain TensorFlow, which the files do attack, show that they are real (`test_the_attacks_are_real`).
"""

import contextlib
import json
import re
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import attacks_archives
import attacks_keras3
import attacks_metadata
import attacks_operators
import attacks_saved_model
import attacks_tf_keras
import numpy as np
import pytest
from attacks import SECRET, Attack, Canary, function, hdf5_file, keras_file, model_file
from click.testing import CliRunner

import tfopt
from tfopt import models
from tfopt.base import keras_compat
from tfopt.errors import DataError, ModelError, TfoptError

MODULES = (attacks_keras3, attacks_operators, attacks_archives, attacks_metadata, attacks_saved_model)
ATTACKS = [attack for module in MODULES for attack in module.ATTACKS]
CONFIGS = {"keras3": attacks_keras3, "tf_keras": attacks_tf_keras}


@pytest.fixture
def canary(tmp_path):
    yield Canary(tmp_path / "canary")
    restore()


def restore() -> None:
    """Restore what a successful attack may have changed in this process."""
    import keras
    from keras.src.backend.common import global_state

    keras.config.set_floatx("float32")
    global_state.set_global_attribute("safe_mode_saving", None)


def opened(attack: Attack, path: Path):
    return tfopt.transfer.open_hub(path, input_shape=(4,)) if attack.doors == "hub" else tfopt.load_model(path)


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.id for attack in ATTACKS])
def test_refused(attack, tmp_path, canary):
    import keras

    path, said = attack.written(tmp_path, canary), ""
    try:
        opened(attack, path)
        assert attack.may_load
    except ModelError as error:
        said = str(error)
    assert not canary.touched
    assert SECRET not in said
    assert keras.config.floatx() == "float32"


@pytest.mark.parametrize(
    ("kind", "form", "place"),
    [(kind, form, place) for kind, module in CONFIGS.items() for form in module.FORMS for place in module.places(form)],
)
def test_every_foreign_object_in_every_place_is_refused(tmp_path, monkeypatch, kind, form, place):
    """All of `objects`, one file for each: bytecode, functions and classes by module, Keras's API beyond models."""
    module = CONFIGS[kind]
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    through = {}
    for name in module.objects(Canary(tmp_path, write=False)):
        canary = Canary(tmp_path / name)
        canary.importable("keras_cv")
        path = canary.folder / f"model{form}"
        model_file(path, module.places(form)[place](module.objects(canary)[name]), kind)
        try:
            tfopt.load_model(path)
            if not place.startswith("compile_") or canary.touched:  # compile settings may be dropped
                through[name] = "loaded"
        except ModelError:
            if canary.touched:
                through[name] = "ran, then refused"
        except Exception as error:
            through[name] = f"{'ran, then ' if canary.touched else ''}{type(error).__name__}: {str(error)[:200]}"
    restore()
    assert not through


@pytest.mark.parametrize("form", attacks_tf_keras.FORMS)
@pytest.mark.parametrize("cls", ["TFOpLambda", "SlicingOpLambda"])
def test_functions_of_tensorflow_that_are_not_arithmetic_are_refused(tmp_path, cls, form):
    through = []
    for number, symbol in enumerate(attacks_operators.DANGEROUS):
        path = tmp_path / f"{number}{form}"
        model_file(path, attacks_tf_keras.called(form, symbol, str(tmp_path / "no"), cls=cls), "tf_keras")
        try:
            tfopt.load_model(path)
            through.append(symbol)
        except ModelError as error:
            if "allow_unsafe" not in str(error):  # a loader failed on it: it was looked up, or even called
                through.append(symbol)
    assert not through


# Operations of any SavedModel: all that TensorFlow knows.

REACHES_OUT = (
    "Abort", "Audio.*Summary", "Barrier", "BoostedTrees", "Checkpoint", "Collective", "Configure", "Dataset", "Debug",
    "Distributed", "Filesystem", "File", "ImmutableConst", "Infeed", "Iterator", "LoadTPU", "LoadAndRemap", "Matching",
    "MergeV2", "NcclA", "Outfeed", "PrintV2", "PyFunc", "Queue", "Reader", "RemoteCall", "Restore", "^_?Recv", "Rpc",
    "^Save", "SdcaFprint", "^_?Send", "SessionTensor", "Summary", "TPU", "VocabRemapping", "Xla",
)  # fmt: skip


@pytest.mark.parametrize("in_library", [False, True], ids=["in_the_graph", "in_a_function"])
def test_operations_that_reach_out_are_refused_wherever_they_stand(tmp_path, in_library):
    """A SavedModel with one such node is refused before TensorFlow sees it."""
    names = [name for name in known_operations() if any(re.search(each, name) for each in REACHES_OUT)]
    assert len(names) > 250
    through = []
    for name in [*names, "OperationOfAPackage", "writing_function", ""]:
        attacks_saved_model.with_operation(tmp_path / "model", name, in_library=in_library)
        try:
            tfopt.transfer.open_hub(tmp_path / "model")
            through.append(name)
        except ModelError as error:
            if "cannot be loaded" in str(error):  # TensorFlow was called
                through.append(name)
    assert not through


def known_operations() -> list[str]:
    import tensorflow as tf
    from tensorflow.python.framework import op_def_registry

    snake = [name for name in dir(tf.raw_ops) if not name.startswith("_")]
    return sorted(name for name in snake if op_def_registry.get(name) is not None)


# The files are real, and the user's permission counts.


def test_the_attacks_are_real(tmp_path):
    """Plain Keras without safe mode, and plain TensorFlow, do what each file wants, in a separate process."""
    chosen = [attack for attack in ATTACKS if attack.proof]
    rows = []
    for number, attack in enumerate(chosen):
        folder = tmp_path / str(number)
        folder.mkdir()
        canary = Canary(folder / "canary")
        rows.append([str(attack.written(folder, canary)), attack.kind, str(canary.folder), canary.module])
        assert not canary.touched, attack.id
    subprocess.run(
        [sys.executable, Path(__file__).with_name("builders") / "attacks_prove.py", tmp_path / "seen"],
        input=json.dumps(rows), text=True, check=True, capture_output=True,
    )  # fmt: skip
    seen = json.loads((tmp_path / "seen").read_text())
    print(f"{len(seen)} of {len(ATTACKS)} attacks are proven real by the libraries of today")
    assert {a.id: s for a, s in zip(chosen, seen, strict=True) if s != a.proof} == {}


@pytest.mark.parametrize("name", ["keras3.keras-lambda", "keras3.h5-lambda", "tf_keras.keras-lambda_bytecode",
                                  "tf_keras.h5-lambda_bytecode", "tf_keras.h5-calls_write_file",
                                      "tf_keras-metadata_lambda"])  # fmt: skip
def test_the_users_word_lets_code_run(name, tmp_path, canary):
    (attack,) = (each for each in ATTACKS if each.id == name)
    path = attack.written(tmp_path, canary)
    with contextlib.suppress(ModelError):  # it has run by then; the file contains no model
        tfopt.load_model(path, allow_unsafe=True)
    assert canary.ran.exists()


def test_a_refusal_says_where_and_how_to_allow_it(tmp_path, canary):
    (attack,) = (each for each in ATTACKS if each.id == "tf_keras.keras-calls_write_file")
    with pytest.raises(ModelError, match=r"(?s)tf\.io\.write_file.*tfoplambda.*allow_unsafe"):
        tfopt.load_model(attack.written(tmp_path, canary))


def own(api):
    @api.saving.register_keras_serializable("attacks")
    class Own(api.layers.Layer):
        def call(self, inputs):
            return inputs * 2.0

    return Own


@pytest.mark.parametrize("form", [".keras", ".h5"])
@pytest.mark.parametrize("kind", ["keras3", "tf_keras"])
def test_registered_classes_and_custom_objects_load(tmp_path, kind, form):
    import keras

    api = keras if kind == "keras3" else keras_compat.tf_keras()
    path = tmp_path / f"model{form}"
    # tf_keras cannot read back the functions that it writes into .h5 files.
    activation = "linear" if (kind, form) == ("tf_keras", ".h5") else own_function
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both consider .h5 a legacy format
        api.Sequential([api.Input((4,)), own(api)(), api.layers.Activation(activation)]).save(path)
    given = {"own_function": own_function}
    found = tfopt.load_model(path, custom_objects=given)(np.ones((1, 4)))
    np.testing.assert_array_equal(np.asarray(found), [[2.0 if activation == "linear" else 6.0] * 4])
    if activation == own_function:
        with pytest.raises(ModelError, match="own_function"):
            tfopt.load_model(path)


def own_function(x):
    return x * 3.0


@pytest.mark.parametrize("kind", ["keras3", "tf_keras"])
def test_a_name_that_the_user_stands_for_covers_no_module_that_the_file_names(tmp_path, canary, kind):
    """The user trusts `Own`; the file names a class of that name in the attacker's module."""
    import keras

    api, module = (keras, attacks_keras3) if kind == "keras3" else (keras_compat.tf_keras(), attacks_tf_keras)
    canary.importable("keras_cv")
    for number, where in enumerate((canary.module, "keras_cv")):
        for registered in (None, "Own", "attacks>Own"):
            what = {"module": where, "class_name": "Own", "config": {"name": "x"}, "registered_name": registered}
            path = tmp_path / f"{number}.keras"
            keras_file(path, module.sequential(".keras", what), kind)
            with contextlib.suppress(TfoptError):
                tfopt.load_model(path, custom_objects={"Own": own(api)})
            assert not canary.touched, (where, registered)


# Other ways in


@pytest.mark.parametrize("name", ["keras3.keras-calls_saved_model_by_path", "tf_keras.keras-calls_model_from_json",
                                  "tf_keras.h5-calls_write_file_by_slicing", "tf_keras-metadata_vocabulary",
                                  "saved_model-on_load"])  # fmt: skip
def test_the_command_line_refuses_too(name, tmp_path, canary):
    from tfopt.cli import main

    (attack,) = (each for each in ATTACKS if each.id == name)
    done = CliRunner().invoke(main, ["inspect", str(attack.written(tmp_path, canary))])
    assert done.exit_code != 0
    assert not canary.touched
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception


@pytest.mark.parametrize("name", ["keras3.keras-lambda", "tf_keras.keras-calls_model_from_json",
                                  "tf_keras-metadata_lambda_in_time_distributed", "saved_model-on_load",
                                  "saved_model-operation_PrintV2", "saved_model-of_tf1_at_first"])  # fmt: skip
def test_a_teachers_file_is_refused_too(name, tmp_path, canary):
    from tfopt.teachers.sources import open_source as open_teacher

    (attack,) = (each for each in ATTACKS if each.id == name)
    path = attack.written(tmp_path, canary)
    with pytest.raises(ModelError):
        open_teacher(path)
    assert not canary.touched


def test_a_result_folder_as_a_teacher_is_refused_too(tmp_path, canary):
    (attack,) = (each for each in ATTACKS if each.id == "keras3.keras-calls_saved_model_by_path")
    attack.build(tmp_path / "model.keras", canary)
    (tmp_path / "data.json").write_text(json.dumps({"class_names": None, "preprocessing": {}}))
    with pytest.raises(TfoptError):
        tfopt.Teacher(tmp_path)
    assert not canary.touched


@pytest.mark.parametrize("where", ["x_train", "y_train", "class_names", "other"])
def test_pickled_objects_in_data_are_refused(tmp_path, canary, where):
    arrays = {"x_train": np.zeros((4, 2), "float32"), "y_train": np.arange(4) % 2}
    attacks_archives.npz(tmp_path / "data.npz", **{**arrays, where: attacks_archives.object_array(canary)})
    with pytest.raises(DataError):
        tfopt.load_data(tmp_path / "data.npz")
    assert not canary.touched


@pytest.mark.parametrize("content", ["arrays", "key", "pickle"])
def test_pickled_objects_in_a_checkpoint_do_not_run(tmp_path, canary, content):
    from tfopt.run.checkpoint import Checkpoint

    checkpoint = Checkpoint(tmp_path / "run.npz", "key")
    if content == "pickle":
        checkpoint.path.write_bytes(attacks_archives.pickle_of(canary))
    else:
        evil = attacks_archives.object_array(canary)
        arrays = {"key": np.array("key"), "rows": np.array("[]"), "weight_0": evil}
        attacks_archives.npz(checkpoint.path, **({**arrays, "key": evil} if content == "key" else arrays))
    with contextlib.suppress(TfoptError):  # a checkpoint that cannot be read may be ignored
        assert checkpoint.load() is None
    assert not canary.touched


def test_pickled_answers_of_a_teacher_do_not_run(tmp_path, canary):
    from tfopt.teachers import cache as answers

    path = tmp_path / "view0-output.npy"
    path.write_bytes(attacks_archives.npy(attacks_archives.object_array(canary)) + bytes(4))
    with pytest.raises((ValueError, OSError)):  # `Answers` recomputes such a view
        answers._loaded(path, 1)
    assert not canary.touched


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("content", ["pickle", "keras", "tar"])
def test_a_packed_file_that_holds_something_else_is_refused(tmp_path, canary, content, compression):
    import gzip

    import zstandard

    if content == "pickle":
        data = attacks_archives.pickle_of(canary)
    elif content == "keras":
        keras_file(tmp_path / "x", attacks_archives.harmless("keras3"), "keras3")
        data = (tmp_path / "x").read_bytes()
    else:
        attacks_archives.tar(tmp_path / "x", {"../ran": b"x"})
        data = (tmp_path / "x").read_bytes()
    packed = gzip.compress(data) if compression == "gzip" else zstandard.compress(data)
    (tmp_path / "model.tflite").write_bytes(packed)
    for door in (tfopt.load_model, tfopt.LiteModel, tfopt.models.kind):
        with pytest.raises(ModelError):
            door(tmp_path / "model.tflite")
    assert not canary.touched


@pytest.mark.parametrize("place", ["parents", "absolute", "symlink", "hard_link", "device"])
def test_an_archive_of_a_module_that_writes_elsewhere_is_refused(tmp_path, canary, place):
    kinds = {"symlink": tarfile.SYMTYPE, "hard_link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
    path = tmp_path / "module.tar.gz"
    if place in kinds:
        links = {"escape": attacks_archives.link(str(canary.folder), kinds[place])}
        attacks_archives.tar(path, {"saved_model.pb": b""}, **links)
    else:
        names = {"parents": "../" * 20 + str(canary.ran).lstrip("/"), "absolute": str(canary.ran)}
        attacks_archives.tar(path, {"saved_model.pb": b"", names[place]: b"x"})
    with pytest.raises(ModelError):
        tfopt.transfer.open_hub(path)
    assert not canary.touched


def test_weights_that_lie_in_another_file_are_refused(tmp_path, canary):
    import h5py
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="d")])
    model.save_weights(tmp_path / "other.weights.h5")
    for change in (attacks_archives.external_link, attacks_archives.external_storage, attacks_archives.virtual):
        path = tmp_path / "model.weights.h5"
        path.write_bytes((tmp_path / "other.weights.h5").read_bytes())
        with h5py.File(path, "a") as file:
            del file["layers"]
            change(file, canary)
        with pytest.raises(ModelError):
            tfopt.load_model(path, like=model)


def test_a_recipe_of_data_names_no_code(tmp_path, canary):
    for stage in (
        {"stage": "Thing", "module": canary.module},
        function(canary.module, "run"),
        f"{canary.module}.Thing",
    ):
        (tmp_path / "recipe.json").write_text(json.dumps({"stages": [stage]}))
        with pytest.raises(TfoptError):
            tfopt.Recipe.load(tmp_path / "recipe.json")
    assert not canary.touched


def test_a_file_of_tf_keras_that_says_it_is_of_keras3_is_refused(tmp_path, canary):
    """The loader goes by the version that the file states; both must refuse."""
    what = attacks_tf_keras.sequential(
        ".keras", attacks_tf_keras.lambda_layer(".keras", function(canary.module, "run"))
    )
    for kind in ("keras3", "tf_keras"):
        keras_file(tmp_path / "m.keras", what, kind)
        hdf5_file(tmp_path / "m.h5", what, kind)
        for name in ("m.keras", "m.h5"):
            with pytest.raises(ModelError):
                tfopt.load_model(tmp_path / name)
    assert not canary.touched


@pytest.mark.parametrize("place", ["root", "layer", "optimizer"])
def test_a_lambda_does_not_import_its_module(tmp_path, canary, place):
    """tf_keras looks for the class in the module that the file names, whatever its name."""
    foreign = {"class_name": "Lambda", "module": canary.module, "registered_name": None, "config": {"function": None}}
    path = tmp_path / "m.keras"
    api = legacy_api()
    model = api.Sequential([api.Input((4,)), api.layers.Dense(2)])
    model.compile("sgd", "mse")
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    if place == "root":
        config = foreign
    elif place == "layer":
        config["config"]["layers"].append(foreign)
    else:
        config["compile_config"]["optimizer"] = foreign
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    if place == "optimizer":
        assert not tfopt.load_model(path)._is_compiled
    else:
        with pytest.raises(ModelError, match="allow_unsafe"):
            tfopt.load_model(path)
    assert not canary.touched


def legacy_api():
    return keras_compat.tf_keras()


def test_a_file_that_is_hdf5_and_archive_at_once_is_refused(tmp_path):
    api = legacy_api()
    model = api.Sequential([api.Input((4,)), api.layers.Dense(2)])
    model.save(tmp_path / "a.h5")
    model.save(tmp_path / "a.keras")
    path = tmp_path / "both.keras"
    path.write_bytes((tmp_path / "a.h5").read_bytes() + (tmp_path / "a.keras").read_bytes())
    with pytest.raises(ModelError, match="an HDF5 file and an archive at once"):
        tfopt.load_model(path)


def saved_with_table(folder, words):
    import tensorflow as tf

    words.write_text("cat\ndog\n")
    lookup = tf.lookup
    source = lookup.TextFileInitializer(
        str(words), tf.string, lookup.TextFileIndex.WHOLE_LINE, tf.int64, lookup.TextFileIndex.LINE_NUMBER
    )
    module = tf.Module()
    module.table = lookup.StaticHashTable(source, -1)
    module.__call__ = tf.function(
        lambda x: tf.cast(module.table.lookup(x), tf.float32), [tf.TensorSpec((None, 1), tf.string)]
    )
    tf.saved_model.save(module, str(folder))
    return folder


def test_an_asset_that_is_a_link_out_of_the_folder_is_refused(tmp_path):
    folder = saved_with_table(tmp_path / "net", tmp_path / "words.txt")
    models.check_graph(folder)
    (tmp_path / "secret").write_text("secret\n")
    (folder / "assets" / "words.txt").unlink()
    (folder / "assets" / "words.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match=r"the link 'words\.txt', which leads out of its folder"):
        models.check_graph(folder)


def test_a_second_meta_graph_may_not_restore_from_elsewhere(tmp_path):
    """With two graphs TensorFlow runs the restore operation instead of restoring by the objects."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    module = tf.Module()
    module.v = tf.Variable([1.0, 2.0])
    module.__call__ = tf.function(lambda x: x + module.v, [tf.TensorSpec((None, 2))])
    tf.saved_model.save(module, str(tmp_path / "net"))
    models.check_graph(tmp_path / "net")
    path = tmp_path / "net" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    saved.meta_graphs.add().CopyFrom(saved.meta_graphs[0])
    saved.meta_graphs[1].meta_info_def.tags[:] = ["other"]
    path.write_bytes(saved.SerializeToString())
    with pytest.raises(ModelError, match="the operation RestoreV2 in its graph"):
        models.check_graph(tmp_path / "net", ["serve"])


def test_a_feature_column_with_a_vocabulary_file_is_refused(tmp_path):
    import tensorflow as tf

    api, columns = legacy_api(), tf.feature_column
    (tmp_path / "words.txt").write_text("a\nb\n")
    column = columns.indicator_column(columns.categorical_column_with_vocabulary_file("w", str(tmp_path / "words.txt")))
    words = api.Input((1,), dtype="string", name="w")
    model = api.Model({"w": words}, api.layers.DenseFeatures([column])({"w": words}))
    model.save(tmp_path / "m", save_format="tf")
    with pytest.raises(ModelError, match="VocabularyFileCategoricalColumn"):
        tfopt.load_model(tmp_path / "m")
