"""The guard of a run: compare each stage with the best model before it, on validation data."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from tfopt.base.words import counted
from tfopt.data import Dataset
from tfopt.data.predicting import outputs_for
from tfopt.tasks import Task, task_of
from tfopt.tasks.metrics import wilson_interval
from tfopt.tasks.scaling import are_constant
from tfopt.tasks.significance import FEWEST, LEVEL, paired_test


@dataclass(frozen=True)
class Verdict:
    """Whether a run kept the quality of its model.

    Attributes:
        ok: False if a stage or the file dropped by more than `Recipe.max_drop`, if a training diverged, or if the file
            guesses or misses its budget.
        text: what failed, or what the validation data cannot tell; may be empty.
    """

    ok: bool = True
    text: str = ""


@dataclass(frozen=True)
class Evaluation:
    """The quality of a model on the validation data.

    Attributes:
        metric: the first metric of the task; NaN if the outputs of the model are not numbers.
        quality: larger is better, in units of `max_drop`: the accuracy; for values, 1 minus the ratio of the error to
            that of always answering the mean training label. Minus infinity if the metric is not finite.
        by_sample: the quality on each sample, (N,); None if the metric is not finite.
    """

    metric: float
    quality: float
    by_sample: np.ndarray | None

    def certainly_above(self, other: "Evaluation") -> bool:
        """Return whether this is better than `other` by more than chance, in a paired test on the samples."""
        if self.by_sample is None or other.by_sample is None:
            return self.quality > other.quality
        return paired_test(self.by_sample - other.by_sample) <= LEVEL


class Guard:
    """Evaluate models on the validation part of `data`, and remember the best.

    Args:
        data: preprocessed for the models.
        max_drop: how much worse than the best model before it a model may be, in `Evaluation.quality`; None: any.
        logits: whether models output logits rather than probabilities; by output if there are several.

    Attributes:
        metric: its name.
        best: the best evaluation so far, with which later ones are compared; None before the first.
        first: the first evaluation that was accepted, of the model before all stages; None before it.
    """

    def __init__(self, data: Dataset, max_drop: float | None, *, logits: Any = False) -> None:
        self.max_drop = math.inf if max_drop is None else max_drop
        self._task, self._validation = task_of(data), data.validation
        self.metric, self._unit = "mean quality of outputs", 1.0
        self._judges: dict[str, Judge] = {}
        self.best: Evaluation | None = None
        self.first: Evaluation | None = None
        if self._task.labels == "none":
            return
        labels, guides = (self._task.by_output(y) for y in (data.validation.y(), data.train.guides()))
        self._judges = {
            name: Judge(task, labels[name], guides[name], logits=logits[name] if name else logits)
            for name, task in self._task.by_task().items()
        }
        if len(self._judges) == 1:
            (only,) = self._judges.values()
            self.metric, self._unit = only.metric, only.unit

    def evaluate(self, predict: Callable[[Any], Any]) -> Evaluation:
        """Return the quality of the model whose `predict` maps inputs (N, ...) to outputs (N, ..., C).

        With several outputs it is the mean of their qualities. Without labels all finite outputs are equally good.
        """
        outputs = self._task.by_output(outputs_for(predict, self._validation))
        if not self._judges:
            finite = all(np.isfinite(each).all() for each in outputs.values())
            return Evaluation(0.0, 0.0, None) if finite else Evaluation(math.nan, -math.inf, None)
        found = [judge.evaluate(np.asarray(outputs[name])) for name, judge in self._judges.items()]
        if len(found) == 1:
            return found[0]
        quality = float(np.mean([each.quality for each in found]))
        by_sample = [each.by_sample for each in found if each.by_sample is not None]
        if len(by_sample) < len(found):
            return Evaluation(quality, -math.inf, None)
        return Evaluation(quality, quality, np.mean(by_sample, axis=0))

    def accept(self, evaluation: Evaluation) -> None:
        """Compare later models with this one, if it is the best so far."""
        self.first = self.first or evaluation
        if self.best is None or evaluation.quality > self.best.quality:
            self.best = evaluation

    def improved(self, evaluation: Evaluation) -> bool:
        """Return whether `evaluation` is better than the first one by more than chance."""
        return self.first is not None and evaluation.certainly_above(self.first)

    def too_low(self, evaluation: Evaluation) -> bool:
        """Return whether `evaluation` is below the best so far by more than allowed."""
        return self.best is not None and self.best.quality - evaluation.quality > self.max_drop

    def fails(self, evaluation: Evaluation) -> bool:
        """Return whether `evaluation` is too low, and chance does not explain it."""
        return self.too_low(evaluation) and self.best is not None and self.best.certainly_above(evaluation)

    def compared(self, evaluation: Evaluation) -> str:
        """Return the metrics of the best so far and of `evaluation`, in words."""
        best = "?" if self.best is None else f"{self.best.metric:.4f}"
        return f"{self.metric} {evaluation.metric:.4f} on {self._samples}, {best} before"

    def too_few_samples(self) -> str:
        """Return why the validation data cannot tell a drop of `max_drop`; empty if they can.

        They cannot if they are fewer than 5, if the 95 % interval of the quality is wider than the drop, or without
        labels.
        """
        if not self._judges:
            return (
                "The accuracy of the file is unknown: the samples have no labels. Compare it with the model on labeled "
                "ones, with `tfopt verify`."
            )
        best, count = self.best, len(self._validation)
        if best is None or best.by_sample is None or math.isinf(self.max_drop):
            return ""
        few = f"{self._samples} {'is' if count == 1 else 'are'} too few to tell a drop of {self.max_drop:g}"
        if count < FEWEST:
            return f"{few}: at least {FEWEST} are needed to tell any drop from chance"
        low, high = self._interval(best.metric, best.by_sample)
        if high - low <= self.max_drop * self._unit:
            return ""
        return f"{few}: the {self.metric} is {best.metric:.4f}, and its 95 % interval is {low:.4f} to {high:.4f}"

    def _interval(self, metric: float, by_sample: np.ndarray) -> tuple[float, float]:
        """Return the 95 % interval of a metric.

        For a share it is that of Wilson 1927, as if each sample were right or wrong as a whole; for an error, the mean
        plus and minus 1.96 standard errors.
        """
        if not self._task.smaller_is_better:
            return wilson_interval(metric * len(by_sample), len(by_sample))
        margin = NormalDist().inv_cdf(0.975) * self._unit * float(by_sample.std(ddof=1)) / math.sqrt(len(by_sample))
        return metric - margin, metric + margin

    @property
    def _samples(self) -> str:
        return counted(len(self._validation), "validation sample")


class Judge:
    """Evaluate one output of a model.

    Args:
        task: of the output.
        labels: of the samples to evaluate on.
        guide: labels of the training samples, whose mean is the best guess.
        logits: whether outputs are logits rather than probabilities.

    Attributes:
        metric: the metric, that of `train`.
        unit: 1, or for errors that of always answering the mean.
    """

    def __init__(self, task: Task, labels: np.ndarray, guide: np.ndarray, *, logits: bool) -> None:
        self._task, self._y, self._logits = task, labels, logits
        self.metric = task.keras_metric
        self.unit = self._error_of_guessing(guide) if task.smaller_is_better else 1.0

    def evaluate(self, outputs: np.ndarray) -> Evaluation:
        """Return the quality of `outputs` (N, ..., C)."""
        metric = math.nan if np.isnan(outputs).any() else self._metric(outputs, self._y)
        if not math.isfinite(metric):
            return Evaluation(metric, -math.inf, None)
        each = [self._metric(outputs[i : i + 1], self._y[i : i + 1]) for i in range(len(outputs))]
        return Evaluation(metric, self._quality(metric), self._quality(np.array(each)))

    def _quality(self, metric: Any) -> Any:
        return 1 - metric / self.unit if self._task.smaller_is_better else metric

    def _error_of_guessing(self, labels: np.ndarray) -> float:
        """Return the error of always answering the mean of `labels`; if all are the same, that of answering 0, or 1."""
        guess = 0.0 if are_constant(labels).all() else labels.mean(axis=0, dtype=np.float64)
        return self._metric(np.broadcast_to(guess, labels.shape), labels) or 1.0

    def _metric(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        return self._task.metrics(outputs, labels, logits=self._logits)[self.metric]


def predictor(model: Any) -> Any:
    """Return the `predict` of a Keras model, without its progress bar."""
    return functools.partial(model.predict, verbose=0)
