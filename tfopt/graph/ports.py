"""The inputs and outputs of a Keras model by name."""

from collections.abc import Mapping
from typing import Any

from tfopt.errors import DataError, ModelError
from tfopt.graph import keras_internals
from tfopt.graph.types import flatten, is_nested, pack
from tfopt.graph.walk import graph_network

Named = dict[str, Any]


class Ports:
    """The inputs or outputs of a model: one tensor, a list, or a dict of them.

    Attributes:
        names: keys of a dict, else the names that Keras gives them; in Keras's order.
    """

    def __init__(self, model: Any, side: str) -> None:
        network = graph_network(model)
        self.struct = keras_internals.structs(network)[side == "outputs"]
        if isinstance(self.struct, dict):
            self.names = tuple(sorted(self.struct))
        else:
            names = getattr(network, f"{side[:-1]}_names", None)  # Keras 3 has none for inputs
            self.names = tuple(names or (tensor.name for tensor in flatten(self.struct)))
        if is_nested(self.struct) or len(self.names) != len(flatten(self.struct)):
            raise ModelError(
                f"The {side} of '{model.name}' are nested; expected one tensor, a list, or a dict of them. Use a "
                "model with a flat structure."
            )
        if len(set(self.names)) < len(self.names):
            raise ModelError(
                f"The {side} of '{model.name}' must have different names, got {', '.join(self.names)}. Give each layer "
                "a name, or use a model that has each of them once."
            )

    def named(self, given: Any, what: str) -> Named:
        """Return `given`, in any of the forms that Keras takes, by name. Raise `DataError` if it does not fit."""
        if isinstance(given, Mapping):
            if missing := [name for name in self.names if name not in given]:
                raise DataError(f"Expected {what} named {', '.join(self.names)}; {', '.join(missing)} is missing.")
            return {name: given[name] for name in self.names}
        values = list(given) if isinstance(given, list | tuple) else [given]
        if len(values) != len(self.names):
            raise DataError(f"Expected {what} for {', '.join(self.names)}; got {len(values)}. Pass one for each.")
        return dict(zip(self.names, values, strict=True))

    def packed(self, named: Mapping[str, Any]) -> Any:
        """Return tensors by name in the structure of the model."""
        return pack(self.struct, [named[name] for name in self.names])
