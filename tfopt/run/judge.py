"""Judge one output of a model on validation data: its metric, and what a metric over all answers can hide."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfopt.tasks import Reconstruction, Regression, Task
from tfopt.tasks.balance import Asked
from tfopt.tasks.scaling import are_constant
from tfopt.tasks.significance import LEVEL, paired_test

MOST_VALUES = 32
"""Values of an output that are judged one by one; of more, such as the steps of a signal, only all together."""


@dataclass(frozen=True)
class Evaluation:
    """The quality of a model on the validation data.

    Attributes:
        metric: the first metric of the task; NaN if the outputs of the model are not numbers.
        quality: larger is better, in units of `max_drop`: the accuracy; for values, 1 minus the ratio of the error to
            that of always answering the mean training label. Minus infinity if the metric is not finite.
        by_sample: the quality on each sample, (N,); None if the metric is not finite.
        parts: what must not fall either, by the name of its metric: each of several outputs, each of several values,
            the balanced accuracy of imbalanced labels. Empty without a finite metric.
    """

    metric: float
    quality: float
    by_sample: np.ndarray | None
    parts: "Mapping[str, Evaluation]" = field(default_factory=dict)

    def certainly_above(self, other: "Evaluation", level: float = LEVEL) -> bool:
        """Return whether this is better than `other` by more than chance, in a paired test on the samples."""
        if self.by_sample is None or other.by_sample is None:
            return self.quality > other.quality
        return paired_test(self.by_sample - other.by_sample) <= level


class Judge:
    """Evaluate one output of a model.

    Args:
        task: of the output.
        labels: of the samples to evaluate on.
        guide: labels of the training samples, whose mean is the best guess.
        logits: whether outputs are logits rather than probabilities.
        weights: of the classes, (classes,), if these were weighted in training; None for none.

    Attributes:
        metric: the metric, that of `train`; with weights, the accuracy in which labels have those of their classes.
        unit: 1, or for errors that of always answering the mean.
    """

    def __init__(
        self, task: Task, labels: np.ndarray, guide: np.ndarray, *, logits: bool, weights: np.ndarray | None = None
    ) -> None:
        self._task, self._y, self._logits, self._weights = task, labels, logits, weights
        self._asked = Asked.by(task, labels)
        self.metric = task.keras_metric if weights is None else "class-weighted accuracy"
        self.unit = self._error_of_guessing(guide) if task.smaller_is_better else 1.0
        values = labels.shape[-1] if _has_values(task, labels) else 0
        self._units = [self._error_of_guessing(guide[..., at : at + 1]) for at in range(values)]

    @property
    def smaller_is_better(self) -> bool:
        """Whether the metric is an error."""
        return self._task.smaller_is_better

    @property
    def is_share(self) -> bool:
        """Whether the metric is a share of right answers, all of which count alike."""
        return not self._task.smaller_is_better and self._weights is None

    def evaluate(self, outputs: np.ndarray) -> Evaluation:
        """Return the quality of `outputs` (N, ..., C)."""
        metric = math.nan if np.isnan(outputs).any() else self._metric(outputs, self._y)
        if not math.isfinite(metric):
            return Evaluation(metric, -math.inf, None)
        if self._weights is not None and self._asked is not None:
            return self._of_shares(outputs, self._weights)
        by_sample = self._quality(self._metric_on_each(outputs, self._y), self.unit)
        return Evaluation(metric, self._quality(metric, self.unit), by_sample, dict(self._parts(outputs)))

    def _parts(self, outputs: np.ndarray) -> Iterator[tuple[str, Evaluation]]:
        if self._asked is not None and self._asked.imbalanced:
            yield "balanced accuracy", self._of_shares(outputs, self._asked.balanced)
        made = outputs.reshape(self._y.shape) if self._units else outputs
        for at, unit in enumerate(self._units):
            one, wanted = made[..., at : at + 1], self._y[..., at : at + 1]
            metric = self._metric(one, wanted)
            quality = max(self._quality(metric, unit), 0.0)  # what is no better than guessing cannot fall
            name = f"{self.metric} of value {at + 1} of {len(self._units)}"
            yield name, Evaluation(metric, quality, self._quality(self._metric_on_each(one, wanted), unit))

    def _of_shares(self, outputs: np.ndarray, weights: np.ndarray) -> Evaluation:
        assert self._asked is not None
        by_sample = self._asked.hits(self._task, outputs, weights, logits=self._logits)
        share = float(by_sample.mean())
        return Evaluation(share, share, by_sample)

    def _quality(self, metric: Any, unit: float) -> Any:
        return 1 - metric / unit if self._task.smaller_is_better else metric

    def _error_of_guessing(self, labels: np.ndarray) -> float:
        """Return the error of always answering the mean of `labels`; if all are the same, that of answering 0, or 1."""
        guess = 0.0 if are_constant(labels).all() else labels.mean(axis=0, dtype=np.float64)
        return self._metric(np.broadcast_to(guess, labels.shape), labels) or 1.0

    def _metric(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        return self._task.metric(outputs, labels, logits=self._logits)

    def _metric_on_each(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return self._task.metric_on_each(outputs, labels, logits=self._logits)


def _has_values(task: Task, labels: np.ndarray) -> bool:
    """Return whether the last axis of `labels` has a few values of different kinds: not the steps of a forecast."""
    if not isinstance(task, Regression) or isinstance(task, Reconstruction):
        return False
    kinds = 2 if type(task) is Regression else 3  # (n, values); forecasts are (n, steps, values)
    return labels.ndim >= kinds and 1 < labels.shape[-1] <= MOST_VALUES
