"""Damaged files of every kind give one clear error with their path; after a damaged checkpoint the run starts over."""

import io
import json
import random
import subprocess
import sys
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

import tfopt
from tfopt import models
from tfopt.base import keras_compat
from tfopt.base.archives import read_npz
from tfopt.base.progress import Progress
from tfopt.base.reading import reading, reason
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.evaluate.inspect import inspect_file
from tfopt.evaluate.report import Report, Row
from tfopt.run import optimize as loop
from tfopt.run.checkpoint import Checkpoint

SEEDS = range(40)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small valid file of each kind."""
    import keras

    folder = tmp_path_factory.mktemp("whole")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both consider .h5 a legacy format
        for name, package in (("k3", keras), ("tfk", keras_compat.tf_keras())):
            model = package.Sequential([package.Input((4,)), package.layers.Dense(3), package.layers.Dense(2)])
            model.compile("sgd", "mse")
            for ending in (".keras", ".h5"):
                model.save(folder / f"{name}{ending}")
    in_float = tfopt.Export(weights="float32", activations="float32")
    tfopt.export_tflite(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), folder / "m.tflite", in_float)
    np.savez(folder / "d.npz", x=np.ones((20, 3)), y=np.arange(20) % 2)
    np.savez_compressed(folder / "c.npz", x=np.ones((20, 3)), y=np.arange(20) % 2)
    recipe = tfopt.Recipe(stages=(tfopt.Prune(), tfopt.Quantize()), distillation=tfopt.Distillation())
    (folder / "recipe.json").write_text(recipe.to_json())
    return folder


def damage(data, seed):
    """One of four kinds of damage, chosen by the seed."""
    rng = random.Random(seed)
    begin = rng.randrange(len(data))
    return (
        lambda: data[:begin],
        lambda: data[:begin] + bytes([data[begin] ^ 1 << rng.randrange(8)]) + data[begin + 1 :],
        lambda: data[:begin] + rng.randbytes(16) + data[begin + 16 :],
        lambda: data[:begin] + b"\xff" * 4 + data[begin + 4 :],
    )[seed % 4]()


def in_member(data, seed):
    """The zip with such damage inside one of its members."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = random.Random(seed).choice(sorted(parts))
    parts[name] = damage(parts[name], seed)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return file.getvalue()


def refused(path, read, kinds):
    """Return whether `read` refuses the file at `path`; fail on an error not of these `kinds`, or without the path."""
    try:
        read(path)
    except kinds as error:
        assert str(path) in str(error)
        return True
    return False


DOORS = {
    ".keras": (models.kind, ModelError), ".h5": (models.kind, ModelError), ".npz": (tfopt.load_data, DataError),
    ".json": (tfopt.Recipe.load, RecipeError),
}  # fmt: skip


@pytest.mark.parametrize("how", [damage, in_member])
@pytest.mark.parametrize("name", ["k3.keras", "tfk.keras", "k3.h5", "tfk.h5", "d.npz", "c.npz", "recipe.json"])
def test_damage_is_one_clear_error(files, tmp_path, name, how):
    data = (files / name).read_bytes()
    if how is in_member and not zipfile.is_zipfile(files / name):
        pytest.skip("no zip")
    found = 0
    for seed in SEEDS:
        path = tmp_path / f"{seed}{(files / name).suffix}"
        path.write_bytes(how(data, seed))
        found += refused(path, *DOORS[path.suffix])
    assert found >= len(SEEDS) // 4  # at least every truncated file is refused


@pytest.mark.parametrize("name", ["k3.keras", "tfk.keras", "k3.h5", "tfk.h5"])
def test_damaged_models_are_not_loaded(files, tmp_path, name):
    data = (files / name).read_bytes()
    for seed in range(8):
        path = tmp_path / f"{seed}{(files / name).suffix}"
        path.write_bytes(damage(data, seed))
        refused(path, tfopt.load_model, ModelError)


OPEN = """
import sys
from tfopt.errors import ModelError
from tfopt.evaluate.inspect import inspect_file
for path in sys.argv[1:]:
    try:
        inspect_file(path)
    except ModelError as error:
        assert path in str(error), error
"""


