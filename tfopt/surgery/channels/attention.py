"""Channels of attention: whole heads, and the widths that all heads share."""

import numpy as np

from tfopt.graph.types import Call, Ref
from tfopt.surgery.channels.trace import Labels, Trace, describe, sizes_of, tensors


def multi_head(trace: Trace, call: Call) -> list[Labels]:
    """Trace a MultiHeadAttention over a single time axis: kernels (in, heads, width), and (heads, width, out)."""
    layer, leaf = call.leaf.layer, call.leaf
    given = {"query": call.args[0], "value": call.kwargs.get("value"), "key": call.kwargs.get("key")}
    given["key"] = given["value"] if given["key"] is None else given["key"]
    refs = {name: ref for name, ref in given.items() if isinstance(ref, Ref)}
    made = sizes_of(call.outputs[0])
    if len(refs) < 3 or any(len(sizes_of(ref)) != 3 for ref in refs.values()) or len(made) != 3:
        for ref in tensors(call):
            trace.fix(trace.of(ref), f"{describe(leaf)} attends to more than one axis")
        return [{} for _ in call.outputs]
    query, out = layer._query_dense.kernel, layer._output_dense.kernel
    _, count, width = (int(size) for size in query.shape)
    heads, widths = trace.opened(leaf, "heads", count), trace.opened(leaf, "key_dim", width)
    values = trace.opened(leaf, "value_dim", int(layer._value_dense.kernel.shape[2]))
    result = trace.opened(leaf, "out", int(out.shape[2]))
    places = {"query": widths, "key": widths, "value": values}
    for name, own in places.items():
        inner = getattr(layer, f"_{name}_dense")
        labels = trace.of(refs[name])
        inside = labels.pop(2, None)
        trace.fix(labels, f"{describe(leaf)} attends to them")
        trace.slot(leaf, inner.kernel, 0, inside)
        trace.slot(leaf, inner.kernel, 1, heads, makes=True)
        trace.slot(leaf, inner.kernel, 2, own, makes=True)
        if inner.bias is not None:
            trace.slot(leaf, inner.bias, 0, heads, makes=True)
            trace.slot(leaf, inner.bias, 1, own, makes=True)
        width_in = trace.size(refs[name], 2) if inside is None else inside
        trace.work(leaf, trace.size(refs[name], 1), width_in, heads, own)
    trace.slot(leaf, out, 0, heads)
    trace.slot(leaf, out, 1, values)
    trace.slot(leaf, out, 2, result, makes=True)
    if layer._output_dense.bias is not None:
        trace.slot(leaf, layer._output_dense.bias, 0, result, makes=True)
    query_steps, value_steps = trace.size(refs["query"], 1), trace.size(refs["value"], 1)
    trace.work(leaf, query_steps * value_steps, heads, widths)
    trace.work(leaf, query_steps * value_steps, heads, values)
    trace.work(leaf, query_steps, heads, values, result)
    trace.set(leaf, "num_heads", heads)
    trace.set(leaf, "key_dim", widths)
    trace.set(leaf, "value_dim", values)
    trace.set(leaf, "output_shape", lambda kept: [int(kept(result).sum())])
    # The scores are divided by the root of the width; the query kernel is rescaled to compensate.
    trace.scale(leaf, layer._query_dense.kernel, widths)
    if layer._query_dense.bias is not None:
        trace.scale(leaf, layer._query_dense.bias, widths)
    return [{2: result}, *({} for _ in call.outputs[1:])]


def dot_product(trace: Trace, call: Call) -> list[Labels]:
    """Trace attention without kernels: queries and keys are compared channel by channel, those of the values pass."""
    refs = list(call.args[0]) if isinstance(call.args[0], list | tuple) else tensors(call)
    query, value, key = refs[0], refs[1], refs[2] if len(refs) > 2 else refs[1]
    layer = call.leaf.layer
    labels = {ref: trace.of(ref) for ref in (query, value, key)}
    compared = [labels[ref].get(2) for ref in (query, key)]
    plain = getattr(layer, "score_mode", "dot") == "dot" and type(layer).__name__ == "Attention"
    if not plain or any(atoms is None for atoms in compared):
        for atoms in compared:
            trace.fix(atoms, f"{describe(call.leaf)} compares them")
    else:
        trace.atoms.unite(compared[0], compared[1])
    for each in labels.values():
        trace.fix(each.get(1), f"{describe(call.leaf)} attends to them")
    found = labels[value].get(2)
    steps = trace.size(query, 1) * trace.size(value, 1)
    for ref, atoms in ((query, compared[0]), (value, found)) if plain else ():
        trace.work(call.leaf, steps, trace.size(ref, 2) if atoms is None else atoms)
    return [{} if found is None or not np.any(found) else {2: found}, *({} for _ in call.outputs[1:])]
