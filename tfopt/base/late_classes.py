"""Layer classes that are made on first use, and the names that model files have for them: "tfopt>Name"."""

from collections.abc import Callable
from typing import Any

_MAKERS: dict[str, Callable[[], Any]] = {}


def provide(name: str, make: Callable[[], Any]) -> None:
    """Register a function that makes the class "tfopt>`name`" and registers it in tf_keras."""
    _MAKERS[f"tfopt>{name}"] = make


def ensure(name: str) -> None:
    """Make the class of this full name, if it is one of these."""
    if name in _MAKERS:
        _MAKERS[name]()


def ensure_all() -> None:
    """Make all classes."""
    for make in _MAKERS.values():
        make()
