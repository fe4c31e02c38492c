"""Checks of class names, and which numbers they stand for."""

import difflib
from collections.abc import Sequence
from typing import Any

from tfopt.errors import ModelError


def distinct(class_names: Sequence[str] | None, whose: str) -> tuple[str, ...] | None:
    """Return class names as a tuple; raise ModelError for duplicates."""
    if class_names is None:
        return None
    names = tuple(str(name) for name in class_names)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ModelError(f"The class names of {whose!r} contain {', '.join(twice)} more than once; rename one.")
    return names


def unknown_class(name: str, who: str, known: Sequence[str]) -> ModelError:
    """Return the error for a class unknown to a teacher, or to all of them."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(known)}"
    return ModelError(f"{who} not know the class '{name}' ({hint}). Give the classes the same names, or add a teacher.")


def are_numbers(class_names: Sequence[str]) -> bool:
    """Return whether all class names are whole numbers."""
    return all(name.lstrip("-").isdecimal() for name in class_names)


def require_renamed_in_place(given: Sequence[str], own: Sequence[str], whose: str) -> None:
    """Raise ModelError if `given`, for columns with the classes `own`, moves one of these to another column."""
    if are_numbers(own) or all(name not in own or name == old for name, old in zip(given, own, strict=False)):
        return
    raise ModelError(
        f"The columns of the teacher '{whose}' are its classes {', '.join(own)} in this order; got the class_names "
        f"{', '.join(given)}, in another. Leave class_names out; Teacher(estimator).for_classes(names) reorders them."
    )


def require_known_order(teacher: Any) -> None:
    """Raise ModelError if nobody said which class number each of a teacher's classes is.

    An estimator sorts its classes; the numbers of labels follow that order by chance only.

    Args:
        teacher: of class numbers without names, matched with names by `for_classes` if there are any.
    """
    names = teacher.class_names
    if names is None or teacher.order_is_stated or names == (numbers := tuple(map(str, range(len(names))))):
        return
    example = numbers if are_numbers(names) else (*names[1:], names[0])
    quoted = ", ".join(f'"{name}"' for name in example)
    raise ModelError(
        f"The teacher '{teacher.name}' has the classes {', '.join(names)}, the labels are numbers without names: which "
        f"class is 0, which is 1 is unknown. List the classes in the order of the numbers, such as "
        f"Teacher(estimator).for_classes([{quoted}]), or load data with class names."
    )
