"""Series in tables: the columns of numbers, a row for each step of time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfopt.base.words import counted
from tfopt.data.cells import are_dates, as_texts, if_numbers, is_missing
from tfopt.data.columns import is_table, read_columns
from tfopt.errors import DataError

_EQUAL = "steps are taken to be at equal distances"


@dataclass(frozen=True, eq=False)
class SeriesFile:
    """A series that was read.

    Attributes:
        values: float64 (steps, columns).
        names: of the columns.
        notes: on columns that are left out.
    """

    values: np.ndarray
    names: tuple[str, ...]
    notes: tuple[str, ...]


def read_series(path: Path) -> SeriesFile:
    """Return the columns of numbers of a table. Dates are left out, with a note: steps are at equal distances.

    Raises:
        DataError: it cannot be read, a value is missing, or a column has other texts than dates.
    """
    if not is_table(path):
        raise DataError(f"Expected a series as an array, or as a table (.csv, .tsv, .jsonl or .parquet), got {path}.")
    columns, notes = read_columns(path, dates=True)
    found: dict[str, np.ndarray] = {}
    for name, cells in columns.items():
        values, said = (None, _on_dates(name, cells)) if cells.dtype.kind == "M" else _numbers(name, cells, path)
        found |= {} if values is None else {name: values}
        notes += said
    if not found:
        raise DataError(f"Expected a column of numbers in the series {path}, got none: {'; '.join(notes)}.")
    return SeriesFile(np.stack(list(found.values()), axis=1), tuple(found), notes)


def _numbers(name: str, cells: np.ndarray, path: Path) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return the numbers of a column, float64 (steps,), and notes; None for texts that are dates."""
    if all(map(is_missing, texts := as_texts(cells))):
        raise DataError(
            f"Expected numbers in each column of the series {path}, got no value in any step of {name!r}; remove the "
            "column, or fill it in."
        )
    values, said = if_numbers(name, cells)
    if values.dtype == object:
        if not are_dates(texts):
            raise DataError(
                f"Expected numbers in each column of the series {path}, got texts in {name!r}, such as "
                f"{next(text for text in texts if text)!r}; remove the column, or give it as numbers."
            )
        return None, (f"{name!r} left out: its texts are dates; {_EQUAL}",)
    values = values.astype(np.float64)
    if (missing := np.isnan(values)).any():
        count = counted(int(missing.sum()), "missing value")
        raise DataError(
            f"Expected a value in each step of the series {path}, got {count} in {name!r}, the first "
            f"in row {int(missing.argmax()):,}; fill them in, as with the values before."
        )
    return values, said


def _on_dates(name: str, dates: np.ndarray) -> tuple[str, ...]:
    """Return a note that `dates`, datetime64 (steps,), are left out, and whether they are at equal distances."""
    said = f"{name!r} left out: its values are dates; {_EQUAL}"
    distances = _distances(dates)
    known, counts = np.unique(distances[~np.isnat(distances)], return_counts=True)
    if not len(known) or counts.max() == len(distances):
        return (said,)
    usual = known[counts.argmax()].item()
    shown = counted(usual, "month") if isinstance(usual, int) else usual
    return (f"{said}, but of {len(distances):,} only {counts.max():,} are the usual one, {shown}",)


def _distances(dates: np.ndarray) -> np.ndarray:
    """Return the time between each of `dates` and the next, in months if all are the same day of one, or its last."""
    for moved in (dates, dates + np.timedelta64(1, "D")):
        months = moved.astype("datetime64[M]")
        if (moved - months == moved[0] - months[0]).all():
            return np.diff(months)
    return np.diff(dates)
