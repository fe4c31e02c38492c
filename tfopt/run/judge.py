"""Judge one output of a model on validation data: its metric, and what a metric over all answers can hide."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from tfopt.tasks import Reconstruction, Regression, Task
from tfopt.tasks.balance import Asked
from tfopt.tasks.metrics import wilson_interval
from tfopt.tasks.scaling import are_constant
from tfopt.tasks.significance import LEVEL, paired_test
from tfopt.training.class_weights import WEIGHTED

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
        self.metric = task.keras_metric if weights is None else WEIGHTED
        self.unit = self._error_of_guessing(guide) if task.smaller_is_better else 1.0
        values = labels.shape[-1] if _has_values(task, labels) else 0
        self._units = [self._error_of_guessing(guide[..., at : at + 1]) for at in range(values)]

    @property
    def least(self) -> float:
        """The quality of a guess, for values: what is no better than it cannot fall as a part."""
        return 0.0 if self._task.smaller_is_better else -math.inf

    def interval(self, evaluation: Evaluation) -> tuple[float, float]:
        """Return the 95 % interval of a finite metric.

        For a share it is that of Wilson 1927, as if each sample were right or wrong as a whole.
        For an error it is the mean plus and minus 1.96 standard errors.
        """
        metric, by_sample = evaluation.metric, evaluation.by_sample
        assert by_sample is not None
        if not self._task.smaller_is_better:
            samples = self._samples(len(by_sample))
            return wilson_interval(min(max(metric, 0.0), 1.0) * samples, samples)
        margin = NormalDist().inv_cdf(0.975) * self.unit * float(by_sample.std(ddof=1)) / math.sqrt(len(by_sample))
        return metric - margin, metric + margin

    def _samples(self, count: int) -> float:
        """Return how many samples of equal weight tell as much as `count` samples do."""
        if self._weights is None or self._asked is None:
            return count
        return self._asked.worth(self._weights)

    def quality(self, metric: Any, unit: float | None = None) -> Any:
        """Return the quality that a metric has; `unit` is that of an error, the judge's own by default."""
        return 1 - metric / (unit or self.unit) if self._task.smaller_is_better else metric

    def evaluate(self, outputs: np.ndarray) -> Evaluation:
        """Return the quality of `outputs` (N, ..., C)."""
        metric = math.nan if np.isnan(outputs).any() else self._metric(outputs, self._y)
        if not math.isfinite(metric):
            return Evaluation(metric, -math.inf, None)
        if self._weights is not None and self._asked is not None:
            return self._of_shares(outputs, self._weights)
        by_sample = self.quality(self._metric_on_each(outputs, self._y))
        return Evaluation(metric, self.quality(metric), by_sample, dict(self._parts(outputs)))

    def _parts(self, outputs: np.ndarray) -> Iterator[tuple[str, Evaluation]]:
        if self._asked is not None and self._asked.imbalanced:
            yield "balanced accuracy", self._of_shares(outputs, self._asked.balanced)
        made = outputs.reshape(self._y.shape) if self._units else outputs
        for at, unit in enumerate(self._units):
            one, wanted = made[..., at : at + 1], self._y[..., at : at + 1]
            metric = self._metric(one, wanted)
            quality = max(self.quality(metric, unit), self.least)
            name = f"{self.metric} of value {at + 1} of {len(self._units)}"
            yield name, Evaluation(metric, quality, self.quality(self._metric_on_each(one, wanted), unit))

    def _of_shares(self, outputs: np.ndarray, weights: np.ndarray) -> Evaluation:
        assert self._asked is not None
        by_sample = self._asked.hits(self._task, outputs, weights, logits=self._logits)
        share = float(by_sample.mean())
        return Evaluation(share, share, by_sample)

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
