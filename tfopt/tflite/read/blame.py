"""Find the operator of a file at which LiteRT crashes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from tfopt.errors import ModelError
from tfopt.tflite.read.flatbuffer import items, packed, unpacked
from tfopt.tflite.read.graph import FileGraph
from tfopt.tflite.read.parts import Op


def blamed_operator(
    data: bytes, crashes: Callable[[bytes], bool], layers: Mapping[int, str] = MappingProxyType({})
) -> str:
    """Return where a file crashes, " at operator 3, ADD, of the layer x", found by bisection; "" if nobody knows.

    Args:
        data: a .tflite that crashes, of tfopt: its flatbuffer is not verified.
        crashes: returns whether a file of only the first operators crashes.
        layers: the Keras layers of operators, by their index; what is missing is told by the names of tensors.
    """
    try:
        ops = [op for op in FileGraph(data).ops if op.subgraph == 0]
        low, high = 0, len(ops)  # the first `low` operators do not crash, the first `high` do
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if crashes(first_operators(data, middle)) else (middle, high)
    except ModelError:  # the file cannot be rewritten
        return ""
    return _in_words(ops[high - 1], data, layers) if ops else ""


def first_operators(data: bytes, count: int) -> bytes:
    """Return a file of the first `count` operators of the main graph, whose outputs are those of the last one."""
    model = unpacked(data)
    graph = model.subgraphs[0]
    graph.operators = graph.operators[:count]
    graph.outputs = np.array(items(graph.operators[-1].outputs), np.int32)
    for signature in items(model.signatureDefs):
        signature.outputs = signature.outputs[:1]
        signature.outputs[0].tensorIndex = int(graph.outputs[0])
    return packed(model, len(data))


def _in_words(op: Op, data: bytes, layers: Mapping[int, str]) -> str:
    names = {tensor.index: tensor.name for tensor in FileGraph(data).tensors[0]}
    place = layers.get(op.index) or (names.get(op.outputs[0], "") if op.outputs else "")
    return f" at operator {op.index}, {op.name}{f', of {place}' if place else ''}"
