"""Rows of tables as vectors of numbers: standardized numbers, one-hot categories, and indicators of missing values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from typing_extensions import override

from tfopt.base.words import counted
from tfopt.data.cells import as_numbers, as_objects, as_texts, if_numbers, is_missing, rewritten
from tfopt.data.dates import are_dates
from tfopt.data.front_end import FrontEnd, ReadFile, checked_keys
from tfopt.errors import DataError
from tfopt.tasks.scaling import moments

_IDENTIFIERS = 0.5
"""A column of texts with more different ones than this share of the rows says nothing about new rows."""


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers: (value - mean) / deviation, with the median for missing ones.

    Args:
        name: of the column.
        median: of the training rows that have a value.
        mean: of the training rows, with the median for missing values.
        deviation: the standard deviation of the same; 1 for a constant column.
        indicator: whether another feature is 1 for missing values, else 0.
    """

    name: str
    median: float
    mean: float
    deviation: float
    indicator: bool

    @classmethod
    def of(cls, name: str, values: np.ndarray, source: np.dtype[Any]) -> Self:
        """Return the column with the statistics of `values`, float64 (n,), which came in the type `source`."""
        missing = np.isnan(values)
        median = float(np.median(values[~missing])) if not missing.all() else 0.0
        filled = np.where(missing, median, values)
        mean, deviation = moments(filled[:, None], source)
        return cls(name, median, float(mean[0]), float(deviation[0]), bool(missing.any()))

    @property
    def width(self) -> int:
        """The number of features."""
        return 1 + self.indicator

    def encoded(self, values: np.ndarray) -> np.ndarray:
        """Return features (n, width) of `values` (n,). Raise `DataError` for a text."""
        numbers = as_numbers(self.name, values)
        missing = np.isnan(numbers)
        scaled = (np.where(missing, self.median, numbers) - self.mean) / self.deviation
        return np.stack([scaled, missing], axis=1)[:, : self.width]


@dataclass(frozen=True)
class CategoryColumn:
    """A column of categories: a feature for each value, 1 where the row has it. Other values have none.

    Args:
        name: of the column.
        values: the texts of the training rows, the most frequent first; None stands for a missing one.
    """

    name: str
    values: tuple[str | None, ...]

    @property
    def width(self) -> int:
        """The number of features."""
        return len(self.values)

    def encoded(self, values: np.ndarray) -> np.ndarray:
        """Return features (n, width) of `values` (n,)."""
        places = {value: place for place, value in enumerate(self.values)}
        return np.eye(self.width + 1)[[places.get(text, self.width) for text in as_texts(values)]][:, : self.width]


Column = NumberColumn | CategoryColumn


