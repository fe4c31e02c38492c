"""The guard of a run: compare each stage with the best model before it, on validation data."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tfopt.base.words import counted
from tfopt.data import Dataset
from tfopt.data.predicting import outputs_for
from tfopt.run.judge import Evaluation, Judge
from tfopt.tasks import task_of
from tfopt.tasks.significance import FEWEST, LEVEL


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


class Guard:
    """Evaluate models on the validation part of `data`, and remember the best.

    Args:
        data: preprocessed for the models.
        max_drop: how much worse than the best model before it a model may be, in `Evaluation.quality`; None: any.
        logits: whether models output logits rather than probabilities; by output if there are several.
        weights: of the classes in training, by output; "" is the only one. Outputs without are left out.

    Attributes:
        metric: its name.
        best: the best evaluation so far, with which later ones are compared, and the best of each of its parts; None
            before the first.
        first: the first evaluation that was accepted, of the model before all stages; None before it.
    """

    def __init__(
        self,
        data: Dataset,
        max_drop: float | None,
        *,
        logits: Any = False,
        weights: Mapping[str, np.ndarray] | None = None,
    ) -> None:
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
            name: Judge(
                task,
                labels[name],
                guides[name],
                logits=logits[name] if name else logits,
                weights=(weights or {}).get(name),
            )
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
        found = {name: judge.evaluate(np.asarray(outputs[name])) for name, judge in self._judges.items()}
        if len(found) == 1:
            return next(iter(found.values()))
        quality = float(np.mean([each.quality for each in found.values()]))
        by_sample = [each.by_sample for each in found.values() if each.by_sample is not None]
        if len(by_sample) < len(found):
            return Evaluation(quality, -math.inf, None)
        return Evaluation(quality, quality, np.mean(by_sample, axis=0), dict(self._by_output(found)))

    def _by_output(self, found: Mapping[str, Evaluation]) -> Iterator[tuple[str, Evaluation]]:
        """Yield each output and its parts by name; values that are no better than a guess count as one."""
        for name, each in found.items():
            quality = max(each.quality, self._judges[name].least)
            yield self._named(name), replace(each, quality=quality, parts={})
            yield from ((f"{part} of {name}", its) for part, its in each.parts.items())

    def _named(self, output: str) -> str:
        return f"{self._judges[output].metric} of {output}"

    def accept(self, evaluation: Evaluation) -> None:
        """Compare later models with this one, if it is the best so far; so for each of its parts."""
        self.first = self.first or evaluation
        if self.best is None:
            self.best = evaluation
            return
        best = evaluation if evaluation.quality > self.best.quality else self.best
        parts = dict(self.best.parts)
        for name, part in evaluation.parts.items():
            if name not in parts or part.quality > parts[name].quality:
                parts[name] = part
        self.best = replace(best, parts=parts)

    def improved(self, evaluation: Evaluation) -> bool:
        """Return whether `evaluation` is better than the first one by more than chance."""
        return self.first is not None and evaluation.certainly_above(self.first)

    def too_low(self, evaluation: Evaluation) -> bool:
        """Return whether `evaluation`, or a part of it, is below the best so far by more than allowed."""
        return bool(self._fallen(evaluation))

    def fails(self, evaluation: Evaluation) -> bool:
        """Return whether `evaluation`, or a part of it, is too low, and chance does not explain it."""
        if self.best is None:
            return False
        parts = len(self.best.parts)
        level = LEVEL / 2 if parts else LEVEL  # Bonferroni: of many parts, one falls by chance; half is for the whole
        return any(
            best.certainly_above(now, level / parts if name else level)
            for name, (best, now) in self._fallen(evaluation).items()
        )

    def _fallen(self, evaluation: Evaluation) -> dict[str, tuple[Evaluation, Evaluation]]:
        """Return the best before and now of what is too low; "" is the whole."""
        if self.best is None:
            return {}
        pairs = {name: (best, evaluation.parts[name]) for name, best in self.best.parts.items() if evaluation.parts}
        pairs = {"": (self.best, evaluation), **pairs}
        return {name: (best, now) for name, (best, now) in pairs.items() if best.quality - now.quality > self.max_drop}

    def prefers(self, one: Evaluation, other: Evaluation) -> bool:
        """Return whether `one` is better than `other`, which is too low or else has the lower quality."""
        ranks = [(not self.too_low(each), each.quality) for each in (one, other)]
        return ranks[0] > ranks[1]

    def compared(self, evaluation: Evaluation) -> str:
        """Return the metrics of the best so far and of `evaluation`, and of the parts that are too low, in words."""
        best = "?" if self.best is None else f"{self.best.metric:.4f}"
        parts = [
            f"{name} {now.metric:.4f}, {best_part.metric:.4f} before"
            for name, (best_part, now) in self._fallen(evaluation).items()
            if name
        ]
        return "; ".join([f"{self.metric} {evaluation.metric:.4f} on {self._samples}, {best} before", *parts])

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
        low, high = self._interval(best)
        if high - low <= self.max_drop * self._unit:
            return ""
        return f"{few}: the {self.metric} is {best.metric:.4f}, and its 95 % interval is {low:.4f} to {high:.4f}"

    def _interval(self, best: Evaluation) -> tuple[float, float]:
        """Return the 95 % interval of the metric; of several outputs, as if all were low or high at once."""
        if len(self._judges) == 1:
            return next(iter(self._judges.values())).interval(best)
        below, above = list[float](), list[float]()
        for name, judge in self._judges.items():
            part = best.parts[self._named(name)]
            ends = sorted(judge.quality(end) for end in judge.interval(part))
            below.append(judge.quality(part.metric) - ends[0])
            above.append(ends[1] - judge.quality(part.metric))
        return best.metric - float(np.mean(below)), best.metric + float(np.mean(above))

    @property
    def _samples(self) -> str:
        return counted(len(self._validation), "validation sample")


def predictor(model: Any) -> Any:
    """Return the `predict` of a Keras model, without its progress bar."""
    return functools.partial(model.predict, verbose=0)
