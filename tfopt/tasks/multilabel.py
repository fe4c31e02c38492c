"""Multi-label classification."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tfopt.base.keras_compat import tf_keras
from tfopt.tasks.metrics import Metric, binary_accuracy
from tfopt.tasks.task import Task


@dataclass(frozen=True)
class Multilabel(Task):
    """Each sample belongs to any number of classes; the labels are rows of 0 and 1."""

    kind = "multilabel"
    activation = "sigmoid"
    formulas: ClassVar[Mapping[str, Metric]] = {"binary_accuracy": binary_accuracy}
    keras_metric = "binary_accuracy"

    def loss(self, *, logits: bool, outputs: int | None = None) -> Any:
        """Return the binary crossentropy."""
        del outputs
        return tf_keras().losses.BinaryCrossentropy(from_logits=logits)
