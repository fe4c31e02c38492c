"""The rule for each layer and operation: from the channels of its inputs to those of its outputs."""

import dataclasses
from collections.abc import Callable

from tfopt.bridge.carried import call_inside
from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Call, Ref, is_layer, map_leaves
from tfopt.surgery.channels import attention, elementwise, norms, products, recurrent, shapes
from tfopt.surgery.channels.operations import operation
from tfopt.surgery.channels.trace import Labels, Trace, describe, sizes_of, tensors

STATED = "tfopt_channels"
"""The attribute by which a layer class of somebody else says what becomes of channels: a key of `_BY_WORD`."""
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
    for call in trace.graph.calls:
        found = _apply(trace, call)
        trace.labels.update(zip(call.outputs, found, strict=True))
    return trace


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
            return elementwise.unknown
        return lambda trace, _: rule_for(inside)(trace, inside)
    facts = facts_of(layer)
    if facts.family == "time_distributed":
        return _by_step
    if facts.family == "recurrent":
        return recurrent.bidirectional if len(facts.parts) > 1 else recurrent.recurrent
    if facts.absent:
        return elementwise.passing
    stated = getattr(type(layer), STATED, facts.channels)
    return _BY_WORD.get(stated) or _BY_FAMILY.get(facts.family) or elementwise.unknown


def _by_step(trace: Trace, call: Call) -> list[Labels]:
    """Follow a TimeDistributed: its layer sees each step by itself."""
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
    step = Call(dataclasses.replace(leaf, layer=inner), given, {}, tuple(made))
    found = rule_for(step)(trace, step)
    return [{axis + 1: atoms for axis, atoms in each.items()} for each in found]


def _without_time(ref: Ref) -> tuple[int | None, ...]:
    shape = sizes_of(ref)
    return (shape[0], *shape[2:])
