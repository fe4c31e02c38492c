"""Configs: frozen, keyword-only, checked when they are made."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from tfopt.errors import RecipeError

C = TypeVar("C")

SETTINGS = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def config(cls: type[C]) -> type[C]:
    """Make `cls` a frozen, keyword-only pydantic dataclass that raises `RecipeError` for a bad value."""
    checked: Any = dataclass(cls, frozen=True, kw_only=True, config=SETTINGS)
    make: Callable[..., None] = checked.__init__

    @functools.wraps(make)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            make(self, *args, **kwargs)
        except ValidationError as error:
            raise RecipeError(explain(error, cls.__name__)) from error

    checked.__init__ = init
    made: type[C] = checked
    return made


def explain(error: ValidationError, where: str) -> str:
    """One line for pydantic's findings: where, what came, what was expected."""
    findings = [
        f"{'.'.join(str(part) for part in (where, *problem['loc']))} = {problem['input']!r}: {problem['msg']}"
        for problem in error.errors()
    ]
    return "; ".join(findings) + "."
