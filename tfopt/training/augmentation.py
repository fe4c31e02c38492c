"""Choose the augmentations that do not destroy labels."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tfopt.data import Augmentation, Dataset
from tfopt.data.augmentation import TRANSFORMATIONS
from tfopt.tasks import task_of
from tfopt.tasks.metrics import accuracy, guessing
from tfopt.training.settings import Training

# An augmentation is dropped if it costs the given model more than this fraction of its correct answers.
AUGMENTATION_MAY_COST = 0.1

PROBE = 1000

Judge = Callable[[np.ndarray], np.ndarray]


def choose_augmentation(
    judge: Judge | None, training: Training, data: Dataset, *, who: str = "the original model"
) -> tuple[Augmentation | None, list[str]]:
    """Return the recipe's augmentation without transformations that `judge` cannot recognize, and notes.

    A mirrored digit is a different digit. So each transformation is first tested on the validation images: it is
    halved, then dropped, if it costs `judge`, which returns scores (n, classes) and is called `who` in notes, more than
    a tenth of its accuracy. It is dropped if there is no judge.
    """
    wanted = _wanted(training)
    names = ", ".join(wanted.transformations)
    if not names:
        return None, []
    if data.has_several or len(data.input_shape) != 3 or not task_of(data).has_classes:
        return None, [f"no augmentation ({names}): it is for image classification only"]
    if judge is None:
        return None, [f"no augmentation ({names}): there is no model to judge which images stay recognizable"]
    trial = _Trial(judge, training, data, who)
    kept = {name: trial.recognized(name, value) for name, value in wanted.transformations.items()}
    kept = {name: value for name, value in kept.items() if value}
    return (wanted.with_only(**kept) if kept else None), trial.notes


def _wanted(training: Training) -> Augmentation:
    """Return the transformations of `training`: those that it sets, and the others at its strength."""
    own = {name: getattr(training, name) for name in TRANSFORMATIONS}
    own = {name: value for name, value in own.items() if value is not None}
    at_strength = Augmentation.of_strength(training.augmentation).transformations
    return Augmentation(**{**at_strength, **own}, at_once=training.at_once)


class _Trial:
    """Asks a judge whether it recognizes changed validation images; collects notes."""

    def __init__(self, judge: Judge, training: Training, data: Dataset, who: str) -> None:
        self._judge, self._seed, self._who = judge, training.seed, who
        probe = data.validation.spread(PROBE)
        self._x, self._y = data.validation.x(probe), data.validation.y(probe)
        self._before = accuracy(judge(self._x), self._y)
        self.notes: list[str] = []

    @property
    def _guesses(self) -> bool:
        """Whether the judge is no better than naming the most frequent class, so that it recognizes nothing."""
        return self._before <= guessing(self._y)

    def recognized(self, name: str, value: Any) -> Any:
        """Return `value` of the transformation `name`, or half of it, or None if even that costs too much."""
        if self._guesses:
            self.notes.append(
                f"augmented with {name}={value}, as the recipe says: {self._who} is no better than chance "
                f"({self._before:.3f}), so it cannot judge the augmentation"
            )
            return value
        for setting in (value,) if value is True else (value, value / 2):
            after = accuracy(self._judge(self._changed(name, setting)), self._y)
            verdict = f"{self._who} has {after:.3f} on images changed this way, {self._before:.3f} on unchanged ones"
            if after >= (1 - AUGMENTATION_MAY_COST) * self._before:
                halved = "" if setting == value else f", half of {value}"
                self.notes.append(f"augmented with {name}={setting}{halved}: {verdict}")
                return setting
        self.notes.append(f"augmentation {name} left out: {verdict}")
        return None

    def _changed(self, name: str, value: Any) -> np.ndarray:
        import tensorflow as tf

        if name == "horizontal_flip":
            return np.asarray(self._x[:, :, ::-1])  # all of them; training mirrors half
        augmentation = Augmentation(**{name: value})
        drawn = augmentation.draw(len(self._x), self._x.shape[1:], self._seed)
        return np.asarray(augmentation.apply(tf.constant(self._x), tf.constant(drawn)))
