"""Check that the parts of a .tflite fit together, before following its indices or allocating its tensors."""

import math
from collections.abc import Sequence
from typing import Any

from tfopt.base.limits import GIB, LARGEST_TENSORS
from tfopt.errors import ModelError
from tfopt.tflite.read.parts import Op, Tensor

# Operators that only unpack a weight for the operator that uses it.
UNPACKING = frozenset({"DEQUANTIZE", "DENSIFY"})
_BYTES = {"int4": 1, "uint4": 1, "int2": 1, "int8": 1, "uint8": 1, "bool": 1, "int16": 2, "uint16": 2, "float16": 2,
          "bfloat16": 2, "int32": 4, "uint32": 4, "float32": 4, "complex128": 16}  # fmt: skip
_MOST_BYTES = 8  # of any other dtype of fixed size


def check_indices(model: Any) -> None:
    """Raise ValueError for an index in a `ModelT` that is out of range."""
    codes, buffers = _length(model.operatorCodes), _length(model.buffers)
    if not _length(model.subgraphs):
        raise ValueError("it has no graph")
    for subgraph in model.subgraphs:
        tensors = _length(subgraph.tensors)
        _require(subgraph.inputs, tensors, "input of the graph")
        _require(subgraph.outputs, tensors, "output of the graph")
        _require([tensor.buffer for tensor in _items(subgraph.tensors)], buffers, "buffer")
        for op in _items(subgraph.operators):
            _require([op.opcodeIndex], codes, "operator code")
            _require(op.inputs, tensors, "operand", least=-1)  # -1: omitted
            _require(op.outputs, tensors, "result", least=-1)
    for signature in _items(model.signatureDefs):
        _require([signature.subgraphIndex], len(model.subgraphs), "graph of a signature")
        tensors = _length(model.subgraphs[signature.subgraphIndex].tensors)
        for entry in (*_items(signature.inputs), *_items(signature.outputs)):
            _require([entry.tensorIndex], tensors, "tensor of a signature")


def check_order(ops: Sequence[Op]) -> None:
    """Raise ValueError if an unpacking operator reads a later result, which would make following it endless."""
    makers = {(op.subgraph, output): op.index for op in ops for output in op.outputs}
    for op in ops:
        if op.name in UNPACKING and (not op.inputs or makers.get((op.subgraph, op.inputs[0]), -1) >= op.index):
            raise ValueError(f"the operator {op.index} ({op.name}) reads nothing, or a later result")


def check_sizes(tensors: Sequence[Tensor]) -> None:
    """Raise ModelError if tensors need more memory than `LARGEST_TENSORS`; dense constants are already in the file."""
    total = sum(_bytes(tensor) for tensor in tensors if tensor.sparse or not tensor.constant)
    if total > LARGEST_TENSORS:
        largest = max(tensors, key=_bytes)
        raise ModelError(
            f"Its tensors need {total / GIB:,.1f} GiB of memory, over the limit of {LARGEST_TENSORS / GIB:.4g} "
            f"GiB; the largest, {largest.name!r}, is {largest.dtype} of shape {largest.shape}. Make the inputs smaller."
        )


def _bytes(tensor: Tensor) -> int:
    return math.prod(max(side, 1) for side in tensor.shape) * _BYTES.get(tensor.dtype, _MOST_BYTES)


def _require(indices: Any, number: int, what: str, least: int = 0) -> None:
    for index in _items(indices):
        if not least <= index < number:
            raise ValueError(f"the index {index} ({what}) is out of range: there are {number}")


def _length(vector: Any) -> int:
    return len(_items(vector))


def _items(vector: Any) -> Any:
    return () if vector is None else vector
