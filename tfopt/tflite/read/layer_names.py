"""Find the Keras layers that an operator of a `.tflite` comes from, by the names of its tensors."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping

from tfopt.tflite.read import LiteModel, Op, Tensor

_FUSED = frozenset({"UNIDIRECTIONAL_SEQUENCE_LSTM"})
# The prefixes that TF-MOT's wrappers add to the name of the inner layer.
WRAPPERS = ("quant_", "prune_low_magnitude_", "cluster_")


@functools.lru_cache(maxsize=4096)
def layer_pattern(layer: str, *, outermost: bool = False) -> re.Pattern[str]:
    """Return a pattern that finds a layer among the components of tensor names, each followed by "/" or ";".

    Args:
        layer: name of the layer; the names of the wrappers it was trained in match too.
        outermost: match only directly after the name of the model, not layers of the same name inside other layers.
    """
    start = r"(^|;)[^/;]+/" if outermost else r"(^|[/;])"
    return re.compile(rf"{start}({'|'.join(WRAPPERS)})?{re.escape(layer)}[/;]")


def layers_in(name: str, patterns: Mapping[str, re.Pattern[str]]) -> list[str]:
    """Return the layers whose `layer_pattern` finds them in `name`, of an operation, or of a tensor with several names.

    Of layers in one path, the outermost is meant: others lend their names to what a layer computes inside.
    """
    found: dict[str, None] = {}
    for path in name.split(";"):
        borne = [layer for layer, mine in patterns.items() if mine.search(f"{path};")]
        outer = [layer for layer in borne if layer_pattern(layer, outermost=True).search(f"{path};")]
        found.update(dict.fromkeys(outer or borne))
    return list(found)


class LayerNames:
    """Map the operators of a file to layers.

    Args:
        lite: a file whose tensors still have names (`Export(compact=False)`).
        layers: the names of the flat model's layers, in calling order; read on first use.
    """

    def __init__(self, lite: LiteModel, layers: Iterable[str]) -> None:
        self._lite, self._layers = lite, layers

    def of(self, op: Op) -> list[str]:
        """Return the layers whose output or weights `op` has; empty if the converter's names do not show them."""
        constant = [index for index in op.inputs if index >= 0 and self._tensors[op.subgraph, index].constant]
        return self._borne_by(op, [op.outputs[0], *constant])

    def giving(self, op: Op) -> list[str]:
        """Return the layers whose output `op` has."""
        return self._borne_by(op, [op.outputs[0]])

    def near(self, op: Op) -> list[str]:
        """Return `of(op)`, or the layer that gives an output of the model, or the layers that `op` reads from.

        Where the tensors between it and a layer have no names either, it is the nearest layer before it. A fused LSTM
        never has the name of its layer: it is one of those without an operator between the layers around it.
        """
        return self.of(op) or self._fused(op) or self._giving_output(op) or self._before(op)

    def _fused(self, op: Op) -> list[str]:
        if op.name not in _FUSED:
            return []
        order = list(self._patterns)
        before, after = self._before(op), self._after(op)
        first = max(map(order.index, before), default=-1) + 1
        last = min(map(order.index, after), default=len(order))
        return [layer for layer in order[first:last] if layer not in self._named]

    def _giving_output(self, op: Op) -> list[str]:
        return [layer for layer in self._patterns if layer == self._outputs.get((op.subgraph, op.outputs[0]))]

    def _before(self, op: Op) -> list[str]:
        """Return the layers of the nearest tensors with names that `op` computes from."""
        return self._nearest(
            op, lambda each: [self._makers.get((op.subgraph, index)) for index in each.inputs], "inputs"
        )

    def _after(self, op: Op) -> list[str]:
        """Return the layers of the nearest tensors with names that are computed from the results of `op`."""
        readers = self._readers
        return self._nearest(
            op, lambda each: [one for index in each.outputs for one in readers.get((op.subgraph, index), ())], "outputs"
        )

    def _nearest(self, op: Op, others: Callable[[Op], Iterable[Op | None]], ends: str) -> list[str]:
        seen, ops = {op.index}, [op]
        while ops:
            for each in ops:
                if found := self._borne_by(each, [index for index in getattr(each, ends) if index >= 0]):
                    return found
            beside = {other.index: other for each in ops for other in others(each) if other is not None}
            ops = [other for index, other in beside.items() if index not in seen]
            seen.update(beside)
        return []

    @functools.cached_property
    def _named(self) -> set[str]:
        return {layer for op in self._lite.ops() if op.outputs for layer in self.of(op)}

    @functools.cached_property
    def _readers(self) -> dict[tuple[int, int], list[Op]]:
        found: dict[tuple[int, int], list[Op]] = {}
        for op in self._lite.ops():
            for index in op.inputs:
                found.setdefault((op.subgraph, index), []).append(op)
        return found

    @functools.cached_property
    def _makers(self) -> dict[tuple[int, int], Op]:
        return {(op.subgraph, index): op for op in self._lite.ops() for index in op.outputs}

    @functools.cached_property
    def _outputs(self) -> dict[tuple[int, int], str]:
        return {(0, port.index): port.name for port in self._lite.outputs}

    @functools.cached_property
    def _tensors(self) -> dict[tuple[int, int], Tensor]:
        return {(tensor.subgraph, tensor.index): tensor for tensor in self._lite.tensors()}

    @functools.cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        return {layer: layer_pattern(layer) for layer in self._layers}

    def _borne_by(self, op: Op, indices: Iterable[int]) -> list[str]:
        names = [self._tensors[op.subgraph, index].name for index in indices]
        found = {layer for name in names for layer in layers_in(name, self._patterns)}
        return [layer for layer in self._patterns if layer in found]
