"""The base of all models that train models: for both Kerases, compiled and fitted as usual, with every term logged.

A subclass defines what is learned from a batch (`learning_step`) and which outputs the labels supervise. All
differences between Keras 3 and tf_keras are handled here.
"""

import functools
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tfopt.base.keras_compat import keras_of
from tfopt.base.replicas import number_of_replicas
from tfopt.distillation.batches import stream_batches
from tfopt.errors import DataError, RecipeError
from tfopt.graph.types import map_leaves


@dataclass(frozen=True)
class StepResult:
    """The result of one training batch.

    Attributes:
        outputs: the outputs compared with the labels, each (batch, ...), in the order of the learner's `rows`.
        terms: weighted scalars in the order of the learner's `terms`.
        weights: of the losses on the labels at this step; None uses those of the rows.
    """

    outputs: Sequence[Any]
    terms: Sequence[Any]
    weights: Sequence[Any] | None = None


@dataclass(frozen=True)
class Row:
    """One output compared with the labels.

    Attributes:
        suffix: of its name in the logs: "" or "_name".
        weight: of its loss on the labels during training.
        evaluation_weight: its weight in the loss that `evaluate` reports.
    """

    suffix: str = ""
    weight: float = 1.0
    evaluation_weight: float = 1.0


class Learner:
    """A mixin placed before the `Model` of either Keras; see `model_class`.

    `predict`, `save`, `save_weights`, `load_weights` and `export` act on `student`.
    """

    student: Any

    def __init__(self, student: Any, name: str, rows: Sequence[Row], terms: Sequence[str]) -> None:
        super().__init__(name=name, dtype=student.dtype_policy, autocast=False)  # type: ignore[call-arg]
        self.ledger = Ledger(keras_of(student), tuple(rows), tuple(terms))
        self.built = True

    # What subclasses define

    def learning_step(self, x: Any, y: Any, sample_weight: Any) -> StepResult:
        """Compute one batch, in training mode, on the gradient tape. `sample_weight` is (batch,) or None."""
        raise NotImplementedError

    def with_targets(self, x: Any, y: Any) -> Any:
        """Return `x` with everything that must be computed before the tape records."""
        del y
        return x

    def evaluation_outputs(self, x: Any) -> Sequence[Any]:
        """Return the outputs that `evaluate` compares with the labels, in inference mode, in the order of the rows."""
        return [self.student(x, training=False)]

    def after_step(self) -> None:
        """Run within the graph after each step."""

    def on_fit_begin(self, epochs: int, steps: int | None) -> None:
        """Run when `fit` begins; `steps` per epoch, or None if unknown."""

    def prepare_fit(self, arguments: dict[str, Any]) -> None:
        """Change the `arguments` of a `fit`, by name, in place."""

    def prepare_batch(self, x: Any, y: Any) -> None:
        """Run before `train_on_batch`."""

    # Delegated to the student

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Return the outputs of the student."""
        return self.student(inputs, training=training)

    def save(self, *args: Any, **kwargs: Any) -> Any:
        """Save only the student."""
        return self.student.save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> Any:
        """Save the student's weights."""
        return self.student.save_weights(*args, **kwargs)

    def load_weights(self, *args: Any, **kwargs: Any) -> Any:
        """Load the student's weights."""
        return self.student.load_weights(*args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Export the student."""
        return self.student.export(*args, **kwargs)

    # Training

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile as Keras does, for one output; `jit_compile` defaults to off. Metrics are kept for each row."""
        kwargs.setdefault("jit_compile", False)
        given = inspect.signature(super().compile).bind(*args, **kwargs)  # type: ignore[misc]
        if given.arguments.pop("loss_weights", None) is not None:
            raise RecipeError(
                "loss_weights are for models with several outputs; set the weights of the losses instead."
            )
        compiled = {name: given.arguments.pop(name, None) for name in ("loss", "metrics", "weighted_metrics")}
        super().compile(*given.args, **given.kwargs)  # type: ignore[misc]
        self.ledger.judge(**compiled, run_eagerly=bool(given.arguments.get("run_eagerly")))

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Fit as Keras does. Raise RecipeError, naming the term, at the first loss that is not finite."""
        given = inspect.signature(super().fit).bind(x, y, *args, **kwargs)  # type: ignore[misc]
        given.apply_defaults()
        stream_batches(given.arguments, self.student)
        self.prepare_fit(given.arguments)
        given.arguments["callbacks"] = self._with_watch(given.arguments["callbacks"])
        return super().fit(*given.args, **given.kwargs)  # type: ignore[misc]

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train on one batch as Keras does."""
        self.prepare_batch(x, y)
        return super().train_on_batch(x, y, *args, **kwargs)  # type: ignore[misc]

    @property
    def metrics(self) -> list[Any]:
        """The metrics of every loss term, which Keras resets each epoch."""
        return self.ledger.metrics

    @property
    def own_variables(self) -> list[Any]:
        """The variables that training changes and Keras does not track."""
        return []

    def train_step(self, data: Any) -> dict[str, Any]:
        """Take one training step on a batch and return the metrics by name."""
        import tensorflow as tf

        x, y, sample_weight = _unpacked(data)
        x = self.with_targets(x, y)
        with tf.GradientTape() as tape:
            result = self.learning_step(x, y, sample_weight)
            hard = self.ledger.hard_losses(y, result.outputs, sample_weight)
            weights = result.weights or [row.weight for row in self.ledger.rows]
            total = self._total([w * loss for w, loss in zip(weights, hard, strict=True)], result.terms)
            scaled = self._scaled(total)
        self._minimize(scaled, tape)
        self.after_step()
        rows = tf.shape(result.outputs[0])[0]
        logs = self.ledger.track(total, hard, result.terms, rows)
        return {**logs, **self.ledger.measured(y, result.outputs, sample_weight)}

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluate one batch and return the metrics by name."""
        import tensorflow as tf

        x, y, sample_weight = _unpacked(data)
        outputs = self.evaluation_outputs(x)
        hard = self.ledger.hard_losses(y, outputs, sample_weight)
        total = self._total(
            [row.evaluation_weight * loss for row, loss in zip(self.ledger.rows, hard, strict=True)], []
        )
        logs = self.ledger.track(total, hard if len(hard) > 1 else [], [], tf.shape(outputs[0])[0])
        return {**logs, **self.ledger.measured(y, outputs, sample_weight)}

    def _total(self, hard: Sequence[Any], terms: Sequence[Any]) -> Any:
        """Return the sum of label losses, which Keras scaled for tf.distribute, and of the terms, scaled alike."""
        import tensorflow as tf

        rest = [tf.cast(part, tf.float32) for part in (*terms, *self.losses)]  # type: ignore[attr-defined]
        total = tf.add_n([tf.cast(loss, tf.float32) for loss in hard])
        return total + tf.add_n(rest) / number_of_replicas() if rest else total

    def _with_watch(self, callbacks: Any) -> Any:
        watch = _watch_class(keras_of(self.student).__name__)(self.ledger.tracked)
        if hasattr(callbacks, "append") and not isinstance(callbacks, list):  # the caller's CallbackList
            callbacks.append(watch)
            return callbacks
        callbacks = callbacks or []
        return [watch, *(callbacks if isinstance(callbacks, list | tuple) else [callbacks])]

    # Differences between Keras 3 and tf_keras

    def _scaled(self, total: Any) -> Any:
        """Return `total` scaled as the optimizer requires for the gradients."""
        return total

    def _minimize(self, total: Any, tape: Any) -> None:
        raise NotImplementedError


class Ledger:
    """Losses, metrics and their epoch means; a plain object, so that Keras does not track its contents."""

    def __init__(self, api: Any, rows: tuple[Row, ...], terms: tuple[str, ...]) -> None:
        self.rows, self._api = rows, api
        self._hard = tuple(f"hard_loss{row.suffix}" for row in rows)
        self.tracked = (*self._hard, *terms)
        self._terms = terms
        self._means = {name: api.metrics.Mean(name=name) for name in ("loss", *self.tracked)}
        self._judges: list[Any] = []
        self.loss: Any = None

    def judge(self, loss: Any, metrics: Any, weighted_metrics: Any, run_eagerly: bool) -> None:
        """Give each row a separate loss and metrics, held by an otherwise empty model."""

        def own(given: Any) -> Any:
            if len(self.rows) == 1:
                return given
            kind = self._api.metrics.Metric
            return map_leaves(lambda m: type(m).from_config(m.get_config()) if isinstance(m, kind) else m, given)

        self.loss = loss
        self._judges = [self._api.Model() for _ in self.rows]
        for judge in self._judges:
            judge.compile(
                loss=loss, metrics=own(metrics), weighted_metrics=own(weighted_metrics), run_eagerly=run_eagerly
            )

    def hard_losses(self, y: Any, outputs: Sequence[Any], sample_weight: Any) -> list[Any]:
        """Return the compiled loss of each row; 0 where it is not needed."""
        import tensorflow as tf

        if (y is None or self.loss is None) and not any(row.weight for row in self.rows):
            return [tf.zeros(()) for _ in outputs]
        if y is None:
            raise DataError(
                "The loss on the labels needs labels: expected (x, y) or (x, y, sample_weight), got x alone."
            )
        return [
            judge.compute_loss(x=None, y=y, y_pred=output, sample_weight=sample_weight)
            for judge, output in zip(self._judges, outputs, strict=True)
        ]

    def measured(self, y: Any, outputs: Sequence[Any], sample_weight: Any) -> dict[str, Any]:
        """Return the compiled metrics of all rows so far, with the suffix of their row."""
        found = {}
        for row, judge, output in zip(self.rows, self._judges, outputs, strict=True):
            values = judge.compute_metrics(None, y, output, sample_weight)
            found.update({f"{name}{row.suffix}": value for name, value in values.items() if name != "loss"})
        return found

    def track(self, total: Any, hard: Sequence[Any], terms: Sequence[Any], rows: Any) -> dict[str, Any]:
        """Return the running means, including this batch with `rows` labeled samples."""
        names = ["loss", *self._hard[: len(hard)], *self._terms[: len(terms)]]
        # Undo Keras's scaling for tf.distribute in the reported value.
        values = [value * number_of_replicas() for value in (total, *hard)] + list(terms)
        for name, value in zip(names, values, strict=True):
            self._means[name].update_state(value, sample_weight=rows)
        return {name: self._means[name].result() for name in names}

    @property
    def metrics(self) -> list[Any]:
        """All metrics, which Keras resets each epoch."""
        own = (metric for judge in self._judges for metric in judge.metrics if metric.name != "loss")
        return [*self._means.values(), *own]


def mean_over_samples(values: Any, sample_weight: Any) -> Any:
    """Return the weighted mean of (batch,) values as in Keras: divided by the number of samples.

    Args:
        values: (batch,).
        sample_weight: (batch,), or (batch, ...) for places, of which the mean counts; None: all samples count alike.
    """
    import tensorflow as tf

    if sample_weight is not None:
        weights = tf.reshape(tf.cast(sample_weight, values.dtype), [tf.shape(values)[0], -1])
        values = values * tf.reduce_mean(weights, axis=1)
    return tf.reduce_mean(values)


def _unpacked(data: Any) -> tuple[Any, Any, Any]:
    parts = data if isinstance(data, tuple) else (data,)
    x, y, sample_weight = (*parts, None, None)[:3]
    return x, y, sample_weight


@functools.cache
def model_class(mixin: type, name: str) -> Any:
    """Return the class of the learner `mixin` for students of package `name`. Lazy, as Keras imports slowly."""
    if name == "keras":
        import keras

        class OfKeras(mixin, keras.Model):  # type: ignore[misc]
            def _scaled(self, total: Any) -> Any:
                return self.optimizer.scale_loss(total)

            def _minimize(self, total: Any, tape: Any) -> None:
                weights = self.trainable_weights
                self.optimizer.apply_gradients(zip(tape.gradient(total, weights), weights, strict=True))

        kind: type = OfKeras
    else:
        from tfopt.base.keras_compat import tf_keras

        class OfLegacy(mixin, tf_keras().Model):  # type: ignore[misc]
            def _minimize(self, total: Any, tape: Any) -> None:
                self.optimizer.minimize(total, self.trainable_variables, tape=tape)

        kind = OfLegacy
    kind.__name__ = kind.__qualname__ = mixin.__name__.lstrip("_")
    return kind


@functools.cache
def _watch_class(name: str) -> Any:
    from tfopt.base.keras_compat import tf_keras

    if name == "keras":
        import keras

        base: Any = keras.callbacks.Callback
    else:
        base = tf_keras().callbacks.Callback

    class Watch(base):  # type: ignore[misc]
        """Tell the learner the length of the training, and stop at values that are not finite."""

        _supports_tf_logs = True  # otherwise tf_keras copies all logs to NumPy after every batch

        def __init__(self, terms: tuple[str, ...]) -> None:
            super().__init__()
            self._terms = terms

        def on_train_begin(self, logs: Any = None) -> None:
            del logs
            self.model.on_fit_begin(self.params["epochs"], self.params["steps"])

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            logs = logs or {}
            if math.isfinite(float(logs.get("loss", 0.0))):
                return
            wrong = [name for name in self._terms if not math.isfinite(float(logs.get(name, 0.0)))]
            raise RecipeError(
                f"The loss is {float(logs['loss'])} after step {batch + 1} of this epoch; not finite: "
                f"{', '.join(wrong) or 'a regularizer'}. Lower the learning rate or that term's weight, or look for "
                "extreme values in the data."
            )

    return Watch
