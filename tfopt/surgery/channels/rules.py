"""The rule for each layer and operation: from the channels of its inputs to those of its outputs."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from tfopt.bridge.carried import call_inside
from tfopt.errors import ModelError
from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Call, Graph, Ref, is_layer, map_leaves, replay
from tfopt.surgery.channels import attention, elementwise, norms, products, recurrent, shapes
from tfopt.surgery.channels.operations import operation
from tfopt.surgery.channels.trace import Labels, Trace, describe, sizes_of, tensors
from tfopt.surgery.channels.zeros import follow_zeros

STATED = "tfopt_channels"
"""The class attribute by which a custom layer declares how it treats channels: one of `WORDS`."""
WORDS = ("alone", "merge", "places")
FREE_SIZE = 64
"""Size assumed for unknown dimensions of inputs when counting multiplications."""
Rule = Callable[[Trace, Call], list[Labels]]

_BY_FAMILY: dict[str, Rule] = {
    "dense": products.dense,
    "convolution": products.convolution,
    "depthwise": products.depthwise,
    "separable": products.separable,
    "transposed": products.transposed,
    "einsum": products.einsum_dense,
    "embedding": products.embedding,
    "batch_norm": norms.by_channel,
}
_BY_WORD: dict[str, Rule] = {
    "alone": elementwise.passing,
    "weighted": elementwise.per_channel,
    "numbers": elementwise.rescaling,
    "merge": elementwise.merging,
    "join": elementwise.concatenating,
    "places": shapes.pooling,
    "order": shapes.flattening,
    "permute": shapes.permuting,
    "repeat": shapes.repeating,
    "softmax": norms.softmax,
    "norm": norms.over_channels,
    "groups": norms.in_groups,
    "length": norms.over_length,
    "attention": attention.multi_head,
    "dot": attention.dot_product,
}


def follow(trace: Trace) -> Trace:
    """Fill `trace` in from the inputs of its graph to its outputs, whose channels all stay."""
    trace.sizes = _measured(trace.graph)
    for call in trace.graph.calls:
        counted = len(trace.works)
        found = _apply(trace, call)
        trace.labels.update(zip(call.outputs, found, strict=True))
        trace.tie_calls(call)
        follow_zeros(trace, call)
        if len(trace.works) == counted:
            _count_as_fixed(trace, call)
    return trace


def _count_as_fixed(trace: Trace, call: Call) -> None:
    """Estimate the multiplications of an unknown layer: each kernel once per position of the output."""
    weights = call.leaf.layer.weights if is_layer(call.leaf.layer) else ()
    size = sum(math.prod(weight.shape) for weight in weights if len(weight.shape) > 1)
    facts = facts_of(call.leaf.layer)
    looks_up = facts.family == "embedding" or facts.channels == "weighted"
    if size and call.outputs and call.outputs[0].shape and not looks_up:
        trace.work(call.leaf, trace.places(call.outputs[0], -1), size)


def _measured(graph: Graph) -> dict[Ref, tuple[int, ...]]:
    """Return the shapes of all tensors of a graph whose inputs have free sizes, for inputs of `FREE_SIZE`."""
    import tensorflow as tf

    if not any(None in spec.shape[1:] for spec in graph.inputs):
        return {}
    shapes = {spec.ref: (1, *(size or FREE_SIZE for size in spec.shape[1:])) for spec in graph.inputs}
    values = {spec.ref: tf.zeros(shapes[spec.ref], spec.dtype) for spec in graph.inputs}
    try:
        replay(graph, values, lambda leaf, args, kwargs: leaf.layer(*args, **kwargs))
    except Exception:  # not for this size
        return {}
    return {ref: tuple(value.shape) for ref, value in values.items()}


def _apply(trace: Trace, call: Call) -> list[Labels]:
    if any(ref.shape is None for ref in (*tensors(call), *call.outputs)):
        return elementwise.unknown(trace, call)
    found = rule_for(call)(trace, call)
    return [*found, *({} for _ in call.outputs[len(found) :])]


def rule_for(call: Call) -> Rule:
    """Return the rule for a call."""
    layer = call.leaf.layer
    if not is_layer(layer) or hasattr(layer, "symbol"):
        return operation
    if inside := call_inside(call):
        if is_layer(inside.leaf.layer) and inside.leaf.layer.weights:
            _stated(inside.leaf.layer)  # raises for a declaration that cannot be
            return elementwise.unknown
        return lambda trace, _: rule_for(inside)(trace, inside)
    facts = facts_of(layer)
    if facts.family == "time_distributed":
        return _by_step
    if facts.family == "recurrent":
        return recurrent.bidirectional if len(facts.parts) > 1 else recurrent.recurrent
    if facts.absent:
        return elementwise.passing
    stated = _stated(layer) or facts.channels
    return _BY_WORD.get(stated) or _BY_FAMILY.get(facts.family) or elementwise.unknown


def _stated(layer: Any) -> str | None:
    """Return what a custom layer declares; None if it declares nothing.

    Raises:
        ModelError: it declares something else than one of `WORDS`, or has weights.
    """
    stated = getattr(type(layer), STATED, None)
    if stated is None:
        return None
    who = f"The layer '{layer.name}' ({type(layer).__name__})"
    if stated not in WORDS:
        raise ModelError(f"{who} has {STATED} = {stated!r}; expected one of {', '.join(map(repr, WORDS))}.")
    if layer.weights:
        raise ModelError(
            f"{who} has {STATED} = {stated!r}, which is for layers without weights; it has {len(layer.weights)}. "
            "Remove the attribute: the layer's channels then stay."
        )
    return str(stated)


def _by_step(trace: Trace, call: Call) -> list[Labels]:
    """Trace a TimeDistributed: its layer sees each step by itself."""
    leaf, (ref, *others) = call.leaf, tensors(call)
    inner = leaf.layer.layer
    if others or (not facts_of(inner).kernels and inner.weights):
        return elementwise.unknown(trace, call)
    labels = trace.of(ref)
    trace.fix(labels.pop(1, None), f"{describe(leaf)} goes through time")
    made = [Ref(-1 - number, _without_time(out)) for number, out in enumerate(call.outputs)]
    seen = Ref(-100, _without_time(ref))
    trace.labels[seen] = {axis - 1: atoms for axis, atoms in labels.items()}
    given = map_leaves(lambda part: seen if part == ref else part, call.args)
    trace.sizes |= {seen: (1, *trace.sizes[ref][2:])} if ref in trace.sizes else {}
    step, before = Call(dataclasses.replace(leaf, layer=inner), given, {}, tuple(made)), len(trace.works)
    found = rule_for(step)(trace, step)
    steps = trace.size(ref, 1)
    trace.works[before:] = [dataclasses.replace(work, times=work.times * steps) for work in trace.works[before:]]
    return [{axis + 1: atoms for axis, atoms in each.items()} for each in found]


def _without_time(ref: Ref) -> tuple[int | None, ...]:
    shape = sizes_of(ref)
    return (shape[0], *shape[2:])
