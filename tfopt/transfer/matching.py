"""Matching of the layers of two models."""

import collections
import dataclasses
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tfopt.errors import ModelError
from tfopt.graph import keras_internals
from tfopt.graph.lookup import named
from tfopt.graph.types import Graph, Leaf, is_layer


@dataclasses.dataclass(frozen=True)
class Pair:
    """A layer of the target with the matching layer of the source, or None; `note` says why."""

    target: Leaf
    source: Leaf | None
    note: str = ""


def by_name(source: Graph, target: Graph) -> list[Pair]:
    """Return a pair for each layer of `target` that has weights, in calling order: matched by path, or by name.

    Generated names (`conv2d_7`) are numbered across a whole process. They are compared only if both models start at the
    same number for that class; otherwise layers with such names are matched by rank within their class.
    """
    ours, theirs = weighty(target), weighty(source)
    names: list[Callable[[Leaf], str]] = [operator.attrgetter("path"), operator.attrgetter("layer.name")]
    if {leaf.name for leaf in theirs} == {leaf.name for leaf in ours}:  # one may be the flat model of the other
        names.insert(1, operator.attrgetter("name"))
    found = [Pair(leaf, *_namesake(leaf, names, theirs, ours)) for leaf in ours]
    times = collections.Counter(id(pair.source) for pair in found if pair.source is not None)
    pairs = [_unshared(pair) if times[id(pair.source)] > 1 else pair for pair in found]
    taken = {id(pair.source) for pair in pairs if pair.source is not None}
    ranks, others = _ranks(ours), _ranks(theirs)
    return [_by_rank(pair, ranks, others, taken) for pair in pairs]


def by_order(source: Graph, target: Graph) -> list[Pair]:
    """Return pairs that match the k-th layer of a class with weights to the k-th of that class, in calling order."""
    of_kind: dict[str, list[Leaf]] = collections.defaultdict(list)
    for leaf in weighty(source):
        of_kind[kind(leaf)].append(leaf)
    seen: collections.Counter[str] = collections.Counter()
    pairs = []
    for leaf in weighty(target):
        own, number = kind(leaf), seen[kind(leaf)]
        seen[own] += 1
        if number < len(of_kind[own]):
            pairs.append(Pair(leaf, of_kind[own][number], f"{own} number {number + 1}"))
        else:
            pairs.append(Pair(leaf, None, f"the source has {len(of_kind[own])} layers of class {own}"))
    return pairs


def by_mapping(source: Graph, target: Graph, mapping: Mapping[str, str]) -> list[Pair]:
    """Return pairs according to `mapping`, from paths in `target` to paths in `source`; unique names also work.

    Raises:
        ModelError: unknown or ambiguous names, and layers without weights.
    """
    chosen = {id(_one(target, ours)): _one(source, theirs) for ours, theirs in mapping.items()}
    notes = ("not in the mapping", "by the mapping")
    return [Pair(leaf, chosen.get(id(leaf)), notes[id(leaf) in chosen]) for leaf in weighty(target)]


def weighty(graph: Graph) -> list[Leaf]:
    """Return the layers of `graph` that have weights, in calling order."""
    return [leaf for leaf in graph.leaves if is_layer(leaf.layer) and weights_of(leaf.layer)]


