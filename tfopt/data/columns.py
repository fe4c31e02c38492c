"""Columns of table files: CSV, TSV, JSON lines and Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfopt.base.reading import reading
from tfopt.data.check import check_bytes
from tfopt.errors import DataError

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""What stands for a missing value in a CSV, unless it is quoted."""
_BLOCK = 2**26  # bytes; a column has the type that its values in the first block have
Columns = dict[str, np.ndarray]


def is_table(path: Path) -> bool:
    """Return whether a file name says that it is a table, which may be packed as .gz."""
    return _suffix(path) in _READERS


def read_columns(path: Path) -> Columns:
    """Return the columns of a table: int64, bool, float64 (NaN is missing) or objects: strings (None is missing).

    Raises:
        DataError: the file cannot be read, or its columns have no names, have other values, or take too much memory.
    """
    check_bytes(path.stat().st_size, str(path))
    with reading(lambda why: DataError(f"Expected a readable table, got {path}: {why}; correct the file.")):
        table = _READERS[_suffix(path)](path)
    check_bytes(table.nbytes, str(path))
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"Expected each column of {path} once, got {', '.join(twice)} several times; rename them.")
    if not table.num_rows:
        raise DataError(f"Expected rows in {path}, got none; add some.")
    return {name: _values(name, table.column(name), path) for name in names}


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]


def _delimited(delimiter: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from pyarrow import csv

        missing = csv.ConvertOptions(
            null_values=list(MISSING), strings_can_be_null=True, quoted_strings_can_be_null=False
        )
        rows = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        return csv.read_csv(path, csv.ReadOptions(block_size=_BLOCK), rows, missing)

    return read


def _json_lines(path: Path) -> Any:
    from pyarrow import json

    return json.read_json(path, json.ReadOptions(block_size=_BLOCK))


def _parquet(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(path)


_READERS = {".csv": _delimited(","), ".tsv": _delimited("\t"), ".jsonl": _json_lines, ".parquet": _parquet}


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
