"""Choose the augmentations that do not destroy labels."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfopt.data import Dataset
from tfopt.data.augmentation import Augmentation
from tfopt.data.random_changes import RandomChanges
from tfopt.data.sound_augmentation import SoundAugmentation
from tfopt.tasks import task_of
from tfopt.tasks.balance import Asked
from tfopt.tasks.responses import are_logits
from tfopt.training.settings import Training

# An augmentation is dropped if it costs the given model more than this fraction of its correct answers.
AUGMENTATION_MAY_COST = 0.1

PROBE, PROBE_OF_PLACES = 1000, 100
"""Validation samples that show it; fewer of those with a class for each place."""

DRAWS = 256
"""Draws that show whether a transformation can change a sample at all."""

# All probed images are flipped; training flips half.
_FLIPS = {"horizontal_flip": "mirrored", "vertical_flip": "upside_down"}

Judge = Callable[[np.ndarray], np.ndarray]


def choose_augmentation(
    judge: Judge | None, training: Training, data: Dataset, *, who: str = "the original model"
) -> tuple[RandomChanges | None, list[str]]:
    """Return the recipe's augmentation without transformations that `judge` cannot recognize, and notes.

    A mirrored digit is a different digit. So each transformation is first tested on the validation samples: it is
    halved, then dropped, if it costs `judge`, which returns scores (n, classes) and is called `who` in notes, more than
    a tenth of its accuracy. It is dropped if there is no judge.
    """
    kind = data.preprocessing.augmentation or Augmentation
    wanted, left_out = _wanted(training, kind)
    names = ", ".join(wanted.transformations)
    if not names:
        return None, left_out
    if (
        data.has_several
        or data.preprocessing.augmentation is None
        or len(data.input_shape) != 3
        or not (task_of(data).has_classes or _has_masks(data, kind))
    ):
        return None, [
            *left_out,
            f"no augmentation ({names}): it is for the classification of images and recordings, and for images with "
            "masks of their size",
        ]
    if judge is None:
        return None, [
            *left_out,
            f"no augmentation ({names}): there is no model to judge which images stay recognizable",
        ]
    trial = _Trial(judge, wanted, training.seed, data, who)
    kept = {name: trial.recognized(name, value) for name, value in wanted.transformations.items()}
    kept = {name: value for name, value in kept.items() if value}
    return (wanted.with_only(**kept) if kept else None), [*left_out, *trial.notes, *trial.unjudged(kept)]


def _has_masks(data: Dataset, kind: type[RandomChanges]) -> bool:
    return task_of(data).has_places and kind is Augmentation and data.train.target_shape[:2] == data.input_shape[:2]


def _wanted(training: Training, kind: type[RandomChanges]) -> tuple[RandomChanges, list[str]]:
    """Return the transformations of `training`, those that it sets and the others at its strength, and notes.

    The notes name what it sets for another kind of samples.
    """
    every = {name: getattr(training, name) for name in (*Augmentation.names, *SoundAugmentation.names)}
    own = {name: value for name, value in every.items() if value is not None}
    strangers = [name for name in own if name not in kind.names and own[name]]
    at_strength = kind.of_strength(training.augmentation).transformations
    chosen = {**at_strength, **{name: value for name, value in own.items() if name in kind.names}}
    wanted = Augmentation(**chosen, at_once=training.at_once) if kind is Augmentation else kind(**chosen)
    return wanted, [f"no {', '.join(strangers)}: they are for other samples than these"] if strangers else []


class _Trial:
    """Asks a judge whether it recognizes changed validation images; collects notes."""

    def __init__(self, judge: Judge, wanted: RandomChanges, seed: int, data: Dataset, who: str) -> None:
        self._judge, self._wanted, self._seed, self._who = judge, wanted, seed, who
        self._task, self._places = task_of(data), task_of(data).has_places
        probe = data.validation.spread(PROBE_OF_PLACES if self._places else PROBE)
        self._split, self._probe, self._y = data.validation, probe, data.validation.y(probe)
        self._asked = self._asked_by(self._y)
        self._weights = self._asked.balanced if self._asked.imbalanced else np.ones(self._asked.number)
        outputs = np.asarray(judge(data.validation.x(probe)))
        self._logits = are_logits(outputs, self._task)
        self._before = self._accuracy(outputs, self._y)
        self.notes: list[str] = []

    def _asked_by(self, labels: np.ndarray) -> Asked:
        found = Asked.by(self._task, labels)
        assert found is not None  # the task has classes
        return found

    def _accuracy(self, outputs: np.ndarray, labels: np.ndarray) -> float:
        """Return the accuracy of `outputs`; of imbalanced classes the balanced one, which no frequent class hides."""
        asked = self._asked_by(labels)
        return float(asked.hits(self._task, outputs, self._weights, logits=self._logits).mean())

    @property
    def _guesses(self) -> bool:
        """Whether the judge does no better than always predicting the most frequent class: it recognizes nothing."""
        return self._before <= float(self._asked.hits_of_guess(self._task, self._weights).mean())

    def recognized(self, name: str, value: Any) -> Any:
        """Return `value` of the transformation `name`, or half of it, or None if even that costs too much."""
        if self._changes_nothing(name, value):
            self.notes.append(f"augmentation {name}={value} left out: it changes nothing in samples this small")
            return None
        if self._guesses:
            return value
        for setting in (value,) if value is True else (value, value / 2):
            x, y = self._changed(name, setting)
            after = self._accuracy(self._judge(x), y)
            what = self._split.preprocessing.subject
            verdict = f"{self._who} has {after:.3f} on {what} changed this way, {self._before:.3f} on unchanged ones"
            if after >= (1 - AUGMENTATION_MAY_COST) * self._before:
                halved = "" if setting == value else f", half of {value}"
                self.notes.append(f"augmented with {name}={setting}{halved}: {verdict}")
                return setting
        self.notes.append(f"augmentation {name} left out: {verdict}")
        return None

    def unjudged(self, kept: Mapping[str, Any]) -> list[str]:
        """Return a note on the transformations `kept` with their values, if the judge recognizes nothing."""
        if not kept or not self._guesses:
            return []
        chosen = ", ".join(f"{name}={value}" for name, value in kept.items())
        return [
            f"augmented with {chosen}, as the recipe says: {self._who} is no better than chance ({self._before:.3f}), "
            "so it cannot judge the augmentation"
        ]

    def _changes_nothing(self, name: str, value: Any) -> bool:
        """Return whether draws are those without any transformation, as of a shift by less than half a pixel.

        Of a few samples all might be drawn unchanged, so these are draws for many.
        """
        how = DRAWS, self._split.shape, self._seed
        changed, unchanged = (self._wanted.with_only(**each).draw(*how) for each in ({name: value}, {}))
        return np.array_equal(changed, unchanged)

    def _changed(self, name: str, value: Any) -> tuple[np.ndarray, np.ndarray]:
        import tensorflow as tf

        augmentation = self._wanted.with_only(**{name: value})
        drawn = augmentation.draw(len(self._probe), self._split.shape, self._seed)
        if name in _FLIPS:
            drawn[:, augmentation.columns.index(_FLIPS[name])] = 1
        x = np.asarray(augmentation.apply(tf.constant(self._split.changed(self._probe, augmentation, drawn)), drawn))
        return x, np.asarray(augmentation.apply_to_masks(tf.constant(self._y), drawn)) if self._places else self._y
