"""Store weights in an int8 .tflite on the grids on which they were trained or rounded, in as few bits as possible.

The converter knows a single grid: 127 steps up to the largest weight of a channel. It rounds weights on a coarser grid
again and stores them in 8 bits. The functions here restore the integers that the weights represent, with their scales.
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
from tfopt.tflite.read.flatbuffer import BIAS_OPERAND, items, packed, set_data, unpacked

# The int8 operators of LiteRT that read 4-bit weights, and the operator version from which they do.
INT4_OPERATORS = {"CONV_2D": 7, "FULLY_CONNECTED": 10}
# The operators for which a single scale is stored if all channels have the same one.
ONE_SCALE_OPERATORS = frozenset({"BATCH_MATMUL", "FULLY_CONNECTED"})
# The largest allowed distance of a weight in the file from its grid, in steps of the file: half a step for the rounding
# by the converter, and as much for the scale, which is fitted to all weights.
ROUNDED_ONCE = 1.0


def store_integers(data: bytes, model: Any, integers: Mapping[Key, Integers]) -> tuple[bytes, list[str]]:
    """Replace the integers that the converter chose for kernels in a file.

    Args:
        data: a .tflite with int8 weights that the converter made from `model`.
        model: a flat tf_keras model, plain or wrapped for quantization.
        integers: by layer and kernel. Tensors that the converter left in float stay in float.

    Returns:
        The new file, and notes.

    Raises:
        PromiseError: a kernel is not in the file, or represents other integers there.
    """
    lite, rewritten = LiteModel(data), unpacked(data)
    in_bytes: list[str] = []
    done: set[tuple[int, int]] = set()  # layers may share a tensor
    for key, found in _locate(lite, model, integers).items():
        bits = integers[key].bits
        for one in found.everywhere:
            for part, place, wanted in zip(one.parts, one.axes, one.wanted, strict=True):
                axis = place % part.values.ndim  # the last one may be given as -1
                number = (part.tensor.subgraph, part.tensor.index)
                if not part.tensor.scales or number in done:
                    continue
                done.add(number)
                rows, scales = _fit_scales(part, axis, wanted, key)
                if not _store_kernel(rewritten, part, axis, rows, scales, bits) and bits < 8:
                    in_bytes.append(key[0])
    names = ", ".join(dict.fromkeys(in_bytes))
    notes = [f"fewer than 8 bits, stored in 8: {names} (no operator supports fewer)"] if in_bytes else []
    return packed(rewritten, len(data)), notes


def _locate(lite: LiteModel, model: Any, integers: Mapping[Key, Integers]) -> dict[Key, FileKernel]:
    """Locate the kernels in the file, with their integers as the wanted values."""
    known = kernels_by_key(map(unwrapped, model.layers))
    own = {key: replace(known[key], variable=found.values.astype(np.float32)) for key, found in integers.items()}
    return locate(lite, own)


def _fit_scales(part: Weight, axis: int, integers: np.ndarray, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """Return (integers, output channels first; scale per channel) that fit the file's weights best.

    A scale is not the step of training: the converter has multiplied each channel by the factor of its
    BatchNormalization. If a single scale fits as well, all channels get it.
    """
    weights = np.moveaxis(part.dequantized, axis, 0).reshape(part.values.shape[axis], -1).astype(np.float64)
    squares, products = np.square(integers).sum(axis=1), (integers * weights).sum(axis=1)
    before = np.broadcast_to(np.array(part.tensor.scales, np.float64), len(weights))
    scales = products / np.maximum(squares, 1)
    together = products.sum() / max(squares.sum(), 1)
    largest = np.abs(integers).max(axis=1)
    if together > 0 and np.all(np.abs(scales - together) * largest <= before / 2):
        scales = np.full(len(scales), together)
    # A channel of zeros, or with a BatchNormalization of scale 0, consists of its bias. The converter gives it such a
    # small scale that 4-bit kernels lose the bias; any other scale works.
    scales = np.where(scales == 0, np.median(np.abs(scales[scales != 0])) if scales.any() else before, scales)
    off = np.abs(weights - scales[:, None] * integers).max(axis=1) / before
    if off.max() > ROUNDED_ONCE:
        error = PromiseError(
            f"{'/'.join(key)}: weights on a grid were promised, but the converter changed them: the tensor "
            f"'{part.tensor.name}' is off the grid by {off.max():.1f} of its steps. Are its weights shared or scaled?"
        )
        error.layer = key[0]
        raise error
    signed = np.sign(scales)[:, None] * integers
    return signed.astype(np.int8), np.abs(scales)


def _store_kernel(model: Any, part: Weight, axis: int, rows: np.ndarray, scales: np.ndarray, bits: int) -> bool:
    """Replace one part of a kernel in `model` by `rows`. Return whether it is stored in fewer than 8 bits."""
    from ai_edge_litert import schema_py_generated as schema

    few = bits <= 4 and all(op.name in INT4_OPERATORS for op in part.readers)
    shape = part.values.shape
    first = (shape[axis], *(size for place, size in enumerate(shape) if place != axis))
    values = np.moveaxis(rows.reshape(first), 0, axis)
    tensor = model.subgraphs[part.tensor.subgraph].tensors[part.tensor.index]
    tensor.type = schema.TensorType.INT4 if few else schema.TensorType.INT8
    set_data(model, tensor, packed_in_4_bits(values) if few else values.reshape(-1).view(np.uint8))
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
    """Return the indices of the biases of the operators that read `part`."""
    operands = ((op, BIAS_OPERAND.get(op.name)) for op in part.readers)
    found = {op.inputs[place] for op, place in operands if place is not None and place < len(op.inputs)}
    return found - {-1}


def _shorten(scales: np.ndarray) -> np.ndarray:
    """Round `scales` to 8 significant bits, precise enough for 4-bit weights; each saves 2 bytes in a deflated file."""
    fraction, exponent = np.frexp(scales)
    return np.asarray(np.ldexp(np.rint(fraction * 2**8), exponent - 8))


def _set_scales(tensor: Any, scales: np.ndarray, axis: int) -> None:
    tensor.quantization.scale = scales.astype(np.float32)
    tensor.quantization.zeroPoint = np.zeros(len(scales), np.int64)
    tensor.quantization.quantizedDimension = axis
    tensor.quantization.min = tensor.quantization.max = None


def _rescale_bias(model: Any, part: Weight, number: int, factors: np.ndarray, count: int) -> None:
    """Give a bias the scale of the input times that of the weights, so that it can be added to their products.

    Args:
        model: the unpacked file; changed in place.
        part: the part of a kernel whose scales changed.
        number: index of the bias tensor.
        factors: old scale / new scale, per channel.
        count: number of scales: one per channel, or 1.
    """
    bias = model.subgraphs[part.tensor.subgraph].tensors[number]
    if bias.quantization is None or not len(items(bias.quantization.scale)):
        return  # a float bias: the operator adds in float
    before = np.broadcast_to(np.array(items(bias.quantization.scale), np.float64), len(factors))
    values = np.asarray(model.buffers[bias.buffer].data).view(np.int32)
    limits = np.iinfo(np.int32)
    rescaled = np.clip(np.rint(values * factors), limits.min, limits.max).astype(np.int32)
    set_data(model, bias, rescaled.view(np.uint8))
    bias.quantization.scale = (before / factors).astype(np.float32)[:count]
    bias.quantization.zeroPoint = np.zeros(count, np.int64)
    bias.quantization.quantizedDimension = 0


def packed_in_4_bits(values: np.ndarray) -> np.ndarray:
    """Pack two values -8..7 per byte, the first in the lower half; uint8."""
    flat = np.asarray(values, np.int8).reshape(-1)
    flat = np.append(flat, np.zeros(len(flat) % 2, np.int8)).view(np.uint8) & 15
    return np.asarray(flat[0::2] | flat[1::2] << 4, np.uint8)
