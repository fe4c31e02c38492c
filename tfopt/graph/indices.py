"""Which inputs of a model are indices into tables, such as the words of a text, whatever dtype they have."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tfopt.graph.keras_internals import call_names
from tfopt.graph.types import Call, Graph, Ref, refs_in

# What passes on the values of its input in another shape, order or dtype: layers, operations of `keras.ops`, and the
# last part of the names of TensorFlow's functions in tf_keras graphs.
_MOVES = frozenset(
    {"Concatenate", "Cropping1D", "Flatten", "Identity", "Permute", "RepeatVector", "Reshape"}
    | {"Cast", "ExpandDims", "Flip", "GetItem", "Ravel", "Repeat", "Roll", "Split", "Squeeze", "Stack", "Swapaxes"}
    | {"Tile", "Transpose", "Unstack"}
    | {"cast", "concat", "expand_dims", "getitem", "identity", "repeat", "reshape", "reverse", "roll", "split"}
    | {"squeeze", "stack", "tile", "transpose", "unstack"}
)
# What computes other indices from them.
_COMPUTES = frozenset(
    {"Abs", "Absolute", "Add", "Clip", "Floor", "FloorDivide", "Maximum", "Minimum", "Mod", "Multiply", "Rescaling"}
    | {"Rint", "Round", "Subtract", "Where"}
    | {"abs", "add", "clip_by_value", "floor", "floordiv", "floormod", "maximum", "minimum", "multiply", "round"}
    | {"subtract", "where"}
)
# What asks something about them that does not depend on their dtype.
_COMPARES = frozenset(
    {"Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "NotEqual"}
    | {"equal", "greater", "greater_equal", "less", "less_equal", "not_equal", "shape"}
)


@dataclass(frozen=True)
class Indices:
    """An input whose values are indices.

    Attributes:
        entries: the number of rows of the smallest table that it is an index into.
        unchanged: whether all tables get its values as they are.
        only: whether only tables and comparisons read it, so that its dtype may be an integer.
        layer: the name and the number of rows of the smallest layer that gets its values as they are and takes no
            others; None without such a layer.
    """

    entries: int
    unchanged: bool
    only: bool
    layer: tuple[str, int] | None = None


def index_inputs(graph: Graph) -> dict[Ref, Indices]:
    """Return the inputs of a graph that are indices into tables, by ref."""
    found = {spec.ref: _indices(graph, spec.ref) for spec in graph.inputs if spec.dtype != "string"}
    return {ref: indices for ref, indices in found.items() if indices is not None}


def moved_from(graph: Graph, start: Ref) -> set[Ref]:
    """Return the tensors that hold values of `start` as they are, in whatever shape, order or dtype."""
    found = {start}
    for call in graph.calls:
        if _kind(call) in _MOVES and found & set(refs_in([call.args, call.kwargs])):
            found.update(call.outputs)
    return found


def _indices(graph: Graph, start: Ref) -> Indices | None:
    moved, computed = {start}, set[Ref]()
    sizes: list[int] = []
    layers: list[tuple[int, str]] = []
    unchanged = only = True
    for call in graph.calls:
        read = set(refs_in([call.args, call.kwargs]))
        if not read & (moved | computed):
            continue
        kind = _kind(call)
        size = _rows(call, moved | computed)
        if size is not None:
            sizes.append(size)
            unchanged &= not read & computed
            if kind in _STRICT and not read & computed:
                layers.append((size, call.leaf.layer.name))
        elif kind in _MOVES or kind in _TABLES:  # of a table, its rows
            (moved if not read & computed else computed).update(call.outputs)
            only &= read <= moved | computed
        elif kind in _COMPUTES:
            computed.update(call.outputs)
            only = False
        else:
            only &= kind in _COMPARES
    only &= not (moved | computed) & set(refs_in(graph.outputs_struct))
    if not sizes:
        return None
    rows, name = min(layers, default=(0, ""))
    return Indices(min(sizes), unchanged, only and unchanged, (name, rows) if layers else None)


def _kind(call: Call) -> str:
    layer = call.leaf.layer
    symbol: str | None = getattr(layer, "symbol", None)
    return symbol.rpartition(".")[2] if symbol else type(layer).__name__


def _rows(call: Call, values: set[Ref]) -> int | None:
    """Return how many rows the table has that the call looks up `values` in; None where it does something else."""
    read = _TABLES.get(_kind(call))
    if read is None:
        return None
    names, _ = call_names(call.leaf.layer)
    arguments = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
    indices, size = read(call.leaf.layer, arguments)
    return size if values & set(refs_in(indices)) else None


_STRICT = ("Embedding", "CategoryEncoding")
"""Layers that fail for a number without a row; others count from the end, or give zeros."""
Read = Callable[[Any, dict[str, Any]], tuple[Any, int | None]]
"""(layer or operation, arguments) -> (the argument that holds indices, how many rows there are)."""


def _by_config(name: str) -> Read:
    return lambda layer, given: (next(iter(given.values())), int(getattr(layer, name)))


def _one_hot(layer: Any, given: dict[str, Any]) -> tuple[Any, int | None]:
    size = given.get("depth", getattr(layer, "num_classes", None))
    return next(iter(given.values())), int(size) if isinstance(size, int) else 2


def _take(layer: Any, given: dict[str, Any]) -> tuple[Any, int | None]:
    indices = given.get("indices", given.get("ids"))
    table = given.get("x", given.get("params"))
    axis = given.get("axis", getattr(layer, "axis", None)) or 0
    shape = getattr(table, "shape", None)
    size = shape[axis] if shape is not None and isinstance(axis, int) and -len(shape) <= axis < len(shape) else None
    return indices, int(size or 2)


_TABLES: dict[str, Read] = {
    "Embedding": _by_config("input_dim"),
    "CategoryEncoding": _by_config("num_tokens"),
    "OneHot": _one_hot,
    "one_hot": _one_hot,
    "Take": _take,
    "TakeAlongAxis": _take,
    "gather": _take,
    "embedding_lookup": _take,
}
