"""Distillation of students with several inputs or outputs, each output with its own loss."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from tfopt.base.keras_compat import keras_of
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.learner import Learner, Ledger, Row, StepResult
from tfopt.distillation.objectives import Objective, chosen
from tfopt.distillation.ports import NamedTeacher, keras_teacher
from tfopt.distillation.targets import ASKED_AT_ONCE, LOOK, TARGETS, has_targets
from tfopt.errors import DataError, RecipeError
from tfopt.graph.ports import Ports

Settings = Distillation | Mapping[str, Distillation] | None


class Several(Learner):
    """A student of a teacher with the same inputs and outputs, by name or else by position.

    Args:
        student: a functional model.
        teacher: anything `keras_teacher` accepts, or None.
        distillation: for all outputs, or by output; None chooses a loss for each output when it is compiled.
    """

    def __init__(self, student: Any, teacher: Any, distillation: Settings) -> None:
        self.lesson = Lesson(student, teacher, distillation)  # a plain object: Keras does not track its contents
        super().__init__(student, f"distilled_{student.name}", [Row()], [])
        self.student = student

    @override
    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile as Keras does: losses, metrics and loss weights by output, as a list, or one for all outputs."""
        kwargs.setdefault("jit_compile", False)
        keras_compile = super(Learner, self).compile  # type: ignore[misc]
        given = inspect.signature(keras_compile).bind(*args, **kwargs)
        outputs = self.lesson.outputs
        own = {name: given.arguments.pop(name, None) for name in ("loss", "metrics", "weighted_metrics")}
        by_name = {name: _for_outputs(outputs.names, value, name) for name, value in own.items()}
        weights = _for_outputs(outputs.names, given.arguments.pop("loss_weights", None), "loss_weights")
        keras_compile(*given.args, **given.kwargs)
        self.lesson.prepare(by_name["loss"], weights, self.student)
        self.ledger = OutputLedger(keras_of(self.student), self.lesson.rows(), self.lesson.labels(), outputs)
        self.ledger.judge(**by_name, run_eagerly=bool(given.arguments.get("run_eagerly")))

    @override
    def call(self, inputs: Any, training: Any = None) -> Any:
        return self.student(inputs["inputs"] if has_targets(inputs) else inputs, training=training)

    @override
    def prepare_fit(self, arguments: dict[str, Any]) -> None:
        self.lesson.prepare_fit(arguments)

    @override
    def prepare_batch(self, x: Any, y: Any) -> None:
        self.lesson.look_once(x)

    @override
    def with_targets(self, x: Any, y: Any) -> Any:
        """Return `x` with the teacher's answers, computed now unless they came with it."""
        del y
        return x if has_targets(x) else {"inputs": x, TARGETS: self.lesson.answers(x)}

    @override
    def learning_step(self, x: Any, y: Any, sample_weight: Any) -> StepResult:
        outputs = self.lesson.outputs.named(self.student(x["inputs"], training=True), "outputs")
        terms = self.lesson.terms(outputs, x[TARGETS], y, sample_weight)
        return StepResult(list(outputs.values()), terms)

    @override
    def evaluation_outputs(self, x: Any) -> list[Any]:
        made = self.student(x["inputs"] if has_targets(x) else x, training=False)
        return list(self.lesson.outputs.named(made, "outputs").values())


