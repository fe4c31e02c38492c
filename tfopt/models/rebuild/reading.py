"""From the operations of a frozen graph to a list of layers."""

import re
from typing import Any

from tfopt.models.rebuild.frozen import Frozen, NoLayerError
from tfopt.models.rebuild.layer import Layer, Made
from tfopt.models.rebuild.table import made

_MOST = 8  # operations named in a message


class Program:
    """Layers in calling order, up to the one that gives the output."""

    def __init__(self, layers: list[Layer], output: Layer | None) -> None:
        self.layers = layers
        self.output = output

    def users(self, layer: Layer) -> list[Layer]:
        """The layers that take what `layer` gives."""
        return [each for each in self.layers if layer in each.inputs]

    def only_user(self, layer: Layer) -> Layer | None:
        """The one layer that takes what `layer` gives; None where there are several, or it is the output."""
        users = self.users(layer)
        return users[0] if len(users) == 1 and self.output is not layer else None

    def replace(self, old: list[Layer], new: list[Layer]) -> None:
        """Puts the chain `new` in the place of the chain `old`, whose last layer alone others take."""
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
    """The layers that compute the output of `graph`, one or more for each operation.

    Raises NoLayerError that names all operations for which there is no layer.
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
    """What each operation on the way to the output becomes, by the tensor it gives, in calling order; what cannot."""
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
    """The layers that give `tensor`; none, and a word in `problems`, where there are none."""
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
    """The path of `operation`, without its own name where that is only what it does."""
    path: str = operation.name
    scope, _, name = path.rpartition("/")
    general = re.sub(r"_\d+$", "", name).lower()
    return scope if operation.type.lower().startswith(general) or general == "truediv" else path
