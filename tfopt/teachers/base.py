"""The interface that all teachers share."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from tfopt.base.progress import progress_bar
from tfopt.base.renamed import renamed_methods
from tfopt.data import FrontEnd
from tfopt.errors import ModelError
from tfopt.tasks import TaskName
from tfopt.teachers.batching import CompiledTeacher, regrouped
from tfopt.teachers.sources import Shape

OUTPUT = "output"
"""The key of the response among the answers."""


@renamed_methods(asked="with_outputs", fed="for_inputs", settled="resolved", mapped="for_classes")
class Answering(ABC):
    """The interface that all teachers share.

    Attributes:
        name: for messages.
        class_names: of the answers' columns, where known.
        order_is_stated: False if only the source ordered `class_names`, as an estimator sorts its classes.
        layers: layers whose outputs are among the answers.
    """

    name: str
    class_names: tuple[str, ...] | None = None
    order_is_stated: bool = True
    layers: tuple[str, ...] = ()
    response: bool = True
    """True if the model's output is among the answers."""

    @property
    @abstractmethod
    def fingerprint(self) -> str | None:
        """SHA-256 (hex) of the teacher in its current state; None for code, which cannot be hashed."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything the answers depend on, as plain values."""

    @property
    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """Sentences that say how teacher and student were adapted to each other; complete once `resolved`."""

    @abstractmethod
    def answers(self, x: Any, labels: Any = None) -> dict[str, Any]:
        """Return the answers to the student's inputs, in inference mode, without gradients, also in a `tf.function`.

        Args:
            x: float32 (batch, ...).
            labels: (batch,) class numbers or (batch, classes); only `Ensemble` uses them.

        Returns:
            float32 tensors: "output", (batch, classes) logits or (batch, ...) values, and the features by layer name.

        Raises:
            ModelError: the teacher is not `resolved`, or `x` cannot be converted to its input.
        """

    @abstractmethod
    def with_outputs(self, layers: Sequence[str], *, response: bool = True) -> Self:
        """Return a teacher that also answers with the outputs of `layers`; without `response`, with them alone."""

    @abstractmethod
    def for_inputs(self, preprocessing: FrontEnd | str) -> Self:
        """Return a teacher that maps student inputs scaled by `preprocessing` to its own scale.

        Raises:
            ModelError: they are not images, and the teacher was trained with another front end.
        """

    @abstractmethod
    def resolved(self, sample: np.ndarray, task: TaskName | None) -> Self:
        """Return a teacher whose output form is known, determined by running it once on `sample`.

        Args:
            sample: (n, ...), preprocessed as for the student.
            task: with a task, the values show whether outputs are logits or probabilities; None uses them unchanged.

        Raises:
            ModelError: NaN, outputs that do not fit the task, or an ambiguous output form.
        """

    @abstractmethod
    def for_classes(self, class_names: Sequence[str]) -> Self:
        """Return a teacher whose columns are `class_names`, reordered by name.

        If the teacher knows more classes, its probabilities are conditioned on the class being one of `class_names`. A
        teacher without class names is returned unchanged.

        Raises:
            ModelError: a class that the teacher does not know.
        """

    def predict(
        self,
        x: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        batch_size: int | None = None,
        progress: Any = None,
        quiet: bool = False,
    ) -> dict[str, np.ndarray]:
        """Return `answers` for all of x (n, ...) as float32 arrays (n, ...), computed in batches with one graph.

        Args:
            x: inputs (n, ...), see `answers`.
            labels: (n, ...) if the teacher uses them, see `answers`.
            batch_size: samples per batch; None chooses by their size.
            progress: with a rich `console`, such as `tfopt.base.progress.Progress`; None writes to stderr.
            quiet: no progress.

        Returns:
            The answers by name.

        Raises:
            ModelError: as for `answers`, and for NaN or infinity in the answers.
        """
        x = np.asarray(x)
        batches = [x] if labels is None else [(x, np.asarray(labels))]
        found: dict[str, np.ndarray] = {}
        done = 0
        with progress_bar(f"teacher {self.name}", len(x), progress, quiet=quiet) as advance:
            for part in self.each(batches, batch_size=batch_size):
                for name, rows in part.items():
                    if name not in found:
                        found[name] = np.empty((len(x), *rows.shape[1:]), np.float32)
                    found[name][done : done + len(rows)] = rows
                done += len(rows)
                advance(len(rows))
        return found

    def each(self, batches: Iterable[Any], *, batch_size: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Yield `answers` batch by batch, in order, for batches x or (x, labels) of any size, which are regrouped."""
        done, run = 0, None
        for x, labels in regrouped(batches, batch_size):
            run = run or self._graph(x, labels)
            found = dict(zip(self._names(), run(x, labels), strict=True))
            self._check_finite(found, done)
            done += len(x)
            yield found

    def shapes(self, input_shape: Sequence[int | None]) -> dict[str, Shape]:
        """Return the shapes of the answers to inputs of `input_shape`, both without the batch axis."""
        import tensorflow as tf

        traced = tf.function(self.answers, autograph=False).get_concrete_function(
            tf.TensorSpec((None, *input_shape), tf.float32)
        )
        return {name: tuple(tensor.shape)[1:] for name, tensor in traced.structured_outputs.items()}

    def _names(self) -> tuple[str, ...]:
        return (*((OUTPUT,) if self.response else ()), *self.layers)

    def _check_finite(self, found: dict[str, np.ndarray], first: int) -> None:
        for name, rows in found.items():
            bad = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
            if len(bad):
                raise ModelError(
                    f"The teacher '{self.name}' answers with NaN or infinity for {len(bad)} of {len(rows)} samples, "
                    f"the first at index {first + bad[0]} ({name}). Is it trained, and fed what it was trained on "
                    "(preprocessing=...)?"
                )

    def _graph(self, x: np.ndarray, labels: np.ndarray | None) -> CompiledTeacher:
        """Return `answers` as one graph for all batch sizes, cached until the teacher's weights change."""
        kept: dict[Any, CompiledTeacher] = self.__dict__.setdefault("_graphs", {})
        key = (x.shape[1:], None if labels is None else (labels.dtype.name, labels.shape[1:]))
        fingerprint = self.fingerprint
        if key not in kept or kept[key].fingerprint != fingerprint:
            kept[key] = CompiledTeacher(self.answers, self._names(), x, labels, fingerprint)
        return kept[key]

    def _with(self, **changes: Any) -> Self:
        """Return a shallow copy with these attributes replaced."""
        new = copy.copy(self)
        new.__dict__.pop("_graphs", None)
        new.__dict__.update(changes)
        return new
