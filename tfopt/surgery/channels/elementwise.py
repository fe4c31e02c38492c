"""Channels of layers and operations that treat each value by itself, or join tensors value by value."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfopt.graph.types import Call, Ref, flatten
from tfopt.surgery.channels.atoms import Array
from tfopt.surgery.channels.trace import Kept, Labels, Trace, describe, sizes_of, tensors

# Activations that read all channels, by name; every other one of Keras treats each value by itself.
_MIXING = ("softmax", "log_softmax", "sparsemax", "glu", "sparse_plus")


def after_activation(trace: Trace, call: Call, labels: Labels, axis: int) -> Labels:
    """Return `labels` after the activation of a layer, which may tie the channels of `axis` together."""
    activation = getattr(call.leaf.layer, "activation", None)
    if treats_alone(activation):
        return labels
    trace.fix(labels.get(axis), f"{describe(call.leaf)} applies {_name_of(activation)} to all channels")
    return {key: value for key, value in labels.items() if key != axis}


def treats_alone(activation: Any) -> bool:
    """Return whether an activation is known to treat each value by itself; None is none."""
    known = str(getattr(activation, "__module__", "")).partition(".")[0] in _KNOWN
    return activation is None or (known and _name_of(activation) not in _MIXING)


def _name_of(activation: Any) -> str:
    return str(getattr(activation, "__name__", None) or type(activation).__name__.lower())


_KNOWN = ("keras", "tf_keras", "tfopt", "tensorflow")


def passing(trace: Trace, call: Call) -> list[Labels]:
    """Pass labels through an element-wise layer."""
    labels = trace.of(tensors(call)[0])
    last = len(sizes_of(tensors(call)[0])) - 1
    return [after_activation(trace, call, labels, last) for _ in call.outputs]


def per_channel(trace: Trace, call: Call) -> list[Labels]:
    """Trace a layer with one weight per channel, of the last axis or of all axes but the batch (PReLU)."""
    ref, layer = tensors(call)[0], call.leaf.layer
    labels, rank = trace.of(ref), len(sizes_of(ref))
    for weight in layer.weights:
        first = rank - len(weight.shape)
        for axis, size in enumerate(weight.shape):
            if size > 1:
                trace.slot(call.leaf, weight, axis, labels.get(first + axis))
    if type(layer).__name__ == "LayerScale" and rank - 1 in labels:
        trace.set(call.leaf, "projection_dim", labels[rank - 1])
    return [labels]


def rescaling(trace: Trace, call: Call) -> list[Labels]:
    """Trace a Rescaling with numbers that may differ by channel."""
    ref, layer = tensors(call)[0], call.leaf.layer
    labels, rank = trace.of(ref), len(sizes_of(ref))
    for name in ("scale", "offset"):
        numbers = np.asarray(getattr(layer, name))
        for axis, size in enumerate(numbers.shape[:-1]):
            if size > 1:
                trace.fix(labels.get(rank - numbers.ndim + axis), f"{describe(call.leaf)} holds numbers by place")
        atoms = labels.get(rank - 1)
        if atoms is not None and numbers.ndim and numbers.shape[-1] > 1:
            trace.set(call.leaf, name, functools.partial(_of_those_kept, numbers, atoms))
    return [labels]


def _of_those_kept(numbers: np.ndarray, atoms: Array, kept: Kept) -> Any:
    return numbers[..., kept(atoms)].tolist()


def merging(trace: Trace, call: Call) -> list[Labels]:
    """Trace a value-by-value merge with broadcasting: channels at the same position are tied."""
    refs = tensors(call)
    rank = max(len(sizes_of(ref)) for ref in refs)
    met: dict[int, list[Array | None]] = {axis: [] for axis in range(1, rank)}
    for ref in refs:
        labels, shape = trace.of(ref), sizes_of(ref)
        for own, size in enumerate(shape):
            if (axis := own + rank - len(shape)) and size != 1:
                met[axis].append(labels.get(own))
    found = {axis: atoms for axis, each in met.items() if (atoms := tied(trace, call, each)) is not None}
    constants = [
        part for part in [*call.args, *call.kwargs.values()] if not any(isinstance(each, Ref) for each in flatten(part))
    ]
    _keep_by_constants(trace, call, found, constants, rank)
    return [dict(found) for _ in call.outputs]


def tied(trace: Trace, call: Call, met: Sequence[Array | None]) -> Array | None:
    """Return channels that meet, tied together; None if there are none, or some stay, so that all do."""
    atoms = [each for each in met if each is not None]
    if len(atoms) < len(met):
        for each in atoms:
            trace.fix(each, f"{describe(call.leaf)} joins channels with others that stay")
        return None
    for each in atoms[1:]:
        trace.atoms.unite(atoms[0], each)
    return atoms[0] if atoms else None


def _keep_by_constants(trace: Trace, call: Call, labels: Labels, constants: list[Any], rank: int) -> None:
    """Keep the channels for which an operation holds constants."""
    for part in constants:
        shape = np.shape(part) if isinstance(part, list | tuple) else tuple(getattr(part, "shape", None) or ())
        for axis, size in enumerate(shape):
            if size != 1:
                trace.fix(labels.get(rank - len(shape) + axis), f"{describe(call.leaf)} holds numbers by channel")


def concatenating(trace: Trace, call: Call) -> list[Labels]:
    """Trace a Concatenate layer."""
    return concatenating_at(trace, call, call.leaf.layer.axis % len(sizes_of(tensors(call)[0])))


def concatenating_at(trace: Trace, call: Call, axis: int) -> list[Labels]:
    """Trace a concatenation along `axis`; channels of other axes are tied."""
    refs = tensors(call)
    labels = [trace.of(ref) for ref in refs]
    others = {each for known in labels for each in known} - {axis}
    met = {each: tied(trace, call, [known.get(each) for known in labels]) for each in others}
    found = {each: atoms for each, atoms in met.items() if atoms is not None}
    parts = [(known.get(axis), sizes_of(ref)[axis]) for known, ref in zip(labels, refs, strict=True)]
    if any(atoms is not None for atoms, _ in parts):
        if any(size is None for _, size in parts):
            for atoms, _ in parts:
                trace.fix(atoms, f"{describe(call.leaf)} joins parts of unknown size")
        else:
            found[axis] = np.concatenate([trace.fixed(n or 0) if atoms is None else atoms for atoms, n in parts])
    return [found]


def unknown(trace: Trace, call: Call) -> list[Labels]:
    """Keep all channels: the effect of this layer on them is unknown."""
    for ref in tensors(call):
        trace.fix(trace.of(ref), f"{describe(call.leaf)} is not known to treat channels one by one")
    return [{} for _ in call.outputs]
