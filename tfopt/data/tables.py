"""Tables as parts of a data set: texts, or numbers and categories, with a column of labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tfopt.base.words import counted
from tfopt.data.columns import Columns, read_columns
from tfopt.data.folder import PART_NAMES
from tfopt.data.front_end import FrontEnd
from tfopt.data.parts import Pair, Parts
from tfopt.data.table import Table
from tfopt.data.text import Text, check_texts
from tfopt.errors import DataError

SPLIT = "split"
"""The column that says which part a row belongs to."""
MOST_INTEGERS = 50
"""Labels of more different integers are values."""
_SHOWN = 5


def read_table(path: Path, *, text: str | None, labels: str | None, front_end: FrontEnd | None) -> Parts:
    """Read a table with one sample per row.

    A column "split" of train, validation and test makes these parts.

    Args:
        path: of the file.
        text: the column of texts, by default that of `front_end`.
        labels: the column of labels, by default that of `front_end`, or "label".
        front_end: settings, or what a model was trained with; None takes a `Text` if there are texts, else a `Table`.

    Raises:
        DataError: the file cannot be read, or lacks a column or a label, or `front_end` reads something else.
    """
    columns = read_columns(path)
    if front_end is None:
        front_end = Text() if text or Text().column in columns else Table()
    if isinstance(front_end, Text):
        front_end = replace(front_end, column=text or front_end.column)
    elif not isinstance(front_end, Table) or text:
        raise DataError(f"Expected {front_end.subject}, as the model was trained on, got the table {path}.")
    front_end = replace(front_end, labels=labels or front_end.labels)
    target = _column(columns, front_end.labels, path, "labels")
    y, classes, notes = labels_of(target, front_end.labels, front_end.classes)
    raw, more = _texts(columns, front_end, path) if isinstance(front_end, Text) else _rows(columns, front_end)
    parts = _parts(columns, raw, y)
    return Parts(parts, f"table {path.name}", classes, (*more, *notes), front_end=replace(front_end, classes=classes))


def _texts(columns: Columns, front_end: Text, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the texts, an object array (n,), and no notes."""
    values = _column(columns, front_end.column, path, "text")
    texts = np.array(["" if value is None else value for value in values] + [None], object)[:-1]
    check_texts(repr(front_end.column), texts)
    return texts, ()


def _rows(columns: Columns, front_end: Table) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return all columns but those of labels and parts as a structured array (n,), and notes on columns left out."""
    own = (front_end.labels, *([SPLIT] if is_split(columns) else []))
    kept = {name: values for name, values in columns.items() if name and name not in own}
    if not kept:
        raise DataError(f"Expected columns beside {front_end.labels!r}, got none; add the values to predict from.")
    rows = np.empty(len(next(iter(kept.values()))), [(name, values.dtype) for name, values in kept.items()])
    for name, values in kept.items():
        rows[name] = values
    return rows, ("the column without a name is left out",) if "" in columns else ()


def labels_of(
    values: np.ndarray, name: str, classes: tuple[str, ...] | None = ()
) -> tuple[np.ndarray, tuple[str, ...] | None, tuple[str, ...]]:
    """Return labels as class numbers (int32) or values (float32), the class names (None for values), and notes.

    Texts, booleans and up to 50 different integers are classes, in ascending order; other numbers are values.

    Args:
        values: of a column (n,).
        name: of the column.
        classes: the names by class number, if they are known; None: the labels are values.

    Raises:
        DataError: a label is missing, or is not among `classes`.
    """
    missing = np.array([value is None or value != value for value in values])
    if missing.any():
        raise DataError(
            f"Expected a label in every row, got {counted(int(missing.sum()), 'row')} without {name!r}, the first is "
            f"row {int(missing.argmax())}; remove or label them."
        )
    distinct = np.unique(values)
    continuous = values.dtype.kind == "f" or (values.dtype.kind in "iu" and len(distinct) > MOST_INTEGERS)
    if classes is None or (not classes and continuous):
        return _numbers(values, name), None, ()
    known = classes or tuple(str(value) for value in distinct)
    numbers = {label: number for number, label in enumerate(known)}
    if strangers := [str(value) for value in distinct if str(value) not in numbers]:
        raise DataError(
            f"Expected the labels {_some(known)} in {name!r}, also got {_some(strangers)}; correct them, or train the "
            "model for them."
        )
    integers = values.dtype.kind in "iu"
    notes = (f"the integers in {name!r} are taken as classes: {_some(known)}",) if integers else ()
    return np.array([numbers[str(value)] for value in values], np.int32), known, notes


def _numbers(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype == object:
        raise DataError(f"Expected numbers in {name!r}, the values to predict, got {values[0]!r}; correct them.")
    return values.astype(np.float32)


def _column(columns: Columns, name: str, path: Path, option: str) -> np.ndarray:
    if name not in columns:
        raise DataError(
            f"Expected a column {name!r} in {path}, got {_some(list(columns))}; name the one that is meant: {option}=."
        )
    return columns[name]


def _parts(columns: Columns, raw: np.ndarray, y: np.ndarray) -> dict[str, Pair]:
    if not is_split(columns):
        return {"train": (raw, y)}
    part = np.array([PART_NAMES[value.lower()] for value in columns[SPLIT]])
    return {name: (raw[part == name], y[part == name]) for name in dict.fromkeys(part.tolist())}


def is_split(columns: Columns) -> bool:
    """Return whether a column says which rows are for training, validation and test."""
    values = {str(value).lower() for value in columns.get(SPLIT, ())}
    return values <= set(PART_NAMES) and "train" in {PART_NAMES[value] for value in values}


def _some(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
