"""Configs: frozen, keyword-only, validated on construction."""

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from tfopt.base.renamed import under_new_names, warn_of
from tfopt.errors import RecipeError

C = TypeVar("C")

MOST_SHOWN = 80
"""Characters of a wrong value that a message shows."""
SETTINGS = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def config(cls: type[C]) -> type[C]:
    """Make `cls` a frozen, keyword-only pydantic dataclass that raises `RecipeError` for a bad value.

    A class variable `renamed` (old name -> new name) keeps old field names working as arguments, in a recipe.json and
    as attributes, each with a DeprecationWarning.

    Examples:
        >>> @tfopt.extend.config
        ... class Settings:
        ...     rate: float = 0.5
        >>> Settings(rate=0.25)
        Settings(rate=0.25)
        >>> Settings(rat=0.25)
        Traceback (most recent call last):
        tfopt.errors.RecipeError: Settings.rat = 0.25: there is no such setting; the nearest one is rate.
    """
    names: Mapping[str, str] = vars(cls).get("renamed", {})
    if names:
        _accept_old_names(cls, names)
    checked: Any = dataclass(cls, frozen=True, kw_only=True, config=SETTINGS)
    make: Callable[..., None] = checked.__init__

    @functools.wraps(make)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if args:
            first = next((field.name for field in fields(checked)), "name")
            raise RecipeError(
                f"{cls.__name__} takes its settings by name, as in {cls.__name__}({first}=...); got "
                f"{shortened(repr(args[0]))} without one."
            )
        try:
            make(self, **kwargs)
        except ValidationError as error:
            raise RecipeError(explain(error, cls.__name__, [field.name for field in fields(checked)])) from error

    checked.__init__ = init
    made: type[C] = checked
    return made


def _accept_old_names(cls: Any, names: Mapping[str, str]) -> None:
    """Let the config `cls` be made and read under old names, by a validator: pydantic makes nested configs of dicts."""

    def rename(cls: type, values: Any) -> Any:
        if isinstance(values, ArgsKwargs):
            given = under_new_names(values.kwargs or {}, names, cls.__name__, 4)  # skips pydantic's frames
            return ArgsKwargs(values.args, given)
        return under_new_names(values, names, cls.__name__, 2) if isinstance(values, Mapping) else values

    validator: Any = classmethod(rename)
    cls.under_new_names = model_validator(mode="before")(validator)
    for old, new in names.items():
        setattr(cls, old, property(functools.partial(_old_attribute, old=old, new=new)))


def _old_attribute(made: Any, old: str, new: str) -> Any:
    name = type(made).__name__
    warn_of(f"{name}.{old}", f"{name}.{new}", 2)
    return getattr(made, new)


# What pydantic found, by the beginning of its kind -> what was expected, with its own terms in braces.
_EXPECTED = {
    "greater_than_equal": "expected a number of at least {ge}",
    "greater_than": "expected a number above {gt}",
    "less_than_equal": "expected a number of at most {le}",
    "less_than": "expected a number below {lt}",
    "finite_number": "expected a finite number",
    "literal_error": "expected {expected}",
    "unexpected_keyword_argument": "there is no such setting",
    "missing": "this setting is missing",
    "dataclass_type": "expected a {class_name}",
    "is_instance_of": "expected a {class}",
    "int_": "expected a whole number",
    "float_": "expected a number",
    "bool_": "expected True or False",
    "string_": "expected a text",
    "tuple_": "expected a list or tuple",
    "list_": "expected a list or tuple",
    "dict_": "expected a dict",
}


def explain(error: ValidationError, where: str, names: Iterable[str] = ()) -> str:
    """Return pydantic's findings in one line: where, what came, what was expected.

    Args:
        error: what pydantic raised.
        where: the name of what was checked.
        names: of its settings, to suggest one for a name that does not exist.
    """
    by_place: dict[str, list[Any]] = {}
    for problem in error.errors():
        place = ".".join(str(part) for part in (where, *problem["loc"]) if not _of_union(part))
        by_place.setdefault(place, []).append(problem)
    return "; ".join(_finding(place, problems, names) for place, problems in by_place.items()) + "."


def _of_union(part: Any) -> bool:
    """Return whether a part of a place is no name or number, but one of the types that a setting may have."""
    return isinstance(part, str) and bool(re.fullmatch(r"str|int|float|bool|\w+\[.*", part))


def _finding(place: str, problems: Sequence[Any], names: Iterable[str]) -> str:
    """Return what is wrong at a place, for which each type that a setting may have gives a problem."""
    problem = problems[0]
    expected = ", or ".join(dict.fromkeys(map(_expected, problems))).replace(", or expected ", ", or ")
    if isinstance(problem["input"], ArgsKwargs):  # all arguments, where one is missing
        return f"{place}: {expected}"
    if problem["type"] == "unexpected_keyword_argument" and len(problem["loc"]) == 1:
        near = difflib.get_close_matches(str(problem["loc"][0]), [*names], n=1)
        expected += f"; the nearest one is {near[0]}" if near else ""
    return f"{place} = {shortened(repr(problem['input']))}: {expected}"


def shortened(text: str) -> str:
    """Return `text`, cut in the middle if it is long."""
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 20]} ... {text[-15:]}"


def _expected(problem: Any) -> str:
    words = next((words for kind, words in _EXPECTED.items() if problem["type"].startswith(kind)), None)
    text = words.format(**problem.get("ctx", {})) if words else problem["msg"]
    return str(text).removeprefix("Value error, ").rstrip(".")
