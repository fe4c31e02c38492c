"""Find what a file makes indices of: the numbers of words or categories that it computes before it looks them up."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tfopt.tflite.read.parts import Op, Tensor

_INTEGERS = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})
_COMPUTING = frozenset(
    {"ABS", "ADD", "ADD_N", "CAST", "CEIL", "CUMSUM", "DIV", "FLOOR", "FLOOR_DIV", "FLOOR_MOD", "MAXIMUM", "MINIMUM"}
    | {"MUL", "NEG", "POW", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "RELU", "ROUND", "SELECT", "SELECT_V2"}
    | {"SQUARE", "SUB", "SUM"}
)
_COMPARING = frozenset({"EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL"})
_MOVING = frozenset(
    {
        "BROADCAST_TO",
        "CONCATENATION",
        "EXPAND_DIMS",
        "GATHER",
        "GATHER_ND",
        "PACK",
        "PAD",
        "PADV2",
        "RESHAPE",
        "REVERSE_V2",
        "SLICE",
        "SPLIT",
    }
    | {"SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK"}
)


@dataclass(frozen=True)
class IndexValues:
    """The floats of the first subgraph from which a CAST makes integers.

    Attributes:
        casts: the operators that make integers of them.
        makers: the operators that compute or move them, back to what is no arithmetic on single numbers, and those that
            compare them.
        tensors: their tensors, by index; where they are rounded and brought back to float, those before that.
    """

    casts: tuple[Op, ...]
    makers: tuple[Op, ...]
    tensors: frozenset[int]


def index_values(ops: Iterable[Op], tensors: Mapping[int, Tensor]) -> IndexValues:
    """Return the index values of a file, of its operators and tensors of the first subgraph."""
    ops = [op for op in ops if op.subgraph == 0]
    made_by = {output: op for op in ops for output in op.outputs}
    casts = [
        op
        for op in ops
        if op.name == "CAST" and tensors[op.inputs[0]].dtype == "float32" and tensors[op.outputs[0]].dtype in _INTEGERS
    ]
    found: dict[int, None] = {}
    makers: dict[int, Op] = {}
    left = [op.inputs[0] for op in casts]
    while left:
        index = unrounded(left.pop(), made_by, tensors)
        if index in found or tensors[index].dtype != "float32":
            continue
        found[index] = None
        maker = made_by.get(index)
        if maker is not None and maker.name in _COMPUTING | _MOVING:
            makers[maker.index] = maker
            left += [each for each in maker.inputs if each >= 0]
    comparing = [op for op in ops if op.name in _COMPARING]
    for op in comparing:
        if any(end >= 0 and unrounded(end, made_by, tensors) in found for end in op.inputs):
            makers[op.index] = op
    return IndexValues(tuple(casts), tuple(makers[number] for number in sorted(makers)), frozenset(found))


def unrounded(index: int, made_by: Mapping[int, Op], tensors: Mapping[int, Tensor]) -> int:
    """Return the float tensor that a QUANTIZE and a DEQUANTIZE give as `index`, or `index` itself."""
    back = made_by.get(index)
    there = made_by.get(back.inputs[0]) if back is not None and back.name == "DEQUANTIZE" else None
    if there is None or there.name != "QUANTIZE" or tensors[there.inputs[0]].dtype != "float32":
        return index
    return there.inputs[0]
