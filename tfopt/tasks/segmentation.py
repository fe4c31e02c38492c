"""Segmentation: one class for each place of a sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from typing_extensions import override

from tfopt.tasks.classification import Classification
from tfopt.tasks.loss import one_hot_loss
from tfopt.tasks.metrics import Metric, accuracy, mean_dice, mean_iou


@dataclass(frozen=True)
class Segmentation(Classification):
    """Each place of a sample, such as a pixel or a step, belongs to one class.

    Labels are class numbers (n, *places), or one-hot (n, *places, classes); outputs are (n, *places, classes), or
    (n, *places, 1) for the probability of class 1. Losses on the responses of a classification apply to each place.
    """

    kind = "segmentation"
    responses = Classification.kind
    formulas: ClassVar[Mapping[str, Metric]] = {"accuracy": accuracy, "mean_iou": mean_iou, "mean_dice": mean_dice}
    has_classes = False
    has_places = True

    @property
    @override
    def places(self) -> tuple[int, ...]:
        return self.shape[:-1] if self.labels == "one-hot" else self.shape

    @override
    def loss(self, *, logits: bool, outputs: int | None = None) -> Any:
        """Return the crossentropy of each place; for a single output the binary one, of labels with its last axis."""
        found = super().loss(logits=logits, outputs=outputs)
        return one_hot_loss()(found) if outputs == 1 else found

    @override
    def groups(self, labels: np.ndarray) -> np.ndarray:
        """Return 0 for each sample (N,): it has no single class."""
        return np.zeros(len(labels), np.int32)
