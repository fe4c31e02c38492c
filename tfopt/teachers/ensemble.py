"""Several teachers as one: for the same classes, or each for a subset of the student's (knowledge fusion).

Also `as_teacher`, which converts anything supported to a teacher: members pass through it, and lists become ensembles.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from typing_extensions import override

from tfopt.data import FrontEnd
from tfopt.errors import ModelError, RecipeError
from tfopt.tasks import TaskName, task_named
from tfopt.tasks.responses import FLOOR, log_probabilities
from tfopt.teachers.base import OUTPUT, Answering
from tfopt.teachers.class_names import distinct, unknown_class
from tfopt.teachers.precomputed import Precomputed
from tfopt.teachers.teacher import Teacher

_NEAR_ONE = 2.0**-24  # half the distance from 1 to the float32 below it


class Ensemble(Answering):
    """Teachers that answer together.

    With w_k the weight of teacher k, U_k the classes that it knows and p_k its probabilities (conditioned on the
    student's classes if it knows others too), the probability of class c for a sample is

        q(c) = sum of w_k p_k(c) over the k with c in U_k / sum of these w_k,    p(c) = q(c) / sum of q,

    and the answer is log p, which serves as logits. If all teachers know all classes, this is the weighted mean of the
    probabilities (Hinton et al. 2015, arXiv:1503.02531, section 1). If the label y of the sample is given, only
    teachers with y in U_k contribute, and classes unknown to all of them get probability 0; each teacher thus answers
    only for its own field. For a multilabel task the probabilities of each class are averaged without normalization;
    for regression, the values are.

    Args:
        teachers: anything that `as_teacher` accepts, two or more. Those without class names are assumed to know the
            student's classes in order.
        weights: positive, one per teacher; only their ratios matter. Equal by default.
        class_names: the student's. By default those of the teachers, which must then agree.
        name: for messages.

    Raises:
        ModelError: a class that no teacher knows, teachers of different classes without `class_names`, or precomputed
            outputs among them.
        RecipeError: invalid weights.

    Examples:
        >>> both = tfopt.Ensemble([teacher, network(32)], weights=(2.0, 1.0))
        >>> distilled = tfopt.distill(model, both)
    """

    def __init__(
        self,
        teachers: Sequence[Any],
        weights: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        self.teachers: tuple[Answering, ...] = tuple(as_teacher(teacher) for teacher in teachers)
        if len(self.teachers) < 2:
            raise ModelError(f"An ensemble needs at least two teachers; got {len(self.teachers)}.")
        if stored := [teacher.name for teacher in self.teachers if isinstance(teacher, Precomputed)]:
            raise ModelError(
                f"The precomputed outputs {', '.join(stored)} cannot be combined with other teachers: average the "
                "arrays yourself and pass the result."
            )
        self.name = name or " + ".join(teacher.name for teacher in self.teachers)
        self.weights = _checked_weights(weights, self.teachers)
        self._task: TaskName | None = None
        self._notes: tuple[str, ...] = ()
        self._known: tuple[np.ndarray, ...] | None = None
        if class_names is not None:
            self._map(class_names)
        else:
            self._map_alike()

    @property
    @override
    def fingerprint(self) -> str | None:
        if any(teacher.fingerprint is None for teacher in self.teachers):
            return None
        return hashlib.sha256(json.dumps(self._about(), sort_keys=True).encode()).hexdigest()

    @property
    @override
    def identity(self) -> dict[str, Any]:
        return {"fingerprint": self.fingerprint, **self._about()}

    @property
    @override
    def notes(self) -> tuple[str, ...]:
        return (*(note for teacher in self.teachers for note in teacher.notes), *self._notes)

    def _about(self) -> dict[str, Any]:
        return {
            "teachers": [teacher.identity for teacher in self.teachers],
            "weights": list(self.weights),
            "classes": None if self.class_names is None else list(self.class_names),
            "task": self._task,
        }

    @override
    def with_outputs(self, layers: Sequence[str], *, response: bool = True) -> Self:
        if layers or not response:
            raise ModelError(
                f"The ensemble '{self.name}' has no layers to take features from ({', '.join(layers)}): its teachers "
                "share only a response. Take features from one teacher."
            )
        return self

    @override
    def for_inputs(self, preprocessing: FrontEnd | str) -> Self:
        return self._with(teachers=tuple(teacher.for_inputs(preprocessing) for teacher in self.teachers))

    @override
    def for_classes(self, class_names: Sequence[str]) -> Self:
        if all(teacher.class_names is None for teacher in self.teachers):
            return self
        new = self._with()
        new._map(class_names)
        return new

    @override
    def resolved(self, sample: np.ndarray, task: TaskName | None) -> Self:
        if task is None:
            raise ModelError(f"The ensemble '{self.name}' gives only a response, but none was requested.")
        teachers = tuple(teacher.resolved(sample, task) for teacher in self.teachers)
        shapes = [teacher.shapes(np.shape(sample)[1:])[OUTPUT] for teacher in teachers]
        expected = shapes if self._known is None else [(int(known.sum()),) for known in self._known]
        for teacher, shape, own in zip(teachers, shapes, expected, strict=True):
            if shape != own or (self._known is None and shape != shapes[0]):
                raise ModelError(
                    f"The teacher '{teacher.name}' gives outputs of shape {shape}, where "
                    f"{own if shape != own else shapes[0]} is expected because of the others or the class names. "
                    "Give each teacher its class_names, and the student's to the ensemble."
                )
        return self._with(teachers=teachers, _task=task)

    @override
    def answers(self, x: Any, labels: Any = None) -> dict[str, Any]:
        import tensorflow as tf

        if self._task is None:
            raise ModelError(
                f"Whether the teachers of '{self.name}' give logits or probabilities is not known yet: call "
                "ensemble.resolved(sample_inputs, task)."
            )
        outputs = [teacher.answers(x)[OUTPUT] for teacher in self.teachers]
        weights = tf.constant(self.weights, tf.float32)
        task = task_named(self._task)
        if not task.has_probabilities:
            return {OUTPUT: tf.add_n([w * output for w, output in zip(self.weights, outputs, strict=True)])}
        softmax = task.exclusive(max(outputs[0].shape[-1], len(self.class_names or ())))
        squash = tf.nn.softmax if softmax else tf.nn.sigmoid
        if self._known is None:
            p = tf.stack([squash(output) for output in outputs])  # (teachers, batch, classes)
            known = tf.ones_like(p[:, :1])
        else:
            p = tf.stack([_spread(squash(o), k) for o, k in zip(outputs, self._known, strict=True)])
            known = tf.constant(np.stack(self._known)[:, None], tf.float32)  # (teachers, 1, classes)
        speaking = weights[:, None, None] * known
        if labels is not None and softmax and self._known is not None:
            speaking *= _in_field(known, labels)
        q = tf.math.divide_no_nan(tf.reduce_sum(speaking * p, axis=0), tf.reduce_sum(speaking, axis=0))
        if softmax:
            q /= tf.reduce_sum(q, axis=-1, keepdims=True)
            return {OUTPUT: log_probabilities(q, FLOOR)}
        q = tf.clip_by_value(q, _NEAR_ONE, 1 - _NEAR_ONE)
        return {OUTPUT: tf.math.log(q) - tf.math.log1p(-q)}

    def _map_alike(self) -> None:
        """Match columns by name if the teachers know the same classes; raise ModelError if they do not."""
        named = [teacher for teacher in self.teachers if teacher.class_names is not None]
        if not named:
            return
        first = named[0]
        for other in named[1:]:
            if differing := sorted(set(first.class_names or ()) ^ set(other.class_names or ())):
                raise ModelError(
                    f"The teachers '{first.name}' and '{other.name}' know different classes ({', '.join(differing)}): "
                    "pass the student's, Ensemble(..., class_names=...)."
                )
        self._map(first.class_names or ())
        self.order_is_stated = first.order_is_stated

    def _map(self, class_names: Sequence[str]) -> None:
        wanted = distinct(class_names, "the student") or ()
        everything = list(dict.fromkeys(name for teacher in self.teachers for name in _all_names(teacher) or wanted))
        for name in wanted:
            if name not in everything:
                raise unknown_class(name, f"The teachers of '{self.name}' do", everything)
        teachers, known, notes = [], [], []
        for teacher in self.teachers:
            names = _all_names(teacher)
            if names is None:
                notes.append(
                    f"teacher '{teacher.name}' has no class names: assumed to be the student's, in the same order"
                )
                teachers.append(teacher)
                known.append(np.ones(len(wanted), bool))
                continue
            part = [name for name in wanted if name in names]
            if not part:
                raise ModelError(
                    f"The teacher '{teacher.name}' knows none of the student's classes ({', '.join(wanted)}), only "
                    f"{', '.join(names)}. Leave it out, or give the classes the same names."
                )
            teachers.append(teacher.for_classes(part))
            known.append(np.array([name in names for name in wanted]))
        self.teachers, self._known, self.class_names = tuple(teachers), tuple(known), wanted
        self.order_is_stated = True
        self._notes = tuple(notes)


def as_teacher(what: Any) -> Answering:
    """Return `what` if it is a teacher, else convert it to one.

    A list or tuple becomes an `Ensemble`, a NumPy array `Precomputed` outputs, and anything else a `Teacher`.
    """
    if isinstance(what, Answering):
        return what
    if isinstance(what, np.ndarray):
        return Precomputed(what)
    if isinstance(what, list | tuple):
        return Ensemble(what)
    return Teacher(what)


def _all_names(teacher: Answering) -> tuple[str, ...] | None:
    """Return all classes that a teacher knows, including those dropped by an earlier mapping."""
    return getattr(teacher, "_own_names", None) or teacher.class_names


def _checked_weights(weights: Sequence[float] | None, teachers: Sequence[Answering]) -> tuple[float, ...]:
    """Return the weights normalized to sum to 1."""
    given = [1.0] * len(teachers) if weights is None else [float(weight) for weight in weights]
    if len(given) != len(teachers) or not all(np.isfinite(weight) and weight > 0 for weight in given):
        raise RecipeError(f"Expected a weight above 0 for each of the {len(teachers)} teachers, got {given}.")
    return tuple(weight / sum(given) for weight in given)


def _spread(p: Any, known: np.ndarray) -> Any:
    """Return the probabilities of a teacher's classes in the student's columns, with 0 elsewhere."""
    import tensorflow as tf

    places = np.maximum(np.cumsum(known) - 1, 0)
    return tf.gather(p, places, axis=-1) * tf.constant(known, p.dtype)


def _in_field(known: Any, labels: Any) -> Any:
    """Return a 0/1 mask (teachers, batch, 1) of the teachers that know each sample's class."""
    import tensorflow as tf

    labels = tf.convert_to_tensor(labels)
    if labels.shape.rank == 2:
        labels = labels[:, 0] if labels.shape[1] == 1 else tf.argmax(labels, axis=-1)
    return tf.gather(known[:, 0], tf.cast(labels, tf.int32), axis=1)[..., None]
