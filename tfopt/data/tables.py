"""Tables as parts of a data set: texts, or numbers and categories, with a column of labels."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.narrowing import check_float32
from tfopt.base.words import counted
from tfopt.data.cells import (
    are_numbers,
    as_numbers,
    as_texts,
    number_in,
    plain_numbers,
    rewritten,
)
from tfopt.data.columns import Columns
from tfopt.data.dates import are_dates
from tfopt.data.delimited import MISSING, PADDED
from tfopt.data.folder import PART_NAMES
from tfopt.data.front_end import FrontEnd
from tfopt.data.parts import Parts
from tfopt.data.table import Table
from tfopt.data.table_files import SPLIT, TableFiles, read_files
from tfopt.data.text import Text, check_texts
from tfopt.errors import DataError

MOST_INTEGERS = 50
"""Labels of more different integers are values."""
_SHOWN = 5
_SERIES = ", or, if each row is a step of a series, cut windows from it: load_series(..., window=...) (--window)"
_USUAL = ("label", "labels", "target", "class", "category", "y")
"""Names of columns of labels."""
_PADDED = re.compile(PADDED)


def read_table(
    files: TableFiles, *, text: str | None, labels: str | None, front_end: FrontEnd | None, values: bool = False
) -> Parts:
    """Read a table with one sample per row.

    A column "split" of train, validation and test makes these parts; with none of these words it is one of features.

    Args:
        files: of the table.
        text: the column of texts, by default that of `front_end`.
        labels: the column of labels, by default that of `front_end`, or "label".
        front_end: settings, or what a model was trained with; None takes a `Text` if there are texts, else a `Table`.
        values: whether labels are values, even if they look like classes.

    Raises:
        DataError: the file cannot be read, or lacks a column or a label, or `front_end` reads something else.
    """
    columns, notes = _read(files, front_end, text, labels)
    if front_end is None:
        front_end = Text() if text or Text().column in columns else Table()
    if isinstance(front_end, Text):
        front_end = replace(front_end, column=text or front_end.column)
    elif not isinstance(front_end, Table) or text:
        raise DataError(f"Expected {front_end.subject}, as the model was trained on, got the table {files}.")
    front_end = replace(front_end, labels=labels or front_end.labels)
    known = None if values else front_end.classes
    y, classes, said = labels_of(_column(columns, front_end.labels, files, "labels"), front_end.labels, known)
    part, more = _part_of_each(columns, front_end)
    notes += (*more, *said)
    if isinstance(front_end, Text):
        raw = _texts(columns, front_end, files)
    else:
        kept = {name: each for name, each in columns.items() if part is None or name != SPLIT}
        raw, more = _rows(kept, front_end, notes)
        notes += more
    pairs = {"train": (raw, y)}
    if part is not None:
        pairs = {name: (raw[part == name], y[part == name]) for name in dict.fromkeys(part.tolist())}
    return Parts(pairs, f"table {Path(files.name).name}", classes, notes, front_end=replace(front_end, classes=classes))


def read_unlabeled(files: TableFiles, front_end: Text | Table) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Return the raw samples of a table without the column of labels, and notes; None if it has that column.

    Args:
        files: of the table.
        front_end: what a model was trained with.

    Raises:
        DataError: the file cannot be read, or lacks another column.
    """
    columns, notes = _read(files, front_end)
    if front_end.labels in columns:
        return None
    if isinstance(front_end, Text):
        return _texts(columns, front_end, files), notes
    raw, more = _rows(columns, front_end, notes)
    return raw, (*notes, *more)


def _read(
    files: TableFiles, front_end: FrontEnd | None, text: str | None = None, labels: str | None = None
) -> tuple[Columns, tuple[str, ...]]:
    """Return the columns of a table, and notes. Raise `DataError` for one that is needed and cannot be used."""
    needed = {text or "", labels or ""}
    if isinstance(front_end, Text | Table) or front_end is None:
        labels = labels or (front_end or Table()).labels
        needed |= {labels}
    if isinstance(front_end, Text):
        needed |= {text or front_end.column}
    if not isinstance(front_end, Table):
        column = text or (front_end if isinstance(front_end, Text) else Text()).column
        verbatim = () if column == labels else (column,)
        return read_files(files, needed=needed, labels=labels, verbatim=verbatim)
    known = {column.name for column in front_end.columns}
    return read_files(files, front_end.texts, needed | known | set(front_end.categories), labels)


def _texts(columns: Columns, front_end: Text, files: TableFiles) -> np.ndarray:
    """Return the texts, an object array (n,)."""
    values = _column(columns, front_end.column, files, "text")
    texts = np.array(["" if value is None else value for value in values] + [None], object)[:-1]
    check_texts(repr(front_end.column), texts)
    return texts


