"""The guard of a run: compare each stage with the best model before it, on validation data."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.data import Dataset
from tfopt.tasks import task_of
from tfopt.tasks.metrics import wilson_interval

# A drop is certain if chance explains it in at most 5 % of all cases: a one-sided quantile of the normal distribution.
CERTAIN = 1.645


@dataclass(frozen=True)
class Verdict:
    """Whether a run kept the quality of its model.

    Attributes:
        ok: False if a stage or the file dropped by more than `Recipe.max_drop`.
        text: what dropped, or what the validation data cannot tell; may be empty.
    """

    ok: bool = True
    text: str = ""


@dataclass(frozen=True)
class Judged:
    """The quality of a model on the validation data.

    Attributes:
        metric: the first metric of the task.
        quality: larger is better, in units of `max_drop`: the accuracy; for values, 1 minus the ratio of the error to
            that of always answering the mean training label.
        right: for classes, which answers are right, (N,) bool; else None.
    """

    metric: float
    quality: float
    right: np.ndarray | None

    def certainly_above(self, other: "Judged") -> bool:
        """Return whether this is better than `other` by more than chance: by a paired test, if answers can be right."""
        if self.right is None or other.right is None:
            return self.quality > other.quality
        lost = self.right.astype(np.float64) - other.right
        return float(lost.mean()) > CERTAIN * float(lost.std()) / math.sqrt(len(lost))


class Guard:
    """Judge models on the validation part of `data`, and remember the best.

    Args:
        data: preprocessed for the models.
        max_drop: how much worse than the best model before it a model may be, in `Judged.quality`; None: any.
        logits: whether models output logits rather than probabilities.
    """

    def __init__(self, data: Dataset, max_drop: float | None, *, logits: bool = False) -> None:
        self.max_drop, self._logits = math.inf if max_drop is None else max_drop, logits
        self._task, self._x, self._y = task_of(data), data.validation.x(), data.validation.y()
        self._name = self._task.keras_metric  # that of `train`
        guess = np.broadcast_to(data.train.y().mean(axis=0), self._y.shape)
        self._guess = self._metric(guess, self._y) if self._task.smaller_is_better else 0.0
        self._best: Judged | None = None

    def judge(self, predict: Callable[[np.ndarray], Any]) -> Judged:
        """Return the quality of the model whose `predict` maps inputs (N, ...) to outputs (N, ..., C)."""
        outputs = np.asarray(predict(self._x))
        if np.isnan(outputs).any():
            return Judged(math.nan, -math.inf, None)
        metric = self._metric(outputs, self._y)
        if self._task.smaller_is_better:
            return Judged(metric, 1 - metric / max(self._guess, np.finfo(np.float64).tiny), None)
        if not self._task.has_classes:
            return Judged(metric, metric, None)
        each = [self._metric(outputs[i : i + 1], self._y[i : i + 1]) for i in range(len(outputs))]
        return Judged(metric, metric, np.array(each) == 1)

    def accept(self, judged: Judged) -> None:
        """Compare later models with this one, if it is the best so far."""
        if self._best is None or judged.quality > self._best.quality:
            self._best = judged

    def too_low(self, judged: Judged) -> bool:
        """Return whether `judged` is below the best so far by more than allowed."""
        return self._best is not None and self._best.quality - judged.quality > self.max_drop

    def fails(self, judged: Judged) -> bool:
        """Return whether `judged` is too low, and chance does not explain it."""
        return self.too_low(judged) and self._best is not None and self._best.certainly_above(judged)

    def compared(self, judged: Judged) -> str:
        """Return the metrics of the best so far and of `judged`, in words."""
        best = "?" if self._best is None else f"{self._best.metric:.4f}"
        return f"{self._name} {judged.metric:.4f} on {len(self._y):,} validation samples, {best} before"

    def doubt(self) -> str:
        """Return why the validation data cannot tell a drop of `max_drop`; empty if they can.

        They cannot if the 95 % interval of the accuracy (Wilson 1927) is wider than the drop.
        """
        if self._best is None or self._best.right is None or math.isinf(self.max_drop):
            return ""
        low, high = wilson_interval(int(self._best.right.sum()), len(self._y))
        if high - low <= self.max_drop:
            return ""
        return (
            f"{len(self._y):,} validation samples are too few to tell a drop of {self.max_drop:g}: an {self._name} of "
            f"{self._best.metric:.4f} stands for {low:.4f} to {high:.4f} (95 %)"
        )

    def _metric(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        return self._task.metrics(outputs, labels, logits=self._logits)[self._name]


def predictor(model: Any) -> Any:
    """Return the `predict` of a Keras model, without its progress bar."""
    return functools.partial(model.predict, verbose=0)
