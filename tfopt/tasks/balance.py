"""The classes of the answers that labels ask for, by which rare ones count as much as frequent ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.tasks.metrics import predicted_classes, threshold
from tfopt.tasks.multilabel import Multilabel
from tfopt.tasks.task import Task

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
            return cls(kinds + yes, 2 * labels.shape[-1])
        if not task.scores_classes:
            return None
        numbers = np.asarray(labels).argmax(axis=-1) if task.labels == "one-hot" else np.asarray(labels, np.int64)
        return cls(numbers.reshape(len(labels), -1), task.num_classes or 2)

    @property
    def imbalanced(self) -> bool:
        """Whether one class is asked for `IMBALANCED` times as often as another one, and some of both are."""
        counts = self._counts[self._counts > 0]
        return len(counts) > 1 and int(counts.max()) >= IMBALANCED * int(counts.min())

    @property
    def balanced(self) -> np.ndarray:
        """The weight of each class that gives all of them the same share, (number,)."""
        return np.where(self._counts > 0, 1 / np.maximum(self._counts, 1), 0.0)

    @property
    def _counts(self) -> np.ndarray:
        return np.bincount(self.classes.ravel(), minlength=self.number)

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
        if isinstance(task, Multilabel):
            yes = np.asarray(outputs).reshape(self.classes.shape) > threshold(logits=logits)
            right = yes == (self.classes % 2).astype(bool)
        else:
            right = predicted_classes(outputs, logits=logits).reshape(self.classes.shape) == self.classes
        each = weights[self.classes]
        return np.asarray(len(each) * (each * right).sum(axis=1, dtype=np.float64) / each.sum(dtype=np.float64))


def asked_by_each(task: Task, labels: Any) -> dict[str, Asked]:
    """Return what the labels of each output of a model ask for, by output; those without classes are left out."""
    found = {name: Asked.by(one, task.by_output(labels)[name]) for name, one in task.by_task().items()}
    return {name: asked for name, asked in found.items() if asked is not None}
