"""Series in tables: the columns of numbers, a row for each step of time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfopt.base.words import counted
from tfopt.data.cells import as_texts, if_numbers, is_missing
from tfopt.data.columns import is_table, read_columns
from tfopt.data.dates import NO_DATE, are_dates, dates_in
from tfopt.errors import DataError

_TWICE = 0.02
"""More rows than this share with the time of another row are those of several series."""
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
    """Return the columns of numbers of a table, in order of time.

    Dates are left out, with a note: steps are at equal distances. The first column of dates that differ says in
    which order the rows stand.

    Raises:
        DataError: it cannot be read, a value is missing, a column has other texts than dates, or rows of several series
            stand in one table.
    """
    if not is_table(path):
        raise DataError(f"Expected a series as an array, or as a table (.csv, .tsv, .jsonl or .parquet), got {path}.")
    columns, notes = read_columns(path, dates=True)
    dates = {name: read for name, cells in columns.items() if (read := _dates(cells)) is not None}
    order: np.ndarray | slice = slice(None)
    times = [name for name, each in dates.items() if _is_time(each)]
    if times:
        time = min(times, key=lambda name: _again(dates[name]) > _TWICE)  # the first that fits, else the first
        order, said = _in_order_of_time(time, dates[time], path)
        notes += said
    found: dict[str, np.ndarray] = {}
    for name, cells in columns.items():
        if name in dates:
            said = _on_dates(name, cells, dates[name][order])
        else:
            values, said = _numbers(name, cells, path)
            found[name] = values[order]
        notes += said
    if not found:
        raise DataError(f"Expected a column of numbers in the series {path}, got none: {'; '.join(notes)}.")
    return SeriesFile(np.stack(list(found.values()), axis=1), tuple(found), notes)


def _dates(cells: np.ndarray) -> np.ndarray | None:
    """Return a column of dates as datetime64 (steps,), all NaT if days may be months; None for any other column."""
    if cells.dtype.kind == "M":
        return cells
    if cells.dtype != object or not are_dates(texts := as_texts(cells)):
        return None
    dates = dates_in(texts)
    return np.full(len(texts), NO_DATE) if dates is None else dates


def _is_time(dates: np.ndarray) -> bool:
    """Return whether `dates` can be the times of steps: none is missing, and they are not all the same."""
    return len(dates) > 0 and not np.isnat(dates).any() and bool((dates != dates[0]).any())


def _again(times: np.ndarray) -> float:
    """Return the share of `times` that another row has before."""
    return 1 - len(np.unique(times)) / len(times)


def _in_order_of_time(name: str, times: np.ndarray, path: Path) -> tuple[np.ndarray | slice, tuple[str, ...]]:
    """Return the order in which `times` rise, and a note if rows stand in another one.

    A few times may come twice, as an hour does when the clocks go back.

    Raises:
        DataError: too many come several times.
    """
    if (again := _again(times)) > _TWICE:
        count = round(again * len(times))
        raise DataError(
            f"Expected a row for each time in the series {path}, got {count:,} of {counted(len(times), 'row')} with a "
            f"{name!r} that another row has too: keep the rows of one series, or give each series a column."
        )
    steps = np.diff(times)
    zero = np.timedelta64(0)
    if (steps >= zero).all():
        return slice(None), ()
    if (steps <= zero).all():
        return slice(None, None, -1), (f"rows stand from the last {name!r} to the first: taken from the first on",)
    moved = int((steps < zero).sum())
    return np.argsort(times, kind="stable"), (
        f"rows do not stand in order of time ({counted(moved, 'step')} back): sorted by {name!r}",
    )


def _numbers(name: str, cells: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the numbers of a column, float64 (steps,), and notes."""
    if all(map(is_missing, texts := as_texts(cells))):
        raise DataError(
            f"Expected numbers in each column of the series {path}, got no value in any step of {name!r}; remove the "
            "column, or fill it in."
        )
    values, said = if_numbers(name, cells)
    if values.dtype == object:
        raise DataError(
            f"Expected numbers in each column of the series {path}, got texts in {name!r}, such as "
            f"{next(text for text in texts if text)!r}; remove the column, or give it as numbers."
        )
    values = values.astype(np.float64)
    if (missing := np.isnan(values)).any():
        count = counted(int(missing.sum()), "missing value")
        raise DataError(
            f"Expected a value in each step of the series {path}, got {count} in {name!r}, the first "
            f"in row {int(missing.argmax()):,}; fill them in, as with the values before."
        )
    return values, said


def _on_dates(name: str, cells: np.ndarray, dates: np.ndarray) -> tuple[str, ...]:
    """Return a note that a column of `dates`, datetime64 (steps,), is left out, and whether distances are equal."""
    what = "texts" if cells.dtype == object else "values"
    said = f"{name!r} left out: its {what} are dates; {_EQUAL}"
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
