"""Residual blocks: what an addition joins to a shortcut, and the model without some of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tfopt.bridge.build import build, plans_of
from tfopt.graph.edit import skipped
from tfopt.graph.types import Call, Graph, Ref, flatten, refs_in
from tfopt.graph.walk import walk
from tfopt.surgery.sizes import kind_of

_ADDITIONS = ("add", "addv2")


@dataclass(frozen=True, eq=False)
class ResidualBlock:
    """A branch that is added to a shortcut.

    Attributes:
        name: of the addition.
        layers: names of the leaves that go with the block: the branch and the addition.
    """

    name: str
    layers: tuple[str, ...]


def residual_blocks(flat_model: Any) -> list[ResidualBlock]:
    """Return the blocks of a flat tf_keras model that can be skipped, in calling order.

    The branch is what one side of an addition computes from a single tensor and the other side does not need; nothing
    else reads it, and it contains a kernel. Where both sides are branches, as behind a projection shortcut, the one
    with more layers counts.
    """
    graph = walk(flat_model, keep_names=True)
    makers = {ref: call for call in graph.calls for ref in call.outputs}
    readers: dict[Ref, list[Call]] = {}
    for call in graph.calls:
        for ref in set(refs_in([call.args, call.kwargs])):
            readers.setdefault(ref, []).append(call)
    ends = set(flatten(graph.outputs_struct))
    found = []
    for call in graph.calls:
        refs = list(refs_in([call.args, call.kwargs]))
        if kind_of(call.leaf) not in _ADDITIONS or len(refs) != 2 or len({ref.shape for ref in refs}) != 1:
            continue
        sides = [_branch(refs[one], refs[1 - one], makers) for one in (0, 1)]
        side = max((0, 1), key=lambda number: len(sides[number]))
        branch, shortcut = sides[side], refs[1 - side]
        source = _source(branch)
        joins = source is not None and (source == shortcut or source in _read_for(shortcut, makers))
        if joins and _is_alone(graph, branch, call, readers, ends):
            found.append(ResidualBlock(call.leaf.name, (*(each.leaf.name for each in branch), call.leaf.name)))
    return found


def _branch(end: Ref, other: Ref, makers: dict[Ref, Call]) -> list[Call]:
    """Return the calls that `end` needs and `other` does not."""
    needed = _ancestors(end, makers)
    besides = {id(call) for call in _ancestors(other, makers)}
    return [call for call in needed if id(call) not in besides]


def _source(branch: list[Call]) -> Ref | None:
    """Return the tensor from outside that a branch reads; None if there are several."""
    made = {ref for call in branch for ref in call.outputs}
    read = {ref for call in branch for ref in refs_in([call.args, call.kwargs])} - made
    return read.pop() if len(read) == 1 else None


def _read_for(ref: Ref, makers: dict[Ref, Call]) -> set[Ref]:
    """Return all tensors from which `ref` is computed."""
    return {given for call in _ancestors(ref, makers) for given in refs_in([call.args, call.kwargs])}


def _ancestors(ref: Ref, makers: dict[Ref, Call]) -> list[Call]:
    found: dict[int, Call] = {}
    waiting = [ref]
    while waiting:
        call = makers.get(waiting.pop())
        if call is not None and id(call) not in found:
            found[id(call)] = call
            waiting += refs_in([call.args, call.kwargs])
    return list(found.values())


def _is_alone(graph: Graph, branch: list[Call], addition: Call, readers: dict[Ref, list[Call]], ends: set[Any]) -> bool:
    """Return whether a branch has a kernel and is read by nothing but the addition, and both are called once."""
    own = {id(call) for call in branch}
    leaves = {id(call.leaf) for call in (*branch, addition)}
    made = {ref for call in branch for ref in call.outputs}
    return (
        any(len(weight.shape) > 1 for call in branch for weight in getattr(call.leaf.layer, "weights", ()))
        and not made & ends
        and all(id(reader) in own or reader is addition for ref in made for reader in readers.get(ref, []))
        and not any(id(call.leaf) in leaves for call in graph.calls if id(call) not in own and call is not addition)
    )


def without_blocks(flat_model: Any, blocks: Iterable[ResidualBlock]) -> Any:
    """Return a new flat tf_keras model in which the shortcuts of `blocks` stand for the whole blocks.

    Args:
        flat_model: flat tf_keras.
        blocks: of `residual_blocks(flat_model)`.
    """
    names = {name for block in blocks for name in block.layers}
    graph = skipped(walk(flat_model, keep_names=True), names)
    return build(graph, plans_of(graph))
