"""Expected values come from the converted weights, or from NumPy on the stored integers."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfopt.base.weight_statistics import deflated_bytes
from tfopt.errors import DataError, ModelError
from tfopt.tflite.read import LiteModel, Op
from tfopt.tflite.read.decode import decoded

RNG = np.random.default_rng(0)
DENSE, BIAS = RNG.normal(size=(6, 3)).astype("f4"), RNG.normal(size=3).astype("f4")
CONV = RNG.normal(size=(3, 3, 2, 4)).astype("f4")  # HWIO
DEPTHWISE = RNG.normal(size=(3, 3, 4, 1)).astype("f4")  # HWC1
TRANSPOSED = RNG.normal(size=(2, 2, 5, 4)).astype("f4")  # HWOI
TABLE = RNG.normal(size=(7, 4)).astype("f4")
SAMPLES = RNG.normal(size=(7, 6)).astype("f4")


def converted(tmp: Path, function: Callable, *inputs: tuple, prepare: Callable | None = None) -> bytes:
    """Return a .tflite of a function of named inputs (name, shape, dtype)."""
    import tensorflow as tf

    module = tf.Module()
    specs = [tf.TensorSpec(shape, dtype, name=name) for name, shape, dtype in inputs]
    module.run = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, str(tmp), signatures=module.run)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp))
    if prepare is not None:
        prepare(tf, converter)
    return converter.convert()


def dense(x: Any) -> dict[str, Any]:
    return {"y": x @ DENSE + BIAS}


def representative() -> Iterator[list[np.ndarray]]:
    for sample in SAMPLES:
        yield [sample[None]]


def to_int8(tf: Any, converter: Any) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


def to_int8_with_int8_ends(tf: Any, converter: Any) -> None:
    to_int8(tf, converter)
    converter.inference_input_type = converter.inference_output_type = tf.int8


def to_float16(tf: Any, converter: Any) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def layers(image: Any, token: Any) -> dict[str, Any]:
    import tensorflow as tf

    x = tf.nn.conv2d(image, CONV, 1, "SAME")
    x = tf.nn.depthwise_conv2d(x, DEPTHWISE, [1, 1, 1, 1], "VALID")
    x = tf.nn.conv2d_transpose(x, TRANSPOSED, [1, 8, 8, 5], 2)
    return {"b_image": x, "a_token": tf.gather(TABLE, token)}


def any_size(x: Any) -> dict[str, Any]:
    import tensorflow as tf

    return {"y": tf.reduce_sum(tf.nn.conv2d(x, CONV, 1, "VALID"), axis=[1, 2])}


X = ("x", [None, 6], "float32")
FILES: dict[str, tuple] = {
    "float": (dense, (X,), None),
    "int8": (dense, (X,), to_int8_with_int8_ends),
    "int8_float_ends": (dense, (X,), to_int8),
    "float16": (dense, (X,), to_float16),
    "layers": (layers, (("image", [1, 6, 6, 2], "float32"), ("token", [1], "int32")), None),
    "any_size": (any_size, (("x", [None, None, None, 2], "float32"),), None),
    "mixing": (lambda x: {"y": x - sum(x[i : i + 1] for i in [0])}, (X,), None),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LiteModel]:
    result = {}
    for name, (function, inputs, prepare) in FILES.items():
        result[name] = LiteModel(converted(tmp_path_factory.mktemp(name), function, *inputs, prepare=prepare))
    return result


def shared(name: str) -> Path:
    folder = os.environ.get("TFOPT_SHARED")
    if not folder:
        pytest.skip("TFOPT_SHARED does not name the folder of shared models")
    return Path(folder) / "models" / name


def test_facts_of_a_float_file(models: dict[str, LiteModel]) -> None:
    model = models["float"]
    (x,), (y,) = model.inputs, model.outputs
    assert (x.name, x.shape, x.dtype, x.scales) == ("x", (None, 6), "float32", ())
    assert (y.name, y.shape, y.dtype) == ("y", (None, 3), "float32")
    assert (model.size, model.deflated) == (len(model.data), deflated_bytes(model.data))
    (op,) = model.ops()
    assert op == Op(0, "FULLY_CONNECTED", op.inputs, (y.index,))
    assert op.inputs[0] == x.index
    weight, bias = (model.tensors()[index] for index in op.inputs[1:])
    assert (weight.shape, weight.constant, weight.bytes) == ((3, 6), True, 72)
    np.testing.assert_array_equal(model.values(bias), BIAS)
    with pytest.raises(ModelError, match="computed at run time"):
        model.values(model.tensors()[y.index])


def test_predicts_in_batches_with_a_remainder(models: dict[str, LiteModel]) -> None:
    expected = SAMPLES @ DENSE + BIAS
    for batch_size in (1, 3, 7, 100):
        np.testing.assert_allclose(models["float"].predict(SAMPLES, batch_size), expected, atol=1e-5)
    assert models["float"].predict(SAMPLES[:0]).shape == (0, 3)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_int8_predictions_follow_from_the_stored_integers(models: dict[str, LiteModel], batch_size: int) -> None:
    model = models["int8"]
    (x,), (y,), (op,) = model.inputs, model.outputs, model.ops()
    weight, bias = (model.tensors()[index] for index in op.inputs[1:])
    steps = np.clip(np.round(SAMPLES / x.scales[0]) + x.zero_points[0], -128, 127)
    sums = (steps - x.zero_points[0]) @ model.values(weight).T.astype(np.float64) + model.values(bias)
    real = sums * x.scales[0] * np.array(weight.scales)
    stored = np.clip(np.round(real / y.scales[0]) + y.zero_points[0], -128, 127)
    expected = (stored - y.zero_points[0]) * y.scales[0]
    predictions = model.predict(SAMPLES, batch_size)
    assert predictions.dtype == np.float32
    np.testing.assert_allclose(predictions, expected, atol=1e-5)
    np.testing.assert_allclose(predictions, SAMPLES @ DENSE + BIAS, atol=0.1)


def test_inputs_beyond_the_range_are_clamped(models: dict[str, LiteModel]) -> None:
    model = models["int8"]
    (x,) = model.inputs
    top = (127 - x.zero_points[0]) * x.scales[0]
    far = np.array([[1e9, 0, 0, 0, 0, 0]], "f4")
    at_the_end = np.array([[top, 0, 0, 0, 0, 0]], "f4")
    np.testing.assert_array_equal(model.predict(far), model.predict(at_the_end))
    with pytest.raises(DataError, match="NaN"):
        model.predict(far * np.nan)


def test_rounds_as_the_quantize_op_of_the_file_does(models: dict[str, LiteModel]) -> None:
    inside, outside = models["int8_float_ends"], models["int8"]
    scale = np.float32(outside.inputs[0].scales[0])
    halves = (np.arange(-12, 12).reshape(4, 6) + np.float32(0.5)) * scale
    np.testing.assert_array_equal(inside.predict(halves), outside.predict(halves))


def test_float_tensors_show_what_is_left_in_float(models: dict[str, LiteModel]) -> None:
    assert models["int8"].float_tensors() == []
    assert models["int8_float_ends"].float_tensors() == []
    model = models["float"]
    touched = {model.tensors()[index].name for index in (*model.ops()[0].inputs, *model.ops()[0].outputs)}
    assert set(model.float_tensors()) == touched


def test_weights_are_those_that_went_in(models: dict[str, LiteModel]) -> None:
    found = {weight.op_name: weight for weight in models["layers"].weights()}
    expected = {
        "CONV_2D": (CONV.transpose(3, 0, 1, 2), 0),
        "DEPTHWISE_CONV_2D": (DEPTHWISE.transpose(3, 0, 1, 2), 3),
        "TRANSPOSE_CONV": (TRANSPOSED.transpose(2, 0, 1, 3), 0),
        "GATHER": (TABLE, 1),
    }
    assert set(found) == set(expected)
    for name, (values, axis) in expected.items():
        np.testing.assert_array_equal(found[name].dequantized, values)
        assert found[name].channel_axis == axis


def test_int8_weights_are_the_float_ones_within_half_a_step(models: dict[str, LiteModel]) -> None:
    (weight,) = models["int8"].weights()
    assert (weight.values.dtype, weight.op_name, weight.channel_axis) == (np.int8, "FULLY_CONNECTED", 0)
    steps = np.resize(weight.tensor.scales, 3)[:, None]
    assert (np.abs(weight.dequantized - DENSE.T) <= steps / 2 * 1.001).all()


def test_float16_weights_are_found_through_dequantize(models: dict[str, LiteModel]) -> None:
    (weight,) = models["float16"].weights()
    assert (weight.tensor.dtype, weight.op_name) == ("float16", "FULLY_CONNECTED")
    np.testing.assert_array_equal(weight.dequantized, DENSE.T.astype("f2").astype("f4"))


def test_small_integers_are_unpacked_lowest_bits_first() -> None:
    assert decoded(b"\xf1\x80\x07", "int4", 5).tolist() == [1, -1, 0, -8, 7]
    assert decoded(b"\xf1", "uint4", 2).tolist() == [1, 15]
    assert decoded(b"\xe4", "int2", 4).tolist() == [0, 1, -2, -1]


def test_several_inputs_and_outputs_go_by_name_or_order(models: dict[str, LiteModel]) -> None:
    model = models["layers"]
    assert [port.name for port in model.inputs] == ["image", "token"]
    assert [port.name for port in model.outputs] == ["a_token", "b_image"]
    image, token = RNG.normal(size=(3, 6, 6, 2)).astype("f4"), np.array([2, 0, 6])
    # The transposed convolution has a fixed output shape, so this graph cannot be resized.
    rows, images = model.predict({"token": token, "image": image}, batch_size=2)
    np.testing.assert_array_equal(rows, TABLE[token])
    assert images.shape == (3, 8, 8, 5)
    np.testing.assert_array_equal(images, model.predict([image, token])[1])
    np.testing.assert_array_equal(images[2], model.predict([image[2:], token[2:]])[1][0])
    for wrong in ({"image": image}, [image], [image, token[:2]], [image, token + 0.5]):
        with pytest.raises(DataError):
            model.predict(wrong)


def test_free_axes_take_any_size(models: dict[str, LiteModel]) -> None:
    model = models["any_size"]
    assert model.inputs[0].shape == (None, None, None, 2)
    for size, reached in ((3, CONV[1:2, 1:2]), (5, CONV[:2, :2]), (8, CONV[:2, :2])):
        x = np.zeros((4, size, size, 2), "f4")
        x[:, 1, 1, 0] = 1  # used by as many kernel positions as fit around it
        expected = reached[:, :, 0].sum(axis=(0, 1))
        np.testing.assert_allclose(model.predict(x), np.tile(expected, (4, 1)), rtol=1e-5)
    with pytest.raises(ModelError, match="LiteRT cannot run it"):
        model.predict(np.zeros((4, 2, 2, 2), "f4"))


def test_a_graph_that_mixes_samples_runs_one_by_one(models: dict[str, LiteModel]) -> None:
    np.testing.assert_array_equal(models["mixing"].predict(SAMPLES), 0 * SAMPLES)


def test_equal_samples_do_not_hide_that_a_graph_mixes_them(models: dict[str, LiteModel]) -> None:
    model = LiteModel(models["mixing"].data)
    np.testing.assert_array_equal(model.predict(SAMPLES[[2] * 7]), 0 * SAMPLES)
    np.testing.assert_array_equal(model.predict(SAMPLES), 0 * SAMPLES)
    model = LiteModel(models["mixing"].data)
    ends_alike = SAMPLES[[0, 1, 2, 3, 0]]
    np.testing.assert_array_equal(model.predict(ends_alike), 0 * ends_alike)


def test_a_wrong_shape_is_refused_with_both(models: dict[str, LiteModel]) -> None:
    for wrong in (SAMPLES[0], SAMPLES[:, :5], SAMPLES[None]):
        with pytest.raises(DataError, match=r"\(N, 6\)") as caught:
            models["float"].predict(wrong)
        assert str(wrong.shape) in str(caught.value)


def test_benchmark_times_one_sample(models: dict[str, LiteModel]) -> None:
    for x in (None, SAMPLES):
        latency = models["int8"].benchmark(x, runs=5, warmup=1)
        assert 0 < latency.median_ms <= latency.p90_ms
        assert (latency.threads, latency.runs, latency.batch) == (1, 5, 1)


def test_refuses_what_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        LiteModel(tmp_path / "none.tflite")
    with pytest.raises(ModelError, match=r"not a \.tflite"):
        LiteModel(b"PK\x03\x04 and more")
    with pytest.raises(ModelError, match="LiteRT cannot run it") as caught:
        LiteModel(b"\x1c\x00\x00\x00TFL3" + bytes(16))
    assert "\n" not in str(caught.value)


def test_the_shared_int8_file() -> None:
    model = LiteModel(shared("resnet8_cifar10_int8.tflite"))
    assert (model.size, model.deflated) == (98_496, 81_298)
    assert model.float_tensors() == []
    weights = model.weights()
    assert [weight.op_name for weight in weights].count("CONV_2D") == 9
    # Nine kernels and one dense layer of ResNet-8, batch normalization folded away.
    assert sum(weight.values.size for weight in weights) == 77_360
    assert {weight.values.dtype for weight in weights} == {np.dtype("int8")}


def test_the_shared_float_and_int8_files_agree() -> None:
    images = RNG.uniform(0, 255, size=(40, 32, 32, 3)).astype("f4")
    full, small = (LiteModel(shared(f"resnet8_cifar10_{kind}.tflite")) for kind in ("float", "int8"))
    assert np.abs(full.predict(images) - small.predict(images)).mean() < 0.05
    assert len(full.float_tensors()) > 30


def test_a_fused_lstm_starts_afresh_for_every_sample() -> None:
    import tensorflow as tf
    import tf_keras

    network = tf_keras.Sequential([tf_keras.Input((5, 4), batch_size=1), tf_keras.layers.LSTM(3)])
    model = LiteModel(tf.lite.TFLiteConverter.from_keras_model(network).convert())
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM" in {op.name for op in model.ops()}
    x = RNG.normal(size=(4, 5, 4)).astype("f4")
    np.testing.assert_allclose(model.predict(x), np.concatenate([network(x[i : i + 1]) for i in range(4)]), atol=1e-5)


def test_it_is_shown_in_a_line(models: dict[str, LiteModel]) -> None:
    lite = models["float"]
    [shown] = repr(lite).splitlines()
    assert shown.startswith(f"LiteModel({lite.inputs[0].name} float32 ") and f"{lite.size:,} bytes" in shown
