"""Columns of table files: CSV, TSV, JSON lines and Parquet."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.packages import importing
from tfopt.base.reading import reading
from tfopt.data.check import check_bytes
from tfopt.data.delimited import BLOCK, read_delimited
from tfopt.errors import DataError

Columns = dict[str, np.ndarray]
_UNNAMED = re.compile(r"(Unnamed: \d+|\s*)$")
_INDEX = re.compile(r"__index_level_\d+__$")
Read = tuple[Any, tuple[str, ...]]


def is_table(path: Path) -> bool:
    """Return whether a file name says that it is a table, which may be packed as .gz."""
    return _suffix(path) in _READERS


def read_columns(
    path: Path,
    texts: Collection[str] = (),
    needed: Collection[str] = (),
    labels: str | None = None,
    verbatim: Collection[str] = (),
    *,
    dates: bool = False,
) -> tuple[Columns, tuple[str, ...]]:
    """Return the columns of a table, and notes on how it is read.

    Columns are integers, bool, floats (NaN is missing) of the precision in the file, or objects: strings (None is
    missing).

    Args:
        path: of the file.
        texts: columns of a CSV whose values are texts even if they look like numbers.
        verbatim: such columns in which NA and the like are texts too; an empty field is an empty text.
        needed: columns that are not left out if they have other values, such as dates or lists.
        labels: the column of labels, which of a CSV are texts if they are written as "007".
        dates: whether dates and times are read, too, as datetime64 (NaT is missing).

    Raises:
        DataError: the file cannot be read, its columns have no names or take too much memory, or one that is needed has
            other values.
    """
    with importing("pyarrow", f"the table {path}"):
        import pyarrow  # noqa: F401
    check_bytes(path.stat().st_size, str(path))
    with reading(lambda why: DataError(f"Expected a readable table, got {path}: {why}; correct the file.")):
        table, notes = _READERS[_suffix(path)](path, texts, labels, verbatim)
        names = [name.strip() for name in table.column_names]
    check_bytes(table.nbytes, str(path))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"Expected each column of {path} once, got {', '.join(twice)} several times; rename them.")
    if not table.num_rows:
        raise DataError(f"Expected rows in {path}, got none; add some.")
    if blanks := [name for name, given in zip(names, table.column_names, strict=True) if name != given]:
        notes += (f"blanks around the names of columns do not count: {', '.join(blanks)}",)
    numbering = _index_of(table)
    if index := [name for name in names if name in numbering and name not in needed]:
        shown = ", ".join(name or "the column without a name" for name in index)
        notes += (f"left out, since pandas wrote it as the index of the rows: {shown}",)
        table = table.drop_columns([given for given in table.column_names if given.strip() in index])
        names = [name.strip() for name in table.column_names]
    found = {name: _plain(column) for name, column in zip(names, table.columns, strict=True)}
    kinds = {name: column.type for name, column in found.items()}
    if others := {name: kind for name, kind in kinds.items() if not (_has_values(kind) or (dates and _is_date(kind)))}:
        _check_needed(others, needed, path)
        notes += tuple(f"{name!r} left out: {kind} is no number, boolean or text" for name, kind in others.items())
    return {name: _values(column) for name, column in found.items() if name not in others}, notes


def _index_of(table: Any) -> set[str]:
    """Return the columns that are the index of a data frame: pandas names them, and has a name for one without.

    In a CSV that has no name, or "Unnamed: 0" once it was read and written again.
    """
    stated = (table.schema.pandas_metadata or {}).get("index_columns", ())  # a range is a dict instead of a column
    numbered = {
        name.strip() for name, column in zip(table.column_names, table.columns, strict=True)
        if _UNNAMED.match(name) and _numbers_rows(column)
    }  # fmt: skip
    named = {each.strip() for each in stated if isinstance(each, str)}
    return named | numbered | set(filter(_INDEX.match, table.column_names))


def _numbers_rows(column: Any) -> bool:
    """Return whether the values of a column are integers that count its rows from 0 or 1 on."""
    if column.null_count or not str(column.type).startswith("int"):
        return False
    values = column.to_numpy()
    return bool(values[0] in (0, 1) and (np.diff(values) == 1).all())


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]


def _csv(
    path: Path,
    texts: Collection[str],
    labels: str | None,
    verbatim: Collection[str],
    separator: str | None = None,
) -> Read:
    return read_delimited(path, separator, texts, labels, verbatim)


def _json_lines(path: Path, *_: Any) -> Read:
    from pyarrow import json

    return json.read_json(path, json.ReadOptions(block_size=BLOCK)), ()


def _parquet(path: Path, *_: Any) -> Read:
    from pyarrow import parquet

    return parquet.read_table(path), ()


_READERS: dict[str, Callable[[Path, Collection[str], str | None, Collection[str]], Read]] = {
    ".csv": _csv,
    ".tsv": partial(_csv, separator="\t"),
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}


def _plain(column: Any) -> Any:
    """Return a column without the dictionary in which a file may keep its values."""
    from pyarrow import types

    return column.cast(column.type.value_type) if types.is_dictionary(column.type) else column


def _has_values(kind: Any) -> bool:
    from pyarrow import types

    tests = (types.is_integer, types.is_boolean, types.is_floating, types.is_decimal, types.is_null)
    return _is_text(kind) or any(test(kind) for test in tests)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_date(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_timestamp(kind) or types.is_date(kind))


def _check_needed(others: Mapping[str, Any], needed: Collection[str], path: Path) -> None:
    for name, kind in others.items():
        if name in needed:
            raise DataError(
                f"Expected numbers, booleans or texts in column {name!r} of {path}, got {kind}; convert it."
            )


def _values(column: Any) -> np.ndarray:
    """Return a column that `_has_values` or `_is_date`."""
    from pyarrow import types

    kind = column.type
    if _is_text(kind):
        return np.array([*column.to_pylist(), None], object)[:-1]  # never an array of NumPy's strings
    whole = types.is_integer(kind) or types.is_boolean(kind)
    if _is_date(kind):
        return np.asarray(column.to_numpy()).astype("datetime64[us]")
    if types.is_floating(kind) or (whole and not column.null_count):
        return np.asarray(column.to_numpy())
    return np.array([np.nan if value is None else float(value) for value in column.to_pylist()])
