"""Channels of layers with kernels: they read the channels of their input and make new ones."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Call
from tfopt.surgery.channels.atoms import Array
from tfopt.surgery.channels.elementwise import after_activation
from tfopt.surgery.channels.trace import Kept, Labels, Trace, describe, sizes_of, tensors


def dense(trace: Trace, call: Call) -> list[Labels]:
    """Trace a Dense layer: kernel (in, out) along the last axis."""
    layer, leaf, ref = call.leaf.layer, call.leaf, tensors(call)[0]
    labels, last = trace.of(ref), len(sizes_of(ref)) - 1
    inside, out = labels.pop(last, None), trace.opened(leaf, "out", layer.units)
    trace.slot(leaf, layer.kernel, 0, inside)
    trace.slot(leaf, layer.kernel, 1, out, makes=True)
    trace.slot(leaf, layer.bias, 0, out, makes=True)
    trace.set(leaf, "units", out)
    trace.work(leaf, trace.places(ref, last), *_factor(inside, sizes_of(ref)[last]), out)
    return [after_activation(trace, call, {**labels, last: out}, last)]


def convolution(trace: Trace, call: Call) -> list[Labels]:
    """Trace a convolution: kernel (..., in / groups, out)."""
    layer, leaf, ref = call.leaf.layer, call.leaf, tensors(call)[0]
    axis, inside = _channels_alone(trace, call)
    groups, out = getattr(layer, "groups", 1) or 1, trace.opened(leaf, "out", layer.filters)
    read = inside
    if groups > 1 and groups == sizes_of(ref)[axis]:  # each filter reads one channel
        if inside is None:
            trace.fix(out, f"{describe(leaf)} reads each channel of an input whose channels stay")
        trace.atoms.unite(out, np.repeat(_or_fixed(trace, inside, groups), layer.filters // groups))
        read = None
        trace.set(leaf, "groups", _or_fixed(trace, inside, groups))
    elif groups > 1:  # all groups lose the same channels
        trace.atoms.unite(out.reshape(groups, -1), out.reshape(groups, -1)[:1])
        if inside is not None:
            trace.atoms.unite(inside.reshape(groups, -1), inside.reshape(groups, -1)[:1])
            read = inside.reshape(groups, -1)[0]
    trace.slot(leaf, layer.kernel, -2, read)
    trace.slot(leaf, layer.kernel, -1, out, makes=True)
    trace.slot(leaf, layer.bias, 0, out, makes=True)
    trace.set(leaf, "filters", out)
    times = trace.places(call.outputs[0], axis) * math.prod(layer.kernel.shape[:-2])
    trace.work(leaf, times, *_factor(read, int(layer.kernel.shape[-2])), out)
    return [after_activation(trace, call, {axis: out}, axis)]


def transposed(trace: Trace, call: Call) -> list[Labels]:
    """Trace a transposed convolution: kernel (..., out, in)."""
    layer, leaf, ref = call.leaf.layer, call.leaf, tensors(call)[0]
    axis, inside = _channels_alone(trace, call)
    out = trace.opened(leaf, "out", layer.filters)
    trace.slot(leaf, layer.kernel, -1, inside)
    trace.slot(leaf, layer.kernel, -2, out, makes=True)
    trace.slot(leaf, layer.bias, 0, out, makes=True)
    trace.set(leaf, "filters", out)
    times = trace.places(ref, axis) * math.prod(layer.kernel.shape[:-2])
    trace.work(leaf, times, *_factor(inside, int(layer.kernel.shape[-1])), out)
    return [after_activation(trace, call, {axis: out}, axis)]


def depthwise(trace: Trace, call: Call) -> list[Labels]:
    """Trace a depthwise convolution: kernel (..., channels, multiplier)."""
    layer, leaf = call.leaf.layer, call.leaf
    axis, inside = _channels_alone(trace, call)
    kernel = _depthwise_kernel(layer)
    channels, multiplier = (int(size) for size in kernel.shape[-2:])
    inside = _or_fixed(trace, inside, channels)
    out = np.repeat(inside, multiplier)
    trace.slot(leaf, kernel, -2, inside)
    trace.slot(leaf, layer.bias, 0, out)
    trace.work(leaf, trace.places(call.outputs[0], axis) * math.prod(kernel.shape[:-2]), out)
    return [after_activation(trace, call, {axis: out}, axis)]


def separable(trace: Trace, call: Call) -> list[Labels]:
    """Trace a separable convolution: depthwise, then pointwise."""
    layer, leaf = call.leaf.layer, call.leaf
    axis, inside = _channels_alone(trace, call)
    kernel, pointwise = _depthwise_kernel(layer), layer.pointwise_kernel
    channels, multiplier = (int(size) for size in kernel.shape[-2:])
    inside = _or_fixed(trace, inside, channels)
    between, out = np.repeat(inside, multiplier), trace.opened(leaf, "out", layer.filters)
    trace.slot(leaf, kernel, -2, inside)
    trace.slot(leaf, pointwise, -2, between)
    trace.slot(leaf, pointwise, -1, out, makes=True)
    trace.slot(leaf, layer.bias, 0, out, makes=True)
    trace.set(leaf, "filters", out)
    places = trace.places(call.outputs[0], axis)
    trace.work(leaf, places * math.prod(kernel.shape[:-2]), between)
    trace.work(leaf, places, between, out)
    return [after_activation(trace, call, {axis: out}, axis)]


def embedding(trace: Trace, call: Call) -> list[Labels]:
    """Trace an Embedding: a table of vectors (words, out)."""
    layer, leaf, ref = call.leaf.layer, call.leaf, tensors(call)[0]
    trace.fix(trace.of(ref), f"{describe(leaf)} looks its input up in a table")
    out, last = trace.opened(leaf, "out", layer.output_dim), len(sizes_of(ref))
    trace.slot(leaf, layer.embeddings, 1, out, makes=True)
    trace.set(leaf, "output_dim", out)
    return [{last: out}]


def einsum_dense(trace: Trace, call: Call) -> list[Labels]:
    """Trace an EinsumDense, whose letters are axes: one of the kernel and the output makes channels."""
    layer, leaf, ref = call.leaf.layer, call.leaf, tensors(call)[0]
    equation = layer.equation.replace(" ", "")
    reads, made = equation.split("->")
    given, kernel = reads.split(",")
    shape = sizes_of(ref)
    rank = len(sizes_of(call.outputs[0]))
    places, results = _axes(given, len(shape)), _axes(made, rank)
    labels, found = trace.of(ref), {}
    factors: list[Any] = []
    for axis, letter in enumerate(kernel):
        size = int(layer.kernel.shape[axis])
        if letter in places:
            atoms = labels.pop(places[letter], None)
            makes = False
        else:
            atoms, makes = trace.opened(leaf, letter, size), True
        trace.slot(leaf, layer.kernel, axis, atoms, makes=makes)
        factors += _factor(atoms, size)
        if letter in results and atoms is not None:
            found[results[letter]] = atoms
    kept = {places[letter]: results[letter] for letter in places if letter in results and letter not in kernel}
    found |= {kept[axis]: atoms for axis, atoms in labels.items() if axis in kept}
    found |= _beside(given, made, labels, len(shape), rank)
    if layer.bias is not None:
        before = rank - len(layer.bias.shape)
        for axis, size in enumerate(layer.bias.shape):
            if size > 1:
                trace.slot(leaf, layer.bias, axis, found.get(before + axis), makes=True)
    trace.set(leaf, "output_shape", _sizes(layer, found, rank))
    named = [axis for letter, axis in places.items() if letter in kernel]
    trace.work(leaf, trace.places(ref, *named), *factors)
    return [after_activation(trace, call, found, rank - 1)]


def _sizes(layer: Any, found: Labels, rank: int) -> Callable[[Kept], list[Any]]:
    """Return the function to the setting `output_shape` of an EinsumDense: the sizes of its last axes."""
    stated = layer.get_config()["output_shape"]
    stated = [stated] if isinstance(stated, int) else list(stated)
    first = rank - len(stated)
    return lambda kept: [
        int(kept(found[first + place]).sum()) if first + place in found else size for place, size in enumerate(stated)
    ]


def _axes(letters: str, rank: int) -> dict[str, int]:
    """Return the axis of each letter of a tensor; "..." stands for the axes that are left."""
    head, dots, tail = letters.partition("...")
    axes = {letter: axis for axis, letter in enumerate(head)}
    return axes | {letter: rank - len(tail) + axis for axis, letter in enumerate(tail)} if dots else axes


def _beside(given: str, made: str, labels: Labels, rank: int, rank_made: int) -> Labels:
    """Return the labels of the axes that "..." stands for."""
    if "..." not in given or "..." not in made:
        return {}
    first, last = len(given.partition("...")[0]), rank - len(given.partition("...")[2])
    shift = len(made.partition("...")[0]) - first
    return {axis + shift: atoms for axis, atoms in labels.items() if first <= axis < last}


def _channels_alone(trace: Trace, call: Call) -> tuple[int, Array | None]:
    """Return the axis of the channels of a convolution, and those of its input; those of places stay."""
    layer, ref = call.leaf.layer, tensors(call)[0]
    axis = 1 if layer.data_format == "channels_first" else len(sizes_of(ref)) - 1
    labels = trace.of(ref)
    inside = labels.pop(axis, None)
    trace.fix(labels, f"{describe(call.leaf)} mixes neighbors")
    return axis, inside


def _depthwise_kernel(layer: Any) -> Any:
    (name,) = [name for name in facts_of(layer).kernels if name.startswith("depthwise")]
    return layer.kernel if getattr(layer, name, None) is None else getattr(layer, name)


def _or_fixed(trace: Trace, atoms: Array | None, count: int) -> Array:
    return trace.fixed(count) if atoms is None else atoms


def _factor(atoms: Array | None, size: int | None) -> list[Any]:
    return [int(size or 1)] if atoms is None else [atoms]
