"""Conversions that crash their process. The test causes the crash: real crashes change with the converter's version."""

import numpy as np
import pytest

import tfopt
from tfopt.base import native
from tfopt.base.keras_compat import tf_keras
from tfopt.errors import ModelError
from tfopt.tflite.write import isolated
from tfopt.tflite.write.calibration import Calibration
from tfopt.tflite.write.in_child import _Samples, write_samples

DOORS = """
import ctypes
from pathlib import Path
from tfopt.tflite.write import in_child

def convert(folder, **arguments):
    if b"Selu" in Path(folder, "saved_model.pb").read_bytes():
        ctypes.string_at(0)
    in_child.convert(folder, **arguments)
"""


@pytest.fixture
def crash_at_selu(native_child, monkeypatch):
    """A child whose converter crashes on a model with the operation Selu."""
    native_child("selu_doors", DOORS)
    monkeypatch.setattr(isolated, "_DOORS", "selu_doors:")


def branches():
    """Two branches, with `culprit` in the middle of one."""
    layers = tf_keras().layers
    given = layers.Input((6,))
    left = layers.Dense(4, name="left")(given)
    right = layers.Dense(4, activation="selu", name="culprit")(layers.Dense(5, name="right")(given))
    return tf_keras().Model(given, layers.Dense(2, name="head")(layers.Add(name="add")([left, right])))


def test_a_child_that_is_killed_leaves_no_file_of_another_kind(monkeypatch):
    calls = []

    def killed(door, seconds, **arguments):
        calls.append(door)
        raise native.KilledError("killed")

    monkeypatch.setattr(native, "call", killed)
    with pytest.raises(ModelError, match=r"died \(killed\)\. Free memory and try again"):
        tfopt.export_tflite(branches(), export=tfopt.Export(weights="float32", activations="float32"))
    assert len(calls) == 1  # not a second time with a fixed batch


@pytest.mark.slow
def test_a_crash_names_the_layer_and_the_cause(crash_at_selu):
    model, x = branches(), np.ones((4, 6), "float32")
    with pytest.raises(
        ModelError, match=r"int8 weights and int8 activations died \(segmentation fault.* 'culprit' \(Dense\)"
    ):
        tfopt.export_tflite(model, representative_data=x)
    fine = tf_keras().Model(model.input, model.get_layer("left").output)
    assert not tfopt.export_tflite(fine, representative_data=x).float_tensors()  # the next one is converted


@pytest.mark.parametrize("culprit", ["left", "right", "culprit", "add", "head"])
def test_the_first_layer_that_crashes_is_found(culprit):
    model = branches()
    names = {layer.name for layer in model.layers}
    found = isolated.blamed_layer(model, lambda part: culprit in {layer.name for layer in part.layers})
    assert found.name == culprit
    assert {layer.name for layer in model.layers} == names


def test_samples_are_read_as_they_were_written(tmp_path):
    x, words = np.random.default_rng(0).normal(size=(12, 3, 2)).astype("float32"), np.arange(12, dtype="int32")
    inputs = [tf_keras().Input((3, 2), name="x/y"), tf_keras().Input((), dtype="int32", name="words")]
    samples = Calibration([x, words], 11).bind(tf_keras().Model(inputs, inputs))
    write_samples(tmp_path / "samples.npz", samples)
    read = list(_Samples(str(tmp_path / "samples.npz")))
    assert [sorted(sample) for sample in read] == [["words", "x/y"]] * 11
    np.testing.assert_array_equal(np.concatenate([sample["x/y"] for sample in read]), x[:11])
    np.testing.assert_array_equal(np.concatenate([sample["words"] for sample in read]), words[:11])
    assert read[0]["words"].dtype == np.int32
