"""All tasks, and the lookup of a data set's task."""

from collections.abc import Mapping
from typing import Annotated, Protocol

from pydantic import AfterValidator
from typing_extensions import override

from tfopt.base.registry import Kind
from tfopt.errors import DataError, RecipeError
from tfopt.tasks.classification import Classification
from tfopt.tasks.forecasting import Forecasting
from tfopt.tasks.multilabel import Multilabel
from tfopt.tasks.reconstruction import Reconstruction
from tfopt.tasks.regression import Regression
from tfopt.tasks.segmentation import Segmentation
from tfopt.tasks.several import Several
from tfopt.tasks.task import LabelForm, Samples, Task


class _Tasks(Kind[Task]):
    """Tasks have their names in JSON as `kind`, since data sets and losses name them."""

    @override
    def bare_name(self, cls: type[Task]) -> str:
        return cls.kind

    @override
    def full_name(self, package: str, cls: type[Task]) -> str:
        kind = getattr(cls, "kind", None)
        if not isinstance(kind, str) or not kind.startswith(f"{package}>"):
            raise RecipeError(
                f"Expected the kind of the task {cls.__name__} to begin with '{package}>', got {kind!r}; "
                f'write kind = "{package}>{cls.__name__.lower()}".'
            )
        return kind


_BUILT_IN = (Classification, Multilabel, Regression, Segmentation, Reconstruction, Forecasting, Several)
TASKS = _Tasks("Task", "task", Task, _BUILT_IN)
"""All tasks, with those of other packages."""


def _known(kind: str) -> str:
    try:
        return task_named(kind).kind
    except DataError as error:
        raise ValueError(str(error)) from None


TaskName = Annotated[str, AfterValidator(_known)]
"""The `kind` of a task."""


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
    def outputs(self) -> Mapping[str, Task] | None:
        """Tasks by output, if there are several outputs."""
        ...

    @property
    def train(self) -> Samples:
        """Training samples."""
        ...


def task_named(kind: str) -> type[Task]:
    """Return the class of the task called `kind`. Raise `DataError` if there is none."""
    try:
        return TASKS.named(kind)
    except RecipeError as error:
        if ">" in kind:  # of a package to import first
            raise DataError(str(error)) from None
        known = ", ".join(name for name in TASKS.names if name != Several.kind)  # which labels by output select
        raise DataError(f"Unknown task {kind!r}; expected one of {known}.") from None


def task_of_responses(kind: str, axes: int) -> TaskName:
    """Return the task whose responses, with that many axes, losses for the task `kind` compare.

    With more than two axes, a classification is that of places.
    """
    found = (task.kind for task in TASKS if task.has_places and task.responses == kind)
    return next(found, kind) if axes > 2 else kind


def task_of(data: Labeled) -> Task:
    """Return the task of the labels of `data`. Raise `DataError` for an unknown one."""
    if data.outputs:
        return Several(data.labels, data.num_classes, tasks=data.outputs)
    return task_named(data.task)(data.labels, data.num_classes, data.train.target_shape)
