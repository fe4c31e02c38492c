"""Series in tables: the columns of numbers, a row for each step of time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfopt.base.words import counted
from tfopt.data.cells import are_dates, as_texts, if_numbers
from tfopt.data.columns import is_table, read_columns
from tfopt.errors import DataError


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
    columns, notes = read_columns(path)
    found: dict[str, np.ndarray] = {}
    for name, cells in columns.items():
        values, said = if_numbers(name, cells)
        if values.dtype == object:
            if not are_dates(as_texts(values)):
                raise DataError(
                    f"Expected numbers in each column of the series {path}, got texts in {name!r}, such as "
                    f"{next(text for text in as_texts(values) if text)!r}; remove the column, or give it as numbers."
                )
            notes += (f"{name!r} left out: its texts are dates; steps are taken to be at equal distances",)
            continue
        found[name], notes = values.astype(np.float64), (*notes, *said)
        if (missing := np.isnan(found[name])).any():
            count = counted(int(missing.sum()), "missing value")
            raise DataError(
                f"Expected a value in each step of the series {path}, got {count} in {name!r}, the first "
                f"in row {int(missing.argmax()):,}; fill them in, as with the values before."
            )
    if not found:
        raise DataError(f"Expected a column of numbers in the series {path}, got none: {'; '.join(notes)}.")
    return SeriesFile(np.stack(list(found.values()), axis=1), tuple(found), notes)
