"""A compacted file gives bit-identical outputs and keeps what others look up in it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfopt.base.weight_statistics import deflated_bytes
from tfopt.errors import ModelError
from tfopt.tflite.read import LiteModel
from tfopt.tflite.read.flatbuffer import ALIGNMENT, rewritten
from tfopt.tflite.write.compact import compact, with_true_reversals, without_detours

RNG = np.random.default_rng(1)


@pytest.fixture(scope="module", params=["float32", "int8"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import tensorflow as tf

    kernel, depthwise = (RNG.normal(size=shape).astype("f4") for shape in ((3, 3, 2, 8), (3, 3, 8, 1)))

    def run(x: Any) -> dict[str, Any]:
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
        x = tf.nn.relu(tf.nn.depthwise_conv2d(x, depthwise, [1, 1, 1, 1], "SAME") + x)
        return {"probabilities": tf.nn.softmax(tf.reduce_mean(x, axis=[1, 2]))}

    module = tf.Module()
    module.run = tf.function(run, input_signature=[tf.TensorSpec([None, 6, 6, 2], tf.float32, name="image")])
    folder = str(tmp_path_factory.mktemp("saved"))
    tf.saved_model.save(module, folder, signatures=module.run)
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if request.param == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([RNG.normal(size=(1, 6, 6, 2)).astype("f4")] for _ in range(8))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


@pytest.mark.slow
def test_outputs_are_bit_identical_and_bytes_fewer(original: bytes) -> None:
    small = compact(original)
    assert len(small) < 0.9 * len(original)
    assert deflated_bytes(small) < deflated_bytes(original)
    x = RNG.normal(size=(50, 6, 6, 2)).astype("f4")
    np.testing.assert_array_equal(LiteModel(small).predict(x), LiteModel(original).predict(x))
    assert compact(small) == small


def test_ends_weights_and_ops_are_kept(original: bytes) -> None:
    before, after = LiteModel(original), LiteModel(compact(original))
    assert (before.inputs, before.outputs) == (after.inputs, after.outputs)
    assert [port.name for port in (*after.inputs, *after.outputs)] == ["image", "probabilities"]
    assert before.ops() == after.ops()
    for old, new in zip(before.weights(), after.weights(), strict=True):
        np.testing.assert_array_equal(old.values, new.values)
        assert (old.tensor.scales, old.tensor.zero_points) == (new.tensor.scales, new.tensor.zero_points)


def test_names_are_kept_on_request(original: bytes) -> None:
    kept = LiteModel(compact(original, names=True))
    assert [tensor.name for tensor in kept.tensors()] == [tensor.name for tensor in LiteModel(original).tensors()]
    assert kept.size > len(compact(original))


def test_buffers_are_aligned(original: bytes) -> None:
    from ai_edge_litert import schema_py_generated as schema

    small = compact(original)
    model = schema.Model.GetRootAs(small)
    stored = [model.Buffers(i).DataAsNumpy() for i in range(model.BuffersLength()) if model.Buffers(i).DataLength()]
    start = np.frombuffer(small, np.uint8).ctypes.data
    assert len(stored) > 4
    assert [(data.ctypes.data - start) % ALIGNMENT for data in stored] == [0] * len(stored)


def test_refuses_what_it_would_break(original: bytes) -> None:
    with pytest.raises(ModelError, match="TFL3"):
        compact(b"PK\x03\x04 and more")
    empty_archive = b"PK\x05\x06" + bytes(18)
    with pytest.raises(ModelError, match="outside"):
        compact(original + empty_archive)


@pytest.mark.parametrize("kind", ["int8", "float"])
def test_the_shared_files(kind: str) -> None:
    folder = os.environ.get("TFOPT_SHARED")
    if not folder:
        pytest.skip("TFOPT_SHARED does not name the folder of shared models")
    data = (Path(folder) / "models" / f"resnet8_cifar10_{kind}.tflite").read_bytes()
    small = compact(data)
    assert deflated_bytes(data) - deflated_bytes(small) > 1_000
    x = RNG.uniform(0, 255, size=(40, 32, 32, 3)).astype("f4")
    np.testing.assert_array_equal(LiteModel(small).predict(x), LiteModel(data).predict(x))


def _with_detour(second):
    """An int8 file that rounds to -3..3, then to `second`, then reshapes; the converter uses float in between."""
    import tensorflow as tf

    rounded = tf.quantization.fake_quant_with_min_max_args

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32)])
    def run(x):
        return rounded(tf.reshape(rounded(rounded(x, -3.0, 3.0), *second), (-1, 2, 2)), *second)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


@pytest.mark.parametrize(
    ("second", "expected"), [((-3.000001, 3.0), ["RESHAPE"]), ((-6.0, 6.0), ["QUANTIZE", "RESHAPE"])]
)
def test_detours_through_float_are_taken_out(second, expected):
    data = _with_detour(second)
    before, after = LiteModel(data), LiteModel(rewritten(data, without_detours))
    assert [op.name for op in before.ops()] == ["DEQUANTIZE", "QUANTIZE", "RESHAPE"]
    assert before.float_tensors()
    assert [op.name for op in after.ops()] == expected
    assert not after.float_tensors()
    x = np.linspace(-4, 4, 400, dtype="float32").reshape(100, 4)
    # By hand: rounded to steps of 6/255, then to those of the second range; half a step off at the midpoints.
    low, high = second
    step, first = (high - low) / 255, np.clip(np.round(x / (6 / 255)) * (6 / 255), -3.0118, 2.9882)
    result = after.predict(x).reshape(100, 4)
    assert np.abs(result - np.clip(first, low, high)).max() <= step / 2 + 0.01
    if expected == ["RESHAPE"]:
        np.testing.assert_array_equal(result, before.predict(x).reshape(100, 4))


def test_a_file_without_detours_is_left_as_it_is(original):
    assert rewritten(original, without_detours) is original


def _with_reversal():
    """An int8 file that reverses one part and joins it with a wider one: both get the scale of the result."""
    import tensorflow as tf

    rounded = tf.quantization.fake_quant_with_min_max_args

    @tf.function(input_signature=[tf.TensorSpec((1, 4, 2), tf.float32)])
    def run(x):
        x = rounded(x, -4.0, 4.0)
        small = rounded(tf.nn.tanh(x) * 0.5, -0.5, 0.5)
        return rounded(tf.concat([tf.reverse(small, [1]), x], -1), -4.0, 4.0)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([run.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([RNG.normal(size=(1, 4, 2)).astype("f4")] for _ in range(16))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return bytes(converter.convert())


def test_a_reversal_keeps_the_numbers():
    data = _with_reversal()
    x = np.random.default_rng(0).normal(size=(20, 4, 2)).astype("float32")
    expected = 0.5 * np.tanh(x)[:, ::-1]
    errors = []
    for content in (data, rewritten(data, without_detours, with_true_reversals)):
        lite = LiteModel(content)
        got = np.concatenate([lite.predict(x[i : i + 1]) for i in range(20)])[..., :2]
        errors.append(float(np.abs(got - expected).max()))
        numbers = {tensor.index: tensor for tensor in lite.tensors()}
        scales = [
            (numbers[op.inputs[0]].scales, numbers[op.outputs[0]].scales)
            for op in lite.ops()
            if op.name == "REVERSE_V2"
        ]
    assert scales
    assert all(a == b for a, b in scales)
    assert errors[1] < 8 / 255 + 0.01  # one step of the result's scale, one of the parts'
    assert errors[0] > 1  # as the converter writes it; when this fails, the repair is no longer needed
