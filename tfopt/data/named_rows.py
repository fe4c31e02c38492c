"""Samples as rows with named columns, one of which has the labels: TFRecords and data sets of libraries."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tfopt.data.cells import number_in
from tfopt.data.collected import numbered
from tfopt.data.front_end import FrontEnd
from tfopt.data.images import decode_image, is_encoded, is_pillow
from tfopt.data.parts import Parts
from tfopt.data.preprocessing import Color, Preprocessing
from tfopt.data.stored import Collector
from tfopt.data.table import Table
from tfopt.data.tables import labels_of
from tfopt.data.text import Text
from tfopt.errors import DataError

Row = Mapping[str, Any]
Kind = Literal["image", "text", "number", "array", "other"]
_FIRST = 16  # rows that show what columns hold
_AT_ONCE = 256  # rows that are decoded in parallel


@dataclass(frozen=True, eq=False)
class NamedRows:
    """Rows of a source.

    Args:
        parts: iterate over the rows from the start, by the name of the part.
        source: a description of the origin.
        labels: the column of labels, if the source says it.
        class_names: of that column by class number, if the source names them.
        notes: remarks on what the reader decided.
    """

    parts: Mapping[str, Callable[[], Iterable[Row]]]
    source: str
    labels: str | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def read_rows(rows: NamedRows, *, text: str | None, labels: str | None, how: FrontEnd, values: bool = False) -> Parts:
    """Read all rows once: encoded images are decoded, texts and rows of single values are left to a front end.

    The inputs are the column of texts; else the images; else the arrays, by name if there are several; else all other
    columns, as rows of a table. Other columns are left out with a note.

    Args:
        rows: the source.
        text: the column of texts; None: "text", if it has texts.
        labels: the column of labels; None: that of the front end, that of the source, or "label".
        how: the size and color of images, or a front end for texts or tables, whose classes number the labels.
        values: whether labels are values, even if they look like classes.

    Raises:
        DataError: a column is missing or has values of several kinds, an image cannot be decoded, or a label is not
            among the classes of the front end.
    """
    first = [row for _, row in itertools.islice(numbered("train", rows.parts["train"]()), _FIRST)]
    if not first:
        raise DataError(f"Expected rows in {rows.source}, got none.")
    kinds = {column: _kind([row.get(column) for row in first]) for column in first[0]}
    stated = how if isinstance(how, Text | Table) else None
    target = _label_column(kinds, labels or _labels_of_model(stated, kinds) or rows.labels, rows.source)
    front_end, inputs = _inputs(kinds, target, text, how)
    read = {part: _Reader(part, [*inputs, target], kinds, how).read(each()) for part, each in rows.parts.items()}
    names = rows.class_names if target == rows.labels else None
    targets = {part: columns[target] for part, columns in read.items()}
    unlabeled = _unlabeled(targets, rows.source, target) if names else ()
    for part in unlabeled:
        del read[part], targets[part]
    said: tuple[str, ...] = ()
    known = None if values else stated.classes if stated else ()
    unnamed = names is None and (front_end or kinds[target] == "text")
    if targets["train"].ndim == 1 and (known != () or unnamed):
        targets, names, said = _as_classes(_by_name(targets, names, target, known), target, known)
    left = [column for column in kinds if column not in (*inputs, target)]
    unlabeled_notes = (f"the {part} part has no labels, {target!r} is -1 in all rows: left out" for part in unlabeled)
    notes = (*rows.notes, *unlabeled_notes, *said, *([f"columns left out: {', '.join(left)}"] if left else []))
    pairs = {part: (_joined(columns, inputs, front_end), targets[part]) for part, columns in read.items()}
    color: Color | None = None
    if kinds[inputs[0]] == "image":
        color = "grayscale" if read["train"][inputs[0]].shape[-1] == 1 else "rgb"
    if isinstance(front_end, Text | Table):
        front_end = replace(front_end, labels=target, classes=names)
    return Parts(pairs, rows.source, names, notes, front_end=front_end, color=color)


def _unlabeled(targets: Mapping[str, np.ndarray], source: str, target: str) -> tuple[str, ...]:
    """Return the parts all of whose rows have the class -1, by which libraries mark rows without a label.

    Raises:
        DataError: some rows of another part have no label, or all of train.
    """
    counts = {part: int(np.sum(labels == -1)) for part, labels in targets.items() if labels.dtype.kind in "if"}
    for part, count in counts.items():
        if count and (count < len(targets[part]) or part == "train"):
            raise DataError(
                f"Expected a label in each row of {source}, got {target!r} = -1, which marks rows without one, in "
                f"{count:,} of {len(targets[part]):,} rows of {part}; leave these out, for a data set of Hugging Face "
                f"with .filter(lambda row: row[{target!r}] != -1)."
            )
    return tuple(part for part, count in counts.items() if count)


def _kind(values: list[Any]) -> Kind:
    """Return what the values of a column in the first rows are."""
    value = next((each for each in values if each is not None), None)
    if isinstance(value, np.ndarray | list) and np.ndim(value):
        array = np.asarray(value)
        if array.dtype == np.uint8 and array.ndim == 3 and array.shape[-1] in (1, 3):
            return "image"
        return "array" if array.dtype.kind in "biuf" else "other"
    if is_pillow(value) or (isinstance(value, bytes) and is_encoded(value)):
        return "image"
    if isinstance(value, str | bytes):
        return "text" if _as_text(value) is not None else "other"
    return "number" if isinstance(value, int | float | np.number | np.bool_) else "other"


def _as_text(value: Any) -> Any:
    """Return a text, or the number or None that stands there instead; None for bytes that are none."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _label_column(kinds: Mapping[str, Kind], wanted: str | None, source: str) -> str:
    """Return the column of labels: the one wanted, "label", or the only one whose path ends so: "image/class/label"."""
    paths = [column for column in kinds if column.rpartition("/")[2] == "label"]
    found = wanted or ("label" if "label" in kinds else paths[0] if len(paths) == 1 else None)
    if found is None or kinds.get(found, "other") == "other":
        came = ", ".join(f"{column} ({kind})" for column, kind in kinds.items())
        raise DataError(
            f"Expected a column {found or 'label'!r} of labels in {source}, got {came}; name it: labels= (--labels)."
        )
    return found


