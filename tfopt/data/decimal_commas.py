"""Numbers with a decimal comma, as programs in many countries write them: 0,5 and 1.234,5."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import zip_longest
from typing import Any

from tfopt.data.cells import MARKS, is_missing
from tfopt.errors import DataError

_SIGN, _UNIT = r"^\s*[+-]?[$€£¥]?\s?", r"(?:[eE][+-]?\d+)?\s?[$€£¥%]?\s*$"
_THOUSANDS = r"[1-9]\d{0,2}(?:\.\d{3})+"
_COMMA = rf"{_SIGN}(?:\d+|{_THOUSANDS}),\d+{_UNIT}"
_MAYBE = rf"{_SIGN}[1-9]\d{{0,2}},\d{{3}}{_UNIT}"  # 1,234 may have a comma between thousands
_GROUPED = rf"{_SIGN}{_THOUSANDS}{_UNIT}"
_SEVERAL = rf"{_SIGN}[1-9]\d{{0,2}}(?:\.\d{{3}}){{2,}}{_UNIT}"
_WHOLE = rf"{_SIGN}\d+{_UNIT}"
_LONG = rf"{_SIGN}\d{{4,}}{_UNIT}"
_POINT = rf"{_SIGN}(?:\d*\.\d+|\d+\.|\d{{1,3}}(?:,\d{{3}})+\.\d*){_UNIT}"
_NUMBER = rf"{_COMMA}|{_GROUPED}|{_WHOLE}"


def have_decimal_commas(rows: Iterable[list[str]]) -> bool:
    """Return whether the numbers in `rows` of cells have a decimal comma.

    A column of them decides, in which most cells are such numbers and none has a decimal point. Whatever other columns
    have does not matter, such as dates and versions, unless all commas may stand between thousands.
    """
    columns = [[cell for cell in column if not is_missing(cell.strip())] for column in zip_longest(*rows, fillvalue="")]
    found = [column for column in columns if _has_commas(column)]
    if any(re.match(_COMMA, cell) and not re.match(_MAYBE, cell) for column in found for cell in column):
        return True
    return bool(found) and not any(map(_is_point, (cell for column in columns for cell in column)))


def _has_commas(column: list[str]) -> bool:
    numbers = sum(bool(re.match(_NUMBER, cell)) for cell in column)
    commas = any(re.match(_COMMA, cell) for cell in column)
    return commas and 2 * numbers > len(column) and not any(map(_is_point, column))


def _is_point(cell: str) -> bool:
    return bool(re.match(_POINT, cell)) and not re.match(_GROUPED, cell)


def with_points(table: Any, texts: Collection[str]) -> tuple[Any, tuple[str, ...]]:
    """Return a table of pyarrow whose numbers have a decimal comma, with a point in those that are texts, and notes.

    pyarrow leaves columns of numbers as texts in which one has points between thousands, or a unit.

    Args:
        table: read with a decimal comma.
        texts: columns that stay unchanged.

    Raises:
        DataError: a point may stand between thousands or before decimals.
    """
    from pyarrow import types

    notes: list[str] = []
    for place, name in enumerate(table.column_names):
        if types.is_string(table.column(place).type) and name.strip() not in texts:
            column, said = _with_points(name.strip(), table.column(place))
            table = table.set_column(place, name, column)
            notes += said
    return table, tuple(notes)


def _with_points(name: str, column: Any) -> tuple[Any, list[str]]:
    """Return a column of texts, with a decimal point if they are numbers, and notes."""
    from pyarrow import array, compute

    trimmed = compute.utf8_lower(compute.utf8_trim_whitespace(column))
    present = compute.if_else(compute.is_in(trimmed, array([*sorted(MARKS), ""])), None, column)

    def those(pattern: str) -> Any:
        return compute.fill_null(compute.match_substring_regex(present, pattern), False)

    def some(pattern: str) -> str | None:
        found: str | None = next(iter(compute.filter(column, those(pattern)).slice(0, 1).to_pylist()), None)
        return found

    count = len(present) - present.null_count
    grouped, commas = those(_GROUPED), those(_COMMA)
    points = compute.and_not(those(_POINT), grouped)
    if compute.any(points).as_py():
        numbers = 2 * compute.sum(compute.or_(points, those(_WHOLE))).as_py() > count
        return column, [f"numbers in {name!r} have a decimal point"] if numbers else []
    separated = compute.or_(grouped, commas)
    if not compute.any(separated).as_py() or 2 * compute.sum(those(_NUMBER)).as_py() <= count:
        return column, []
    if (long := some(_LONG)) and not (some(_COMMA) or some(_SEVERAL)):
        raise DataError(
            f"Expected the numbers in column {name!r} written alike, got {some(_GROUPED)!r} and {long!r}: the point "
            "may stand before decimals or between thousands. Write all without a point between thousands, and decimals "
            "with a comma as in the other columns."
        )
    plain = compute.replace_substring(compute.replace_substring(column, ".", ""), ",", ".")
    shown = some(r"\d\.\d{3}") or some(_COMMA) or ""
    number = shown.strip().replace(".", "").replace(",", ".")
    note = f"{name!r}: {shown.strip()!r} is read as the number {number}, since numbers have a decimal comma"
    return compute.if_else(separated, plain, column), [note]
