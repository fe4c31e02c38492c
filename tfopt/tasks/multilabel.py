"""Multi-label classification."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from typing_extensions import override

from tfopt.base.keras_compat import tf_keras
from tfopt.tasks.metrics import Metric, binary_accuracy
from tfopt.tasks.task import Task


@dataclass(frozen=True)
class Multilabel(Task):
    """Each sample, or each place of it, belongs to any number of classes; labels (n, ..., k) are 0 and 1."""

    kind = "multilabel"
    activation = "sigmoid"
    formulas: ClassVar[Mapping[str, Metric]] = {"binary_accuracy": binary_accuracy}
    keras_metric = "binary_accuracy"

    @property
    @override
    def places(self) -> tuple[int, ...]:
        return self.shape[:-1]

    def loss(self, *, logits: bool, outputs: int | None = None) -> Any:
        """Return the binary crossentropy."""
        del outputs
        return tf_keras().losses.BinaryCrossentropy(from_logits=logits)
