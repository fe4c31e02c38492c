"""Inputs and outputs of bytes for a model of photos, as apps feed them: MediaPipe takes uint8 and float, not int8."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.data import Dataset, Preprocessing
from tfopt.data.beside import image_preprocessing
from tfopt.tflite.read import Port
from tfopt.tflite.read.flatbuffer import items, new_operator, packed, unpacked
from tfopt.tflite.read.graph import FileGraph

_CENTER = 128  # what the zero points of uint8 and int8 differ by
_SHARE = 0.01  # by which the scale of the file may differ from that of a pixel


def with_photo_ends(data: bytes, source: Any) -> bytes:
    """Return an int8 file with uint8 inputs and outputs if it is fed with the photos of `source`, a Dataset.

    A byte goes in as it is: the scale is that of a pixel. Files with other ends, and for other data, are unchanged.
    """
    preprocessing = image_preprocessing(source) if isinstance(source, Dataset) else None
    if preprocessing is None:
        return data
    graph = FileGraph(data)
    given, made = graph.ports("inputs"), graph.ports("outputs")
    if len(given) != 1 or any(port.dtype != "int8" or len(port.scales) != 1 for port in (*given, *made)):
        return data
    if preprocessing.per_channel or not _takes_pixels(given[0], preprocessing):
        return data
    model = unpacked(data)
    subgraph = model.subgraphs[0]
    before = [_quantize(model, subgraph, int(end), into=True) for end in items(subgraph.inputs)]
    after = [_quantize(model, subgraph, end, into=False) for end in dict.fromkeys(map(int, subgraph.outputs))]
    subgraph.operators = [*before, *items(subgraph.operators), *after]
    moved_in = {int(op.outputs[0]): int(op.inputs[0]) for op in before}
    moved_out = {int(op.inputs[0]): int(op.outputs[0]) for op in after}
    subgraph.inputs, subgraph.outputs = (
        np.array([moved[int(end)] for end in ends], np.int32)
        for moved, ends in ((moved_in, subgraph.inputs), (moved_out, subgraph.outputs))
    )
    for signature in (each for each in items(model.signatureDefs) if each.subgraphIndex == 0):
        for moved, entries in ((moved_in, signature.inputs), (moved_out, signature.outputs)):
            _move(moved, items(entries))
    return packed(model, len(data))


def is_fed_by_channel(source: Dataset) -> bool:
    """Return whether photos are fed in a way that no scale of bytes can stand for."""
    preprocessing = image_preprocessing(source)
    return preprocessing is not None and preprocessing.per_channel


def _takes_pixels(port: Port, preprocessing: Preprocessing) -> bool:
    """Return whether the integers of an input are pixels - 128."""
    scale, offset = float(preprocessing.scale), float(preprocessing.offset)  # type: ignore[arg-type]
    steps = abs(port.scales[0] - scale) <= _SHARE * scale
    return steps and abs(port.zero_points[0] + _CENTER + offset / scale) <= 1


def _quantize(model: Any, subgraph: Any, end: int, *, into: bool) -> Any:
    """Return a QUANTIZE between a new uint8 tensor and the int8 tensor `end`, whose name the new one gets."""
    from ai_edge_litert import schema_py_generated as schema

    inner = subgraph.tensors[end]
    outer = copy.copy(inner)
    outer.quantization = copy.copy(inner.quantization)
    outer.type, outer.buffer = schema.TensorType.UINT8, 0
    outer.quantization.zeroPoint = np.asarray(inner.quantization.zeroPoint) + _CENTER
    inner.name = inner.name + b"_int8"
    subgraph.tensors.append(outer)
    new = len(subgraph.tensors) - 1
    inputs, outputs = ([new], [end]) if into else ([end], [new])
    return new_operator(model, schema.BuiltinOperator.QUANTIZE, inputs, outputs, version=2)


def _move(moved: dict[int, int], entries: Sequence[Any]) -> None:
    for entry in entries:
        entry.tensorIndex = moved[int(entry.tensorIndex)]
