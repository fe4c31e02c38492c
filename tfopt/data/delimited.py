"""CSV and TSV files: encoding, separator and quotes are checked before pyarrow reads them."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from tfopt.data.decimal_commas import have_decimal_commas, with_points
from tfopt.errors import DataError

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "null", "NULL", "None")
"""What stands for a missing value in a CSV, unless it is quoted."""
PADDED = r"^\s*([+-]?0|\+)\d+\s*$"
"""A whole number that is not written as it prints: with leading zeros, or a plus sign."""
BLOCK = 2**26  # bytes; a column has the type that its values in the first block have
_SEPARATORS = (",", ";", "\t", "|")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_HEAD = 2**16  # characters that show whether numbers have a decimal comma
_QUOTED = re.compile(r'(?<![^,;\t|\n])"(?:[^"]|"")*"')


def read_delimited(
    path: Path,
    separator: str | None,
    texts: Collection[str],
    labels: str | None = None,
    verbatim: Collection[str] = (),
) -> tuple[Any, tuple[str, ...]]:
    """Return a file of separated values as a table of pyarrow, and notes.

    Args:
        path: of the file, which may be packed as .gz; in UTF-8, or in UTF-16 with its mark.
        separator: of columns; None takes the one that gives the header the most columns.
        texts: columns whose values are texts even if they look like numbers.
        labels: a column whose values are texts if they are whole numbers written otherwise than these print, as "007".
        verbatim: columns of texts in which nothing stands for a missing value.

    Raises:
        DataError: the file is in another encoding, a quote in it is never closed, or a point may stand before decimals
            or between thousands.
    """
    from pyarrow import compute, string
    from pyarrow import csv as arrow

    with opened(path) as file:
        encoding = "utf-16" if file.read(2) in _UTF_16 else "utf-8-sig"
    odd_quotes = encoding != "utf-16" and _check_encoding(path)
    with opened(path) as file:
        head = io.TextIOWrapper(file, encoding).read(_HEAD)
    found = separator or _separator(head)
    if odd_quotes:
        _check_quotes(path, found)
    rows = list(csv.reader(io.StringIO(head), delimiter=found))
    names = rows[0] if rows else []
    whole_rows = rows[1:-1] if len(head) == _HEAD else rows[1:]
    decimal_comma = found == ";" and have_decimal_commas(whole_rows)
    convert = partial(
        arrow.ConvertOptions,
        null_values=list(MISSING),
        quoted_strings_can_be_null=False,
        decimal_point="," if decimal_comma else ".",
        column_types={name: string() for name in names if name.strip() in {*texts, *verbatim}},
    )
    reading = arrow.ReadOptions(block_size=BLOCK, encoding="utf-16" if encoding == "utf-16" else "utf8")
    alone = len(names) == 1  # then an empty line is a missing value
    parsing = arrow.ParseOptions(
        delimiter=found, newlines_in_values=True, invalid_row_handler=_of_blank_line, ignore_empty_lines=not alone
    )
    table = arrow.read_csv(path, reading, parsing, convert(strings_can_be_null=True))
    if alone:
        table = table.slice(0, len(table) - _empty_at_end(table.column(0)))
    for place, name in enumerate(table.column_names):
        if name.strip() == labels and _are_whole(table.column(place)):
            asked = convert(strings_can_be_null=True, include_columns=[name], column_types={name: string()})
            written = arrow.read_csv(path, reading, parsing, asked)[name]
            if compute.any(compute.match_substring_regex(written, PADDED)).as_py():
                table = table.set_column(place, name, written)
    if whole := [name for name in table.column_names if name.strip() in verbatim and names.count(name) == 1]:
        asked = convert(strings_can_be_null=False, include_columns=whole)  # for all columns of a reading alike
        for name, column in zip(whole, arrow.read_csv(path, reading, parsing, asked).columns, strict=True):
            table = table.set_column(table.column_names.index(name), name, column)
    notes = [f"columns are separated by {found!r}"] if found != (separator or ",") else []
    if decimal_comma:
        table, said = with_points(table, {*texts, *verbatim})
        notes += ["numbers have a decimal comma", *said]
    return table, tuple(notes)


def _are_whole(column: Any) -> bool:
    """Return whether a column of pyarrow has whole numbers only; pyarrow reads +1 as 1.0."""
    from pyarrow import compute, types

    if types.is_floating(column.type):
        return bool(compute.all(compute.equal(column, compute.round(column))).as_py())
    return bool(types.is_integer(column.type))


def opened(path: Path) -> BinaryIO:
    """Return a file, unpacked, open for reading."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def _separator(head: str) -> str:
    header = (_QUOTED.sub("", head).splitlines() or [""])[0]
    return max(_SEPARATORS, key=header.count)


def _empty_at_end(column: Any) -> int:
    """Return how many values at the end of a column are missing."""
    known = column.is_valid().to_numpy()
    return int(known[::-1].argmax()) if known.any() else len(known)


def _of_blank_line(row: Any) -> str:
    """Return what pyarrow does about a row with another number of values than the header."""
    return "error" if row.text.strip() else "skip"


def _check_encoding(path: Path) -> bool:
    """Return whether the file has an odd number of quotes. Raise `DataError` unless it is in UTF-8."""
    quotes = 0
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            quotes += line.count(b'"')
            try:
                line.decode()
            except UnicodeDecodeError as error:
                shown = line.decode("cp1252", "replace").strip()[:60]
                raise DataError(
                    f"Expected {path} in UTF-8, got other bytes in line {number:,}, which in Windows-1252 (Latin-1) "
                    f"reads {shown!r}. Save it as UTF-8; if that is right: iconv -f WINDOWS-1252 -t UTF-8."
                ) from error
    return quotes % 2 == 1


def _check_quotes(path: Path, separator: str) -> None:
    """Raise `DataError` if the rest of a file, from some quote on, would be one value."""
    with opened(path) as file:
        rows = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), delimiter=separator, strict=True)
        line = 1
        try:
            for _ in rows:
                line = rows.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"Expected every quote of {path} closed, got one from line {line:,} on that is not ({error}); close "
                'it, or write "" for a quote in a quoted value.'
            ) from error
