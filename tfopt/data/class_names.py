"""The names of classes: one for each, distinct, and each on one line."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from tfopt.errors import DataError
from tfopt.tasks import Several, Task

_BREAKS = ("Cc", "Zl", "Zp")
"""Categories of Unicode: control characters, and separators of lines and paragraphs."""


def check_names(names: Sequence[str]) -> None:
    """Raise `DataError` for names that look the same, or that have characters which no line of `labels.txt` holds."""
    seen: dict[str, str] = {}
    for name in names:
        if broken := [each for each in name if unicodedata.category(each) in _BREAKS]:
            raise DataError(
                f"Expected names of classes that fit on one line, got {name!r} with {broken[0]!a}; rename the "
                "class without line breaks, tabs and other control characters."
            )
        key = unicodedata.normalize("NFC", name.strip()).casefold()
        if key in seen:
            raise DataError(
                f"Expected a distinct name for each class, got {seen[key]!r} and {name!r}; rename or merge them."
            )
        seen[key] = name


def check_count(names: Sequence[str], number: int) -> None:
    """Raise `DataError` unless there is a name for each of `number` classes."""
    if len(names) == number:
        return
    first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    raise DataError(
        f"Expected a name for each of {number:,} classes in the labels, got {len(names):,} ({first}); correct the "
        "names, or leave them out."
    )


def names_of_classes(names: tuple[str, ...] | None, task: Task) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Return the names of the classes of a task, and a note if it has none.

    Raises:
        DataError: there are more names than classes, or fewer.
    """
    if names is None:
        return None, ()
    if task.num_classes is not None:
        check_count(names, task.num_classes)
        return names, ()
    why = "there are several outputs" if isinstance(task, Several) else "the labels are values"
    return None, (f"class names left out, since {why}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}",)
