"""All tasks, and the one that a data set asks for."""

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from tfopt.errors import DataError
from tfopt.tasks.classification import Classification
from tfopt.tasks.multilabel import Multilabel
from tfopt.tasks.regression import Regression
from tfopt.tasks.task import LabelForm, Task

TASKS: dict[str, type[Task]] = {task.kind: task for task in (Classification, Multilabel, Regression)}
"""Every task by its word in JSON."""

if TYPE_CHECKING:
    TaskName = str
else:  # checked by the classes that `tfopt.base.config.config` makes
    TaskName = Literal[tuple(TASKS)]


class _Samples(Protocol):
    @property
    def labels(self) -> np.ndarray: ...


class Labeled(Protocol):
    """What knows what its labels mean, such as a `Dataset`."""

    @property
    def task(self) -> TaskName:
        """The name of the task."""
        ...

    @property
    def labels(self) -> LabelForm:
        """The form of the labels."""
        ...

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None for values."""
        ...

    @property
    def train(self) -> _Samples:
        """The training samples."""
        ...


def task_named(kind: str) -> type[Task]:
    """Return the class of the task called `kind`. Raises `DataError` where there is none."""
    if kind not in TASKS:
        raise DataError(f"Unknown task {kind!r}; expected one of {', '.join(TASKS)}.")
    return TASKS[kind]


def task_of(data: Labeled) -> Task:
    """Return the task that the labels of `data` ask for. Raises `DataError` for an unknown one."""
    return task_named(data.task)(data.labels, data.num_classes, data.train.labels.shape[1:])
