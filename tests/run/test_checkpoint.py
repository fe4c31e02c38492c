"""An interrupted run resumes where it stopped and produces the same file."""

import dataclasses
import errno
import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import tfopt
from tfopt import bridge
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import DataError, OutputError
from tfopt.evaluate.report import Row
from tfopt.run import step
from tfopt.run.checkpoint import Checkpoint, Kept, structure_of

ROW = Row(
    step="Prune", metrics={"accuracy": 0.5}, parameters=4, nonzero_parameters=2, max_unique_weights=3, bytes=9,
    deflated_bytes=8, latency_ms=None, seconds=1.0, notes=["a note"],
)  # fmt: skip


def holding(weights):
    return SimpleNamespace(get_weights=lambda: weights)


def test_what_is_saved_comes_back(tmp_path):
    weights = [np.arange(6.0, dtype=np.float32).reshape(2, 3), np.float32(7.0)]
    Checkpoint(tmp_path / "run.npz", "key").save(holding(weights), [ROW])
    found = Checkpoint(tmp_path / "run.npz", "key").load()
    assert found.rows == [ROW] and found.model is None
    assert all(np.array_equal(a, b) for a, b in zip(found.weights, weights, strict=True))


def test_another_run_is_not_taken_up(tmp_path):
    Checkpoint(tmp_path / "run.npz", "key").save(holding([]), [ROW])
    assert Checkpoint(tmp_path / "run.npz", "other").load() is None
    assert Checkpoint(tmp_path / "none.npz", "key").load() is None


def wired(package=keras, join=None, *, activation="relu", shared=False, swapped=False, name=None):
    inputs = package.Input((3,))
    first = package.layers.Dense(3, activation=activation, name=name)
    second = first if shared else package.layers.Dense(3)
    branches = [first(inputs), second(inputs)]
    return package.Model(inputs, (join or package.layers.Concatenate())(branches[::-1] if swapped else branches))


def as_json(model):
    return json.dumps(structure_of(model), sort_keys=True)


@pytest.mark.parametrize("package", [keras, tf_keras()], ids=["keras", "tf_keras"])
def test_settings_and_wiring_make_the_structure_and_names_do_not(package):
    models = [
        wired(package),
        wired(package, activation="tanh"),
        wired(package, swapped=True),
        wired(package, shared=True),
        wired(package, package.layers.Add()),
        wired(package, package.layers.Concatenate(axis=0)),
    ]
    assert len(set(map(as_json, models))) == len(models)
    assert as_json(models[0]) == as_json(wired(package, name="own"))


def test_constants_in_a_call_make_the_structure():
    def shifted(*numbers):
        inputs = keras.Input((2,))
        return keras.Model(inputs, keras.ops.add(inputs, np.array(numbers, "float32")))

    assert as_json(shifted(1, 2)) == as_json(shifted(1, 2)) != as_json(shifted(1, 3))


def test_a_layer_without_config_counts_by_its_class():
    class Silent(keras.layers.Layer):
        def get_config(self):
            raise NotImplementedError

        def call(self, inputs):
            return inputs

    [layers, _, _] = structure_of(keras.Sequential([keras.Input((2,)), Silent()]))
    assert layers[-1] == ["Silent", {}]


@pytest.mark.parametrize("kept", [[np.zeros((3, 2), "f4")], [np.zeros((2, 3), "U1")], []], ids=["shape", "text", "few"])
def test_weights_of_another_model_are_an_error(tmp_path, kept):
    layer = tf_keras().layers.Dense(3, use_bias=False)
    start = tf_keras().Sequential([tf_keras().Input((2,)), layer])
    with pytest.raises(DataError, match=r"is damaged \(its weights do not fit the model\)"):
        Checkpoint(tmp_path / "run.npz", "key").resumed(Kept(kept, [ROW], None), start, resized=False)


class Twice(tf_keras().layers.Layer):
    """A custom layer of the caller."""

    def call(self, inputs):
        return 2 * inputs


