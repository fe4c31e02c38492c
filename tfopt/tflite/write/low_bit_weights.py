"""Weights on grids of their own, put into an int8 .tflite: as they were trained or rounded, in as few bits as it can.

The converter knows one grid: 127 steps up to the largest weight of a channel. Weights on a coarser one it rounds once
more, and stores in 8 bits. Here they get back the integers that they stand for, with the scale that these need.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tfopt.base.keras_compat import unwrapped
from tfopt.errors import PromiseError
from tfopt.stages.kernels.rules import Key
from tfopt.stages.kernels.table import kernels_by_key
from tfopt.stages.quantize.integers import Integers
from tfopt.tflite.prove.kernels import FileKernel, locate
from tfopt.tflite.read import LiteModel, Weight
from tfopt.tflite.read.flatbuffer import items, packed, unpacked

# What LiteRT's int8 operators read in 4 bits, and the version of the operator that says so.
INT4_OPERATORS = {"CONV_2D": 7, "FULLY_CONNECTED": 10}
BIAS_OPERAND = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3, "CONV_3D": 2}
# What LiteRT stores a single scale for where channels have the same.
ONE_SCALE_OPERATORS = frozenset({"FULLY_CONNECTED"})
# How far a weight of the file may lie from its grid, in steps of the file: half a step, for it was rounded once, and as
# much for the scale, which is fitted to all of them.
ROUNDED_ONCE = 1.0


def store_integers(data: bytes, model: Any, integers: Mapping[Key, Integers]) -> tuple[bytes, list[str]]:
    """Return the file `data` with these integers instead of those that the converter chose, and notes.

    Args:
        data: a .tflite with int8 weights that the converter made of `model`.
        model: a flat tf_keras model, as it is or wrapped for quantization.
        integers: by layer and kernel. Tensors that the converter left in float stay so.

    Raises:
        PromiseError: a kernel is not in the file, or stands for other integers there.
    """
    lite, rewritten = LiteModel(data), unpacked(data)
    in_bytes: list[str] = []
    done: set[tuple[int, int]] = set()  # layers may share a tensor
    for key, place in _locate(lite, model, integers).items():
        bits = integers[key].bits
        for one in place.everywhere:
            for part, axis, wanted in zip(one.parts, one.axes, one.wanted, strict=True):
                number = (part.tensor.subgraph, part.tensor.index)
                if not part.tensor.scales or number in done:
                    continue
                done.add(number)
                rows, scales = _fit_scales(part, axis, wanted, "/".join(key))
                if not _store_kernel(rewritten, part, axis, rows, scales, bits) and bits < 8:
                    in_bytes.append(key[0])
    names = ", ".join(dict.fromkeys(in_bytes))
    notes = [f"fewer than 8 bits, stored in 8: {names} (no operator reads less)"] if in_bytes else []
    return packed(rewritten, len(data)), notes


def _locate(lite: LiteModel, model: Any, integers: Mapping[Key, Integers]) -> dict[Key, FileKernel]:
    """Return where the kernels stand in the file, with their integers as what was wanted."""
    known = kernels_by_key(map(unwrapped, model.layers))
    own = {key: replace(known[key], variable=found.values.astype(np.float32)) for key, found in integers.items()}
    return locate(lite, own)


def _fit_scales(part: Weight, axis: int, integers: np.ndarray, place: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (integers, output channels first; the scale of each channel), as near to the file's weights as can be.

    The scale is not the step that they were trained with: the converter has multiplied each channel by a factor of
    its BatchNormalization. Where one scale for all is as near, it is one.
    """
    weights = np.moveaxis(part.dequantized, axis, 0).reshape(part.values.shape[axis], -1).astype(np.float64)
    squares, products = np.square(integers).sum(axis=1), (integers * weights).sum(axis=1)
    before = np.broadcast_to(np.array(part.tensor.scales, np.float64), len(weights))
    scales = products / np.maximum(squares, 1)
    together = products.sum() / max(squares.sum(), 1)
    largest = np.abs(integers).max(axis=1)
    if together > 0 and np.all(np.abs(scales - together) * largest <= before / 2):
        scales = np.full(len(scales), together)
    # A channel of zeros, or with a BatchNormalization of scale 0, has its bias alone: the converter gives it so small a
    # scale that 4-bit kernels lose that. Any other will do.
    scales = np.where(scales == 0, np.median(np.abs(scales[scales != 0])) if scales.any() else before, scales)
    off = np.abs(weights - scales[:, None] * integers).max(axis=1) / before
    if off.max() > ROUNDED_ONCE:
        raise PromiseError(
            f"{place}: weights on a grid were promised, but the converter changed them: the tensor "
            f"'{part.tensor.name}' is {off.max():.1f} of its steps off the grid. Are its weights shared or scaled?"
        )
    signed = np.sign(scales)[:, None] * integers
    return signed.astype(np.int8), np.abs(scales)


