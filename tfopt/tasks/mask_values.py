"""Which values of masks stand for classes."""

from collections.abc import Sequence

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
    if largest == UNLABELED and gapless and len(rest) > 1:
        raise DataError(
            f"Expected a class for each pixel, got the values 0 to {rest[-1]} and {UNLABELED} in {what}: {UNLABELED} "
            "usually stands for pixels that are not labeled, for which a model has no output. Give them a class in the "
            f"masks, such as 0 or {len(rest)}; if {UNLABELED} is a class, name all values: "
            f"load_data(..., mask_values=({', '.join(map(str, rest[:3]))}{', ...' if len(rest) > 3 else ''}, "
            f"{UNLABELED}))."
        )


def require_values(values: Sequence[int]) -> None:
    """Raise `DataError` unless `values` can be the values of masks by class: distinct integers of 0 or above."""
    whole = all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)
    if not values or not whole or len(set(values)) < len(values):
        raise DataError(
            f"Expected mask_values as distinct integers of 0 or above, by class, such as (0, 255), got {values!r:.80}."
        )
