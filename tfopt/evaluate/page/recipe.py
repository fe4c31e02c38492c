"""The settings of a recipe as a flat table."""

from collections.abc import Iterator, Mapping
from typing import Any


def settings_of(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Return every setting by its place, as `tfopt run --set` takes it: {"stages.0.epochs": "6"}."""
    return dict(_flat(recipe, ""))


def _flat(part: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(part, Mapping) and part:
        for key, value in part.items():
            yield from _flat(value, f"{place}.{key}" if place else str(key))
    elif isinstance(part, list) and part and all(isinstance(value, Mapping) for value in part):
        for number, value in enumerate(part):
            yield from _flat(value, f"{place}.{number}")
    else:
        yield place, _written(part)


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return {None: "-", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)
