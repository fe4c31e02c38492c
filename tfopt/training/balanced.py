"""The balanced accuracy in training, for labels of which a rare class may be lost without a trace in the accuracy."""

import functools
from collections.abc import Callable
from typing import Any

from tfopt.base.keras_compat import tf_keras
from tfopt.data import Dataset
from tfopt.tasks import Task, task_of
from tfopt.tasks.balance import Asked
from tfopt.tasks.metrics import threshold
from tfopt.training.best import Score
from tfopt.training.class_weights import WEIGHTED
from tfopt.training.settings import Training

BALANCED_ACCURACY = "balanced_accuracy"
"""Its name in the logs of Keras."""


def samples_beside(data: Dataset, training: Training) -> dict[str, float]:
    """Return the metrics that decide beside that of the task, with the number of samples that they are worth.

    It is the balanced accuracy of imbalanced labels, which the guard of a run looks at, too; of several outputs, and
    where classes have weights, there is none.
    """
    if data.labels == "none" or data.outputs is not None or training.class_weight is not None:
        return {}
    asked = Asked.by(task_of(data), data.validation.y())
    if asked is None or not asked.imbalanced:
        return {}
    return {BALANCED_ACCURACY: asked.worth(asked.balanced)}


def score_reader(data: Dataset, training: Training) -> Callable[..., Score]:
    """Return a function from the logs of Keras on validation data, and their `prefix`, to their `Score`."""
    task, samples = task_of(data), len(data.validation)
    return functools.partial(
        Score.of,
        metric=task.keras_metric,
        smaller_is_better=task.smaller_is_better,
        samples=samples,
        beside=samples_beside(data, training),
    )


def what_decides(data: Dataset, training: Training) -> str:
    """Return the name of what `score_reader` ranks by."""
    metric = task_of(data).keras_metric
    if samples_beside(data, training):
        return f"mean of {metric} and balanced accuracy"
    return WEIGHTED if training.class_weight and data.outputs is None else metric


def balanced_accuracy(task: Task, *, logits: bool) -> Any:
    """Return a tf_keras metric: the mean of the recalls of all classes that there are.

    Of several labels it is that of yes and no of each of them.

    Args:
        task: of the only output.
        logits: whether that is a logit rather than a probability; it matters to yes and no only.
    """
    independent = not task.scores_classes  # labels that do not exclude each other
    number = 2 * task.outputs if independent else task.num_classes or 2
    return _metric_class()(number, independent, threshold(logits=logits))


@functools.cache
def _metric_class() -> Any:
    import tensorflow as tf

    class BalancedAccuracy(tf_keras().metrics.Metric):  # type: ignore[misc]
        def __init__(
            self, number: int, independent: bool, above: float, name: str = BALANCED_ACCURACY, **how: Any
        ) -> None:
            super().__init__(name=name, **how)
            self._settings = {"number": number, "independent": independent, "above": above}
            self._right, self._asked = (
                self.add_weight(each, shape=(number,), initializer="zeros") for each in ("right", "asked")
            )

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            """Count labels and right answers by class; all samples count alike."""
            del sample_weight
            y_true, y_pred = tf.convert_to_tensor(y_true), tf.convert_to_tensor(y_pred)
            asked, answers = (
                self._yes_and_no(y_true, y_pred) if self._settings["independent"] else self._one(y_true, y_pred)
            )
            right = tf.cast(asked == answers, tf.float32)
            for total, values in ((self._right, right), (self._asked, tf.ones_like(right))):
                total.assign_add(tf.math.unsorted_segment_sum(values, asked, self._settings["number"]))

        def _yes_and_no(self, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
            first = 2 * tf.range(tf.shape(y_true)[-1]) + tf.zeros_like(y_true, tf.int32)
            asked = first + tf.cast(y_true > 0.5, tf.int32)
            answers = first + tf.cast(tf.reshape(y_pred, tf.shape(y_true)) > self._settings["above"], tf.int32)
            return tf.reshape(asked, [-1]), tf.reshape(answers, [-1])

        def _one(self, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
            width = y_pred.shape[-1]
            if width == 1:
                answers = tf.cast(y_pred > self._settings["above"], tf.int32)
            else:
                answers = tf.argmax(y_pred, axis=-1, output_type=tf.int32)
            one_hot = width > 1 and len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] == width
            asked = tf.argmax(y_true, axis=-1, output_type=tf.int32) if one_hot else tf.cast(y_true, tf.int32)
            return tf.reshape(asked, [-1]), tf.reshape(answers, [-1])

        def reset_state(self) -> None:
            """Forget all labels; the base class expects single numbers."""
            for total in (self._right, self._asked):
                total.assign(tf.zeros(total.shape))

        def result(self) -> Any:
            """Return the mean recall of the classes with labels."""
            there = tf.cast(self._asked > 0, tf.float32)
            return tf.math.divide_no_nan(
                tf.reduce_sum(tf.math.divide_no_nan(self._right, self._asked)), tf.reduce_sum(there)
            )

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), **self._settings}

    return BalancedAccuracy
