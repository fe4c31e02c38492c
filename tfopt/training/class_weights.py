"""Weights of classes in the training loss, as weights of samples: Keras's own are for one output without places."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfopt.data import Dataset
from tfopt.errors import RecipeError
from tfopt.tasks import Task, task_of
from tfopt.training.settings import Training

_ROWS = 256  # of labels at once: NumPy counts in int64, and masks may lie in a file


def class_weights(training: Training, data: Dataset) -> dict[str, np.ndarray]:
    """Return the weight of each class in the training data by output, see `Training.class_weight`; "" is the only one.

    Outputs without classes are missing; there are none for equal weights.

    Raises:
        RecipeError: weights are asked for, but no output has classes.
    """
    if training.class_weight is None:
        return {}
    tasks = {name: task for name, task in task_of(data).by_task().items() if task.has_classes or task.has_places}
    if not tasks:
        raise RecipeError(
            f'class_weight="balanced" is for a classification; the data are for {data.task}. Leave it out.'
        )
    return {name: _balanced(data.of_output(name).train.labels, task) for name, task in tasks.items()}


def _balanced(labels: Any, task: Task) -> np.ndarray:
    """Return n / (k * c) for each class, float32 (classes,): n labels of k classes, c of this one."""
    number = task.num_classes or 2
    if task.labels == "sparse":
        pieces = (labels[start : start + _ROWS] for start in range(0, len(labels), _ROWS))
        counts = sum(np.bincount(piece.ravel(), minlength=number) for piece in pieces)
    else:
        counts = labels.sum(axis=tuple(range(labels.ndim - 1)))
    return (np.sum(counts) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)


def weighted_by_class(training: Training, data: Dataset) -> Dataset:
    """Return `data` of one output, one label for each sample, with weights of classes in those of training samples."""
    weights = class_weights(training, data).get("")
    if weights is None:
        return data
    labels, given = data.train.labels, data.train.weights
    own = weights[labels] if labels.dtype.kind in "iu" else labels @ weights
    train = dataclasses.replace(data.train, weights=own if given is None else own * given)
    return dataclasses.replace(data, train=train)


def class_weighted(batches: Any, weights: Mapping[str, np.ndarray]) -> Any:
    """Return `batches` of (x, y) or (x, y, weights) in which samples have the weights of their classes, too.

    Args:
        batches: a tf.data.Dataset.
        weights: from `class_weights`.
    """
    if not weights:
        return batches

    def weighted(x: Any, y: Any, given: Any = None) -> Any:
        if not isinstance(y, Mapping):
            return x, y, _times(_of_labels(y, weights[""]), given)
        own = given if isinstance(given, Mapping) else dict.fromkeys(y, given)
        return x, y, {name: _times(_of_labels(each, weights.get(name)), own[name]) for name, each in y.items()}

    return batches.map(weighted, num_parallel_calls=2, deterministic=True)


def _of_labels(labels: Any, weights: np.ndarray | None) -> Any:
    """Return the weight of each label: of its class, of the mean of its classes if it is mixed, 1 without classes."""
    import tensorflow as tf

    if weights is None:
        return tf.ones(tf.shape(labels)[:1])
    if labels.dtype.is_integer:
        return tf.gather(weights, labels)
    return tf.tensordot(labels, tf.constant(weights), 1)


def _times(weights: Any, given: Any) -> Any:
    """Return weights (batch, ...) times those of the samples (batch,)."""
    import tensorflow as tf

    if given is None:
        return weights
    return weights * tf.reshape(given, [-1] + [1] * (len(weights.shape) - 1))
