"""Detection of what labels mean: classes, several classes at once, or values."""

from typing import Any

import numpy as np

from tfopt.base.limits import MOST_CLASSES
from tfopt.base.narrowing import check_float32
from tfopt.errors import DataError
from tfopt.tasks.classification import Classification
from tfopt.tasks.mask_values import BLACK_AND_WHITE, UNLABELED, require_classes
from tfopt.tasks.multilabel import Multilabel
from tfopt.tasks.reconstruction import Reconstruction
from tfopt.tasks.regression import Regression
from tfopt.tasks.segmentation import Segmentation
from tfopt.tasks.several import Several
from tfopt.tasks.table import task_named
from tfopt.tasks.task import Task

Arrays = dict[str, np.ndarray]

_SOFT = (
    "the rows of labels are fractions that sum to 1, taken as values to regress: pass class numbers or one-hot rows "
    "for a classification, and learn from probabilities with a teacher"
)


def understand_all(
    parts: dict[str, Any], class_names: tuple[str, ...] | None, task: str | None = None
) -> tuple[dict[str, Any], Task, tuple[str, ...]]:
    """Return what `understand` does; for labels by output, the task is a `Several` with one task per output.

    Args:
        parts: labels, or labels by output, by the name of the part.
        class_names: of the only output.
        task: of the only output; None judges by the labels.

    Raises:
        DataError: as `understand`, with the name of the output; or the parts have different outputs.
    """
    outputs = {part: sorted(labels) if isinstance(labels, dict) else [] for part, labels in parts.items()}
    if len({tuple(each) for each in outputs.values()}) > 1:
        came = "; ".join(f"{part} has {', '.join(each) or 'one'}" for part, each in outputs.items())
        raise DataError(f"Expected labels for the same outputs in all parts, got: {came}. Give each part all of them.")
    if not outputs["train"]:
        return _of_task(parts, task, class_names) if task else understand(parts, class_names)
    if task:
        raise DataError(f"Expected no task for several outputs, got {task!r}: the labels of each show its task.")
    found: dict[str, Any] = {part: {} for part in parts}
    tasks, notes = {}, []
    for name in parts["train"]:
        try:
            labels, tasks[name], said = understand({part: each[name] for part, each in parts.items()}, None)
        except DataError as error:
            raise DataError(f"Output {name!r}: {error}") from error
        notes += [f"output {name!r}: {note}" for note in said]
        for part, values in labels.items():
            found[part][name] = values
    return found, Several("values", None, tasks=tasks), tuple(notes)


def _of_task(parts: Arrays, kind: str, class_names: tuple[str, ...] | None) -> tuple[Arrays, Task, tuple[str, ...]]:
    """Return what `understand` does, for labels that the caller says are for the task called `kind`."""
    asked = task_named(kind)
    if issubclass(asked, Reconstruction):
        return parts, asked("values", None, ()), ()
    parts = {name: _numbers(name, values) for name, values in parts.items()}
    if issubclass(asked, Regression):
        values = _values(parts)
        return values, asked("values", None, values["train"].shape[1:]), ()
    if issubclass(asked, Multilabel) and all(_are_rows_of_0_and_1(values) for values in parts.values()):
        values = {name: each.astype(np.float32) for name, each in parts.items()}  # each row may have a single 1
        return values, asked("values", values["train"].shape[-1], values["train"].shape[1:]), ()
    found = understand(_as_integers(parts) if issubclass(asked, Classification) else parts, class_names)
    if type(found[1]) is not asked:
        raise DataError(
            f"Expected labels for the task {kind!r}, got {parts['train'].dtype} of shape {parts['train'].shape}, which "
            f"are for {found[1].kind!r}; correct the labels or the task."
        )
    return found


def _are_rows_of_0_and_1(labels: np.ndarray) -> bool:
    return labels.ndim > 1 and labels.shape[-1] > 1 and bool(np.isin(labels, (0, 1)).all())


def _as_integers(parts: Arrays) -> Arrays:
    """Return class numbers that are stored as floats as integers; other labels unchanged."""
    if any(values.dtype.kind != "f" or (values != np.round(values)).any() for values in parts.values()):
        return parts
    if any(values.ndim > 1 and values.shape[-1] > 1 for values in parts.values()):
        return parts
    return {name: values.astype(np.int64) for name, values in parts.items()}


