"""The contract of all tasks: what labels require of a model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from tfopt.tasks.metrics import Metric, on_each

LabelForm = Literal["sparse", "one-hot", "values", "none"]


class Samples(Protocol):
    """A part of a data set, e.g. a `Split`."""

    @property
    def labels(self) -> Any:
        """Labels as they were read."""
        ...

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of one target."""
        ...

    def x(self, indices: Any = None) -> Any:
        """Return model inputs."""
        ...

    def y(self, indices: Any = None) -> Any:
        """Return targets."""
        ...


@dataclass(frozen=True)
class Task(ABC):
    """The requirements that the labels of one data set place on a model. The class represents all tasks of its kind.

    Attributes:
        labels: "sparse" (class numbers), "one-hot" or "values"; "none" if there are none.
        num_classes: the number of classes in the labels; None for values.
        shape: the shape of one sample's labels; () for one number.

    Examples:
        >>> from tfopt.tasks import task_of
        >>> task = task_of(data)
        >>> isinstance(task, tfopt.extend.Task), task.kind, task.outputs
        (True, 'classification', 10)
    """

    labels: LabelForm
    num_classes: int | None
    shape: tuple[int, ...] = ()

    kind: ClassVar[str]
    """Name of the task in JSON, in messages and in `Dataset.task`; "package>name" in another package."""
    activation: ClassVar[str]
    """Activation of the output layer."""
    formulas: ClassVar[Mapping[str, Metric]]
    """Metrics by name; the first decides which model is better."""
    keras_metric: ClassVar[str]
    """Metric that Keras computes during training; one of `formulas`, under the same name."""
    has_classes: ClassVar[bool] = False
    """Whether each sample belongs to one class."""
    has_places: ClassVar[bool] = False
    """Whether each place of a sample, e.g. a pixel, belongs to one class."""
    has_probabilities: ClassVar[bool] = True
    """Whether outputs are probabilities or logits, rather than values."""
    smaller_is_better: ClassVar[bool] = False
    """Whether the metrics are errors."""
    responses: ClassVar[str]
    """Name of the task whose responses have the same form; by default the task itself. Losses are for responses."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let the responses of a task be its own, unless it names another."""
        super().__init_subclass__(**kwargs)
        if "responses" not in vars(cls):
            cls.responses = getattr(cls, "kind", "")  # `register` says what is missing

    @property
    def outputs(self) -> int:
        """Number of outputs of a model for the task; for each place, if there are places."""
        return self.num_classes or prod(self.shape)

    @property
    def places(self) -> tuple[int, ...]:
        """The axes of a sample's output before the classes, e.g. (height, width); () for one answer per sample."""
        return ()

    @property
    def scores_classes(self) -> bool:
        """Whether the channels of an output are scores of classes, for the sample or for each place."""
        return self.has_classes or self.has_places

    @classmethod
    def exclusive(cls, outputs: int) -> bool:
        """Return whether the probabilities of a number of `outputs` sum to 1, as softmax outputs do."""
        del outputs
        return False

    @abstractmethod
    def loss(self, *, logits: bool, outputs: int | None = None) -> Any:
        """Return the tf_keras loss for the labels.

        Args:
            logits: whether the model outputs logits rather than probabilities or values.
            outputs: the number of model outputs, if it is not `Task.outputs`.
        """

    def by_task(self) -> Mapping[str, "Task"]:
        """Return the task of each output of a model; "" is the only one."""
        return {"": self}

    def by_output(self, values: Any) -> dict[str, Any]:
        """Return `values`, such as predictions or labels, for each output of a model; "" is the only one."""
        return {"": values}

    def measured(self, predictions: Any, samples: Samples, *, logits: Any = False) -> dict[str, float]:
        """Return the metrics of predictions for all of `samples`; nothing if there are no labels.

        Args:
            predictions: as for `metrics`.
            samples: a part of a data set.
            logits: as for `metrics`; by output if there are several.
        """
        return {} if self.labels == "none" else self.metrics(predictions, samples.y(), logits=logits)

    @classmethod
    def metrics(cls, predictions: ArrayLike, labels: ArrayLike, *, logits: bool = False) -> dict[str, float]:
        """Return the metrics by name.

        Args:
            predictions: (N, ..., C), probabilities or values.
            labels: in a form that the formulas in `tfopt.tasks.metrics` accept.
            logits: whether predictions are logits rather than probabilities.

        Raises:
            DataError: the shapes do not match, or there are NaNs.
        """
        how = cls._how(logits)
        return {name: formula(predictions, labels, **how) for name, formula in cls.formulas.items()}

    @classmethod
    def metric(cls, predictions: ArrayLike, labels: ArrayLike, *, logits: bool = False) -> float:
        """Return only `keras_metric`.

        Args:
            predictions: as for `metrics`.
            labels: as for `metrics`.
            logits: as for `metrics`.

        Raises:
            DataError: as for `metrics`.
        """
        return cls.formulas[cls.keras_metric](predictions, labels, **cls._how(logits))

    @classmethod
    def metric_on_each(cls, predictions: ArrayLike, labels: ArrayLike, *, logits: bool = False) -> np.ndarray:
        """Return `keras_metric` on each sample by itself, (N,).

        Args:
            predictions: as for `metrics`.
            labels: as for `metrics`.
            logits: as for `metrics`.

        Raises:
            DataError: as for `metrics`.
        """
        return on_each(cls.formulas[cls.keras_metric], predictions, labels, **cls._how(logits))

    @classmethod
    def _how(cls, logits: bool) -> dict[str, bool]:
        return {"logits": logits} if cls.has_probabilities else {}

    def groups(self, labels: np.ndarray) -> np.ndarray:
        """Return the class of each sample of `labels`, (N,), for stratified splits; 0 if samples have no one class."""
        return np.zeros(len(labels), np.int32)
