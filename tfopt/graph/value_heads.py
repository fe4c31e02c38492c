"""The layers that give the values of a model, and what happens to their outputs before they are its own."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.base.keras_compat import unwrapped
from tfopt.graph.types import Call, Graph, Leaf, Ref, flatten, is_layer, refs_in

_ABOVE_ZERO = ("relu", "leakyrelu", "elu", "celu", "softplus")
"""Activations that leave values above 0 as they are, or nearly."""
_PASSED = (
    "Rescaling", "Activation", "ReLU", "LeakyReLU", "ELU", "Dropout", "Identity", "Reshape", "Flatten",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D",
)  # fmt: skip


@dataclass(frozen=True)
class ValueHead:
    """A layer with a kernel whose outputs z become the values `factor` * z + `offset` of a model.

    Attributes:
        leaf: the layer, perhaps wrapped.
        factor, offset: one number, or one for each value.
        bends: factor and offset from each activation after it that leaves only outputs above 0 as they are.
    """

    leaf: Leaf
    factor: Any
    offset: Any
    bends: tuple[tuple[Any, Any], ...]

    @property
    def layer(self) -> Any:
        """The layer without a wrapper."""
        return unwrapped(self.leaf.layer)

    def can_give(self, values: Any) -> bool:
        """Return whether all activations leave what becomes `values` as it is."""
        return all(bool(np.all((values - offset) / factor > 0)) for factor, offset in self.bends)


def value_heads(graph: Graph) -> list[ValueHead | None]:
    """Return the layer that gives each output of `graph`; None for outputs of other layers, activations or several."""
    makers = {ref: call for call in graph.calls for ref in call.outputs}
    heads = [_head(ref, makers) for ref in flatten(graph.outputs_struct)]
    calls = [call.leaf for call in graph.calls]
    leaves = [head.leaf for head in heads if head]
    return [head if head and leaves.count(head.leaf) == calls.count(head.leaf) == 1 else None for head in heads]


def _head(ref: Ref, makers: dict[Ref, Call]) -> ValueHead | None:
    factor, offset, bends = np.asarray(1.0), np.asarray(0.0), list[tuple[Any, Any]]()
    while (call := makers.get(ref)) is not None:
        layer = unwrapped(call.leaf.layer)
        name = _activation(layer)
        if name not in ("", "linear", *_ABOVE_ZERO):
            return None
        if name in _ABOVE_ZERO:
            bends.append((factor, offset))
        if has_kernel(call.leaf):
            return ValueHead(call.leaf, factor, offset, tuple(bends)) if np.all(factor) else None
        given = list(refs_in([call.args, call.kwargs]))
        if type(layer).__name__ not in _PASSED or len(given) != 1:
            return None
        if type(layer).__name__ == "Rescaling":
            factor, offset = factor * np.asarray(layer.scale), factor * np.asarray(layer.offset) + offset
        ref = given[0]
    return None


def _activation(layer: Any) -> str:
    """Return the name of the activation in `layer`, or of `layer` as one, in lower case without underscores."""
    kind = type(layer).__name__.lower()
    function = getattr(layer, "activation", None)
    if function is None:
        if getattr(layer, "max_value", None) is not None:
            return "bounded"
        return kind if kind in _ABOVE_ZERO else ""
    return getattr(function, "__name__", type(function).__name__).lower().replace("_", "")


def has_kernel(leaf: Leaf) -> bool:
    """Return whether a leaf has weights of more than one axis."""
    weights = leaf.layer.weights if is_layer(leaf.layer) else []
    return any(len(getattr(weight, "shape", ())) > 1 for weight in weights)
