"""The named inputs and outputs of two models, and which belong together."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfopt import models
from tfopt.base.keras_compat import is_keras3_model, is_tf_keras_model
from tfopt.errors import DataError, ModelError
from tfopt.graph import keras_internals
from tfopt.graph.types import flatten, pack
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
        nested = [value for value in _parts(self.struct) if isinstance(value, dict | list | tuple)]
        if nested or len(self.names) != len(flatten(self.struct)):
            raise ModelError(
                f"The {side} of '{model.name}' are nested; expected one tensor, a list, or a dict of them. Distill a "
                "model with a flat structure."
            )
        if len(set(self.names)) < len(self.names):
            raise ModelError(
                f"The {side} of '{model.name}' must have different names, got {', '.join(self.names)}. Give each layer "
                "a name, or distill a model that has each of them once."
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


def _parts(struct: Any) -> list[Any]:
    return list(struct.values()) if isinstance(struct, dict) else list(struct) if _is_list(struct) else [struct]


def _is_list(struct: Any) -> bool:
    return isinstance(struct, list | tuple)


def matched(wanted: Sequence[str], known: Sequence[str], what: str, whose: str) -> dict[str, str]:
    """Return the name in `known` for each in `wanted`: the same names, or else the same positions.

    Raises:
        ModelError: neither names nor numbers agree; both lists are named.
    """
    if set(wanted) <= set(known):
        return {name: name for name in wanted}
    if len(wanted) == len(known) and not set(wanted) & set(known):
        return dict(zip(wanted, known, strict=True))
    raise ModelError(
        f"The {what} of student and teacher do not match: {whose} {', '.join(wanted)}, the other has "
        f"{', '.join(known)}. Give them the same names, or the same number of them in the same order."
    )


class NamedTeacher:
    """A Keras model that answers for the student's inputs with the student's outputs. It is not changed.

    Args:
        teacher: a Keras 3 or tf_keras model, or the path of a model file.
        inputs: of the student.
        outputs: names of the student's outputs to answer for.

    Raises:
        ModelError: it is no Keras model, or its inputs or outputs do not match.
    """

    def __init__(self, teacher: Any, inputs: Ports, outputs: Sequence[str]) -> None:
        if isinstance(teacher, str) or hasattr(teacher, "__fspath__"):
            teacher = models.load_model(teacher)
        if not (is_keras3_model(teacher) or is_tf_keras_model(teacher)):
            raise ModelError(
                "The teacher of a student with several inputs or outputs must be a Keras 3 or tf_keras model, or the "
                f"path of one; got {type(teacher).__name__}. Make a model of it."
            )
        self.model, self.name = teacher, teacher.name
        self._inputs, self._outputs = Ports(teacher, "inputs"), Ports(teacher, "outputs")
        self._given = matched(self._inputs.names, inputs.names, "inputs", "the teacher takes")
        self._made = matched(outputs, self._outputs.names, "outputs", "the student learns")

    def answers(self, inputs: Mapping[str, Any]) -> Named:
        """Return the outputs for a batch, by the names of the student's inputs and outputs."""
        given = self._inputs.packed({own: inputs[name] for own, name in self._given.items()})
        made = self._outputs.named(self.model(given, training=False), "outputs")
        return {name: made[own] for name, own in self._made.items()}
