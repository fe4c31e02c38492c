"""Precomputed outputs as a teacher."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from typing_extensions import override

from tfopt.data import FrontEnd
from tfopt.errors import DataError, ModelError
from tfopt.tasks import TaskName
from tfopt.teachers.base import OUTPUT, Answering
from tfopt.teachers.class_names import distinct
from tfopt.teachers.sources import Source
from tfopt.teachers.teacher import Teacher


class Precomputed(Answering):
    """Precomputed outputs for the training inputs; `Answers` serves them, and no other inputs can be answered.

    Args:
        outputs: (n, classes) logits or probabilities, or (n, ...) values, in the order of the training inputs.
        form: "logits", "probabilities", or "auto", which infers the form from the values.
        class_names: of the columns.
        name: for messages.

    Examples:
        >>> outputs = teacher.predict(x, verbose=0)  # in the order of the training inputs
        >>> source = tfopt.Precomputed(outputs, "probabilities")
        >>> distilled = tfopt.distill(model, source)
    """

    def __init__(
        self,
        outputs: np.ndarray,
        form: Literal["auto", "logits", "probabilities"] = "auto",
        *,
        class_names: Sequence[str] | None = None,
        name: str = "precomputed",
    ) -> None:
        self.outputs = np.asarray(outputs)
        if self.outputs.ndim < 2 or self.outputs.dtype.kind not in "fiu":
            raise ModelError(
                f"Expected precomputed outputs as numbers (n, classes), got {self.outputs.dtype} {self.outputs.shape}."
            )
        self.name, self.class_names = name, distinct(class_names, name)
        self._check_finite({OUTPUT: self.outputs}, 0)
        self._stored = _Stored(self.outputs, name)
        self._as_teacher = Teacher(self._stored, outputs=form, class_names=class_names, name=name)

    @property
    @override
    def fingerprint(self) -> str:
        return self._stored.fingerprint

    @property
    @override
    def identity(self) -> dict[str, Any]:
        return self._as_teacher.identity

    @property
    @override
    def notes(self) -> tuple[str, ...]:
        return self._as_teacher.notes

    @override
    def answers(self, x: Any, labels: Any = None) -> dict[str, Any]:
        raise ModelError(
            f"The outputs '{self.name}' were precomputed for {len(self.outputs):,} samples and cannot answer for "
            "others: keep the answers instead of running the teacher at every step, or pass the teacher itself."
        )

    def aligned(self, count: int) -> dict[str, np.ndarray]:
        """Return the answers, float32 (count, ...).

        Raises:
            DataError: their number differs from `count`.
            ModelError: called before `resolved`, which determines whether they are logits.
        """
        import tensorflow as tf

        if len(self.outputs) != count:
            raise DataError(
                f"Expected a precomputed output for each of the {count:,} training samples, got {len(self.outputs):,}."
            )
        if self._as_teacher.form is None:
            raise ModelError(f"Whether '{self.name}' are logits or probabilities is not known yet: call resolved().")
        return {OUTPUT: self._as_teacher._logits(tf.constant(self.outputs)).numpy()}

    def first(self, count: int) -> dict[str, Any]:
        """Return the answers to the first `count` samples, as tensors."""
        import tensorflow as tf

        return {name: tf.constant(rows[:count]) for name, rows in self.aligned(len(self.outputs)).items()}

    @override
    def with_outputs(self, layers: Sequence[str], *, response: bool = True) -> Self:
        if layers or not response:
            raise ModelError(f"The precomputed '{self.name}' contain only outputs; features need the teacher itself.")
        return self

    @override
    def for_inputs(self, preprocessing: FrontEnd | str) -> Self:
        del preprocessing
        return self

    @override
    def resolved(self, sample: np.ndarray, task: TaskName | None) -> Self:
        del sample
        return self._with(_as_teacher=self._as_teacher.resolved(self.outputs, task))

    @override
    def for_classes(self, class_names: Sequence[str]) -> Self:
        inner = self._as_teacher.for_classes(class_names)
        return self._with(_as_teacher=inner, class_names=inner.class_names)


class _Stored(Source):
    """Stored outputs as a source: it returns its input unchanged."""

    def __init__(self, outputs: np.ndarray, name: str) -> None:
        self.name, self._outputs = name, outputs
        self.input_dtype = outputs.dtype.name

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(
            f"{self._outputs.dtype} {self._outputs.shape}".encode() + self._outputs.tobytes()
        ).hexdigest()

    def _answer(self, x: Any, layers: Sequence[str]) -> Any:
        del layers
        return x
