"""Ordered rules that select the layers a stage works on."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from tfopt.base.annotations import path_of
from tfopt.errors import RecipeError
from tfopt.graph.walk import caller_name

Setting = bool | int | float | str
Rule = tuple[str, Setting]
"""A pattern and the setting for the layers it matches.

The pattern is matched against a layer's name, its class name, and the path of a layer of a nested model, "inner/conv";
`*` and `?` are wildcards. A name without a path matches at any depth. A pattern with a slash is also matched against
"layer/kernel" for each kernel: "lstm/recurrent_kernel", "*/depthwise_kernel". `False` leaves the layer unchanged,
`True` uses the stage's own setting, a number replaces it.
"""

Key = tuple[str, str]
"""A kernel: the name of its layer, and its own name within that layer."""


def choose(rules: Iterable[Rule], layers: Iterable[Any], default: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the setting of each layer by name: that of the first matching rule, else `default[name]`.

    Raises:
        RecipeError: a rule matches no layer, or only layers that earlier rules match.
    """
    layers, rules = list(layers), list(rules)
    matches = {pattern: [layer.name for layer in layers if _matches(pattern, layer)] for pattern, _ in rules}
    chosen = _first_match(rules, matches, layers)
    return {layer.name: chosen.get(layer.name, default[layer.name]) for layer in layers}


def require_effect(rules: Iterable[Rule], layers: Iterable[Any], concerned: Collection[str], expected: str) -> None:
    """Raise RecipeError for a rule that matches none of the `concerned` layers, given by name, of all `layers`.

    Args:
        rules: each matches a layer, see `choose`.
        layers: those that the patterns are matched against.
        concerned: names of the layers that a rule can change.
        expected: what a rule should match, for the message.
    """
    layers = list(layers)
    for rule in rules:
        if not any(layer.name in concerned and _matches(rule[0], layer) for layer in layers):
            raise RecipeError(f"The rule {rule} has no effect: {expected}")


def ruled_kernels(rules: Iterable[Rule], layers: Iterable[tuple[Any, Iterable[Any]]]) -> dict[Key, Setting]:
    """Return the setting of each kernel that a rule matches, given layers with their kernels (`table.Kernel`).

    A rule for a layer applies to all its kernels. If a layer has both spared kernels and others, the spared ones are
    excluded: a rule must name them.

    Raises:
        RecipeError: as in `choose`.
    """
    pairs, rules = [(layer, tuple(kernels)) for layer, kernels in layers], list(rules)
    matches = {pattern: [*_matched_kernels(pattern, pairs)] for pattern, _ in rules}
    return _first_match(rules, matches, [layer for layer, _ in pairs])


def _matched_kernels(pattern: str, layers: list[tuple[Any, tuple[Any, ...]]]) -> Iterator[Key]:
    for layer, kernels in layers:
        whole = _matches(pattern, layer)
        only_spared = all(kernel.spared for kernel in kernels)
        for kernel in kernels:
            by_name = "/" in pattern and any(fnmatchcase(f"{name}/{kernel.name}", pattern) for name in _names(layer))
            if by_name or (whole and (only_spared or not kernel.spared)):
                yield layer.name, kernel.name


def _first_match(rules: list[Rule], matches: Mapping[str, list[Any]], layers: list[Any]) -> dict[Any, Setting]:
    chosen: dict[Any, Setting] = {}
    for pattern, setting in rules:
        matched = matches[pattern]
        free = [key for key in matched if key not in chosen]
        if not matched:
            names = ", ".join(f"{path_of(layer) or layer.name} ({type(layer).__name__})" for layer in layers)
            raise RecipeError(
                f"The rule {(pattern, setting)} matches no layer. Layers it could match: {names}. "
                "Give a layer name, a class name, a path, or a pattern such as 'conv2d*'."
            )
        if not free:
            covered = ", ".join(dict.fromkeys(key if isinstance(key, str) else key[0] for key in matched))
            raise RecipeError(
                f"The rule {(pattern, setting)} has no effect: earlier rules already cover {covered}. "
                "Put it first, or remove it."
            )
        chosen.update(dict.fromkeys(free, setting))
    return chosen


def _matches(pattern: str, layer: Any) -> bool:
    return any(fnmatchcase(name, pattern) for name in (*_names(layer), type(layer).__name__))


def _names(layer: Any) -> set[str]:
    """Return the names in the flat and in the caller's model, and the path there.

    The names differ next to a SeparableConv and for layers of nested models.
    """
    path = path_of(layer) or caller_name(layer.name)
    return {layer.name, path, path.rpartition("/")[2]}
