"""Channels of recurrent layers: their units, tied over gates and over time."""

from typing import Any

import numpy as np

from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Call, Leaf
from tfopt.surgery.channels.atoms import Array
from tfopt.surgery.channels.elementwise import unknown
from tfopt.surgery.channels.trace import Labels, Trace, describe, sizes_of, tensors


def recurrent(trace: Trace, call: Call) -> list[Labels]:
    """Follow an LSTM, GRU or SimpleRNN."""
    layer, ref = call.leaf.layer, tensors(call)[0]
    if not _is_textbook(layer):
        return unknown(trace, call)
    labels = trace.of(ref)
    inside = labels.pop(2, None)
    trace.fix(labels, f"{describe(call.leaf)} goes through time")
    units = _units(trace, call.leaf, layer, "", inside, sizes_of(ref))
    for state in tensors(call)[1:]:
        own = trace.of(state).get(1)
        if own is None:
            trace.fix(units, f"{describe(call.leaf)} starts from states that stay")
        else:
            trace.atoms.unite(units, own)
    trace.set(call.leaf, "units", units)
    return [{len(sizes_of(made)) - 1: units} for made in call.outputs]


def bidirectional(trace: Trace, call: Call) -> list[Labels]:
    """Follow one recurrent layer forward and one backward."""
    layer, ref = call.leaf.layer, tensors(call)[0]
    both = (layer.forward_layer, layer.backward_layer)
    simple = len(tensors(call)) == 1 and len(call.outputs) == 1 and not getattr(layer, "return_state", False)
    if not simple or not all(map(_is_textbook, both)) or layer.merge_mode not in ("concat", "sum", "ave", "mul"):
        return unknown(trace, call)
    labels = trace.of(ref)
    inside = labels.pop(2, None)
    trace.fix(labels, f"{describe(call.leaf)} goes through time")
    forward, backward = (
        _units(trace, call.leaf, each, name, inside, sizes_of(ref))
        for each, name in zip(both, ("forward", "backward"), strict=True)
    )
    # Both are made from one config each, whose units must agree for the states of `sum`.
    made = len(sizes_of(call.outputs[0])) - 1
    for name, units in (("layer", forward), ("backward_layer", backward)):
        trace.set(call.leaf, name, _resized(layer, name, units))
    if layer.merge_mode == "concat":
        return [{made: np.concatenate([forward, backward])}]
    trace.atoms.unite(forward, backward)
    return [{made: forward}]


def _resized(layer: Any, name: str, units: Array) -> Any:
    """Return a function to the config of one direction with the units that stay."""
    config = layer.get_config()
    inner = config.get(name) or config["layer"]

    def made(kept: Any) -> dict[str, Any]:
        return {**inner, "config": {**inner["config"], "units": int(kept(units).sum())}}

    return made


def _units(trace: Trace, leaf: Leaf, layer: Any, part: str, inside: Array | None, shape: Any) -> Array:
    """State the slots of the cell of `layer`, and return its units."""
    cell = layer.cell
    units = trace.opened(leaf, f"{part}units", cell.units)
    gates = int(cell.kernel.shape[-1]) // int(cell.units)
    wide = np.tile(units, gates)
    trace.slot(leaf, cell.kernel, 0, inside)
    trace.slot(leaf, cell.kernel, 1, wide, makes=True)
    trace.slot(leaf, cell.recurrent_kernel, 0, units)
    trace.slot(leaf, cell.recurrent_kernel, 1, wide, makes=True)
    if cell.bias is not None:
        trace.slot(leaf, cell.bias, -1, wide, makes=True)
    steps, width = int(shape[1] or 1), int(shape[2] or 1)
    trace.work(leaf, steps, *([width] if inside is None else [inside]), wide)
    trace.work(leaf, steps, units, wide)
    return units


def _is_textbook(layer: Any) -> bool:
    return all(facts_of(each).width == "units" for each in (layer, getattr(layer, "cell", None)))
