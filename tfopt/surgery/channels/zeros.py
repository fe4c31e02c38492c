"""Determine where removed channels are exactly zero."""

from typing import Any

import numpy as np

from tfopt.bridge.carried import call_inside
from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Call, Ref, flatten, is_layer
from tfopt.surgery.channels.operation_facts import ALONE, TOGETHER
from tfopt.surgery.channels.trace import Trace, describe, sizes_of, tensors
from tfopt.surgery.sizes import kind_of

# Operations on whole tensors that need not give zeros for zeros; others move values, or add them up.
_NOT_ZERO = ("pad", "logsumexp", "reducelogsumexp", "prod", "reduceprod")
_MAKING = (
    "dense", "convolution", "depthwise", "separable", "transposed", "einsum", "embedding", "recurrent", "cell",
    "time_distributed",
)  # fmt: skip


def follow_zeros(trace: Trace, call: Call) -> None:
    """Note the outputs of a call in which channels are not zero when they are gone.

    Channels that would make a call undefined, such as divisors, stay.
    """
    inside = call_inside(call) or call
    if not _gives_zeros(trace, inside):
        trace.nonzero.update(call.outputs)


def _gives_zeros(trace: Trace, call: Call) -> bool:
    layer, refs = call.leaf.layer, tensors(call)
    clean = [ref not in trace.nonzero for ref in refs]
    # An operand that is broadcast has no channels of those that could be zero.
    labeled = [any(sizes_of(ref)[axis] != 1 for axis in trace.of(ref)) for ref in refs]
    zero = [each and has for each, has in zip(clean, labeled, strict=True)]
    facts, kind = facts_of(layer), kind_of(call.leaf)
    if facts.family in _MAKING or facts.channels == "attention":
        return all(_keeps_zero(activation) for activation in _activations(layer))
    if facts.family == "batch_norm":
        return layer.gamma is not None or all(clean)
    if facts.channels == "alone" or facts.family == "activation":
        activation = getattr(layer, "activation", None)
        return all(clean) and (ALONE.get(kind) == "zero" if activation is None else _keeps_zero(activation))
    if kind == "rescaling":
        return all(clean) and not np.any(np.asarray(layer.offset))
    if kind in TOGETHER:
        return _merges_to_zero(trace, call, zero)
    if ALONE.get(kind) == "undefined":
        for ref, is_clean in zip(refs, clean, strict=True):
            if is_clean:
                trace.fix(trace.of(ref), f"{describe(call.leaf)} is not defined for zeros")
        return False
    if is_layer(layer) and not hasattr(layer, "symbol"):
        return all(clean) and not hasattr(type(layer), "tfopt_channels")  # nobody knows what they give for zeros
    return all(clean) and ALONE.get(kind, "zero") == "zero" and kind not in _NOT_ZERO


def _merges_to_zero(trace: Trace, call: Call, zero: list[bool]) -> bool:
    """Return whether an operation on several tensors gives zero where those in `zero` are."""
    merge = TOGETHER[kind_of(call.leaf)]
    if merge == "product":
        return any(zero) or not zero
    if merge == "quotient":
        return _quotient(trace, call)
    if merge == "power":
        return _power(trace, call)
    return merge == "sum" and all(zero) and not any(np.any(number) for number in _numbers(call))


def _activations(layer: Any) -> list[Any]:
    """Return the last activations of a layer: its own, or those of the layers or cells inside it."""
    parts = [getattr(layer, name, None) for name in ("layer", "forward_layer", "backward_layer")]
    cells = getattr(getattr(layer, "cell", None), "cells", [getattr(layer, "cell", None)])
    inside = [part for part in (*parts, *cells) if part is not None]
    if inside and not hasattr(layer, "activation"):
        return [activation for part in inside for activation in _activations(part)]
    return [getattr(layer, "activation", None)]


def _quotient(trace: Trace, call: Call) -> bool:
    """Return whether a / b is zero where a is, after fixing channels of b that would be zero."""
    parts = [part for part in flatten([call.args, call.kwargs]) if isinstance(part, Ref) or _is_number(part)]
    if len(parts) > 1 and isinstance(parts[1], Ref) and parts[1] not in trace.nonzero:
        trace.fix(trace.of(parts[1]), f"{describe(call.leaf)} divides by them")
    return bool(parts) and isinstance(parts[0], Ref) and parts[0] not in trace.nonzero


def _power(trace: Trace, call: Call) -> bool:
    refs, exponents = tensors(call), _numbers(call)
    if len(refs) == 1 and len(exponents) == 1 and np.all(np.asarray(exponents[0]) >= 1):
        return refs[0] not in trace.nonzero
    for ref in refs:
        trace.fix(trace.of(ref), f"{describe(call.leaf)} is not defined, or has no gradient, for zeros")
    return False


def _numbers(call: Call) -> list[Any]:
    return [part for part in flatten([call.args, call.kwargs]) if _is_number(part)]


def _is_number(part: Any) -> bool:
    return (
        not isinstance(part, Ref | str | bool)
        and part is not None
        and hasattr(np.asarray(part), "dtype")
        and (np.asarray(part).dtype.kind in "iuf")
    )


def _keeps_zero(activation: Any) -> bool:
    """Return whether an activation gives 0 for 0."""
    if activation is None:
        return True
    import tensorflow as tf

    try:
        return bool(np.all(np.asarray(activation(tf.zeros([1, 1]))) == 0))
    except Exception:
        return False