def _labels_of_model(stated: Text | Table | None, kinds: Mapping[str, Kind]) -> str | None:
    """Return the column of labels that a front end names; None if it is the default and there is no such column."""
    return stated.labels if stated and (stated.labels in kinds or stated.labels != type(stated).labels) else None


def _inputs(
    kinds: Mapping[str, Kind], target: str, text: str | None, how: FrontEnd
) -> tuple[FrontEnd | None, list[str]]:
    """Return the front end for raw samples, None for images and arrays, and the columns of inputs."""
    of = {kind: [name for name in kinds if kinds[name] == kind and name != target] for kind in kinds.values()}
    column = text or (how if isinstance(how, Text) else Text()).column
    if text or isinstance(how, Text) or column in of.get("text", []):
        if column not in of.get("text", []):
            raise DataError(f"Expected a column {column!r} of texts, got {', '.join(kinds)}; name it: text=.")
        return (how if isinstance(how, Text) else Text(column=column)), [column]
    if not isinstance(how, Preprocessing | Table):
        raise DataError(f"Expected images, texts or rows of a table, got a front end for {how.subject}.")
    images, arrays = of.get("image", []), of.get("array", [])
    if len(images) > 1:
        raise DataError(f"Expected one column of images, got {', '.join(images)}; leave out all but one.")
    if images or (arrays and not isinstance(how, Table)):
        return None, images or arrays
    single = [*of.get("number", []), *of.get("text", [])]
    if not single:
        raise DataError(f"Expected columns of inputs beside {target!r}, got {', '.join(kinds)}.")
    return (how if isinstance(how, Table) else Table()), sorted(single, key=list(kinds).index)


