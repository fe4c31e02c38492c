"""Dates and times that are written as texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from tfopt.data.cells import is_missing

_DATE = re.compile(
    r"(?:(?P<year>\d{4})(?P<dash>[-/])(?P<month>\d{1,2})(?P=dash)(?P<day>\d{1,2})"
    r"|(?P<one>\d{1,2})(?P<dot>[-/.])(?P<other>\d{1,2})(?P=dot)(?P<last>\d{4}))"
    r"(?:[T ](?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?P<rest>\.\d+)?)?"
    r"(?P<zone>Z|[+-]\d{2}:?\d{2})?)?"
)
NO_DATE = np.datetime64("NaT", "us")


def are_dates(texts: Iterable[str | None]) -> bool:
    """Return whether all texts that are there are dates, with or without a time.

    They are written as 2024-01-31 or 2024/1/31, or with the year of four digits last, as 1/31/2024 and 31.1.2024.
    """
    present = {text for text in texts if text and not is_missing(text)}
    return bool(present) and all(map(_is_date, present))


def dates_in(texts: Sequence[str | None]) -> np.ndarray | None:
    """Return texts that are dates as datetime64[us], NaT for missing ones; None if days may be months.

    With the year last, days come first where a first number is above 12 or behind points, as in 31.1.2024, and months
    where a second one is. Else the order counts in which the distances between the dates differ less.
    """
    found = [None if not text or is_missing(text) else _DATE.fullmatch(text) for text in texts]
    parts = [each for each in found if each and each["one"]]
    first, second = (any(int(each[name]) > 12 for each in parts) for name in ("one", "other"))
    if any(each["dot"] == "." for each in parts) or not parts:
        first = True
    if first != second:
        return _dates(found, day_first=first)
    one, other = (_dates(found, day_first=each) for each in (True, False))
    if one is None or other is None or np.array_equal(one, other, equal_nan=True):
        return other if one is None else one
    kinds, of_other = (len(np.unique(np.diff(each))) for each in (one, other))
    return None if kinds == of_other else one if kinds < of_other else other


def _is_date(text: str) -> bool:
    found = _DATE.fullmatch(text)
    if not found:
        return False
    if found["year"]:
        return 0 < int(found["month"]) <= 12 and 0 < int(found["day"]) <= 31
    month, day = sorted((int(found["one"]), int(found["other"])))  # countries differ in their order
    return 0 < month <= 12 and day <= 31


def _dates(found: Sequence[re.Match[str] | None], *, day_first: bool) -> np.ndarray | None:
    """Return the dates of matches of `_DATE`; None if one is no day of the calendar."""
    try:
        return np.array([NO_DATE if each is None else _date(each, day_first) for each in found], "datetime64[us]")
    except ValueError:
        return None


def _date(found: re.Match[str], day_first: bool) -> np.datetime64:
    if found["year"]:
        year, month, day = found["year"], found["month"], found["day"]
    else:
        year, day, month = (
            found["last"],
            *(found[name] for name in (("one", "other") if day_first else ("other", "one"))),
        )
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    micro = round(float(found["rest"] or 0) * 1e6)
    moment = datetime(int(year), int(month), int(day), hour, minute, second, tzinfo=UTC) + timedelta(microseconds=micro)
    return np.datetime64((moment - _offset(found["zone"])).replace(tzinfo=None), "us")


def _offset(zone: str | None) -> timedelta:
    """Return how far a zone such as +02:00 is ahead of UTC; none is taken as UTC."""
    if zone in (None, "Z"):
        return timedelta(0)
    assert zone is not None
    ahead = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    return ahead if zone[0] == "+" else -ahead
