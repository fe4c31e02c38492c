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
from tfopt.stages.kernels.table import Kernel, kernels_by_key
from tfopt.stages.quantize.integers import Integers
from tfopt.tflite.prove.kernels import FileKernel, locate, rows_of
from tfopt.tflite.read import LiteModel, Weight
from tfopt.tflite.read.flatbuffer import items, packed, unpacked

# What LiteRT's int8 operators read in 4 bits, and the version of the operator that says so.
INT4_OPERATORS = {"CONV_2D": 7, "FULLY_CONNECTED": 10}
# How far a weight of the file may lie from its grid, in steps of the file: half a step, for it was rounded once, and as
# much for the scale, which is fitted to all of them.
ROUNDED_ONCE = 1.0


def store_integers(data: bytes, model: Any, integers: Mapping[Key, Integers]) -> tuple[bytes, list[str]]:
    """The file `data` with these integers in the place of those that the converter chose, and notes.

    Args:
        data: an int8 .tflite that the converter made of `model`.
        model: a flat tf_keras model, as it is or wrapped for quantization.
        integers: by layer and kernel.

    Raises:
        PromiseError: a kernel is not in the file, or stands for other integers there.
    """
    lite, rewritten = LiteModel(data), unpacked(data)
    found = _locate(lite, model, integers)
    in_bytes = []
    for key, (kernel, in_file) in found.items():
        bits = integers[key].bits
        for place in in_file.everywhere:
            rows, scales = _fit_scales(kernel, place, "/".join(key))
            if not _store_kernel(rewritten, lite, place, rows, scales, bits) and bits < 8:
                in_bytes.append(key[0])
    notes = (
        [f"fewer than 8 bits, stored in 8: {', '.join(dict.fromkeys(in_bytes))} (no operator reads less)"]
        if in_bytes
        else []
    )
    return packed(rewritten, len(data)), notes


def _locate(lite: LiteModel, model: Any, integers: Mapping[Key, Integers]) -> dict[Key, tuple[Kernel, FileKernel]]:
    """The kernels with their integers as values, and where they stand in the file."""
    known = kernels_by_key(map(unwrapped, model.layers))
    own = {key: replace(known[key], variable=found.values.astype(np.float32)) for key, found in integers.items()}
    places = locate(lite, own)
    return {key: (kernel, places[key]) for key, kernel in own.items()}


def _fit_scales(kernel: Kernel, in_file: FileKernel, place: str) -> tuple[np.ndarray, np.ndarray]:
    """(integers, output channels first; the scale of each channel), as near to the file's weights as can be.

    The scale is not the step that they were trained with: the converter has multiplied each channel by a factor of
    its BatchNormalization.
    """
    (part,), (axis,) = in_file.parts, in_file.axes
    integers, weights = rows_of(kernel), np.moveaxis(part.dequantized, axis, 0).reshape(part.values.shape[axis], -1)
    squares = np.square(integers).sum(axis=1)
    before = np.broadcast_to(np.array(part.tensor.scales, np.float64), len(weights))
    scales = (integers * weights).sum(axis=1) / np.maximum(squares, 1)
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


def _store_kernel(
    model: Any, lite: LiteModel, in_file: FileKernel, rows: np.ndarray, scales: np.ndarray, bits: int
) -> bool:
    """Put `rows` into the place of a kernel in `model`; whether in fewer than 8 bits."""
    from ai_edge_litert import schema_py_generated as schema

    (part,), (axis,) = in_file.parts, in_file.axes
    users = [op for op in lite.ops() if part.tensor.index in op.inputs and op.subgraph == part.tensor.subgraph]
    few = bits <= 4 and all(op.name in INT4_OPERATORS for op in users)
    shape = part.values.shape
    first = (shape[axis], *(size for place, size in enumerate(shape) if place != axis))
    values = np.moveaxis(rows.reshape(first), 0, axis)
    tensor = model.subgraphs[part.tensor.subgraph].tensors[part.tensor.index]
    tensor.type = schema.TensorType.INT4 if few else schema.TensorType.INT8
    _set_data(model, tensor, packed_in_4_bits(values) if few else values.reshape(-1).view(np.uint8))
    before = np.broadcast_to(np.array(part.tensor.scales, np.float64), len(scales))
    scales = _shorten(scales) if few else scales
    _set_scales(tensor, scales, axis)
    for number in {op.inputs[2] for op in users if len(op.inputs) > 2 and op.inputs[2] >= 0}:
        _rescale_bias(model, part, number, before / scales)
    if few:
        for op in users:
            code = model.operatorCodes[model.subgraphs[op.subgraph].operators[op.index].opcodeIndex]
            code.version = max(code.version, INT4_OPERATORS[op.name])
    return few


def _shorten(scales: np.ndarray) -> np.ndarray:
    """`scales` to 8 significant bits: weights of 4 bits do not notice, a deflated file is 2 bytes smaller for each."""
    fraction, exponent = np.frexp(scales)
    return np.asarray(np.ldexp(np.rint(fraction * 2**8), exponent - 8))


def _set_scales(tensor: Any, scales: np.ndarray, axis: int) -> None:
    tensor.quantization.scale = scales.astype(np.float32)
    tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)
    tensor.quantization.quantizedDimension = axis
    tensor.quantization.min = tensor.quantization.max = None


def _rescale_bias(model: Any, part: Weight, number: int, factors: np.ndarray) -> None:
    """A bias has the scale of the input times that of the weights, so that it can be added to their products."""
    bias = model.subgraphs[part.tensor.subgraph].tensors[number]
    before = np.broadcast_to(np.array(items(bias.quantization.scale), np.float64), len(factors))
    values = np.asarray(model.buffers[bias.buffer].data).view(np.int32)
    limits = np.iinfo(np.int32)
    rescaled = np.clip(np.rint(values * factors), limits.min, limits.max).astype(np.int32)
    _set_data(model, bias, rescaled.view(np.uint8))
    bias.quantization.scale = (before / factors).astype(np.float32)
    bias.quantization.zeroPoint = np.zeros(len(factors), np.int64)
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
