"""The labels of a source, what they mean, and which samples are in which split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfopt.data.images import Size
from tfopt.data.masks import MaskFiles
from tfopt.data.overlap import in_order
from tfopt.data.parts import Parts
from tfopt.data.reconstruction import plan_with_anomalies
from tfopt.data.split import Plan, plan
from tfopt.data.stored import chunks_of, take
from tfopt.data.weights import checked_weights
from tfopt.errors import DataError
from tfopt.tasks import Classification, Reconstruction, Segmentation, Task
from tfopt.tasks.labels import missing_classes, understand_all
from tfopt.tasks.mask_values import BLACK_AND_WHITE


@dataclass(frozen=True)
class Labeled:
    """Labels by split.

    Args:
        chosen: the samples of each split.
        labels: of these.
        weights: of these; empty if there are none.
        task: what the labels mean.
        mask_values: of masks, by class; None for other labels.
        label_notes: on the labels.
        split_notes: on the splits.
    """

    chosen: Plan
    labels: dict[str, Any]
    weights: dict[str, Any]
    task: Task
    mask_values: tuple[int, ...] | None
    label_notes: tuple[str, ...]
    split_notes: tuple[str, ...]


def labeled(parts: Parts, task: str | None, mask_values: tuple[int, ...] | None, **options: Any) -> Labeled:
    """Return the labels of `parts`, split with `options`, see `split.plan`.

    Args:
        parts: whose labels are no files.
        task: what the labels mean; None judges by them.
        mask_values: the values of masks by class; None if labels are class numbers.
        **options: of the splits.

    Raises:
        DataError: the labels have no form that is known, or too few samples to split.
    """
    given = {name: y for name, (_, y) in parts.pairs.items()}
    read = {name: _classes_of(y, mask_values) for name, y in given.items()} if mask_values else given
    labels, found, notes = understand_all(read, _named(mask_values) or parts.class_names, task)
    weights, weight_notes = checked_weights(parts.weights, labels)
    groups = {name: found.groups(part) for name, part in labels.items()}
    if isinstance(found, Classification) and found.has_classes and len(only := np.unique(groups["train"])) == 1:
        notes += (f"all training samples are of class {only[0]}: a model learns to answer it always",)
    in_time = in_order(parts, labels["train"], found)
    if task == Reconstruction.kind:
        chosen, split_notes = plan_with_anomalies(groups, **options)
    else:
        chosen, split_notes = plan(groups, gap=in_time.gap, **options)
    notes += in_time.notes
    of_splits = {name: take(labels[origin], indices) for name, (origin, indices) in chosen.items()}
    return Labeled(
        chosen,
        of_splits,
        {name: take(weights[origin], indices) for name, (origin, indices) in chosen.items() if origin in weights},
        found,
        mask_values or _values_of(given, found),
        (*notes, *_lost(found, labels["train"], of_splits["train"]), *weight_notes),
        split_notes,
    )


def _lost(found: Task, given: Any, left: Any) -> tuple[str, ...]:
    """Return a note on classes that only samples have that the training part does not get."""
    if not found.scores_classes or found.labels != "sparse":
        return ()
    there, trained = (np.concatenate([np.unique(part) for part in chunks_of(labels)]) for labels in (given, left))
    lost = np.setdiff1d(there, trained)
    if not len(lost):
        return ()
    shown = ", ".join(map(str, lost[:5])) + (", ..." if len(lost) > 5 else "")
    return (f"{len(lost):,} of {found.num_classes:,} classes are left without a training sample: {shown}",)


def labeled_by_masks(
    parts: Parts, size: Size | None, task: str | None, mask_values: tuple[int, ...] | None, **options: Any
) -> Labeled:
    """Return the classes of the pixels of images whose labels are paths of masks, as `labeled` does.

    Only the masks of the chosen samples are kept; without `mask_values` all are read, since their values are classes.

    Args:
        parts: images and masks, as paths.
        size: (height, width) of the images; None keeps theirs.
        task: as for `labeled`.
        mask_values: the values of masks by class; None takes those that there are.
        **options: of the splits.

    Raises:
        DataError: another task, masks that cannot be used, or too few samples to split.
    """
    if task not in (None, Segmentation.kind):
        raise DataError(f"Expected the task {Segmentation.kind!r} for a folder of images and masks, got {task!r}.")
    files = MaskFiles.of(parts.pairs, size, parts.source)
    chosen, split_notes = plan({name: np.zeros(len(x), np.int32) for name, (x, _) in parts.pairs.items()}, **options)
    labels, values, notes = files.read(chosen, mask_values)
    number = max(len(values), 2)  # a mask tells two classes apart, even if it is empty
    found = Segmentation("sparse", number, labels["train"].shape[1:])
    missing = missing_classes(np.concatenate([np.unique(part) for part in chunks_of(labels["train"])]), number)
    return Labeled(chosen, labels, {}, found, values, (*files.notes, *notes, *missing), split_notes)


def _named(mask_values: tuple[int, ...] | None) -> tuple[str, ...] | None:
    return tuple(map(str, mask_values)) if mask_values else None


def _classes_of(labels: Any, mask_values: tuple[int, ...]) -> np.ndarray:
    """Return the classes of an array of masks with these values."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.ndim < 3:
        raise DataError(
            "Expected masks for mask_values=, in a folder or as integers (n, height, width), got other labels; leave "
            "it out."
        )
    order = np.argsort(mask_values)
    values = np.array(mask_values)[order]
    places = np.searchsorted(values, labels).clip(max=len(values) - 1)
    if (unknown := values[places] != labels).any():
        raise DataError(
            f"Expected masks with the values {', '.join(map(str, mask_values[:8]))} alone, which are the classes, got "
            f"{labels[unknown][0]}; correct the masks or mask_values=."
        )
    return np.asarray(order[places])


def _values_of(given: dict[str, Any], found: Task) -> tuple[int, ...] | None:
    """Return the values by class of masks in arrays: black and white ones, or class numbers; None for other labels."""
    if not isinstance(found, Segmentation) or found.labels != "sparse" or len(found.places) < 2:
        return None
    if found.num_classes == 2 and any(labels.max() == max(BLACK_AND_WHITE) for labels in given.values()):
        return BLACK_AND_WHITE
    return tuple(range(found.num_classes or 0))