def test_a_whole_model_comes_back_with_the_layers_of_the_caller(tmp_path):
    model = tf_keras().Sequential([tf_keras().Input((2,)), tf_keras().layers.Dense(3), Twice(name="twice")])
    checkpoint = Checkpoint(tmp_path / "run.npz", "key")
    checkpoint.save(model, [ROW], resized=True)
    again = checkpoint.resumed(checkpoint.load(), model, resized=True)
    x = np.ones((4, 2), "float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.fixture
def small_run():
    """The arguments of `optimize` for a run of two stages that takes a second."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 6)).astype("float32"), rng.integers(0, 3, 200)
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3, activation="softmax")]
    )
    recipe = tfopt.Recipe(
        stages=(tfopt.Prune(epochs=1, min_steps=0), tfopt.Cluster(number_of_clusters=4, epochs=1, min_steps=0)),
        export=tfopt.Export(weights="float32", activations="float32"),
        max_drop=None,
    )
    return model, recipe, tfopt.load_data((x, y))


def test_an_interrupted_run_resumes_and_ends_in_the_same_file(tmp_path, monkeypatch, small_run):
    whole = tfopt.optimize(*small_run, quiet=True)
    file = tmp_path / "kept"
    train = step.StageRunner.train

    def interrupted(run, stage, position, *rest):
        if position == 1:
            raise KeyboardInterrupt
        return train(run, stage, position, *rest)

    monkeypatch.setattr(step.StageRunner, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tfopt.optimize(*small_run, quiet=True, checkpoint=file)
    assert file.exists()

    trained = []
    monkeypatch.setattr(step.StageRunner, "train", lambda run, *rest: trained.append(rest[1]) or train(run, *rest))
    resumed = tfopt.optimize(*small_run, quiet=True, checkpoint=file)
    assert trained == [1]
    assert [row.step for row in resumed.report.rows] == [row.step for row in whole.report.rows]
    assert resumed.lite.data == whole.lite.data


def steady(notes):
    """Return the notes but for that on the measured speed."""
    return [note for note in notes if "x the speed of" not in note]


def killed(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("stages", [0, 1], ids=["Quantize alone", "after Prune"])
def test_a_run_interrupted_while_it_exports_does_not_train_again(tmp_path, monkeypatch, small_run, stages):
    model, recipe, data = small_run
    last = tfopt.Quantize(epochs=1, min_steps=0)
    recipe = dataclasses.replace(recipe, stages=(*recipe.stages[:stages], last), export=tfopt.Export())
    whole = tfopt.optimize(model, recipe, data, quiet=True)
    folder = tmp_path / "kept"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("tfopt.run.optimize._Run._export", killed)
        tfopt.optimize(model, recipe, data, quiet=True, checkpoint=folder)

    monkeypatch.setattr("tfopt.training.backup.Backup.save", killed)  # at the end of an epoch
    resumed = tfopt.optimize(model, recipe, data, quiet=True, checkpoint=folder)
    assert resumed.lite.data == whole.lite.data
    assert [steady(row.notes) for row in resumed.report.rows] == [steady(row.notes) for row in whole.report.rows]
    assert [row.history for row in resumed.report.rows] == [row.history for row in whole.report.rows]
    assert resumed.report.rows[-1].history is not None
    assert resumed.verdict == whole.verdict


@pytest.mark.parametrize("place", ["a file/kept", "a file"])
def test_a_checkpoint_that_cannot_be_written_is_found_first(tmp_path, small_run, place):
    (tmp_path / "a file").write_text("")
    with pytest.raises(OutputError, match=r"The checkpoint .* cannot be written"):
        tfopt.optimize(*small_run, quiet=True, checkpoint=tmp_path / place)


def test_a_damaged_checkpoint_leaves_the_stages_alone(tmp_path, monkeypatch, small_run):
    """Its recipe has another target, but its weights do not fit."""
    model, recipe, data = small_run
    file, train = tmp_path / "kept", step.StageRunner.train
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(step.StageRunner, "train", lambda run, *rest: killed() if rest[1] else train(run, *rest))
        tfopt.optimize(model, recipe, data, quiet=True, checkpoint=file)
    stored = dict(np.load(file / "stages.npz"))
    other = dataclasses.replace(
        recipe, stages=(tfopt.Prune(final_sparsity=0.1, epochs=1, min_steps=0), *recipe.stages[1:])
    )
    np.savez(file / "stages.npz", **{**stored, "recipe": other.to_json(), "weight_0": np.zeros((2, 2), "float32")})
    result = tfopt.optimize(model, recipe, data, quiet=True, checkpoint=file)
    assert result.recipe.stages == recipe.stages


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
def test_the_checkpoint_stays_until_the_results_are_written(tmp_path, monkeypatch, small_run):
    file, folder = tmp_path / "kept", tmp_path / "out"
    result = tfopt.optimize(*small_run, quiet=True, checkpoint=file)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr("tfopt.run.result.write_atomically", full_disk)
        result.save(folder)
    assert file.exists() and not folder.exists()
    result.save(folder)
    assert not file.exists() and (folder / "model.tflite").read_bytes() == result.lite.data


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(tmp_path, monkeypatch, small_run, capsys):
    monkeypatch.setattr(Checkpoint, "save", full_disk)
    result = tfopt.optimize(*small_run, checkpoint=tmp_path / "kept")
    assert [row.step for row in result.report.rows] == ["original", "Prune", "Cluster", "exported float32"]
    assert "no checkpoint was written ([Errno 28] No space left on device)" in capsys.readouterr().err


class Swish(keras.layers.Layer):
    """A Keras 3 layer of the caller, which tf_keras carries, and which no file may name."""

    def call(self, inputs):
        return inputs * keras.ops.sigmoid(inputs)


def test_a_carried_layer_does_not_change_the_key():
    def built():
        return bridge.to_tf_keras(keras.Sequential([keras.Input((2,)), Swish(), keras.layers.Dense(3)]))

    first, second = built(), built()
    assert as_json(first) == as_json(second)


def test_a_whole_model_comes_back_with_what_it_carries(tmp_path):
    model = bridge.to_tf_keras(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), Swish(name="swish")]))
    checkpoint = Checkpoint(tmp_path / "run.npz", "key")
    checkpoint.save(model, [ROW], resized=True)
    again = checkpoint.resumed(checkpoint.load(), model, resized=True)
    x = np.ones((4, 2), "float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
