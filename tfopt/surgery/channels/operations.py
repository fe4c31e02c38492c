"""Channels of operations of `keras.ops` and TensorFlow."""

import inspect
from typing import Any

import numpy as np

from tfopt.graph.types import Call, Ref
from tfopt.surgery.channels.elementwise import concatenating_at, merging, passing, unknown
from tfopt.surgery.channels.operation_facts import ALONE, TOGETHER
from tfopt.surgery.channels.shapes import cut, reduced, reshaped, split_evenly
from tfopt.surgery.channels.trace import Labels, Trace, describe, sizes_of, tensors
from tfopt.surgery.sizes import kind_of

_SUMS = ("sum", "reducesum")
_REDUCTIONS = (
    "mean", "reducemean", "max", "amax", "reducemax", "min", "amin", "reducemin", "prod", "reduceprod", "std",
    "var", "reducestd", "reducevariance", "any", "all", "argmax", "argmin", "logsumexp", "reducelogsumexp",
    "countnonzero", "median", "norm",
)  # fmt: skip
_OF_SHAPE = ("shape", "size", "rank")
_SAME_ORDER = ("reshape", "expanddims", "squeeze", "ravel", "flatten")
_SOFTMAX = ("softmax", "logsoftmax", "sparsemax")


def operation(trace: Trace, call: Call) -> list[Labels]:
    """Return the labels of the outputs of an operation, by its name."""
    kind = kind_of(call.leaf)
    refs = tensors(call)
    if not refs or kind in _OF_SHAPE:
        return [{} for _ in call.outputs]
    if kind in ALONE:
        return passing(trace, call)
    if kind in TOGETHER:
        return merging(trace, call)
    rule = _RULES.get(kind)
    if rule is None and kind in (*_SUMS, *_REDUCTIONS):
        rule = _reduction
    if rule is None and kind in _SAME_ORDER:
        rule = _same_order
    if rule is None and kind in _SOFTMAX:
        rule = _softmax
    return unknown(trace, call) if rule is None else rule(trace, call)


def argument(call: Call, *names: str, default: Any = None) -> Any:
    """Return an argument of an operation by the first of `names` that it has: of the call, or kept in the operation."""
    layer = call.leaf.layer
    for name in names:
        if name in call.kwargs:
            return call.kwargs[name]
        if hasattr(layer, name) and not hasattr(layer, "symbol"):
            return getattr(layer, name)
    function = getattr(layer, "function", None) if hasattr(layer, "symbol") else layer.call
    try:
        bound = inspect.signature(function).bind_partial(*call.args, **call.kwargs).arguments  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return default
    return next((bound[name] for name in names if name in bound), default)


def _axes(value: Any, rank: int) -> list[int]:
    return list(range(rank)) if value is None else [int(axis) % rank for axis in np.ravel(value)]


def _same_order(trace: Trace, call: Call) -> list[Labels]:
    """Trace a change of shape. Targets with sizes of channels are not rewritten, so these sizes stay."""
    (ref, *_), made = tensors(call), call.outputs[0]
    labels, who = trace.of(ref), describe(call.leaf)
    found = reshaped(trace, labels, sizes_of(ref), sizes_of(made), who)
    if kind_of(call.leaf) == "reshape":
        stated = argument(call, "newshape", "shape", default=())
        for axis, atoms in list(found.items()):
            target = stated[axis] if isinstance(stated, list | tuple) and axis < len(stated) else None
            if target is None or isinstance(target, Ref) or target != -1:
                trace.fix(atoms, f"{who} states their number")
    return [found]


def _softmax(trace: Trace, call: Call) -> list[Labels]:
    labels, rank = trace.of(tensors(call)[0]), len(sizes_of(tensors(call)[0]))
    for axis in _axes(argument(call, "axis", default=-1), rank):
        trace.fix(labels.pop(axis, None), f"{describe(call.leaf)} reads all of them")
    return [labels]


def _reduction(trace: Trace, call: Call) -> list[Labels]:
    ref = tensors(call)[0]
    axes = _axes(argument(call, "axis"), len(sizes_of(ref)))
    keeps = bool(argument(call, "keepdims", default=False))
    for axis in axes:
        trace.need_zeros(ref, trace.of(ref).get(axis), f"{describe(call.leaf)} adds them up")
    return [reduced(trace, trace.of(ref), axes, keeps, kind_of(call.leaf) in _SUMS, describe(call.leaf))]


def _transpose(trace: Trace, call: Call) -> list[Labels]:
    ref = tensors(call)[0]
    order = argument(call, "axes", "perm")
    order = list(range(len(sizes_of(ref))))[::-1] if order is None else [int(axis) for axis in np.ravel(order)]
    labels = trace.of(ref)
    if order[0] != 0:
        return unknown(trace, call)
    return [{order.index(axis): atoms for axis, atoms in labels.items()}]


def _concatenate(trace: Trace, call: Call) -> list[Labels]:
    axis = argument(call, "axis", default=-1)
    return concatenating_at(trace, call, int(axis) % len(sizes_of(tensors(call)[0])))