def understand(parts: Arrays, class_names: tuple[str, ...] | None) -> tuple[Arrays, Task, tuple[str, ...]]:
    """Return the labels of all parts in one form, their task, and notes on anything odd.

    Integers (n,) or (n, 1) are classes (returned as int32 (n,)); 0/1 rows (n, k) that all sum to 1 are one-hot classes;
    other 0/1 rows are several classes at once; floats are values (these three as float32). With more axes, e.g. (n, h,
    w) or (n, h, w, 1), integers are the classes of places (as int32 (n, h, w)), and so are floats of 0 and 1 whose last
    axis has length 1; 0/1 vectors (n, ..., k) that all sum to 1 are one-hot classes of places, and others are several
    classes at once for each place (both as float32).

    Raises:
        DataError: the labels are of another kind, not finite, outside the classes, or values that float32 cannot tell
            apart.
    """
    parts = {name: _numbers(name, values) for name, values in parts.items()}
    _check_alike(parts)
    if _are_places(parts):
        return _places(parts, class_names)
    joined = np.concatenate(list(parts.values()))
    if joined.ndim == 1 and joined.dtype.kind != "f":
        sparse, number = _classes(parts, class_names)
        return sparse, Classification("sparse", number), _missing(sparse["train"], number)
    if joined.ndim > 1 and joined.shape[-1] > 1 and np.isin(joined, (0, 1)).all():
        parts = {name: values.astype(np.float32) for name, values in parts.items()}
        one_hot = joined.ndim == 2 and bool((joined.sum(axis=1) == 1).all())
        classes, shape = joined.shape[-1], joined.shape[1:]
        return parts, Classification("one-hot", classes, shape) if one_hot else Multilabel("values", classes, shape), ()
    if joined.dtype.kind != "f":
        raise DataError(
            f"Expected class numbers (n,), 0/1 rows (n, classes) or float values, got integers of shape "
            f"{joined.shape}; for regression pass floats, for a class per step add an axis: labels[..., None]."
        )
    whole = bool((joined == np.round(joined)).all())
    note = "the labels are whole numbers stored as floats, taken as values to regress: pass integers for classes"
    notes = (note,) if whole else (_SOFT,) if _are_soft(joined) else ()
    return _values(parts), Regression("values", None, joined.shape[1:]), notes


def _values(parts: Arrays) -> Arrays:
    """Return labels of values as float32. Raise `DataError` if that loses what they tell."""
    check_float32("labels", list(parts.values()))
    return {name: values.astype(np.float32) for name, values in parts.items()}


def _are_soft(labels: np.ndarray) -> bool:
    """Return whether rows of labels look like probabilities of classes."""
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.min() < 0:
        return False
    return bool(np.allclose(labels.sum(axis=1, dtype=np.float64), 1, rtol=0, atol=1e-3))


def check_range(name: str, labels: np.ndarray, number: int) -> None:
    """Raise `DataError` if class numbers (n, ...) are not all within 0..number-1."""
    outside = (labels < 0) | (labels >= number)
    if outside.any():
        first = np.argwhere(outside)[0]
        where = ", ".join(map(str, first))
        raise DataError(
            f"Expected {name} labels within 0..{number - 1} ({number} classes), got {int(outside.sum()):,} "
            f"outside, the first at index {where}: {labels[tuple(first)]}; {_correction(labels, number)}."
        )


def _correction(labels: np.ndarray, number: int) -> str:
    values = np.unique(labels)
    if values[0] == 1 and values[-1] == number:
        return "they begin at 1: subtract 1"
    if set(values) == {-1, 1}:
        return "give the two classes as 0 and 1: (labels + 1) // 2"
    return "correct the labels or the number of classes"


def _classes(parts: Arrays, class_names: tuple[str, ...] | None) -> tuple[Arrays, int]:
    """Return class numbers as int32, and the number of classes; raise `DataError` for numbers out of range."""
    number = len(class_names) if class_names else int(parts["train"].max()) + 1
    if number > MOST_CLASSES:
        raise DataError(
            f"Expected class numbers below {MOST_CLASSES:,}, got {number - 1:,}; number the classes 0, 1, 2, ..., "
            "or pass floats for values to regress."
        )
    for name, values in parts.items():
        check_range(name, values, number)
    return {name: values.astype(np.int32) for name, values in parts.items()}, number


