"""Which inputs and outputs of a student and its teacher belong together."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfopt.errors import ModelError
from tfopt.graph.ports import Named, Ports
from tfopt.teachers import Teacher, as_teacher
from tfopt.teachers.sources import KerasSource


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


def keras_teacher(teacher: Any) -> Any:
    """Return the Keras model of a teacher with several inputs or outputs.

    Args:
        teacher: a Keras 3 or tf_keras model, the path of one, or a `Teacher` of either.

    Raises:
        ModelError: it is something else, or has class names, which say nothing about several outputs.
    """
    found = as_teacher(teacher)
    if not isinstance(found, Teacher) or not isinstance(found.source, KerasSource):
        raise ModelError(
            "The teacher of a student with several inputs or outputs must be a Keras 3 or tf_keras model, or the "
            f"path of one; got {found.name if teacher is found else type(teacher).__name__}. Make a model of it."
        )
    if found.class_names:
        raise ModelError(
            f"The teacher '{found.name}' has class names ({', '.join(found.class_names)}), which cannot be matched for "
            "students with several inputs or outputs. Leave them out, with the classes in the student's order."
        )
    return found.source.model


class NamedTeacher:
    """A Keras model that answers for the student's inputs with the student's outputs. It is not changed.

    Args:
        model: from `keras_teacher`.
        inputs: of the student.
        outputs: names of the student's outputs to answer for.

    Raises:
        ModelError: its inputs or outputs do not match.
    """

    def __init__(self, model: Any, inputs: Ports, outputs: Sequence[str]) -> None:
        self.model, self.name = model, model.name
        self._inputs, self._outputs = Ports(model, "inputs"), Ports(model, "outputs")
        self._given = matched(self._inputs.names, inputs.names, "inputs", "the teacher takes")
        self._made = matched(outputs, self._outputs.names, "outputs", "the student learns")

    def answers(self, inputs: Mapping[str, Any]) -> Named:
        """Return the outputs for a batch, by the names of the student's inputs and outputs."""
        given = self._inputs.packed({own: inputs[name] for own, name in self._given.items()})
        made = self._outputs.named(self.model(given, training=False), "outputs")
        return {name: made[own] for name, own in self._made.items()}