def _split(trace: Trace, call: Call) -> list[Labels]:
    """Trace a split into equal parts, which stay equal; the sizes of other parts are not rewritten."""
    ref = tensors(call)[0]
    labels, rank, parts = trace.of(ref), len(sizes_of(ref)), len(call.outputs)
    stated = argument(call, "indices_or_sections", "num_or_size_splits")
    axis = int(argument(call, "axis", default=0)) % rank
    along = labels.pop(axis, None)
    if along is None:
        return [dict(labels) for _ in call.outputs]
    if not isinstance(stated, int) or len(along) % parts:
        trace.fix(along, f"{describe(call.leaf)} states their number")
        return [dict(labels) for _ in call.outputs]
    return [{**labels, axis: part} for part in split_evenly(trace, along, parts)]


def _matmul(trace: Trace, call: Call) -> list[Labels]:
    """Trace a product of (..., n, k) and (..., k, m): the channels of k are tied together, n and m pass."""
    refs = tensors(call)
    if len(refs) != 2 or any(len(sizes_of(ref)) < 3 for ref in refs):
        return unknown(trace, call)
    swapped = [
        bool(argument(call, *names, default=False))
        for names in (("transpose_a", "adjoint_a", "adj_x"), ("transpose_b", "adjoint_b", "adj_y"))
    ]
    if len(sizes_of(refs[0])) != len(sizes_of(refs[1])):
        return unknown(trace, call)
    rank = len(sizes_of(refs[0]))
    letters = "".join(chr(ord("A") + axis) for axis in range(rank - 2))
    one = "kn" if swapped[0] else "nk"
    other = "mk" if swapped[1] else "km"
    return [contracted(trace, call, [letters + one, letters + other], letters + "nm")]


def contracted(trace: Trace, call: Call, given: list[str], made: str) -> Labels:
    """Return the labels of a product of two tensors in einsum notation, and count its multiplications."""
    refs: list[Ref] = tensors(call)
    met: dict[str, list[Any]] = {}
    sizes: dict[str, int] = {}
    for ref, letters in zip(refs, given, strict=True):
        labels = trace.of(ref)
        for axis, letter in enumerate(letters):
            size = sizes_of(ref)[axis]
            sizes[letter] = max(sizes.get(letter, 1), trace.size(ref, axis))
            if size != 1:
                met.setdefault(letter, []).append(labels.get(axis))
    found: Labels = {}
    factors: list[Any] = []
    for letter, atoms in met.items():
        if letter == given[0][0]:
            continue  # the samples
        if any(each is None for each in atoms):
            for each in atoms:
                trace.fix(each, f"{describe(call.leaf)} joins channels with others that stay")
            factors.append(sizes[letter])
            continue
        for each in atoms[1:]:
            trace.atoms.unite(atoms[0], each)
        factors.append(atoms[0])
        if letter in made:
            found[made.index(letter)] = atoms[0]
        elif all(ref in trace.nonzero for ref in refs):
            trace.fix(atoms[0], f"{describe(call.leaf)} adds their products up, where they are not zero")
    trace.work(call.leaf, 1, *factors)
    return found


def _einsum(trace: Trace, call: Call) -> list[Labels]:
    equation = argument(call, "subscripts", "equation")
    refs = tensors(call)
    if not isinstance(equation, str) or "." in equation or "->" not in equation or len(refs) != 2:
        return unknown(trace, call)
    reads, made = equation.replace(" ", "").split("->")
    given = reads.split(",")
    if any(len(set(letters)) < len(letters) for letters in given) or not made or given[0][0] != given[1][0]:
        return unknown(trace, call)
    return [contracted(trace, call, given, made)]


def _getitem(trace: Trace, call: Call) -> list[Labels]:
    key = argument(call, "key", "slice_spec")
    if key is None:
        constants = [part for part in [*call.args, *call.kwargs.values()] if not isinstance(part, Ref)]
        key = constants[0] if constants else None
    items = list(key) if isinstance(key, tuple | list) else [key]
    if any(isinstance(item, Ref | np.ndarray) for item in items) or len(tensors(call)) != 1:
        return unknown(trace, call)
    plain = [_as_slice(item) for item in items]
    return cut(trace, call, plain)


def _as_slice(item: Any) -> Any:
    if isinstance(item, dict):  # as tf_keras writes slices
        return slice(*(item.get(part) for part in ("start", "stop", "step")))
    return item


def _pad(trace: Trace, call: Call) -> list[Labels]:
    labels = trace.of(tensors(call)[0])
    widths = argument(call, "pad_width", "paddings", default=())
    for axis, width in enumerate(np.reshape(widths, (-1, 2)) if np.size(widths) > 2 else []):
        if np.any(width):
            trace.fix(labels.pop(axis, None), f"{describe(call.leaf)} pads them")
    return [labels]


def _broadcast(trace: Trace, call: Call) -> list[Labels]:
    (ref, *_), made = tensors(call), call.outputs[0]
    labels = trace.of(ref)
    before = len(sizes_of(made)) - len(sizes_of(ref))
    for atoms in labels.values():
        trace.fix(atoms, f"{describe(call.leaf)} states their number")
    return [{axis + before: atoms for axis, atoms in labels.items()}]


_RULES = {
    "transpose": _transpose,
    "permute": _transpose,
    "concatenate": _concatenate,
    "concat": _concatenate,
    "split": _split,
    "matmul": _matmul,
    "batchmatmul": _matmul,
    "batchmatmulv2": _matmul,
    "einsum": _einsum,
    "getitem": _getitem,
    "pad": _pad,
    "broadcastto": _broadcast,
}
