"""Regression."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from tfopt.base.keras_compat import tf_keras
from tfopt.tasks.metrics import Metric, mean_absolute_error, mean_squared_error
from tfopt.tasks.task import Task


@dataclass(frozen=True)
class Regression(Task):
    """Each sample has one or more values, (n,) or (n, ..., k); the labels are floats."""

    kind = "regression"
    activation = "linear"
    formulas: ClassVar[Mapping[str, Metric]] = {"mse": mean_squared_error, "mae": mean_absolute_error}
    keras_metric = "mae"
    has_probabilities = False
    smaller_is_better = True

    @property
    @override
    def places(self) -> tuple[int, ...]:
        return self.shape[:-1]

    def loss(self, *, logits: bool, outputs: int | None = None) -> Any:
        """Return the mean squared error."""
        del logits, outputs
        return tf_keras().losses.MeanSquaredError()