def test_damaged_tflites(files, tmp_path):
    """In a separate process, which LiteRT may crash."""
    data = (files / "m.tflite").read_bytes()
    paths = [tmp_path / f"{seed}.tflite" for seed in range(100)]
    for seed, path in enumerate(paths):
        path.write_bytes(damage(data, seed))
    done = subprocess.run([sys.executable, "-c", OPEN, *map(str, paths)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_whole_files_are_read(files):
    for name in ("k3.keras", "tfk.keras", "k3.h5", "tfk.h5", "m.tflite"):
        assert inspect_file(files / name).parts
    for name in ("d.npz", "c.npz"):
        assert read_npz(files / name)["x"].sum() == 60
    assert tfopt.Recipe.load(files / "recipe.json").stages


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config.json": None}, "no config.json"),
        ({"metadata.json": None}, "no metadata.json"),
        ({"metadata.json": b"3"}, "no metadata.json"),
        ({"metadata.json": b'{"keras_version": [] '}, "damaged"),
        ({"config.json": b"\xff\xfe\xff"}, "damaged"),
        ({"config.json": b""}, "damaged"),
        ({"model.weights.h5": b"no HDF5"}, "damaged"),
    ],
)
def test_parts_of_a_keras_file(files, tmp_path, changes, words):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(files / "k3.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()} | changes
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            if part is not None:
                archive.writestr(name, part)
    with pytest.raises(ModelError, match=words) as raised:
        models.load_model(path)
    assert str(path) in str(raised.value)


def test_an_encrypted_zip(files, tmp_path):
    data = bytearray((files / "k3.keras").read_bytes())
    for signature, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        begin = data.find(signature)
        while begin >= 0:
            data[begin + place] |= 1
            begin = data.find(signature, begin + 4)
    (tmp_path / "m.keras").write_bytes(data)
    with pytest.raises(ModelError, match=r"damaged or incomplete .*password"):
        models.kind(tmp_path / "m.keras")


@pytest.mark.parametrize("config", [b"\xff\xfe", 3, [1, 2], "{", ""])
def test_an_invalid_config_in_hdf5(tmp_path, config):
    import h5py

    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = config
    with pytest.raises(ModelError, match=r"m\.h5 is damaged"):
        models.load_model(tmp_path / "m.h5")


# The boundary ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("weights"), "KeyError: 'weights'"),
        (RuntimeError("no\nsuch thing"), "RuntimeError: no such thing"),
        (OSError("truncated"), "truncated"),
        (EOFError(), "EOFError"),
        (MemoryError(), "it needs more memory than is available"),
        (RecursionError("maximum"), "its parts are nested too deeply"),
        (ValueError("x" * 5000), "x" * 200),
        (ValueError("malformed: <ast.UnaryOp object at 0x7f762e6ee2f0>"), "malformed: <ast.UnaryOp object>"),
    ],
)
def test_the_boundary_says_what_was_raised_and_keeps_it(error, words):
    with pytest.raises(ModelError) as raised, reading(lambda why: ModelError(f"a.h5: {why}")):
        raise error
    assert str(raised.value) == f"a.h5: {words}"
    assert raised.value.__cause__ is error
    assert reason(error) == words


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), DataError("as it is")])
def test_what_passes_the_boundary(error):
    with pytest.raises(type(error)) as raised, reading(lambda why: ModelError(why)):
        raise error
    assert raised.value is error


# Checkpoints -------------------------------------------------------------------------------------

ROW = Row(
    step="original", metrics={"accuracy": 0.5}, parameters=4, nonzero_parameters=2, max_unique_weights=3, bytes=9,
    deflated_bytes=8, latency_ms=None, seconds=1.0,
)  # fmt: skip
RUN = {"step": "Prune"}


def rows(*changes):
    import dataclasses

    return json.dumps([{**dataclasses.asdict(ROW), **change} for change in changes])


def stored(path, key="key", text=None, **arrays):
    arrays = {"key": key, "rows": rows({}, RUN) if text is None else text, **arrays}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


