"""Packages that tfopt needs for some files only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tfopt.errors import DataError


@contextmanager
def importing(name: str, what: str) -> Iterator[None]:
    """Raise `DataError` if the block, which imports the package `name` to read `what`, cannot."""
    try:
        yield
    except ImportError as error:
        raise DataError(f"Cannot read {what} without {name} ({error}): pip install {name}.") from error
