"""Channels of layers and operations that move values, or read several places."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.graph.types import Call, Ref
from tfopt.surgery.channels.atoms import Array
from tfopt.surgery.channels.trace import Labels, Trace, describe, sizes_of, tensors, without


def pooling(trace: Trace, call: Call) -> list[Labels]:
    """Trace a layer that combines neighboring positions within each channel."""
    ref = tensors(call)[0]
    axis = channel_axis(call, len(sizes_of(ref)))
    labels = trace.of(ref)
    channels = labels.pop(axis, None)
    trace.fix(labels, f"{describe(call.leaf)} joins neighbors")
    made = len(sizes_of(call.outputs[0]))
    at = axis if made == len(sizes_of(ref)) else 1
    return [{} if channels is None else {at: channels}]


def channel_axis(call: Call, rank: int) -> int:
    """Return the axis of the channels of a layer with places."""
    return 1 if getattr(call.leaf.layer, "data_format", "") == "channels_first" else rank - 1


def flattening(trace: Trace, call: Call) -> list[Labels]:
    """Trace a Flatten or a Reshape."""
    ref, made = tensors(call)[0], call.outputs[0]
    labels, sizes = trace.of(ref), sizes_of(ref)
    if getattr(call.leaf.layer, "data_format", "") == "channels_first" and len(sizes) > 2:  # Flatten: channels last
        order = [0, *range(2, len(sizes)), 1]
        labels = {order.index(axis): atoms for axis, atoms in labels.items()}
        sizes = tuple(sizes[axis] for axis in order)
    found = reshaped(trace, labels, sizes, sizes_of(made), describe(call.leaf))
    kind = type(call.leaf.layer).__name__
    if kind == "Reshape" and found:
        stated = list(sizes_of(made)[1:])

        def target(kept: Any) -> list[int]:
            now = [int(kept(found[axis]).sum()) if axis in found else size for axis, size in enumerate(stated, 1)]
            return [-1 if size is None else size for size in now]

        trace.set(call.leaf, "target_shape", target)
    return [found]


def reshaped(trace: Trace, labels: Labels, given: Sequence[int | None], made: Sequence[int | None], who: str) -> Labels:
    """Return the labels after a reshape from `given` to `made`, both with the batch axis.

    Channels that come to lie in a block of several axes are tied together across all but the last of these.
    """
    if not labels:
        return {}
    if given[:1] != made[:1]:
        trace.fix(labels, f"{who} moves values between samples")
        return {}
    found: Labels = {}
    for old, new in _blocks(given[1:], made[1:]):
        inside = {axis: labels[axis + 1] for axis in old if axis + 1 in labels}
        if not inside:
            continue
        sizes = [given[axis + 1] for axis in old], [made[axis + 1] for axis in new]
        if len(old) == len(new) == 1:
            found[new[0] + 1] = inside[old[0]]
        elif any(size is None for part in sizes for size in part) or not new:
            trace.fix(inside, f"{who} has sizes that are not known")
        else:
            found |= _regrouped(trace, inside, old, new, sizes, who)
    return found


def _regrouped(
    trace: Trace, inside: Labels, old: list[int], new: list[int], sizes: tuple[list[Any], list[Any]], who: str
) -> Labels:
    """Return the labels of the axes `new` (without the batch axis) that the axes `old` become."""
    *others, axis = sorted(inside)
    for other in others:
        trace.fix(inside[other], f"{who} mixes two axes of channels")
    shape = [1] * len(old)
    shape[old.index(axis)] = -1
    flat = np.broadcast_to(inside[axis].reshape(shape), sizes[0]).reshape(sizes[1])
    long = [place for place, size in enumerate(sizes[1]) if size > 1] or [len(new) - 1]
    rows = np.moveaxis(flat, long[-1], -1).reshape(-1, sizes[1][long[-1]])
    trace.atoms.unite(rows, rows[:1])
    return {new[long[-1]] + 1: rows[0].copy()}


def _blocks(given: Sequence[int | None], made: Sequence[int | None]) -> list[tuple[list[int], list[int]]]:
    """Return the axes that become each other, in blocks as small as possible."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(given) or j < len(made):
        old, new = ([i] if i < len(given) else []), ([j] if j < len(made) else [])
        i, j = i + len(old), j + len(new)
        while not _same_size(given, old, made, new) and (i < len(given) or j < len(made)):
            if j >= len(made) or (i < len(given) and _is_smaller(given, old, made, new)):
                old.append(i)
                i += 1
            else:
                new.append(j)
                j += 1
        blocks.append((old, new))
    return blocks


def _same_size(given: Sequence[int | None], old: list[int], made: Sequence[int | None], new: list[int]) -> bool:
    ours, theirs = [given[axis] for axis in old], [made[axis] for axis in new]
    if None in ours or None in theirs:
        return ours == theirs == [None]
    return math.prod(size or 0 for size in ours) == math.prod(size or 0 for size in theirs)


def _is_smaller(given: Sequence[int | None], old: list[int], made: Sequence[int | None], new: list[int]) -> bool:
    return math.prod(given[axis] or 1 for axis in old) < math.prod(made[axis] or 1 for axis in new)


def permuting(trace: Trace, call: Call) -> list[Labels]:
    """Trace a Permute."""
    dims = (0, *call.leaf.layer.dims)
    labels = trace.of(tensors(call)[0])
    return [{dims.index(axis): atoms for axis, atoms in labels.items()}]


def repeating(trace: Trace, call: Call) -> list[Labels]:
    """Trace a RepeatVector, which adds an axis before the last."""
    return [{axis + 1: atoms for axis, atoms in trace.of(tensors(call)[0]).items()}]


def reduced(trace: Trace, labels: Labels, axes: Sequence[int], keepdims: bool, sums: bool, who: str) -> Labels:
    """Return the labels after a sum, mean or maximum over `axes`; only a sum tolerates missing channels."""
    for axis in axes:
        if not sums:
            trace.fix(labels.get(axis), f"{who} reads all of them")
    left = {axis: atoms for axis, atoms in labels.items() if axis not in axes}
    if keepdims:
        return left
    for axis in sorted(axes, reverse=True):
        left = without(left, axis)
    return left


def split_evenly(trace: Trace, atoms: Array, parts: int) -> list[Array]:
    """Return the channels of equal parts, which all lose the same ones, so that they stay equal."""
    rows = atoms.reshape(parts, -1)
    trace.atoms.unite(rows, rows[:1])
    return list(rows)


def cut(trace: Trace, call: Call, key: Any) -> list[Labels]:
    """Trace indexing: channels of axes taken whole pass through; those of sliced axes cannot be removed."""
    (ref,) = [part for part in tensors(call) if isinstance(part, Ref)][:1]
    labels, found, axis, place = trace.of(ref), {}, 0, 0
    items = list(key) if isinstance(key, tuple | list) else [key]
    missing = len(sizes_of(ref)) - sum(item is not None and item is not Ellipsis for item in items)
    where = next((n for n, item in enumerate(items) if item is Ellipsis), len(items))
    items = [*items[:where], *[slice(None)] * missing, *items[where + 1 :]]
    for item in items:
        if item is None:
            place += 1
            continue
        if item == slice(None):
            if axis in labels:
                found[place] = labels[axis]
            place += 1
        else:
            trace.fix(labels.get(axis), f"{describe(call.leaf)} takes some of them by number")
            place += not isinstance(item, int)
        axis += 1
    return [found]
