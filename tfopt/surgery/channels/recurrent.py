"""Channels of recurrent layers: their units, tied over gates and over time."""

import functools
from typing import Any

import numpy as np

from tfopt.graph.layer_facts import facts_of
from tfopt.graph.types import Call, Leaf
from tfopt.surgery.channels.atoms import Array
from tfopt.surgery.channels.elementwise import treats_alone, unknown
from tfopt.surgery.channels.trace import Kept, Labels, Trace, describe, sizes_of, tensors

_ACTIVATIONS = ("activation", "recurrent_activation")


def recurrent(trace: Trace, call: Call) -> list[Labels]:
    """Trace an LSTM, GRU or SimpleRNN, or an RNN of such a cell, or of a stack of them."""
    layer, ref = call.leaf.layer, tensors(call)[0]
    cells = _cells(layer)
    if not cells or (len(cells) > 1 and (len(tensors(call)) > 1 or len(call.outputs) > 1)):
        return unknown(trace, call)
    labels = trace.of(ref)
    inside, width = labels.pop(2, None), trace.size(ref, 2)
    trace.fix(labels, f"{describe(call.leaf)} goes through time")
    made = []
    for number, cell in enumerate(cells):
        inside = _units(trace, call.leaf, cell, str(number or ""), inside, (trace.size(ref, 1), width))
        width = int(cell.units)
        made.append(inside)
    units = made[-1]
    for state in tensors(call)[1:]:
        own = trace.of(state).get(1)
        if own is None:
            trace.fix(units, f"{describe(call.leaf)} starts from states that stay")
        else:
            trace.atoms.unite(units, own)
    if _is_textbook(layer):
        trace.set(call.leaf, "units", units)
    else:
        trace.set(call.leaf, "cell", functools.partial(_with_units, layer.get_config()["cell"], made))
    return [{len(sizes_of(out)) - 1: units} for out in call.outputs]


def _cells(layer: Any) -> list[Any]:
    """Return the cells of a recurrent layer, the lowest first; none if one of them is not known."""
    cell = getattr(layer, "cell", None)
    cells = list(getattr(cell, "cells", [cell]))
    known = all(facts_of(each).family == "cell" and facts_of(each).width == "units" for each in cells)
    known = known and all(treats_alone(getattr(each, name, None)) for each in cells for name in _ACTIVATIONS)
    return cells if known else []


def _with_units(config: dict[str, Any], made: list[Array], kept: Kept) -> dict[str, Any]:
    """Return the config of a cell, or of a stack of them, with the units that stay."""
    sizes = iter([int(kept(units).sum()) for units in made])

    def resized(each: dict[str, Any]) -> dict[str, Any]:
        return {**each, "config": {**each["config"], "units": next(sizes)}}

    stack = config["config"].get("cells")
    return {**config, "config": {**config["config"], "cells": list(map(resized, stack))}} if stack else resized(config)


def bidirectional(trace: Trace, call: Call) -> list[Labels]:
    """Trace a Bidirectional layer: one recurrent layer forward, one backward."""
    layer, ref = call.leaf.layer, tensors(call)[0]
    both = (layer.forward_layer, layer.backward_layer)
    simple = len(tensors(call)) == 1 and len(call.outputs) == 1 and not getattr(layer, "return_state", False)
    if not simple or not all(map(_is_textbook, both)) or layer.merge_mode not in ("concat", "sum", "ave", "mul"):
        return unknown(trace, call)
    labels = trace.of(ref)
    inside = labels.pop(2, None)
    trace.fix(labels, f"{describe(call.leaf)} goes through time")
    forward, backward = (
        _units(trace, call.leaf, each.cell, name, inside, (trace.size(ref, 1), trace.size(ref, 2)))
        for each, name in zip(both, ("forward", "backward"), strict=True)
    )
    trace.atoms.unite(forward, backward)  # Keras makes one from the config of the other
    made = len(sizes_of(call.outputs[0])) - 1
    for name, units in (("layer", forward), ("backward_layer", backward)):
        trace.set(call.leaf, name, _resized(layer, name, units))
    if layer.merge_mode == "concat":
        return [{made: np.concatenate([forward, backward])}]
    return [{made: forward}]


def _resized(layer: Any, name: str, units: Array) -> Any:
    """Return a function to the config of one direction with the units that stay."""
    config = layer.get_config()
    inner = config.get(name) or config["layer"]

    def made(kept: Any) -> dict[str, Any]:
        return {**inner, "config": {**inner["config"], "units": int(kept(units).sum())}}

    return made


def _units(trace: Trace, leaf: Leaf, cell: Any, part: str, inside: Array | None, shape: tuple[int, int]) -> Array:
    """State the slots of a cell with inputs of `shape`, (steps, width), and return its units."""
    units = trace.opened(leaf, f"{part}units", cell.units)
    gates = int(cell.kernel.shape[-1]) // int(cell.units)
    wide = np.tile(units, gates)
    trace.slot(leaf, cell.kernel, 0, inside)
    trace.slot(leaf, cell.kernel, 1, wide, makes=True)
    trace.slot(leaf, cell.recurrent_kernel, 0, units)
    trace.slot(leaf, cell.recurrent_kernel, 1, wide, makes=True)
    if cell.bias is not None:
        trace.slot(leaf, cell.bias, -1, wide, makes=True)
    steps, width = shape
    trace.work(leaf, steps, width if inside is None else inside, wide)
    trace.work(leaf, steps, units, wide)
    return units


def _is_textbook(layer: Any) -> bool:
    named = all(facts_of(each).width == "units" for each in (layer, getattr(layer, "cell", None)))
    return named and bool(_cells(layer))
