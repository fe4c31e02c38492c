"""Attributes of a live object replaced for the duration of a block."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Overrides = list[tuple[Any, str, Any]]
"""(owner, attribute, value), e.g. a layer, "kernel" and the rounded weight."""

_MISSING = object()  # the attribute is then the class's


@contextmanager
def override_attributes(overrides: Overrides) -> Iterator[None]:
    """Set each (owner, attribute, value) inside the block. Bypass Keras, which would track the value."""
    before = [(owner, attribute, vars(owner).get(attribute, _MISSING)) for owner, attribute, _ in overrides]
    try:
        for owner, attribute, value in overrides:
            object.__setattr__(owner, attribute, value)
        yield
    finally:
        for owner, attribute, value in reversed(before):
            if value is _MISSING:
                object.__delattr__(owner, attribute)
            else:
                object.__setattr__(owner, attribute, value)


@contextmanager
def override_in_thread(overrides: Overrides) -> Iterator[None]:
    """Do what `override_attributes` does for the current thread; others see the values outside the block.

    The replicas of tf.distribute on one machine are threads that take turns within the call of a layer, so that each
    would see, and restore, the values of another one.
    """
    values = _own_values()
    before = dict(values)
    for owner, attribute, value in overrides:
        _look_up_by_thread(owner, attribute)
        values[id(owner), attribute] = value
    try:
        yield
    finally:
        values.clear()
        values.update(before)


_LOCAL = threading.local()


def _own_values() -> dict[tuple[int, str], Any]:
    """Return the values of the current thread, by the id of an owner, which lives, and the attribute."""
    return vars(_LOCAL).setdefault("values", {})  # type: ignore[no-any-return]


class _ByThread:
    """A descriptor: the value of the current thread, else that of the object, else that of its class."""

    def __init__(self, attribute: str, of_class: Any) -> None:
        self._attribute, self._of_class = attribute, of_class

    def __get__(self, owner: Any, kind: type) -> Any:
        if owner is None:
            return self._of_class
        for values, key in ((_own_values(), (id(owner), self._attribute)), (vars(owner), self._attribute)):
            if key in values:
                return values[key]  # type: ignore[index]
        if self._of_class is _MISSING:
            raise AttributeError(f"'{kind.__name__}' object has no attribute '{self._attribute}'")
        found = self._of_class
        return found.__get__(owner, kind) if hasattr(found, "__get__") else found

    def __set__(self, owner: Any, value: Any) -> None:
        vars(owner)[self._attribute] = value

    def __delete__(self, owner: Any) -> None:
        del vars(owner)[self._attribute]


def _look_up_by_thread(owner: Any, attribute: str) -> None:
    """Give `owner` a class of the same name that finds `attribute` by thread."""
    kind = type(owner)
    if any(isinstance(vars(base).get(attribute), _ByThread) for base in kind.__mro__):
        return
    of_class = next((vars(base)[attribute] for base in kind.__mro__ if attribute in vars(base)), _MISSING)
    body = {attribute: _ByThread(attribute, of_class), "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    object.__setattr__(owner, "__class__", type(kind.__name__, (kind,), body))
