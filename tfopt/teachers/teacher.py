"""A teacher: one source that answers for the student's inputs in logits, whatever its own input and output forms."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from typing_extensions import override

from tfopt.data import FrontEnd, Preprocessing
from tfopt.errors import ModelError
from tfopt.tasks import Task, TaskName, task_named
from tfopt.tasks.responses import FLOOR, Form, Tolerance, form_of, log_odds, log_probabilities
from tfopt.teachers.base import OUTPUT, Answering
from tfopt.teachers.class_names import are_numbers, distinct, require_renamed_in_place, unknown_class
from tfopt.teachers.input_adapter import way_between
from tfopt.teachers.sources import EstimatorSource, Shape, Source, open_source

# By output dtype: half the smallest positive probability, and half the distance from 1 to the value below it.
_HALF_STEPS = {"float16": (2.0**-25, 2.0**-12), "bfloat16": (FLOOR, 2.0**-9)}
_FLOAT_HALF_STEPS = (FLOOR, 2.0**-24)
_SETTLED_ON = 256  # samples at most


class Teacher(Answering):
    """A teacher with one source of answers.

    Args:
        source: a Keras 3 or tf_keras model of any kind; the path of a model file, of a SavedModel, of a `.tflite` or of
            a result folder, whose class names and preprocessing are used; a `LiteModel`; or a function of a batch,
            NumPy or TensorFlow, that returns an array. It is never changed.
        preprocessing: the teacher's own, a front end or the name of a `Preprocessing`; used after `for_inputs`.
        outputs: "logits", "probabilities", or "auto", which infers the form from the values.
        class_names: of its outputs, in order.
        name: for messages; by default the source's.
        allow_unsafe: let a model file run Python code, such as that of Lambda layers. Only for files that you trust.

    Raises:
        ModelError: an unsupported source, or one that cannot be read.

    Examples:
        >>> teacher.save("large.keras")
        >>> source = tfopt.Teacher("large.keras", outputs="probabilities", name="large")
        >>> distilled = tfopt.distill(model, source)
    """

    def __init__(
        self,
        source: Any,
        *,
        preprocessing: FrontEnd | str | None = None,
        outputs: Literal["auto", "logits", "probabilities"] = "auto",
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        allow_unsafe: bool = False,
    ) -> None:
        if outputs not in ("auto", "logits", "probabilities"):
            raise ModelError(f'Expected outputs "auto", "logits" or "probabilities", got {outputs!r}.')
        found = open_source(source, name, allow_unsafe=allow_unsafe)
        self.source: Source = found.source
        self.name = name or found.source.name
        self.outputs = outputs
        self.preprocessing = found.preprocessing if preprocessing is None else _as_preprocessing(preprocessing)
        self.class_names = distinct(found.class_names if class_names is None else class_names, self.name)
        if isinstance(found.source, EstimatorSource):
            self.order_is_stated = class_names is not None and not are_numbers(self.class_names or ())
            require_renamed_in_place(self.class_names or (), found.class_names or (), self.name)
        self._own_names = self.class_names
        self.form: Form | None = "logits" if outputs == "logits" else None
        self._student: FrontEnd | None = None
        self._columns: tuple[int, ...] | None = None
        self._sample: tuple[int, ...] | None = None

    @property
    @override
    def fingerprint(self) -> str | None:
        return self.source.fingerprint

    @property
    @override
    def notes(self) -> tuple[str, ...]:
        found = []
        if self._own_names and self.class_names != self._own_names:
            left_out = [name for name in self._own_names if name not in (self.class_names or ())]
            also = f"; it also knows {', '.join(left_out)}, which the student does not: left out" if left_out else ""
            found.append(f"the classes of teacher '{self.name}' are matched by name{also}")
        if self._sample is None:
            return tuple(found)
        found.extend(way_between(self._sample, self._wanted(), self.name).notes)
        factor, offset, swapped = self._scaling()
        if (factor, offset, swapped) != (1, 0, False):
            order = ", red and blue swapped," if swapped else ""
            found.append(f"teacher '{self.name}' is fed the student's values{order} * {_numbers(factor, offset)}")
        if self.form in ("softmax", "sigmoid"):
            found.append(
                f"teacher '{self.name}' gives probabilities ({self.form}); the student learns from their logits"
            )
        return tuple(found)

    @property
    @override
    def identity(self) -> dict[str, Any]:
        factor, offset, swapped = self._scaling()
        return {
            "fingerprint": self.fingerprint,
            "form": self.form,
            "columns": None if self._columns is None else list(self._columns),
            "fed": {
                "size": self._wanted_size(),
                "factor": factor,
                "offset": offset,
                **({"swapped": True} if swapped else {}),
            },
            "layers": list(self.layers),
            "response": self.response,
        }

    @override
    def with_outputs(self, layers: Sequence[str], *, response: bool = True) -> Self:
        known = self.source.layers_available
        if layers and not known:
            raise ModelError(
                f"The teacher '{self.name}' has no layers to take features from, only a response; got the layers "
                f"{list(layers)}. Pass it as a functional Keras model."
            )
        return self._with(layers=tuple(layers), response=response)

    @override
    def for_inputs(self, preprocessing: FrontEnd | str) -> Self:
        own, student = self.preprocessing, _as_preprocessing(preprocessing)
        images = isinstance(own, Preprocessing) and isinstance(student, Preprocessing)
        if own is not None and own != student and not images:
            raise ModelError(
                f"The teacher '{self.name}' takes {own.describe()}; the student takes {student.describe()}, with other "
                "settings. Load the data of the student with those of the teacher: load_data(..., preprocessing=...)."
            )
        return self._with(_student=student)

    @override
    def for_classes(self, class_names: Sequence[str]) -> Self:
        wanted, known = distinct(class_names, "the student"), self._own_names
        if known is None or wanted is None:
            return self
        if wanted == self.class_names:
            return self if self.order_is_stated else self._with(order_is_stated=True)
        for name in wanted:
            if name not in known:
                raise unknown_class(name, f"The teacher '{self.name}' does", known)
        columns = tuple(known.index(name) for name in wanted)
        return self._with(_columns=columns, class_names=wanted, order_is_stated=True)

    @override
    def resolved(self, sample: np.ndarray, task: TaskName | None) -> Self:
        import tensorflow as tf

        sample = np.asarray(sample[:_SETTLED_ON], np.float32)
        if not len(sample):
            raise ModelError(f"The teacher '{self.name}' is resolved on samples; got none.")
        output = self.source.ask(self._given(tf.constant(sample)))[0]
        values = tf.cast(output, tf.float32).numpy()
        if self.response:
            self._check_finite({OUTPUT: values}, 0)
        known = self._with(_sample=sample.shape[1:], form="values")
        if task is None or not task_named(task).has_probabilities or not self.response:
            return known
        if values.ndim != 2 and not (values.ndim > 2 and task_named(task).has_places):
            expected = "(batch, ..., classes)" if task_named(task).has_places else "(batch, classes)"
            raise ModelError(
                f"The teacher '{self.name}' gives outputs of shape {values.shape} for {len(values)} samples; expected "
                f"{expected} in a {task}. To learn only from its layers, request no response."
            )
        self._check_width(values.shape[-1])
        tolerance = _tolerance(output.dtype, self.source.step, values.shape[-1])
        return known._with(form=self._form_of(values, task_named(task), tolerance))

    def _form_of(self, values: np.ndarray, task: type[Task], tolerance: Tolerance) -> Form:
        """Return the form of the outputs (n, ..., classes): as declared in `outputs`, or else inferred."""
        if self.outputs == "logits":
            return "logits"
        found = form_of(values, task, tolerance)
        if self.outputs == "probabilities":
            if found == "logits":
                raise ModelError(
                    f"The teacher '{self.name}' was declared to give probabilities, but gives {values.min():.4g} to "
                    f'{values.max():.4g}; use outputs="auto".'
                )
            return found or "sigmoid"
        if found is None:
            sums = values.sum(axis=-1)
            raise ModelError(
                f"The teacher '{self.name}' gives values from 0 to 1 that sum to {sums.min():.4g} to {sums.max():.4g} "
                'in a row, which may be logits, or one probability per class: pass outputs="logits" or '
                'outputs="probabilities".'
            )
        return found

    @override
    def answers(self, x: Any, labels: Any = None) -> dict[str, Any]:
        import tensorflow as tf

        del labels
        if self.form is None and self.response:
            raise ModelError(
                f"Whether the teacher '{self.name}' gives logits or probabilities is not known yet: call "
                'teacher.resolved(sample_inputs, task), or pass outputs="logits" or "probabilities".'
            )
        output, *features = self.source.ask(self._given(x), self.layers)
        found = {OUTPUT: self._logits(output)} if self.response else {}
        return {**found, **{n: tf.cast(f, tf.float32) for n, f in zip(self.layers, features, strict=True)}}

    def _check_width(self, width: int) -> None:
        if self._own_names and width != len(self._own_names):
            raise ModelError(
                f"The teacher '{self.name}' has {width} outputs and {len(self._own_names)} class names; give one name "
                "for each output."
            )

    def _logits(self, output: Any) -> Any:
        """Return float32 logits (or values) from the source's output, in the student's class order."""
        import tensorflow as tf

        low, near_one = _HALF_STEPS.get(output.dtype.name, _FLOAT_HALF_STEPS)
        if self.source.step:
            low = near_one = self.source.step / 2
        values = tf.cast(output, tf.float32)
        if self.form == "softmax":
            values = log_probabilities(values, low)
        elif self.form == "sigmoid":
            values = log_odds(values, max(low, near_one))
        return values if self._columns is None else tf.gather(values, self._columns, axis=-1)

    def _given(self, x: Any) -> Any:
        """Return the source's input for the student's `x`."""
        import tensorflow as tf

        x = tf.cast(x, tf.float32)
        wanted = self._wanted()
        if self._sample is not None and not _has_needed_sizes(x, wanted or (None,) * len(self._sample)):
            x = tf.ensure_shape(x, (None, *self._sample))
        factor, offset, swapped = self._scaling()
        x = x[..., ::-1] if swapped else x
        if (factor, offset) != (1, 0):
            x = x * factor + offset
        return way_between(tuple(x.shape)[1:], wanted, self.name).apply(x)

    def _scaling(self) -> tuple[Any, Any, bool]:
        """Return the way from the student's scale, via pixels, to the teacher's.

        Factor and offset, one number each or one for each of the teacher's channels, and whether red and blue swap
        before.
        """
        own, student = self.preprocessing, self._student
        if not isinstance(own, Preprocessing) or not isinstance(student, Preprocessing):
            return 1.0, 0.0, False
        swapped = own.order != student.order
        scale, shift = (
            np.asarray(each)[..., ::-1] if swapped and np.ndim(each) else np.asarray(each)
            for each in (student.scale, student.offset)
        )
        factor = np.asarray(own.scale) / scale
        return factor.tolist(), (np.asarray(own.offset) - shift * factor).tolist(), swapped

    def _wanted(self) -> Shape | None:
        """Return the input shape of the source; where it is free, the size and colors of its preprocessing."""
        shape, own = self.source.input_shape, self.preprocessing
        if shape is None or len(shape) != 3 or not isinstance(own, Preprocessing):
            return shape
        height, width = own.size or (None, None)
        channels = {"rgb": 3, "grayscale": 1, None: None}[own.color]
        return shape[0] or height, shape[1] or width, shape[2] or channels

    def _wanted_size(self) -> list[int | None] | None:
        wanted = self._wanted()
        return None if wanted is None else list(wanted)


def _has_needed_sizes(x: Any, wanted: Shape) -> bool:
    """Return whether `x` has all sizes that `wanted` does not leave free; those may differ between batches."""
    known = x.shape.rank == len(wanted) + 1
    return known and all(need is None or size is not None for size, need in zip(x.shape[1:], wanted, strict=True))


def _tolerance(dtype: Any, step: float | None, classes: int) -> Tolerance:
    """Return the rounding tolerance of probabilities: in sum, half a step for each class."""
    sums = classes * step / 2 + 1e-3 if step else {"float16": 1e-2, "bfloat16": 5e-2}.get(dtype.name, 1e-3)
    return Tolerance(sums=sums, bounds=1e-6)


def _numbers(factor: Any, offset: Any) -> str:
    if np.ndim(factor) == np.ndim(offset) == 0:
        return f"{factor:.6g} {offset:+.6g}"
    return " + ".join("(" + ", ".join(f"{value:.6g}" for value in np.ravel(part)) + ")" for part in (factor, offset))


def _as_preprocessing(given: FrontEnd | str) -> FrontEnd:
    return Preprocessing.named(given) if isinstance(given, str) else given
