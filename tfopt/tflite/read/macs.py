"""Count the multiplications of one invocation of a .tflite, operator by operator."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tfopt.tflite.read.graph import builtin_names
from tfopt.tflite.read.parts import Op

Shape = tuple[int, ...]
Count = Callable[[list[Shape], Shape, Mapping[str, Any]], int]

# Operators that run another graph an unknown number of times, or whose multiplications are not counted here.
_UNCOUNTED = frozenset(
    {"WHILE", "IF", "CALL", "SVDF", "RNN", "LSTM"}
    | {f"{way}DIRECTIONAL_SEQUENCE_{cell}" for way in ("UNI", "BI") for cell in ("LSTM", "RNN")}
) - {"UNIDIRECTIONAL_SEQUENCE_LSTM"}


def macs_of(ops: Iterable[tuple[Op, Mapping[str, Any]]], shapes: Mapping[int, Shape]) -> int | None:
    """Return the multiply-accumulates of all convolutions, matrix products and LSTM cells of a graph.

    Zeros count like other numbers. Element by element arithmetic, look-ups and activations do not count.

    Args:
        ops: the operators that run, with their options.
        shapes: of the tensors, by index.

    Returns:
        The count; None if part of the graph runs an unknown number of times or is not a LiteRT operator.
    """
    total, known = 0, set(builtin_names().values())
    for op, options in ops:
        if op.name in _UNCOUNTED or op.name not in known:
            return None
        if count := _COUNTS.get(op.name):
            total += count([shapes[index] if index >= 0 else () for index in op.inputs], shapes[op.outputs[0]], options)
    return total


def _convolution(inputs: list[Shape], output: Shape, _: Mapping[str, Any]) -> int:
    return math.prod(output) * math.prod(inputs[1][1:])  # OHWI, I of one group


def _depthwise(inputs: list[Shape], output: Shape, _: Mapping[str, Any]) -> int:
    return math.prod(output) * math.prod(inputs[1][1:3])  # 1HWC


def _convolution_3d(inputs: list[Shape], output: Shape, _: Mapping[str, Any]) -> int:
    return math.prod(output) * math.prod(inputs[1][:4])  # DHWIO


def _transposed(inputs: list[Shape], _: Shape, __: Mapping[str, Any]) -> int:
    _, kernel, images = inputs[:3]
    return math.prod(images) * math.prod(kernel[:3])  # OHWI


def _transposed_3d(inputs: list[Shape], _: Shape, __: Mapping[str, Any]) -> int:
    _, kernel, images = inputs[:3]
    return math.prod(images) * math.prod(kernel[:4])  # DHWOI


def _fully_connected(inputs: list[Shape], output: Shape, _: Mapping[str, Any]) -> int:
    return math.prod(output) * inputs[1][-1]  # OI


def _product(inputs: list[Shape], output: Shape, options: Mapping[str, Any]) -> int:
    return math.prod(output) * inputs[0][-2 if options.get("adjX") else -1]


def _lstm(inputs: list[Shape], _: Shape, options: Mapping[str, Any]) -> int:
    kernels = [*inputs[1:9], *inputs[16:17]]  # of the input, of the state, and the projection
    return math.prod(inputs[0][:2]) * sum(math.prod(shape) for shape in kernels if shape)


_COUNTS: Mapping[str, Count] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "CONV_3D": _convolution_3d,
    "TRANSPOSE_CONV": _transposed,
    "CONV_3D_TRANSPOSE": _transposed_3d,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _product,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
}
