"""Inputs and outputs of a .tflite in the order of the model; the converter sorts them by name."""

from collections.abc import Sequence
from typing import Any

from tfopt.tflite.read.flatbuffer import items, rewritten


def in_order(data: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """Return a .tflite whose inputs and outputs have this order, in the graph and in its signature.

    Args:
        data: the file.
        inputs: names in the signature, in order.
        outputs: the same for outputs.
    """
    return rewritten(data, lambda model, subgraph: _reorder(model, subgraph, {"inputs": inputs, "outputs": outputs}))


def _reorder(model: Any, subgraph: Any, names: dict[str, Sequence[str]]) -> bool:
    changed = False
    for signature in items(model.signatureDefs):
        if model.subgraphs[signature.subgraphIndex] is not subgraph:
            continue
        for side, order in names.items():
            entries = list(items(getattr(signature, side)))
            places = {entry.name.decode(): entry for entry in entries}
            if sorted(places) != sorted(order):
                continue
            ordered = [places[name] for name in order]
            first: dict[int, int] = {}
            for number, entry in enumerate(ordered):
                first.setdefault(entry.tensorIndex, number)
            ends = [int(index) for index in items(getattr(subgraph, side))]
            if set(ends) != set(first):
                continue
            setattr(signature, side, ordered)
            setattr(subgraph, side, sorted(ends, key=first.__getitem__))
            changed |= ordered != entries or sorted(ends, key=first.__getitem__) != ends
    return changed
