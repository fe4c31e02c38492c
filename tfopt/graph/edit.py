"""Graphs with fewer or more layers than the model they come from."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from tfopt.errors import ModelError
from tfopt.graph.types import Call, Graph, Leaf, Ref, flatten, map_leaves, refs_in


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbor:
    """A new layer beside one of a graph.

    Attributes:
        leaf: the new layer, which takes one tensor.
        side: whether it stands before or after the other layer.
        shape: of its output, with the batch axis.
    """

    leaf: Leaf
    side: Literal["before", "after"]
    shape: tuple[int | None, ...]


def as_neighbor(layer: Any, side: Literal["before", "after"], shape: Sequence[int | None]) -> Neighbor:
    """Return the place of a new `layer` under its own name; `shape` is that of its output, with the batch axis."""
    return Neighbor(Leaf(layer, layer.name, layer.trainable, layer.name), side, tuple(shape))


def skipped(graph: Graph, names: Collection[str]) -> Graph:
    """Return `graph` without the leaves `names`: each passes its input on.

    A merge that is skipped passes on what the rest of the graph computes: of a residual block, the shortcut.

    Raises:
        ModelError: a skipped leaf has several inputs that the rest of the graph computes, or changes the shape.
    """
    passed: dict[Ref, Ref] = {}
    calls = []
    for call in graph.calls:
        if call.leaf.name in names:
            source = _passed_on(call, passed, graph)
            passed |= dict.fromkeys(call.outputs, source)
        else:
            calls.append(_rewired(call, passed))
    outputs = map_leaves(lambda part: passed.get(part, part) if isinstance(part, Ref) else part, graph.outputs_struct)
    used = [ref for call in graph.calls if call.leaf.name not in names for ref in refs_in([call.args, call.kwargs])]
    _require_same_shapes(passed, {*used, *flatten(graph.outputs_struct)})
    leaves = [leaf for leaf in graph.leaves if leaf.name not in names]
    return dataclasses.replace(graph, calls=calls, leaves=leaves, outputs_struct=outputs)


def _passed_on(call: Call, passed: Mapping[Ref, Ref], graph: Graph) -> Ref:
    """Return the input that a skipped call passes on; of several from skipped calls, the one that the others read."""
    refs = dict.fromkeys(refs_in([call.args, call.kwargs]))
    staying = {ref for ref in refs if ref not in passed}
    found = staying or {passed[ref] for ref in refs}
    if not staying and len(found) > 1:
        found = {ref for ref in found if found <= _computed_from(ref, graph)}
    if len(found) != 1:
        raise ModelError(f"'{call.leaf.name}' cannot be skipped: it joins {len(staying or refs)} tensors that stay.")
    return found.pop()


def _computed_from(ref: Ref, graph: Graph) -> set[Ref]:
    """Return `ref` and all tensors that are computed from it."""
    found = {ref}
    for call in graph.calls:
        if not found.isdisjoint(refs_in([call.args, call.kwargs])):
            found.update(call.outputs)
    return found


def _require_same_shapes(places: Mapping[Ref, Ref], used: Collection[Any]) -> None:
    for ref, source in places.items():
        if ref in used and ref.shape != source.shape:
            raise ModelError(
                f"A layer cannot be skipped: its output has the shape {ref.shape}, its input {source.shape}."
            )


def _rewired(call: Call, places: Mapping[Ref, Ref]) -> Call:
    args, kwargs = map_leaves(
        lambda part: places.get(part, part) if isinstance(part, Ref) else part, (call.args, call.kwargs)
    )
    return dataclasses.replace(call, args=args, kwargs=kwargs)


def with_neighbors(graph: Graph, neighbors: Mapping[str, Neighbor]) -> Graph:
    """Return `graph` with a new layer beside each layer named in `neighbors`."""
    number = max(ref.number for call in graph.calls for ref in call.outputs) + 1
    calls, leaves, passed = list[Call](), list[Leaf](), dict[Ref, Ref]()
    for call in graph.calls:
        call = _rewired(call, passed)
        neighbor = neighbors.get(call.leaf.name)
        if neighbor is None:
            calls.append(call)
            continue
        (given,) = call.args if neighbor.side == "before" else call.outputs
        made = Ref(number, neighbor.shape, given.dtype, given.masked)
        number += 1
        between = Call(neighbor.leaf, [given], {}, (made,))
        if neighbor.side == "before":
            calls += [between, dataclasses.replace(call, args=[made])]
        else:
            calls += [call, between]
            passed[given] = made
    for leaf in graph.leaves:
        beside: Any = neighbors.get(leaf.name)
        leaves += [leaf] if beside is None else [beside.leaf, leaf] if beside.side == "before" else [leaf, beside.leaf]
    outputs = map_leaves(lambda part: passed.get(part, part) if isinstance(part, Ref) else part, graph.outputs_struct)
    return dataclasses.replace(graph, calls=calls, leaves=leaves, outputs_struct=outputs)
