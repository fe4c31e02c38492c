"""Which inputs and outputs of a student and its teacher belong together."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfopt import models
from tfopt.base.keras_compat import is_keras3_model, is_tf_keras_model
from tfopt.errors import ModelError
from tfopt.graph.ports import Named, Ports


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
