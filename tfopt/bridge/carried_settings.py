"""tf_keras losses, metrics and schedules that run Keras 3: what a model was compiled with and tf_keras lacks.

A Keras 3 loss or schedule is a function of tensors. A Keras 3 metric also holds variables, which TensorFlow updates
wherever it runs.
"""

import functools
from collections.abc import Callable
from typing import Any

from tfopt.base import keras_compat
from tfopt.errors import ModelError
from tfopt.graph.keras_internals import rate_schedule

OF_KERAS3 = "of_keras3"
"""The attribute of a function that runs one for Keras 3: that one."""
# Keras 3 reductions -> those of tf_keras; the others divide by a sum of weights.
_REDUCTIONS = {"sum": "sum", "none": "none", None: "none"}


def as_loss(loss: Any) -> Any:
    """Return a tf_keras loss that runs the Keras 3 `loss`, reduction and sample weights included."""
    return _loss_class()(_on_tensorflow(loss))


def as_loss_function(function: Any) -> Any:
    """Return a function of labels and outputs for tf_keras that runs one for Keras 3, which makes all labels floats."""
    import tensorflow as tf

    @functools.wraps(function)
    def loss(y_true: Any, y_pred: Any) -> Any:
        return function(tf.cast(y_true, y_pred.dtype), y_pred)

    setattr(loss, OF_KERAS3, function)
    return loss


def as_metric(metric: Any) -> Any:
    """Return a tf_keras metric that runs the Keras 3 `metric`, whose state it changes."""
    return _metric_class()(_on_tensorflow(metric))


def as_schedule(schedule: Any) -> Any:
    """Return a tf_keras learning-rate schedule that runs the Keras 3 `schedule`."""
    return _schedule_class()(_on_tensorflow(schedule))


def schedule_of(optimizer: Any) -> Any:
    """Return the learning-rate schedule of a Keras 3 optimizer, or None for a constant rate."""
    schedule = rate_schedule(optimizer)
    return schedule if hasattr(schedule, "get_config") else None


def _on_tensorflow(setting: Any) -> Any:
    import keras

    if keras.config.backend() != "tensorflow":
        raise ModelError(
            f"tf_keras has no {type(setting).__name__} and can run it only where Keras 3 runs on TensorFlow; its "
            f"backend is {keras.config.backend()}: set KERAS_BACKEND=tensorflow, or compile the result yourself."
        )
    return setting


def _described(setting: Any) -> Any:
    """Return the Keras 3 config of `setting` for files, or None if it has none."""
    import keras

    try:
        return keras.saving.serialize_keras_object(setting)
    except Exception:
        return None


@functools.cache
def _loss_class() -> Any:
    import tensorflow as tf

    loss_class: Any = keras_compat.tf_keras().losses.Loss

    class CarriedLoss(loss_class):  # type: ignore[misc]
        """Runs a Keras 3 loss."""

        def __init__(self, loss: Any) -> None:
            super().__init__(_REDUCTIONS.get(loss.reduction, "sum_over_batch_size"), loss.name)
            self.loss = loss

        def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            # A new tensor has no mask: tf_keras has put it into the weights already.
            return self.loss(y_true, tf.nest.map_structure(tf.identity, y_pred), sample_weight)

        def get_config(self) -> dict[str, Any]:
            return {"loss": _described(self.loss)}

    return CarriedLoss


@functools.cache
def _metric_class() -> Any:
    metric_class: Any = keras_compat.tf_keras().metrics.Metric

    class CarriedMetric(metric_class):  # type: ignore[misc]
        """Runs a Keras 3 metric."""

        def __init__(self, metric: Any) -> None:
            super().__init__(name=metric.name)
            self._metric: Callable[[], Any] = lambda: metric  # as an attribute, tf_keras would look for layers in it

        @property
        def carried(self) -> Any:
            return self._metric()

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            self._metric().update_state(y_true, y_pred, sample_weight=sample_weight)

        def result(self) -> Any:
            return self._metric().result()

        def reset_state(self) -> None:
            self._metric().reset_state()

        def get_config(self) -> dict[str, Any]:
            return {"metric": _described(self._metric())}

    return CarriedMetric


@functools.cache
def _schedule_class() -> Any:
    import tensorflow as tf

    schedule_class: Any = keras_compat.tf_keras().optimizers.schedules.LearningRateSchedule

    class CarriedSchedule(schedule_class):  # type: ignore[misc]
        """Runs a Keras 3 learning-rate schedule."""

        def __init__(self, schedule: Any) -> None:
            super().__init__()
            self.schedule = schedule

        def __call__(self, step: Any) -> Any:
            return tf.cast(self.schedule(step), tf.float32)

        def get_config(self) -> dict[str, Any]:
            return {"schedule": _described(self.schedule)}

    return CarriedSchedule