def _rows(columns: Columns, front_end: Table, said: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return all columns but that of labels as a structured array (n,), and notes on columns left out and marks.

    An error about columns that are missing has the notes `said` so far, which may say why.
    """
    kept = {name: values for name, values in columns.items() if name and name != front_end.labels}
    if not kept:
        why = f" ({'; '.join(said)})" if said else ""
        raise DataError(f"Expected columns beside {front_end.labels!r}, got none{why}; add the values to predict from.")
    notes = ["the column without a name is left out"] if "" in columns else []
    for name, values in kept.items():
        kept[name], remarks = front_end.read(name, values)
        notes += remarks
    rows = np.empty(len(next(iter(kept.values()))), [(name, values.dtype) for name, values in kept.items()])
    for name, values in kept.items():
        rows[name] = values
    return rows, tuple(notes)


def _part_of_each(columns: Columns, front_end: Text | Table) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return the name of the part that each row (n,) belongs to, and notes; None if no column says it.

    Raises:
        DataError: the column says it for some rows only, or none is for training.
    """
    known = {column.name for column in front_end.columns} if isinstance(front_end, Table) else set()
    if SPLIT not in columns or SPLIT in known:
        return None, ()
    texts = as_texts(columns[SPLIT])
    parts = [PART_NAMES.get((text or "").lower()) for text in texts]
    if not any(parts):
        return None, (f"{SPLIT!r} is a column like any other, since no value of it is train, validation or test",)
    if None in parts:
        row = parts.index(None)
        raise DataError(
            f"Expected train, validation or test (or {', '.join(_other_names())}) in the column {SPLIT!r}, got "
            f"{texts[row]!r} in row {row:,}; correct it, or rename the column if it is a feature."
        )
    if "train" not in parts:
        raise DataError(
            f"Expected rows of train in the column {SPLIT!r}, got {', '.join(sorted(set(filter(None, parts))))}."
        )
    return np.array(parts), ()


def _other_names() -> list[str]:
    return [name for name, part in PART_NAMES.items() if name != part]


def labels_of(
    values: np.ndarray, name: str, classes: tuple[str, ...] | None = ()
) -> tuple[np.ndarray, tuple[str, ...] | None, tuple[str, ...]]:
    """Return labels as class numbers (int32) or values (float64), the class names (None for values), and notes.

    Texts, booleans and up to 50 different integers are classes, in ascending order; other numbers are values. Whole
    numbers among texts that are written as "007" or "+7" are texts.

    Args:
        values: of a column (n,).
        name: of the column.
        classes: the names by class number, if they are known; None: the labels are values.

    Raises:
        DataError: a label is missing, or is not among `classes`; or float32 cannot tell values apart.
    """
    notes: tuple[str, ...] = ()
    if values.dtype == object and (classes is None or _are_values(values)):
        values, notes = as_numbers(name, values), rewritten(name, as_texts(values))
    if values.dtype == object:
        values = np.array([*as_texts(values), None], object)[:-1]
    missing = np.array([value is None or value != value for value in values])
    if missing.any():
        raise DataError(
            f"Expected a label in every row, got {counted(int(missing.sum()), 'row')} without {name!r}, the first is "
            f"row {int(missing.argmax())}; remove or label them. In a CSV, these count as missing unless they are "
            f"quoted: {', '.join(MISSING[1:])}."
        )
    distinct = np.unique(values)
    continuous = values.dtype.kind == "f" or (values.dtype.kind in "iu" and len(distinct) > MOST_INTEGERS)
    if classes is None or (not classes and continuous):
        check_float32(f"labels in column {name!r}", [values])
        return values.astype(np.float64), None, notes
    if not classes and len(distinct) == 1:
        raise DataError(f"Expected at least two classes in {name!r}, got {distinct[0]} in every row; add the others.")
    known = classes or tuple(str(value) for value in distinct)
    numbers = {label: number for number, label in enumerate(known)}
    if strangers := [str(value) for value in distinct if str(value) not in numbers]:
        raise DataError(
            f"Expected the labels {_some(known)} in {name!r}, also got {_some(strangers)}; correct them, or train the "
            "model for them."
        )
    integers = values.dtype.kind in "iu"
    notes = (f"the integers in {name!r} are taken as classes: {_some(known)}",) if integers else ()
    if values.dtype == object and are_numbers(distinct) and (padded := _padded(distinct)):
        notes = (*notes, f"the labels in {name!r} are texts, since {padded[0]!r} is not how a number is printed")
    return np.array([numbers[str(value)] for value in values], np.int32), known, notes


def _padded(texts: Iterable[Any]) -> list[Any]:
    """Return the texts that are whole numbers with leading zeros or a plus sign."""
    return [each for each in texts if _PADDED.match(str(each))]


def _are_values(labels: np.ndarray) -> bool:
    """Return whether texts in a column of labels are more than a few numbers, or numbers with a fraction."""
    if labels.dtype != object:
        return False
    texts = [text for text in as_texts(labels) if text is not None]
    plain = plain_numbers(texts)
    numbers = {number for text in texts if (number := number_in(plain.get(text, ""))) is not None}
    integers = all(number.is_integer() for number in numbers)
    return are_numbers(texts) and not (integers and (len(numbers) <= MOST_INTEGERS or bool(_padded(texts))))


def _column(columns: Columns, name: str, files: TableFiles, option: str) -> np.ndarray:
    if name not in columns:
        ordered = _nearest_first(name, columns, _USUAL if option == "labels" else ())
        raise DataError(
            f"Expected a column {name!r} in {files}, got {_some(ordered)}; name the one that is meant: {option}= "
            f"(--{option}){_SERIES if name == Table().labels and _may_be_series(columns) else ''}."
        )
    return columns[name]


def _may_be_series(columns: Columns) -> bool:
    """Return whether all columns are numbers or dates, as those of a series are."""
    texts = [as_texts(cells) for cells in columns.values() if cells.dtype == object]
    return all(are_numbers(each) or are_dates(each) for each in texts)


def _nearest_first(name: str, columns: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return the names of columns, those first that resemble `name`, in any case, then those that are in `others`."""
    by_key: dict[str, list[str]] = {}
    for column in columns:
        by_key.setdefault(column.casefold(), []).append(column)
    near = difflib.get_close_matches(name.casefold(), by_key, n=_SHOWN)
    usual = [key for key in others if key in by_key]
    return [column for key in dict.fromkeys([*near, *usual, *by_key]) for column in by_key[key]]


def _some(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
