"""What each output of a student with several learns: a distillation, and the forms of both responses."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfopt.distillation.distillation import Distillation
from tfopt.distillation.learner import mean_over_samples
from tfopt.distillation.loss_terms import as_targets, two_classes_as
from tfopt.distillation.losses import Hinton, LossInputs, MultilabelKD, RegressionKD
from tfopt.distillation.student_form import student_form
from tfopt.errors import ModelError, RecipeError
from tfopt.graph import keras_internals
from tfopt.tasks import Classification, Multilabel
from tfopt.tasks.responses import INT8, Form, as_logits, form_of

# The loss on responses for each kind of loss on labels, by words in its name.
_BY_LOSS = (
    ("categorical", Hinton()),
    ("binary", MultilabelKD()),
    ("squared", RegressionKD()),
    ("absolute", RegressionKD()),
    ("huber", RegressionKD()),
    ("logcosh", RegressionKD()),
    ("log_cosh", RegressionKD()),
)
_BY_ACTIVATION = {"softmax": Hinton(), "sigmoid": MultilabelKD()}


class Objective:
    """The distillation of one output; a plain object, so that Keras does not track its contents.

    Args:
        name: of the output.
        suffix: of its terms in the logs.
        distillation: its terms, all on responses or parameters.
        parameters: of the student, with their values at the start.
    """

    def __init__(
        self, name: str, suffix: str, distillation: Distillation, parameters: Sequence[tuple[Any, np.ndarray]]
    ) -> None:
        layers = [loss.label for loss in distillation.losses if loss.pairs]
        if layers:
            raise RecipeError(
                f"The loss '{layers[0]}' of output '{name}' compares layers, which distillation supports for students "
                "with one input and one output. Choose losses on responses."
            )
        self.name, self.distillation, self._parameters = name, distillation, parameters
        self.labels = tuple(f"{label}{suffix}" for label in distillation.labels())
        self._forms: tuple[Form, Form] = ("logits", "logits")
        self._two_classes = False

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher's response is compared."""
        return self.distillation.needs_teacher

    def resolve(self, student: np.ndarray, teacher: np.ndarray | None) -> None:
        """Determine from a few outputs (n, ...) whether they are logits, probabilities or values.

        Raises:
            ModelError: they cannot be compared.
        """
        self._two_classes = teacher is not None and self._decides(student.shape, teacher)
        if teacher is not None and student.shape != teacher.shape and not self._two_classes:
            raise ModelError(
                f"The output '{self.name}' of the student gives {student.shape[1:]} for a sample, that of the teacher "
                f"{teacher.shape[1:]}. Give them the same shape, or leave the output out of the distillation."
            )
        forms = []
        for whose, outputs in (("student", student), ("teacher", teacher)):
            try:
                forms.append("values" if outputs is None else student_form(outputs, self._task_of(outputs)))
            except ModelError as error:
                raise ModelError(f"The output '{self.name}' of the {whose}: {error}") from error
        self._forms = (forms[0], forms[1])

    def _decides(self, student: tuple[int, ...], teacher: np.ndarray) -> bool:
        """Return whether both outputs choose between two classes, one by a single output and one by two."""
        sizes, task = (student[-1], teacher.shape[-1]), self.distillation.task
        if student[:-1] != teacher.shape[:-1] or set(sizes) != {1, 2}:
            return False
        if sizes == (1, 2):  # two sigmoids are two labels
            exclusive = form_of(teacher, Classification, INT8) is not None
            return exclusive and task in (Classification.kind, Multilabel.kind)
        return task == Classification.kind

    def _task_of(self, outputs: np.ndarray) -> str | None:
        """Return the task of outputs (n, ...): two for one label are classes."""
        return Classification.kind if self._two_classes and outputs.shape[-1] == 2 else self.distillation.task

    def _response(self, teacher: Any, outputs: int) -> Any:
        """Return the logits, or values, of the teacher in as many outputs as the student has."""
        if teacher is None:
            return None
        logits = as_logits(teacher, self._forms[1])
        return two_classes_as(logits, outputs) if self._two_classes else logits

    def terms(self, student: Any, teacher: Any, labels: Any, sample_weight: Any) -> list[Any]:
        """Return the weighted terms of a batch as scalars."""
        own = as_logits(student, self._forms[0])
        given = LossInputs(
            student=own,
            teacher=self._response(teacher, own.shape[-1]),
            labels=None if labels is None else as_targets(labels, own),
            parameters=self._parameters,
        )
        values = [loss(given, []) for loss in self.distillation.losses]
        means = [mean_over_samples(value, sample_weight) if value.shape.rank else value for value in values]
        return [loss.weight * mean for loss, mean in zip(self.distillation.losses, means, strict=True)]


