"""One data set for a whole run: three splits in memory, and what is known about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tfopt.data.augmentation import Augmentation
from tfopt.data.batches import Views, count_steps, make_batches
from tfopt.data.preprocessing import Preprocessing
from tfopt.data.samples import Split
from tfopt.data.split import NAMES, choose
from tfopt.errors import DataError
from tfopt.tasks import LabelForm, TaskName, task_of

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Train, validation and test, none of them empty, all of one shape and one preprocessing.

    Args:
        train, validation, test: the samples.
        class_names: by class number, if the source names them.
        task: "classification", "multilabel" or "regression"; `tfopt.tasks.task_of` gives the `Task`.
        labels: "sparse" (int32 class numbers), "one-hot" or "values" (float32).
        num_classes: of a classification or multilabel task; None for regression.
        source: where the data came from, in words.
        notes: what was decided on the way (splits, conversions), in words.

    Raises:
        DataError: an empty split.
    """

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...] | None
    task: TaskName
    labels: LabelForm
    num_classes: int | None
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise `DataError` if a split has no samples."""
        for name in NAMES:
            if not len(self.split(name)):
                raise DataError(f"Expected samples in {name}, got none; add some or leave {name} out to split it off.")

    @property
    def preprocessing(self) -> Preprocessing:
        """How the inputs become what the model is fed; the same in all splits."""
        return self.train.preprocessing

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch axis."""
        return self.train.inputs.shape[1:]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the samples, their order and split, and the preprocessing; computed once."""
        digest = hashlib.sha256()
        about = {
            "preprocessing": self.preprocessing.to_dict(),
            "classes": self.class_names,
            "task": self.task,
        }
        digest.update(json.dumps(about, sort_keys=True).encode())
        for name in NAMES:
            for array in (self.split(name).inputs, self.split(name).labels):
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data.cast("B"))
        return digest.hexdigest()

    def split(self, name: str) -> Split:
        """The split called "train", "validation" or "test"; another name raises `DataError`."""
        if name not in NAMES:
            raise DataError(f"Expected a split named {', '.join(NAMES)}, got {name!r}.")
        split: Split = getattr(self, name)
        return split

    def steps(self, batch_size: int) -> int:
        """Batches in one epoch of train, the last one possibly smaller."""
        return count_steps(len(self.train), batch_size)

    def batches(
        self,
        split_name: str,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        augment: Augmentation | None = None,
        drop_remainder: bool = False,
        views: Views | None = None,
    ) -> tf.data.Dataset:
        """One epoch per iteration of (x, y) batches: x float32 (batch, ...), y as `Split.y` gives it.

        Args:
            split_name: "train", "validation" or "test".
            batch_size: samples per batch, 1 or more.
            shuffle: a new order in every iteration; two data sets made with the same `seed` give the same orders.
            seed: for the order and the augmentation; 0 or above.
            augment: applied to x after preprocessing.
            drop_remainder: leave out the last batch if it is smaller.
            views: limits augmentation to a number of views, and says what goes along with the samples.

        Raises:
            DataError: an argument out of range, no full batch to keep, or augmentation of what is not images.
        """
        return make_batches(
            self.split(split_name),
            batch_size,
            shuffle=shuffle,
            seed=seed,
            augment=augment,
            drop_remainder=drop_remainder,
            views=views,
        )

    def with_preprocessing(self, name: str) -> Dataset:
        """The same samples, scaled as `Preprocessing.named(name)` says; size and colours stay what they are."""
        named = Preprocessing.named(name)
        preprocessing = replace(self.preprocessing, scale=named.scale, offset=named.offset)
        train, validation, test = (replace(self.split(part), preprocessing=preprocessing) for part in NAMES)
        return replace(self, train=train, validation=validation, test=test)

    def representative(self, n: int, seed: int = 0) -> np.ndarray:
        """`n` training inputs (all, if fewer), float32 (n, ...), as evenly over the classes as it goes."""
        return self.train.x(self._representative(n, seed))

    def representative_batches(self, n: int, batch_size: int, seed: int = 0) -> Iterator[np.ndarray]:
        """What `representative` gives, `batch_size` samples in memory at a time."""
        chosen = self._representative(n, seed)
        for start in range(0, len(chosen), batch_size):
            yield self.train.x(chosen[start : start + batch_size])

    def _representative(self, n: int, seed: int) -> np.ndarray:
        if n < 1:
            raise DataError(f"Expected at least 1 representative sample, got {n}.")
        groups = task_of(self).groups(self.train.labels)
        return choose(n, groups, np.random.default_rng(seed), even=True)

    def describe(self) -> list[str]:
        """Lines for a person: source, sizes, task, what the model is fed, and every note."""
        classes = f", {self.num_classes} classes" if self.num_classes else ""
        sizes = ", ".join(f"{len(self.split(name)):,} {name}" for name in NAMES)
        return [
            f"source: {self.source}",
            f"samples: {sizes}",
            f"task: {self.task}{classes}, {self.labels} labels",
            f"input: shape {self.input_shape}, {self.preprocessing.describe()}",
            *(f"note: {note}" for note in self.notes),
        ]
