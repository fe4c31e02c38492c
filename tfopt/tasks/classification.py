"""Single-label classification."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tfopt.base.keras_compat import tf_keras
from tfopt.tasks.metrics import Metric, accuracy
from tfopt.tasks.task import Task


@dataclass(frozen=True)
class Classification(Task):
    """Each sample belongs to one class; the labels are class numbers or one-hot rows."""

    kind = "classification"
    activation = "softmax"
    formulas: ClassVar[Mapping[str, Metric]] = {"accuracy": accuracy}
    keras_metric = "accuracy"
    has_classes = True

    @classmethod
    def exclusive(cls, outputs: int) -> bool:
        """Return whether each class has its own output; a single output is the probability of class 1."""
        return outputs > 1

    def loss(self, *, logits: bool, outputs: int | None = None) -> Any:
        """Return the crossentropy for the label form, or the binary crossentropy for a single output."""
        losses = tf_keras().losses
        if outputs == 1:
            return losses.BinaryCrossentropy(from_logits=logits)
        if self.labels == "sparse":
            return losses.SparseCategoricalCrossentropy(from_logits=logits)
        return losses.CategoricalCrossentropy(from_logits=logits)

    def groups(self, labels: np.ndarray) -> np.ndarray:
        """Return the class numbers (N,)."""
        return labels if labels.ndim == 1 else labels.argmax(axis=1)
