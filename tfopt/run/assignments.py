"""Change single settings of a recipe by their place in its JSON: stages.0.final_sparsity=0.7."""

import difflib
import json
from collections.abc import Iterable
from typing import Any

from tfopt.errors import RecipeError
from tfopt.run.recipe import Recipe


def with_assignments(recipe: Recipe, texts: Iterable[str]) -> Recipe:
    """Return `recipe` with other settings.

    Args:
        recipe: not changed.
        texts: PLACE=VALUE each. A place is a chain of names of the recipe.json, joined by points; a stage has its
            number or its name. A value is JSON (0.7, true, null, [1, 4]) or a bare word. The
            `epochs` of a stage also set its `min_steps` to 0, unless another text sets these.

    Raises:
        RecipeError: there is no such place, or the setting does not accept the value.
    """
    values = json.loads(recipe.to_json())
    settings = [_setting(text) for text in texts]
    for keys, value, place in settings:
        _assign(values, keys, value, place)
        if keys[0] == "stages" and keys[-1] == "epochs":
            fewest = [*keys[:-1], "min_steps"]
            if all(_resolved(values, other) != _resolved(values, fewest) for other, *_ in settings):
                _assign(values, fewest, 0, place)
    return Recipe.from_json(json.dumps(values))


def _setting(text: str) -> tuple[list[str], Any, str]:
    """Return the keys, the value and the place that `text` holds, as PLACE=VALUE."""
    place, mark, value = text.partition("=")
    if not mark or not place:
        raise RecipeError(f"Expected a setting as PLACE=VALUE, e.g. stages.0.epochs=2 or export.io=uint8; got {text}.")
    return place.split("."), _value(value), place


def _resolved(values: Any, keys: list[str]) -> list[Any] | None:
    """Return the indices that `keys` stand for; None if there is no such place."""
    found = []
    try:
        for key in keys:
            found.append(_index(values, key, ""))
            values = values[found[-1]]
    except RecipeError:
        return None
    return found


def _assign(values: Any, keys: list[str], value: Any, place: str) -> None:
    for number, key in enumerate(keys):
        index = _index(values, key, place)
        if number == len(keys) - 1:
            values[index] = value
        else:
            values = values[index]


def _index(values: Any, key: str, place: str) -> Any:
    """Return the index of `key` in a list or dict of the recipe."""
    if isinstance(values, list):
        names = [str(each.get("stage", number)) if isinstance(each, dict) else "" for number, each in enumerate(values)]
        known = {**{str(number): number for number in range(len(values))}, **_unique(names)}
    elif isinstance(values, dict):
        known = {name: name for name in values}
    else:
        raise RecipeError(f"The recipe has no setting {place}: nothing is below {values!r}.")
    if key not in known:
        near = difflib.get_close_matches(key, known, cutoff=0.6)
        said = f"the nearest to '{key}' is {near[0]}" if near else f"for '{key}', expected one of {', '.join(known)}"
        raise RecipeError(f"The recipe has no setting {place}: {said}.")
    return known[key]


def _unique(names: list[str]) -> dict[str, int]:
    return {name: names.index(name) for name in names if name and names.count(name) == 1}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
