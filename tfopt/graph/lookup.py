"""Find a layer of a graph by name or path."""

import difflib
from collections.abc import Iterable

from tfopt.base import keras_compat
from tfopt.errors import ModelError
from tfopt.graph.types import Graph, Leaf, is_layer


def named(graph: Graph, name: str, model: str) -> Leaf:
    """Return the layer of `graph` at the path `name`, or the only one of that name.

    Raises:
        ModelError: no layer has the name (the message lists the nearest ones), or several do.
    """
    leaves = [leaf for leaf in graph.leaves if is_layer(leaf.layer)]
    names = [keras_compat.unwrapped(leaf.layer).name for leaf in leaves]
    found = [leaf for leaf, own in zip(leaves, names, strict=True) if name in (leaf.path, own)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(
            f"'{name}' is the name of {len(found)} layers of '{model}'; give a path: "
            f"{', '.join(leaf.path for leaf in found)}"
        )
    raise missing(name, model, [*dict.fromkeys([*names, *(leaf.path for leaf in leaves)])])


def missing(name: str, model: str, names: Iterable[str]) -> ModelError:
    """Return the error for a layer `name` that `model` does not have; `names` are those it has."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"nearest: {', '.join(near)}" if near else f"it has: {', '.join(names)}"
    return ModelError(f"Model '{model}' has no layer '{name}' ({hint}).")
