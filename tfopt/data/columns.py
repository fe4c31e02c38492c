"""Columns of table files: CSV, TSV, JSON lines and Parquet."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.reading import reading
from tfopt.data.check import check_bytes
from tfopt.data.delimited import BLOCK, read_delimited
from tfopt.errors import DataError

Columns = dict[str, np.ndarray]
Read = tuple[Any, tuple[str, ...]]


def is_table(path: Path) -> bool:
    """Return whether a file name says that it is a table, which may be packed as .gz."""
    return _suffix(path) in _READERS


def read_columns(path: Path, texts: Collection[str] = ()) -> tuple[Columns, tuple[str, ...]]:
    """Return the columns of a table, and notes on how it is read.

    Columns are int64, bool, float64 (NaN is missing) or objects: strings (None is missing).

    Args:
        path: of the file.
        texts: columns of a CSV whose values are texts even if they look like numbers.

    Raises:
        DataError: the file cannot be read, or its columns have no names, have other values, or take too much memory.
    """
    check_bytes(path.stat().st_size, str(path))
    with reading(lambda why: DataError(f"Expected a readable table, got {path}: {why}; correct the file.")):
        table, notes = _READERS[_suffix(path)](path, texts)
        names = [name.strip() for name in table.column_names]
    check_bytes(table.nbytes, str(path))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"Expected each column of {path} once, got {', '.join(twice)} several times; rename them.")
    if not table.num_rows:
        raise DataError(f"Expected rows in {path}, got none; add some.")
    if blanks := [name for name, given in zip(names, table.column_names, strict=True) if name != given]:
        notes += (f"blanks around the names of columns do not count: {', '.join(blanks)}",)
    return {name: _values(name, column, path) for name, column in zip(names, table.columns, strict=True)}, notes


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]


def _csv(path: Path, texts: Collection[str], separator: str | None = None) -> Read:
    return read_delimited(path, separator, texts)


def _json_lines(path: Path, texts: Collection[str]) -> Read:
    from pyarrow import json

    return json.read_json(path, json.ReadOptions(block_size=BLOCK)), ()


def _parquet(path: Path, texts: Collection[str]) -> Read:
    from pyarrow import parquet

    return parquet.read_table(path), ()


_READERS: dict[str, Callable[[Path, Collection[str]], Read]] = {
    ".csv": _csv,
    ".tsv": partial(_csv, separator="\t"),
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}


def _values(name: str, column: Any, path: Path) -> np.ndarray:
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_string(kind) or types.is_large_string(kind):
        return np.array([*column.to_pylist(), None], object)[:-1]  # never an array of NumPy's strings
    whole = types.is_integer(kind) or types.is_boolean(kind)
    if whole and not column.null_count:
        return np.asarray(column.to_numpy())
    if whole or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind):
        return np.array([np.nan if value is None else float(value) for value in column.to_pylist()])
    raise DataError(f"Expected numbers, booleans or texts in column {name!r} of {path}, got {kind}; convert it.")
