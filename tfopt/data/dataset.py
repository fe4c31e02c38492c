"""The data set of a run: three splits in memory and their metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tfopt.base.renamed import renamed_methods
from tfopt.data.arrays_by_name import leaves, names_of, weights_of
from tfopt.data.batches import Views, count_steps, make_batches
from tfopt.data.class_names import check_count, check_names
from tfopt.data.front_end import FrontEnd
from tfopt.data.position import Position
from tfopt.data.preprocessing import Preprocessing
from tfopt.data.random_changes import RandomChanges
from tfopt.data.samples import Split, are_images
from tfopt.data.split import NAMES, choose
from tfopt.data.stored import RowsOnDisk
from tfopt.errors import DataError
from tfopt.tasks import LabelForm, Task, TaskName, task_of

if TYPE_CHECKING:
    import tensorflow as tf


@renamed_methods(fed_as="with_preprocessing")
@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Train, validation and test samples: none empty, all with the same shapes and preprocessing.

    Args:
        train: samples to fit.
        validation: samples to choose epochs and stages by.
        test: samples to measure the result on.
        class_names: by class number, if the source names them.
        task: the name of the task, see `load_data`; `tfopt.tasks.task_of` returns the `Task`.
        labels: "sparse" (int32 class numbers; uint8 for masks in files), "one-hot" or "values" (float32); "none" if
            there are none.
        num_classes: for tasks with classes; None for values.
        source: a description of the data's origin.
        notes: remarks on the decisions made (splits, conversions).
        outputs: the task of each output by its name, if there are several; None for one.
        mask_values: the values by class of the masks that the labels are; None for other labels.
        forecast_columns: of forecasts, the columns of the inputs whose next values are the labels; None if unknown.

    Raises:
        DataError: a split is empty, or class names are not distinct, one for each class, and on one line each.

    Examples:
        >>> isinstance(data, tfopt.Dataset), data.class_names[:3]
        (True, ('0', '1', '2'))
        >>> data.train.inputs.dtype, data.train.x().dtype  # as stored, and as the model takes it
        (dtype('uint8'), dtype('float32'))
        >>> images, labels = next(iter(data.batches("train", 32, shuffle=True)))
        >>> images.shape
        TensorShape([32, 8, 8, 1])
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
    outputs: Mapping[str, Task] | None = None
    mask_values: tuple[int, ...] | None = None
    forecast_columns: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Raise `DataError` if a split has no samples, or the class names do not fit."""
        for name in NAMES:
            if not len(self.split(name)):
                raise DataError(f"Expected samples in {name}, got none; add some or leave {name} out to split it off.")
        if self.class_names:
            check_names(self.class_names)
            if self.num_classes is not None:
                check_count(self.class_names, self.num_classes)

    def __repr__(self) -> str:
        """Return the source, the numbers of samples and the tasks, not the samples."""
        return f"Dataset({self.source}: {'; '.join([self._sizes_in_words(), *self._tasks_in_words()])})"

    @property
    def preprocessing(self) -> FrontEnd:
        """The front end, which maps stored inputs to model inputs; the same for all splits."""
        return self.train.preprocessing

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch axis; raise `DataError` if there are several inputs."""
        if isinstance(self.train.inputs, dict):
            raise DataError(f"Expected data with one input, got {', '.join(self.train.inputs)}.")
        return self.train.shape

    @property
    def has_several(self) -> bool:
        """Whether inputs or labels come by name."""
        return isinstance(self.train.inputs, dict) or self.outputs is not None

    def of_output(self, name: str) -> Dataset:
        """Return the data for the output called `name` alone; the data itself if there are not several."""
        if self.outputs is None:
            return self
        task, parts = self.outputs[name], (self.train, self.validation, self.test)
        train, validation, test = (
            replace(part, labels=part.labels[name], weights=weights_of(part.weights, name)) for part in parts
        )
        return replace(
            self,
            train=train,
            validation=validation,
            test=test,
            task=task.kind,
            labels=task.labels,
            num_classes=task.num_classes,
            outputs=None,
        )

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
            split = self.split(name)
            for arrays in (split.inputs, split.labels, *([] if split.weights is None else [split.weights])):
                for what, array in zip(names_of(arrays, name), leaves(arrays), strict=True):
                    digest.update(f"{what} {array.dtype} {array.shape}".encode())
                    digest.update(array.fingerprint() if isinstance(array, RowsOnDisk) else _bytes(array))
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
        augment: RandomChanges | None = None,
        drop_remainder: bool = False,
        views: Views | None = None,
        position: Position | None = None,
    ) -> tf.data.Dataset:
        """Return a data set of (x, y) batches, one epoch per iteration, as `Split.x` and `Split.y` return them.

        If the samples have weights, batches are (x, y, weights).

        Args:
            split_name: "train", "validation" or "test".
            batch_size: samples per batch, 1 or more.
            shuffle: use a new order in every iteration; two data sets with the same `seed` have the same orders.
            seed: for the order and the augmentation; 0 or above.
            augment: random changes of the samples, a `tfopt.Augmentation`, which moves masks with their images, or, for
                recordings, a `tfopt.inputs.SoundAugmentation`.
            drop_remainder: leave out the last batch if it is smaller.
            views: limits augmentation to a number of views, and supplies data to batch with the samples.
            position: says at which epoch and step iterations begin; None counts them.

        Raises:
            DataError: an argument is out of range, there is no full batch, or `augment` is for other inputs or targets.
        """
        return make_batches(
            self.split(split_name),
            batch_size,
            shuffle=shuffle,
            seed=seed,
            augment=augment,
            drop_remainder=drop_remainder,
            masks=augment is not None and task_of(self).has_places,
            views=views,
            position=position,
        )

    def with_preprocessing(self, name: str) -> Dataset:
        """Return the same images, scaled as the preprocessing called `name` says; size and colors stay unchanged.

        Raises:
            DataError: the samples are texts, recordings or rows of a table.
        """
        if not isinstance(own := self.preprocessing, Preprocessing):
            raise DataError(f"Expected images for preprocessing {name!r}; these data are {own.describe()}.")
        preprocessing = own.rescaled(name)
        train, validation, test = (replace(self.split(part), preprocessing=preprocessing) for part in NAMES)
        return replace(self, train=train, validation=validation, test=test)

    def representative(self, n: int, seed: int = 0) -> Any:
        """Return `n` training inputs (or all) as `Split.x` does, spread evenly over the classes, drawn with `seed`."""
        return self.train.x(self._representative(n, seed))

    def representative_batches(self, n: int, batch_size: int, seed: int = 0) -> Iterator[Any]:
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
        return [
            f"source: {self.source}",
            f"samples: {self._sizes_in_words()}",
            *self._tasks_in_words(),
            *self._inputs_in_words(),
            *(f"note: {note}" for note in self.notes),
        ]

    def _sizes_in_words(self) -> str:
        return ", ".join(f"{len(self.split(name)):,} {name}" for name in NAMES)

    def _tasks_in_words(self) -> Iterator[str]:
        if self.labels == "none":
            yield "no labels"
            return
        for name, task in task_of(self).by_task().items():
            classes = f", {task.num_classes} classes" if task.num_classes else ""
            yield f"task{f' of {name}' if name else ''}: {task.kind}{classes}, {task.labels} labels"

    def _inputs_in_words(self) -> Iterator[str]:
        inputs, shapes = self.train.inputs, leaves(self.train.shapes)
        for what, array, shape in zip(names_of(inputs, "input"), leaves(inputs), shapes, strict=True):
            how = self.preprocessing.describe() if what == "input" or are_images(array) else "values as they are"
            yield f"{what}: shape {shape}, {how}"


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")  # of labels that are not there