class Lesson:
    """What a student learns from its teacher, output by output."""

    def __init__(self, student: Any, teacher: Any, distillation: Settings) -> None:
        self.inputs, self.outputs = Ports(student, "inputs"), Ports(student, "outputs")
        self._student, self._settings = student, distillation
        self._given = None if teacher is None else keras_teacher(teacher)
        self._teacher = None if teacher is None else NamedTeacher(self._given, self.inputs, ())
        self._objectives: dict[str, Objective] = {}
        self._weights: dict[str, float] = {}
        self._labeled: set[str] = set()
        self._looked = False

    def prepare(self, losses: Mapping[str, Any], weights: Mapping[str, Any], student: Any) -> None:
        """Choose what each output learns, given the compiled losses and their weights, by output."""
        settings = chosen(self.outputs.names, self._settings, losses, student)
        start = [
            (variable, np.array(variable))
            for variable in student.trainable_variables
            if any(loss.needs_parameters for each in settings.values() for loss in each.losses)
        ]
        self._objectives = {name: Objective(name, self._suffix(name), each, start) for name, each in settings.items()}
        self._weights = {
            name: 1.0 if weights.get(name) is None else float(weights[name]) for name in self.outputs.names
        }
        self._labeled = {name for name, loss in losses.items() if loss is not None}
        asking = [name for name, objective in self._objectives.items() if objective.asks_teacher]
        if asking and self._given is None:
            raise RecipeError(f"The distillation of output {', '.join(asking)} needs a teacher: give one.")
        self._teacher = NamedTeacher(self._given, self.inputs, asking) if asking else None

    def _suffix(self, name: str) -> str:
        return f"_{name}" if len(self.outputs.names) > 1 else ""

    def rows(self) -> list[Row]:
        """Return a row for each output, with the weight of its loss on the labels."""
        rows = []
        for name in self.outputs.names:
            weight = self._weights[name] if name in self._labeled else 0.0
            alpha = self._objectives[name].distillation.hard_weight if name in self._objectives else 1.0
            rows.append(Row(self._suffix(name), alpha * weight, weight))
        return rows

    def labels(self) -> list[str]:
        """Return the names of all terms in the logs."""
        return [label for objective in self._objectives.values() for label in objective.labels]

    def answers(self, x: Any) -> dict[str, Any]:
        """Return the teacher's answers to a batch, by output."""
        return {} if self._teacher is None else self._teacher.answers(self.inputs.named(x, "inputs"))

    def terms(self, outputs: Mapping[str, Any], answers: Mapping[str, Any], y: Any, sample_weight: Any) -> list[Any]:
        """Return the terms of a batch as scalars, weighted as the losses of their outputs."""
        labels, samples = by_output(self.outputs, y, "labels"), by_output(self.outputs, sample_weight, "sample_weight")
        return [
            self._weights[name] * term
            for name, objective in self._objectives.items()
            for term in objective.terms(outputs[name], answers.get(name), labels.get(name), samples.get(name))
        ]

    def prepare_fit(self, arguments: dict[str, Any]) -> None:
        """Check the outputs of both models on a few samples, and answer arrays once for all epochs."""
        import tensorflow as tf

        x = arguments["x"]
        if isinstance(x, tf.data.Dataset):
            element = next(iter(x.take(1)), None)
            if element is None:
                raise DataError("The tf.data.Dataset is empty; expected batches (x, y).")
            self._check(element[0] if isinstance(element, tuple) else element)
            return
        try:
            named = {name: np.asarray(array) for name, array in self.inputs.named(x, "inputs").items()}
        except TypeError as error:
            raise DataError(
                f"A distilled model is fitted on arrays, a tf.data.Dataset or a PyDataset; got {type(x).__name__}. "
                "Convert it, as with tf.data.Dataset.from_generator."
            ) from error
        self._check(self.inputs.packed({name: array[:LOOK] for name, array in named.items()}))
        if self._teacher is not None and self._caches():
            arguments["x"] = {"inputs": self.inputs.packed(named), TARGETS: self._once(named)}

    def look_once(self, x: Any) -> None:
        """Check the outputs of both models on the first batch."""
        if not self._looked:
            self._check(x)

    def _check(self, x: Any) -> None:
        """Raise `ModelError`, naming the output, if the responses to a few samples cannot be compared."""
        self._looked = True
        answers = self.answers(x)
        outputs = self.outputs.named(self._student(x, training=False), "outputs")
        for name, objective in self._objectives.items():
            theirs = None if name not in answers else np.asarray(answers[name], np.float32)
            objective.resolve(np.asarray(outputs[name], np.float32), theirs)

    def _caches(self) -> bool:
        return all(objective.distillation.cache != "never" for objective in self._objectives.values())

    def _once(self, named: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the teacher's answers to all samples."""
        import tensorflow as tf

        count = len(next(iter(named.values())))
        parts = []
        for start in range(0, count, ASKED_AT_ONCE):
            batch = {name: tf.convert_to_tensor(x[start : start + ASKED_AT_ONCE]) for name, x in named.items()}
            parts.append(self.answers(self.inputs.packed(batch)))
        return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}