def _are_places(parts: Arrays) -> bool:
    """Return whether labels of three or more axes are classes: integers, one-hot vectors, or masks of 0 and 1."""
    first = next(iter(parts.values()))
    if first.ndim < 3:
        return False
    whole = all(np.isin(values, (0, 1)).all() for values in parts.values())
    return first.dtype.kind != "f" or (whole and (first.shape[-1] == 1 or _are_one_hot(parts)))


def _are_one_hot(parts: Arrays) -> bool:
    return all(
        values.shape[-1] > 1 and np.isin(values, (0, 1)).all() and bool((values.sum(axis=-1) == 1).all())
        for values in parts.values()
    )


def _places(parts: Arrays, class_names: tuple[str, ...] | None) -> tuple[Arrays, Task, tuple[str, ...]]:
    """Return the labels of places: class numbers (n, *places), or one-hot (n, *places, classes)."""
    shape = parts["train"].shape[1:]
    if _are_one_hot(parts):
        return {name: y.astype(np.float32) for name, y in parts.items()}, Segmentation("one-hot", shape[-1], shape), ()
    if shape[-1] == 1:
        parts = {name: values[..., 0] for name, values in parts.items()}
    said: tuple[str, ...] = ()
    if class_names is None and len(shape) > 1 and shape[1:] != (1,):
        parts, said = _of_masks(parts)
    sparse, number = _classes(parts, class_names)
    number = max(number, 2)  # a mask tells two classes apart, even if it is empty
    return sparse, Segmentation("sparse", number, sparse["train"].shape[1:]), said + _missing(sparse["train"], number)


def _of_masks(parts: Arrays) -> tuple[Arrays, tuple[str, ...]]:
    """Return masks with two classes for black and white ones, with a note, and other masks unchanged.

    Raises:
        DataError: the masks have 255 and other values, of which not all can be classes.
    """
    if max(values.max() for values in parts.values()) != UNLABELED or min(y.min() for y in parts.values()) < 0:
        return parts, ()
    present = np.zeros(UNLABELED + 1, bool)
    for values in parts.values():
        present[values.astype(np.uint8).ravel()] = True
    found = np.flatnonzero(present).tolist()
    if set(found) <= set(BLACK_AND_WHITE):
        black, white = BLACK_AND_WHITE
        said = f"the mask values {black}, {white} are the classes 0 and 1"
        return {name: (values == white).astype(np.int32) for name, values in parts.items()}, (said,)
    require_classes(found, "the labels")
    return parts, ()


def _numbers(name: str, labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind not in "biuf":
        raise DataError(f"Expected {name} labels as numbers, got dtype {labels.dtype}; number the classes 0, 1, 2, ...")
    if labels.ndim == 0:
        raise DataError(f"Expected {name} labels as an array (n,) or (n, k), got a single number.")
    if labels.dtype.kind == "f" and not (finite := np.isfinite(labels)).all():
        rows = np.flatnonzero(~finite.reshape(len(labels), -1).all(axis=1))
        raise DataError(
            f"Expected finite {name} labels, got NaN or infinity in {len(rows):,} of {len(labels):,}, the "
            f"first at index {rows[0]}; remove or replace them."
        )
    return labels[:, 0] if labels.shape[1:] == (1,) and labels.dtype.kind != "f" else labels


def _check_alike(parts: Arrays) -> None:
    forms = {name: (part.shape[1:], "floats" if part.dtype.kind == "f" else "integers") for name, part in parts.items()}
    if len(set(forms.values())) > 1:
        came = "; ".join(f"{name} has {kind} of shape (n, *{shape})" for name, (shape, kind) in forms.items())
        raise DataError(f"Expected labels of one kind in all parts, got: {came}. Give them the same form.")


def _missing(labels: np.ndarray, number: int) -> tuple[str, ...]:
    return missing_classes(np.unique(labels), number)


def missing_classes(present: np.ndarray, number: int) -> tuple[str, ...]:
    """Return a note if some of `number` classes are not `present` in the training labels."""
    absent = np.setdiff1d(np.arange(number), present)
    if not len(absent):
        return ()
    first = ", ".join(str(label) for label in absent[:5]) + (", ..." if len(absent) > 5 else "")
    return (f"{len(absent):,} of {number:,} classes have no training sample: {first}",)
