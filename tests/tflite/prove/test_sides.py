"""Both sides of the proof without a converter: models are functions of arrays, files write what they were given."""

import math
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from tfopt.base import native
from tfopt.errors import ModelError
from tfopt.tflite.prove import in_child, sides
from tfopt.tflite.prove.signals import Signal

LITE = SimpleNamespace(data=b"a file", layers={}, outputs=(SimpleNamespace(name="sum"), SimpleNamespace(name="double")))
SAMPLES = {"a": np.arange(6.0).reshape(3, 2), "b": np.ones((3, 2))}


@pytest.fixture
def ran(monkeypatch):
    """The batches that a model of two outputs was run on: a + b, and twice a."""
    batches = []

    def run(model, rows, call):
        batches.append([row.copy() for row in rows])
        return [rows[0] + rows[1], 2 * rows[0]]

    monkeypatch.setattr(sides, "run", run)
    return batches


@pytest.mark.parametrize(
    ("count", "batch", "sizes"),
    [(70, None, [32, 32, 6]), (32, None, [32]), (5, 5, [5]), (7, 3, [3, 3, 3]), (2, 4, [4]), (40, 33, [33, 33])],
)
def test_a_model_runs_in_batches_and_all_samples_come_back(ran, count, batch, sizes, monkeypatch):
    monkeypatch.setattr(sides, "VALUES_AT_ONCE", 4)  # a sample has 4 numbers
    samples = {"a": np.arange(2.0 * count).reshape(count, 2), "b": np.full((count, 2), 100.0)}
    total, double = sides.keras_outputs("a model", samples, batch)
    np.testing.assert_array_equal(total, samples["a"] + 100)
    np.testing.assert_array_equal(double, 2 * samples["a"])
    assert [len(rows[0]) for rows in ran] == [len(rows[1]) for rows in ran] == sizes
    if batch and count % batch:  # the last sample fills the batch up
        left = count % batch
        np.testing.assert_array_equal(ran[-1][0][left:], np.repeat(samples["a"][-1:], batch - left, axis=0))


def test_small_samples_run_in_large_batches(ran, monkeypatch):
    monkeypatch.setattr(sides, "VALUES_AT_ONCE", 200)
    samples = {"a": np.ones((110, 2)), "b": np.ones((110, 2))}
    sides.keras_outputs("a model", samples)
    assert [len(rows[0]) for rows in ran] == [50, 50, 10]


def test_a_model_of_one_input(monkeypatch):
    monkeypatch.setattr(sides, "run", lambda model, rows, call: [2 * rows[0]])
    (found,) = sides.keras_outputs("a model", {"a": np.arange(70.0)})
    np.testing.assert_array_equal(found, 2 * np.arange(70.0))


def test_a_model_of_images_is_traced_once(monkeypatch):
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            traces.append(x.shape)
            return keras.ops.cast(x, "float32") + 1

    inputs = keras.Input(batch_shape=(2, 3, 3, 1), dtype="uint8")
    model = keras.Model(inputs, Counting()(inputs))
    traces.clear()
    images = np.arange(81, dtype="uint8").reshape(9, 3, 3, 1)
    (found,) = sides.keras_outputs(model, {"images": images}, batch=2)
    np.testing.assert_array_equal(found, images + 1.0)
    assert len(traces) == 1


def test_a_file_runs_in_the_child(monkeypatch):
    asked = {}

    def call(door, seconds, **arguments):
        asked.update(door=door, seconds=seconds, model=Path(arguments["model"]).read_bytes())
        with np.load(arguments["samples"]) as samples:
            np.savez(arguments["out"], **{"0": samples["a"] + samples["b"], "1": 2 * samples["a"]})

    monkeypatch.setattr(native, "call", call)
    found = sides.file_outputs(LITE, SAMPLES)
    assert asked == {"door": "tfopt.tflite.prove.in_child:predict", "seconds": 600, "model": b"a file"}
    assert list(found) == ["sum", "double"]
    np.testing.assert_array_equal(found["sum"], SAMPLES["a"] + 1)
    np.testing.assert_array_equal(found["double"], 2 * SAMPLES["a"])


