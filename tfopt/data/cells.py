"""Values in columns of tables: which are numbers, which are words, and which stand for a missing value."""

from __future__ import annotations

import re
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
_WRITTEN = re.compile(r"([+-]?)([$€£¥]?)\s?(\d[\d,]*(?:\.\d*)?|\.\d+)\s?([$€£¥%]?)")
_GROUPED = re.compile(r"[1-9]\d{0,2}(,\d{3})+(\.\d*)?")


def as_texts(values: np.ndarray) -> list[str | None]:
    """Return the values of a column of categories as texts without blanks around them, None for missing ones.

    A whole number is written alike as an integer and as a float, which it is beside missing ones.
    """
    return [None if value is None or value != value else _as_text(value) for value in values.tolist()]


def _as_text(value: Any) -> str | None:
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value).strip() or None


def as_objects(values: np.ndarray) -> np.ndarray:
    """Return texts, bytes (as UTF-8) or dates (n,) as texts, None for a missing date; an object array (n,)."""
    if values.dtype.kind == "M":
        texts = np.datetime_as_string(values).astype(object)
        texts[np.isnat(values)] = None
        return np.asarray(texts)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    return values.astype(object)


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
        plain = plain_numbers(texts)
        found = {text: np.nan if is_missing(text) else number_in(plain.get(text, "")) for text in set(texts)}
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
    """Return texts as numbers if more than half of them are, other values unchanged, and notes.

    The notes are on missing values, on units and separators, and on what keeps a column from being one of numbers.

    Raises:
        DataError: as `as_numbers`, for a column of numbers.
    """
    if values.dtype != object:
        as_numbers(name, values)
        return values, ()
    if not are_numbers(texts := as_texts(values)):
        return values, _almost_numbers(name, texts)
    marks = Counter(text for text in texts if text and is_missing(text))
    said = ", ".join(f"{mark!r} ({count:,})" for mark, count in marks.items())
    numbers = as_numbers(name, values, f", or make it one of categories: tfopt.inputs.Table(categories=({name!r},))")
    return numbers, (*([f"{name!r}: {said} taken as missing"] if said else []), *rewritten(name, texts))


def are_numbers(texts: Iterable[str | None]) -> bool:
    """Return whether more than half of the texts that are there are numbers, or would be without their commas.

    Units such as % and $ do not matter where all texts have the same one.
    """
    counts = Counter(text for text in texts if text and not is_missing(text))
    plain = plain_numbers(counts)
    numbers = sum(count for text, count in counts.items() if number_in(plain[text].replace(",", "")) is not None)
    return numbers > _MOST * counts.total()


def plain_numbers(texts: Iterable[str | None]) -> dict[str | None, str]:
    """Return the texts that are there, without the unit that all share, and without commas between thousands.

    Commas go if they can be nothing else: one number has two, or a point after it, and all have them in every place.
    """
    present = {text for text in texts if text and not is_missing(text)}
    matches = {text: _WRITTEN.fullmatch(text) for text in present}
    parts = {text: found.groups() for text, found in matches.items() if found}
    if len(parts) < len(present) or len({(before, after) for _, before, _, after in parts.values()}) > 1:
        return {text: text for text in present}
    numbers = {text: number for text, (_, _, number, _) in parts.items()}
    if _have_thousands(numbers.values()):
        numbers = {text: number.replace(",", "") for text, number in numbers.items()}
    return {text: parts[text][0] + number for text, number in numbers.items()}


def _have_thousands(numbers: Iterable[str]) -> bool:
    grouped = [number for number in numbers if "," in number]
    others = [number for number in numbers if "," not in number]
    sure = any(number.count(",") > 1 or "." in number for number in grouped)
    return sure and all(map(_GROUPED.fullmatch, grouped)) and all(float(number) < 1000 for number in others)


def rewritten(name: str, texts: Iterable[str | None]) -> tuple[str, ...]:
    """Return a note if the texts of a column of numbers are read without their unit or commas."""
    changed = {text: plain for text, plain in plain_numbers(texts).items() if plain != text}
    if not changed:
        return ()
    text, plain = max(changed.items(), key=lambda each: (len(each[0] or ""), each))
    return (f"{name!r}: {text!r} is read as the number {plain}, and the others alike",)


def _almost_numbers(name: str, texts: Iterable[str | None]) -> tuple[str, ...]:
    """Return a note if most texts are numbers with a unit, but not all with the same."""
    counts = Counter(text for text in texts if text and not is_missing(text))
    found = {text: match.groups() for text in counts if (match := _WRITTEN.fullmatch(text))}
    if sum(counts[text] for text in found) <= _MOST * counts.total():
        return ()
    units = Counter({text: (before, after) for text, (_, before, _, after) in found.items()}.values())
    usual = units.most_common(1)[0][0]
    shown = next(text for text, (_, before, _, after) in found.items() if (before, after) == usual)
    odd = next(text for text in counts if text not in found or found[text][1::2] != usual)
    return (f"{name!r} is read as categories, since {odd!r} is not written as {shown!r} is: write all as numbers",)


def number_in(text: str) -> float | None:
    """Return the number that a text is, None for a word."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def is_missing(text: str | None) -> bool:
    """Return whether a cell has no value, or a mark for that."""
    return text is None or text.lower() in MARKS
