"""Which values of masks stand for classes."""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from tfopt.errors import DataError

UNLABELED = 255
"""The value that usually stands for pixels without a label; beside 0 alone, for the second class."""
BLACK_AND_WHITE = (0, UNLABELED)
_MOST_VALUES = 64


def require_classes(values: Sequence[int], what: str) -> None:
    """Raise `DataError` for values of masks that cannot all be classes.

    Args:
        values: distinct ones, in order.
        what: has them, in messages.
    """
    *rest, largest = values
    gapless = rest == list(range(len(rest)))
    if len(values) > _MOST_VALUES and (largest == UNLABELED or not gapless or largest != len(rest)):
        raise DataError(
            f"Expected masks whose values are classes, got {len(values):,} values in {what}: edges that were smoothed "
            "when they were drawn or resized have such values. Save masks without smoothing and resize them by the "
            "nearest pixel; if each value is a class, name all: load_data(..., mask_values=...)."
        )
    if largest == UNLABELED and len(rest) > 1:
        unused = next(value for value in (rest[-1] + 1, *range(UNLABELED)) if value not in values)
        shown = ", ".join(map(str, rest[:5])) + (", ..." if len(rest) > 5 else "")
        raise DataError(
            f"Expected a class for each pixel, got the values {shown} and {UNLABELED} in {what}: {UNLABELED} usually "
            "stands for pixels that are not labeled, for which a model has no output. Give them a class in the masks, "
            f"such as {rest[0]} or {unused}; if {UNLABELED} is a class, name all values: load_data(..., "
            f"mask_values=({shown}, {UNLABELED}))."
        )


def checked_values(values: Any) -> tuple[int, ...]:
    """Return `values` by class as integers; raise `DataError` unless they are distinct integers of 0 or above."""
    found: list[Any] = list(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes) else [None]
    whole = all(isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0 for value in found)
    if not found or not whole or len(set(found)) < len(found):
        raise DataError(
            f"Expected mask_values as distinct integers of 0 or above, by class, such as (0, 255), got {values!r:.80}."
        )
    return tuple(map(int, found))
