"""The teacher's answers that pass through `fit` with the inputs, computed once or at every step."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tfopt.distillation.loss_terms import Terms
from tfopt.distillation.prefetch import BATCHES, Prefetcher, batches_of
from tfopt.errors import DataError, ModelError, RecipeError
from tfopt.tasks import task_of_responses
from tfopt.teachers import Answers, Precomputed, array_about, require_deterministic
from tfopt.teachers.class_names import require_known_order

TARGETS = "tfopt_targets"
"""Batches with answers have x = {"inputs": x, TARGETS: {"output": ..., layer: ...}}; y stays unchanged."""
# The key, next to prefetched answers, of the checksum that shows whether the teacher has changed.
WEIGHTS = "tfopt_weights"
# Number of samples examined before training starts.
LOOK = 64
ASKED_AT_ONCE = 256


def has_targets(x: Any) -> bool:
    """Return True if the inputs carry the teacher's answers."""
    return isinstance(x, Mapping) and TARGETS in x


class TeacherTargets:
    """A teacher's answers for one student; a plain object, so that Keras does not track its contents.

    Args:
        teacher: provides the layers that are compared; None if none is needed.
        terms: the objective.
    """

    def __init__(self, teacher: Any, terms: Terms) -> None:
        import tensorflow as tf

        self.teacher, self.terms = teacher, terms
        self.hard_weight = terms.distillation.hard_weight
        self._answers: tuple[str, Answers] | None = None
        self._prefetcher: Prefetcher | None = None
        self._looked_at: str | None = None
        self._phases = [loss.hint_phase for loss in terms.distillation.losses]
        # The step at which `fit` began, and how many will follow.
        self._clock = tf.Variable([0.0, 1.0], trainable=False)

    @property
    def variables(self) -> list[Any]:
        """The variables that count steps."""
        return [self._clock]

    def check_fit(self, x: Any, y: Any = None) -> None:
        """Check on a few samples that the outputs of student and teacher can be compared.

        Args:
            x: (n, ...).
            y: labels or None.

        Raises:
            ModelError: they cannot be compared.
        """
        distillation = self.terms.distillation
        self.terms.resolve(x)
        outputs = self.terms.run(x, training=False)
        answers: Mapping[str, Any] = {}
        if self.teacher is not None:
            if distillation.task is not None:
                require_known_order(self.teacher)
            task = distillation.task and task_of_responses(distillation.task, outputs[0].shape.rank)
            self.teacher = self.teacher.resolved(np.asarray(x), task)
            known = isinstance(self.teacher, Precomputed)
            answers = self.teacher.first(len(x)) if known else self.answers_for(x, y)
        response = self.terms.response(answers, outputs[0])
        if response is not None and response.shape != outputs[0].shape:
            ours, theirs = (tuple(each.shape)[1:] for each in (outputs[0], response))
            raise ModelError(
                f"The student '{self.terms.student.name}' gives {ours} for a sample, the teacher {theirs}. Give the "
                "class names of both, to map one to the other (Teacher(class_names=...).for_classes(...), or "
                "--teacher-classes), or compare features only."
            )
        import tensorflow as tf

        self.terms(answers, None if y is None else tf.convert_to_tensor(y), outputs, None)  # builds the connectors

    def look_once(self, x: Any, y: Any = None) -> None:
        """Run `check_fit` on the first samples of a batch, unless that was done for other samples before."""
        if self._looked_at is None:
            x = x[0] if isinstance(x, list | tuple) and len(x) == 1 else x
            self._check_fit_once(np.asarray(x)[:LOOK], None if y is None else np.asarray(y)[:LOOK])

    def answers_for(self, x: Any, y: Any = None) -> dict[str, Any]:
        """Return the teacher's answers to a batch; works inside and outside a graph."""
        return {} if self.teacher is None else dict(self.teacher.answers(x, labels=y))

    def targets_for(self, x: Any, y: Any) -> dict[str, Any]:
        """Return the teacher's answers to a training batch: those that came with it, or else computed now."""
        import tensorflow as tf

        if not has_targets(x):
            return self.answers_for(x, y)
        if WEIGHTS not in x or self._prefetcher is None:
            return dict(x[TARGETS])
        unchanged = self._prefetcher.is_unchanged(x[WEIGHTS])
        return dict(tf.cond(unchanged, lambda: x[TARGETS], lambda: self.answers_for(x["inputs"], y)))

    def prepare_fit(self, arguments: dict[str, Any]) -> None:
        """Attach answers to the inputs in the `arguments` of a `fit`, once for all epochs or ahead of each step.

        Raises:
            DataError: inputs that are neither an array nor a `tf.data.Dataset`.
            ModelError: as for `check_fit`.
        """
        import tensorflow as tf

        x, y = arguments["x"], arguments["y"]
        if isinstance(x, tf.distribute.DistributedDataset):
            return  # what it lacks is computed in the step
        if isinstance(x, tf.data.Dataset):
            if not _dataset_has_targets(x):
                arguments["x"] = self._of_dataset(x)
        elif hasattr(x, "shape"):
            x, y = np.asarray(x), None if y is None else np.asarray(y)
            sample = x[:LOOK], None if y is None else y[:LOOK]
            self._check_fit_once(*sample)
            if self.teacher is not None and self.terms.distillation.cache != "never":
                arguments["x"] = {"inputs": x, TARGETS: self._of_arrays(x, y)}
            elif self._can_prefetch(*sample) and (batches := batches_of(arguments)) is not None:
                arguments.update(
                    x=self._prefetched(batches), y=None, sample_weight=None, batch_size=None, shuffle=False
                )
        else:
            raise DataError(
                "A distilled model is fitted on one array of inputs, a tf.data.Dataset or a PyDataset; got "
                f"{type(x).__name__}. Convert it, as with tf.data.Dataset.from_generator."
            )

    def _check_fit_once(self, x: np.ndarray, y: np.ndarray | None) -> None:
        """Run `check_fit`, unless the same samples were checked with the same teacher before."""
        seen = None if self.teacher is None else self.teacher.fingerprint
        key = f"{seen} {array_about({'x': x} if y is None else {'x': x, 'y': y})}"
        if key != self._looked_at or (seen is None and self.teacher is not None):
            self.check_fit(x, y)
        self._looked_at = key

    def _of_dataset(self, dataset: Any) -> Any:
        sample = _first(dataset)
        self._check_fit_once(*sample)
        if self.terms.distillation.cache == "always" and self.teacher is not None:
            return _with_answers(dataset, self.answers_for)
        alike = _has_fixed_sizes(dataset)  # a teacher that answers ahead is traced for samples of one size
        return self._prefetched(dataset) if alike and self._can_prefetch(*sample) else dataset

    def _can_prefetch(self, x: np.ndarray, y: np.ndarray | None) -> bool:
        if (
            self._prefetcher is None
            or self._prefetcher.teacher is not self.teacher
            or not self._prefetcher.accepts(x, y)
        ):
            self._prefetcher = Prefetcher.of(self.teacher, x, y)
        return self._prefetcher is not None

    def _prefetched(self, batches: Any) -> Any:
        prefetcher = self._prefetcher
        assert prefetcher is not None

        def beside(*element: Any) -> Any:
            answers, weights = prefetcher.answers(element[0], element[1] if len(element) > 1 else None)
            return ({"inputs": element[0], TARGETS: answers, WEIGHTS: weights}, *element[1:])

        return batches.map(beside, num_parallel_calls=BATCHES, deterministic=True).prefetch(1)

    def _of_arrays(self, x: np.ndarray, y: Any) -> dict[str, np.ndarray]:
        about = array_about({"x": x} if y is None else {"x": x, "y": np.asarray(y)})
        key = str(about)
        if self._answers is None or self._answers[0] != key:
            self._answers = (key, Answers(self.teacher, about, len(x)))
        labels = None if y is None else np.asarray(y)

        def batches() -> Iterator[Any]:
            for start in range(0, len(x), ASKED_AT_ONCE):
                part = slice(start, start + ASKED_AT_ONCE)
                yield x[part] if labels is None else (x[part], labels[part])

        return dict(self._answers[1].view(0, batches))

    # Term weights

    def start(self, optimizer: Any, epochs: int, steps: int | None) -> None:
        """Record the start of `fit`; raise RecipeError for phases of a training of unknown length."""
        if not any(self._phases):
            return
        if not steps:
            raise RecipeError(
                "A hint stage is a fraction of all steps, whose number is unknown: pass fit steps_per_epoch or a "
                "dataset of known cardinality."
            )
        import tensorflow as tf

        self._clock.assign([tf.cast(optimizer.iterations, tf.float32), float(epochs * steps)])

    def weighted(self, values: list[Any], optimizer: Any) -> tuple[Any, list[Any]]:
        """Return the weight of the loss on the labels, and `values`, as weighted at this step.

        In the first stage of hint training (Romero et al. 2015, section 2.2) only hints count; later all other terms
        do.
        """
        import tensorflow as tf

        hard = tf.constant(self.hard_weight, tf.float32)
        if not any(self._phases):
            return hard, values
        progress = (tf.cast(optimizer.iterations, tf.float32) - self._clock[0]) / self._clock[1]
        hinting = tf.cast(progress < max(self._phases), tf.float32)
        counts = [tf.cast(progress < phase, tf.float32) if phase else 1 - hinting for phase in self._phases]
        return hard * (1 - hinting), [count * value for count, value in zip(counts, values, strict=True)]


