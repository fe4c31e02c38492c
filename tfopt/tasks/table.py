"""All tasks, and the lookup of a data set's task."""

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from tfopt.errors import DataError
from tfopt.tasks.classification import Classification
from tfopt.tasks.multilabel import Multilabel
from tfopt.tasks.regression import Regression
from tfopt.tasks.task import LabelForm, Task

TASKS: dict[str, type[Task]] = {task.kind: task for task in (Classification, Multilabel, Regression)}
"""The tasks by their names in JSON."""

if TYPE_CHECKING:
    TaskName = str
else:  # validated by the classes that `tfopt.base.config.config` makes
    TaskName = Literal[tuple(TASKS)]


class _Samples(Protocol):
    @property
    def labels(self) -> np.ndarray: ...


class Labeled(Protocol):
    """An object that knows what its labels mean, e.g. a `Dataset`."""

    @property
    def task(self) -> TaskName:
        """Name of the task."""
        ...

    @property
    def labels(self) -> LabelForm:
        """Form of the labels."""
        ...

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None for values."""
        ...

    @property
    def train(self) -> _Samples:
        """Training samples."""
        ...


def task_named(kind: str) -> type[Task]:
    """Return the class of the task called `kind`. Raise `DataError` if there is none."""
    if kind not in TASKS:
        raise DataError(f"Unknown task {kind!r}; expected one of {', '.join(TASKS)}.")
    return TASKS[kind]


def task_of(data: Labeled) -> Task:
    """Return the task of the labels of `data`. Raise `DataError` for an unknown one."""
    return task_named(data.task)(data.labels, data.num_classes, data.train.labels.shape[1:])
