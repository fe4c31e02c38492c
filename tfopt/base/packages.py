"""Packages that tfopt needs for some files only."""

from __future__ import annotations

import importlib

from tfopt.errors import DataError


def require_package(name: str, what: str) -> None:
    """Raise `DataError` if the package `name`, which reads `what`, cannot be imported."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise DataError(f"Cannot read {what} without {name} ({error}): pip install {name}.") from error