def _dataset_has_targets(dataset: Any) -> bool:
    spec = dataset.element_spec
    return has_targets(spec[0] if isinstance(spec, tuple) else spec)


def _has_fixed_sizes(dataset: Any) -> bool:
    """Return whether all samples of a `tf.data.Dataset` of batches have the same size."""
    import tensorflow as tf

    shapes = (getattr(spec, "shape", None) for spec in tf.nest.flatten(dataset.element_spec))
    return all(shape is not None and shape[1:].is_fully_defined() for shape in shapes)


def _first(dataset: Any) -> tuple[Any, Any]:
    """Return a few samples of a `tf.data.Dataset` of batches, and their labels."""
    element = next(iter(dataset.take(1)))
    parts = element if isinstance(element, tuple) else (element,)
    x, y = (*parts, None)[:2]
    return np.asarray(x)[:LOOK], None if y is None else np.asarray(y)[:LOOK]


def _with_answers(dataset: Any, ask: Any) -> Any:
    """Return `dataset` with answers, cached in memory from the first epoch; refuse data that changes between epochs."""
    import tensorflow as tf

    require_deterministic(dataset)

    def answers(*element: Any) -> Any:
        return ask(element[0], element[1] if len(element) > 1 else None)

    def joined(element: Any, targets: Any) -> Any:
        parts = element if isinstance(element, tuple) else (element,)
        return ({"inputs": parts[0], TARGETS: targets}, *parts[1:])

    return tf.data.Dataset.zip((dataset, dataset.map(answers).cache())).map(joined)