def chosen(
    outputs: Sequence[str],
    given: Distillation | Mapping[str, Distillation] | None,
    losses: Mapping[str, Any],
    model: Any,
) -> dict[str, Distillation]:
    """Return the distillation of each output that has one.

    Args:
        outputs: of the student.
        given: for all outputs, or by name; None chooses by the loss on the labels, else by the activation.
        losses: compiled, by output; None for outputs without labels.
        model: the student.

    Raises:
        RecipeError: a name is no output, a loss does not fit an output, or nothing tells what fits.
    """
    for each in given.values() if isinstance(given, Mapping) else () if given is None else (given,):
        if not isinstance(each, Distillation):
            raise RecipeError(f"Expected a Distillation, or a dict of one for each output; got {each!r}.")
    if isinstance(given, Mapping):
        if unknown := [name for name in given if name not in outputs]:
            raise RecipeError(
                f"The distillation is for output {', '.join(unknown)}, the student has {', '.join(outputs)}. Use these "
                "names."
            )
        return dict(given)
    fitting = {name: _fitting(losses.get(name), _activation(model, number)) for number, name in enumerate(outputs)}
    if given is None:
        unclear = [name for name, loss in fitting.items() if loss is None]
        if unclear:
            raise RecipeError(
                f"What fits the output {', '.join(unclear)} is not known from its loss, {losses.get(unclear[0])}. "
                "Pass the distillation of each output: {name: Distillation(...)}."
            )
        return {name: Distillation(losses=(loss,)) for name, loss in fitting.items() if loss is not None}
    wrong = [name for name, loss in fitting.items() if loss is not None and given.task not in (None, loss.task)]
    if wrong:
        raise RecipeError(
            f"The loss '{given.labels()[0]}' is for {given.task}; it does not fit the output {', '.join(wrong)}. Pass "
            "the distillation of each output: {name: Distillation(...)}, or none to let the losses decide."
        )
    return {name: dataclasses.replace(given) for name in outputs}


def require_classes(loss: Any, model: Any) -> None:
    """Raise `RecipeError` if a student that gets `Distillation()` by default does not learn classes.

    Args:
        loss: compiled.
        model: the student, with one output.
    """
    activation, shape = _activation(model, 0), getattr(model, "output_shape", None) or (None,)
    if activation == "softmax" or (activation == "sigmoid" and shape[-1] == 1):
        return  # classes, whatever loss trains them
    fitting = _fitting(loss[0] if isinstance(loss, list | tuple) and len(loss) == 1 else loss, activation)
    decides = shape[-1] == 1 and isinstance(fitting, MultilabelKD)  # between two classes
    if fitting is not None and fitting.task != Hinton.task and not decides:
        name = type(fitting).__name__
        raise RecipeError(
            f"'{model.name}' learns {fitting.task}, and Distillation() compares classes. Pass "
            f"Distillation(losses=(tfopt.losses.{name}(),))."
        )


def _fitting(loss: Any, activation: str) -> Any:
    """Return the loss on responses for an output, by its loss on labels or else its activation; None if unclear."""
    words = loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "")
    words = f"{words} {type(loss).__name__}".lower()
    short = {"mse": "squared", "mae": "absolute", "msle": "squared", "mape": "absolute"}
    words += " " + short.get(str(loss).lower(), "")
    by_loss = next((kind for word, kind in _BY_LOSS if word in words), None)
    return by_loss or _BY_ACTIVATION.get(activation)


def _activation(model: Any, number: int) -> str:
    """Return the name of the activation of the layer that gives an output, "" if it has none."""
    outputs = getattr(model, "outputs", [])
    layer = keras_internals.maker(outputs[number]) if number < len(outputs) else None
    return str(getattr(getattr(layer, "activation", None), "__name__", ""))
