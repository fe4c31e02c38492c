"""Find the floats that a model makes indices of, such as numbers of words plus an offset, also inside its layers."""

from typing import Any

from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Graph, Ref, replay

_COMPUTING = frozenset(
    {"Abs", "Add", "AddN", "AddV2", "BiasAdd", "Cast", "Ceil", "Cumsum", "Floor", "FloorDiv", "FloorMod", "Max"}
    | {"Maximum", "Min", "Minimum", "Mul", "Neg", "Pow", "Prod", "RealDiv", "Relu", "Rint", "Round", "Select"}
    | {"SelectV2", "Square", "Sub", "Sum"}
)
_MOVING = frozenset(
    {"BroadcastTo", "ConcatV2", "ExpandDims", "GatherNd", "GatherV2", "Identity", "Pack", "Pad", "PadV2", "Reshape"}
    | {"ReverseV2", "Slice", "Split", "SplitV", "Squeeze", "StopGradient", "StridedSlice", "Tile", "Transpose"}
    | {"Unpack"}
)


def index_values(graph: Graph) -> set[Ref]:
    """Return the float tensors of a flat tf_keras model from which it makes integers, back to other computations.

    The layers run once on symbolic tensors, since what a Lambda or a layer of the user's own does shows only then.
    """
    import tensorflow as tf

    if not any(map(_may_look_up, (leaf.layer for leaf in graph.leaves))):
        return set()
    tensors: dict[Ref, Any] = {}

    def traced(*inputs: Any) -> None:
        tensors.update((spec.ref, given) for spec, given in zip(graph.inputs, inputs, strict=True))
        replay(graph, tensors, lambda leaf, args, kwargs: leaf.layer(*args, **kwargs))

    specs = [tf.TensorSpec(spec.shape, spec.dtype) for spec in graph.inputs]
    try:
        concrete = tf.function(traced, autograph=False).get_concrete_function(*specs)
    except Exception:  # a model that cannot be traced has no file, which is said when there is to be one
        return set()
    found = _sources(concrete.graph.get_operations())
    return {ref for ref, tensor in tensors.items() if getattr(tensor, "name", None) in found}


def _sources(operations: list[Any]) -> set[str]:
    """Return the names of the float tensors that casts to integers start from."""
    left = [op.inputs[0] for op in operations if op.type == "Cast" and op.outputs[0].dtype.is_integer]
    found: set[str] = set()
    while left:
        tensor = left.pop()
        if tensor.name in found or not tensor.dtype.is_floating:
            continue
        found.add(tensor.name)
        if tensor.op.type in _COMPUTING | _MOVING:
            left += list(tensor.op.inputs)
    return found


def _may_look_up(layer: Any) -> bool:
    kind, symbol = type(layer), str(getattr(layer, "symbol", ""))
    own = not kind.__module__.startswith("tf_keras.") or kind.__name__ == "Lambda"
    return own or facts_of(layer).looks_up or symbol.rpartition(".")[2] == "cast"