DAMAGED = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "half a zip": lambda path: (stored(path), path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])),
    "objects": lambda path: stored(path, text=np.array([{}], dtype=object)),
    "object weights": lambda path: stored(path, weight_0=np.array([None], dtype=object)),
    "without rows": lambda path: stored(path, text=np.array(3)),
    "without a key": lambda path: np.savez(path, a=np.ones(3)),
    "no JSON": lambda path: stored(path, text="["),
    "brackets": lambda path: stored(path, text="[" * 100_000 + "]" * 100_000),
    "rows of another kind": lambda path: stored(path, text='[{"step": 3}]'),
    "a row is null": lambda path: stored(path, text="[null]"),
    "numbers that are none": lambda path: stored(path, text=rows({"bytes": "many"})),
    "a gap in the weights": lambda path: stored(path, weight_1=np.ones(3)),
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("write", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_checkpoint_is_one_clear_error(tmp_path, write):
    path = tmp_path / "run.npz"
    write(path)
    with pytest.raises(DataError, match=rf"The checkpoint {path} is damaged \(.+\)\."):
        Checkpoint(path, "key").load()


def misfit(path, key):
    """Undamaged contents that cannot be a checkpoint of this run, by name."""
    weights = {f"weight_{place}": np.ones(shape, "float32") for place, shape in enumerate(((6, 3), (3,)))}
    texts = {
        "other weights": (rows({}, RUN), {"weight_0": np.ones((2, 2))}),
        "weights that are no numbers": (rows({}, RUN), {**weights, "weight_1": np.array(["a", "b", "c"])}),
        "no rows": ("[]", weights),
        "other stages": (rows({}, {"step": "Cluster"}), weights),
        "too many rows": (rows({}, RUN, RUN), weights),
        "other metrics": (rows({}, {**RUN, "metrics": {"mse": 1.0}}), weights),
    }
    for name, (text, arrays) in texts.items():
        stored(path, key, text, **arrays)
        yield name
    path.write_bytes(b"PK\x03\x04")
    yield "damaged"


def test_what_is_no_checkpoint_of_the_run_is_said_in_one_line_and_ignored(tmp_path, capsys):
    package = keras_compat.tf_keras()
    run = object.__new__(loop._Run)
    run.flat_model = package.Sequential([package.Input((6,)), package.layers.Dense(3)])
    accepted: list[object] = []
    run.guard = SimpleNamespace(evaluate=lambda predict: predict, accept=accepted.append)
    run.recipe, run.data = tfopt.Recipe(stages=(tfopt.Prune(epochs=1),)), SimpleNamespace(task="classification")
    kept = Checkpoint(tmp_path / "run.npz", "key")
    run.checkpoint, run.progress = SimpleNamespace(stages=kept), Progress()
    run.report, run.notes, run.stages, run.finished = Report({}), [], list(run.recipe.stages), 0
    names = []
    for name in misfit(kept.path, "key"):
        run._resume()
        assert run.finished == 0, name
        names.append(name)
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"The checkpoint {kept.path} is damaged (") and "starts over" in said
        assert run.notes[-1] == said and not run.report.rows
    assert len(run.notes) == len(names) == 7
    stored(kept.path, "key", weight_0=np.ones((6, 3), "float32"), weight_1=np.ones(3, "float32"))
    run._resume()
    assert run.finished == 1
    assert [row.step for row in run.report.rows] == ["original", "Prune"]
    assert run.flat_model.get_weights()[0].min() == 1
    assert len(accepted) == 1
    assert len(run.notes) == 7 and "resuming after Prune" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_with_a_damaged_checkpoint_ends_as_without(tmp_path):
    import keras

    rng = np.random.default_rng(0)
    data = tfopt.load_data((rng.normal(size=(60, 6)).astype("float32"), np.arange(60) % 3))
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, activation="softmax")])
    export = tfopt.Export(weights="float32", activations="float32")
    recipe = tfopt.Recipe(stages=(tfopt.Prune(epochs=1, min_steps=0),), export=export)
    path = tmp_path / "run"
    tfopt.optimize(model, recipe, data, checkpoint=path, quiet=True)  # not saved, so the checkpoint stays
    (stages,) = path.glob("stages*")
    stages.write_text("hello")
    result = tfopt.optimize(model, recipe, data, checkpoint=path, quiet=True)
    assert any(f"The checkpoint {stages} is damaged" in note for note in result.report.rows[0].notes)
    assert result.lite.data == tfopt.optimize(model, recipe, data, quiet=True).lite.data
    result.save(tmp_path / "out")
    assert not path.exists()


def test_damaged_answers_of_a_teacher_are_computed_again(tmp_path):
    from tfopt.teachers.cache import Answers

    x = np.arange(12, dtype="float32").reshape(4, 3)
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    teacher = tfopt.Teacher(model, outputs="logits")
    first = Answers(teacher, {}, 4, folder=tmp_path, quiet=True).view(0, lambda: [x])["output"]
    (file,) = tmp_path.glob("*.npy")
    whole = file.read_bytes()
    header = whole.index(b"\n")
    evil = whole[:10] + ("-" * (header - 11) + "1").encode() + whole[header:]
    for data in (b"", b"text", whole[:-3], whole[:40], evil, np_file(np.ones((3, 2), "float32")), np_file(np.int64(3))):
        file.unlink()
        file.write_bytes(data)
        answers = Answers(teacher, {}, 4, folder=tmp_path, quiet=True)
        np.testing.assert_array_equal(answers.view(0, lambda: [x])["output"], first)
        assert len(answers.notes) == 1 and "is damaged" in answers.notes[0]


def np_file(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue() + bytes(4)


def test_text_of_characters_that_do_not_exist(tmp_path):
    path = tmp_path / "d.npz"
    names = np.frombuffer(np.array([0x110000, 97], np.uint32).tobytes(), "<U1")
    np.savez(path, x=np.zeros((4, 2)), y=np.array([0, 1, 0, 1]), class_names=names)
    with pytest.raises(DataError, match=r"d\.npz: class_names contains invalid characters"):
        tfopt.load_data(path)
