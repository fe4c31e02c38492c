"""Windows of series as the `data.json` of a result states them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfopt.base.words import counted
from tfopt.data.beside import read_beside
from tfopt.data.dataset import Dataset
from tfopt.data.split import NAMES
from tfopt.data.windows import load_series

KEY = "series"
_NAMES = {"window", "horizon", "targets"}


def series_of(data: Dataset) -> dict[str, Any] | None:
    """Return how the windows of `data` were cut, as arguments of `load_series`; None for other data."""
    if data.forecast_columns is None:
        return None
    window, horizon = data.train.shape[0], data.train.labels.shape[1]
    return {"window": int(window), "horizon": int(horizon), "targets": list(data.forecast_columns)}


def series_beside(places: Iterable[Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the arguments of `load_series` that the first `data.json` beside `places` states, and a note on them.

    Args:
        places: paths of models, files and recipes; other objects state none.

    Raises:
        DataError: the statement cannot be read.
    """
    for place in places:
        stated = read_beside(place, KEY, _checked) if isinstance(place, str | Path) else None
        if stated:
            steps = f"windows of {counted(stated['window'], 'step')}, forecasts of {counted(stated['horizon'], 'step')}"
            return stated, f"{steps}, as data.json beside {place} says"
    return None, ""


def _checked(stated: Any, folder: Path) -> dict[str, Any] | None:
    del folder
    return stated if isinstance(stated, dict) and set(stated) == _NAMES else None


def stated_windows(path: Path, stated: dict[str, Any], limit: int | None) -> Dataset:
    """Return the windows of the series in the table at `path`, cut as `stated`.

    Args:
        path: of a table.
        stated: what `series_beside` returns.
        limit: the most windows in each part, spread over it.

    Raises:
        DataError: as `load_series`.
    """
    data = load_series(path, **stated)
    if limit is None:
        return data
    parts: dict[str, Any] = {name: data.split(name).some(limit) for name in NAMES}
    notes = [
        f"{name} limited to {limit:,} of {counted(len(data.split(name)), 'window')}, spread over all"
        for name in NAMES
        if limit < len(data.split(name))
    ]
    return replace(data, **parts, notes=(*data.notes, *notes))
