"""The blocks of a model that may stand there once more or once less."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

from tfopt.errors import ModelError
from tfopt.graph.types import Call, Graph, Leaf, Ref, map_leaves, refs_in
from tfopt.graph.walk import walk
from tfopt.surgery.blocks import Run, rewired, runs


@dataclasses.dataclass(frozen=True)
class BlockGroup:
    """Equal blocks, one behind the other, each of which gives a tensor of the shape that it takes.

    Attributes:
        shape: of that tensor, without the batch axis.
        blocks: the paths of the layers in each.
        count: how many there are at the depth that was asked for.
    """

    shape: tuple[int | None, ...]
    blocks: tuple[tuple[str, ...], ...]
    count: int

    def __str__(self) -> str:
        size = " x ".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{size}: {len(self.blocks)} -> {self.count} blocks like {self.blocks[0][0]} ... {self.blocks[0][-1]}"


def repeatable_blocks(model: Any, depth: float = 1.0) -> tuple[BlockGroup, ...]:
    """The stages of `model` whose number of blocks `restructure(model, depth=depth)` changes, and to what.

    A block lies between two places where a single tensor passes, of equal shapes, and holds a kernel: a residual
    block with the activation behind it, or a layer with its normalization and activation. A depthwise convolution
    belongs to the layer behind it; neighbours of which all repeat together, such as attention and MLP, are one block.
    Layers that are called elsewhere too and the classifier are in none. Raises ModelError for a model that is not
    built.
    """
    graph = walk(model, keep_names=True)
    return tuple(
        BlockGroup(
            run.shape,
            tuple(tuple(dict.fromkeys(call.leaf.path for call in block.calls)) for block in run.blocks),
            _count(len(run.blocks), depth),
        )
        for run in runs(graph)
    )


def deepened(graph: Graph, depth: float) -> Graph:
    """`graph` with each stage's number of blocks multiplied by `depth`; its new leaves are those of the last block.

    Raises ModelError where that changes nothing.
    """
    found = runs(graph)
    if not found:
        raise ModelError(
            f"'{graph.name}' has no block that could be repeated or left out, one that gives a tensor of the shape "
            "that it takes: pass depth=1.0."
        )
    before, counts = [len(run.blocks) for run in found], [_count(len(run.blocks), depth) for run in found]
    if counts == before:
        raise ModelError(
            f"depth={depth:g} changes nothing: {before} blocks in the stages of '{graph.name}' stay as many; choose a "
            "depth further from 1."
        )
    return _rebuilt(graph, found, counts)


def _count(blocks: int, depth: float) -> int:
    """Of several blocks at least one stays."""
    return max(min(blocks - 1, 1), math.floor(blocks * depth + 0.5))


def _rebuilt(graph: Graph, found: list[Run], counts: list[int]) -> Graph:
    """`graph` with so many blocks in each stage of `found`."""
    refs = [*refs_in(graph.inputs_struct), *(ref for call in graph.calls for ref in call.outputs)]
    numbers = itertools.count(1 + max(ref.number for ref in refs))
    stands_for: dict[Ref, Ref] = {}
    dropped: set[int] = set()
    ends: dict[int, tuple[Run, int]] = {}
    for run, count in zip(found, counts, strict=True):
        dropped |= {id(call) for block in run.blocks[count:] for call in block.calls}
        ends[id(run.blocks[-1].calls[-1])] = run, count
    calls: list[Call] = []
    for call in graph.calls:
        if id(call) not in dropped:
            calls.append(rewired(call, stands_for))
        if id(call) in ends:
            run, count = ends[id(call)]
            added, last = _added(run, count, numbers)
            calls += [rewired(each, stands_for) for each in added]
            stands_for[run.ends[-1]] = stands_for.get(last, last)
    leaves = list({id(call.leaf): call.leaf for call in calls}.values())
    outputs = map_leaves(lambda ref: stands_for.get(ref, ref), graph.outputs_struct)
    return dataclasses.replace(graph, calls=calls, leaves=leaves, outputs_struct=outputs)


def _added(run: Run, count: int, numbers: Iterator[int]) -> tuple[list[Call], Ref]:
    """The calls of the blocks that `run` lacks for `count`, and the tensor that comes out of the last of `count`."""
    if count <= len(run.blocks):
        return [], run.ends[count]
    calls: list[Call] = []
    *_, before, after = run.ends
    current = after
    for repeat in range(1, count - len(run.blocks) + 1):
        places, leaves = {before: current}, dict[int, Leaf]()
        for call in run.blocks[-1].calls:
            leaf = leaves.setdefault(id(call.leaf), _again(call.leaf, repeat))
            made = tuple(dataclasses.replace(ref, number=next(numbers)) for ref in call.outputs)
            calls.append(dataclasses.replace(rewired(call, places), leaf=leaf, outputs=made))
            places |= dict(zip(call.outputs, made, strict=True))
        current = places[after]
    return calls, current


def _again(leaf: Leaf, repeat: int) -> Leaf:
    return Leaf(leaf.layer, f"{leaf.path}_repeat{repeat}", leaf.trainable, f"{leaf.name}_repeat{repeat}")
