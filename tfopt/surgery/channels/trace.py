"""The channels of every tensor of a graph, and the places in weights and settings that belong to them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfopt.graph.types import Call, Graph, Leaf, Ref, is_layer, refs_in
from tfopt.surgery.channels.atoms import FIXED, Array, Atoms

Labels = dict[int, Array]
"""The channels along axes of a tensor, the batch axis being 0. Axes without an entry have a size that stays."""
Kept = Callable[[Array], np.ndarray]
"""Maps channels to whether each stays, bool in the same shape."""


@dataclass(frozen=True, eq=False)
class Slot:
    """An axis of a weight whose slices belong to channels.

    Attributes:
        leaf: the layer.
        index: of the weight in `layer.weights`.
        axis: of the weight, 0 or more.
        atoms: the channels, one for each slice.
        makes: whether these slices make the channels, rather than read or scale them.
    """

    leaf: Leaf
    index: int
    axis: int
    atoms: Array
    makes: bool = False


@dataclass(frozen=True, eq=False)
class Work:
    """Multiplications of one call: `times` multiplied by the number of channels of each factor."""

    leaf: Leaf
    times: int
    factors: tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class Barrier:
    """Why channels stay: their `roots`, and the `atoms` that were tied to these at that time."""

    why: str
    roots: Array
    atoms: Array


@dataclass
class Trace:
    """What is known of the channels of `graph`; the rules fill it in, call by call.

    Attributes:
        graph: of a model of either Keras.
        slots: by the name of the layer, number of the weight, and axis.
        settings: functions to the values of settings, by layer name and setting.
        barriers: why channels stay.
        renormalized: calls whose statistics change.
        scaled: channels by layer and number of a weight, which is multiplied by the root of the share that stays.
        nonzero: tensors in which channels are not zero when the weights that make them are, as behind a sigmoid.
        sizes: shapes of tensors for inputs of free size, as measured with `FREE_SIZE`.
        through_norms: whether channels may leave a normalization over channels, which then has other statistics.
    """

    graph: Graph
    through_norms: bool = False
    atoms: Atoms = field(default_factory=Atoms)
    labels: dict[Ref, Labels] = field(default_factory=dict)
    slots: dict[tuple[str, int, int], Slot] = field(default_factory=dict)
    settings: dict[str, dict[str, Callable[[Kept], Any]]] = field(default_factory=dict)
    works: list[Work] = field(default_factory=list)
    barriers: list[Barrier] = field(default_factory=list)
    renormalized: list[Call] = field(default_factory=list)
    scaled: dict[tuple[str, int], Array] = field(default_factory=dict)
    nonzero: set[Ref] = field(default_factory=set)
    sizes: dict[Ref, tuple[int, ...]] = field(default_factory=dict)
    _inputs: dict[str, list[Labels]] = field(default_factory=dict)
    _opened: dict[tuple[str, str], Array] = field(default_factory=dict)

    def of(self, ref: Any) -> Labels:
        """Return the channels of a tensor, as a new dict."""
        return dict(self.labels.get(ref, {})) if isinstance(ref, Ref) else {}

    def size(self, ref: Ref, axis: int) -> int:
        """Return the size of an axis of a tensor for counts of multiplications."""
        return int(self.sizes.get(ref, sizes_of(ref))[axis] or 1)

    def places(self, ref: Ref, *skipped: int) -> int:
        """Return how many positions a tensor has without the batch axis and the axes `skipped`."""
        return positions(self.sizes.get(ref, sizes_of(ref)), *skipped)

    def tie_calls(self, call: Call) -> None:
        """Tie the inputs of a layer with weights or sizes together over all of its calls."""
        leaf, now = call.leaf, [self.of(ref) for ref in tensors(call)]
        if not is_layer(leaf.layer) or not (leaf.layer.weights or leaf.name in self.settings):
            return
        before = self._inputs.setdefault(leaf.name, now)
        for ours, theirs in zip(before, now, strict=False):
            for axis in ours.keys() | theirs.keys():
                one, other = ours.get(axis), theirs.get(axis)
                if one is not None and other is not None and len(one) == len(other):
                    self.atoms.unite(one, other)
                else:
                    for each in (one, other):
                        self.fix(each, f"{describe(leaf)} is also called with channels that stay")

    def opened(self, leaf: Leaf, part: str, count: int) -> Array:
        """Return the channels that a part of a layer makes: the same ones at every call."""
        key = (leaf.name, part)
        if key not in self._opened:
            self._opened[key] = self.atoms.new(count)
        return self._opened[key]

    def kind_of(self, atom: int) -> str:
        """Return which part of a layer made a channel, see `opened`."""
        return next((part for (_, part), atoms in self._opened.items() if atom in atoms), "")

    def slot(self, leaf: Leaf, variable: Any, axis: int, atoms: Array | None, *, makes: bool = False) -> None:
        """State that the slices of a weight along `axis` belong to `atoms`; None for an input whose size stays."""
        if variable is None or atoms is None:
            return
        index = index_of(leaf, variable)
        key = (leaf.name, index, axis % len(variable.shape))
        if key in self.slots:  # a layer that is called more than once
            self.atoms.unite(self.slots[key].atoms, atoms)
        else:
            self.slots[key] = Slot(leaf, index, key[2], atoms, makes)

    def set(self, leaf: Leaf, name: str, value: Array | Callable[[Kept], Any]) -> None:
        """State that a setting of a layer is the number of `value` that stay, or what `value` returns."""
        own = self.settings.setdefault(leaf.name, {})
        own[name] = value if callable(value) else lambda kept: int(kept(value).sum())

    def work(self, leaf: Leaf, times: int, *factors: Array | int | None) -> None:
        """Count the multiplications of a call; factors are channels, or a size."""
        sizes = [factor for factor in factors if isinstance(factor, int)]
        arrays = tuple(factor for factor in factors if isinstance(factor, np.ndarray))
        self.works.append(Work(leaf, times * math.prod(sizes), arrays))

    def scale(self, leaf: Leaf, variable: Any, atoms: Array) -> None:
        """State that a weight is multiplied by the root of the share of `atoms` that stays."""
        self.scaled[leaf.name, index_of(leaf, variable)] = atoms

    def need_zeros(self, ref: Ref, atoms: Any, why: str) -> None:
        """Keep `atoms` of a tensor unless they are zero there when they are gone."""
        if ref in self.nonzero:
            self.fix(atoms, f"{why}, where they are not zero")

    def fix(self, atoms: Any, why: str) -> None:
        """Keep `atoms`, an array or the labels of a tensor, because of `why`."""
        for array in atoms.values() if isinstance(atoms, dict) else [atoms]:
            if array is not None and np.any(self.atoms.roots(array) != FIXED):
                roots = np.unique(self.atoms.roots(array))
                self.barriers.append(Barrier(why, roots[roots != FIXED], self.atoms.members(roots[roots != FIXED])))
                self.atoms.unite(array, FIXED)

    def fixed(self, count: int) -> Array:
        """Return `count` channels that stay."""
        return np.full(count, FIXED, np.int64)


def without(labels: Labels, axis: int) -> Labels:
    """Return labels after the removal of `axis`, none of them along it."""
    return {each - (each > axis): atoms for each, atoms in labels.items() if each != axis}


def sizes_of(ref: Ref) -> tuple[int | None, ...]:
    """Return the shape of a tensor with the batch axis; () if its rank is unknown."""
    return ref.shape or ()


def positions(shape: Sequence[int | None], *skipped: int) -> int:
    """Return how many positions a tensor has without the batch axis and the axes `skipped`; free ones count as 1."""
    axes = {axis % len(shape) for axis in skipped} | {0}
    return math.prod(size or 1 for axis, size in enumerate(shape) if axis not in axes)


def tensors(call: Call) -> list[Ref]:
    """Return the input tensors of a call."""
    return list(refs_in([call.args, call.kwargs]))


def describe(leaf: Leaf) -> str:
    """Return name and kind of a layer or an operation."""
    held = getattr(leaf.layer, "operation", leaf.layer)  # a layer of Keras 3 without a twin
    kind = getattr(leaf.layer, "symbol", None) or type(held).__name__
    return f"'{leaf.name}' ({kind})" if is_layer(leaf.layer) else f"{kind}"


def index_of(leaf: Leaf, variable: Any) -> int:
    """Return the number of a weight in `leaf.layer.weights`."""
    return next(number for number, weight in enumerate(leaf.layer.weights) if weight is variable)