def failing(error):
    def call(door, seconds, **arguments):
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (native.KilledError("signal 9"), r"was killed \(signal 9\)\. Free memory"),
        (native.OverdueError("no answer within 600 seconds"), "gave no answer within 600 seconds for the samples"),
        (native.CrashError("abort"), r"died \(abort\): the file is of no use\. Choose"),
        (native.FailedError("Op 3 failed."), r"does not run: Op 3 failed\. Choose"),
        (ModelError("Known."), r"^Known\.$"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_file_that_does_not_run(monkeypatch, error, words):
    monkeypatch.setattr(native, "call", failing(error))
    with pytest.raises(ModelError, match=words) as caught:
        sides.file_outputs(LITE, SAMPLES)
    assert caught.value is error or caught.value.__cause__ is error


def test_signals_come_from_the_child(monkeypatch):
    def call(door, seconds, **arguments):
        assert (door, seconds) == ("tfopt.tflite.prove.in_child:signals", 600)
        assert Path(arguments["reference"]).read_bytes() == b"a float file"
        assert Path(arguments["model"]).read_bytes() == b"a file"
        assert (arguments["layers"], arguments["outputs"]) == (["one", "two"], ["two"])
        with np.load(arguments["samples"]) as samples:
            np.testing.assert_array_equal(samples["b"], SAMPLES["b"])
        return [["one", "ADD", 12.5], ["two", "MUL", None]]  # as JSON has no infinity

    monkeypatch.setattr(native, "call", call)
    found = sides.file_signals(b"a float file", LITE, SAMPLES, ("one", "two"), ["two"])
    assert found == [Signal("one", "ADD", 12.5), Signal("two", "MUL", math.inf)]


@pytest.mark.parametrize(
    "error", [native.CrashError("abort"), native.KilledError(), native.FailedError(), ModelError("Known.")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_signals_only_explain_so_without_them_the_proof_goes_on(monkeypatch, error):
    monkeypatch.setattr(native, "call", failing(error))
    assert sides.file_signals(b"", LITE, SAMPLES, (), ()) == []


class Doubling:
    """A file of one output, twice its input, or of two."""

    def __init__(self, data):
        self.data = data

    def predict(self, samples):
        assert list(samples) == ["a", "b"]
        return 2 * samples["a"] if self.data == b"one" else [2 * samples["a"], samples["b"]]


@pytest.mark.parametrize(("data", "keys"), [(b"one", ["0"]), (b"two", ["0", "1"])])
def test_the_child_writes_outputs_by_number(monkeypatch, tmp_path, data, keys):
    monkeypatch.setattr(in_child, "LiteModel", Doubling)
    (tmp_path / "model").write_bytes(data)
    np.savez(tmp_path / "samples.npz", **SAMPLES)
    in_child.predict(str(tmp_path / "model"), str(tmp_path / "samples.npz"), str(tmp_path / "out.npz"))
    with np.load(tmp_path / "out.npz") as found:
        assert found.files == keys
        np.testing.assert_array_equal(found["0"], 2 * SAMPLES["a"])


def test_the_child_gives_signals_as_rows(monkeypatch, tmp_path):
    def layer_signals(reference, lite, x, layers, outputs):
        assert (reference.data, lite.data, layers, outputs) == (b"float", b"int8", ["one"], ["two"])
        np.testing.assert_array_equal(x["a"], SAMPLES["a"])
        return [Signal("one", "ADD", 3.0), Signal("two", "MUL", 4.0)], ["no counterpart"]

    monkeypatch.setattr(in_child, "LiteModel", Doubling)
    monkeypatch.setattr(in_child, "layer_signals", layer_signals)
    (tmp_path / "float").write_bytes(b"float")
    (tmp_path / "int8").write_bytes(b"int8")
    np.savez(tmp_path / "samples.npz", **SAMPLES)
    paths = [str(tmp_path / name) for name in ("float", "int8", "samples.npz")]
    assert in_child.signals(*paths, ["one"], ["two"]) == [("one", "ADD", 3.0), ("two", "MUL", 4.0)]
