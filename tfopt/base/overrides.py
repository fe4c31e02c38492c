"""Attributes of a live object replaced for the duration of a block."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Overrides = list[tuple[Any, str, Any]]
"""(owner, attribute, value), e.g. a layer, "kernel" and the rounded weight."""


@contextmanager
def override_attributes(overrides: Overrides) -> Iterator[None]:
    """Set each (owner, attribute, value) inside the block. Bypass Keras, which would track the value."""
    missing = object()  # the attribute is then the class's
    before = [(owner, attribute, vars(owner).get(attribute, missing)) for owner, attribute, _ in overrides]
    try:
        for owner, attribute, value in overrides:
            object.__setattr__(owner, attribute, value)
        yield
    finally:
        for owner, attribute, value in reversed(before):
            if value is missing:
                object.__delattr__(owner, attribute)
            else:
                object.__setattr__(owner, attribute, value)
