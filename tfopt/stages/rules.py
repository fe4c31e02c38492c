"""Ordered rules that say which layers a stage works on."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from tfopt.errors import RecipeError

Setting = bool | int | float
Rule = tuple[str, Setting]
"""A pattern and what holds for the layers it matches.

The pattern is compared with a layer's name and with its class name; `*` and `?` are wildcards. `False`
leaves the layer alone, `True` uses the stage's own setting, a number replaces it.
"""


def choose(rules: Iterable[Rule], layers: Iterable[Any], default: Mapping[str, Setting]) -> dict[str, Setting]:
    """Setting per layer name: the first rule that matches wins, else `default[name]`.

    Raises `RecipeError` for a rule that matches no layer, or only layers that an earlier rule took.
    """
    layers = list(layers)
    chosen: dict[str, Setting] = {}
    for pattern, setting in rules:
        matched = [layer.name for layer in layers if _matches(pattern, layer)]
        free = [name for name in matched if name not in chosen]
        if not matched:
            names = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in layers)
            raise RecipeError(
                f"The rule {(pattern, setting)} matches no layer. Layers it could match: {names}. "
                "Give a layer name, a class name, or a pattern such as 'conv2d*'."
            )
        if not free:
            raise RecipeError(
                f"The rule {(pattern, setting)} has no effect: earlier rules already cover "
                f"{', '.join(matched)}. Put it first, or remove it."
            )
        chosen.update(dict.fromkeys(free, setting))
    return {layer.name: chosen.get(layer.name, default[layer.name]) for layer in layers}


def _matches(pattern: str, layer: Any) -> bool:
    return fnmatchcase(layer.name, pattern) or fnmatchcase(type(layer).__name__, pattern)
