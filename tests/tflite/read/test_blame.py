"""Files that crash LiteRT: in a child process, with the operator named. The test says which operator crashes."""

import numpy as np
import pytest

import tfopt
from tfopt.base import sandbox
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError
from tfopt.tflite.prove import sides
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.blame import blamed_operator, first_operators
from tfopt.tflite.settings import FLOAT, Export
from tfopt.tflite.write import converter


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    layers = tf_keras().layers
    given = layers.Input((6,))
    inner = layers.Dense(5, activation="relu", name="first")(given)
    inner = layers.Dense(4, activation="tanh", name="second")(inner)
    model = tf_keras().Model(given, layers.Dense(3, activation="softmax", name="third")(inner))
    path = tmp_path_factory.mktemp("file") / "model.tflite"
    return tfopt.export_tflite(model, path, export=Export(weights="float32", activations="float32", compact=False))


def kinds(data):
    return [op.name for op in LiteModel(data).ops()]


def test_a_file_of_the_first_operators_runs(lite):
    assert kinds(lite.data) == ["FULLY_CONNECTED", "FULLY_CONNECTED", "TANH", "FULLY_CONNECTED", "SOFTMAX"]
    part = LiteModel(first_operators(lite.data, 3))
    assert [op.name for op in part.ops()] == ["FULLY_CONNECTED", "FULLY_CONNECTED", "TANH"]
    assert part.predict(np.ones((2, 6), np.float32)).shape == (2, 4)


@pytest.mark.parametrize(("culprit", "layer"), [(0, "first"), (2, "second"), (4, None)])
def test_the_operator_is_found_and_named_with_its_layer(lite, culprit, layer):
    name = kinds(lite.data)[culprit]
    place = blamed_operator(lite.data, lambda data: len(LiteModel(data).ops()) > culprit)
    assert place.startswith(f" at operator {culprit}, {name}, of ") and (layer or "") in place
    given = blamed_operator(lite.data, lambda data: len(LiteModel(data).ops()) > culprit, {culprit: "my_layer"})
    assert given == f" at operator {culprit}, {name}, of my_layer"


def test_nobody_is_blamed_in_a_file_that_cannot_be_cut():
    assert blamed_operator(b"\0\0\0\0TFL3", lambda data: True) == ""


def test_bytes_are_tried_once_in_the_sandbox(lite, monkeypatch):
    opened = []
    monkeypatch.setattr(sandbox, "_OPENED", set())
    monkeypatch.setattr(sandbox.Sandbox, "open", lambda self, door, path, options, name: opened.append((door, name)))
    LiteModel(lite.data)
    LiteModel(lite.data, threads=2)
    assert opened == [("tfopt.tflite.read.trial:run", "These bytes")]
    sandbox.record_tried(first_operators(lite.data, 2))
    LiteModel(first_operators(lite.data, 2))
    assert len(opened) == 1


def test_a_file_that_crashes_the_sandbox_is_an_error_that_names_the_operator(lite, monkeypatch):
    monkeypatch.setattr(sandbox, "_OPENED", set())

    def crash(self, door, path, options, name):
        if b"TANH" in "".join(kinds_of(path)).encode():
            raise sandbox.CrashedError(f"{name} crashed the sandbox.")

    def kinds_of(path):
        from tfopt.tflite.read.graph import FileGraph

        return [op.name for op in FileGraph(path.read_bytes()).ops]

    monkeypatch.setattr(sandbox.Sandbox, "open", crash)
    with pytest.raises(
        ModelError,
        match=r"^LiteRT crashes on the file with float32 .* at operator 2, TANH, of ",
    ):
        converter.load_and_check(lite.data, FLOAT)


DOORS = """
import ctypes
from pathlib import Path
from tfopt.tflite.prove import in_child
from tfopt.tflite.read.graph import FileGraph

def predict(model, samples, out):
    if "TANH" in [op.name for op in FileGraph(Path(model).read_bytes()).ops]:
        ctypes.string_at(0)
    in_child.predict(model, samples, out)
"""


@pytest.mark.slow
def test_a_crash_in_the_proof_names_the_operator(lite, native_child, monkeypatch):
    native_child("tanh_doors", DOORS)
    monkeypatch.setattr(sides, "_DOORS", "tanh_doors:")
    samples = {lite.inputs[0].name: np.ones((2, 6), np.float32)}
    with pytest.raises(ModelError, match=r"died at operator 2, TANH, of .* \(segmentation fault.*\): the file is"):
        sides.file_outputs(lite, samples)
