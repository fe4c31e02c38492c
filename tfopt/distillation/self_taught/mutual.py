"""mutual: students that learn from each other (Zhang et al., CVPR 2018, arXiv:1706.00384)."""

from collections.abc import Sequence
from typing import Any

from tfopt.base.keras_compat import keras_of
from tfopt.distillation.learner import Learner, Row, StepResult, mean_over_samples, model_class
from tfopt.distillation.losses.formulas import per_sample, tempered_kl
from tfopt.distillation.student_form import student_form
from tfopt.errors import ModelError, RecipeError
from tfopt.graph.taps import on_rest
from tfopt.tasks import Classification
from tfopt.tasks.responses import as_logits


def mutual(students: Sequence[Any], temperature: float = 1.0, weight: float = 1.0) -> Any:
    """Return a model whose `fit` trains all `students` at once, each on the labels and its peers' outputs.

    Student k minimizes its loss on the labels + weight / (K - 1) * sum over the others l of T^2 KL(p_l || p_k) (Zhang
    et al. 2018, arXiv:1706.00384, equations 6 and 7, where T = 1); the peers' p_l are targets, without a gradient. All
    take their step together; the paper lets them take turns. The optimizer is shared; it keeps a state for each
    variable, so that each student is trained as by its own, but for a clipping by the global norm.

    The logs have "loss" (the sum), and for student k "hard_loss_k", "mutual_k" (times its weight) and each metric as
    "<metric>_k". `predict`, `save`, `save_weights` and `export` are those of the first student, as one model is what
    gets used; `evaluate` tells the losses and metrics of all. The others are in `students`; the mean of their
    probabilities is `Ensemble(model.students)`.

    Args:
        students: two or more Keras 3 models, or tf_keras models, with the same inputs and (batch, ..., classes)
            outputs, logits or probabilities, which may differ in all else. They are trained in place.
        temperature: T, by which logits are divided where students are compared.
        weight: of the loss on the peers' outputs, added to the loss on the labels.

    Raises:
        ModelError: students that cannot be compared, or that start with equal weights: these never differ.
        RecipeError: a temperature not above 0, a weight below 0.

    Examples:
        >>> together = tfopt.self_taught.mutual([network(8), network(12)])
        >>> together.compile("adam", "sparse_categorical_crossentropy")
        >>> sorted(together.fit(x, y, verbose=0).history)
        ['hard_loss_0', 'hard_loss_1', 'loss', 'mutual_0', 'mutual_1']
    """
    students = list(students)
    if not temperature > 0 or not weight >= 0:
        raise RecipeError(f"Expected temperature above 0 and weight of at least 0, got {temperature} and {weight}.")
    if len(students) < 2:
        raise ModelError(f"Mutual learning needs two or more students, got {len(students)}.")
    kinds = {keras_of(student).__name__ for student in students}
    if len(kinds) > 1:
        raise ModelError(
            "All students must be of the same Keras, got Keras 3 and tf_keras; convert one (tfopt.bridge)."
        )
    forms = _forms(students)
    _check_unlike(students)
    return model_class(_Mutual, kinds.pop())(students, forms, float(temperature), float(weight))


def _forms(students: list[Any]) -> list[Any]:
    outputs = [on_rest(student) for student in students]
    shapes = {student.name: output.shape[1:] for student, output in zip(students, outputs, strict=True)}
    if len({output.shape[1:] for output in outputs}) > 1 or outputs[0].ndim < 2 or outputs[0].shape[-1] < 2:
        raise ModelError(
            "Students in mutual learning must give probabilities of the same two or more classes; got outputs "
            f"{shapes}."
        )
    forms = []
    for student, output in zip(students, outputs, strict=True):
        try:
            forms.append(student_form(output, Classification.kind))
        except ModelError as error:
            raise ModelError(f"The student '{student.name}': {error}") from error
    return forms


def _check_unlike(students: list[Any]) -> None:
    for place, one in enumerate(students):
        for other in students[:place]:
            if {id(w) for w in one.weights} & {id(w) for w in other.weights}:
                raise ModelError(f"The students '{other.name}' and '{one.name}' share weights; give each its own.")
            ours, theirs = one.get_weights(), other.get_weights()
            alike = [a.shape for a in ours] == [b.shape for b in theirs]
            if alike and all((a == b).all() for a, b in zip(ours, theirs, strict=True)):
                raise ModelError(
                    f"The students '{other.name}' and '{one.name}' start with equal weights, so neither has anything "
                    "to teach the other; initialize them with different seeds."
                )


class _Mutual(Learner):
    def __init__(self, students: list[Any], forms: list[Any], temperature: float, weight: float) -> None:
        numbers = range(len(students))
        terms = [f"mutual_{number}" for number in numbers]
        super().__init__(students[0], f"mutual_{students[0].name}", [Row(f"_{number}") for number in numbers], terms)
        self.students = students
        self._forms, self._temperature, self._weight = tuple(forms), temperature, weight

    @property
    def student(self) -> Any:
        """The first one."""
        return self.students[0]

    def evaluation_outputs(self, x: Any) -> Sequence[Any]:
        return [student(x, training=False) for student in self.students]

    def learning_step(self, x: Any, y: Any, sample_weight: Any) -> StepResult:
        del y
        outputs = [student(x, training=True) for student in self.students]
        logits = [as_logits(output, form) for output, form in zip(outputs, self._forms, strict=True)]
        terms = [self._weight * mean_over_samples(gap, sample_weight) for gap in peer_gaps(logits, self._temperature)]
        return StepResult(outputs, terms)


def peer_gaps(logits: Sequence[Any], temperature: float) -> list[Any]:
    """Return, for each student, the mean over its peers of T^2 KL(peer || student), (batch,), with gradients to it."""
    import tensorflow as tf

    gaps = []
    for place, own in enumerate(logits):
        peers = [tf.stop_gradient(other) for number, other in enumerate(logits) if number != place]
        gaps.append(tf.add_n([per_sample(tempered_kl(peer, own, temperature)) for peer in peers]) / len(peers))
    return gaps
