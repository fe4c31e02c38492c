"""The parts of a flat layer graph, and helpers for nested tensors."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Ref:
    """A tensor of a `Graph`, identified by its number. `shape` includes the batch axis, None where it is free."""

    number: int
    shape: tuple[int | None, ...] | None = dataclasses.field(default=None, compare=False)
    dtype: str = dataclasses.field(default="", compare=False)
    masked: bool = dataclasses.field(default=False, compare=False)  # carries a Keras mask


@dataclasses.dataclass(eq=False)
class Leaf:
    """A layer that is not a model, however often it is called; or one call of an operation of `keras.ops`."""

    layer: Any  # the caller's own object, or a Keras 3 Operation: read-only
    path: str  # its location, "outer/inner/layer"
    trainable: bool  # its own flag combined with those of the enclosing models
    name: str = ""  # unique in the flat model


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a leaf. `args` and `kwargs` hold a `Ref` for each input tensor.

    For a layer, the first argument is positional and all others are keywords, as TF-MOT's wrappers require.
    """

    leaf: Leaf
    args: list[Any]
    kwargs: dict[str, Any]
    outputs: tuple[Ref, ...]  # flattened


@dataclasses.dataclass(frozen=True)
class GraphInput:
    """An input of the model. `shape` includes the batch axis, None where it is free."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    ref: Ref


@dataclasses.dataclass
class Graph:
    """A model without its nesting. The two structs nest refs the way the model nests its tensors."""

    name: str
    inputs: list[GraphInput]
    calls: list[Call]
    leaves: list[Leaf]
    inputs_struct: Any
    outputs_struct: Any


def map_leaves(function: Callable[[Any], Any], struct: Any) -> Any:
    """Return `struct` (lists, tuples, dicts) with `function` applied to everything that is not a container."""
    if isinstance(struct, dict):
        return {key: map_leaves(function, value) for key, value in struct.items()}
    if type(struct) in (list, tuple):
        return type(struct)(map_leaves(function, value) for value in struct)
    return function(struct)


def flatten(struct: Any) -> list[Any]:
    """Return the leaves of `struct`, dicts in the order of their sorted keys, as in both Kerases."""
    if isinstance(struct, dict):
        return [leaf for key in sorted(struct) for leaf in flatten(struct[key])]
    if isinstance(struct, (list, tuple)):
        return [leaf for value in struct for leaf in flatten(value)]
    return [struct]


def replay(
    graph: Graph,
    tensors: dict[Ref, Any],
    run: Callable[[Leaf, list[Any], dict[str, Any]], Any],
    arguments: Callable[[Call], tuple[list[Any], dict[str, Any]]] = lambda call: (call.args, call.kwargs),
) -> tuple[Any, Any]:
    """Call every leaf of `graph` in order; return the inputs and outputs in the model's nesting.

    `tensors` holds the inputs by ref and collects all results. `run(leaf, args, kwargs)` performs one call; `arguments`
    returns the arguments of a call, with refs, by default the graph's own.
    """
    for call in graph.calls:
        args, kwargs = map_leaves(lambda part: tensors[part] if isinstance(part, Ref) else part, arguments(call))
        tensors.update(zip(call.outputs, flatten(run(call.leaf, args, kwargs)), strict=True))
    inputs, outputs = map_leaves(tensors.__getitem__, (graph.inputs_struct, graph.outputs_struct))
    return inputs, outputs


def refs_in(struct: Any) -> Iterator[Ref]:
    """Yield every `Ref` in `struct`."""
    return (leaf for leaf in flatten(struct) if isinstance(leaf, Ref))


def is_layer(thing: Any) -> bool:
    """Return False for an operation of `keras.ops`."""
    return hasattr(thing, "get_weights")


def is_nested(struct: Any) -> bool:
    """Return whether a dict, list or tuple in `struct` holds another one."""
    parts = struct.values() if isinstance(struct, dict) else struct if isinstance(struct, (list, tuple)) else ()
    return any(isinstance(part, (dict, list, tuple)) for part in parts)


def pack(struct: Any, flat: list[Any]) -> Any:
    """Return `flat` in the structure of `struct`; fill dicts in the order of their sorted keys."""
    values = iter(flat)

    def fill(part: Any) -> Any:
        if isinstance(part, dict):
            filled = {key: fill(part[key]) for key in sorted(part)}
            return {key: filled[key] for key in part}
        if isinstance(part, (list, tuple)):
            return [fill(value) for value in part]
        return next(values)

    return fill(struct)
