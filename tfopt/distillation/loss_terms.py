"""All terms of one distillation for one student, as tensors of a batch."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfopt.base.keras_compat import keras_of
from tfopt.distillation.distillation import Distillation
from tfopt.distillation.learner import mean_over_samples
from tfopt.distillation.losses import LossInputs
from tfopt.distillation.student_form import student_form
from tfopt.errors import ModelError
from tfopt.graph.taps import shapes, tapped
from tfopt.tasks import Classification
from tfopt.tasks.responses import Form, as_logits


class Terms:
    """The terms of `distillation`; a plain object, so that Keras does not track its contents.

    Attributes:
        connectors: layers trained with the student.
        labels: names of the terms in the logs.
    """

    def __init__(self, student: Any, distillation: Distillation, teacher_shapes: Mapping[str, Any]) -> None:
        layers = distillation.layers("student")
        self.distillation, self.student = distillation, student
        self.labels = distillation.labels()
        self._tapped = tapped(student, layers)
        given = shapes(student, layers)
        made = [loss.connectors(keras_of(student).layers, given, teacher_shapes) for loss in distillation.losses]
        self._by_loss = made
        self.connectors = [layer for layers in made for layer in layers]
        self._start: list[tuple[Any, np.ndarray]] = []
        if any(loss.needs_parameters for loss in distillation.losses):
            self._start = [(variable, np.array(variable)) for variable in student.trainable_variables]
        self.form: Form | None = None

    def run(self, inputs: Any, *, training: bool) -> list[Any]:
        """Return the student's output and the outputs of its compared layers, in one pass."""
        import tensorflow as tf

        return list(tf.nest.flatten(self._tapped(inputs, training=training)))

    def resolve(self, inputs: Any) -> None:
        """Determine from a few `inputs` whether the student outputs logits or probabilities."""
        outputs = np.asarray(self.run(inputs, training=False)[0]).astype(np.float32)
        try:
            self.form = student_form(outputs, self.distillation.task)
        except ModelError as error:
            raise ModelError(f"The student '{self.student.name}': {error}") from error

    def response(self, answers: Mapping[str, Any], student: Any) -> Any:
        """Return the teacher's response, of two classes in as many outputs as the student has for them."""
        teacher = answers.get("output")
        if teacher is None or self.distillation.task != Classification.kind:
            return teacher
        return two_classes_as(teacher, student.shape[-1])

    def __call__(self, answers: Mapping[str, Any], labels: Any, outputs: list[Any], sample_weight: Any) -> list[Any]:
        """Return the terms as weighted scalars, in the order of the losses.

        Args:
            answers: the teacher's.
            labels: of the batch.
            outputs: from `run`.
            sample_weight: (batch,), weights per-sample values as Keras does: divided by the number of samples.
        """
        student = as_logits(outputs[0], self.form or "logits")
        loss_inputs = LossInputs(
            student=student,
            teacher=self.response(answers, student),
            labels=None if labels is None else as_targets(labels, student),
            student_features=_float32(zip(self.distillation.layers("student"), outputs[1:], strict=True)),
            teacher_features=_float32((name, value) for name, value in answers.items() if name != "output"),
            parameters=self._start,
        )
        losses = self.distillation.losses
        values = [loss(loss_inputs, connectors) for loss, connectors in zip(losses, self._by_loss, strict=True)]
        # A value without a batch axis belongs to the whole batch.
        means = [mean_over_samples(value, sample_weight) if value.shape.rank else value for value in values]
        return [loss.weight * mean for loss, mean in zip(losses, means, strict=True)]


def two_classes_as(logits: Any, outputs: int) -> Any:
    """Return logits (batch, ..., 2) of two classes as the log-odds (batch, ..., 1) of the second, or the other way.

    Others stay as they are. Log-odds d become -d / 2 and d / 2, of which the softmax gives the same probabilities.

    Args:
        logits: a tensor with known last axis.
        outputs: the last axis that is wanted.
    """
    import tensorflow as tf

    given = logits.shape[-1]
    if (given, outputs) == (2, 1):
        return logits[..., 1:] - logits[..., :1]
    if (given, outputs) == (1, 2):
        return logits * tf.constant([-0.5, 0.5], logits.dtype)
    return logits


def _float32(named: Any) -> dict[str, Any]:
    import tensorflow as tf

    return {name: tf.cast(value, tf.float32) for name, value in named}


def as_targets(labels: Any, outputs: Any) -> Any:
    """Return labels as float32 in the shape of `outputs` (batch, ..., classes); class numbers become one-hot."""
    import tensorflow as tf

    classes, missing = outputs.shape[-1], outputs.shape.rank - labels.shape.rank
    if classes > 1 and (missing == 1 or (missing == 0 and labels.shape[-1] == 1)):
        labels = tf.one_hot(tf.cast(tf.reshape(labels, tf.shape(outputs)[:-1]), tf.int32), classes)
    return tf.reshape(tf.cast(labels, tf.float32), tf.shape(outputs))
