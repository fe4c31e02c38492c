"""Values in columns of tables: which are numbers, which are words, and which stand for a missing value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfopt.base.words import counted
from tfopt.errors import DataError

MARKS = frozenset(("na", "n/a", "#n/a", "n.a.", "nan", "<na>", "null", "none", "nil", "missing", "?", "-", "--", "."))
"""What stands for a missing value in a column of numbers, in lower case."""
_MOST = 0.5
"""A column of texts in which a larger share are numbers is one of numbers."""
_LARGEST = 1e30
"""Larger numbers, squared, are beyond float32."""


def as_texts(values: np.ndarray) -> list[str | None]:
    """Return the values of a column of categories as texts without blanks around them, None for missing ones.

    A whole number is written alike as an integer and as a float, which it is beside missing ones.
    """
    return [None if value is None or value != value else _as_text(value) for value in values.tolist()]


def _as_text(value: Any) -> str | None:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value).strip() or None


def as_numbers(name: str, values: np.ndarray, instead: str = "") -> np.ndarray:
    """Return the values of a column of numbers as float64 (n,), NaN for missing ones.

    Args:
        name: of the column.
        values: numbers, booleans, or texts (n,).
        instead: what else to do about words.

    Raises:
        DataError: a value is a word, infinite, or beyond 1e30; its row is named.
    """
    if values.dtype == object:
        texts = as_texts(values)
        found = {text: np.nan if _is_missing(text) else number_in(text or "") for text in set(texts)}
        if words := [row for row, text in enumerate(texts) if found[text] is None]:
            word, more = texts[words[0]] or "", f" and {counted(len(words) - 1, 'more word')}" if len(words) > 1 else ""
            advice = "write a decimal point and no other separator" if "," in word else "correct it"
            raise DataError(
                f"Expected numbers in column {name!r}, got {word!r} in row {words[0]:,}{more}; {advice}, or leave it "
                f"empty if it is missing{instead}."
            )
        values = np.array([found[text] for text in texts])
    values = values.astype(np.float64)
    if (large := np.abs(values) > _LARGEST).any():
        row = int(large.argmax())
        raise DataError(
            f"Expected numbers in column {name!r}, got {values[row]:g} in row {row:,}; correct or remove it."
        )
    return values


def if_numbers(name: str, values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return texts as numbers if more than half of them are, other values unchanged, and notes on missing ones.

    Raises:
        DataError: as `as_numbers`, for a column of numbers.
    """
    if values.dtype != object:
        as_numbers(name, values)
        return values, ()
    if not are_numbers(texts := as_texts(values)):
        return values, ()
    marks = Counter(text for text in texts if text and _is_missing(text))
    said = ", ".join(f"{mark!r} ({count:,})" for mark, count in marks.items())
    numbers = as_numbers(name, values, f", or make it one of categories: tfopt.inputs.Table(categories=({name!r},))")
    return numbers, (f"{name!r}: {said} taken as missing",) if said else ()


def are_numbers(texts: Iterable[str | None]) -> bool:
    """Return whether more than half of the texts that are there are numbers, or would be without their commas."""
    counts = Counter(text for text in texts if text and not _is_missing(text))
    numbers = sum(count for text, count in counts.items() if number_in(text.replace(",", "")) is not None)
    return numbers > _MOST * counts.total()


def number_in(text: str) -> float | None:
    """Return the number that a text is, None for a word."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _is_missing(text: str | None) -> bool:
    return text is None or text.lower() in MARKS
