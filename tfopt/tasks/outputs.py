"""How many outputs a task needs, and their activation."""

import math

from tfopt.tasks.labels import Labeled, Task

ACTIVATIONS: dict[Task, str] = {"classification": "softmax", "multilabel": "sigmoid", "regression": "linear"}
"""What an output layer ends in, by task."""


def outputs_for(data: Labeled, labels: tuple[int, ...]) -> int:
    """How many outputs a model for the task of `data` has; `labels` is the shape of its labels, samples first."""
    return data.num_classes or math.prod(labels[1:])
