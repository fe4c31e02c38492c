"""Kernels on a grid, one step at a time, on files made up of a few tensors. Expected values: float64, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from tfopt.errors import PromiseError
from tfopt.stages.quantize.integers import Integers
from tfopt.tflite.prove.kernels import FileKernel
from tfopt.tflite.read import Op, Tensor, Weight
from tfopt.tflite.write import low_bit_weights as low_bit

INT4, INT8, INT32 = 17, 9, 2  # TensorType in the schema of TFLite
CONV, DENSE, DEPTHWISE = "CONV_2D", "FULLY_CONNECTED", "DEPTHWISE_CONV_2D"


def part(dequantized, scales, axis=0, readers=(), index=0, subgraph=0):
    """A weight of the file with these real values. Its stored integers do not matter."""
    real = np.asarray(dequantized, np.float32)
    points = (0,) * len(scales)
    tensor = Tensor(index, f"net/t{index}", real.shape, "int8", tuple(scales), points, axis, True, 0, subgraph=subgraph)
    return Weight(tensor, CONV, np.zeros(real.shape, np.int8), real, axis, readers=tuple(readers))


# Scales


INTEGERS = np.array([[1, -2, 3], [2, 0, -1], [0, 7, -7]])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scales", [(0.01,), (0.01, 0.02, 0.03)])
def test_each_channel_gets_the_scale_that_fits(axis, scales):
    real = INTEGERS * np.array([[0.5], [2.0], [-0.25]])
    rows, found = low_bit._fit_scales(part(real if axis == 0 else real.T, scales, axis), axis, INTEGERS, "layer")
    np.testing.assert_allclose(found, [0.5, 2, 0.25])
    np.testing.assert_array_equal(rows, INTEGERS * [[1], [1], [-1]])
    assert rows.dtype == np.int8


def test_the_scale_has_the_least_squared_error():
    real = np.array([[0.9, -2.2, 3.1]])
    _, (found,) = low_bit._fit_scales(part(real, (1.0,)), 0, INTEGERS[:1], "layer")
    assert found == pytest.approx((0.9 + 4.4 + 9.3) / (1 + 4 + 9))


@pytest.mark.parametrize(("off", "together"), [(0.1, True), (0.125, True), (0.126, False)])
def test_nearly_equal_scales_become_one_if_no_weight_moves_by_more_than_half_a_step(off, together):
    integers = np.array([[4, 0], [0, 4]])
    real = np.array([[4 * (1 - off), 0], [0, 4 * (1 + off)]])  # the common scale is 1, so weights move by 4 * off
    _, scales = low_bit._fit_scales(part(real, (1.0,)), 0, integers, "layer")
    np.testing.assert_allclose(scales, [1, 1] if together else [1 - off, 1 + off], rtol=1e-6)


def test_the_scale_of_a_single_weight():
    _, scales = low_bit._fit_scales(part([[1.0, 0]], (2.0,)), 0, np.array([[1, 0]]), "layer")
    np.testing.assert_allclose(scales, [1])


def test_the_common_scale_weighs_channels_by_their_squares():
    integers = np.array([[4, 4], [0, 1]])
    real = np.array([[4, 4], [0, 1.33]])
    _, scales = low_bit._fit_scales(part(real, (1.0,)), 0, integers, "layer")
    np.testing.assert_allclose(scales, [33.33 / 33] * 2, rtol=1e-6)


def test_channels_of_other_signs_have_no_common_scale():
    _, scales = low_bit._fit_scales(part([[1.0, 0], [-1.0, 0]], (4.0,)), 0, np.array([[1, 0], [1, 0]]), "layer")
    np.testing.assert_allclose(scales, [1, 1])
    rows, scales = low_bit._fit_scales(part([[-1.0], [-1.0]], (4.0,)), 0, np.array([[1], [1]]), "layer")
    np.testing.assert_array_equal(rows, [[-1], [-1]])
    np.testing.assert_allclose(scales, [1, 1])
    _, scales = low_bit._fit_scales(part([[-1.0], [-1.25]], (4.0,)), 0, np.array([[1], [1]]), "layer")
    np.testing.assert_allclose(scales, [1, 1.25])


@pytest.mark.parametrize("zero", [[0, 0], [1, -1]], ids=["pruned", "switched off by its BatchNormalization"])
def test_a_channel_of_zeros_gets_the_scale_of_the_others(zero):
    integers = np.array([[2, 0], zero, [0, 2], [0, -3]])
    real = np.array([[2 * 0.5, 0], [0, 0], [0, 2 * 1.5], [0, 3 * 2.0]])  # scales of 0.5, none, 1.5 and -2
    rows, scales = low_bit._fit_scales(
        part(real, (1e-3, 1e3 if any(zero) else 1e-12, 1e-3, 1e-3)), 0, integers, "layer"
    )
    np.testing.assert_allclose(scales, [0.5, 1.5, 1.5, 2])
    np.testing.assert_array_equal(np.abs(rows), np.abs(integers))


def test_a_kernel_of_zeros_keeps_its_scales():
    with np.errstate(all="raise"):
        _, scales = low_bit._fit_scales(part(np.zeros((2, 3)), (0.25, 0.5)), 0, np.zeros((2, 3), int), "layer")
    np.testing.assert_allclose(scales, [0.25, 0.5])


@pytest.mark.parametrize(("step", "words"), [(0.26, None), (0.25, None), (0.24, "1.0"), (0.1, "2.5"), (0.025, "10.0")])
def test_weights_may_be_a_step_off_the_grid(step, words):
    # Integers of equal squares: the scale of (2.25, 1.75) / 2 is 1, so that both are 0.25 off.
    kernel, integers = part([[2.25, 1.75], [2.0, 2.0]], (step, 1.0)), np.array([[2, 2], [2, 2]])
    if words is None:
        low_bit._fit_scales(kernel, 0, integers, ("layer", "kernel"))
        return
    with pytest.raises(PromiseError) as caught:
        low_bit._fit_scales(kernel, 0, integers, ("layer", "kernel"))
    assert str(caught.value) == (
        "layer/kernel: weights on a grid were promised, but the converter changed them: the tensor 'net/t0' is off the "
        f"grid by {words} of its steps. Are its weights shared or scaled?"
    )


def test_steps_are_those_of_each_channel():
    kernel, integers = part([[2.25, 1.75], [2.0, 2.0]], (1.0, 0.01)), np.array([[2, 2], [2, 2]])
    low_bit._fit_scales(kernel, 0, integers, "layer")
    with pytest.raises(PromiseError, match="off the grid by 25"):
        low_bit._fit_scales(part([[2.25, 1.75], [2.0, 2.0]], (0.01, 1.0)), 0, integers, "layer")


@pytest.mark.parametrize(
    ("scale", "short"),
    [(1.0, 1.0), (3.0, 3.0), (1 / 3, 171 / 512), (255 / 256, 255 / 256), (511 / 512, 1.0), (1e-3, 131 / 2**17)],
)
def test_short_scales_have_8_significant_bits(scale, short):
    np.testing.assert_array_equal(low_bit._shorten(np.array([scale, 2 * scale])), [short, 2 * short])


# Biases


@pytest.mark.parametrize(
    ("readers", "found"),
    [
        ([Op(0, CONV, (0, 1, 2), (9,))], {2}),
        ([Op(0, DENSE, (0, 1, 2), (9,))], {2}),
        ([Op(0, DEPTHWISE, (0, 1, 2), (9,))], {2}),
        ([Op(0, "CONV_3D", (0, 1, 2), (9,))], {2}),
        ([Op(0, "TRANSPOSE_CONV", (0, 1, 2, 3), (9,))], {3}),
        ([Op(0, "TRANSPOSE_CONV", (0, 1, 2), (9,))], set()),
        ([Op(0, "TRANSPOSE_CONV", (0, 1), (9,))], set()),
        ([Op(0, DENSE, (0, 1), (9,))], set()),
        ([Op(0, DENSE, (0, 1, -1), (9,))], set()),
        ([Op(0, "BATCH_MATMUL", (0, 1, 2), (9,))], set()),
        ([Op(0, CONV, (0, 1, 2), (9,)), Op(1, CONV, (4, 1, 5), (8,)), Op(2, CONV, (6, 1, 5), (7,))], {2, 5}),
    ],
)
def test_biases_by_operator(readers, found):
    assert low_bit._biases(part([[1.0]], (1.0,), readers=readers)) == found


def scaled(scales):
    """The quantization of a tensor in the schema."""
    return SimpleNamespace(scale=scales, zeroPoint=None, quantizedDimension=None, min=[1.0], max=[1.0])


def stored(values, kind=np.int32):
    return SimpleNamespace(data=np.array(values, kind).reshape(-1).view(np.uint8))


def file(*tensors, codes=(), operators=()):
    """A `ModelT` of one graph, whose tensors are (values, scales) or None for one that is not constant."""
    made, buffers = [], [SimpleNamespace(data=None)]
    for number, tensor in enumerate(tensors, 1):
        values, scales = tensor or ([], None)
        made.append(SimpleNamespace(buffer=number, quantization=scales and scaled(scales), type=None))
        buffers.append(stored(values))
    operators = [SimpleNamespace(opcodeIndex=code) for code in operators]
    graph = SimpleNamespace(tensors=made, operators=operators)
    return SimpleNamespace(
        subgraphs=[graph], buffers=buffers, operatorCodes=[SimpleNamespace(version=version) for version in codes]
    )


def content(model, number, kind=np.int32):
    return model.buffers[model.subgraphs[0].tensors[number].buffer].data.view(kind).tolist()


KERNEL = part([[1.0, 2.0]], (1.0,))


@pytest.mark.parametrize("scales", [[0.5], [0.5, 0.25, 1.0]])
def test_a_bias_keeps_its_value_on_the_new_scale(scales):
    model = file(None, ([100, -7, 2**31 - 1], scales))
    factors = np.array([2.0, 0.5, 8.0])
    low_bit._rescale_bias(model, KERNEL, 1, factors, 3)
    # 100 * 2, -3.5 to even, and what does not fit is the most that does.
    assert content(model, 1) == [200, -4, 2**31 - 1]
    bias = model.subgraphs[0].tensors[1].quantization
    np.testing.assert_allclose(bias.scale, np.broadcast_to(scales, 3) / factors)
    assert bias.scale.dtype == np.float32 and bias.zeroPoint.tolist() == [0, 0, 0] and bias.quantizedDimension == 0
    model = file(None, ([-(2**31)], [0.5]))
    low_bit._rescale_bias(model, KERNEL, 1, np.array([2.0]), 1)
    assert content(model, 1) == [-(2**31)]


def test_a_bias_of_one_scale():
    model = file(None, ([10, 20], [0.5]))
    low_bit._rescale_bias(model, KERNEL, 1, np.array([2.0, 2.0]), 1)
    bias = model.subgraphs[0].tensors[1].quantization
    assert (content(model, 1), bias.scale.tolist(), bias.zeroPoint.tolist()) == ([20, 40], [0.25], [0])


@pytest.mark.parametrize("scales", [None, []])
def test_a_float_bias_is_left_alone(scales):
    model = file(None, ([10, 20], [1.0]))
    model.subgraphs[0].tensors[1].quantization = None if scales is None else scaled(scales)
    low_bit._rescale_bias(model, KERNEL, 1, np.array([2.0, 2.0]), 1)
    assert content(model, 1) == [10, 20] and len(model.buffers) == 3


# Data


def test_new_data_replace_the_old():
    model = file(([1, 2], [1.0]), ([3], [1.0]))
    low_bit.set_data(model, model.subgraphs[0].tensors[0], stored([5, 6, 7]).data)
    assert content(model, 0) == [5, 6, 7] and content(model, 1) == [3]
    assert len(model.buffers) == 4 and model.buffers[1].data is None  # nobody reads it now

    model = file(([1, 2], [1.0]), ([3], [1.0]))
    low_bit.set_data(model, model.subgraphs[0].tensors[1], stored([8]).data)
    assert content(model, 0) == [1, 2] and content(model, 1) == [8] and model.buffers[2].data is None


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 16])
def test_each_byte_has_two_values(count):
    values = np.arange(-8, 8)[:count]
    found = low_bit.packed_in_4_bits(values.reshape(1, -1))
    assert found.dtype == np.uint8 and len(found) == (count + 1) // 2
    halves = [half for byte in found.tolist() for half in (byte % 16, byte // 16)]
    assert [half - 16 if half > 7 else half for half in halves[:count]] == values.tolist()
    assert halves[count:] == [0] * (count % 2)


def test_data_that_others_share_stay_for_them():
    model = file(([1, 2], [1.0]), ([3], [1.0]))
    model.subgraphs[0].tensors[1].buffer = 1
    low_bit.set_data(model, model.subgraphs[0].tensors[0], stored([5]).data)
    assert (content(model, 0), content(model, 1)) == ([5], [1, 2])
    other = file(([1, 2], [1.0]))
    other.subgraphs.append(SimpleNamespace(tensors=[SimpleNamespace(buffer=1)]))
    low_bit.set_data(other, other.subgraphs[0].tensors[0], stored([5]).data)
    assert other.buffers[1].data is not None


ROWS = np.array([[1, -2, 3], [7, 0, -7]], np.int8)


def kernel_stored(kind, bits, scales, *, axis=0, before=(0.5,), versions=(1,), readers=None, bias=([10, 20], [0.125])):
    """Store `ROWS` for an operator of `kind`: (whether in 4 bits, the file)."""
    readers = readers or [Op(0, kind, (2, 0, 1), (3,))]
    shape = (2, 3) if axis == 0 else (3, 2)
    model = file(([0] * 6, list(before)), bias, None, None, codes=versions, operators=range(len(versions)))
    few = low_bit._store_kernel(model, part(np.zeros(shape), before, axis, readers), axis, ROWS, np.array(scales), bits)
    return few, model


@pytest.mark.parametrize(
    ("kind", "bits", "few", "version"),
    [
        (CONV, 4, True, 7), (CONV, 2, True, 7), (CONV, 5, False, 1), (CONV, 8, False, 1),
        (DENSE, 4, True, 10), (DENSE, 5, False, 1), (DEPTHWISE, 4, False, 1), (DEPTHWISE, 8, False, 1),
    ],
)  # fmt: skip
def test_kernels_are_stored_in_4_bits_where_the_operator_reads_them(kind, bits, few, version):
    found, model = kernel_stored(kind, bits, [0.25, 1.0])
    assert found == few
    tensor = model.subgraphs[0].tensors[0]
    assert tensor.type == (INT4 if few else INT8)
    # 1, -2; 3, 7; 0, -7, the first in the lower half of its byte.
    assert (
        content(model, 0, np.uint8) == [0xE1, 0x73, 0x90]
        if few
        else content(model, 0, np.int8) == ROWS.ravel().tolist()
    )
    assert model.operatorCodes[0].version == version
    assert tensor.quantization.scale.tolist() == [0.25, 1.0] and tensor.quantization.scale.dtype == np.float32
    assert tensor.quantization.zeroPoint.tolist() == [0, 0] and tensor.quantization.quantizedDimension == 0
    assert tensor.quantization.min is None and tensor.quantization.max is None
    # The bias of 10 and 20 eighths, where weights were in halves: factors 2 and 1/2.
    assert content(model, 1) == [20, 10]
    np.testing.assert_allclose(model.subgraphs[0].tensors[1].quantization.scale, [0.0625, 0.25])


def test_a_newer_operator_keeps_its_version():
    assert kernel_stored(CONV, 4, [1.0, 1.0], versions=(12,))[1].operatorCodes[0].version == 12


def test_all_readers_must_read_4_bits():
    readers = [Op(0, CONV, (2, 0, 1), (3,)), Op(1, DEPTHWISE, (2, 0, -1), (3,))]
    few, model = kernel_stored(CONV, 4, [0.25, 1.0], versions=(1, 1), readers=readers)
    assert not few and [code.version for code in model.operatorCodes] == [1, 1]
    readers = [Op(0, CONV, (2, 0, 1), (3,)), Op(1, DENSE, (2, 0, -1), (3,))]
    few, model = kernel_stored(CONV, 4, [1.0, 1.0], versions=(1, 1), readers=readers)
    assert few and [code.version for code in model.operatorCodes] == [7, 10]
    assert model.subgraphs[0].tensors[0].quantization.scale.tolist() == [1.0, 1.0]  # CONV_2D has one per channel


def test_channels_on_the_last_axis():
    _, model = kernel_stored(CONV, 8, [0.25, 1.0], axis=1)
    assert content(model, 0, np.int8) == ROWS.T.ravel().tolist()
    assert model.subgraphs[0].tensors[0].quantization.quantizedDimension == 1


def test_a_dense_kernel_of_one_scale_stores_one():
    _, model = kernel_stored(DENSE, 8, [0.25, 0.25])
    kernel, bias = (model.subgraphs[0].tensors[number].quantization for number in (0, 1))
    assert (kernel.scale.tolist(), kernel.zeroPoint.tolist()) == ([0.25], [0])
    assert (content(model, 1), bias.scale.tolist()) == ([20, 40], [0.0625])
    _, model = kernel_stored(CONV, 8, [0.25, 0.25])
    assert model.subgraphs[0].tensors[0].quantization.scale.tolist() == [0.25, 0.25]


@pytest.mark.parametrize(("bits", "scale"), [(4, 171 / 512), (8, np.float32(1 / 3))])
def test_the_bias_follows_the_scale_that_is_stored(bits, scale):
    _, model = kernel_stored(CONV, bits, [1 / 3, 1 / 3], before=(1.0,), bias=([3000, 3000], [1.0]))
    np.testing.assert_allclose(model.subgraphs[0].tensors[0].quantization.scale, [scale] * 2, rtol=1e-7)
    assert content(model, 1) == [round(3000 / float(scale))] * 2
    np.testing.assert_allclose(model.subgraphs[0].tensors[1].quantization.scale, [scale] * 2, rtol=1e-6)


# Whole files


@pytest.fixture
def kept(monkeypatch):
    """Store integers of places that are given: a function that returns the notes, the stored parts and the bytes."""

    def store(places, bits, few=True):
        calls = []

        def store_kernel(model, part, axis, rows, scales, wanted):
            calls.append((part.tensor.subgraph, part.tensor.index, axis, rows.tolist(), scales.tolist(), wanted))
            return few

        monkeypatch.setattr(low_bit, "LiteModel", lambda data: data)
        monkeypatch.setattr(low_bit, "unpacked", lambda data: "model")
        monkeypatch.setattr(low_bit, "packed", lambda model, size: f"{model} of {size}")
        monkeypatch.setattr(low_bit, "_locate", lambda lite, model, integers: places)
        monkeypatch.setattr(low_bit, "_store_kernel", store_kernel)
        data, notes = low_bit.store_integers(b"four", None, {key: Integers(bits, None) for key in places})
        assert data == "model of 4"
        return notes, calls

    return store


def held(*weights, copies=()):
    """The place of a kernel whose parts hold 1, 2 on a grid of 0.5."""
    return FileKernel(tuple(weights), (0,) * len(weights), (np.array([[1, 2]]),) * len(weights), copies)


def half(index, subgraph=0, scales=(1.0,)):
    return part([[0.5, 1.0]], scales, index=index, subgraph=subgraph)


def test_every_part_and_copy_is_stored_once(kept):
    places = {
        ("a", "kernel"): held(half(1), half(2), copies=(held(half(3)), held(half(1)))),
        ("b", "kernel"): held(half(3)),
        ("c", "kernel"): held(half(3, subgraph=1)),
        ("d", "kernel"): held(half(4, scales=()), half(5)),  # one part is float
    }
    notes, calls = kept(places, 4)
    assert [call[:2] for call in calls] == [(0, 1), (0, 2), (0, 3), (1, 3), (0, 5)] and notes == []
    assert {str(call[2:]) for call in calls} == {str((0, [[1, 2]], [0.5], 4))}


@pytest.mark.parametrize(
    ("bits", "few", "note"),
    [
        (7, False, "fewer than 8 bits, stored in 8: a, b (no operator supports fewer)"),
        (8, False, None),
        (4, True, None),
    ],
)
def test_fewer_bits_that_take_8_are_a_note(kept, bits, few, note):
    places = {
        ("a", "kernel"): held(half(1), half(2)), ("b", "kernel"): held(half(3)), ("a", "other"): held(half(4)),
    }  # fmt: skip
    assert kept(places, bits, few)[0] == ([note] if note else [])


def test_a_place_off_the_grid_is_named(kept):
    with pytest.raises(PromiseError, match=r"^layer/kernel: weights on a grid were promised"):
        kept({("layer", "kernel"): held(part([[0.5, 1.5]], (0.01,)))}, 4)
