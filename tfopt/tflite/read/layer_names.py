"""Which layers of the Keras model an operator of a `.tflite` comes from, by the names of its tensors."""

import re
from collections.abc import Iterable
from functools import cached_property

from tfopt.tflite.read import LiteModel, Op, Tensor

# What TF-MOT's wrappers put before the name of the layer inside.
WRAPPERS = ("quant_", "prune_low_magnitude_", "cluster_")


def layer_pattern(layer: str, *, outermost: bool = False) -> re.Pattern[str]:
    """Return a pattern that finds a layer among the components of tensor names, each followed by "/" or ";".

    A component is the layer's own name, or that of the wrapper it was trained in. `outermost` leaves out layers of that
    name inside other layers: only the name of the model stands before it.
    """
    start = r"(^|;)[^/;]+/" if outermost else r"(^|[/;])"
    return re.compile(rf"{start}({'|'.join(WRAPPERS)})?{re.escape(layer)}[/;]")


class LayerNames:
    """The layers of each operator of `lite`, a file whose tensors still have names (`Export(compact=False)`).

    `layers` are the names of the flat model's layers, in calling order; they are asked for when needed.
    """

    def __init__(self, lite: LiteModel, layers: Iterable[str]) -> None:
        self._lite, self._layers = lite, layers

    def of(self, op: Op) -> list[str]:
        """The layers whose output or weights `op` has; none where the converter's own names tell nothing."""
        constant = [index for index in op.inputs if index >= 0 and self._tensors[op.subgraph, index].constant]
        return self._borne_by(op, [op.outputs[0], *constant])

    def giving(self, op: Op) -> list[str]:
        """The layers whose output `op` has."""
        return self._borne_by(op, [op.outputs[0]])

    def near(self, op: Op) -> list[str]:
        """As `of`; where that tells nothing, as of a signature's output, the layers that `op` reads from."""
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
