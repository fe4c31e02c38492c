"""Find the kernels of a tf_keras layer, the weights that stages work on, by the attributes that hold them.

A custom layer takes part if its class defines TF-MOT's method `get_prunable_weights()`. It returns the variables (each
an attribute of the layer) that may be pruned and clustered:

    class Bilinear(tf_keras.layers.Layer):
        def get_prunable_weights(self):
            return [self.left, self.right]
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tfopt.errors import ModelError
from tfopt.graph.layer_facts import classes_with, facts_of


def _layers(model: Any) -> Mapping[str, Any]:
    return {f"{layer.name}/": layer for layer in model.layers}


# Layers with any number of inner layers: those layers by the prefix of their kernels' names. `LayerFacts` has the rest.
INSIDE: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {
    **dict.fromkeys(("Sequential", "Functional", "Model"), _layers),
    "StackedRNNCells": lambda layer: {f"{number}/": cell for number, cell in enumerate(layer.cells)},
}


@dataclass(frozen=True)
class Kernel:
    """One large weight of a layer.

    Attributes:
        name: unique in its layer: "kernel", "forward/recurrent_kernel", "query/kernel".
        variable: the weight.
        index: its current position in `layer.get_weights()`; freezing a part of a layer changes the order.
        channel_axis: the axis of the output channels, negative.
        owner: the layer, cell or inner layer that holds it.
        attribute: its attribute name in `owner`.
    """

    name: str
    variable: Any = field(compare=False, repr=False)
    index: int
    channel_axis: int
    owner: Any = field(compare=False, repr=False)
    attribute: str

    @property
    def values(self) -> np.ndarray:
        """The weight, as a new array."""
        return np.array(self.variable)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kernel."""
        return tuple(self.variable.shape)

    @property
    def spared(self) -> bool:
        """Whether stages leave the kernel unchanged unless a rule selects it.

        A depthwise kernel has only one k x k filter per channel. TF-MOT does not prune such kernels because of the
        accuracy it costs ("big unrecoverable accuracy loss").
        """
        return self.attribute == "depthwise_kernel"


class _Place(NamedTuple):
    name: str
    owner: Any
    attribute: str
    channel_axis: int


def kernels(layer: Any) -> tuple[Kernel, ...]:
    """Return the kernels of a built layer, including those of inner layers."""
    positions = {id(weight): index for index, weight in enumerate(layer.weights)}
    found = []
    for place in _places(layer):
        variable = getattr(place.owner, place.attribute)
        found.append(
            Kernel(place.name, variable, positions[id(variable)], place.channel_axis, place.owner, place.attribute)
        )
    return tuple(found)


def kernels_by_key(layers: Iterable[Any]) -> dict[tuple[str, str], Kernel]:
    """Return the kernels of built `layers` by (layer name, kernel name), in the order of the layers."""
    return {(layer.name, kernel.name): kernel for layer in layers for kernel in kernels(layer)}


def named_kernel(layer: Any, name: str) -> Kernel:
    """Return the kernel `name` of a built layer. Raise ModelError if it has no such kernel."""
    found = kernels(layer)
    for kernel in found:
        if kernel.name == name:
            return kernel
    raise ModelError(
        f"Layer '{layer.name}' ({type(layer).__name__}) has no kernel '{name}'; "
        f"it has: {', '.join(kernel.name for kernel in found) or 'none'}."
    )


def has_kernel(layer: Any) -> bool:
    """Return whether `layer` has a kernel."""
    return any(True for _ in _places(layer))


def _places(layer: Any, prefix: str = "") -> Iterator[_Place]:
    facts = facts_of(layer)
    for attribute, axis in facts.kernels.items():
        yield _Place(prefix + attribute, layer, attribute, axis)
    held = {start: getattr(layer, attribute) for start, attribute in facts.parts.items()}
    held |= INSIDE.get(type(layer).__name__, lambda layer: {})(layer)
    for start, part in held.items():
        yield from _places(part, prefix + start)
    if not facts.kernels and hasattr(type(layer), "get_prunable_weights"):
        for attribute in _attributes(layer, type(layer).get_prunable_weights(layer)):
            yield _Place(prefix + attribute, layer, attribute, -1)


def _attributes(layer: Any, variables: Any) -> Iterator[str]:
    """Yield the attribute names of `variables` in a custom `layer`."""
    for variable in variables:
        names = [name for name, value in vars(layer).items() if value is variable]
        if not names:
            raise ModelError(
                f"{type(layer).__name__}.get_prunable_weights() of layer '{layer.name}' returns {variable.name}, which "
                "is not an attribute of the layer. Store each such weight in a separate attribute: "
                "self.kernel = self.add_weight(...)."
            )
        yield names[0]


def require_kernels(model: Any, purpose: str) -> None:
    """Raise ModelError if no layer of `model` has a kernel."""
    if not any(has_kernel(layer) for layer in model.layers):
        known = classes_with(lambda facts: facts.kernels and facts.family != "cell")
        raise ModelError(
            f"Nothing to {purpose}: the model '{model.name}' has no layer with a kernel. "
            f"Expected at least one of {', '.join(known)}, or a layer that contains one."
        )


def kernel_layers(model: Any) -> list[Any]:
    """Return the layers of a flat tf_keras model that have a kernel."""
    return [layer for layer in model.layers if has_kernel(layer)]
