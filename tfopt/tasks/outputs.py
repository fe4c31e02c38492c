"""How many outputs a task needs, and their activation."""

import math

from tfopt.data import Dataset
from tfopt.tasks.labels import Task

ACTIVATIONS: dict[Task, str] = {"classification": "softmax", "multilabel": "sigmoid", "regression": "linear"}
"""What an output layer ends in, by task."""


def outputs_for(data: Dataset) -> int:
    """How many outputs a model for the task of `data` has."""
    return data.num_classes or math.prod(data.train.labels.shape[1:])