def _store_kernel(model: Any, part: Weight, axis: int, rows: np.ndarray, scales: np.ndarray, bits: int) -> bool:
    """Put `rows` into `model` instead of a part of a kernel. Return whether in fewer than 8 bits."""
    from ai_edge_litert import schema_py_generated as schema

    few = bits <= 4 and all(op.name in INT4_OPERATORS for op in part.readers)
    shape = part.values.shape
    first = (shape[axis], *(size for place, size in enumerate(shape) if place != axis))
    values = np.moveaxis(rows.reshape(first), 0, axis)
    tensor = model.subgraphs[part.tensor.subgraph].tensors[part.tensor.index]
    tensor.type = schema.TensorType.INT4 if few else schema.TensorType.INT8
    _set_data(model, tensor, packed_in_4_bits(values) if few else values.reshape(-1).view(np.uint8))
    before = np.broadcast_to(np.array(part.tensor.scales, np.float64), len(scales))
    scales = _shorten(scales) if few else scales
    factors = before / scales
    if np.ptp(scales) == 0 and all(op.name in ONE_SCALE_OPERATORS for op in part.readers):
        scales = scales[:1]
    _set_scales(tensor, scales, axis)
    for number in _biases(part):
        _rescale_bias(model, part, number, factors, len(scales))
    if few:
        for op in part.readers:
            code = model.operatorCodes[model.subgraphs[op.subgraph].operators[op.index].opcodeIndex]
            code.version = max(code.version, INT4_OPERATORS[op.name])
    return few


def _biases(part: Weight) -> set[int]:
    """Return the tensors that the readers of `part` add to their products."""
    operands = ((op, BIAS_OPERAND.get(op.name)) for op in part.readers)
    found = {op.inputs[place] for op, place in operands if place is not None and place < len(op.inputs)}
    return found - {-1}


def _shorten(scales: np.ndarray) -> np.ndarray:
    """`scales` to 8 significant bits: weights of 4 bits do not notice, a deflated file is 2 bytes smaller for each."""
    fraction, exponent = np.frexp(scales)
    return np.asarray(np.ldexp(np.rint(fraction * 2**8), exponent - 8))


def _set_scales(tensor: Any, scales: np.ndarray, axis: int) -> None:
    tensor.quantization.scale = scales.astype(np.float32)
    tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)
    tensor.quantization.quantizedDimension = axis
    tensor.quantization.min = tensor.quantization.max = None


def _rescale_bias(model: Any, part: Weight, number: int, factors: np.ndarray, count: int) -> None:
    """Give a bias the scale of the input times that of the weights, so that it can be added to their products.

    `count` is how many scales there are: one for each channel, or one.
    """
    bias = model.subgraphs[part.tensor.subgraph].tensors[number]
    if bias.quantization is None or not len(items(bias.quantization.scale)):
        return  # a float bias, of an operator that computes its sums in float
    before = np.broadcast_to(np.array(items(bias.quantization.scale), np.float64), len(factors))
    values = np.asarray(model.buffers[bias.buffer].data).view(np.int32)
    limits = np.iinfo(np.int32)
    rescaled = np.clip(np.rint(values * factors), limits.min, limits.max).astype(np.int32)
    _set_data(model, bias, rescaled.view(np.uint8))
    bias.quantization.scale = (before / factors).astype(np.float32)[:count]
    bias.quantization.zeroPoint = np.zeros(count, np.int64)
    bias.quantization.quantizedDimension = 0


def _set_data(model: Any, tensor: Any, data: np.ndarray) -> None:
    """Give `tensor` a buffer of its own: equal constants may have shared one."""
    from ai_edge_litert import schema_py_generated as schema

    old = tensor.buffer
    tensor.buffer = len(model.buffers)
    model.buffers.append(schema.BufferT())
    model.buffers[-1].data = np.ascontiguousarray(data)
    if not any(t.buffer == old for subgraph in model.subgraphs for t in subgraph.tensors):
        model.buffers[old].data = None


def packed_in_4_bits(values: np.ndarray) -> np.ndarray:
    """uint8: two values -8..7 in a byte, the first in the lower half."""
    flat = np.asarray(values, np.int8).reshape(-1)
    flat = np.append(flat, np.zeros(len(flat) % 2, np.int8)).view(np.uint8) & 15
    return np.asarray(flat[0::2] | flat[1::2] << 4, np.uint8)
