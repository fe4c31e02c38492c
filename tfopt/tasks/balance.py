"""The classes of the answers that labels ask for, by which rare ones count as much as frequent ones."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tfopt.tasks.metrics import predicted_classes, threshold
from tfopt.tasks.multilabel import Multilabel
from tfopt.tasks.significance import LEVEL, association_test, paired_test
from tfopt.tasks.task import Task

_AT_ONCE = 2**20
"""Answers that are compared together."""
IMBALANCED = 4
"""A class with this many times the labels of another one makes labels imbalanced."""


@dataclass(frozen=True)
class Asked:
    """What labels ask for: a class for each sample or each place of it; of several labels, yes or no for each.

    Attributes:
        classes: int (N, answers of a sample).
        number: of the classes.
    """

    classes: np.ndarray
    number: int

    @classmethod
    def by(cls, task: Task, labels: np.ndarray) -> "Asked | None":
        """Return what `labels` (N, ...) of `task` ask for; None if that is no class."""
        if isinstance(task, Multilabel):
            yes = np.asarray(labels).reshape(len(labels), -1) > 0.5
            kinds = 2 * (np.arange(yes.shape[1]) % labels.shape[-1])
            return cls((kinds + yes).astype(np.int32), 2 * labels.shape[-1])
        if not task.scores_classes:
            return None
        numbers = np.asarray(labels).argmax(axis=-1) if task.labels == "one-hot" else np.asarray(labels)
        return cls(numbers.reshape(len(labels), -1).astype(np.int32), task.num_classes or 2)

    @property
    def imbalanced(self) -> bool:
        """Whether one class is asked for `IMBALANCED` times as often as another one, and some of both are."""
        counts = self._counts[self._counts > 0]
        return len(counts) > 1 and int(counts.max()) >= IMBALANCED * int(counts.min())

    @property
    def balanced(self) -> np.ndarray:
        """The weight of each class that gives all of them the same share, (number,)."""
        return np.where(self._counts > 0, 1 / np.maximum(self._counts, 1), 0.0)

    @functools.cached_property
    def _counts(self) -> np.ndarray:
        """The number of times that each class is asked for, (number,)."""
        found = (np.bincount(self.classes[part].ravel(), minlength=self.number) for part in self._parts)
        return np.asarray(sum(found, np.zeros(self.number, np.int64)))

    @property
    def _parts(self) -> list[slice]:
        """Parts of the samples, as many as are compared together: NumPy counts in int64 and weighs in float64."""
        rows = max(1, _AT_ONCE // max(self.classes.shape[1], 1))
        return [slice(start, start + rows) for start in range(0, len(self.classes), rows)]

    def hits(self, task: Task, outputs: np.ndarray, weights: np.ndarray, *, logits: bool) -> np.ndarray:
        """Return the weighted share of right answers as a mean over samples, float64 (N,).

        With `balanced` weights that mean is the balanced accuracy: the mean over the classes of their recalls
        (Brodersen et al. 2010, doi:10.1109/ICPR.2010.764).

        Args:
            task: of the labels.
            outputs: of a model, (N, ...).
            weights: of the classes, (number,).
            logits: whether outputs are logits rather than probabilities.
        """
        return self._shares(lambda part: self._answers(task, outputs, part, logits=logits), weights)

    def _answers(self, task: Task, outputs: np.ndarray, part: slice, *, logits: bool) -> np.ndarray:
        """Return the classes that `outputs` name for the samples in `part`, as `classes` are asked for."""
        if isinstance(task, Multilabel):
            yes = np.asarray(outputs[part]).reshape(self.classes[part].shape) > threshold(logits=logits)
            return np.asarray(self.classes[part] // 2 * 2 + yes)
        return predicted_classes(outputs[part], logits=logits).reshape(self.classes[part].shape)

    def told_apart(self, task: Task, outputs: np.ndarray, *, logits: bool) -> bool:
        """Return whether `outputs` tell the classes apart beyond chance, however often each of them is answered.

        If a model ignores its inputs, swapping its answers among the samples changes nothing. This does not hold for
        places, which can be told apart by position: there, the answers must beat the same answer everywhere.

        Args:
            task: of the labels.
            outputs: of a model, (N, ...), finite.
            logits: whether outputs are logits rather than probabilities.
        """
        if not task.places:
            answers = self._answers(task, outputs, slice(None), logits=logits)
            return association_test(self.classes, answers, self.balanced) <= LEVEL
        found = self.hits(task, outputs, self.balanced, logits=logits)
        return paired_test(found - self.hits_of_guess(task, self.balanced)) <= LEVEL

    def worth(self, weights: np.ndarray) -> float:
        """Return how many samples of equal weight tell as much as these do, where classes have `weights`.

        Samples of weight w are worth (sum of w)^2 / (sum of w^2) (Kish 1965, Survey Sampling, section 11.7).
        """
        each = self._shares(lambda part: self.classes[part], weights)
        return float(each.sum() ** 2 / np.square(each).sum())

    def hits_of_guess(self, task: Task, weights: np.ndarray) -> np.ndarray:
        """Return what `hits` does for always answering the most frequent class, or for each label what is usual."""
        counts = self._counts
        if isinstance(task, Multilabel):
            usual = np.arange(0, self.number, 2) + (counts[1::2] > counts[::2])
            return self._shares(lambda part: usual[self.classes[part] // 2], weights)
        return self._shares(lambda part: np.asarray(counts.argmax()), weights)

    def _shares(self, answers: Callable[[slice], np.ndarray], weights: np.ndarray) -> np.ndarray:
        """Return the weighted shares of right ones among the `answers` for each part of the samples."""
        weights = np.asarray(weights, np.float64)  # else a perfect share is not 1
        pairs = ((self.classes[part], answers(part)) for part in self._parts)
        right = [(weights[asked] * (answered == asked)).sum(axis=1) for asked, answered in pairs]
        total = float(self._counts @ weights)
        return np.asarray(len(self.classes) * np.concatenate(right) / total, np.float64)
