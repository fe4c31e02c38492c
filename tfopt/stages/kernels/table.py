"""Which weights of a tf_keras layer the stages work on: its kernels, by the attributes that hold them.

A custom layer takes part when its class has TF-MOT's own method `get_prunable_weights()`, which returns those of
its variables (each an attribute of the layer) that may be pruned and clustered:

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


# What holds any number of layers, by what their kernels' names begin with. Other parts of layers are in `LayerFacts`.
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
        index: its position in `layer.get_weights()` now; freezing a part of a layer changes the order.
        channel_axis: the axis over output channels, negative.
        owner, attribute: the layer, cell or inner layer that holds it, and under which name.
    """

    name: str
    variable: Any = field(compare=False, repr=False)
    index: int
    channel_axis: int
    owner: Any = field(compare=False, repr=False)
    attribute: str

    @property
    def values(self) -> np.ndarray:
        """The weight as a new array."""
        return np.array(self.variable)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kernel."""
        return tuple(self.variable.shape)

    @property
    def spared(self) -> bool:
        """True where no stage touches the kernel unless a rule asks.

        A depthwise kernel has one filter of k x k weights a channel: a few weights that every pixel passes through.
        TF-MOT leaves them alone for the accuracy they cost ("big unrecoverable accuracy loss").
        """
        return self.attribute == "depthwise_kernel"


class _Place(NamedTuple):
    name: str
    owner: Any
    attribute: str
    channel_axis: int


def kernels(layer: Any) -> tuple[Kernel, ...]:
    """The kernels of a built layer, those of layers inside it included; empty where it has none."""
    positions = {id(weight): index for index, weight in enumerate(layer.weights)}
    found = []
    for place in _places(layer):
        variable = getattr(place.owner, place.attribute)
        found.append(
            Kernel(place.name, variable, positions[id(variable)], place.channel_axis, place.owner, place.attribute)
        )
    return tuple(found)


def kernels_by_key(layers: Iterable[Any]) -> dict[tuple[str, str], Kernel]:
    """The kernels of built `layers` by (name of the layer, name of the kernel), in the order of the layers."""
    return {(layer.name, kernel.name): kernel for layer in layers for kernel in kernels(layer)}


def named_kernel(layer: Any, name: str) -> Kernel:
    """The kernel `name` of a built layer. Raises `ModelError` where it has none of that name."""
    found = kernels(layer)
    for kernel in found:
        if kernel.name == name:
            return kernel
    raise ModelError(
        f"Layer '{layer.name}' ({type(layer).__name__}) has no kernel '{name}'; "
        f"it has: {', '.join(kernel.name for kernel in found) or 'none'}."
    )


def has_kernel(layer: Any) -> bool:
    """True when `layer` has a kernel that can be pruned or clustered."""
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
    """The names under which a custom `layer` holds `variables`."""
    for variable in variables:
        names = [name for name, value in vars(layer).items() if value is variable]
        if not names:
            raise ModelError(
                f"{type(layer).__name__}.get_prunable_weights() of layer '{layer.name}' returns {variable.name}, which "
                "is no attribute of the layer. Keep each such weight under an attribute of its own: "
                "self.kernel = self.add_weight(...)."
            )
        yield names[0]


def require_kernels(model: Any, purpose: str) -> None:
    """Raise `ModelError` when `model` has nothing to work on."""
    if not any(has_kernel(layer) for layer in model.layers):
        known = classes_with(lambda facts: facts.kernels and facts.family != "cell")
        raise ModelError(
            f"Nothing to {purpose}: the model '{model.name}' has no layer with a kernel. "
            f"Expected at least one of {', '.join(known)}, or a layer "
            "of these."
        )


def kernel_layers(model: Any) -> list[Any]:
    """The layers of a flat tf_keras model that have a kernel."""
    return [layer for layer in model.layers if has_kernel(layer)]
