"""Old names of arguments: they work for one release, with a warning that gives the new name."""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from tfopt.errors import RecipeError

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


def under_new_names(given: Mapping[str, Any], names: Mapping[str, str], where: str, stacklevel: int) -> dict[str, Any]:
    """Return the arguments `given` under their new names, with a warning for each old one.

    Args:
        given: arguments by name.
        names: old name -> new name.
        where: the callee, for the messages.
        stacklevel: as for `warnings.warn`; 1 is the caller of this function.

    Raises:
        RecipeError: an argument is given under both names.
    """
    found = dict(given)
    for old, new in names.items():
        if old not in found:
            continue
        if new in found:
            raise RecipeError(f"{where} got both {new} and {old}, its old name. Leave out {old}.")
        warn_of(f"{where}({old}=...)", f"{where}({new}=...)", stacklevel + 1)
        found[new] = found.pop(old)
    return found


def warn_of(old: str, new: str, stacklevel: int) -> None:
    """Warn that `old` is now called `new`. `stacklevel` is as for `warnings.warn`; 1 is the caller of this function."""
    text = f"{old} is now {new}; the old name will be removed in 0.3.0."
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel + 1)


def renamed_arguments(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that lets a function accept keywords under their old names.

    Args:
        **names: old name -> new name.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def renaming(*args: P.args, **kwargs: P.kwargs) -> R:
            found: Any = under_new_names(kwargs, names, function.__name__, 2)
            return function(*args, **found)

        return renaming

    return decorate


def renamed_methods(**names: str) -> Callable[[type[C]], type[C]]:
    """Return a decorator that lets the methods of a class be called by their old names.

    Args:
        **names: old name -> new name.
    """

    def decorate(cls: type[C]) -> type[C]:
        for old, new in names.items():
            setattr(cls, old, _old_method(old, new))
        return cls

    return decorate


def _old_method(old: str, new: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        name = type(self).__name__
        warn_of(f"{name}.{old}", f"{name}.{new}", 2)
        return getattr(self, new)(*args, **kwargs)

    return method