@dataclass(frozen=True, kw_only=True)
class Table(FrontEnd):
    """Rows of a table as vectors, float32 (n, features).

    Numbers are standardized, missing ones replaced by the median and marked by an extra feature. Categories become one
    feature for each value; they are columns of texts, at most half of which are numbers. Statistics and values come
    from the training rows alone.

    Args:
        labels: the column of the labels, which is no feature.
        classes: the labels by class number; () takes those in the table; None: the labels are values.
        categories: columns of categories whose values look like numbers, such as postal codes.
        most_categories: the most values of a category that get a feature: the most frequent.
        columns: how each column is encoded, if that is known.

    Raises:
        DataError: `most_categories` is below 1.

    Examples:
        >>> rows = np.rec.fromarrays([[1.0, np.nan, 3.0], np.array(["a", "b", "a"], object)], names=["age", "kind"])
        >>> table, notes = tfopt.inputs.Table().fitted(rows)
        >>> table.features
        ('age', 'age?', 'kind=a', 'kind=b')
        >>> table.stored(rows).shape
        (3, 4)
    """

    labels: str = "label"
    classes: tuple[str, ...] | None = ()
    categories: tuple[str, ...] = ()
    most_categories: int = 50
    columns: tuple[Column, ...] = ()

    kind: ClassVar[str] = "table"
    subject: ClassVar[str] = "rows of numbers and categories"

    def __post_init__(self) -> None:
        """Raise `DataError` for a number of categories below 1."""
        if self.most_categories < 1:
            raise DataError(f"Expected most_categories of 1 or more, got {self.most_categories}.")

    @override
    def fitted(self, raw: np.ndarray) -> tuple[Table, tuple[str, ...]]:
        """Return the front end with the statistics of training rows, and notes.

        Args:
            raw: a structured array (n,), with a field for each column.

        Raises:
            DataError: it is something else, a column of numbers has a word or infinity, or no column is of use.
        """
        raw = _cells_of(raw)
        if self.columns:
            return self, ()
        names = raw.dtype.names or ()
        if absent := [name for name in self.categories if name not in names]:
            raise DataError(f"Expected the column {absent[0]!r}, one of categories, got {', '.join(names)}.")
        columns, notes = [], []
        for name in names:
            column, said = self._column(name, raw[name])
            columns += [column] if column else []
            notes += said
        if not columns:
            raise DataError(f"Expected columns of numbers or categories beside {self.labels!r}, got none of use.")
        return replace(self, columns=tuple(columns)), tuple(notes)

    def read(self, name: str, values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return a column of numbers as numbers, another one unchanged, and notes on missing values.

        Args:
            name: of the column.
            values: (n,).

        Raises:
            DataError: a column of numbers has a word or infinity; its row in `values` is named.
        """
        if name in self.texts:
            return values, ()
        known = {column.name for column in self.columns}
        if name not in known:
            return if_numbers(name, values)
        return as_numbers(name, values), rewritten(name, as_texts(values)) if values.dtype == object else ()

    def _column(self, name: str, values: np.ndarray) -> tuple[Column | None, list[str]]:
        values, notes = self.read(name, values)
        if name not in self.categories and values.dtype == object and are_dates(texts := as_texts(values)):
            shown = next(text for text in texts if text and not is_missing(text))
            return None, [
                f"{name!r} left out: its texts are dates, such as {shown}; give what matters of them as numbers"
            ]
        if name in self.categories or values.dtype == object:
            return self._categories(name, values)
        numbers = as_numbers(name, values)
        number = NumberColumn.of(name, numbers, values.dtype)
        missing = 100 * np.isnan(numbers).mean()
        note = f"{name!r}: {missing:.3g} % missing, replaced by the median {number.median:.6g} and marked"
        return number, [*notes, note] if number.indicator else [*notes]

    def _categories(self, name: str, values: np.ndarray) -> tuple[Column | None, list[str]]:
        counts = Counter(as_texts(values))
        if name not in self.categories and len(counts) > max(self.most_categories, _IDENTIFIERS * len(values)):
            return None, [f"{name!r} left out: {len(counts):,} different texts in {counted(len(values), 'row')}"]
        ordered = sorted(counts, key=lambda value: (-counts[value], value is None, str(value)))
        rest = sum(counts[value] for value in ordered[self.most_categories :])
        kept = f"the {self.most_categories} most frequent of {len(counts):,} values have a feature"
        note = f"{name!r}: {kept}, those of {counted(rest, 'training row')} do not"
        return CategoryColumn(name, tuple(ordered[: self.most_categories])), [note] if rest else []

    @override
    def stored(self, raw: np.ndarray) -> np.ndarray:
        """Return rows `raw`, a structured array (n,), as features, float32 (n, features).

        Raises:
            DataError: a column is missing, or has words or infinity instead of numbers.
        """
        raw = _cells_of(raw)
        names = raw.dtype.names or ()
        if absent := [column.name for column in self.columns if column.name not in names]:
            raise DataError(
                f"Expected the column {absent[0]!r}, on which the model was trained, got {', '.join(names)}."
            )
        features = np.concatenate([column.encoded(raw[column.name]) for column in self.columns], axis=1)
        return features.astype(np.float32)

    @override
    def notes(self, parts: Sequence[np.ndarray]) -> tuple[str, ...]:
        known = {column.name for column in self.columns}
        parts = [_cells_of(part) for part in parts]
        found, rows = [], sum(map(len, parts))
        for column in self.columns:
            if not isinstance(column, CategoryColumn) or len(column.values) >= self.most_categories:
                continue
            texts = (text for raw in parts for text in as_texts(raw[column.name]))
            if strangers := sum(text not in column.values for text in texts):
                found.append(f"{column.name!r}: {strangers:,} of {rows:,} values are not in the training rows")
        if extra := [name for name in parts[0].dtype.names or () if name not in known]:
            found.append(f"columns that the model does not use: {', '.join(extra)}")
        return tuple(found)

    @override
    def apply(self, values: np.ndarray) -> np.ndarray:
        return np.array(values, np.float32)

    @override
    def describe(self) -> str:
        numbers = sum(isinstance(column, NumberColumn) for column in self.columns)
        categories = len(self.columns) - numbers
        width = sum(column.width for column in self.columns)
        return (
            f"rows of {counted(numbers, 'column')} of numbers and {categories} of categories as {width} float32 "
            "features, numbers standardized"
        )

    @property
    def texts(self) -> frozenset[str]:
        """The columns whose values are texts even if they look like numbers."""
        known = {column.name for column in self.columns if isinstance(column, CategoryColumn)}
        return frozenset(known | set(self.categories))

    @property
    def features(self) -> tuple[str, ...]:
        """The name of each feature: of its column, with "=value" for a category and "?" for an indicator."""
        return tuple(name for column in self.columns for name in _features_of(column))

    @override
    @classmethod
    def from_dict(cls, values: Mapping[str, Any], read: ReadFile) -> Self:
        """Return the front end whose `values` `to_dict` wrote.

        Raises:
            DataError: the values are not those of a Table.
        """
        values = dict(values)
        kinds = (CategoryColumn if "values" in column else NumberColumn for column in values.get("columns", ()))
        columns = [
            kind(**checked_keys(kind, column)) for kind, column in zip(kinds, values.pop("columns", ()), strict=True)
        ]
        return cls(**checked_keys(cls, values), columns=tuple(columns))


def _features_of(column: Column) -> list[str]:
    if isinstance(column, CategoryColumn):
        return [f"{column.name}={value}" for value in column.values]
    return [column.name, f"{column.name}?"][: column.width]


def _cells_of(raw: np.ndarray) -> np.ndarray:
    """Return rows whose texts and dates are objects, dates written as ISO 8601. Raise `DataError` without fields."""
    if not raw.dtype.names:
        raise DataError(f"Expected rows as a structured array with a field for each column, got {raw.dtype}.")
    kinds = {name: raw.dtype[name].kind for name in raw.dtype.names}
    if not set(kinds.values()) & set("SUM"):
        return raw
    types = [(name, object if kind in "SUM" else raw.dtype[name]) for name, kind in kinds.items()]
    rows = np.empty(len(raw), types)
    for name, kind in kinds.items():
        rows[name] = as_objects(raw[name]) if kind in "SUM" else raw[name]
    return rows
