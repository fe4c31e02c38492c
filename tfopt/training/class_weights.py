"""Weights of classes in the training loss, as weights of samples: Keras's own are for one output without places."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfopt.data import Dataset
from tfopt.errors import RecipeError
from tfopt.tasks import Task, task_of
from tfopt.training.settings import BALANCED, Training

WEIGHTED = "class-weighted accuracy"
"""The accuracy in which labels have the weights of their classes in training, in words."""

_SHOWN = 5

_ROWS = 256  # of labels at once: NumPy counts in int64, and masks may lie in a file


def class_weights(training: Training, data: Dataset) -> dict[str, np.ndarray]:
    """Return the weight of each class in the training data by output, see `Training.class_weight`; "" is the only one.

    Outputs without classes, and those that a dict leaves out, are missing; there are none for equal weights.

    Raises:
        RecipeError: weights are asked for, but no output has classes, or none that has that name.
    """
    asked = training.class_weight
    if asked is None:
        return {}
    tasks = {name: task for name, task in task_of(data).by_task().items() if task.has_classes or task.has_places}
    if not tasks:
        raise RecipeError(
            f"class_weight={json.dumps(asked)} is for a classification; the data are for {data.task}. Leave it out."
        )
    named = dict.fromkeys(tasks, asked) if isinstance(asked, str) else _by_output(asked, data, list(tasks))
    return {name: _of_output(each, data.of_output(name), tasks[name], name) for name, each in named.items()}


def _by_output(asked: dict[str, Any], data: Dataset, outputs: list[str]) -> dict[str, Any]:
    """Return the weights of each output that the recipe names; "" is the only one.

    Raises:
        RecipeError: they are by output where there is one, or not where there are several, or for one without classes.
    """
    nested = all(not isinstance(each, float) for each in asked.values())
    if data.outputs is None and not nested:
        return {"": asked}
    if data.outputs is None:
        raise RecipeError(
            f"Training(class_weight=...) by output ({', '.join(asked)}) is for data with several; these have one. Give "
            "the weights of its classes without a name."
        )
    if not nested:
        raise RecipeError(
            f"Training(class_weight=...) has weights for the classes of one output; the data have several. Give such a "
            f"dict for some or all of {', '.join(outputs)}."
        )
    if unknown := [name for name in asked if name not in outputs]:
        raise RecipeError(
            f"Training(class_weight=...) is for output {', '.join(unknown)}; the outputs with classes are "
            f"{', '.join(outputs)}. Use these names."
        )
    return asked


def _of_output(asked: Any, data: Dataset, task: Task, output: str) -> np.ndarray:
    """Return the weight of each class, float32 (classes,). Raise `RecipeError` for classes that there are not."""
    if asked == BALANCED:
        return _balanced(data.train.labels, task)
    number, names = task.num_classes or 2, data.class_names or ()
    places = {str(place): place for place in range(number)} | {name: place for place, name in enumerate(names)}
    of = f" of output {output!r}" if output else ""
    if unknown := [key for key in asked if key not in places]:
        known = f"{', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}" or f"0..{number - 1}"
        raise RecipeError(f"Expected class_weight for the classes {known}{of}, got {', '.join(unknown)}. Correct them.")
    weights, given = np.ones(number, np.float32), dict[int, str]()
    for key, weight in asked.items():
        if (place := places[key]) in given:
            raise RecipeError(
                f"Expected one class_weight for each class{of}, got {given[place]!r} and {key!r}, which are the same. "
                "Leave one out."
            )
        given[place], weights[place] = key, weight
    if not weights.any():
        raise RecipeError(f"Expected a class_weight above 0 for a class{of}, got 0 for all. Raise one.")
    for part in ("train", "validation"):  # without any weight a loss is 0, and an accuracy no number
        if not weights @ _counts(data.split(part).labels, task):
            raise RecipeError(
                f"Expected a class_weight above 0 for a class of the {part} samples{of}, got 0 for all that they have. "
                "Raise one."
            )
    return weights


def _balanced(labels: Any, task: Task) -> np.ndarray:
    """Return n / (k * c) for each class, float32 (classes,): n labels of k classes, c of this one."""
    counts = _counts(labels, task)
    weights = np.sum(counts) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.asarray(weights, np.float32)


def _counts(labels: Any, task: Task) -> np.ndarray:
    """Return the number of labels of each class, (classes,)."""
    number = task.num_classes or 2
    if task.labels == "sparse":
        pieces = (labels[start : start + _ROWS] for start in range(0, len(labels), _ROWS))
        return np.asarray(sum(np.bincount(piece.ravel(), minlength=number) for piece in pieces))
    return np.asarray(labels.sum(axis=tuple(range(labels.ndim - 1))))


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
