"""Conversion of the operations of a frozen graph to a list of layers."""

import re
from typing import Any

from tfopt.models.rebuild.frozen import Frozen, NoLayerError
from tfopt.models.rebuild.layer import Layer, Made
from tfopt.models.rebuild.table import made

_MOST = 8  # operations listed in a message


class Program:
    """Layers in call order, up to the one that computes the output."""

    def __init__(self, layers: list[Layer], output: Layer | None) -> None:
        self.layers = layers
        self.output = output

    def users(self, layer: Layer) -> list[Layer]:
        """Return the layers that use the output of `layer`."""
        return [each for each in self.layers if layer in each.inputs]

    def only_user(self, layer: Layer) -> Layer | None:
        """Return the only layer that uses the output of `layer`; None for several, or if it is the model output."""
        users = self.users(layer)
        return users[0] if len(users) == 1 and self.output is not layer else None

    def replace(self, old: list[Layer], new: list[Layer]) -> None:
        """Replace the chain `old` by the chain `new`; only the last layer of `old` may have other users."""
        first, last = old[0], old[-1]
        at = self.layers.index(last)
        for position, layer in enumerate(new):
            layer.inputs = first.inputs if position == 0 else [new[position - 1]]
        result = new[-1] if new else first.inputs[0]
        self.layers[at : at + 1] = new
        self.layers = [layer for layer in self.layers if layer not in old]
        for layer in self.layers:
            if layer not in new:
                layer.inputs = [result if each is last else each for each in layer.inputs]
        if self.output is last:
            self.output = result


def read(graph: Frozen) -> Program:
    """Return the layers that compute the output of `graph`, one or more per operation.

    Raises:
        NoLayerError: operations without a layer; the message names all of them.
    """
    calls, problems = _calls(graph)
    if problems:
        more = f" and {len(problems) - _MOST} more" if len(problems) > _MOST else ""
        raise NoLayerError(f"no Keras layer is known for {', '.join(problems[:_MOST])}{more}")
    layers: list[Layer] = []
    results: dict[str, Layer | None] = {graph.source(graph.input).name: None}
    for name, call in calls.items():
        taken = [results[graph.source(tensor).name] for tensor in call.inputs]
        for layer in call.layers:
            layer.inputs = taken
            layers.append(layer)
            taken = [layer]
        results[name] = taken[0]
    return Program(layers, results[graph.source(graph.output).name])


def _calls(graph: Frozen) -> tuple[dict[str, Made], list[str]]:
    """Return the conversion of each operation up to the output, by output tensor in call order, and the problems."""
    found: dict[str, Made] = {}
    order: list[str] = []
    problems: dict[str, None] = {}
    begin = graph.source(graph.input).name
    waiting = [(graph.source(graph.output), False)]
    while waiting:
        tensor, read_before = waiting.pop()
        if read_before:
            order.append(tensor.name)
        elif tensor.name != begin and tensor.name not in found:
            found[tensor.name] = _made(tensor, graph, problems)
            waiting.append((tensor, True))
            waiting += [(graph.source(each), False) for each in found[tensor.name].inputs]
    return {name: found[name] for name in order}, list(problems)


def _made(tensor: Any, graph: Frozen, problems: dict[str, None]) -> Made:
    """Return the layers that compute `tensor`; if there are none, add the reason to `problems`."""
    try:
        if graph.is_constant(tensor):
            raise NoLayerError("an output that does not depend on the input")
        if tensor.value_index:
            raise NoLayerError(f"output {tensor.value_index} of {tensor.op.type}")
        found = made(tensor.op, graph)
    except NoLayerError as problem:
        problems[str(problem)] = None
        return Made([each for each in tensor.op.inputs if not graph.is_constant(each)], [])
    for layer in found.layers:
        layer.path = _place(tensor.op)
    return found


def _place(operation: Any) -> str:
    """Return the path of `operation`, without its last part if that only names the operation type."""
    path: str = operation.name
    scope, _, name = path.rpartition("/")
    general = re.sub(r"_\d+$", "", name).lower()
    return scope if operation.type.lower().startswith(general) or general == "truediv" else path
