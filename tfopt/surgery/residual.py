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

    The branch is what one side of an addition computes from a single tensor, and nothing else needs; it contains a
    kernel. What branches share, as the normalization before a parallel attention, stays. Where both sides are branches,
    as behind a projection shortcut, the one with more layers counts.
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
        sides = [(_branch(refs[one], refs[1 - one], makers), refs[1 - one]) for one in (0, 1)]
        for whole, shortcut in sorted(sides, key=lambda side: -len(side[0])):
            branch = _unshared(whole, call, readers, ends)
            source = _source(branch)
            if source is not None and _joins(source, shortcut, makers) and _is_whole(graph, branch, call):
                found.append(ResidualBlock(call.leaf.name, (*(each.leaf.name for each in branch), call.leaf.name)))
                break
    return found


def _branch(end: Ref, other: Ref, makers: dict[Ref, Call]) -> list[Call]:
    """Return the calls that `end` needs and `other` does not."""
    needed = _ancestors(end, makers)
    besides = {id(call) for call in _ancestors(other, makers)}
    return [call for call in needed if id(call) not in besides]


def _unshared(branch: list[Call], addition: Call, readers: dict[Ref, list[Call]], ends: set[Any]) -> list[Call]:
    """Return the calls of a branch that nothing but the addition needs."""
    own = list(branch)
    while shared := [call for call in own if _is_read_elsewhere(call, [*own, addition], readers, ends)]:
        own = [call for call in own if all(call is not one for one in shared)]
    return own


def _is_read_elsewhere(call: Call, inside: list[Call], readers: dict[Ref, list[Call]], ends: set[Any]) -> bool:
    found = [reader for ref in call.outputs for reader in readers.get(ref, [])]
    return bool(ends.intersection(call.outputs)) or any(all(reader is not one for one in inside) for reader in found)


def _joins(source: Ref, shortcut: Ref, makers: dict[Ref, Call]) -> bool:
    """Return whether a branch from `source` and a shortcut have met before: one of them is computed from the other."""
    return source == shortcut or source in _read_for(shortcut, makers) or shortcut in _read_for(source, makers)


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


def _is_whole(graph: Graph, branch: list[Call], addition: Call) -> bool:
    """Return whether a branch has a kernel, and its layers and the addition are called nowhere else."""
    own = {id(call) for call in branch}
    leaves = {id(call.leaf) for call in (*branch, addition)}
    return any(
        len(weight.shape) > 1 for call in branch for weight in getattr(call.leaf.layer, "weights", ())
    ) and not any(id(call.leaf) in leaves for call in graph.calls if id(call) not in own and call is not addition)


def without_blocks(flat_model: Any, blocks: Iterable[ResidualBlock]) -> Any:
    """Return a new flat tf_keras model in which the shortcuts of `blocks` stand for the whole blocks.

    Args:
        flat_model: flat tf_keras.
        blocks: of `residual_blocks(flat_model)`.
    """
    names = {name for block in blocks for name in block.layers}
    graph = skipped(walk(flat_model, keep_names=True), names)
    return build(graph, plans_of(graph))
