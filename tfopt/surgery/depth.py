"""Change the depth of a model by repeating or removing equal blocks."""

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
    """Equal consecutive blocks, each with an output of the same shape as its input.

    Attributes:
        shape: of that tensor, without the batch axis.
        blocks: the paths of the layers in each.
        count: number of blocks at the requested depth.
    """

    shape: tuple[int | None, ...]
    blocks: tuple[tuple[str, ...], ...]
    count: int

    def __str__(self) -> str:
        size = " x ".join("?" if axis is None else str(axis) for axis in self.shape)
        return f"{size}: {len(self.blocks)} -> {self.count} blocks like {self.blocks[0][0]} ... {self.blocks[0][-1]}"


def repeatable_blocks(model: Any, depth: float = 1.0) -> tuple[BlockGroup, ...]:
    """Return the stages of `model` whose number of blocks `restructure(model, depth=depth)` changes, with new counts.

    A block lies between two cut points with a single tensor of the same shape, and contains a kernel: a residual block
    with the activation after it, or a layer with its normalization and activation. A depthwise convolution belongs to
    the layer after it; neighbors that always repeat together, such as attention and MLP, form one block. Layers that
    are also called elsewhere and the classifier belong to none.

    Args:
        model: of either Keras.
        depth: the factor on the number of blocks.

    Raises:
        ModelError: a model that is not built.

    Examples:
        >>> convolutions = [keras.layers.Conv2D(4, 3, padding="same", name=f"conv_{number}") for number in range(3)]
        >>> deep = keras.Sequential([keras.Input((8, 8, 4)), *convolutions])
        >>> tfopt.transfer.repeatable_blocks(deep, depth=2.0)
        (BlockGroup(shape=(8, 8, 4), blocks=(('conv_0',), ('conv_1',)), count=4),)
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
    """Return `graph` with the number of blocks in each stage multiplied by `depth`; added ones copy the last.

    Raises:
        ModelError: that changes nothing.
    """
    found = runs(graph)
    if not found:
        raise ModelError(
            f"'{graph.name}' has no block to repeat or leave out, with an output of the same shape as its input: pass "
            "depth=1.0."
        )
    before, counts = [len(run.blocks) for run in found], [_count(len(run.blocks), depth) for run in found]
    if counts == before:
        raise ModelError(
            f"depth={depth:g} changes nothing: the stages of '{graph.name}' keep their {before} blocks; choose a depth "
            "further from 1."
        )
    return _rebuilt(graph, found, counts)


def _count(blocks: int, depth: float) -> int:
    """Return the new number of blocks; at least one if there were several."""
    return max(min(blocks - 1, 1), math.floor(blocks * depth + 0.5))


def _rebuilt(graph: Graph, found: list[Run], counts: list[int]) -> Graph:
    """Return `graph` with `counts` blocks in the stages of `found`."""
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
    """Return the calls of the blocks that `run` lacks for `count`, and the output tensor of the last block."""
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
