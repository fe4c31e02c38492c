"""distill: a student and its teacher as one model to compile and fit, in the student's Keras."""

import warnings
from collections.abc import Mapping
from typing import Any

from tfopt.base.annotations import annotate, annotations
from tfopt.base.keras_compat import is_tf_keras_model, keras_of
from tfopt.bridge import accept_keras3, said_of_own_training
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.learner import Learner, Row, StepResult, model_class
from tfopt.distillation.loss_terms import Terms
from tfopt.distillation.objectives import require_classes
from tfopt.distillation.several import Settings, Several
from tfopt.distillation.targets import TARGETS, TeacherTargets, has_targets
from tfopt.errors import RecipeError
from tfopt.graph.taps import probe_for
from tfopt.teachers import as_teacher


def distill(student: Any, teacher: Any = None, distillation: Settings = None) -> Any:
    """Return a model whose `fit` trains `student` to imitate `teacher`; compile it like the student.

    The model uses the student's Keras; its `predict`, `evaluate`, `save`, `save_weights` and `export` act on the
    student. `fit` accepts the same arguments as in Keras. With array inputs the teacher runs once; a `tf.data.Dataset`
    may change between epochs, so the teacher runs at every step (see `Distillation.cache`). The logs contain the sum as
    "loss", the loss on the labels as "hard_loss", and each weighted term under its label.

    Args:
        student: a Keras 3 or tf_keras model, also one that a stage's `apply` returned. It is trained in place.
        teacher: anything `Teacher` accepts, a `Teacher` or an `Ensemble`. It is not changed. None if no loss needs one.
        distillation: `Distillation()` if None. For a student with several inputs or outputs: for all outputs, or a dict
            by output; None chooses for each output by its loss when the model is compiled: `Hinton` for classes,
            `MultilabelKD` for binary labels, `RegressionKD` for values. Outputs that a dict leaves out learn from
            labels only. Its teacher is a Keras model with the same inputs and outputs, by name or else by position.

    Returns:
        The model to compile and fit.

    Raises:
        ModelError: student and teacher whose outputs or layers cannot be compared.
        RecipeError: a loss needs a teacher, and none is given.

    Examples:
        >>> soft = tfopt.losses.Hinton(temperature=4.0)
        >>> distilled = tfopt.distill(model, teacher, tfopt.Distillation(losses=(soft,)))
        >>> distilled.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        >>> sorted(distilled.fit(x, y, verbose=0).history)
        ['accuracy', 'hard_loss', 'hinton', 'loss']
    """
    if isinstance(distillation, Mapping) or _has_several(student):
        return _accepting(model_class(Several, keras_of(student).__name__)(student, teacher, distillation), student)
    by_default, distillation = distillation is None, distillation or Distillation()
    if distillation.needs_teacher and teacher is None:
        label = next(loss.label for loss in distillation.losses if loss.needs_teacher)
        raise RecipeError(f"The loss '{label}' needs a teacher: give one, or choose losses that need none.")
    adapted, shapes, layers = None, {}, distillation.layers("teacher")
    if distillation.needs_teacher:
        adapted = as_teacher(teacher).with_outputs(layers, response=distillation.task is not None)
    if adapted is not None and layers:
        probe = probe_for(student)
        shapes = adapted.resolved(probe, None).shapes(probe.shape[1:])
    targets = TeacherTargets(adapted, Terms(student, distillation, shapes))
    return _accepting(model_class(_Distilled, keras_of(student).__name__)(targets, by_default), student)


def _accepting(distilled: Any, student: Any) -> Any:
    """Return `distilled`; in tf_keras it takes what belongs to Keras 3, and trains as the student's stage asks."""
    annotate(distilled, student=student)
    if said := said_of_own_training(student):
        warnings.warn(said, stacklevel=3)
    if is_tf_keras_model(student):
        accept_keras3(distilled, annotations(student).fitting)
    return distilled


def _has_several(student: Any) -> bool:
    """Return whether a built model has more than one input or output."""
    return max(len(getattr(student, side, None) or ()) for side in ("inputs", "outputs")) > 1


class _Distilled(Learner):
    """A student trained on its teacher's answers."""

    def __init__(self, targets: TeacherTargets, by_default: bool) -> None:
        terms = targets.terms
        name = f"distilled_{terms.student.name}"
        super().__init__(terms.student, name, [Row(weight=targets.hard_weight)], terms.labels)
        self.student = terms.student
        self.connectors = terms.connectors
        self.by_default = by_default
        self.targets = targets  # a plain object: Keras neither tracks nor saves its contents

    def call(self, inputs: Any, training: Any = None) -> Any:
        return self.student(inputs["inputs"] if has_targets(inputs) else inputs, training=training)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        super().compile(*args, **kwargs)
        if self.by_default:
            require_classes(self.ledger.loss, self.student)

    def prepare_fit(self, arguments: dict[str, Any]) -> None:
        with self.distribute_strategy.scope():  # type: ignore[attr-defined]  # connectors are built meanwhile
            self.targets.prepare_fit(arguments)

    def prepare_batch(self, x: Any, y: Any) -> None:
        self.targets.look_once(x, y)

    def on_fit_begin(self, epochs: int, steps: int | None) -> None:
        self.targets.start(self.optimizer, epochs, steps)  # type: ignore[attr-defined]

    def with_targets(self, x: Any, y: Any) -> Any:
        """Return `x` with the teacher's answers, computed now unless they came with it."""
        return {"inputs": x["inputs"] if has_targets(x) else x, TARGETS: self.targets.targets_for(x, y)}

    @property
    def own_variables(self) -> list[Any]:
        return [*super().own_variables, *self.targets.variables]

    def learning_step(self, x: Any, y: Any, sample_weight: Any) -> StepResult:
        outputs = self.targets.terms.run(x["inputs"], training=True)
        values = self.targets.terms(x[TARGETS], y, outputs, sample_weight)
        hard, terms = self.targets.weighted(values, self.optimizer)  # type: ignore[attr-defined]
        return StepResult(outputs[:1], terms, [hard])

    def evaluation_outputs(self, x: Any) -> list[Any]:
        return [self.student(x["inputs"] if has_targets(x) else x, training=False)]