def weights_of(layer: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return (name, variable) of a layer and its nested layers, with their path; without seeds and tables."""
    found = [(prefix + _base(variable.name), variable) for variable in keras_internals.own_variables(layer)]
    for inner in keras_internals.sublayers(layer):
        found += weights_of(inner, f"{prefix}{_base(inner.name)}/")
    return list({id(variable): (name, variable) for name, variable in found}.values())


def kind(leaf: Leaf) -> str:
    """Return the class name of a layer; for a Keras 3 layer inside a tf_keras wrapper, that of the inner layer."""
    return type(getattr(leaf.layer, "operation", leaf.layer)).__name__


def _one(graph: Graph, name: str) -> Leaf:
    leaf = named(graph, name, graph.name)
    if not weights_of(leaf.layer):
        raise ModelError(
            f"Layer '{name}' of '{graph.name}' ({kind(leaf)}) has no weights: leave it out of the mapping."
        )
    return leaf


def _base(name: str) -> str:
    """Return a name without its path and without the numbers that Keras adds."""
    return re.sub(r"_\d+$", "", name.rpartition("/")[2].partition(":")[0])


def _number(leaf: Leaf) -> int | None:
    """Return the number in a generated name, 0 if it has none; None for a name that the user chose."""
    name = leaf.layer.name
    if _base(name).replace("_", "") != kind(leaf).replace("_", "").lower():
        return None
    return int(name[len(_base(name)) + 1 :] or 0)


def _namesake(
    leaf: Leaf, names: list[Callable[[Leaf], str]], theirs: list[Leaf], ours: list[Leaf]
) -> tuple[Leaf | None, str]:
    """Return the layer among `theirs` with the name of `leaf`, one of `ours`, or the reason there is none."""
    if _number(leaf) is not None:
        if _first_number(leaf, ours) != _first_number(leaf, theirs):
            return None, ""
        theirs = [other for other in theirs if kind(other) == kind(leaf)]
    for name in names:
        found = [other for other in theirs if name(other) == name(leaf)]
        if len(found) > 1:
            found = _most_alike(leaf, found)
        if len(found) == 1:
            return found[0], ""
        if found:
            return None, f"the source has {len(found)} layers of that name ({_listed(found)}): give a mapping"
    return None, "the source has no layer of that name"


def _first_number(leaf: Leaf, leaves: Iterable[Leaf]) -> int | None:
    """Return the lowest number that Keras gave to layers of the class of `leaf`."""
    numbers = [number for other in leaves if kind(other) == kind(leaf) and (number := _number(other)) is not None]
    return min(numbers, default=None)


def _most_alike(leaf: Leaf, found: list[Leaf]) -> list[Leaf]:
    """Return those of `found` whose paths share the longest suffix with `leaf`."""

    def alike(other: Leaf) -> int:
        ends = zip(reversed(leaf.path.split("/")), reversed(other.path.split("/")), strict=False)
        return next((place for place, (a, b) in enumerate(ends) if a != b), other.path.count("/") + 1)

    most = max(map(alike, found))
    return [other for other in found if alike(other) == most]


def _listed(leaves: list[Leaf]) -> str:
    return ", ".join(leaf.path for leaf in leaves)


def _ranks(leaves: list[Leaf]) -> dict[str, list[Leaf]]:
    """Return layers with generated names by class, sorted by number, which is the order of creation."""
    ranks: dict[str, list[tuple[int, int, Leaf]]] = collections.defaultdict(list)
    for place, leaf in enumerate(leaves):
        if (number := _number(leaf)) is not None:
            ranks[kind(leaf)].append((number, place, leaf))
    return {name: [leaf for *_, leaf in sorted(rows, key=lambda row: row[:2])] for name, rows in ranks.items()}


def _unshared(pair: Pair) -> Pair:
    """Return `pair`; unmatch it if its source shares a name with several target layers and a path with another."""
    if pair.source is None or pair.source.path == pair.target.path:
        return pair
    return Pair(pair.target, None, f"several layers here share the name of '{pair.source.path}': give a mapping")


def _by_rank(pair: Pair, ours: dict[str, list[Leaf]], theirs: dict[str, list[Leaf]], taken: set[int]) -> Pair:
    """Return `pair`; if it is unmatched and has a generated name, match it by rank."""
    if pair.source is not None or _number(pair.target) is None:
        return pair
    own = kind(pair.target)
    rank, others = ours[own].index(pair.target), theirs.get(own, [])
    if rank >= len(others) or id(others[rank]) in taken:
        return Pair(pair.target, None, f"the source has no matching {own} with an automatic name")
    return Pair(
        pair.target,
        others[rank],
        f"automatic names: matched as number {rank + 1} among the {own} layers with such names",
    )
