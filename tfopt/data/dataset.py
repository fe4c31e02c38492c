"""The data set of a run: three splits in memory and their metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tfopt.base.renamed import renamed_methods
from tfopt.data.augmentation import Augmentation
from tfopt.data.batches import Views, count_steps, make_batches
from tfopt.data.preprocessing import Preprocessing
from tfopt.data.samples import Split
from tfopt.data.split import NAMES, choose
from tfopt.errors import DataError
from tfopt.tasks import LabelForm, TaskName, task_of

if TYPE_CHECKING:
    import tensorflow as tf


@renamed_methods(fed_as="with_preprocessing")
@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Train, validation and test samples: none empty, all with the same shape and preprocessing.

    Args:
        train, validation, test: the samples.
        class_names: by class number, if the source names them.
        task: "classification", "multilabel" or "regression"; `tfopt.tasks.task_of` returns the `Task`.
        labels: "sparse" (int32 class numbers), "one-hot" or "values" (float32); "none" if there are none.
        num_classes: for classification and multilabel tasks; None for regression.
        source: a description of the data's origin.
        notes: remarks on the decisions made (splits, conversions).

    Raises:
        DataError: a split is empty.
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
        """The mapping from stored inputs to model inputs; the same for all splits."""
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
        """Return the split called `name`: "train", "validation" or "test"; raise `DataError` for another."""
        if name not in NAMES:
            raise DataError(f"Expected a split named {', '.join(NAMES)}, got {name!r}.")
        split: Split = getattr(self, name)
        return split

    def steps(self, batch_size: int) -> int:
        """Return the number of training batches per epoch; the last of `batch_size` samples may be smaller."""
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
        """Return a data set of (x, y) batches, one epoch per iteration: x float32 (batch, ...), y as in `Split.y`.

        Args:
            split_name: "train", "validation" or "test".
            batch_size: samples per batch, 1 or more.
            shuffle: use a new order in every iteration; two data sets with the same `seed` have the same orders.
            seed: for the order and the augmentation; 0 or above.
            augment: applied to x after preprocessing.
            drop_remainder: leave out the last batch if it is smaller.
            views: limits augmentation to a number of views, and supplies data to batch with the samples.

        Raises:
            DataError: an argument is out of range, there is no full batch, or the inputs to augment are not images.
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
        """Return the same samples, scaled as the preprocessing called `name` says; size and colors stay unchanged."""
        preprocessing = self.preprocessing.rescaled(name)
        train, validation, test = (replace(self.split(part), preprocessing=preprocessing) for part in NAMES)
        return replace(self, train=train, validation=validation, test=test)

    def representative(self, n: int, seed: int = 0) -> np.ndarray:
        """Return `n` training inputs (or all), float32 (n, ...), spread evenly over the classes, drawn with `seed`."""
        return self.train.x(self._representative(n, seed))

    def representative_batches(self, n: int, batch_size: int, seed: int = 0) -> Iterator[np.ndarray]:
        """Yield the inputs of `representative` for `n` and `seed`, with `batch_size` samples in memory at a time."""
        chosen = self._representative(n, seed)
        for start in range(0, len(chosen), batch_size):
            yield self.train.x(chosen[start : start + batch_size])

    def _representative(self, n: int, seed: int) -> np.ndarray:
        if n < 1:
            raise DataError(f"Expected at least 1 representative sample, got {n}.")
        groups = task_of(self).groups(self.train.labels)
        return choose(n, groups, np.random.default_rng(seed), even=True)

    def describe(self) -> list[str]:
        """Return a readable summary: source, sizes, task, model inputs, and every note."""
        classes = f", {self.num_classes} classes" if self.num_classes else ""
        sizes = ", ".join(f"{len(self.split(name)):,} {name}" for name in NAMES)
        return [
            f"source: {self.source}",
            f"samples: {sizes}",
            "no labels" if self.labels == "none" else f"task: {self.task}{classes}, {self.labels} labels",
            f"input: shape {self.input_shape}, {self.preprocessing.describe()}",
            *(f"note: {note}" for note in self.notes),
        ]
