"""What all teachers can do."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from tfopt.base.progress import progress_bar
from tfopt.base.renamed import renamed_methods
from tfopt.data import Preprocessing
from tfopt.errors import ModelError
from tfopt.tasks import TaskName
from tfopt.teachers.batching import CompiledTeacher, regrouped
from tfopt.teachers.sources import Shape

OUTPUT = "output"
"""The name of the response among the answers."""


@renamed_methods(asked="with_outputs", fed="for_inputs", settled="resolved", mapped="for_classes")
class Answering(ABC):
    """What all teachers can do.

    Attributes:
        name: for messages.
        class_names: of the answers' columns, where known.
        layers: whose outputs are among the answers.
    """

    name: str
    class_names: tuple[str, ...] | None = None
    layers: tuple[str, ...] = ()
    response: bool = True
    """Whether the output is among the answers."""

    @property
    @abstractmethod
    def fingerprint(self) -> str | None:
        """SHA-256 (hex) of what answers, as it is now; None for code, which has none."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that the answers depend on, as plain values."""

    @property
    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """What was adapted between student and teacher, in sentences; known once it is `resolved`."""

    @abstractmethod
    def answers(self, x: Any, labels: Any = None) -> dict[str, Any]:
        """The answers to what the student is fed, also inside a `tf.function`, in inference mode, without gradients.

        Args:
            x: float32 (batch, ...).
            labels: (batch,) class numbers or (batch, classes); only `Ensemble` looks at them.

        Returns:
            float32 tensors: "output", (batch, classes) logits or (batch, ...) values, and the features by layer name.

        Raises:
            ModelError: it is not `resolved`, or `x` cannot be brought to what the teacher takes.
        """

    @abstractmethod
    def with_outputs(self, layers: Sequence[str], *, response: bool = True) -> Self:
        """The teacher that answers with the outputs of `layers` as well; without `response`, with them alone."""

    @abstractmethod
    def for_inputs(self, preprocessing: Preprocessing | str) -> Self:
        """The teacher for a student that is fed by `preprocessing`: values are mapped to the teacher's own scale."""

    @abstractmethod
    def resolved(self, sample: np.ndarray, task: TaskName | None) -> Self:
        """The teacher whose answers are understood: `sample` (n, ...), as the student is fed, is answered once.

        Probabilities are told from logits by their values. `task` None takes the output as it is. Raises ModelError
        for NaN, for outputs that do not fit the task, and for those that may be either.
        """

    @abstractmethod
    def for_classes(self, class_names: Sequence[str]) -> Self:
        """The teacher whose columns are `class_names`, brought in order by name.

        Where it knows more classes, its probabilities are those given that the class is one of `class_names`. One
        that does not know its classes' names stays as it is. Raises ModelError for a class that it does not know.
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
        """`answers` to all of x (n, ...), float32 arrays (n, ...), computed in batches through one graph.

        Args:
            x: inputs (n, ...), see `answers`.
            labels: (n, ...) where the teacher is asked with them, see `answers`.
            batch_size: samples at once; None: by their size.
            progress: with a rich `console`, such as `tfopt.base.progress.Progress`; None writes to stderr.
            quiet: no progress.

        Raises ModelError as `answers` does, and for NaN or infinity among the answers.
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
        """`answers` batch by batch, in order, for batches x or (x, labels) of any sizes, which are regrouped."""
        done, run = 0, None
        for x, labels in regrouped(batches, batch_size):
            run = run or self._graph(x, labels)
            found = dict(zip(self._names(), run(x, labels), strict=True))
            self._check_finite(found, done)
            done += len(x)
            yield found

    def shapes(self, input_shape: Sequence[int | None]) -> dict[str, Shape]:
        """The shapes of the answers to a student's inputs of `input_shape`, both without the batch axis."""
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
        """`answers` as one graph for all batch sizes; kept until the teacher's weights change."""
        kept: dict[Any, CompiledTeacher] = self.__dict__.setdefault("_graphs", {})
        key = (x.shape[1:], None if labels is None else (labels.dtype.name, labels.shape[1:]))
        fingerprint = self.fingerprint
        if key not in kept or kept[key].fingerprint != fingerprint:
            kept[key] = CompiledTeacher(self.answers, self._names(), x, labels, fingerprint)
        return kept[key]

    def _with(self, **changes: Any) -> Self:
        """A teacher that differs in these attributes and shares all else."""
        new = copy.copy(self)
        new.__dict__.pop("_graphs", None)
        new.__dict__.update(changes)
        return new
