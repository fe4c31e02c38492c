"""Find the Keras layers that an operator of a `.tflite` comes from, by the names of its tensors."""

import re
from collections.abc import Iterable
from functools import cached_property

from tfopt.tflite.read import LiteModel, Op, Tensor

# The prefixes that TF-MOT's wrappers add to the name of the inner layer.
WRAPPERS = ("quant_", "prune_low_magnitude_", "cluster_")


def layer_pattern(layer: str, *, outermost: bool = False) -> re.Pattern[str]:
    """Return a pattern that finds a layer among the components of tensor names, each followed by "/" or ";".

    Args:
        layer: name of the layer; the names of the wrappers it was trained in match too.
        outermost: match only directly after the name of the model, not layers of the same name inside other layers.
    """
    start = r"(^|;)[^/;]+/" if outermost else r"(^|[/;])"
    return re.compile(rf"{start}({'|'.join(WRAPPERS)})?{re.escape(layer)}[/;]")


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
        """Return `of(op)`, or the layers that `op` reads from if that is empty, as for a signature's output."""
        return self.of(op) or self._borne_by(op, [index for index in op.inputs if index >= 0])

    @cached_property
    def _tensors(self) -> dict[tuple[int, int], Tensor]:
        return {(tensor.subgraph, tensor.index): tensor for tensor in self._lite.tensors()}

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        return {layer: layer_pattern(layer) for layer in self._layers}

    def _borne_by(self, op: Op, indices: Iterable[int]) -> list[str]:
        names = [f"{self._tensors[op.subgraph, index].name};" for index in indices]
        return [layer for layer, mine in self._patterns.items() if any(mine.search(name) for name in names)]
