"""The contract of all tasks: what labels ask of a model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike

from tfopt.tasks.metrics import Metric

LabelForm = Literal["sparse", "one-hot", "values"]


@dataclass(frozen=True)
class Task(ABC):
    """What the labels of one data set ask of a model. The class answers for all tasks of its kind.

    Attributes:
        labels: "sparse" (class numbers), "one-hot" or "values".
        num_classes: how many classes the labels name; None for values.
        shape: of the labels of one sample; () for one number.
    """

    labels: LabelForm
    num_classes: int | None
    shape: tuple[int, ...] = ()

    kind: ClassVar[str]
    """The word for the task in JSON, in messages and in `Dataset.task`."""
    activation: ClassVar[str]
    """What the output layer ends in."""
    formulas: ClassVar[Mapping[str, Metric]]
    """The metrics by name; the first decides which model is better."""
    keras_metric: ClassVar[str]
    """The metric that Keras computes while it trains."""
    has_classes: ClassVar[bool] = False
    """Whether each sample belongs to one class."""
    has_probabilities: ClassVar[bool] = True
    """Whether outputs are probabilities or logits, rather than values."""
    smaller_is_better: ClassVar[bool] = False
    """Whether the metrics are errors."""

    @property
    def outputs(self) -> int:
        """How many outputs a model for the task has."""
        return self.num_classes or prod(self.shape)

    @classmethod
    def exclusive(cls, outputs: int) -> bool:
        """Return whether the probabilities of that many outputs sum to 1, as those of a softmax do."""
        del outputs
        return False

    @abstractmethod
    def loss(self, *, logits: bool, outputs: int | None = None) -> Any:
        """Return the tf_keras loss for the labels.

        Args:
            logits: whether the model gives logits, rather than probabilities or values.
            outputs: how many outputs the model has, where that is not `Task.outputs`.
        """

    @classmethod
    def metrics(cls, predictions: ArrayLike, labels: ArrayLike, *, logits: bool = False) -> dict[str, float]:
        """Return the metrics by name.

        Args:
            predictions: (N, ..., C), probabilities or values.
            labels: as the formulas in `tfopt.tasks.metrics` take them.
            logits: the predictions are logits; for metrics that compare with 0.5 they become probabilities.

        Raises:
            DataError: the shapes do not fit, or there is NaN.
        """
        if logits and cls.has_probabilities and not cls.exclusive(np.shape(predictions)[-1]):
            predictions = 1 / (1 + np.exp(-np.asarray(predictions, np.float64)))
        return {name: formula(predictions, labels) for name, formula in cls.formulas.items()}

    def groups(self, labels: np.ndarray) -> np.ndarray:
        """Return the class of each sample (N,), to split by; all 0 where a sample has no single class."""
        return np.zeros(len(labels), np.int32)
