"""Channels of normalizations and of the softmax."""

import numpy as np

from tfopt.graph.types import Call
from tfopt.surgery.channels.trace import Labels, Trace, describe, sizes_of, tensors


def by_channel(trace: Trace, call: Call) -> list[Labels]:
    """Trace a BatchNormalization: statistics of each channel."""
    layer, ref = call.leaf.layer, tensors(call)[0]
    labels, axes = trace.of(ref), _axes(layer.axis, len(sizes_of(ref)))
    if len(axes) > 1:
        for axis in axes:
            trace.fix(labels.get(axis), f"{describe(call.leaf)} has statistics over several axes")
        return [labels]
    for weight in layer.weights:
        trace.slot(call.leaf, weight, 0, labels.get(axes[0]))
    return [labels]


def over_channels(trace: Trace, call: Call) -> list[Labels]:
    """Trace a LayerNormalization, whose statistics change when channels are removed."""
    layer, ref = call.leaf.layer, tensors(call)[0]
    labels, axes = trace.of(ref), _axes(layer.axis, len(sizes_of(ref)))
    normalized = [axis for axis in axes if axis in labels]
    if normalized and not (trace.through_norms and len(axes) == 1):
        for axis in normalized:
            trace.fix(labels.pop(axis), f"{describe(call.leaf)} normalizes over them")
        return [labels]
    if normalized:
        trace.renormalized.append(call)
        for weight in layer.weights:
            trace.slot(call.leaf, weight, 0, labels[axes[0]])
    return [labels]


def in_groups(trace: Trace, call: Call) -> list[Labels]:
    """Trace a GroupNormalization: of each channel, or over the channels of each group."""
    layer, ref = call.leaf.layer, tensors(call)[0]
    labels, (axis,) = trace.of(ref), _axes(layer.axis, len(sizes_of(ref)))
    atoms, count = labels.get(axis), sizes_of(ref)[axis]
    if atoms is None:
        return [labels]
    if layer.groups == count:
        trace.set(call.leaf, "groups", atoms)
    elif not trace.through_norms:
        trace.fix(labels.pop(axis), f"{describe(call.leaf)} normalizes over them")
        return [labels]
    else:
        trace.renormalized.append(call)
        rows = atoms.reshape(layer.groups, -1)
        trace.atoms.unite(rows, rows[:1])
    for weight in layer.weights:
        trace.slot(call.leaf, weight, 0, atoms)
    return [labels]


def over_length(trace: Trace, call: Call) -> list[Labels]:
    """Trace a UnitNormalization: zeros do not change the length."""
    ref = tensors(call)[0]
    trace.need_zeros(ref, trace.of(ref), f"{describe(call.leaf)} divides by the length")
    return [trace.of(ref) for _ in call.outputs]


def softmax(trace: Trace, call: Call) -> list[Labels]:
    """Trace a softmax along some axes."""
    ref = tensors(call)[0]
    labels = trace.of(ref)
    for axis in _axes(getattr(call.leaf.layer, "axis", -1), len(sizes_of(ref))):
        trace.fix(labels.pop(axis, None), f"{describe(call.leaf)} reads all of them")
    return [labels]


def _axes(axis: object, rank: int) -> list[int]:
    return [int(each) % rank for each in np.ravel(axis)]  # type: ignore[call-overload]
