"""Checks of class names."""

import difflib
from collections.abc import Sequence

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