class _Reader:
    """Reads the columns of one part."""

    def __init__(self, part: str, columns: list[str], kinds: Mapping[str, Kind], how: FrontEnd) -> None:
        self._part, self._columns, self._kinds = part, columns, kinds
        self._size = how.size if isinstance(how, Preprocessing) else None
        self._color: Color | None = how.color if isinstance(how, Preprocessing) else None
        self._target = columns[-1]

    def read(self, rows: Iterable[Row]) -> dict[str, Any]:
        """Return the columns: arrays (n, ...), or objects (n,) for texts."""
        whole = [name for name in self._columns if self._kinds[name] in ("image", "array")]
        stacks = {name: Collector(f"{self._part} {name}") for name in whole}
        singles: dict[str, list[Any]] = {name: [] for name in self._columns if name not in whole}
        each_row, count = numbered(self._part, rows), 0
        with ThreadPoolExecutor() as pool:
            while some := list(itertools.islice(each_row, _AT_ONCE)):
                for values in pool.map(self._values, some):
                    for name, stack in stacks.items():
                        self._check(count, name, values[name], stacks)
                        stack.append(values[name][None])
                    for name, found in singles.items():
                        found.append(values[name])
                    count += 1
        if not count:
            raise DataError(f"Expected rows in {self._part}, got none.")
        return {name: each.result() for name, each in stacks.items()} | {
            name: _column(name, values) for name, values in singles.items()
        }

    def _values(self, numbered_row: tuple[int, Row]) -> dict[str, Any]:
        number, row = numbered_row
        if absent := [name for name in self._columns if name not in row]:
            raise DataError(f"Expected the column {absent[0]!r} in {self._part} row {number:,}, got {', '.join(row)}.")
        return {name: self._value(name, number, row[name]) for name in self._columns}

    def _value(self, name: str, number: int, value: Any) -> Any:
        kind = self._kinds[name]
        if kind == "image" and name != self._target:
            return decode_image(value, f"{self._part} row {number:,}, {name!r}", self._size, self._color)
        return np.asarray(value) if kind in ("image", "array") else _as_text(value)

    def _check(self, number: int, name: str, value: np.ndarray, stacks: Mapping[str, Collector]) -> None:
        """Raise `DataError` for an image of another size or color than the first."""
        expected = stacks[name].row
        if self._kinds[name] == "image" and expected not in (None, value.shape):
            raise DataError(
                f"Expected images of one size and color in {name!r}, got {expected} and, in {self._part} row "
                f'{number:,}, {value.shape}; pass size=(height, width) or color="rgb".'
            )


def _column(name: str, values: list[Any]) -> np.ndarray:
    """Return single values as numbers (n,), or as objects if there are texts; None is missing."""
    present = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in present):
        return np.array([*(None if value is None else str(value) for value in values), None], object)[:-1]
    if len(present) < len(values):
        return np.array([np.nan if value is None else float(value) for value in values])
    try:
        return np.array(values)
    except ValueError as error:
        raise DataError(f"Expected one number for each row in column {name!r}, got others: {error}.") from error


def _by_name(
    targets: dict[str, Any], names: tuple[str, ...] | None, target: str, known: tuple[str, ...] | None
) -> dict[str, Any]:
    """Return labels by the names of their classes, if the source has `names`: a model may number them otherwise."""
    if names is None:
        return targets
    if known is None and any(number_in(name) is None for name in names):
        raise DataError(
            f"Expected values in {target!r}, as the task or the model wants, got the classes {', '.join(names)}; name "
            "another column with labels= (--labels)."
        )
    named = dict(enumerate(names))
    return {
        part: np.array([*(named.get(value, str(value)) for value in values.tolist()), None], object)[:-1]
        for part, values in targets.items()
    }


def _as_classes(
    targets: dict[str, Any], name: str, known: tuple[str, ...] | None
) -> tuple[dict[str, Any], tuple[str, ...] | None, tuple[str, ...]]:
    """Return the labels of all parts as those of a table, the class names if there are any, and notes.

    `known` are the classes of a model; () if there is none, None if its labels are values.
    """
    found, names, notes = labels_of(targets["train"], name, known)
    rest = {part: labels_of(values, name, names)[0] for part, values in targets.items() if part != "train"}
    return {"train": found, **rest}, names, notes


def _joined(columns: Mapping[str, Any], inputs: list[str], front_end: FrontEnd | None) -> Any:
    """Return the inputs: raw samples for a front end, an array, or several by name."""
    if isinstance(front_end, Table):
        rows = np.empty(len(columns[inputs[0]]), [(name, columns[name].dtype) for name in inputs])
        for name in inputs:
            rows[name] = columns[name]
        return rows
    return columns[inputs[0]] if len(inputs) == 1 else {name: columns[name] for name in inputs}