class OutputLedger(Ledger):
    """A ledger whose rows have labels, losses and metrics of their own."""

    def __init__(self, api: Any, rows: Sequence[Row], terms: Sequence[str], outputs: Ports) -> None:
        super().__init__(api, tuple(rows), tuple(terms))
        self._outputs = outputs
        self._own_losses: dict[str, Any] = {}

    def judge(self, loss: Any, metrics: Any, weighted_metrics: Any, run_eagerly: bool) -> None:
        """Give each row the loss and metrics of its output, by name."""
        self._own_losses = loss
        self._judges = [self._api.Model() for _ in self.rows]
        for name, judge in zip(self._outputs.names, self._judges, strict=True):
            own = {"metrics": _listed(metrics[name]), "weighted_metrics": _listed(weighted_metrics[name])}
            judge.compile(loss=loss[name], **own, run_eagerly=run_eagerly)

    def hard_losses(self, y: Any, outputs: Sequence[Any], sample_weight: Any) -> list[Any]:
        """Return the loss of each output on its labels; 0 for an output without a loss."""
        import tensorflow as tf

        found = []
        for row, output, judge, labels, weights, name in self._each(y, outputs, sample_weight):
            if self._own_losses[name] is None or (labels is None and not row.weight):
                found.append(tf.zeros(()))
                continue
            if labels is None:
                raise DataError(f"The loss of output '{name}' needs labels; got none. Pass y with {name}.")
            found.append(judge.compute_loss(x=None, y=labels, y_pred=output, sample_weight=weights))
        return found

    def measured(self, y: Any, outputs: Sequence[Any], sample_weight: Any) -> dict[str, Any]:
        """Return the metrics of all outputs that have labels, with the suffix of their row."""
        found = {}
        for row, output, judge, labels, weights, _ in self._each(y, outputs, sample_weight):
            if labels is None:
                continue
            values = judge.compute_metrics(None, labels, output, weights)
            found.update({f"{name}{row.suffix}": value for name, value in values.items() if name != "loss"})
        return found

    def _each(self, y: Any, outputs: Sequence[Any], sample_weight: Any) -> list[tuple[Any, ...]]:
        labels, weights = (
            by_output(self._outputs, y, "labels"),
            by_output(self._outputs, sample_weight, "sample_weight"),
        )
        names = self._outputs.names
        rows = zip(self.rows, outputs, self._judges, names, strict=True)
        return [(row, out, judge, labels.get(name), weights.get(name), name) for row, out, judge, name in rows]


def _listed(metrics: Any) -> Any:
    """Return metrics as Keras takes them for one output: a single one in a list."""
    return metrics if metrics is None or isinstance(metrics, list | tuple) else [metrics]


def by_output(outputs: Ports, given: Any, what: str) -> dict[str, Any]:
    """Return labels or sample weights by output; a dict may leave outputs out, one weight serves all outputs."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {name: given[name] for name in outputs.names if name in given}
    if what == "sample_weight" and not isinstance(given, list | tuple):
        return dict.fromkeys(outputs.names, given)
    return outputs.named(given, what)


def _for_outputs(names: Sequence[str], given: Any, what: str) -> dict[str, Any]:
    """Return an argument of `compile` by output: from a dict, a list with one entry each, or one for all.

    Raises:
        RecipeError: the names or the number do not match the outputs.
    """
    if isinstance(given, Mapping):
        if unknown := [name for name in given if name not in names]:
            raise RecipeError(
                f"{what} is for output {', '.join(unknown)}; the student has {', '.join(names)}. Use these."
            )
        return {name: given.get(name) for name in names}
    listed = isinstance(given, list | tuple)
    if (listed and what in ("loss", "loss_weights")) or (listed and len(names) > 1):
        if len(given) != len(names):
            raise RecipeError(
                f"{what} has {len(given)} entries; the student has the outputs {', '.join(names)}. Give one for each, "
                "or a dict by output."
            )
        return dict(zip(names, given, strict=True))
    if what in ("metrics", "weighted_metrics") and given is not None and len(names) > 1:
        raise RecipeError(f"{what} must be given by output, as a dict or a list with one entry each; got {given!r}.")
    return dict.fromkeys(names, given)
